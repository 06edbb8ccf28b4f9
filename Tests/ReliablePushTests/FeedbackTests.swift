// SPDX-License-Identifier: Apache-2.0
import Basics
import FMKE

import Testing

@testable import ReliablePush

@Suite struct FeedbackTests {
    /// So many members lack the first transmission, those with the lowest indices (all hear the polls).
    private func losing(_ losers: Int, of members: Int, known: Bool = false, seed: UInt64 = 1) -> Loop {
        var options = Loop.Options(members: members, seed: seed)
        options.policy.feedback = .none
        options.policy.returnRate = 256_000
        options.policy.confirmWithin = .seconds(30)
        (options.policy.adapts, options.policy.trustsExperience) = (false, known)
        if known { options.experience.learn(losers: Double(losers), dataCount: 1, extra: 1, members: members) }
        let loop = Loop(options)
        loop.interceptor = { header, member in
            header.kind != .beacon && header.feedback.round == 0 && member < UInt32(losers)
        }
        return loop
    }

    @Test(arguments: [1, 5, 40, 200, 1_000])
    func fewNACKsRepairManyLosers(losers: Int) throws {
        let loop = losing(losers, of: 2_000)
        loop.run(until: .zero + .seconds(20))
        #expect(loop.servedAt.count == 2_000)
        #expect(loop.nacks <= 60, "\(loop.nacks) NACKs of \(losers) losers")
        #expect(loop.nacks > 0)
        #expect(loop.datagrams.filter { $0.feedback.round > 0 }.count <= 8)
    }

    @Test(arguments: [5, 40, 200])
    func experienceFindsTheRightShareAtOnce(losers: Int) throws {
        let loop = losing(losers, of: 2_000, known: true)
        loop.run(until: .zero + .seconds(20))
        #expect(loop.servedAt.count == 2_000)
        #expect((5...40).contains(loop.nacks), "\(loop.nacks) NACKs of \(losers) losers")
        let last = try #require(loop.servedAt.values.max())
        #expect(last < .zero + .milliseconds(2_500), "\(last)")
    }

    /// Experience of a clean channel, and then an outage takes everything from everybody: no flood of NACKs.
    @Test func anOutageAfterCleanTransactionsFloodsNobody() throws {
        var options = Loop.Options(members: 3_000)
        options.policy.feedback = .none
        options.policy.returnRate = 256_000
        for _ in 0..<10 { options.experience.learn(losers: 0, dataCount: 1, extra: 1, members: 3_000) }
        let loop = Loop(options)
        loop.interceptor = { header, _ in header.kind != .beacon && header.feedback.round == 0 }
        loop.run(until: .zero + .seconds(10))
        #expect(loop.servedAt.count == 3_000)
        // What 256 kbit/s carry in a round trip, and by chance some more.
        #expect(loop.nacks <= 180 && loop.nacks > 60, "\(loop.nacks) NACKs")
    }

    /// The most answers within a round trip.
    private func crowd(_ loop: Loop) -> Int {
        let times = loop.reports.map(\.at).sorted()
        var (first, most) = (0, 0)
        for (index, time) in times.enumerated() {
            while time - times[first] > loop.options.policy.roundTrip { first += 1 }
            most = max(most, index - first + 1)
        }
        return most
    }

    /// Experience of a clean channel, and then some members lose the transmission: by chance none of the few that are
    /// asked first is among them, and that does not prove that there are none.
    @Test(arguments: [UInt64](1...8)) func silenceOfAFewDoesNotOpenTheFloodgates(seed: UInt64) throws {
        var options = Loop.Options(members: 2_000, seed: seed)
        options.policy.feedback = .none
        for _ in 0..<10 { options.experience.learn(losers: 0, dataCount: 1, extra: 1, members: 2_000) }
        let loop = Loop(options)
        loop.interceptor = { header, member in
            header.kind != .beacon && header.feedback.round == 0 && member % 20 == 0
        }
        loop.run(until: .zero + .seconds(12))
        #expect(loop.servedAt.count == 2_000)
        // 64 kbit/s carry 31 answers in a round trip.
        #expect(crowd(loop) <= 31, "\(crowd(loop)) answers")
    }

