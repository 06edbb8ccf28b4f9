// SPDX-License-Identifier: Apache-2.0
import Basics
import ReliablePush
import Simulator

/// Until every member is confirmed or named.
enum ConfirmAll {
    static let rate: UInt64 = 256_000
    /// The share of the members that are dead.
    static let deaf = 0.000_5
    static let modulus: UInt16 = 64

    static func run() throws -> Report {
        var report = Report(
            note:
                "one datagram for N members, \(decimal(deaf * 100)) % of them dead, 256 kbit/s back, loss 1 % down and 0.1 % up, no "
                + "cryptography. Piggy-back: a digest inside dead peer detection's answers, where padding makes it "
                + "free; those go anyway, once a member and interval, and have three quarters of the channel")
        for size in [10_000, 100_000, 1_000_000] {
            let parts = try DeliveryWork.leave(size)
            let explicit = measure(size, parts, .all, keepAlive: nil)
            let limit = DeliveryLimits.answering(members: size, octets: DeliverySizes.status, rate: Int(rate))
            report.lines.append(
                Line(
                    workload: "N=\(size) explicit, last confirmed, s", figure: decimal(explicit.lastConfirmedAt, 1),
                    peer: "N x \(DeliverySizes.status) octets / rate \(decimal(limit, 1))",
                    ratio: decimal(explicit.lastConfirmedAt / limit, 3), target: "<= 1.05",
                    isMet: explicit.lastConfirmedAt <= 1.05 * limit))
            report.lines.append(accounts(explicit))
            // What dead peer detection takes fits three quarters of the channel.
            let seconds = Double(size * DeliverySizes.probe * 8) / (0.75 * Double(rate))
            let interval = Duration.seconds(max(Int64(seconds.rounded(.up)), 30))
            let cheap = measure(size, parts, .census(modulus), keepAlive: interval)
            report.lines.append(
                Line(
                    workload: "  census 1/\(modulus) and piggy-back, octets", figure: "\(cheap.feedbackOctets)",
                    peer: "explicit \(explicit.feedbackOctets)",
                    ratio: decimal(Double(cheap.feedbackOctets) / Double(explicit.feedbackOctets), 3),
                    target: "<= 0.10", isMet: cheap.feedbackOctets * 10 <= explicit.feedbackOctets))
            report.lines.append(
                Line(
                    workload: "  last confirmed, s (\(cheap.confirmedByKeepAlive) by piggy-back)",
                    figure: decimal(cheap.lastConfirmedAt, 1), peer: "dead peer detection every \(interval)",
                    ratio: decimal(cheap.lastConfirmedAt / interval.inSeconds, 3), target: ""))
            report.lines.append(accounts(cheap))
        }
        return report
    }

    private static func measure(
        _ size: Int, _ parts: [DeliveryPart], _ feedback: FeedbackPolicy, keepAlive: Duration?
    ) -> DeliveryResult {
        var scenario = OnePacket.scenario(size)
        scenario.classes = [MemberClass(share: 1, loss: .independent(0.01))]
        scenario.deaf = deaf
        scenario.returnLoss = 0.001
        scenario.policy.feedback = feedback
        scenario.policy.returnRate = keepAlive == nil ? rate : rate / 4
        scenario.keepAlive = keepAlive
        scenario.policy.confirmWithin = (keepAlive ?? .seconds(30)) + .seconds(30)
        let run = DeliveryRun(scenario, seed: 1)
        // The first one teaches the sender the loss.
        _ = run.deliver(parts)
        return run.deliver(parts)
    }

    private static func accounts(_ result: DeliveryResult) -> Line {
        let all = result.members + result.deaf
        return Line(
            workload: "  confirmed + named, verdict after \(decimal(result.verdictAt, 1)) s",
            figure: "\(result.confirmed) + \(result.named)", peer: "\(all), of them dead \(result.deaf)",
            ratio: decimal(Double(result.confirmed + result.named) / Double(all), 4),
            target: "= 1, the dead named",
            isMet: result.isAccounted && result.named >= result.deaf)
    }
}
