// SPDX-License-Identifier: Apache-2.0
import Basics
import Simulator
import Testing

@Suite struct SimulatorTests {
    @Test(arguments: [UInt64](1...3)) func aSeedReplaysToTheOctet(seed: UInt64) throws {
        let first = try Simulation(Scenario(seed: seed)).run()
        let second = try Simulation(Scenario(seed: seed)).run()
        #expect(first.hash == second.hash && first.events == second.events && first.events > 100)
    }
}
