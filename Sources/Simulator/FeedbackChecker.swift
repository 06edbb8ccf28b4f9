// SPDX-License-Identifier: Apache-2.0

internal import Basics

/// (e) Answers stay within the budget of the return channel. For every window of w seconds, however long and wherever
/// it begins, the octets of all STATUS in it, IP and UDP headers included, are at most
///
///     w x (sum of the groups' returnRate) / 8 x 1.1 + 3 answers of each member for each of its groups
///
/// The tenth is for answers whose slots two transactions of one group gave at a time. The answers beside the rate are
/// those that no slot governs: a member that asks for its profile or for new keys does it at once; one that lacks
/// something says so at random within the NACK wait; and one that a copy or a reordered datagram reached later answers
/// in a slot that is shifted by as much.
final class FeedbackChecker: Checker {
    let name = "e: answers within the budget"

    private let octetsPerSecond: Double
    private let burst: Double
    /// What is above the rate: a bucket that leaks at it. It is full exactly when some window has too much.
    private var level = 0.0
    private var levelAt = Instant.zero
    private var times: [Instant] = []
    private var firstOfSecond = 0
    /// The most answers in any one second.
    private(set) var most = 0
    private(set) var looks = 0

    init(_ directory: Directory) {
        octetsPerSecond = directory.policies.map { Double($0.returnRate) }.reduce(0, +) / 8 * 1.1
        burst = 3 * directory.answerOctets * Double(directory.roles.map(\.count).reduce(0, +))
    }

    func observe(_ observation: Observation, in simulation: Simulation) {
        guard case .statusSent(_, let octets) = observation else { return }
        looks += 1
        let now = simulation.now
        level = max(0, level - (now - levelAt).inSeconds * octetsPerSecond) + Double(octets)
        levelAt = now
        if level > burst {
            simulation.violate(
                name, "\(Int(level)) octets of answers above the rate, \(Int(burst)) are allowed")
        }
        count(now)
    }

    private func count(_ now: Instant) {
        times.append(now)
        while now - times[firstOfSecond] >= .seconds(1) { firstOfSecond += 1 }
        most = max(most, times.count - firstOfSecond)
        if firstOfSecond > 10_000 {
            times.removeFirst(firstOfSecond)
            firstOfSecond = 0
        }
    }
}
