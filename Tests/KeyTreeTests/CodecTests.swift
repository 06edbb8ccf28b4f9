// SPDX-License-Identifier: Apache-2.0
import Basics
import Cryptography
import KeyTree
import Testing

@Suite struct CodecTests {
    /// A group and a slice that its members have not followed yet.
    private func prepared(
        _ parameters: KeyTreeParameters = KeyTreeParameters(), size: Int = 40
    ) throws -> (server: KeyTreeServer, members: [KeyTreeMember], slice: UpdateSlice) {
        let server = try KeyTreeServer(parameters: parameters, random: SeededRandom(seed: 21))
        for _ in 0..<size { _ = try server.join() }
        _ = try server.commit(transaction: 1)
        var members: [KeyTreeMember] = []
        for slot in 0..<UInt32(size) { members.append(try KeyTreeMember(server.memberKeys(slot))) }
        for slot in [3, 17, 30] as [UInt32] { try server.leave(slot) }
        for _ in 0..<5 { _ = try server.join() }
        let update = try #require(try server.commit(transaction: 2).update)
        return (server, members, try update.whole())
    }

    @Test func damagedSlicesNeverChangeAMember() throws {
        for parameters in [
            KeyTreeParameters(), KeyTreeParameters(degree: 3, wrapping: .aesKeyWrap),
            KeyTreeParameters(degree: 5, origin: .fresh),
        ] {
            let (server, members, slice) = try prepared(parameters)
            let member = members[8]
            let before = member.keys.octets
            let random = SeededRandom(seed: 22)
            for trial in 0..<3_000 {
                var octets = slice.octets
                // Bits, runs, and lengths; the front more often, where the structure is.
                for _ in 0...random.number(below: 3) {
                    let reach = random.number(below: 2) == 0 ? min(octets.count, 40) : octets.count
                    octets[Int(random.number(below: UInt64(reach)))] ^= UInt8(1 << random.number(below: 8))
                }
                if trial % 3 == 0 { octets.removeLast(Int(random.number(below: UInt64(octets.count)))) }
                if trial % 7 == 0 { octets += random.bytes(Int(random.number(below: 40))) }
                guard let damaged = try? UpdateSlice(octets: octets, transaction: 2) else { continue }
                if let outcome = try? member.apply(damaged), outcome == .applied {
                    // Only what this member does not use was hit.
                    #expect(member.groupKey == server.groupKey)
                    break
                }
                #expect(member.keys.octets == before)
            }
        }
    }

