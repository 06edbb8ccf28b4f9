// SPDX-License-Identifier: Apache-2.0

import Cryptography

/// What a transaction did to the tree.
public struct Commit {
    /// What the group must be told; nil when no member has anything to do.
    public let update: Update?
    /// Every node whose key is new or gone, in no particular order: what to store. `KeyTreeServer.record` gives the
    /// key.
    public let changed: [NodeID]
    /// The slots that lost their member and those that got one, in ascending order. A slot can be in both.
    public let left: [UInt32]
    public let joined: [UInt32]
}

extension KeyTreeServer {
    /// Does what was noted since the last time, as one transaction.
    ///
    /// Keys that a leaver knew are replaced, those above newcomers alone step forward, both from the leaves upward.
    /// Throws `stale` unless the number is above the last transaction's.
    public func commit(transaction number: UInt64) throws(KeyTreeError) -> Commit {
        guard number > transaction else { throw .stale }
        extend()
        let left = leaving.takeAll()
        let joined = joining.takeAll()
        var pass = CommitPass(server: self, transaction: number, hasLeavers: !left.isEmpty)
        pass.startAtLeaves(left: left, joined: joined)
        for level in 1...height { try pass.climb(to: level) }
        pass.forgetOldRoot()
        announcedHeight = height
        // When nobody listens, or nobody has anything to do, members stay where they are.
        let update = pass.update(follows: transaction)
        if update != nil || !pass.hasListeners { transaction = number }
        return Commit(update: update, changed: pass.changed, left: left, joined: joined)
    }
}

/// A node that some change lies below, on its way up.
private struct TouchedNode {
    var index: UInt32
    var hasLeavers: Bool
    var hasNewcomers: Bool
    /// Members below that were there before and stay.
    var hasListeners: Bool
    var isReplaced: Bool
    var isStepped: Bool
}

/// One walk over the changed part of the tree, level by level.
private struct CommitPass {
    let server: KeyTreeServer
    let transaction: UInt64
    let origin: KeyOrigin
    var plan: UpdatePlan
    var changed: [NodeID] = []
    private var touched: [TouchedNode] = []

    init(server: KeyTreeServer, transaction: UInt64, hasLeavers: Bool) {
        self.server = server
        self.transaction = transaction
        // A tree that only grows has nothing to hide from anybody: no fresh key, no key wrapped.
        origin = hasLeavers ? server.parameters.origin : .child
        plan = UpdatePlan(wrapping: server.parameters.wrapping, levels: server.height + 1)
    }

    var hasListeners: Bool { touched.first?.hasListeners ?? true }

    /// Merges both lists; wipes and draws the keys of the leaves.
    mutating func startAtLeaves(left: [UInt32], joined: [UInt32]) {
        touched.reserveCapacity(left.count + joined.count)
        changed.reserveCapacity(3 * (left.count + joined.count) + server.height)
        var (l, j) = (0, 0)
        while l < left.count || j < joined.count {
            let slot = min(l < left.count ? left[l] : .max, j < joined.count ? joined[j] : .max)
            let leaves = l < left.count && left[l] == slot
            let joins = j < joined.count && joined[j] == slot
            if leaves { l += 1 }
            if joins { j += 1 }
            renew(level: 0, Int(slot), isInhabited: joins)
            touched.append(
                TouchedNode(
                    index: slot, hasLeavers: leaves, hasNewcomers: joins, hasListeners: false, isReplaced: false,
                    isStepped: false))
        }
    }

    /// From the changed nodes of one level to those above them.
    mutating func climb(to level: Int) throws(KeyTreeError) {
        plan.begin(level: level)
        let below = touched
        touched.removeAll(keepingCapacity: true)
        let isNew = level > server.announcedHeight
        if isNew && below.first.map({ Int($0.index) / server.shape.degree }) != 0 {
            // Nothing changed below, but the members do not know this node yet.
            try settle(level: level, 0, below[0..<0], isNew: true)
        }
        let degree = UInt32(server.shape.degree)
        var start = 0
        while start < below.count {
            let parent = below[start].index / degree
            let limit = (parent + 1) * degree
            var end = start + 1
            while end < below.count, below[end].index < limit { end += 1 }
            try settle(level: level, Int(parent), below[start..<end], isNew: isNew && parent == 0)
            start = end
        }
    }