    /// The repair is lost for all as well: those who lack it do not answer all at once.
    @Test(arguments: [UInt64](1...4)) func aFailedRepairFloodsNobody(seed: UInt64) throws {
        var options = Loop.Options(members: 1_500, seed: seed)
        options.policy.feedback = .none
        let loop = Loop(options)
        loop.interceptor = { header, member in
            header.kind != .beacon && header.feedback.round <= 1 && member % 3 == 0
        }
        loop.run(until: .zero + .seconds(15))
        #expect(loop.servedAt.count == 1_500)
        #expect(crowd(loop) <= 42, "\(crowd(loop)) answers")
    }

    /// In no second more answers than the return channel carries, whatever happens to the members.
    @Test(arguments: [FeedbackPolicy.all, .census(8), .none], [0.0, 0.05, 0.3])
    func answersStayWithinTheBudget(feedback: FeedbackPolicy, loss: Double) throws {
        var options = Loop.Options(members: 600, loss: loss, returnLoss: loss)
        options.policy.feedback = feedback
        options.policy.confirmWithin = .seconds(20)
        let loop = Loop(options)
        loop.run(until: .zero + .seconds(60))
        let times = loop.reports.map(\.at).sorted()
        let perSecond = 1 / options.policy.slot.inSeconds
        // Slots may take all of it; NACKs come on top, so many a round, and a round lasts more than half a second.
        let most = Int(perSecond.rounded(.up)) + 2 * options.policy.nackTarget
        var first = 0
        for (index, time) in times.enumerated() {
            while time - times[first] >= .seconds(1) { first += 1 }
            #expect(index - first + 1 <= most, "\(index - first + 1) answers in one second, \(most) are allowed")
            if index - first + 1 > most { return }
        }
    }

    /// Who lets its slot pass in silence is served while those of others run, wherever the slots begin.
    @Test(arguments: [UInt64](1...3)) func theSilentAreServedWhileSlotsRun(seed: UInt64) throws {
        var options = Loop.Options(members: 600, seed: seed)
        options.policy.roundTrip = .milliseconds(600)
        let loop = Loop(options)
        let silent: Set<UInt32> = [0, 31, 250, 599]
        // Nothing but their profile reaches them.
        loop.interceptor = { _, member in silent.contains(member) }
        loop.run()
        let verdict = try #require(loop.verdict)
        #expect(verdict.isComplete && verdict.unicasts == 4 && Set(loop.unicasts.flatMap(\.members)) == silent)
        // 600 slots of 19 ms; only the last one's slot leaves no time.
        for member in [0, 31, 250] as [UInt32] {
            let took = try #require(verdict.confirmed[member: member])
            let slot = options.policy.slot * Int(member)
            #expect(took > slot && took < slot + .seconds(5), "\(member) after \(took)")
        }
        #expect(verdict.duration < options.policy.slot * 600 + .seconds(4))
        #expect(crowd(loop) <= 31 + 1)
    }

    /// When a quarter of all is silent nobody is served alone: all are asked again.
    @Test func manySilentOnesAreAskedAgain() throws {
        let loop = Loop(.init(members: 400))
        loop.interceptor = { header, member in header.feedback.round == 0 && member % 2 == 0 }
        loop.run()
        let verdict = try #require(loop.verdict)
        #expect(verdict.isComplete && verdict.unicasts == 0)
    }

