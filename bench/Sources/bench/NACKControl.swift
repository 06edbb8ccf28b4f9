// SPDX-License-Identifier: Apache-2.0
import Basics
import ReliablePush
import Simulator

/// How many NACKs come when R members lost a datagram and none hears another.
enum NACKControl {
    static let warmUp = 3
    static let runs = 10

    static func run() throws -> Report {
        var report = Report(
            note: "R of N members lose all of the first round, nothing else is lost; RTT 600 ms; NACKs until the first "
                + "repair, means of \(runs); with experience: after \(warmUp) such transactions; without: the first after "
                + "\(warmUp) without loss. Peer: RFC 5401's timer, group size known, server's echo heard by all")
        for size in [1_000, 10_000, 100_000, 1_000_000] {
            let parts = try DeliveryWork.leave(size)
            var losers = [1, 5, 50, 1_000, 20_000, 200_000].filter { $0 < size / 5 }
            losers.append(size / 5)
            for count in losers { add(size, count, parts, to: &report) }
        }
        return report
    }

    private static func add(_ size: Int, _ losers: Int, _ parts: [DeliveryPart], to report: inout Report) {
        var random = LoopRandom(seed: 5)
        func peer(_ factor: Double) -> (nacks: Double, seconds: Double) {
            let timer = NACKTimer(factor: factor, groupSize: size)
            let all = (0..<runs).map { _ in timer.run(losers: losers, random: &random) }
            return (
                Double(all.reduce(0) { $0 + $1.nacks }) / Double(runs),
                all.reduce(0) { $0 + $1.seconds } / Double(runs)
            )
        }
        let (four, six) = (peer(4), peer(6))

        var scenario = OnePacket.scenario(size)
        scenario.returnLoss = 0
        scenario.losers = [losers]
        // The number of losers is given, so copies would only cost time.
        scenario.policy.adapts = false
        let run = DeliveryRun(scenario, seed: 1)
        for _ in 0..<warmUp { _ = run.deliver(parts) }
        let results = (0..<runs).map { _ in run.deliver(parts) }
        let nacks = Double(results.reduce(0) { $0 + $1.firstNacks }) / Double(runs)
        let first = results.reduce(0) { $0 + ($1.firstNackAt ?? .nan) } / Double(runs)
        let last = results.reduce(0) { $0 + ($1.lastServedAt ?? .nan) } / Double(runs)

        scenario.losers = Array(repeating: 0, count: warmUp) + [losers]
        let naive = DeliveryRun(scenario, seed: 2)
        for _ in 0..<warmUp { _ = naive.deliver(parts) }
        let surprise = naive.deliver(parts)

        let name = "N=\(size) R=\(losers)"
        report.lines.append(
            Line(
                workload: "\(name), NACKs", figure: decimal(nacks, 1),
                peer: "K=4 \(decimal(four.nacks, 1)), K=6 \(decimal(six.nacks, 1))",
                ratio: decimal(nacks / four.nacks), target: losers >= 5 ? "5 to 40" : "",
                isMet: losers >= 5 ? nacks >= 5 && nacks <= 40 : nil))
        if size == 1_000_000, losers == size / 5 {
            report.lines.append(
                Line(
                    workload: "  at the most losers", figure: decimal(nacks, 1), peer: "K=4 \(decimal(four.nacks, 1))",
                    ratio: decimal(nacks / four.nacks), target: "<= 0.50", isMet: nacks <= 0.5 * four.nacks))
        }
        report.lines.append(
            Line(
                workload: "  first NACK; last member, s", figure: "\(decimal(first)); \(decimal(last))",
                peer: "K=4 \(decimal(four.seconds)), K=6 \(decimal(six.seconds)) and what lies before",
                ratio: "", target: ""))
        // A wait longer than a round trip means that the channel was offered more than it carries.
        report.lines.append(
            Line(
                workload: "  without experience: NACKs, longest wait",
                figure:
                    "\(surprise.firstNacks), \(decimal(surprise.longestWait)) s",
                peer: "budget of the return channel", ratio: "", target: "<= 0.6 s, none dropped",
                isMet: surprise.longestWait <= 0.6 && surprise.droppedAnswers == 0))
    }
}
