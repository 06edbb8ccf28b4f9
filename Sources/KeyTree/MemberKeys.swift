// SPDX-License-Identifier: Apache-2.0

import Basics
import Cryptography

/// What a newcomer, or a member that fell behind, gets by unicast: its slot and every key from its leaf to the root.
public struct MemberKeys {
    public let slot: UInt32
    public let degree: Int
    /// The transaction that the keys belong to: the next update the member needs follows it.
    public let transaction: UInt64
    /// Leaf first, root last.
    let path: KeyTable

    /// Levels above the leaves.
    public var height: Int { path.count - 1 }

    init(slot: UInt32, degree: Int, transaction: UInt64, path: KeyTable) {
        self.slot = slot
        self.degree = degree
        self.transaction = transaction
        self.path = path
    }

    /// The octets of docs/KEYTREE.md 5, keys in the clear: for the inside of an encrypted message only.
    public var octets: [UInt8] {
        var writer = OctetWriter(capacity: 16 + path.count * KeyTable.keySize)
        writer.u8(UInt8(truncatingIfNeeded: degree))
        writer.u8(UInt8(truncatingIfNeeded: height))
        writer.u16(0)
        writer.u32(slot)
        writer.u64(transaction)
        // Written in the open because the message around them is encrypted.
        writer.append(path.joined().revealed())
        return writer.bytes
    }

    /// Reads what `octets` gives. Throws `malformed`.
    public init(octets: [UInt8]) throws(KeyTreeError) {
        var reader = OctetReader(octets)
        do {
            let degree = Int(try reader.u8())
            let height = Int(try reader.u8())
            let reserved = try reader.u16()
            let slot = try reader.u32()
            let transaction = try reader.u64()
            guard reserved == 0, let shape = Shape(degree: degree), (1...shape.heightLimit).contains(height),
                Int(slot) < shape.spans[height], reader.count == (height + 1) * KeyTable.keySize
            else { throw KeyTreeError.malformed }
            let path = KeyTable(count: height + 1)
            for level in 0...height { path[level] = Secret(try reader.slice(KeyTable.keySize)) }
            self.init(slot: slot, degree: degree, transaction: transaction, path: path)
        } catch { throw .malformed }
    }
}
