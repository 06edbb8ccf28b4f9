// SPDX-License-Identifier: Apache-2.0
import Simulator
import Testing

/// Seeds that found faults of the engines, by what was wrong; before there were key trees.
@Suite struct RegressionTests {
    static let seeds: [(what: String, seed: UInt64)] = [
        ("a verdict named a member that was revoked meanwhile by its number", 56),
        ("a sender moved back to an older SA, whose activation time came after a COMMIT", 1),
        ("repairs of an earlier transaction went on under the KEK of a revoked member", 149),
        ("the verdict on a revocation came before a sender that missed the COMMIT had moved", 85),
        ("a profile without room for all SAs left out those in use and kept some that never were", 68),
        ("with no sender registered, replaced SAs were gone before their successors were in use", 13),
        ("a member named silent confirmed the next transaction without the SAs that were still in use", 79),
        ("a sender that registered after the verdict on a revocation sent with the old keys", 143),
        ("a receiver dropped the SA in use when many changes came at once", 221),
        ("a member without dead peer detection asked a GCKS that had restarted for its profile for ever", 70),
        ("a profile that stayed unanswered was never sent again", 474),
        ("a member confirmed a transaction whose SAs its data plane had refused", 208),
        ("a member confirmed more than it had after a refusal of SAs that came along with later ones", 369),
        ("SAs that the data plane had refused were never tried again", 101),
        ("a sender moved back to an SA that a PUSH carried along and that it had missed", 5954),
        ("the same, with a profile in between", 7298),
        ("a sender stayed on one flow with the SA that a revocation ended, its successor left out for room", 5268),
        ("the same in a row of revocations", 3833),
        ("a PUSH did not carry the SA in use because its end was named already", 9625),
        ("a client that got no profile before the GCKS died waited for it for ever", 7494),
    ]

    /// Found with key trees and address translation among what is drawn.
    static let laterSeeds: [(what: String, seed: UInt64)] = [
        ("nothing reached a client behind a translator, without dead peer detection, nor did it say anything", 504),
        ("message 6 went to a port that a translator had forgotten, again and again", 860),
        ("a profile that newer keys had overtaken did not raise the floor of sequences", 1527),
        ("only one side had dead peer detection, and the other did not notice that it was forgotten", 3426),
        ("a copy of message 5 on the port of NAT traversal bound the SA to that port", 4413),
        ("a sender that had moved early was given an older SA as the one in use, and moved back", 4949),
    ]

    /// Found with VPNs, and with an operator who changes the inventory.
    static let latestSeeds: [(what: String, seed: UInt64)] = [
        ("a member was blamed for an SA of a role that its profile had not told it yet", 329),
        ("two changes by one input: the first one's KEK stood in no record that was looked at", 472),
        ("a start counted SAs of a VPN from anew behind an opening whose INITIAL-CONTACT was bent", 1_450),
        ("profiles of VPNs on a slow link were still on their way when all was to be over", 1_314),
        ("a sender was blamed that confirmed after the verdict on a revocation", 2_925),
    ]

    @Test(arguments: latestSeeds) func theLatestFaultIsGone(what: String, seed: UInt64) throws {
        let outcome = try Simulation(Scenario(seed: seed)).run()
        #expect(outcome.violations == [], "\(what): satsim --seed \(seed)")
    }

    @Test(arguments: laterSeeds) func theLaterFaultIsGone(what: String, seed: UInt64) throws {
        let outcome = try Simulation(Scenario(seed: seed, vpns: false, applies: false)).run()
        #expect(outcome.violations == [], "\(what): satsim --no-vpns --fixed --seed \(seed)")
    }

    @Test(arguments: seeds) func theFaultIsGone(what: String, seed: UInt64) throws {
        let outcome = try Simulation(Scenario(seed: seed, trees: false, applies: false)).run()
        #expect(outcome.violations == [], "\(what): satsim --flat --fixed --seed \(seed)")
    }
}
