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
        do {
            defer { pass.finish() }
            pass.startAtLeaves(left: left, joined: joined)
            if height == announcedHeight, pass.isEviction {
                pass.climbEviction()
            } else if height == announcedHeight, pass.isPath {
                try pass.climbPath()
            } else {
                for level in 1...height { try pass.climb(to: level) }
            }
        }
        announcedHeight = height
        // When nobody listens, or nobody has anything to do, members stay where they are.
        let update = pass.update(follows: transaction)
        if update != nil || !pass.hasListeners { transaction = number }
        return Commit(update: update, changed: pass.changed, left: left, joined: joined)
    }

    /// Gives newcomers their keys without a transaction, where nobody else's key changes by it: in a tree without
    /// backward secrecy that does not grow. There is nothing to tell the others, and the keys still are those of the
    /// last transaction. Who is about to leave stays until `commit`.
    /// - Returns: the nodes that have new keys, in no particular order: what to store.
    ///
    /// Throws `stale`, and changes nothing, when only `commit` will do.
    public func admit() throws(KeyTreeError) -> [NodeID] {
        guard !parameters.backwardSecrecy, height == announcedHeight, !joining.overlaps(leaving) else { throw .stale }
        extend()
        var pass = CommitPass(server: self, transaction: transaction, hasLeavers: false)
        defer { pass.finish() }
        pass.startAtLeaves(left: [], joined: joining.takeAll())
        for level in 1...height { try pass.climb(to: level) }
        return pass.changed
    }
}

/// A node that some change lies below, on its way up.
private struct TouchedNode {
    var index: UInt32
    var hasLeavers = false
    var hasNewcomers = false
    /// Members below that were there before and stay.
    var hasListeners = false
    var isReplaced = false
    var isStepped = false
}

/// One walk over the changed part of the tree, level by level.
private struct CommitPass {
    let server: KeyTreeServer
    let transaction: UInt64
    let origin: KeyOrigin
    let prf: BlockPRF
    let degree: Int
    let steps: Bool
    let announcedHeight: Int
    let height: Int
    let keys: [KeyTable]
    /// The server's, taken out while they are worked on: the reference stays unique, so nothing is copied.
    private var present: [[ChildMask]] = []
    var plan: UpdatePlan
    var changed: [NodeID] = []
    private var touched: [TouchedNode] = []
    /// The other of two arrays that take turns.
    private var spare: [TouchedNode] = []

    init(server: KeyTreeServer, transaction: UInt64, hasLeavers: Bool) {
        self.server = server
        self.transaction = transaction
        // A tree that only grows has nothing to hide from anybody: no fresh key, no key wrapped.
        origin = hasLeavers ? server.parameters.origin : .child
        prf = server.prf
        degree = server.shape.degree
        steps = server.parameters.backwardSecrecy
        announcedHeight = server.announcedHeight
        height = server.height
        keys = server.keys
        swap(&present, &server.present)
        plan = UpdatePlan(wrapping: server.parameters.wrapping, levels: server.height + 1)
    }

    var hasListeners: Bool { touched.first?.hasListeners ?? true }

    /// Merges both lists; wipes and draws the keys of the leaves.
    mutating func startAtLeaves(left: [UInt32], joined: [UInt32]) {
        let count = left.count + joined.count
        touched.reserveCapacity(count)
        changed.reserveCapacity(3 * count + height)
        plan.reserve(nodes: 3 * count + height)
        let keys = keys[0]
        var (l, j) = (0, 0)
        while l < left.count || j < joined.count {
            let slot = min(l < left.count ? left[l] : .max, j < joined.count ? joined[j] : .max)
            let leaves = l < left.count && left[l] == slot
            let joins = j < joined.count && joined[j] == slot
            if leaves { l += 1 }
            if joins { j += 1 }
            renew(keys, level: 0, Int(slot), isInhabited: joins)
            var node = TouchedNode(index: slot)
            (node.hasLeavers, node.hasNewcomers) = (leaves, joins)
            touched.append(node)
        }
    }

