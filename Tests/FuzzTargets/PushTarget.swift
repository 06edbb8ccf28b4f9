// SPDX-License-Identifier: Apache-2.0

import Basics
import Cryptography
import FMKE
import ReliablePush

/// First octet 0: the rest is a datagram. Else the rest is the plain text in front of SIG, which is signed and sealed
/// as docs/FMKE.md 6.1 to 6.3 say: everything behind the tag and the signature is the attacker's.
enum PushTarget {
    private static let group: UInt32 = 10
    private static let rekeySA = UnicastTarget.rekeySA

    static func run(_ octets: [UInt8]) {
        guard let kind = octets.first else { return }
        let rest = Array(octets.dropFirst())
        let opener = Fixture.made { try PushOpener(group: group, rekeySA: rekeySA) }
        let datagram = kind == 0 ? rest : sealed(rest)
        _ = PushEnvelope.peek(datagram)
        guard let push = try? opener.open(datagram) else { return }
        var receiver = PushReceiver(memberIndex: 3, complete: 4, random: SeededRandom(seed: 1))
        for seconds in 0..<3 {
            let now = Instant.zero + .seconds(Int64(seconds))
            _ = receiver.receive(push.header, body: push.body, now: now)
            _ = receiver.missing
            var turns = 0
            while case .report = receiver.poll(now: now), turns < 10 { turns += 1 }
            demand(turns < 10, "a member does not answer again and again")
        }
    }

    /// By the document, not by the sealer, which would not seal most of it.
    static func sealed(_ payloads: [UInt8]) -> [UInt8] {
        let label = Array("FMKE PUSH v1".utf8)
        func integer(_ value: some FixedWidthInteger & UnsignedInteger) -> [UInt8] {
            stride(from: value.bitWidth - 8, through: 0, by: -8).map { UInt8(truncatingIfNeeded: value >> $0) }
        }
        let spi = integer(rekeySA.spi.high) + integer(rekeySA.spi.low)
        let context = spi + integer(group) + integer(rekeySA.epoch)
        let material = HKDF.derive(.sha256, key: rekeySA.kek, salt: [], info: label + context, count: 36)
        let length = UInt32(36 + payloads.count + 4 + 64 + 16)
        let header = spi + [136, 0x10, 241, 1] + integer(UInt32(0)) + integer(length)
        let sequence = integer(UInt64(77))
        let signed = label + [0] + integer(group) + spi + integer(rekeySA.epoch) + sequence + header + payloads
        let signature = Fixture.made { try Fixture.signingKey.sign(signed) }
        let plain = payloads + [0, 0] + integer(UInt16(4 + signature.count)) + signature
        let text = Fixture.made {
            try AESGCM.seal(
                plain, key: material[0..<32], nonce: material[32..<36].revealed() + sequence, aad: header + sequence)
        }
        return header + sequence + text
    }

    static let seeds: [[UInt8]] = {
        let sealer = Fixture.made { try PushSealer(group: group, rekeySA: rekeySA, signingKey: Fixture.signingKey) }
        var header = TransactionHeader(
            kind: .beacon, group: group, epoch: rekeySA.epoch, transaction: 5, feedback: FeedbackRequest(mode: .none),
            activateInMilliseconds: 0, deactivateInMilliseconds: 0)
        var datagrams = [Fixture.made { try sealer.seal(header, body: [], sequence: 1) }]
        for (index, body) in UnicastTarget.updateSeeds.prefix(6).enumerated() {
            header.kind = .data
            datagrams.append(Fixture.made { try sealer.seal(header, body: body, sequence: UInt64(2 * index + 2)) })
            header.kind = .parity
            (header.index, header.datagramCount) = (1, 2)
            let shard = Fixture.made { try Shard.make(body, size: body.count + Shard.lengthSize) }
            datagrams.append(Fixture.made { try sealer.seal(header, body: shard, sequence: UInt64(2 * index + 3)) })
            (header.index, header.datagramCount) = (0, 1)
        }
        // The same from the inside: what stands in front of SIG.
        let inside = datagrams.map { datagram -> [UInt8] in
            let label = Array("FMKE PUSH v1".utf8)
            let info = label + datagram[0..<16] + [0, 0, 0, 10] + [0, 0, 0, 3]
            let material = HKDF.derive(.sha256, key: rekeySA.kek, salt: [], info: info, count: 36)
            let plain = Fixture.made {
                try AESGCM.open(
                    Array(datagram[36...]), key: material[0..<32],
                    nonce: material[32..<36].revealed() + datagram[28..<36], aad: Array(datagram[..<36]))
            }
            return Array(plain.dropLast(68))
        }
        return datagrams.map { [0] + $0 } + inside.map { [1] + $0 }
    }()
}
