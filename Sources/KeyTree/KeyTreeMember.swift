// SPDX-License-Identifier: Apache-2.0

public import Cryptography

/// A member's half of the tree: the keys from its leaf to the root, and nothing else.
public final class KeyTreeMember {
    /// What an update meant to this member.
    public enum Outcome: Sendable, Hashable {
        /// Its keys are those of the update's transaction now.
        case applied
        /// It had them already.
        case known
        /// The slice is for other slots.
        case notConcerned
        /// It is no member any more: nothing in there is for it.
        case removed
    }

    public let slot: UInt32
    public let degree: Int
    /// The transaction that its keys belong to.
    public private(set) var transaction: UInt64
    /// Leaf first, root last.
    private var path: KeyTable
    private let shape: Shape
    private let prf: BlockPRF

    /// Throws `failed` when libcrypto does.
    public init(_ keys: MemberKeys) throws(KeyTreeError) {
        guard let shape = Shape(degree: keys.degree) else { throw .malformed }
        self.shape = shape
        slot = keys.slot
        degree = keys.degree
        transaction = keys.transaction
        path = keys.path
        do { prf = try BlockPRF() } catch { throw .failed }
    }

    /// Levels above the leaves, as announced: the tree has `degree` to the power of this slots.
    public var height: Int { path.count - 1 }

    /// The key of the whole group, 32 octets.
    public var groupKey: Secret {
        KeyTree.groupKey(prf: prf, root: path, at: height, id: NodeID(level: height, index: 0))
    }

    /// All it has, to be stored sealed; `init` takes it back.
    public var keys: MemberKeys {
        let copy = KeyTable(count: path.count)
        for level in 0..<path.count { copy.copy(from: path, at: level, to: level) }
        return MemberKeys(slot: slot, degree: degree, transaction: transaction, path: copy)
    }

    /// Follows a slice whose message was verified. Either all of its keys are new afterwards, or none.
    ///
    /// Throws `malformed`; `missed` when another transaction lies between its last one and this one; `diverged` when
    /// the result does not fit the slice's check value. After the last two it needs its keys anew, by unicast.
    public func apply(_ slice: UpdateSlice) throws(KeyTreeError) -> Outcome {
        guard slice.transaction > transaction else { return .known }
        var reader = try SliceReader(slice.octets)
        let header = reader.header
        guard header.shape == shape, header.height >= height, UInt64(header.distance) <= slice.transaction else {
            throw .malformed
        }
        guard (header.first...header.last).contains(Int(slot)) else { return .notConcerned }
        let previous = slice.transaction - UInt64(header.distance)
        guard previous == transaction else { throw .missed(transaction: previous) }
        var visits = [SliceVisit?](repeating: nil, count: header.height + 1)
        let own = Int(slot)
        try reader.walk { visit in
            if Int(visit.node.index) == shape.index(above: own, level: visit.level) { visits[visit.level] = visit }
        }
        let next = KeyTable(count: header.height + 1)
        next.copy(from: path, at: 0, to: 0)
        for level in 1...header.height {
            guard let visit = visits[level] else {
                // A node that the member has no key of must come with one.
                guard level <= height else { throw .malformed }
                next.copy(from: path, at: level, to: level)
                continue
            }
            let id = NodeID(level: level, index: Int(visit.node.index))
            if !visit.node.isReplaced {
                guard level <= height else { throw .malformed }
                let label = Purpose.step.block(id, slice.transaction)
                prf.derive(from: path, at: level, label, into: next, at: level)
                continue
            }
            let child = shape.child(of: level, above: own)
            guard visit.node.listeners.contains(child: child) else { return .removed }
            if visit.node.source(origin: header.origin) == child {
                let label = Purpose.derive.block(id, slice.transaction)
                prf.derive(from: next, at: level - 1, label, into: next, at: level)
            } else {
                let before = visit.wrapped & (ChildMask.child(child) - 1)
                let text = reader.wrappedKey(visit.firstKey + before.nonzeroBitCount)
                let label = Purpose.wrap.block(id, slice.transaction)
                try unwrap(text, header.wrapping, with: next, at: level - 1, label, to: level)
            }
        }
        let root = NodeID(level: header.height, index: 0)
        let check = checkValue(
            prf: prf, root: next, at: header.height, id: root, transaction: slice.transaction)
        guard constantTimeEqual(check, header.check) else { throw .diverged }
        path = next
        transaction = slice.transaction
        return .applied
    }

    private func unwrap(
        _ text: ArraySlice<UInt8>, _ wrapping: KeyWrapping, with keys: KeyTable, at child: Int, _ label: PRFBlock,
        to level: Int
    ) throws(KeyTreeError) {
        do {
            switch wrapping {
            case .mask:
                try prf.unmask(text, with: keys, at: child, label, into: keys, at: level)
            case .aesKeyWrap:
                let key = try AESKeyWrap.unwrap(Array(text), under: prf.secret(with: keys, at: child, label))
                guard key.count == KeyTable.keySize else { throw CryptographyError.notAuthentic }
                keys[level] = key
            }
        } catch { throw .diverged }
    }
}