    /// From the changed nodes of one level to those above them.
    mutating func climb(to level: Int) throws(KeyTreeError) {
        plan.begin(level: level)
        var present: [ChildMask] = []
        swap(&present, &self.present[level])
        defer { swap(&present, &self.present[level]) }
        let keys = self.keys[level]
        let children = self.keys[level - 1]
        let isRoot = level == height
        let isNew = level > announcedHeight
        var below: [TouchedNode] = []
        swap(&below, &touched)
        swap(&touched, &spare)
        defer {
            below.removeAll(keepingCapacity: true)
            swap(&below, &spare)
        }
        if isNew, below.first.map({ Int($0.index) / degree }) != 0 {
            // Nothing changed below, but the members do not know this node yet.
            let node = ChangedNode(index: 0, isReplaced: false, listeners: present[0], replaced: 0, stepped: 0)
            touched.append(
                try settle(
                    level, keys, children, TouchedNode(index: 0), node, newcomers: 0, isNew: true, isRoot: isRoot,
                    &present[0]))
        }
        var position = 0
        while position < below.count {
            let index = Int(below[position].index) / degree
            let first = index * degree
            var node = TouchedNode(index: UInt32(truncatingIfNeeded: index))
            var change = ChangedNode(
                index: node.index, isReplaced: false, listeners: present[index], replaced: 0, stepped: 0)
            var newcomers = ChildMask(0)
            while position < below.count, Int(below[position].index) < first + degree {
                let child = below[position]
                let bit = ChildMask.child(Int(child.index) - first)
                if !child.hasListeners { change.listeners &= ~bit }
                if child.hasNewcomers { newcomers |= bit }
                if child.isReplaced { change.replaced |= bit }
                if child.isStepped { change.stepped |= bit }
                node.hasLeavers = node.hasLeavers || child.hasLeavers
                position += 1
            }
            touched.append(
                try settle(
                    level, keys, children, node, change, newcomers: newcomers, isNew: isNew && index == 0,
                    isRoot: isRoot, &present[index]))
        }
    }

    /// One slot changes in a tree that did not grow: on every level there is one node, so no lists are needed.
    var isPath: Bool { touched.count == 1 }

    /// All of `climb` for such a tree.
    mutating func climbPath() throws(KeyTreeError) {
        var below = touched[0]
        var children = keys[0]
        for level in 1...height {
            plan.begin(level: level)
            let keys = self.keys[level]
            let index = Int(below.index) / degree
            let bit = ChildMask.child(Int(below.index) - index * degree)
            var node = TouchedNode(index: UInt32(truncatingIfNeeded: index))
            node.hasLeavers = below.hasLeavers
            var present = self.present[level][index]
            let change = ChangedNode(
                index: node.index, isReplaced: false, listeners: below.hasListeners ? present : present & ~bit,
                replaced: below.isReplaced ? bit : 0, stepped: below.isStepped ? bit : 0)
            below = try settle(
                level, keys, children, node, change, newcomers: below.hasNewcomers ? bit : 0, isNew: false,
                isRoot: level == height, &present)
            self.present[level][index] = present
            children = keys
        }
        touched[0] = below
    }

    /// One member leaves and nobody comes, in a tree that did not grow, with the usual parameters.
    var isEviction: Bool {
        isPath && touched[0].hasLeavers && !touched[0].hasNewcomers && origin == .child && plan.wrapping == .mask
    }

