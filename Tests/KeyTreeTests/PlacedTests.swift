// SPDX-License-Identifier: Apache-2.0
import Basics
import Cryptography
import KeyTree
import Testing

/// Members that sit where the caller wants them, and newcomers that need no transaction.
@Suite struct PlacedTests {
    private func tree(_ slots: Int, backwardSecrecy: Bool = false) throws -> KeyTreeServer {
        let tree = try KeyTreeServer(
            parameters: KeyTreeParameters(backwardSecrecy: backwardSecrecy), random: SeededRandom(seed: 9))
        try tree.reserve(slots: slots)
        #expect(try tree.commit(transaction: 5).update == nil)
        return tree
    }

    @Test func slotsAreTakenInAnyOrderAndOnce() throws {
        let tree = try KeyTreeServer(random: SeededRandom(seed: 1))
        for slot in [5, 0, 3] as [UInt32] { try tree.join(at: slot) }
        #expect(throws: KeyTreeError.taken) { try tree.join(at: 3) }
        #expect(throws: KeyTreeError.full) { try tree.join(at: 1 << 27) }
        #expect(tree.isNewcomer(3) && !tree.isMember(3) && tree.hasChanges)
        #expect(try tree.commit(transaction: 1).joined == [0, 3, 5])
        #expect(throws: KeyTreeError.taken) { try tree.join(at: 5) }
        #expect(!tree.hasChanges && tree.memberCount == 3 && tree.height == 3)
        // Whoever does not care gets the lowest free one, as ever.
        var lowest: [UInt32] = []
        for _ in 0..<4 { lowest.append(try tree.join()) }
        #expect(lowest == [1, 2, 4, 6])
        try tree.leave(3)
        try tree.join(at: 3)
        let commit = try tree.commit(transaction: 2)
        #expect(commit.left == [3] && commit.joined == [1, 2, 3, 4, 6])
        #expect(try tree.join() == 7)
    }

    @Test func randomJoinsAndLeavesAtSlotsKeepTheMembersInStep() throws {
        let random = SeededRandom(seed: 77)
        for backwardSecrecy in [false, true] {
            let tree = try tree(64, backwardSecrecy: backwardSecrecy)
            var members: [UInt32: KeyTreeMember] = [:]
            for number in UInt64(6)..<80 {
                var leavers: Set<UInt32> = []
                for slot in members.keys.sorted() where random.number(below: 9) == 0 {
                    try tree.leave(slot)
                    leavers.insert(slot)
                }
                var newcomers: Set<UInt32> = []
                for _ in 0..<random.number(below: 4) {
                    let slot = UInt32(random.number(below: 64))
                    guard members[slot] == nil, !newcomers.contains(slot) else { continue }
                    try tree.join(at: slot)
                    newcomers.insert(slot)
                }
                for slot in leavers { members[slot] = nil }
                let commit = try tree.commit(transaction: number)
                if let update = commit.update {
                    for member in members.values { #expect(try member.apply(update.whole()) == .applied) }
                }
                for slot in newcomers { members[slot] = try KeyTreeMember(tree.memberKeys(slot)) }
                #expect(members.values.allSatisfy { $0.groupKey == tree.groupKey })
                #expect(tree.memberCount == members.count && tree.height == 6)
            }
        }
    }

    @Test func newcomersAreAdmittedWithoutAWordToTheOthers() throws {
        let tree = try tree(8)
        try tree.join(at: 2)
        #expect(!(try tree.admit()).isEmpty)
        let first = try KeyTreeMember(tree.memberKeys(2))
        for slot in [7, 3, 0] as [UInt32] {
            try tree.join(at: slot)
            _ = try tree.admit()
            let member = try KeyTreeMember(tree.memberKeys(slot))
            #expect(member.groupKey == first.groupKey && member.transaction == 5 && tree.transaction == 5)
        }
        let last = try KeyTreeMember(tree.memberKeys(7))
        try tree.leave(3)
        let update = try #require(tree.commit(transaction: 6).update)
        for member in [first, last] {
            #expect(try member.apply(update.whole()) == .applied)
            #expect(member.groupKey == tree.groupKey)
        }
    }

    @Test func whoIsAboutToLeaveStaysUntilTheCommit() throws {
        let tree = try tree(4)
        for slot in [0, 1] as [UInt32] { try tree.join(at: slot) }
        _ = try tree.admit()
        let old = tree.groupKey
        try tree.leave(1)
        try tree.join(at: 2)
        _ = try tree.admit()
        #expect(tree.groupKey == old && tree.isMember(1) && tree.hasChanges)
        let commit = try tree.commit(transaction: 6)
        #expect(commit.left == [1] && tree.groupKey != old && !tree.isMember(1))
        // The place of one who is about to leave is given by a commit only.
        try tree.leave(0)
        try tree.join(at: 0)
        #expect(throws: KeyTreeError.stale) { try tree.admit() }
        #expect(try tree.commit(transaction: 7).joined == [0])
    }

    @Test func whereKeysStepOrTheTreeGrowsOnlyACommitWillDo() throws {
        let stepping = try tree(4, backwardSecrecy: true)
        try stepping.join(at: 0)
        #expect(throws: KeyTreeError.stale) { try stepping.admit() }
        #expect(stepping.isNewcomer(0))
        let growing = try tree(2)
        try growing.join(at: 2)
        #expect(throws: KeyTreeError.stale) { try growing.admit() }
        #expect(try growing.commit(transaction: 6).joined == [2])
    }

    @Test func whatWasAdmittedIsInTheRecords() throws {
        let tree = try tree(8)
        var nodes: [NodeID: NodeRecord] = [:]
        tree.records { nodes[$0.id] = $0 }
        for slot in [4, 1, 6] as [UInt32] {
            try tree.join(at: slot)
            for id in try tree.admit() { nodes[id] = tree.record(id) }
        }
        let again = try KeyTreeServer(tree.treeRecord, nodes: nodes.values, random: SeededRandom(seed: 2))
        #expect(again.groupKey == tree.groupKey && again.memberCount == 3)
        for slot in [4, 1, 6] as [UInt32] {
            #expect(try again.memberKeys(slot).octets == tree.memberKeys(slot).octets)
        }
    }
}
