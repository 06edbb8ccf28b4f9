// SPDX-License-Identifier: Apache-2.0
import KeyServer
import Simulator
import Testing

/// What a checker is worth: something is broken on purpose, and the checker that must find it does.
@Suite struct SabotageTests {
    private func scenario(_ sabotage: Sabotage?) -> Scenario {
        var scenario = Scenario.calm(members: 6, seed: 1, seconds: 5)
        scenario.sabotage = sabotage
        if sabotage == .leakedRoot { scenario.groups[0].revocation = .lkh }
        if sabotage == .lostVPNSA { scenario.vpns = [Scenario.VPN(ends: [0, 5])] }
        return scenario
    }

    @Test(arguments: Sabotage.allCases) func isFound(_ sabotage: Sabotage) throws {
        let outcome = try Simulation(scenario(sabotage)).run()
        let checkers = Set(outcome.violations.map { String($0.checker.prefix(1)) })
        #expect(checkers == [sabotage.checker], "\(outcome.violations.first?.text ?? "nothing was found")")
    }

    @Test func nothingIsFoundWithoutIt() throws {
        #expect(try Simulation(scenario(nil)).run().violations == [])
    }

    @Test func everyCheckerIsTried() {
        #expect(Set(Sabotage.allCases.map(\.checker)) == ["a", "b", "c", "d", "e", "f", "g"])
    }
}