    /// A new round takes back the NACKs of those that have not spoken yet.
    @Test func aNewRoundSuppressesTheRest() throws {
        var receiver = PushReceiver(memberIndex: 3, complete: 4, seed: 9)
        let poll = { (round: UInt8, share: UInt16) in
            TransactionHeader(
                kind: .beacon, group: 1, epoch: 1, transaction: 5,
                feedback: FeedbackRequest(
                    mode: .none, round: round, answerInMilliseconds: 100, nackWaitMilliseconds: 1_000,
                    nackShare: share),
                activateInMilliseconds: 0, deactivateInMilliseconds: 0)
        }
        _ = receiver.receive(poll(0, .max), body: [], now: .zero)
        let due = try #require(receiver.due)
        #expect(due >= .zero + .milliseconds(100) && due < .zero + .milliseconds(1_100))
        // The same round again changes nothing, the next one lets it be silent.
        _ = receiver.receive(poll(0, .max), body: [], now: .zero + .milliseconds(20))
        #expect(receiver.due == due)
        _ = receiver.receive(poll(1, 0), body: [], now: .zero + .milliseconds(50))
        #expect(receiver.due == nil)
        _ = receiver.receive(poll(2, .max), body: [], now: .zero + .milliseconds(60))
        let again = try #require(receiver.due)
        #expect(receiver.poll(now: again) == .report)
        #expect(receiver.missing == [.init(transaction: 5, block: 0, needed: 1)])
        // Nothing comes of it: it asks again, later and later.
        let next = try #require(receiver.due)
        #expect(next - again >= .seconds(4))
        receiver.completed(5)
        #expect(receiver.due == nil && receiver.missing == [])
    }

