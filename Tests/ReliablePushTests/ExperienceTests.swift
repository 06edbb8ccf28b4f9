// SPDX-License-Identifier: Apache-2.0
import Basics
import Glibc
import Testing

@testable import ReliablePush

@Suite struct ExperienceTests {
    /// Members that lose each datagram with this probability: who lacks theirs after round 0.
    private func losers(
        members: Int, k: Int, extra: Int, loss: Double, random: SeededRandom
    ) -> Int {
        (0..<members).count { _ in
            guard random.unit() < loss else { return false }
            var held = 0
            for _ in 0..<k + extra - 1 where random.unit() >= loss { held += 1 }
            return held < k
        }
    }

    /// The amount sent at first settles where about one member is missing, for one datagram and for blocks.
    @Test(arguments: [0.001, 0.05, 0.2], [1, 10, 50])
    func itConverges(loss: Double, k: Int) {
        let (random, policy, members) = (SeededRandom(seed: 5), PushPolicy(), 1_000)
        var experience = PushExperience()
        var missed: [Int] = []
        var extras: [Int] = []
        for _ in 0..<80 {
            let extra = experience.extra(dataCount: k, members: members, policy: policy)
            let count = losers(members: members, k: k, extra: extra, loss: loss, random: random)
            experience.learn(losers: Double(count), dataCount: k, extra: extra, members: members)
            missed.append(count)
            extras.append(extra)
        }
        let settled = missed.suffix(40)
        let mean = Double(settled.reduce(0, +)) / Double(settled.count)
        #expect(mean <= 2.5, "\(mean) members miss round 0 on average: \(missed)")
        // No waste: with two less, more than a few would miss it.
        let typical = extras.suffix(40).sorted()[20]
        if typical >= 2 {
            let without = (0..<20).reduce(0) { sum, _ in
                sum + losers(members: members, k: k, extra: typical - (k == 1 ? 1 : 3), loss: loss, random: random)
            }
            #expect(without > 20, "\(extras)")
        }
        // Fast up: what lost at first is mended within a few transactions.
        #expect(missed[6..<12].allSatisfy { $0 <= 20 }, "\(missed)")
    }

