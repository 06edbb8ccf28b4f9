// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import Cryptography
internal import FMKE
internal import KeyTree
internal import ReliablePush
internal import Store

/// The key tree of a group (docs/KEYTREE.md): who enters and leaves it when. A member's index in the group is its slot.
///
///     absent --registers--> in the tree, told its path                     without backward secrecy
///     absent --registers--> waiting --transaction `joined`--> in the tree  with it
///     in the tree --revoked--> leaving --transaction `revocation`--> gone
extension KeyServer {
    /// A new tree, with these members in it from the start.
    func plantTree(of group: inout GroupState, present: Set<String>) throws {
        guard group.entry.revocation == .lkh else { return }
        let first = group.members.filter { present.contains($0.key) }.map(\.value.index)
        try plantTree(of: &group, members: first, transaction: group.transaction)
    }

    func plantTree(of group: inout GroupState, members: [UInt32], transaction: UInt64) throws {
        let tree = try KeyTreeServer(
            parameters: KeyTreeParameters(backwardSecrecy: group.entry.backwardSecrecy), random: random)
        // Its full size now, while nobody must be told.
        try tree.reserve(slots: Int(group.nextIndex))
        for index in members.sorted() { try tree.join(at: index) }
        _ = try tree.commit(transaction: transaction)
        group.tree = tree
        unsavedChanges += treeChanges(tree, group.entry.id)
    }

    /// A client that registered gets its place in the tree, unless it has it.
    func enterTree(_ name: String, of id: UInt32, now: Instant) {
        guard let group = groups[id], let tree = group.tree, let member = group.members[name],
            !tree.isMember(member.index)
        else { return }
        do {
            if !tree.isNewcomer(member.index) { try tree.join(at: member.index) }
            if let changed = try admit(to: tree) {
                unsavedChanges += treeChanges(changed, tree, id)
            } else {
                renew(id, reason: .joined, now: now)
            }
        } catch {
            log(.error, "tree.failed", ["group": group.entry.name, "client": name, "reason": "\(error)"])
        }
    }

    /// Gives newcomers their keys without a transaction, if that can be.
    /// - Returns: the nodes that changed; nil where the others must be told: with backward secrecy, and when the tree
    ///   grows.
    func admit(to tree: KeyTreeServer) throws(KeyTreeError) -> [NodeID]? {
        do throws(KeyTreeError) {
            return try tree.admit()
        } catch {
            guard error == .stale else { throw error }
            return nil
        }
    }

    /// A client that has gone is not taken in, so that it is not told later what was made while it was away.
    func waitNoMore(_ member: MemberState, of id: UInt32) {
        guard let tree = groups[id]?.tree, tree.isNewcomer(member.index) else { return }
        try? tree.leave(member.index)
    }

    /// Notes that a member is to leave.
    /// - Returns: whether it may know keys of the group.
    func takeOutOfTree(_ member: MemberState, of id: UInt32) -> Bool {
        takeOut(member, ofTree: groups[id]?.tree)
    }

    func takeOut(_ member: MemberState, ofTree tree: KeyTreeServer?) -> Bool {
        guard let tree else { return true }
        // Before the leave, which makes it no newcomer any more.
        let heldKeys = tree.isMember(member.index)
        try? tree.leave(member.index)
        return heldKeys
    }

    /// Sends their profile to the members that a transaction took in.
    func greetNewcomers(of id: UInt32, now: Instant) {
        guard let names = groups[id]?.newcomers, !names.isEmpty else { return }
        groups[id]?.newcomers = []
        for name in names where groups[id]?.members[name]?.holdsKeys == false { sendProfile(to: name, now: now) }
    }
}