    /// After as many transactions as there are classes each member was asked once, in a slot of its own.
    @Test func aCensusAsksEverybodyInTurn() throws {
        var asked: [UInt32: Int] = [:]
        for transaction in 1...8 as ClosedRange<UInt64> {
            var options = Loop.Options(members: 100, transaction: transaction)
            options.policy.feedback = .census(8)
            let loop = Loop(options)
            loop.run(until: .zero + .seconds(10))
            for report in loop.reports { asked[report.member, default: 0] += 1 }
            let times = loop.reports.map(\.at).sorted()
            for (one, next) in zip(times, times.dropFirst()) { #expect(next - one >= options.policy.slot) }
            #expect(loop.verdict == nil)
            loop.everybodyReports()
            loop.run()
            #expect(try #require(loop.verdict).isComplete)
        }
        #expect(asked.count == 100 && asked.values.allSatisfy { $0 == 1 })
    }

    /// Nobody is asked; who says nothing in time gets unicast, the deaf one is named.
    @Test func withoutQuestionsTheSilentAreServedByUnicastInTheEnd() throws {
        var options = Loop.Options(members: 40)
        options.policy.feedback = .none
        options.policy.confirmWithin = .seconds(10)
        let loop = Loop(options)
        loop.deaf = [17]
        loop.run(until: .zero + .seconds(9))
        #expect(loop.reports.isEmpty && loop.unicasts.isEmpty && loop.servedAt.count == 39)
        for member in 0..<30 as Range<UInt32> where member != 17 { loop.sender.confirm(member, now: loop.now) }
        loop.run()
        let verdict = try #require(loop.verdict)
        #expect(verdict.unconfirmed == [17: .silent] && verdict.confirmed.count == 39 && verdict.unicasts >= 11)
    }

    /// A member wakes up when the rounds are over: its NACK still brings a repair, by multicast.
    @Test func aLateNACKIsRepaired() throws {
        var options = Loop.Options(members: 50)
        options.policy.feedback = .none
        let loop = Loop(options)
        loop.deaf = [5]
        loop.run(until: .zero + .seconds(30))
        let before = loop.datagrams.count
        loop.deaf = []
        loop.sender.negativeAcknowledgement(from: 5, needed: 1, block: 0, now: loop.now)
        loop.run(until: .zero + .seconds(33))
        #expect(loop.datagrams.count > before && loop.servedAt[5] != nil)
        #expect(loop.datagrams.last?.memberFirst == 0)
    }

    /// Few that lack something are repaired by unicast when the policy says so.
    @Test func fewAreRepairedByUnicastEarly() throws {
        var options = Loop.Options(members: 60)
        options.policy.unicastBelow = 3
        let loop = Loop(options)
        loop.interceptor = { header, member in header.kind != .beacon && (member == 1 || member == 2) }
        loop.run()
        let verdict = try #require(loop.verdict)
        #expect(verdict.isComplete && verdict.unicasts == 2 && verdict.rounds == 1)
        #expect(verdict.duration < .seconds(4))
    }

    /// What was answered once is not answered again in the same round, but in the next.
    @Test func eachRoundIsAnsweredOnceInItsSlot() throws {
        var receiver = PushReceiver(memberIndex: 7, complete: 4, seed: 1)
        func header(_ round: UInt8, answerIn: UInt32) -> TransactionHeader {
            TransactionHeader(
                kind: .data, group: 1, epoch: 1, transaction: 5, memberFirst: 2, memberLast: 9,
                feedback: FeedbackRequest(
                    mode: .all, round: round, answerInMilliseconds: answerIn, slotMicroseconds: 1_500, slots: 8),
                activateInMilliseconds: 0, deactivateInMilliseconds: 0)
        }
        guard case .bodies(5, [[1, 2]]) = receiver.receive(header(0, answerIn: 40), body: [1, 2], now: .zero) else {
            Issue.record("no body")
            return
        }
        receiver.completed(5)
        #expect(receiver.due == .zero + .microseconds(40_000 + 7 * 1_500))
        _ = receiver.receive(header(0, answerIn: 10), body: [1, 2], now: .zero + .milliseconds(30))
        #expect(receiver.due == .zero + .microseconds(50_500))
        #expect(receiver.poll(now: .zero + .microseconds(50_500)) == .report)
        #expect(receiver.due == nil)
        _ = receiver.receive(header(0, answerIn: 0), body: [1, 2], now: .zero + .seconds(1))
        #expect(receiver.due == nil)
        _ = receiver.receive(header(1, answerIn: 0), body: [1, 2], now: .zero + .seconds(1))
        #expect(receiver.due == .zero + .seconds(1) + .microseconds(10_500))
    }

    /// Who asked confirms when it has what it lacks: not at datagrams that do not serve it, nor, served by unicast
    /// meanwhile, at those of the next transaction.
    @Test func whoAskedSaysNothingAtWhatDoesNotServeIt() throws {
        var receiver = PushReceiver(memberIndex: 3, complete: 4, seed: 9)
        func data(_ transaction: UInt64, _ index: UInt8, round: UInt8) -> TransactionHeader {
            TransactionHeader(
                kind: .data, group: 1, epoch: 1, transaction: transaction, index: index, dataCount: 9,
                feedback: FeedbackRequest(
                    mode: .none, round: round, answerInMilliseconds: 10_000, nackWaitMilliseconds: 100,
                    nackShare: .max),
                activateInMilliseconds: 0, deactivateInMilliseconds: 0)
        }
        _ = receiver.receive(data(5, 0, round: 0), body: [1], now: .zero)
        var now = try #require(receiver.due)
        #expect(receiver.poll(now: now) == .report)
        // Two datagrams of a repair that do not serve it.
        for index in [1, 2] as [UInt8] {
            _ = receiver.receive(data(5, index, round: 1), body: [1], now: now)
            now = now + .milliseconds(200)
            #expect(receiver.poll(now: now) != .report)
        }
        // Its own: it says so.
        _ = receiver.receive(data(5, 3, round: 1), body: [2], now: now)
        receiver.completed(5)
        #expect(receiver.poll(now: now + .milliseconds(100)) == .report && receiver.due == nil)

        _ = receiver.receive(data(6, 0, round: 0), body: [1], now: now)
        now = try #require(receiver.due)
        #expect(receiver.poll(now: now) == .report)
        // Its profile comes, and then the next transaction.
        receiver.reset(memberIndex: 3, complete: 6)
        _ = receiver.receive(data(7, 0, round: 0), body: [1], now: now)
        #expect(try #require(receiver.due) >= now + .seconds(10))
    }

    @Test func aReceiverIsSmall() {
        #expect(MemoryLayout<PushReceiver>.size <= 160, "\(MemoryLayout<PushReceiver>.size) octets")
    }
}
