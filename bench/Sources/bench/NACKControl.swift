// SPDX-License-Identifier: Apache-2.0
import Basics
import ReliablePush
import Simulator

/// How many NACKs come when members lost a datagram and none hears another.
enum NACKControl {
    static let warmUp = 10
    static let runs = 5
    /// A wait of this length for the return channel, in seconds, is a round trip: more was offered than it carries.
    static let longestWait = 0.6

    static func run() throws -> Report {
        var report = Report(
            note:
                "NACKs until the first repair, members deaf to each other, RTT 600 ms, 256 kbit/s back. Experience: after "
                + "\(warmUp) transactions at that loss, mean of \(runs). Surprise: after \(warmUp) without loss, R "
                + "members lose all that the first round sends. None: the same in a group's first transaction. "
                + "Trusting: a surprise where the operator chose speed. Peer: "
                + "RFC 5401's timer, group size known, the server's echo heard by all")
        for size in [1_000, 10_000, 100_000, 1_000_000] {
            let parts = try DeliveryWork.leave(size)
            for loss in size < 1_000_000 ? [0.05, 0.2, 0.4, 0.5, 0.6] : [0.2, 0.6] {
                addExperience(size, loss, parts, to: &report)
            }
            var losers = [1, 5, 50, 1_000, 20_000].filter { $0 < size / 5 }
            losers += [size / 5]
            // All: an outage at the source.
            losers += [size]
            for count in losers {
                addSurprise(size, count, parts, history: warmUp, to: &report)
                addSurprise(size, count, parts, history: 0, to: &report)
            }
            addSurprise(size, size / 5, parts, history: warmUp, isTrusting: true, to: &report)
        }
        return report
    }

    private static func peer(_ factor: Double, _ size: Int, _ losers: Int) -> (nacks: Double, seconds: Double) {
        var random = LoopRandom(seed: 5)
        let timer = NACKTimer(factor: factor, groupSize: size)
        let all = (0..<runs).map { _ in timer.run(losers: losers, random: &random) }
        return (
            Double(all.reduce(0) { $0 + $1.nacks }) / Double(runs), all.reduce(0) { $0 + $1.seconds } / Double(runs)
        )
    }

    private static func addExperience(_ size: Int, _ loss: Double, _ parts: [DeliveryPart], to report: inout Report) {
        var scenario = OnePacket.scenario(size)
        scenario.classes = [MemberClass(share: 1, loss: .independent(loss))]
        scenario.policy.trustsExperience = true
        let run = DeliveryRun(scenario, seed: 1)
        for _ in 0..<warmUp { _ = run.deliver(parts) }
        let results = (0..<runs).map { _ in run.deliver(parts) }
        func mean(_ value: (DeliveryResult) -> Int) -> Double {
            Double(results.reduce(0) { $0 + value($1) }) / Double(runs)
        }
        let losers = mean { $0.members - ($0.servedByRound.first ?? 0) }
        let nacks = mean(\.firstNacks)
        let wait = results.map(\.longestWait).max() ?? 0
        let (four, six) = (peer(4, size, Int(losers.rounded())), peer(6, size, Int(losers.rounded())))
        report.lines.append(
            Line(
                workload: "N=\(size) experience of \(decimal(loss * 100, 0)) %, R=\(decimal(losers, 1))",
                figure: "\(decimal(nacks, 1)), wait \(decimal(wait)) s",
                peer: "K=4 \(decimal(four.nacks, 1)), K=6 \(decimal(six.nacks, 1))",
                ratio: decimal(nacks / four.nacks), target: losers >= 5 ? "5 to 40" : "<= 40",
                isMet: (losers < 5 || nacks >= 5) && nacks <= 40))
    }

    private static func addSurprise(
        _ size: Int, _ losers: Int, _ parts: [DeliveryPart], history: Int, isTrusting: Bool = false,
        to report: inout Report
    ) {
        var scenario = OnePacket.scenario(size)
        scenario.returnLoss = 0
        scenario.policy.trustsExperience = isTrusting
        scenario.losers = Array(repeating: 0, count: history) + [losers]
        let run = DeliveryRun(scenario, seed: 2)
        for _ in 0..<history { _ = run.deliver(parts) }
        let result = run.deliver(parts)
        let (four, six) = (peer(4, size, losers), peer(6, size, losers))
        let isGoal = history == 0 && size == 1_000_000 && losers == size / 5
        let isQuiet = result.longestWait <= longestWait && result.droppedAnswers == 0
        report.lines.append(
            Line(
                workload: "N=\(size) \(isTrusting ? "trusting" : history > 0 ? "surprise" : "none"), R=\(losers)",
                figure: "\(result.firstNacks), wait \(decimal(result.longestWait)) s",
                peer: "K=4 \(decimal(four.nacks, 1)), K=6 \(decimal(six.nacks, 1))",
                ratio: decimal(Double(result.firstNacks) / four.nacks),
                target: isTrusting ? "" : isGoal ? "wait <= \(longestWait), <= 0.50x" : "wait <= \(longestWait)",
                isMet: isTrusting ? nil : isQuiet && (!isGoal || Double(result.firstNacks) <= 0.5 * four.nacks)))
        report.lines.append(
            Line(
                workload: "  first NACK; last member, s",
                figure: "\(result.firstNackAt.map { decimal($0) } ?? "-"); "
                    + "\(result.lastServedAt.map { decimal($0) } ?? "-")",
                peer: "K=4 \(decimal(four.seconds)), K=6 \(decimal(six.seconds)) and what lies before", ratio: "",
                target: ""))
    }
}
