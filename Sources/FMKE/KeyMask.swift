// SPDX-License-Identifier: Apache-2.0

import Basics
public import Cryptography

// Keys beside a change of the key tree (docs/FMKE.md 4.4, wrap method 1). The message is sealed with a KEK that the
// member which is taken out knows, so each key is exclusive-or a mask that only the group key of the new tree gives.
// One mask serves one key: a transaction's number never comes again, and an SPI in it names one key of each type.

extension KeyUpdate {
    /// The same update with every key under its mask, ready for `body`.
    ///
    /// - Parameters:
    ///   - groupKey: that of the tree after this transaction; it never travels.
    ///   - group, transaction: bind the masks to one change of one group.
    public func masked(groupKey: Secret, group: UInt32, transaction: UInt64) -> KeyUpdate {
        precondition(!areKeysMasked, "keys are masked once")
        return flipped(KeyMask(groupKey: groupKey, group: group, transaction: transaction))
    }

    /// The keys of an update that was read, in the clear. With another group key than the sender's they are garbage:
    /// that the group key is right was found out by the tree.
    public func unmasked(groupKey: Secret, group: UInt32, transaction: UInt64) -> KeyUpdate {
        precondition(areKeysMasked, "what has no slice of a tree is not masked")
        return flipped(KeyMask(groupKey: groupKey, group: group, transaction: transaction))
    }

    private func flipped(_ mask: KeyMask) -> KeyUpdate {
        var update = self
        update.areKeysMasked.toggle()
        if let rekeySA {
            update.rekeySA?.kek = mask.apply(rekeySA.kek, spi: rekeySA.spi.octets, GDOI.KeyAttribute.kekKey)
        }
        for (index, sa) in dataSAs.enumerated() {
            let spi = sa.spi.bigEndianOctets
            update.dataSAs[index].cipherKey = mask.apply(sa.cipherKey, spi: spi, GDOI.KeyAttribute.tekKey)
            update.dataSAs[index].authenticationKey = sa.authenticationKey.map {
                mask.apply($0, spi: spi, GDOI.KeyAttribute.tekIntegrityKey)
            }
        }
        return update
    }
}

/// The masks of one transaction.
private struct KeyMask {
    private static let label = Array("FMKE KD v1".utf8)

    let groupKey: Secret
    let context: [UInt8]

    init(groupKey: Secret, group: UInt32, transaction: UInt64) {
        self.groupKey = groupKey
        var writer = OctetWriter()
        writer.append(Self.label)
        writer.u32(group)
        writer.u64(transaction)
        context = writer.bytes
    }

    func apply(_ key: Secret, spi: [UInt8], _ attribute: UInt16) -> Secret {
        guard key.count > 0 else { return key }
        let info = context + spi + [UInt8(attribute >> 8), UInt8(truncatingIfNeeded: attribute)]
        let mask = HKDF.derive(.sha256, key: groupKey, salt: [], info: info, count: key.count)
        // Revealed to be combined; what comes of it is a secret again.
        var octets = key.revealed()
        var pad = mask.revealed()
        defer {
            wipe(&octets)
            wipe(&pad)
        }
        for index in octets.indices { octets[index] ^= pad[index] }
        return Secret(octets)
    }
}
