// SPDX-License-Identifier: Apache-2.0
import Basics
import FMKE
import GroupMember
import ISAKMP
import KeyServer
import LinkModel
import ReliablePush
import Testing

/// How members confirm, through the real engines.
@Suite struct FeedbackTests {
    private func world(
        _ feedback: FeedbackPolicy, loss: Double = 0, seed: UInt64 = 1, within: Duration = .seconds(120)
    ) throws -> World {
        var options = World.Options()
        (options.loss, options.seed) = (loss, seed)
        options.adjust = {
            $0.push.feedback = feedback
            $0.push.confirmWithin = within
        }
        let world = try World(options)
        try world.bringUp()
        return world
    }

    private func statuses(_ world: World, since start: Instant) -> Int {
        world.sent.count { $0.at >= start && $0.datagram.bytes.count > 18 && $0.datagram.bytes[18] == 242 }
    }

    /// Nobody sends a STATUS: the answers to dead peer detection say it all.
    @Test func answersToDeadPeerDetectionConfirm() throws {
        let world = try world(.none)
        world.run(.seconds(5))
        let start = world.now
        let transaction = try world.rekey()
        #expect(world.run(.seconds(70)) { world.verdict(transaction) != nil })
        let verdict = try #require(world.verdict(transaction))
        #expect(verdict.verdict == "confirmed" && verdict.confirmed.count == 3 && verdict.unicasts == 0)
        #expect(statuses(world, since: start) == 0)
        #expect(
            world.run(.seconds(60)) { world.server.snapshot(now: world.now).groups[0].members.allSatisfy(\.isCurrent) })
    }

    @Test func aMemberWhoseDataPlaneRefusesConfirmsNothing() throws {
        let world = try world(.none, within: .seconds(60))
        world.run(.seconds(5))
        try world.client("site1").refusesSAs = true
        let transaction = try world.rekey()
        world.run(.seconds(59)) { world.verdict(transaction) != nil }
        #expect(world.verdict(transaction) == nil)
        let member = try #require(
            world.server.snapshot(now: world.now).groups[0].members.first { $0.client == "site1" })
        #expect(!member.isCurrent)
    }

    @Test func aCensusAsksAPartAndTheRestConfirmsAnyway() throws {
        let world = try world(.census(3))
        world.run(.seconds(5))
        for _ in 0..<3 {
            let start = world.now
            let transaction = try world.rekey()
            #expect(world.run(.seconds(5)) { statuses(world, since: start) > 0 })
            world.run(.seconds(3))
            #expect(statuses(world, since: start) == 1)
            #expect(world.run(.seconds(90)) { world.verdict(transaction) != nil })
            #expect(world.verdict(transaction)?.verdict == "confirmed")
        }
    }

    @Test(arguments: [FeedbackPolicy.all, .census(2), .none], [UInt64](1...8))
    func underLossEverybodyHasTheKeysInTheEnd(feedback: FeedbackPolicy, seed: UInt64) throws {
        let world = try world(feedback, loss: 0.2, seed: seed)
        for round in 0..<3 {
            let transaction = try world.rekey(kek: round == 1)
            #expect(world.run(.seconds(200)) { world.verdict(transaction) != nil })
            let verdict = try #require(world.verdict(transaction))
            #expect(verdict.confirmed.count + verdict.unconfirmed.count == 3)
        }
        #expect(
            world.run(.seconds(300)) { world.server.snapshot(now: world.now).groups[0].members.allSatisfy(\.isCurrent) }
        )
    }

    /// Several transactions are under way, a member hears none of them, and one is revoked in the middle.
    @Test(arguments: [FeedbackPolicy.all, .none]) func manyTransactionsAndARevocationInTheMiddle(
        feedback: FeedbackPolicy
    ) throws {
        let world = try world(feedback)
        world.run(.seconds(3))
        let site = try world.client("site1")
        world.interceptor = { datagram, name in
            name == "site1" && datagram.bytes.count > 18 && datagram.bytes[18] == ExchangeType.push.rawValue
        }
        var transactions: [UInt64] = []
        for round in 0..<4 {
            transactions.append(try world.rekey(kek: round == 2))
            world.run(.milliseconds(300))
        }
        let revoked = try world.server.revoke(client: "site2", now: world.now)
        world.drainServer()
        transactions += revoked.values
        world.run(.seconds(10))
        world.interceptor = { _, _ in false }
        #expect(world.run(.seconds(400)) { transactions.allSatisfy { world.verdict($0) != nil } })
        for transaction in transactions {
            let verdict = try #require(world.verdict(transaction))
            let named = Set(verdict.confirmed.map(\.client) + verdict.unconfirmed.map(\.client))
            #expect(named.isSuperset(of: ["hub", "site1"]), "\(transaction)")
        }
        let snapshot = site.engine.snapshot(now: world.now)
        #expect(snapshot.groups.first?.transaction == world.server.snapshot(now: world.now).groups[0].transaction)
    }
}
