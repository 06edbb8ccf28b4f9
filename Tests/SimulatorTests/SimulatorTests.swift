// SPDX-License-Identifier: Apache-2.0
import Basics
import Simulator
import Testing

@Suite struct SimulatorTests {
    /// The bounded sweep: some seconds of many deployments under faults. `make sim SEEDS=n` runs more.
    @Test func noSeedBreaksAnything() throws {
        let clock = ContinuousClock()
        let end = clock.now + .seconds(20)
        var seed: UInt64 = 1
        while clock.now < end, seed <= 100 {
            let outcome = try Simulation(Scenario(seed: seed)).run()
            if !outcome.violations.isEmpty {
                Issue.record(
                    """
                    satsim --seed \(seed): \(outcome.violations[0].checker): \(outcome.violations[0].text)
                    \(outcome.lastEvents.suffix(20).joined(separator: "\n"))
                    """)
            }
            seed += 1
        }
        #expect(seed > 3)
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
