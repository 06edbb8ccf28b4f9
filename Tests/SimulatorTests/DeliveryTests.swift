// SPDX-License-Identifier: Apache-2.0
import Basics
import Cryptography
import FMKE
import ReliablePush
import Simulator
import Testing

@Suite struct DeliveryTests {
    static func scenario(_ feedback: FeedbackPolicy, members: Int = 500) -> DeliveryScenario {
        var scenario = DeliveryScenario()
        scenario.members = members
        scenario.usePublishedLoss()
        scenario.returnLoss = 0.01
        scenario.deaf = 0.01
        scenario.policy.feedback = feedback
        if feedback != .all {
            scenario.keepAlive = .seconds(60)
            scenario.policy.confirmWithin = .seconds(90)
        }
        return scenario
    }

    /// All members, spread evenly over so many datagrams.
    static func parts(_ count: Int, members: Int = 500) -> [DeliveryPart] {
        (0..<count).map { number in
            DeliveryPart(
                octets: 400, members: UInt32(members * number / count)...UInt32(members * (number + 1) / count - 1))
        }
    }

    @Test(arguments: [FeedbackPolicy.all, .census(8), .none], [1, 12])
    func everybodyIsConfirmedOrNamed(feedback: FeedbackPolicy, count: Int) {
        let run = DeliveryRun(Self.scenario(feedback), seed: 1)
        for _ in 0..<3 {
            let result = run.deliver(Self.parts(count))
            #expect(result.isAccounted)
            #expect(result.members == 495 && result.deaf == 5)
            // The deaf cannot be confirmed; hardly anybody else is lost.
            #expect(result.named >= 5 && result.named <= 8)
            #expect(result.lastServedAt != nil)
        }
    }

    @Test func theSameSeedGivesTheSame() {
        func results(_ seed: UInt64) -> [DeliveryResult] {
            let run = DeliveryRun(Self.scenario(.census(8)), seed: seed)
            return (0..<3).map { _ in run.deliver(Self.parts(5)) }
        }
        #expect(results(7) == results(7))
        #expect(results(7) != results(8))
    }

    /// Answers never pile up before the return channel: at most about what a few members say out of turn.
    @Test(arguments: [FeedbackPolicy.all, .census(8), .none])
    func answersStayWithinTheReturnChannel(feedback: FeedbackPolicy) {
        var scenario = Self.scenario(feedback, members: 1_000)
        scenario.policy.returnRate = 32_000
        let run = DeliveryRun(scenario, seed: 3)
        for _ in 0..<3 {
            let result = run.deliver(Self.parts(3, members: 1_000))
            #expect(result.droppedAnswers == 0)
            #expect(result.longestWait < 1)
        }
    }

    /// With loss that is known, nearly everybody has the keys after the first round.
    @Test func theFirstRoundServesNearlyAllAfterSomeExperience() {
        var scenario = Self.scenario(.none, members: 2_000)
        scenario.deaf = 0
        let run = DeliveryRun(scenario, seed: 5)
        let results = (0..<12).map { _ in run.deliver(Self.parts(16, members: 2_000)) }
        let share = results.suffix(6).reduce(0) { $0 + $1.servedInRoundOne } / 6
        #expect(share >= 0.995)
    }

    @Test func nobodyLosesAnythingOnPerfectLinks() {
        var scenario = DeliveryScenario()
        scenario.members = 100
        let result = DeliveryRun(scenario, seed: 1).deliver(Self.parts(4, members: 100))
        #expect(result.confirmed == 100 && result.named == 0 && result.nacks == 0)
        #expect(result.servedInRoundOne == 1 && result.rounds == 1 && result.unicasts == 0)
    }

    /// Long-run shares, and that neighbours in a burst share their fate.
    @Test(arguments: [DeliveryLoss.independent(0.2), .bursts(share: 0.2, mean: .milliseconds(50))])
    func lossesComeAsOftenAsSaid(loss: DeliveryLoss) {
        var field = LossField(
            members: 200, source: .independent(0), classes: [MemberClass(share: 1, loss: loss)],
            random: LoopRandom(seed: 1))
        var (lost, both) = (0, 0)
        var before = [Bool](repeating: false, count: 200)
        for number in 0..<2_000 {
            let isSent = field.begin(at: .zero + .milliseconds(10 * number))
            #expect(isSent)
            for member in 0..<200 {
                let isLost = field.loses(member)
                if isLost { lost += 1 }
                if isLost, before[member] { both += 1 }
                before[member] = isLost
            }
        }
        #expect(abs(Double(lost) / 400_000 - 0.2) < 0.01)
        let again = Double(both) / Double(lost)
        // exp(-10 / 40) of the difference to the mean is left after 10 ms.
        #expect(abs(again - (loss == .independent(0.2) ? 0.2 : 0.823)) < 0.02)
    }

    @Test func classesHaveTheirShares() {
        let field = LossField(
            members: 1_000, source: .independent(0),
            classes: [
                MemberClass(share: 0.2, loss: .independent(0.2)), MemberClass(share: 0.8, loss: .independent(0.02)),
            ], random: LoopRandom(seed: 1))
        #expect((0..<1_000).count { field.share(of: $0) == 0.2 } == 200)
    }
}