    @Test func everyTruncationIsRefused() throws {
        let (_, _, slice) = try prepared()
        for count in 0..<slice.octets.count {
            #expect(throws: KeyTreeError.malformed) {
                try UpdateSlice(octets: Array(slice.octets.prefix(count)), transaction: 2)
            }
        }
        #expect(throws: KeyTreeError.malformed) { try UpdateSlice(octets: slice.octets + [0], transaction: 2) }
        #expect(throws: KeyTreeError.malformed) { try UpdateSlice(octets: slice.octets, transaction: 0) }
    }

    @Test func noiseIsRefused() throws {
        let (_, members, slice) = try prepared()
        let random = SeededRandom(seed: 23)
        for _ in 0..<20_000 {
            let count = Int(random.number(below: 300))
            let header = random.number(below: 2) == 0 ? Array(slice.octets.prefix(20)) : []
            guard let noise = try? UpdateSlice(octets: header + random.bytes(count), transaction: 2) else { continue }
            let outcome = try? members[0].apply(noise)
            #expect(outcome != .applied)
        }
    }

    /// The longest message that is nothing but structure ends with its octets.
    @Test func aSliceOfNothingButStructureEnds() throws {
        for degree in [2, 16] as [UInt8] {
            for flags in [0x08, 0x0a, 0x02, 0x0c] as [UInt8] {
                let height: UInt8 = degree == 2 ? 27 : 6
                for fill in [0x00, 0xff, 0x55, 0xaa, 0xdb] as [UInt8] {
                    var octets: [UInt8] = [flags, degree, height, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff]
                    octets += [0, 0, 0, 0] + [UInt8](repeating: fill, count: 16_000)
                    _ = try? UpdateSlice(octets: octets, transaction: 2)
                }
            }
        }
    }

    @Test func aMemberThatMissedOneSaysSo() throws {
        let (server, members, slice) = try prepared()
        try server.leave(10)
        let next = try #require(try server.commit(transaction: 9).update)
        #expect(throws: KeyTreeError.missed(transaction: 2)) { try members[0].apply(next.whole()) }
        #expect(try members[0].apply(slice) == .applied)
        #expect(try members[0].apply(next.whole()) == .applied)
        #expect(try members[0].apply(slice) == .known)
        #expect(members[0].groupKey == server.groupKey)
        #expect(members[0].transaction == 9)
    }

    @Test func aMemberWithOtherKeysNotices() throws {
        let (server, _, slice) = try prepared()
        var octets = try server.memberKeys(5).octets
        octets.replaceSubrange(8..<16, with: [0, 0, 0, 0, 0, 0, 0, 1])
        for place in 16..<octets.count { octets[place] ^= 1 }
        let member = try KeyTreeMember(MemberKeys(octets: octets))
        #expect(throws: KeyTreeError.diverged) { try member.apply(slice) }
        #expect(member.transaction == 1)
    }

    @Test func memberKeysAreReadStrictly() throws {
        let (server, _, _) = try prepared()
        let octets = try server.memberKeys(5).octets
        #expect(try MemberKeys(octets: octets).octets == octets)
        for count in 0..<octets.count {
            #expect(throws: KeyTreeError.malformed) { try MemberKeys(octets: Array(octets.prefix(count))) }
        }
        #expect(throws: KeyTreeError.malformed) { try MemberKeys(octets: octets + [0]) }
        // Degree, height, the reserved octets, a slot outside of the tree.
        for (place, value) in [(0, 1), (0, 17), (1, 0), (1, 28), (1, 7), (2, 1), (3, 1), (4, 1)] as [(Int, UInt8)] {
            var changed = octets
            changed[place] = value
            #expect(throws: KeyTreeError.malformed) { try MemberKeys(octets: changed) }
        }
    }

    @Test func recordsAreReadStrictly() throws {
        let record = TreeRecord(parameters: KeyTreeParameters(degree: 4), transaction: 77, height: 3)
        #expect(record.octets == [4, 4, 3, 0, 0, 0, 0, 0, 0, 0, 0, 77])
        for count in 0..<12 {
            #expect(throws: KeyTreeError.malformed) { try TreeRecord(octets: Array(record.octets.prefix(count))) }
        }
        for (place, value) in [(0, 1), (1, 8), (2, 0), (2, 14), (3, 1)] as [(Int, UInt8)] {
            var changed = record.octets
            changed[place] = value
            #expect(throws: KeyTreeError.malformed) { try TreeRecord(octets: changed) }
        }
    }

    @Test func aTreeIsNotRebuiltFromBrokenRecords() throws {
        let (server, _, _) = try prepared()
        var nodes: [NodeRecord] = []
        server.records { nodes.append($0) }
        let random = SeededRandom(seed: 1)
        _ = try KeyTreeServer(server.treeRecord, nodes: nodes, random: random)
        for place in nodes.indices where nodes[place].id.level > 0 {
            var fewer = nodes
            fewer.remove(at: place)
            #expect(throws: KeyTreeError.malformed) {
                try KeyTreeServer(server.treeRecord, nodes: fewer, random: random)
            }
        }
        let key = Secret([UInt8](repeating: 1, count: 16))
        for extra in [
            NodeRecord(id: NodeID(level: 7, index: 0), version: 1, key: key),
            NodeRecord(id: NodeID(level: 6, index: 1), version: 1, key: key),
            NodeRecord(id: NodeID(level: 0, index: 64), version: 1, key: key),
            NodeRecord(id: NodeID(level: 1, index: 31), version: 1, key: key),
            NodeRecord(id: NodeID(level: 0, index: 1), version: 1, key: Secret([1, 2])),
        ] {
            #expect(throws: KeyTreeError.malformed) {
                try KeyTreeServer(server.treeRecord, nodes: nodes + [extra], random: random)
            }
        }
    }

    /// The example of docs/KEYTREE.md, octet for octet.
    @Test func theExampleOfTheDocument() throws {
        let server = try KeyTreeServer(random: SeededRandom(seed: 1))
        for _ in 0..<5 { _ = try server.join() }
        _ = try server.commit(transaction: 1)
        try server.leave(2)
        let slice = try #require(try server.commit(transaction: 3).update).whole()
        #expect(Array(slice.octets[..<16]) == [0x08, 2, 3, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 7])
        // (3,0): child 0 replaced, child 1 unchanged; (2,0): child 0 unchanged, child 1 replaced; (1,1): slot 2 gone.
        #expect(Array(slice.octets[20..<21]) == [0b0101_0010])
        #expect(slice.octets.count == 20 + 1 + 2 * 16)
        let changes = try slice.changes()
        #expect(changes.map(\.node) == [(3, 0), (2, 0), (1, 1)].map { NodeID(level: $0, index: $1) })
        #expect(changes.map(\.source) == [(2, 0), (1, 1), (0, 3)].map { NodeID(level: $0, index: $1) })
        let wrapped = changes.map { $0.wrapped.map(\.child) }
        #expect(wrapped == [[NodeID(level: 2, index: 1)], [NodeID(level: 1, index: 0)], []])
    }

    @Test func aLimitThatFitsNobodyIsSaid() throws {
        let (server, _, _) = try prepared()
        try server.leave(1)
        let update = try #require(try server.commit(transaction: 3).update)
        #expect(throws: KeyTreeError.tooLong) { try update.slices(limit: 40) }
        #expect(throws: KeyTreeError.tooLong) { try update.slices(limit: 0) }
    }
}
