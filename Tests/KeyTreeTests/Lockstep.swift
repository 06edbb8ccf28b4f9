// SPDX-License-Identifier: Apache-2.0
import Basics
import Cryptography
import KeyTree
import Testing

/// A server and all of its members, and a simple-minded model of what has to happen.
final class Lockstep {
    let parameters: KeyTreeParameters
    let random: SeededRandom
    private(set) var server: KeyTreeServer
    private(set) var members: [UInt32: KeyTreeMember] = [:]
    private(set) var leaving: Set<UInt32> = []
    private(set) var joining: Set<UInt32> = []
    private(set) var transaction: UInt64 = 0
    /// What a store holds.
    private(set) var stored: [NodeID: Secret] = [:]
    private(set) var treeRecord: TreeRecord
    /// Octets of a slice at most; nil: the update as a whole.
    var sliceLimit: Int?
    private(set) var lastUpdate: Update?

    init(_ parameters: KeyTreeParameters, seed: UInt64) throws {
        self.parameters = parameters
        random = SeededRandom(seed: seed)
        server = try KeyTreeServer(parameters: parameters, random: random)
        treeRecord = server.treeRecord
        server.records { stored[$0.id] = $0.key }
    }

    func join(_ count: Int = 1) throws {
        for _ in 0..<count { joining.insert(try server.join()) }
    }

    func leave(_ slot: UInt32) throws {
        try server.leave(slot)
        if joining.remove(slot) == nil { leaving.insert(slot) }
    }

    /// Everybody who could leave, in order.
    var candidates: [UInt32] { (Set(members.keys).subtracting(leaving)).union(joining).sorted() }

    /// Lets some random members go.
    func leave(random count: Int) throws {
        var candidates = candidates
        for _ in 0..<min(count, candidates.count) {
            let place = Int(random.number(below: UInt64(candidates.count)))
            try leave(candidates.remove(at: place))
        }
    }

    /// Commits, and lets every member follow from octets.
    @discardableResult func commit() throws -> Commit {
        transaction += 1 + random.number(below: 3)
        let before = server.groupKey
        let stayed = Set(members.keys).subtracting(leaving)
        let commit = try server.commit(transaction: transaction)
        #expect(commit.left == leaving.sorted())
        #expect(commit.joined == joining.sorted())
        for id in commit.changed { stored[id] = server.record(id).key }
        treeRecord = server.treeRecord
        lastUpdate = commit.update
        try deliver(commit, stayed: stayed)
        for slot in leaving { members[slot] = nil }
        for slot in joining {
            members[slot] = try KeyTreeMember(MemberKeys(octets: server.memberKeys(slot).octets))
        }
        let isChanged = !leaving.isEmpty || !joining.isEmpty && parameters.backwardSecrecy
        if isChanged { #expect(server.groupKey != before) }
        (leaving, joining) = ([], [])
        #expect(server.memberCount == members.count)
        let key = server.groupKey
        for (slot, member) in members {
            #expect(member.groupKey == key, "slot \(slot) of \(members.count), transaction \(transaction)")
            #expect(member.height == server.treeRecord.height || commit.update == nil)
        }
        return commit
    }

    private func deliver(_ commit: Commit, stayed: Set<UInt32>) throws {
        guard let update = commit.update else {
            let isQuiet = leaving.isEmpty && (joining.isEmpty || !parameters.backwardSecrecy)
            #expect(stayed.isEmpty || isQuiet)
            return
        }
        #expect(!stayed.isEmpty)
        let slices = try sliceLimit.map { try update.slices(limit: $0) } ?? [update.whole()]
        if let sliceLimit { #expect(slices.allSatisfy { $0.octets.count <= sliceLimit }) }
        checkRanges(slices)
        let received = try slices.map { try UpdateSlice(octets: $0.octets, transaction: $0.transaction) }
        #expect(received == slices)
        for (slot, member) in members {
            var outcomes: [KeyTreeMember.Outcome] = []
            for slice in received { outcomes.append(try member.apply(slice)) }
            let own: KeyTreeMember.Outcome = leaving.contains(slot) ? .removed : .applied
            let mine = received.firstIndex { ($0.firstSlot...$0.lastSlot).contains(slot) }
            for (place, outcome) in outcomes.enumerated() {
                if place == mine {
                    #expect(outcome == own)
                } else if let mine, place > mine, own == .applied {
                    #expect(outcome == .known)
                } else {
                    #expect(outcome == .notConcerned)
                }
            }
        }
    }

    private func checkRanges(_ slices: [UpdateSlice]) {
        var next = 0
        for slice in slices {
            #expect(Int(slice.firstSlot) == next)
            next = Int(slice.lastSlot) + 1
        }
        #expect(next == server.capacity)
    }

    /// Replaces the server by one made from what is stored.
    func restart() throws {
        let nodes = stored.shuffled(using: &Shuffler.shared).map { NodeRecord(id: $0.key, version: 0, key: $0.value) }
        let record = try TreeRecord(octets: treeRecord.octets)
        #expect(record == treeRecord)
        let key = server.groupKey
        server = try KeyTreeServer(record, nodes: nodes, random: random)
        #expect(server.groupKey == key)
        #expect(server.memberCount == members.count)
        var again: [NodeID: Secret] = [:]
        server.records { again[$0.id] = $0.key }
        #expect(again == stored)
    }

    /// Keys that must be wrapped, counted from the definition: for every node with leavers below and members that
    /// stay, one for each child with members that stay, but one.
    static func expectedKeys(before: Set<UInt32>, left: Set<UInt32>, degree: Int, height: Int) -> Int {
        var stay = Set(before.subtracting(left).map(Int.init))
        var changed = Set(left.map(Int.init))
        var count = 0
        for _ in 0..<height {
            let parents = Set(changed.map { $0 / degree })
            for parent in parents {
                let children = (parent * degree..<(parent + 1) * degree).count { stay.contains($0) }
                if children > 1 { count += children - 1 }
            }
            changed = parents
            stay = Set(stay.map { $0 / degree })
        }
        return count
    }
}

/// An order that is not the one of insertion; which one does not matter.
struct Shuffler: RandomNumberGenerator {
    nonisolated(unsafe) static var shared = Shuffler()
    private let source = SeededRandom(seed: 77)
    mutating func next() -> UInt64 { source.next() }
}
