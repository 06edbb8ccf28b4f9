// SPDX-License-Identifier: Apache-2.0
import Basics
import Cryptography
import KeyTree
import Testing

/// Everything that some members can find out together: all keys they were ever given, and a full recording of all
/// updates in the clear, which is more than the encrypted channel would show.
///
/// The attacker tries every key it has of a node, of whatever time, on everything that node's key was used for. What
/// comes out counts when it is a key that really existed; anything else is noise.
private struct Attacker {
    var recording: [(transaction: UInt64, changes: [NodeChange])] = []
    /// All keys there ever were, to tell a find from noise.
    var truth: [NodeID: Set<[UInt8]>] = [:]
    let wrapping: KeyWrapping
    let prf = try? BlockPRF()

    /// The closure of some knowledge.
    func closure(of known: [NodeID: Set<[UInt8]>]) throws -> [NodeID: Set<[UInt8]>] {
        var known = known
        let prf = try #require(prf)
        var isGrowing = true
        func learn(_ node: NodeID, _ key: Secret?) {
            guard let key = key?.revealed(), truth[node]?.contains(key) == true else { return }
            if known[node, default: []].insert(key).inserted { isGrowing = true }
        }
        while isGrowing {
            isGrowing = false
            for (transaction, changes) in recording {
                for change in changes {
                    let node = change.node
                    func value(_ purpose: UInt64, _ key: [UInt8]) -> Secret {
                        let table = KeyTable(count: 1)
                        table[0] = Secret(key)
                        let label = PRFBlock(high: purpose << 56 | UInt64(node.rawValue), low: transaction)
                        return prf.secret(with: table, at: 0, label)
                    }
                    for key in known[node] ?? [] { learn(node, value(3, key)) }
                    // Also from children that the server did not derive from: the attacker is free to try.
                    for source in known.keys where source.level == node.level - 1 {
                        for key in known[source] ?? [] { learn(node, value(2, key)) }
                    }
                    for wrapped in change.wrapped {
                        for key in known[wrapped.child] ?? [] {
                            let pad = value(1, key)
                            switch wrapping {
                            case .mask: learn(node, Secret(zip(wrapped.text, pad.revealed()).map { $0 ^ $1 }))
                            case .aesKeyWrap: learn(node, try? AESKeyWrap.unwrap(wrapped.text, under: pad))
                            }
                        }
                    }
                }
            }
        }
        return known
    }
}

@Suite struct AttackerTests {
    /// No set of people, whatever they recorded, knows a root key from a time when none of them was a member: neither a
    /// later one (forward secrecy) nor an earlier one (backward secrecy).
    @Test(arguments: Variant.all) func coalitionsKnowOnlyTheTimesOfTheirMembers(_ variant: Variant) throws {
        for seed in UInt64(0)..<(variant.backwardSecrecy ? 4 : 3) {
            try attack(variant, seed: seed)
        }
    }

    private func attack(_ variant: Variant, seed: UInt64) throws {
        let random = SeededRandom(seed: 100 + seed)
        let server = try KeyTreeServer(parameters: variant.parameters, random: random)
        var attacker = Attacker(wrapping: variant.wrapping)
        /// Each person: the slot, the epochs of membership, and all keys held.
        struct Person {
            var slot: UInt32
            var epochs: Set<Int> = []
            var keys: [NodeID: Set<[UInt8]>] = [:]
        }
        var people: [Person] = []
        var present: [UInt32: Int] = [:]
        var roots: [(id: NodeID, key: [UInt8])] = []

        for epoch in 0..<24 {
            var newcomers: [UInt32] = []
            for _ in 0..<random.number(below: epoch < 8 ? 6 : 3) { newcomers.append(try server.join()) }
            for slot in present.keys.sorted() where random.number(below: 7) == 0 {
                try server.leave(slot)
                present[slot] = nil
            }
            // A slot can be freed and taken again within one interval.
            if random.number(below: 2) == 0 { newcomers.append(try server.join()) }
            let commit = try server.commit(transaction: UInt64(epoch + 1))
            if let update = commit.update {
                attacker.recording.append((update.transaction, try update.whole().changes()))
            }
            for slot in newcomers {
                present[slot] = people.count
                people.append(Person(slot: slot))
            }
            server.records { record in
                if let key = record.key { attacker.truth[record.id, default: []].insert(key.revealed()) }
            }
            for (slot, person) in present {
                people[person].epochs.insert(epoch)
                let octets = try server.memberKeys(slot).octets
                for level in 0...server.height {
                    var index = Int(slot)
                    for _ in 0..<level { index /= variant.degree }
                    people[person].keys[NodeID(level: level, index: index), default: []]
                        .insert(Array(octets[16 + 16 * level..<32 + 16 * level]))
                }
            }
            let root = NodeID(level: server.height, index: 0)
            roots.append((root, server.record(root).key?.revealed() ?? []))
        }
        for trial in 0..<40 {
            // Alone, in pairs, and in crowds.
            let share = UInt64([people.count, people.count, 3, 2][trial % 4])
            let coalition = people.filter { _ in random.number(below: max(share, 1)) == 0 }
            var known: [NodeID: Set<[UInt8]>] = [:]
            for person in coalition { known.merge(person.keys) { $0.union($1) } }
            known = try attacker.closure(of: known)
            let epochs = coalition.reduce(into: Set<Int>()) { $0.formUnion($1.epochs) }
            for (epoch, root) in roots.enumerated() {
                let knows = known[root.id]?.contains(root.key) == true
                if epochs.contains(epoch) {
                    #expect(knows, "the closure finds what its people were given")
                } else if variant.backwardSecrecy {
                    #expect(!knows, "\(variant.testDescription), epoch \(epoch), trial \(trial), seed \(seed)")
                } else if let last = epochs.max(), epoch > last {
                    #expect(!knows, "forward secrecy needs no step: epoch \(epoch), seed \(seed)")
                }
            }
        }
    }

    /// The attacker is good enough to find the hole that there is without the step: a newcomer gets a key that older
    /// root keys were wrapped under.
    @Test(arguments: [true, false]) func theStepKeepsThePastFromNewcomers(_ backwardSecrecy: Bool) throws {
        let server = try KeyTreeServer(
            parameters: KeyTreeParameters(backwardSecrecy: backwardSecrecy), random: SeededRandom(seed: 2))
        var attacker = Attacker(wrapping: .mask)
        func commit(_ transaction: UInt64) throws {
            if let update = try server.commit(transaction: transaction).update {
                attacker.recording.append((transaction, try update.whole().changes()))
            }
            server.records { attacker.truth[$0.id, default: []].insert($0.key?.revealed() ?? []) }
        }
        for _ in 0..<7 { _ = try server.join() }
        try commit(1)
        try server.leave(0)
        try commit(2)
        let root = NodeID(level: 3, index: 0)
        let past = try #require(server.record(root).key?.revealed())
        try server.leave(1)
        try commit(3)
        // The third of them sits beside slot 6, below a node that no leaver ever sat below.
        for slot in [0, 1, 7] as [UInt32] { #expect(try server.join() == slot) }
        try commit(4)
        let octets = try server.memberKeys(7).octets
        let known: [NodeID: Set<[UInt8]>] = [NodeID(level: 2, index: 1): [Array(octets[48..<64])]]
        let finds = try attacker.closure(of: known)[root]?.contains(past) == true
        #expect(finds == !backwardSecrecy)
    }
}