    /// Decides what becomes of one node, and does it.
    private mutating func settle(
        level: Int, _ index: Int, _ below: ArraySlice<TouchedNode>, isNew: Bool
    ) throws(KeyTreeError) {
        var listeners = server.present[level][index]
        var (newcomers, replaced, stepped) = (ChildMask(0), ChildMask(0), ChildMask(0))
        var node = TouchedNode(
            index: UInt32(truncatingIfNeeded: index), hasLeavers: false, hasNewcomers: false, hasListeners: false,
            isReplaced: false, isStepped: false)
        for child in below {
            let bit = ChildMask.child(Int(child.index) - index * server.shape.degree)
            if !child.hasListeners { listeners &= ~bit }
            if child.hasNewcomers { newcomers |= bit }
            if child.isReplaced { replaced |= bit }
            if child.isStepped { stepped |= bit }
            node.hasLeavers = node.hasLeavers || child.hasLeavers
            node.hasNewcomers = node.hasNewcomers || child.hasNewcomers
        }
        server.present[level][index] = listeners | newcomers
        node.hasListeners = listeners != 0
        if listeners == 0 {
            renew(level: level, index, isInhabited: newcomers != 0 || level == server.height)
        } else if node.hasLeavers || isNew {
            node.isReplaced = true
        } else if node.hasNewcomers && server.parameters.backwardSecrecy {
            node.isStepped = true
        }
        touched.append(node)
        guard node.isReplaced || node.isStepped else { return }
        let change = ChangedNode(
            index: node.index, isReplaced: node.isReplaced, listeners: listeners, replaced: replaced, stepped: stepped)
        plan.nodes.append(change)
        let id = NodeID(level: level, index: index)
        changed.append(id)
        if change.isReplaced {
            try replace(id, change)
        } else {
            let keys = server.keys[level]
            server.prf.derive(from: keys, at: index, Purpose.step.block(id, transaction), into: keys, at: index)
        }
    }

    /// Makes the new key of a node and wraps it for the children that it does not come from.
    private mutating func replace(_ id: NodeID, _ change: ChangedNode) throws(KeyTreeError) {
        let keys = server.keys[id.level]
        let children = server.keys[id.level - 1]
        let first = id.index * server.shape.degree
        if let source = change.source(origin: origin) {
            server.prf.derive(
                from: children, at: first + source, Purpose.derive.block(id, transaction), into: keys, at: id.index)
        } else {
            keys.draw(at: id.index, random: server.random)
        }
        var rest = change.wrapped(origin: origin)
        guard rest != 0 else { return }
        let label = Purpose.wrap.block(id, transaction)
        while rest != 0 {
            let child = first + rest.lowest
            rest &= rest - 1
            try plan.wrap(keys, at: id.index, with: children, child, label, prf: server.prf)
        }
    }

    /// The key of a node nobody listens below: a new one for newcomers, none otherwise.
    private mutating func renew(level: Int, _ index: Int, isInhabited: Bool) {
        if isInhabited {
            server.keys[level].draw(at: index, random: server.random)
        } else {
            server.keys[level].wipe(at: index)
        }
        changed.append(NodeID(level: level, index: index))
    }

    /// A root has a key even without members; when it has grown into a node like others, it has not.
    mutating func forgetOldRoot() {
        let level = server.announcedHeight
        if level < server.height, server.present[level][0] == 0 { renew(level: level, 0, isInhabited: false) }
    }

    /// What to tell the members, when there is something.
    mutating func update(follows previous: UInt64) -> Update? {
        plan.begin(level: server.height + 1)
        guard let root = plan.nodes.last, plan.starts[server.height] < plan.nodes.count else { return nil }
        let check = checkValue(
            prf: server.prf, root: server.keys[server.height], at: 0, id: NodeID(level: server.height, index: 0),
            transaction: transaction)
        return Update(
            transaction: transaction, previous: previous, shape: server.shape, height: server.height, origin: origin,
            isRootReplaced: root.isReplaced, check: check, plan: plan)
    }
}
