// SPDX-License-Identifier: Apache-2.0
import Basics
import Simulator
import Testing

@Suite struct SimulatorTests {
    /// The bounded sweep, of seeds in which each kind of fault meets each checker at least once, most of them several
    /// times. `make sim SEEDS=n` runs more, and `satsim --coverage` says what is in a seed.
    @Test func noSeedBreaksAnything() throws {
        var met: Set<[String]> = []
        for seed in Self.seeds {
            let outcome = try Simulation(Scenario(seed: seed)).run()
            for kind in outcome.kinds {
                for (checker, looks) in outcome.looks where looks > 0 { met.insert([kind, checker]) }
            }
            guard let violation = outcome.violations.first else { continue }
            Issue.record(
                """
                satsim --seed \(seed): \(violation.checker): \(violation.text)
                \(outcome.lastEvents.suffix(20).joined(separator: "\n"))
                """)
        }
        let missing = Self.kinds.flatMap { kind in ["a", "b", "c", "d", "e", "f"].map { [kind, $0] } }.filter {
            !met.contains($0)
        }
        #expect(missing == [], "choose other seeds")
    }

    private static let seeds: [UInt64] = [
        10, 30, 50, 53, 76, 78, 113, 129, 139, 150, 155, 165, 168, 187, 205, 210, 244, 250, 268, 275, 276, 282, 284,
        291, 316, 324, 325, 328, 387, 391,
    ]

    private static let kinds = [
        "address translation", "backward secrecy", "bursts of loss", "corruption", "drifting clocks", "duplicates",
        "early COMMIT", "jitter", "key tree", "loss", "rate and queue", "reordering", "shared control address",
        "short ISAKMP SAs", "short KEKs", "short data SAs", "sim.attack", "sim.bad-weather", "sim.class-loss",
        "sim.crash", "sim.crash-soon", "sim.deaf", "sim.forgery", "sim.mute", "sim.partition", "sim.rebinding",
        "sim.refuses-sas", "sim.rekey", "sim.revoke", "sim.server-crash", "sim.server-crash-soon", "sim.shutdown",
        "sim.worn",
    ]

    /// Keys are held back while the audit file cannot be written; afterwards everything holds that must, and every
    /// transaction has its verdict.
    @Test(arguments: [UInt64](1...16)) func anAuditFileThatFailsBreaksNothing(seed: UInt64) throws {
        var scenario = Scenario(seed: seed)
        scenario.drawAuditOutages()
        let outcome = try Simulation(scenario).run()
        #expect(outcome.violations.isEmpty, "satsim --audit --seed \(seed): \(outcome.lastEvents.suffix(20))")
        #expect(outcome.kinds.contains("audit outage"))
    }

    /// Without a fault nobody is named, and everybody is confirmed in the first round.
    @Test func manyMembersWithoutFaults() throws {
        let outcome = try Simulation(.calm(members: 60, seed: 1, seconds: 20)).run()
        #expect(outcome.violations == [] && outcome.transactions == outcome.verdictsConfirmed)
    }

    @Test(arguments: [UInt64](1...3)) func aSeedReplaysToTheOctet(seed: UInt64) throws {
        let first = try Simulation(Scenario(seed: seed)).run()
        let second = try Simulation(Scenario(seed: seed)).run()
        #expect(first.hash == second.hash && first.events == second.events && first.events > 100)
    }
}
