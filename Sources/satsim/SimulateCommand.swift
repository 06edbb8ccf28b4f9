// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Basics
internal import Simulator

// satsim runs the real engines in virtual time under faults of every kind, one run per seed, and checks what must
// always hold. This file is its command line; the module Simulator does the work.

@main
struct SimulateCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "satsim", abstract: "Tries the key server and its clients in virtual time.",
        discussion: """
            Each seed is one run of its own: a deployment, its links, faults and commands all follow from it, and the \
            same seed gives the same run to the octet. The cryptography is the real one.

            Exit status: 0 nothing found, 1 a seed failed, 64 usage.
            """, subcommands: [DeliveryCommand.self, CrashPointsCommand.self])

    @Option(help: "How many seeds to run.")
    var seeds = 100

    @Option(help: "The first seed.")
    var first: UInt64 = 1

    @Option(help: "Run this seed alone and show how it went.")
    var seed: UInt64?

    @Option(help: "No faults: register this many members, rekey once, and say what it took.")
    var members: Int?

    @Option(help: "How many seconds members take to come, with --members.")
    var spread = 60

    @Option(help: "Lines of the log to show of a run.")
    var lines = 40

    @Flag(help: "Run each seed twice: both runs must be the same to the octet.")
    var twice = false

    @Flag(help: "Draw no key trees: every group revokes by unicast.")
    var flat = false

    @Flag(help: "Let the key server's audit file fail now and then.")
    var audit = false
    @Flag(help: "Draw no VPNs.")
    var noVpns = false
    @Flag(help: "Draw no operator who changes the inventory.")
    var fixed = false

    @Flag(help: "Say of each seed what there was, and what each checker looked at.")
    var coverage = false

    @Flag(help: "Go on after a seed that failed.")
    var keepGoing = false

    func validate() throws {
        guard seeds > 0 else { throw ValidationError("--seeds must be at least 1.") }
        guard members.map({ (2...65_000).contains($0) }) ?? true else {
            throw ValidationError("--members must be between 2 and 65000.")
        }
    }

    func run() throws {
        if let members {
            try show(Simulation(.calm(members: members, seed: first, seconds: spread)).run())
        } else if let seed {
            try show(Simulation(scenario(seed)).run())
        } else {
            try sweep()
        }
    }

    private func scenario(_ seed: UInt64) -> Scenario {
        var scenario = Scenario(seed: seed, trees: !flat, vpns: !noVpns, applies: !fixed)
        if audit { scenario.drawAuditOutages() }
        return scenario
    }

    private func show(_ outcome: Outcome) throws {
        for line in outcome.lastEvents.suffix(lines) { print(line) }
        print(
            """
            seed \(outcome.seed): \(outcome.virtualTime.secondsText) s of virtual time, \(outcome.events) events, \
            \(outcome.faults) faults, \(outcome.transactions) transactions (\(outcome.verdictsConfirmed) confirmed), \
            \(outcome.datagrams) datagrams, hash \(outcome.hash)
            """)
        for (name, value) in outcome.figures.sorted(by: { $0.key < $1.key }) { print("\(name): \(value)") }
        guard outcome.violations.isEmpty else {
            report(outcome)
            throw ExitCode(1)
        }
    }

    private func report(_ outcome: Outcome) {
        for violation in outcome.violations {
            print("VIOLATION (\(violation.checker)) at \((violation.at - .zero).secondsText) s: \(violation.text)")
        }
        let flags = [(flat, "--flat "), (noVpns, "--no-vpns "), (fixed, "--fixed "), (audit, "--audit ")]
        print("replay: satsim \(flags.filter(\.0).map(\.1).joined())--seed \(outcome.seed)")
    }

    private func sweep() throws {
        let clock = ContinuousClock()
        let start = clock.now
        var (virtual, events, transactions, faults, failed) = (Duration.zero, UInt64(0), 0, 0, [UInt64]())
        for seed in first..<first + UInt64(seeds) {
            let outcome = try Simulation(scenario(seed)).run()
            if twice, try Simulation(scenario(seed)).run().hash != outcome.hash {
                print("VIOLATION (replay): seed \(seed) does not replay")
                failed.append(seed)
            }
            if coverage {
                let looks = outcome.looks.sorted { $0.key < $1.key }.map { "\($0.key) \($0.value)" }
                print("seed \(seed): \(outcome.events); \(looks.joined(separator: ", ")); ", terminator: "")
                print(outcome.kinds.sorted().joined(separator: ", "))
            }
            virtual += outcome.virtualTime
            events += outcome.events
            transactions += outcome.transactions
            faults += outcome.faults
            guard !outcome.violations.isEmpty else { continue }
            failed.append(seed)
            if !keepGoing { for line in outcome.lastEvents.suffix(lines) { print(line) } }
            report(outcome)
            if !keepGoing { break }
        }
        print(
            """
            \(seeds) seeds from \(first): \((virtual / 3_600).secondsText) virtual hours in \
            \((clock.now - start).secondsText) s, \(events) events, \(faults) faults, \(transactions) transactions, \
            \(failed.count) seeds failed
            """)
        if !failed.isEmpty { throw ExitCode(1) }
    }
}
