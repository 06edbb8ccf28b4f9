// SPDX-License-Identifier: Apache-2.0

public import Basics
public import Cryptography

/// One node as it is stored. The latest record of a node counts; a record without a key removes it.
public struct NodeRecord: Sendable, Equatable {
    public var id: NodeID
    /// The transaction that wrote it.
    public var version: UInt64
    /// 16 octets.
    public var key: Secret?

    public init(id: NodeID, version: UInt64, key: Secret?) {
        self.id = id
        self.version = version
        self.key = key
    }
}

/// What is stored of a tree beside its nodes, anew with each transaction.
public struct TreeRecord: Sendable, Hashable {
    public var parameters: KeyTreeParameters
    public var transaction: UInt64
    public var height: Int

    public init(parameters: KeyTreeParameters, transaction: UInt64, height: Int) {
        self.parameters = parameters
        self.transaction = transaction
        self.height = height
    }

    /// 12 octets: degree, wrapping, origin and backward secrecy as bits, height, reserved, transaction.
    public var octets: [UInt8] {
        var writer = OctetWriter(capacity: 12)
        writer.u8(UInt8(truncatingIfNeeded: parameters.degree))
        writer.u8(
            parameters.wrapping.rawValue | parameters.origin.rawValue << 1 | (parameters.backwardSecrecy ? 4 : 0))
        writer.u8(UInt8(truncatingIfNeeded: height))
        writer.u8(0)
        writer.u64(transaction)
        return writer.bytes
    }

    /// Throws `malformed`.
    public init(octets: [UInt8]) throws(KeyTreeError) {
        var reader = OctetReader(octets)
        do {
            let degree = Int(try reader.u8())
            let bits = try reader.u8()
            let height = Int(try reader.u8())
            let reserved = try reader.u8()
            let transaction = try reader.u64()
            guard reader.isEmpty, bits < 8, reserved == 0, let wrapping = KeyWrapping(rawValue: bits & 1),
                let origin = KeyOrigin(rawValue: bits >> 1 & 1), let shape = Shape(degree: degree),
                (1...shape.heightLimit).contains(height)
            else { throw KeyTreeError.malformed }
            self.init(
                parameters: KeyTreeParameters(
                    degree: degree, wrapping: wrapping, origin: origin, backwardSecrecy: bits & 4 != 0),
                transaction: transaction, height: height)
        } catch { throw .malformed }
    }
}

extension KeyTreeServer {
    /// What to store beside the nodes after a `commit`, in the same transaction of the store.
    public var treeRecord: TreeRecord {
        TreeRecord(parameters: parameters, transaction: transaction, height: announcedHeight)
    }

    /// What to store of a node that a `commit` changed.
    public func record(_ id: NodeID) -> NodeRecord {
        NodeRecord(id: id, version: transaction, key: hasKey(id) ? keys[id.level][id.index] : nil)
    }

    /// Every node that has a key, as of the last `commit`: for the first time a tree is stored, or for a copy.
    public func records(_ body: (NodeRecord) throws -> Void) rethrows {
        for level in 0...announcedHeight {
            for index in 0..<keys[level].count {
                let id = NodeID(level: level, index: index)
                if hasKey(id) { try body(record(id)) }
            }
        }
    }

    /// A root always has a key; another node when there are members below it.
    private func hasKey(_ id: NodeID) -> Bool {
        guard id.level <= announcedHeight else { return false }
        if id.level == announcedHeight { return id.index == 0 }
        if id.level == 0 { return isMember(UInt32(id.index)) }
        return id.index < present[id.level].count && present[id.level][id.index] != 0
    }

    /// The tree as it was stored. What was noted since the last `commit` is lost.
    ///
    /// Throws `malformed` when nodes are missing, are outside of the tree, or have keys of another size.
    public convenience init(
        _ tree: TreeRecord, nodes: some Sequence<NodeRecord>, random: any RandomSource
    ) throws(KeyTreeError) {
        try self.init(parameters: tree.parameters, random: random)
        guard (1...shape.heightLimit).contains(tree.height) else { throw .malformed }
        transaction = tree.transaction
        try restore(height: tree.height, nodes: nodes)
    }

    private func restore(height: Int, nodes: some Sequence<NodeRecord>) throws(KeyTreeError) {
        self.height = height
        announcedHeight = height
        while keys.count <= height {
            keys.append(KeyTable(count: 0))
            present.append([])
        }
        // Which nodes have a key, to be compared with which should.
        var known = [[Bool]](repeating: [], count: height + 1)
        for record in nodes {
            let (level, index) = (record.id.level, record.id.index)
            guard level <= height, index < shape.spans[height] / shape.spans[level] else { throw .malformed }
            if known[level].count <= index {
                known[level].append(contentsOf: repeatElement(false, count: index + 1 - known[level].count))
                makeRoom(level: level, count: index + 1)
            }
            known[level][index] = record.key != nil
            if let key = record.key {
                guard key.count == KeyTable.keySize else { throw .malformed }
                keys[level][index] = key
            } else {
                keys[level].wipe(at: index)
            }
        }
        used = (known[0].lastIndex(of: true) ?? -1) + 1
        extend()
        makeRoom(level: height, count: 1)
        if present[height].isEmpty { present[height] = [0] }
        memberCount = known[0].count { $0 }
        var free: [UInt32] = []
        for slot in 0..<used where !known[0][slot] { free.append(UInt32(slot)) }
        self.free = SlotQueue(ascending: free)
        for level in 1...height {
            for child in known[level - 1].indices where known[level - 1][child] {
                let parent = child / shape.degree
                guard parent < known[level].count, known[level][parent] else { throw .malformed }
                present[level][parent] |= .child(child % shape.degree)
            }
        }
        guard known[height].first == true else { throw .malformed }
        // A key that nobody has would be one too many.
        for level in 1..<height {
            for index in known[level].indices
            where known[level][index] && (index >= present[level].count || present[level][index] == 0) {
                throw .malformed
            }
        }
    }
}
