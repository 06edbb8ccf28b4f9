// SPDX-License-Identifier: Apache-2.0
import Basics
import Cryptography
import KeyTree
import Testing

struct Variant: Sendable, CustomTestStringConvertible {
    var degree: Int
    var wrapping = KeyWrapping.mask
    var origin = KeyOrigin.child
    var backwardSecrecy = true

    var parameters: KeyTreeParameters {
        KeyTreeParameters(degree: degree, wrapping: wrapping, origin: origin, backwardSecrecy: backwardSecrecy)
    }

    var testDescription: String { "degree \(degree), \(wrapping), \(origin), backward secrecy \(backwardSecrecy)" }

    static let all: [Variant] = (2...5).flatMap { degree in
        [
            Variant(degree: degree), Variant(degree: degree, wrapping: .aesKeyWrap, origin: .fresh),
            Variant(degree: degree, origin: .fresh), Variant(degree: degree, backwardSecrecy: false),
            Variant(degree: degree, wrapping: .aesKeyWrap),
        ]
    }
}

@Suite struct ChurnTests {
    @Test(arguments: Variant.all) func everybodyAgreesUnderChurn(_ variant: Variant) throws {
        let group = try Lockstep(variant.parameters, seed: UInt64(variant.degree))
        for step in 0..<120 {
            // Times of growth, of shrinking, of quiet, and a group that dies out.
            let (joins, leaves) =
                switch step {
                case ..<30: (12, 5)
                case ..<60: (4, 12)
                case 60: (0, 1_000)
                default: (3, 3)
                }
            if group.random.number(below: 4) > 0 {
                try group.leave(random: Int(group.random.number(below: UInt64(leaves))))
            }
            try group.join(Int(group.random.number(below: UInt64(joins + 1))))
            if group.random.number(below: 4) == 0 { try group.leave(random: 2) }
            if step == 60 { try group.leave(random: 1_000) }
            group.sliceLimit = step.isMultiple(of: 2) ? nil : 450 + Int(group.random.number(below: 300))
            try group.commit()
            if step.isMultiple(of: 7) { try group.restart() }
        }
        #expect(group.server.transaction > 100)
    }

    @Test(arguments: 2...5) func leavesFromEverySizeOfGroup(_ degree: Int) throws {
        for size in stride(from: 1, through: 300, by: size(of: degree)) {
            let group = try Lockstep(KeyTreeParameters(degree: degree), seed: UInt64(size))
            try group.join(size)
            let commit = try group.commit()
            #expect(commit.update == nil, "nobody was there before")
            #expect(group.members.keys.sorted() == (0..<UInt32(size)).map { $0 }, "the lowest slots")
            for slot in Set([0, UInt32(size) / 2, UInt32(size) - 1]) where group.members[slot] != nil {
                let before = Set(group.members.keys)
                try group.leave(slot)
                try group.commit()
                let expected = Lockstep.expectedKeys(
                    before: before, left: [slot], degree: degree, height: group.server.height)
                #expect((group.lastUpdate?.wrappedKeyCount ?? 0) == expected)
                if degree == 2 { #expect(expected <= ceilLog2(size)) }
            }
        }
    }

    /// Every size in binary; the others in steps, to keep the run short.
    private func size(of degree: Int) -> Int { degree == 2 ? 1 : 2 * degree + 1 }

    @Test(arguments: Variant.all) func batchesWrapWhatTheDefinitionSays(_ variant: Variant) throws {
        let group = try Lockstep(variant.parameters, seed: 9)
        try group.join(200)
        try group.commit()
        for _ in 0..<10 {
            let before = Set(group.members.keys)
            try group.leave(random: 40)
            let left = group.leaving
            try group.join(30)
            try group.commit()
            let expected = Lockstep.expectedKeys(
                before: before, left: left, degree: variant.degree, height: group.server.height)
            let actual = group.lastUpdate?.wrappedKeyCount ?? 0
            if variant.origin == .child { #expect(actual == expected) } else { #expect(actual > expected) }
        }
    }

    @Test func joiningCostsNoWrappedKey() throws {
        for variant in Variant.all {
            let group = try Lockstep(variant.parameters, seed: 3)
            for count in [1, 1, 2, 5, 30, 1, 100] {
                try group.join(count)
                try group.commit()
                #expect((group.lastUpdate?.wrappedKeyCount ?? 0) == 0)
            }
        }
    }

    @Test func theTreeStaysLowUnderLongChurn() throws {
        let group = try Lockstep(KeyTreeParameters(), seed: 4)
        try group.join(256)
        try group.commit()
        var most = 0
        for _ in 0..<150 {
            try group.leave(random: 3)
            try group.commit()
            try group.leave(random: 1)
            try group.commit()
            most = max(most, group.lastUpdate?.wrappedKeyCount ?? 0)
            try group.join(4)
            try group.commit()
        }
        #expect(group.server.height == 8)
        #expect(most <= 9)
        #expect(group.members.keys.max() == 255)
    }

    @Test func growsOneLevelAtATimeAndOnlyWhenFull() throws {
        let group = try Lockstep(KeyTreeParameters(degree: 3), seed: 5)
        for size in 1...90 {
            try group.join()
            try group.commit()
            let height = [3, 9, 27, 81].firstIndex { size <= $0 }.map { $0 + 1 } ?? 5
            #expect(group.server.height == height)
        }
    }

    @Test func newcomersMayLeaveBeforeTheyHaveKeys() throws {
        let group = try Lockstep(KeyTreeParameters(), seed: 6)
        try group.join(3)
        let all = group.candidates
        try group.leave(all[0])
        try group.leave(all[1])
        try group.commit()
        #expect(group.members.keys.sorted() == [2])
        try group.restart()
        try group.join(1)
        #expect(throws: KeyTreeError.noMember) { try group.server.memberKeys(0) }
        try group.leave(0)
        try group.commit()
        #expect(group.lastUpdate == nil)
        #expect(throws: KeyTreeError.noMember) { try group.server.leave(0) }
        #expect(throws: KeyTreeError.noMember) { try group.server.leave(.max) }
    }

    @Test func transactionsOnlyGoForward() throws {
        let server = try KeyTreeServer(random: SeededRandom(seed: 1))
        _ = try server.join()
        _ = try server.commit(transaction: 7)
        #expect(throws: KeyTreeError.stale) { try server.commit(transaction: 7) }
        #expect(throws: KeyTreeError.stale) { try server.commit(transaction: 6) }
        #expect(throws: KeyTreeError.malformed) {
            try KeyTreeServer(parameters: KeyTreeParameters(degree: 1), random: SeededRandom(seed: 1))
        }
        #expect(throws: KeyTreeError.malformed) {
            try KeyTreeServer(parameters: KeyTreeParameters(degree: 17), random: SeededRandom(seed: 1))
        }
    }

