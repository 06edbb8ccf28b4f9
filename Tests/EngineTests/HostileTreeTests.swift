// SPDX-License-Identifier: Apache-2.0
import Basics
import Cryptography
import ESP
import FMKE
import GroupMember
import KeyTree
import Testing

/// What a GCKS that obeys no rule can send about the key tree: whatever is wrong changes nothing at the member.
@Suite struct HostileTreeTests {
    /// The member sits in slot 0 of a tree of four.
    private struct Deployment {
        let world: HostileServer
        let tree: KeyTreeServer

        init() throws {
            world = try HostileServer()
            tree = try KeyTreeServer(
                parameters: KeyTreeParameters(backwardSecrecy: false), random: SeededRandom(seed: 3))
            for _ in 0..<4 { _ = try tree.join() }
            _ = try tree.commit(transaction: 1)
            try world.configure(10, [world.section(transaction: 1, tree: try path(), [world.dataSA(1)])])
            world.run(.seconds(1))
            #expect(world.active == world.key(1))
        }

        func path(_ slot: UInt32 = 0) throws -> [UInt8] { try tree.memberKeys(slot).octets }

        func evict(_ slot: UInt32, in transaction: UInt64) throws -> [UInt8] {
            try tree.leave(slot)
            return try #require(tree.commit(transaction: transaction).update).whole().octets
        }

        var rekeySPI: RekeySPI { RekeySPI(high: 1, low: 1) }
        func member() -> MemberSnapshot.Group? { world.member.snapshot(now: world.now).groups.first }
    }

    @Test func aGoodSliceBringsTheNewKeys() throws {
        let there = try Deployment()
        let slice = try there.evict(2, in: 2)
        try there.world.push(
            2, next: there.world.rekeySA(2), [there.world.dataSA(2)], slice: slice, groupKey: there.tree.groupKey)
        there.world.run(.seconds(3))
        #expect(there.world.active == there.world.key(2))
        #expect(there.member()?.epoch == 2 && there.member()?.transaction == 2)
        #expect(there.world.outbound[there.world.key(2)]?.cipherKey == there.world.dataSA(2).cipherKey)
    }

    @Test func malformedSlicesChangeNothing() throws {
        let there = try Deployment()
        let good = try there.evict(2, in: 2)
        var bad: [[UInt8]] = [[0], Array(good.dropLast()), good + [0]]
        for (offset, value) in [(0, UInt8(0xff)), (1, 1), (2, 31), (3, 1), (7, 0), (16, good[16] ^ 1)] {
            var slice = good
            slice[offset] = value
            bad.append(slice)
        }
        // A wrapped key that is another: the check value finds it.
        var other = good
        other[good.count - 1] ^= 1
        bad.append(other)
        let (before, changes) = (there.member(), there.world.changes.count)
        for slice in bad {
            try there.world.push(
                2, next: there.world.rekeySA(2), [there.world.dataSA(2)], slice: slice, groupKey: there.tree.groupKey)
            there.world.run(.milliseconds(10))
            #expect(there.member()?.epoch == 1 && there.member()?.transaction == 1)
        }
        #expect(there.world.changes.count == changes && before?.epoch == 1)
        // The true one still works: nothing of its path was touched.
        try there.world.push(
            2, next: there.world.rekeySA(2), [there.world.dataSA(2)], slice: good, groupKey: there.tree.groupKey)
        #expect(there.member()?.epoch == 2)
    }

    @Test func aSliceThatFollowsAnotherTransactionMakesItAskOnceInAWhile() throws {
        let there = try Deployment()
        _ = try there.evict(2, in: 2)
        let second = try there.evict(3, in: 3)
        for _ in 0..<20 {
            try there.world.push(
                3, next: there.world.rekeySA(3), [there.world.dataSA(3)], slice: second, groupKey: there.tree.groupKey)
            there.world.run(.milliseconds(400))
        }
        #expect(there.member()?.epoch == 1)
        let asks = there.world.reports.flatMap(\.groups).count { $0.wantsProfile }
        #expect(asks == 1, "\(asks) requests in eight seconds")
        // Its profile takes it to the newest keys, and the next slice fits again.
        try there.world.configure(
            11, [there.world.section(transaction: 3, epoch: 3, tree: try there.path(), [there.world.dataSA(3)])])
        let third = try there.evict(1, in: 4)
        var next = there.world.rekeySA(4)
        next.spi.high = 1
        try there.world.push(
            4, epoch: 3, next: next, [there.world.dataSA(4)], slice: third, groupKey: there.tree.groupKey)
        #expect(there.member()?.epoch == 4)
    }

    @Test func whoIsTakenOutLearnsNothingAndAsks() throws {
        let there = try Deployment()
        let slice = try there.evict(0, in: 2)
        try there.world.push(
            2, next: there.world.rekeySA(2), [there.world.dataSA(2)], slice: slice, groupKey: there.tree.groupKey)
        there.world.run(.seconds(3))
        #expect(there.member()?.epoch == 1 && there.world.active == there.world.key(1))
        #expect(there.world.reports.flatMap(\.groups).contains { $0.wantsProfile })
    }

    @Test func aMemberWithoutATreeAsks() throws {
        let world = try HostileServer()
        try world.configure(10, [world.section(transaction: 1, [world.dataSA(1)])])
        world.run(.seconds(1))
        let there = try Deployment()
        let slice = try there.evict(2, in: 2)
        try world.push(2, next: world.rekeySA(2), [world.dataSA(2)], slice: slice, groupKey: there.tree.groupKey)
        world.run(.seconds(3))
        #expect(world.active == world.key(1) && world.reports.flatMap(\.groups).contains { $0.wantsProfile })
    }

    /// One of the keys had no room; it comes with a repetition, after the tree has moved already.
    @Test func aRepetitionIsOpenedWithTheGroupKeyOfTheFirst() throws {
        let there = try Deployment()
        let other = [there.world.dataSA(7, group: 2)]
        let path = try there.path()
        try there.world.configure(
            11,
            [
                there.world.section(transaction: 1, tree: path, [there.world.dataSA(1)]),
                there.world.section(group: 2, transaction: 1, other),
            ])
        let slice = try there.evict(2, in: 2)
        func push() throws {
            try there.world.push(
                2, next: there.world.rekeySA(2), [there.world.dataSA(2), there.world.dataSA(3, group: 2)],
                slice: slice, groupKey: there.tree.groupKey)
        }
        try push()
        let group = there.world.member.snapshot(now: there.world.now).groups.first { $0.id == 1 }
        #expect(group?.epoch == 2 && group?.transaction == 1, "the flow of another group is in the way")
        try there.world.configure(12, [there.world.section(transaction: 1, tree: path, [there.world.dataSA(1)])])
        try push()
        #expect(there.member()?.transaction == 2)
    }

    @Test func aProfileWithAWrongPathIsRefusedAndChangesNothing() throws {
        let there = try Deployment()
        let good = try there.path()
        var wrongSlot = good
        wrongSlot[7] = 1
        var fromTheFuture = good
        fromTheFuture[15] = 9
        var sequence: UInt64 = 11
        for octets in [[1], Array(good.dropLast()), good + [0], wrongSlot, fromTheFuture] {
            try there.world.configure(
                sequence, [there.world.section(transaction: 2, epoch: 2, tree: octets, [there.world.dataSA(2)])])
            sequence += 1
            there.world.run(.milliseconds(10))
            #expect(there.member()?.epoch == 1 && there.member()?.transaction == 1)
            #expect(there.world.answers.last?.isAcknowledgement == false)
        }
    }
}
