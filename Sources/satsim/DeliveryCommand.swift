// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Basics
internal import ReliablePush
internal import Simulator

/// The reliable delivery of transactions to a large group, as a table.
struct DeliveryCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "delivery", abstract: "Delivers transactions to a large group in virtual time.",
        discussion: """
            The real sender and receivers of phase 3, without cryptography: one multicast is one event, so a million \
            members are possible. One line for each transaction; what one teaches the sender serves the next. The same \
            seed gives the same table.

            Loss: "mix" for the published experiment (20 % of the members lose 20 %, the others 2 %, the source 1 %), \
            a number of percent for all members alike ("5"), or classes of members, a share and a loss in percent each \
            ("20:20,80:2").
            """)

    @Option(help: "Members of the group.")
    var members = 1_000

    @Option(help: "Loss of the members' paths: mix, a number of percent, or SHARE:LOSS,...")
    var loss = "mix"

    @Option(help: "Loss at the source, in percent; with mix 1 unless said otherwise.")
    var sourceLoss: Double?

    @Option(help: "Mean length of a burst of loss in milliseconds; 0: each datagram by itself.")
    var burst = 0

    @Option(help: "Transactions, one after the other.")
    var messages = 10

    @Option(help: "Data datagrams of each transaction, all members spread over them.")
    var parts = 1

    @Option(help: "Octets of the plain body of each.")
    var octets = 400

    @Option(help: "Who answers: all, none, or census:M for one in M.")
    var feedback = Feedback.all

    @Option(help: "Share of the members that hear and say nothing, in percent.")
    var deaf = 0.0

    @Option(help: "Control channel, bits per second.")
    var controlRate: UInt64 = 128_000

    @Option(help: "Return channel, bits per second.")
    var returnRate: UInt64 = 64_000

    @Option(help: "Loss of answers, in percent.")
    var returnLoss = 0.0

    @Option(help: "Seconds in which dead peer detection asks every member once; with feedback all it is not needed.")
    var keepAlive: Int?

    @Option(help: "Everything follows from it.")
    var seed: UInt64 = 1

    @Flag(help: "Values separated by commas, for other programs.")
    var csv = false

    /// An argument of its own type, so that a wrong one is refused before anything runs.
    enum Feedback: ExpressibleByArgument, Equatable {
        case all, none
        case census(UInt16)

        init?(argument: String) {
            switch argument {
            case "all": self = .all
            case "none": self = .none
            default:
                let words = argument.split(separator: ":")
                guard words.count == 2, words[0] == "census", let modulus = UInt16(words[1]), modulus > 0 else {
                    return nil
                }
                self = .census(modulus)
            }
        }

        var defaultValueDescription: String { "all" }
    }

    func validate() throws {
        guard (2...4_000_000).contains(members) else { throw ValidationError("--members: 2 to 4000000.") }
        guard messages > 0 else { throw ValidationError("--messages must be at least 1.") }
        guard (1...10_000).contains(parts), parts <= members else {
            throw ValidationError("--parts: 1 to 10000, and not more than members.")
        }
        guard (4...1_200).contains(octets) else { throw ValidationError("--octets: 4 to 1200.") }
        guard controlRate > 0, returnRate > 0 else { throw ValidationError("A rate must not be 0.") }
        guard burst >= 0, keepAlive.map({ $0 > 0 }) ?? true else {
            throw ValidationError("--burst must not be negative, --keep-alive at least 1.")
        }
        guard [deaf, returnLoss, sourceLoss ?? 0].allSatisfy({ (0...99).contains($0) }), classes != nil else {
            throw ValidationError("A loss or share is between 0 and 99 %, all shares together 100 %.")
        }
    }

    /// nil: not understood.
    private var classes: [MemberClass]? {
        func model(_ percent: Double) -> DeliveryLoss {
            burst > 0
                ? .bursts(share: percent / 100, mean: .milliseconds(burst)) : .independent(percent / 100)
        }
        if loss == "mix" {
            return [MemberClass(share: 0.2, loss: model(20)), MemberClass(share: 0.8, loss: model(2))]
        }
        if let percent = Double(loss) {
            return (0...99).contains(percent) ? [MemberClass(share: 1, loss: model(percent))] : nil
        }
        var classes: [MemberClass] = []
        for word in loss.split(separator: ",") {
            let numbers = word.split(separator: ":").map { Double($0) ?? -1 }
            guard numbers.count == 2, (0...100).contains(numbers[0]), (0...99).contains(numbers[1]) else { return nil }
            classes.append(MemberClass(share: numbers[0] / 100, loss: model(numbers[1])))
        }
        let sum = classes.reduce(0) { $0 + $1.share }
        return sum > 0.999 && sum < 1.001 ? classes : nil
    }

    private var scenario: DeliveryScenario {
        var scenario = DeliveryScenario()
        scenario.members = members
        scenario.classes = classes ?? []
        let percent = sourceLoss ?? (loss == "mix" ? 1 : 0)
        scenario.sourceLoss =
            burst > 0
            ? .bursts(share: percent / 100, mean: .milliseconds(burst)) : .independent(percent / 100)
        scenario.deaf = deaf / 100
        scenario.returnLoss = returnLoss / 100
        scenario.policy.controlRate = controlRate
        scenario.policy.returnRate = returnRate
        switch feedback {
        case .all: scenario.policy.feedback = .all
        case .none: scenario.policy.feedback = .none
        case .census(let modulus): scenario.policy.feedback = .census(modulus)
        }
        scenario.keepAlive = keepAlive.map { .seconds($0) }
        if let keepAlive { scenario.policy.confirmWithin = .seconds(keepAlive + 30) }
        return scenario
    }

    func run() throws {
        let run = DeliveryRun(scenario, seed: seed)
        let work = (0..<parts).map { number in
            DeliveryPart(
                octets: octets,
                members: UInt32(members * number / parts)...UInt32(members * (number + 1) / parts - 1))
        }
        let head = [
            "message", "round1_percent", "rounds", "sendings", "beacons", "unicasts", "wire_octets", "nacks", "acks",
            "feedback_octets", "median_s", "last_s", "confirmed", "confirmed_s", "named", "verdict_s",
        ]
        if !csv { print("No cryptography; sizes are real, IP and UDP included.") }
        print(line(head))
        var isWrong = false
        for message in 1...messages {
            let result = run.deliver(work)
            print(line(row(message, result)))
            if !result.isAccounted { isWrong = true }
        }
        if isWrong {
            print("Some members are neither confirmed nor named.")
            throw ExitCode(1)
        }
    }

    private func line(_ cells: [String]) -> String {
        if csv { return cells.joined(separator: ",") }
        return cells.map { String(repeating: " ", count: max(9 - $0.count, 0)) + $0 }.joined(separator: " ")
    }

    private func row(_ message: Int, _ result: DeliveryResult) -> [String] {
        func seconds(_ value: Double) -> String { Duration.nanoseconds(Int64(value * 1e9)).secondsText }
        return [
            "\(message)", seconds(result.servedInRoundOne * 100), "\(result.rounds)", "\(result.transmissions)",
            "\(result.beacons)", "\(result.unicasts)", "\(result.wireOctets)", "\(result.nacks)", "\(result.acks)",
            "\(result.feedbackOctets)", seconds(result.medianServedAt), result.lastServedAt.map(seconds) ?? "-",
            "\(result.confirmed)", seconds(result.lastConfirmedAt), "\(result.named)", seconds(result.verdictAt),
        ]
    }
}
