// SPDX-License-Identifier: Apache-2.0
import Basics
import FMKE
import ReliablePush
import Testing

@Suite struct DeliveryTests {
    private func everybody(_ loop: Loop) -> Bool {
        loop.verdict.map { $0.confirmed.count + $0.unconfirmed.count == loop.options.members } ?? false
    }

    @Test func withoutLossEverybodyConfirmsInOneRound() throws {
        let loop = Loop(.init(members: 50))
        loop.run()
        let verdict = try #require(loop.verdict)
        #expect(verdict.isComplete && verdict.confirmed.count == 50)
        #expect(verdict.rounds == 1 && verdict.datagrams == 2 && verdict.unicasts == 0)
        #expect(loop.reports.count == 50 && loop.nacks == 0)
        // A slot of its own for everybody.
        let times = loop.reports.map(\.at).sorted()
        for (one, next) in zip(times, times.dropFirst()) { #expect(next - one >= loop.options.policy.slot) }
    }

    @Test(arguments: [UInt64](1...10)) func lossIsRepaired(seed: UInt64) throws {
        let loop = Loop(.init(members: 200, loss: 0.05, returnLoss: 0.05, seed: seed))
        loop.run()
        let verdict = try #require(loop.verdict)
        #expect(verdict.isComplete && everybody(loop))
        #expect(verdict.duration < .seconds(30))
    }

    @Test(arguments: [UInt64](1...10)) func severalBlocksAreMendedByParity(seed: UInt64) throws {
        var options = Loop.Options(members: 300, parts: 30, loss: 0.1, seed: seed)
        options.policy.blockSize = 10
        options.policy.proactive = 1.6
        options.policy.controlRate = 1_000_000
        let loop = Loop(options)
        loop.run()
        let verdict = try #require(loop.verdict)
        #expect(verdict.isComplete && everybody(loop) && verdict.unicasts == 0)
        #expect(Set(loop.datagrams.map(\.block)) == [0, 1, 2])
        #expect(loop.datagrams.allSatisfy { $0.dataCount == 10 && $0.blockCount == 3 })
        // Of each block, no index twice.
        let round0 = loop.datagrams.filter { $0.feedback.round == 0 }
        #expect(round0.count == 48 && Set(round0.map { [Int($0.block), Int($0.index)] }).count == 48)
    }

    /// A burst that takes any so many datagrams of a block is mended as long as k of them come through.
    @Test func anyKOfABlockAreEnough() throws {
        for pattern in 0..<(1 << 6) where pattern.nonzeroBitCount == 2 {
            var options = Loop.Options(members: 8, parts: 4)
            (options.policy.proactive, options.policy.adapts) = (1.5, false)
            let loop = Loop(options)
            loop.interceptor = { header, _ in
                header.kind != .beacon && header.feedback.round == 0 && pattern >> Int(header.index) & 1 == 1
            }
            loop.run()
            let verdict = try #require(loop.verdict)
            #expect(verdict.isComplete && verdict.rounds == 1 && loop.nacks == 0, "pattern \(pattern)")
        }
    }

    /// Who needs two more shards than came says so, and gets parity that it did not have, and one in reserve.
    @Test func aRepairSendsWhatTheNeediestLacks() throws {
        var options = Loop.Options(members: 8, parts: 4)
        (options.policy.proactive, options.policy.adapts) = (1.0, false)
        options.policy.feedback = .none
        let loop = Loop(options)
        // Members of all parts lose two datagrams each, none of them a whole round.
        loop.interceptor = { header, member in
            header.kind == .data && header.feedback.round == 0
                && (Int(header.index) == Int(member) / 2 || Int(header.index) == (Int(member) / 2 + 1) % 4)
        }
        loop.run(until: .zero + .seconds(20))
        #expect(loop.servedAt.count == 8)
        let repairs = loop.datagrams.filter { $0.feedback.round > 0 }
        #expect(repairs.count == 3 && repairs.allSatisfy { $0.kind == .parity })
        #expect(loop.nacks == 8)
    }

    /// One member lacks its own datagram and one more: its own alone is less than two of parity.
    @Test func oneLoserIsSentItsOwnDatagram() throws {
        var options = Loop.Options(members: 8, parts: 4)
        (options.policy.proactive, options.policy.adapts, options.policy.feedback) = (1.0, false, .none)
        let loop = Loop(options)
        loop.interceptor = { header, member in
            header.feedback.round == 0 && member == 5 && header.kind == .data
                && (header.index == 2 || header.index == 0)
        }
        loop.run(until: .zero + .seconds(20))
        let repairs = loop.datagrams.filter { $0.feedback.round > 0 }
        #expect(repairs.map(\.kind) == [.data] && repairs.first?.index == 2)
        #expect(loop.servedAt.count == 8)
    }

    /// One lacks a datagram of full size: its profile is shorter.
    @Test func aProfileIsSentWhereItIsShorterThanTheRepair() throws {
        var options = Loop.Options(members: 8, parts: 4, bodySize: 1_100)
        (options.policy.proactive, options.policy.adapts, options.policy.feedback) = (1.0, false, .none)
        let loop = Loop(options)
        loop.interceptor = { header, member in
            header.feedback.round == 0 && member == 5 && header.index == 2
        }
        loop.run(until: .zero + .seconds(20))
        #expect(loop.unicasts.flatMap(\.members) == [5] && loop.servedAt.count == 8)
        #expect(loop.datagrams.allSatisfy { $0.feedback.round == 0 })
    }

    @Test func deafMembersAreNamedAndTheRestConfirmed() throws {
        let loop = Loop(.init(members: 60, loss: 0.02))
        loop.deaf = [3, 59]
        loop.run()
        let verdict = try #require(loop.verdict)
        #expect(verdict.unconfirmed == [3: .silent, 59: .silent] && verdict.confirmed.count == 58)
        #expect(Set(loop.probes) == [3, 59])
    }

    /// Unicast is paced to the control channel.
    @Test func unicastIsPaced() throws {
        var options = Loop.Options(members: 100, parts: 0)
        options.policy.controlRate = 128_000
        let loop = Loop(options)
        loop.run()
        let verdict = try #require(loop.verdict)
        #expect(verdict.isComplete && verdict.unicasts == 100 && verdict.datagrams == 0)
        let first = try #require(loop.unicasts.first), last = try #require(loop.unicasts.last)
        let octets = 700 * (100 - last.members.count)
        #expect((last.at - first.at).inSeconds >= Double(octets * 8) / 128_000)
        #expect(loop.unicasts.allSatisfy { $0.members.count <= 4 })
    }

    @Test func leavingMulticastSendsNothingMore() throws {
        let loop = Loop(.init(members: 20, loss: 1))
        loop.run(until: .zero + .milliseconds(50))
        let before = loop.sent.count
        loop.sender.leaveMulticast(now: loop.now)
        loop.run(until: .zero + .seconds(5))
        #expect(loop.sent.count == before && before > 0)
        for member in 0..<20 as Range<UInt32> { loop.sender.confirm(member, now: loop.now) }
        loop.run()
        #expect(try #require(loop.verdict).isComplete)
    }

    /// NACKs that come in slots, just before the last slot is over, are answered and may be said again.
    @Test(arguments: [UInt64](1...6)) func heavyLossBothWaysEndsWithEverybody(seed: UInt64) throws {
        var options = Loop.Options(members: 80, parts: 12, loss: 0.4, returnLoss: 0.4, seed: seed)
        options.policy.blockSize = 6
        let loop = Loop(options)
        loop.run()
        let verdict = try #require(loop.verdict)
        #expect(everybody(loop))
        #expect(verdict.confirmed.count >= 70)
        #expect(verdict.duration < .seconds(90))
    }

    /// Late confirmations and a revocation in the middle.
    @Test func aMemberThatIsGivenUpIsNamed() throws {
        let loop = Loop(.init(members: 5, loss: 0))
        loop.deaf = [2]
        loop.run(until: .zero + .seconds(2))
        loop.sender.giveUp(2, reason: .revoked)
        loop.run()
        #expect(try #require(loop.verdict).unconfirmed == [2: .revoked])
    }

    @Test func membersWithHolesAreFoundAllTheSame() throws {
        let members: [UInt32] = [7, 900_000, 4_000_000_000]
        var sender = PushSender(
            group: 1, epoch: 1, transaction: 3, parts: [PushPart(body: [1], members: 0...UInt32.max)],
            members: members, policy: PushPolicy(), activateAt: .zero, deactivateAt: .zero, now: .zero)
        guard case .multicast(let header, let body) = sender.poll(now: .zero) else {
            Issue.record("nothing is sent")
            return
        }
        #expect(body == [1] && header.memberFirst == 7 && header.memberLast == 4_000_000_000)
        #expect(header.feedback.mode == .all && header.feedback.slots > 3)
        for member in members { #expect(sender.isUnconfirmed(member)) }
        sender.confirm(8, now: .zero)
        #expect(sender.unconfirmedCount == 3)
        for member in members { sender.confirm(member, now: .zero + .seconds(1)) }
        guard case .ended(let verdict) = sender.poll(now: .zero + .seconds(1)) else {
            Issue.record("no verdict")
            return
        }
        #expect(verdict.confirmed.map(\.key) == members && verdict.confirmed[member: 900_000] == .seconds(1))
        #expect(verdict.confirmed[member: 8] == nil)
    }
}