    @Test func itFallsSlowlyWhenTheLossIsGone() {
        var experience = PushExperience()
        experience.learn(losers: 100, dataCount: 1, extra: 0, members: 1_000)
        let policy = PushPolicy()
        var extras: [Int] = []
        for _ in 0..<60 {
            extras.append(experience.extra(dataCount: 1, members: 1_000, policy: policy))
            experience.learn(losers: 0, dataCount: 1, extra: extras[extras.count - 1], members: 1_000)
        }
        #expect(extras[0] == 2)
        for (one, next) in zip(extras, extras.dropFirst()) { #expect(next <= one && one - next <= 1) }
        #expect(extras[59] <= 1 && extras[2] == extras[0])
    }

    /// Of a single datagram hardly a copy is sent that nobody needs, in groups of any size: all transmissions until
    /// everybody has it are at most a tenth more than if the sender knew when to stop.
    @Test(arguments: [0.001, 0.01, 0.05, 0.2], [100, 1_000, 10_000, 1_000_000])
    func fewCopiesAreInVain(loss: Double, members: Int) {
        var (needed, lacking) = (0.0, [Double(members)])
        for _ in 0..<60 {
            needed += -expm1(-(lacking.last ?? 0))
            lacking.append((lacking.last ?? 0) * loss)
        }
        let copies = PushExperience.copies(losers: Double(members), members: Double(members), loss: loss)
        let inVain = lacking.prefix(copies).reduce(0) { $0 + exp(-$1) }
        #expect(inVain <= 0.1 * needed, "\(copies) copies, \(inVain) in vain, \(needed) needed")
        // One more would be too many, and so few lack it that hardly more NACKs come than are wanted.
        #expect(lacking[copies] < 5, "\(copies) copies leave \(lacking[copies])")
    }

    /// One of those who lack something answers a question of one in a hundred: not a hundred lack it because of that.
    @Test func oneAnswerOfAFewIsNoSurprise() {
        var experience = PushExperience()
        for _ in 0..<20 { experience.learn(losers: 1, dataCount: 1, extra: 3, members: 10_000) }
        let before = experience.extra(dataCount: 1, members: 10_000, policy: PushPolicy())
        experience.learn(losers: 100, share: 0.01, dataCount: 1, extra: 3, members: 10_000)
        #expect(experience.extra(dataCount: 1, members: 10_000, policy: PushPolicy()) == before)
        // Four of them do prove it.
        experience.learn(losers: 400, share: 0.01, dataCount: 1, extra: 3, members: 10_000)
        #expect(experience.extra(dataCount: 1, members: 10_000, policy: PushPolicy()) > before)
    }

    /// One failure of the transmission as a whole is no reason to send ten copies from then on.
    @Test func anOutageRaisesItByOneOnly() {
        var experience = PushExperience()
        for _ in 0..<5 { experience.learn(losers: 1, dataCount: 1, extra: 1, members: 1_000) }
        let before = experience.extra(dataCount: 1, members: 1_000, policy: PushPolicy())
        experience.learn(losers: 1_000, dataCount: 1, extra: before, members: 1_000)
        #expect(experience.extra(dataCount: 1, members: 1_000, policy: PushPolicy()) == before + 1)
    }

    @Test func theConfigurationIsWhatItBeginsWithAndTheOnlyThingWithoutAdaptation() {
        var policy = PushPolicy()
        (policy.copies, policy.proactive) = (4, 1.5)
        #expect(PushExperience().extra(dataCount: 1, members: 10, policy: policy) == 3)
        #expect(PushExperience().extra(dataCount: 20, members: 10, policy: policy) == 10)
        policy.adapts = false
        var experience = PushExperience()
        experience.learn(losers: 9, dataCount: 1, extra: 0, members: 20)
        #expect(experience.extra(dataCount: 1, members: 10, policy: policy) == 3)
        policy.proactive = 40
        #expect(experience.extra(dataCount: 100, members: 10, policy: policy) == 154)
    }

    @Test func numbersAtTheEdgesDoNotTrap() {
        for k in [1, 2, 128, 253, 254] {
            for members in [0, 1, 1_000_000_000] {
                var experience = PushExperience()
                for losers in [0.0, 1, 1e9, 1e300] {
                    experience.learn(losers: losers, dataCount: k, extra: 254 - k, members: members)
                    let extra = experience.extra(dataCount: k, members: members, policy: PushPolicy())
                    #expect(extra >= 0 && k + extra <= 254)
                }
            }
        }
        #expect(PushExperience.repair(needed: 254, losers: 1e9, loss: 0.9) == 254)
        #expect(PushExperience.repair(needed: 1, losers: 1, loss: 0.01) == 1)
    }

    /// Through the whole of it: sender, receivers and channel, one transaction after the other.
    @Test(arguments: [0.001, 0.05, 0.2]) func transactionsTeachTheNextOne(loss: Double) throws {
        var experience = PushExperience()
        var late: [Int] = []
        for transaction in 1...30 as ClosedRange<UInt64> {
            var options = Loop.Options(
                members: 200, experience: experience, loss: loss, seed: transaction, transaction: transaction)
            options.policy.confirmWithin = .seconds(15)
            options.policy.feedback = .none
            let loop = Loop(options)
            loop.run(until: .zero + .seconds(14))
            let end = try #require(loop.datagrams.isEmpty ? nil : loop.sent.first?.at) + .milliseconds(550)
            late.append(200 - loop.servedAt.values.count { $0 <= end })
            experience = loop.sender.experience
            #expect(loop.servedAt.count == 200, "transaction \(transaction)")
        }
        let mean = Double(late.suffix(20).reduce(0, +)) / 20
        #expect(mean <= 4, "\(late)")
        #expect(experience.transactions == 30)
    }
}