    /// All of `climb` for that: each node above is replaced, as long as somebody listens below it.
    mutating func climbEviction() {
        var child = Int(touched[0].index)
        let stack = server.stack
        var (hasListeners, isReplaced) = (false, false)
        plan.isPath = true
        for level in 1...height {
            plan.begin(level: level)
            let index = child / degree
            let first = index * degree
            let bit = ChildMask.child(child - first)
            child = index
            var listeners = present[level][index]
            if !hasListeners {
                listeners &= ~bit
                present[level][index] = listeners
            }
            guard listeners != 0 else {
                renew(keys[level], level: level, index, isInhabited: level == height)
                continue
            }
            hasListeners = true
            let id = NodeID(level: level, index: index)
            plan.append(
                ChangedNode(
                    index: UInt32(truncatingIfNeeded: index), isReplaced: true, listeners: listeners,
                    replaced: isReplaced ? bit : 0, stepped: 0))
            changed.append(id)
            let source = isReplaced ? bit.lowest : listeners.lowest
            isReplaced = true
            prf.derive(
                in: stack, from: level - 1, first + source, Purpose.derive.block(id, transaction), to: level, index)
            var rest = listeners & ~ChildMask.child(source)
            while rest != 0 {
                let label = Purpose.wrap.block(id, transaction)
                plan.mask(stack, id, for: first + rest.lowest, label, prf: prf)
                rest &= rest - 1
            }
        }
        touched[0] = TouchedNode(
            index: 0, hasLeavers: true, hasListeners: hasListeners, isReplaced: isReplaced)
    }

    /// Decides what becomes of one node, and does it.
    @inline(__always)
    private mutating func settle(
        _ level: Int, _ keys: KeyTable, _ children: KeyTable, _ node: TouchedNode, _ change: ChangedNode,
        newcomers: ChildMask, isNew: Bool, isRoot: Bool, _ present: inout ChildMask
    ) throws(KeyTreeError) -> TouchedNode {
        var (node, change) = (node, change)
        present = change.listeners | newcomers
        node.hasListeners = change.listeners != 0
        node.hasNewcomers = newcomers != 0
        if !node.hasListeners {
            renew(keys, level: level, Int(node.index), isInhabited: node.hasNewcomers || isRoot)
        } else if node.hasLeavers || isNew {
            node.isReplaced = true
        } else if node.hasNewcomers && steps {
            node.isStepped = true
        }
        guard node.isReplaced || node.isStepped else { return node }
        change.isReplaced = node.isReplaced
        plan.append(change)
        let id = NodeID(level: level, index: Int(node.index))
        changed.append(id)
        guard change.isReplaced else {
            prf.derive(from: keys, at: id.index, Purpose.step.block(id, transaction), into: keys, at: id.index)
            return node
        }
        // The new key, then its copies for the children that it does not come from.
        let first = id.index * degree
        let source = change.source(origin: origin)
        if let source {
            prf.derive(
                from: children, at: first + source, Purpose.derive.block(id, transaction), into: keys, at: id.index)
        } else {
            keys.draw(at: id.index, random: server.random)
        }
        var rest = source.map { change.listeners & ~ChildMask.child($0) } ?? change.listeners
        while rest != 0 {
            try plan.wrap(
                keys, at: id.index, with: children, first + rest.lowest, Purpose.wrap.block(id, transaction), prf: prf)
            rest &= rest - 1
        }
        return node
    }

    /// The key of a node nobody listens below: a new one for newcomers, none otherwise.
    private mutating func renew(_ keys: KeyTable, level: Int, _ index: Int, isInhabited: Bool) {
        if isInhabited {
            keys.draw(at: index, random: server.random)
        } else {
            keys.wipe(at: index)
        }
        changed.append(NodeID(level: level, index: index))
    }

    /// Gives the server back what was taken. A root has a key even without members; when it has grown into a node like
    /// others, it has not.
    mutating func finish() {
        if announcedHeight < height, present[announcedHeight][0] == 0 {
            renew(keys[announcedHeight], level: announcedHeight, 0, isInhabited: false)
        }
        swap(&present, &server.present)
    }

    /// What to tell the members, when there is something.
    mutating func update(follows previous: UInt64) -> Update? {
        plan.begin(level: height + 1)
        guard let root = plan.nodes.last, plan.starts[height] < plan.nodes.count else { return nil }
        let check = checkValue(
            prf: prf, root: keys[height], at: 0, id: NodeID(level: height, index: 0),
            transaction: transaction)
        return Update(
            transaction: transaction, previous: previous, shape: server.shape, height: height, origin: origin,
            isRootReplaced: root.isReplaced, check: check, plan: plan)
    }
}
