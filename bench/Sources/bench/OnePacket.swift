// SPDX-License-Identifier: Apache-2.0
import Basics
import ReliablePush
import Simulator

/// One leave: one datagram that every member needs.
enum OnePacket {
    static func runs(_ size: Int) -> Int { size > 100_000 ? 8 : 20 }

    static func run() throws -> Report {
        var report = Report(
            note: "one datagram for N members, without cryptography; data and repairs counted, "
                + "BEACONs until the last member is served apart; RTT 600 ms; mean of 20 transactions (of a million members 8) after some to adapt. Limit: the expected "
                + "transmissions if the sender knew at once when to stop (order statistic). Careful: the first to answer "
                + "are so few that an outage of all would not fill the return channel; trusting: as experience says")
        let losses: [(name: String, classes: [(share: Double, loss: Double)], source: Double)] = [
            ("0.1 %", [(1, 0.001)], 0), ("1 %", [(1, 0.01)], 0), ("5 %", [(1, 0.05)], 0), ("20 %", [(1, 0.2)], 0),
            ("the mix", [(0.2, 0.2), (0.8, 0.02)], 0.01),
        ]
        for size in [1_000, 10_000, 100_000, 1_000_000] {
            let parts = try DeliveryWork.leave(size)
            for loss in losses {
                var scenario = scenario(size)
                scenario.classes = loss.classes.map { MemberClass(share: $0.share, loss: .independent($0.loss)) }
                scenario.sourceLoss = .independent(loss.source)
                let limit = DeliveryLimits.transmissions(
                    members: size, classes: loss.classes, sourceLoss: loss.source)
                let isMix = loss.classes.count > 1
                let isGoal = isMix && size == 1_000_000
                add(scenario, parts, "N=\(size) \(loss.name)", limit, isGoal: isGoal, to: &report)
                guard isMix, size >= 100_000 else { continue }
                scenario.policy.trustsExperience = true
                add(scenario, parts, "N=\(size) \(loss.name), trusting", limit, isGoal: isGoal, to: &report)
            }
        }
        return report
    }

    static func scenario(_ size: Int) -> DeliveryScenario {
        var scenario = DeliveryScenario()
        scenario.members = size
        scenario.policy.controlRate = 256_000
        scenario.policy.returnRate = 256_000
        scenario.policy.feedback = .none
        scenario.policy.confirmWithin = .seconds(7_200)
        scenario.keepAlive = .seconds(7_200)
        scenario.returnLoss = 0.01
        return scenario
    }

    private static func add(
        _ scenario: DeliveryScenario, _ parts: [DeliveryPart], _ name: String, _ limit: Double, isGoal: Bool,
        to report: inout Report
    ) {
        let run = DeliveryRun(scenario, seed: 1)
        // A single transaction of a small group tells little of a small loss.
        for _ in 0..<(scenario.members <= 10_000 ? 80 : 8) { _ = run.deliver(parts) }
        let runs = Self.runs(scenario.members)
        let results = (0..<runs).map { _ in run.deliver(parts) }
        let mean = Double(results.reduce(0) { $0 + $1.transmissions }) / Double(runs)
        let times = results.map { $0.lastServedAt ?? .infinity }.sorted()
        let (median, worst) = (times[times.count / 2], times[times.count - 1])
        report.lines.append(
            Line(
                workload: "\(name), transmissions", figure: decimal(mean), peer: decimal(limit),
                ratio: decimal(mean / limit), target: "<= 1.10", isMet: mean <= 1.1 * limit))
        let beacons = results.reduce(0) { $0 + $1.beaconOctets } / runs
        let nacks = Double(results.reduce(0) { $0 + $1.nacks }) / Double(runs)
        let late = times.count { $0 > 1.5 }
        report.lines.append(
            Line(
                workload: "  last member, s", figure: "p50 \(decimal(median)), max \(decimal(worst)), \(late) over 1.5",
                peer: "one way and back, and a way 0.90", ratio: decimal(median / 0.9),
                target: isGoal ? "p50 <= 1.50" : "", isMet: isGoal ? median <= 1.5 : nil))
        report.lines.append(
            Line(
                workload: "  besides: NACKs, BEACON octets", figure: "\(decimal(nacks, 1)), \(beacons)",
                peer: "data \(results.reduce(0) { $0 + $1.transmissionOctets } / runs)", ratio: "", target: ""))
    }
}