    @Test func aHundredThousandMembers() throws {
        let random = SeededRandom(seed: 8)
        let server = try KeyTreeServer(random: random)
        for _ in 0..<100_000 { _ = try server.join() }
        #expect(try server.commit(transaction: 1).update == nil)
        #expect(server.keyOctets <= 64 * 100_000)
        var members: [KeyTreeMember] = []
        for _ in 0..<60 { members.append(try KeyTreeMember(server.memberKeys(UInt32(random.number(below: 100_000))))) }
        let slots = Set(members.map(\.slot))

        func follow(_ commit: Commit, limit: Int) throws -> Int {
            let slices = try #require(try commit.update?.slices(limit: limit))
            for member in members {
                let own = try #require(slices.first { ($0.firstSlot...$0.lastSlot).contains(member.slot) })
                #expect(try member.apply(own) == .applied)
                #expect(member.groupKey == server.groupKey)
            }
            return slices.count
        }
        let first = try #require((0..<100_000).first { !slots.contains($0) })
        try server.leave(first)
        let commit = try server.commit(transaction: 2)
        #expect(try #require(commit.update).wrappedKeyCount <= 17)
        #expect(try follow(commit, limit: 432) == 1)
        for slot in UInt32(0)..<100_000 where slot != first && !slots.contains(slot) && random.number(below: 20) == 0 {
            try server.leave(slot)
        }
        #expect(try follow(try server.commit(transaction: 3), limit: 1_200) > 100)
        for _ in 0..<2_000 { _ = try server.join() }
        #expect(try follow(try server.commit(transaction: 4), limit: 500) > 1)
    }

    /// As many slices as without, of about equal length, and each with what its members need.
    @Test(arguments: [300, 450, 700, 1_206]) func slicesAreOfEvenLength(limit: Int) throws {
        let server = try KeyTreeServer(random: SeededRandom(seed: 9))
        for _ in 0..<1_024 { _ = try server.join() }
        _ = try server.commit(transaction: 1)
        let members = try (0..<1_024).filter { $0 % 4 != 1 }.map { try KeyTreeMember(server.memberKeys(UInt32($0))) }
        for slot in 0..<1_024 as Range<UInt32> where slot % 4 == 1 { try server.leave(slot) }
        let update = try #require(try server.commit(transaction: 2).update)
        let (plain, even) = (try update.slices(limit: limit), try update.evenSlices(limit: limit))
        #expect(even.count == plain.count && even.allSatisfy { $0.octets.count <= limit })
        let longest = try #require(even.map(\.octets.count).max())
        #expect(longest <= plain.map(\.octets.count).max() ?? 0)
        let mean = Double(even.reduce(0) { $0 + $1.octets.count }) / Double(even.count)
        #expect(Double(longest) <= 1.15 * mean, "\(even.map(\.octets.count))")
        for member in members {
            let own = try #require(even.first { ($0.firstSlot...$0.lastSlot).contains(member.slot) })
            #expect(try member.apply(own) == .applied)
        }
        #expect(throws: KeyTreeError.tooLong) { try update.evenSlices(limit: 40) }
    }
}

/// The least power of two that is not below a number.
func ceilLog2(_ number: Int) -> Int { number <= 1 ? 0 : Int.bitWidth - (number - 1).leadingZeroBitCount }
