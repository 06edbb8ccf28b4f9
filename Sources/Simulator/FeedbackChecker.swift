// SPDX-License-Identifier: Apache-2.0

internal import Basics

/// (e) Answers stay within the budget of the return channel: in any ten seconds no more than the groups' slots give,
/// plus a tenth, plus what slots cannot govern: for each member two reports of its own (one that asks for a profile or
/// for new keys, one shifted into the window because a copy or a reordered datagram reached it later).
final class FeedbackChecker: Checker {
    let name = "e: answers within the budget"
    static let window: Duration = .seconds(10)

    private let allowed: Int
    private var times: [Instant] = []
    private var first = 0
    private var firstOfSecond = 0
    /// The most answers in any one second.
    private(set) var most = 0

    init(_ directory: Directory) {
        var allowed = 0.0
        for (policy, roles) in zip(directory.policies, directory.roles) {
            allowed += Self.window.inSeconds / policy.slot.inSeconds * 1.1 + 2 * Double(roles.count)
        }
        self.allowed = Int(allowed.rounded(.up))
    }

    func observe(_ observation: Observation, in simulation: Simulation) {
        guard case .statusSent = observation else { return }
        let now = simulation.now
        times.append(now)
        while now - times[first] >= Self.window { first += 1 }
        firstOfSecond = max(firstOfSecond, first)
        while now - times[firstOfSecond] >= .seconds(1) { firstOfSecond += 1 }
        most = max(most, times.count - firstOfSecond)
        let count = times.count - first
        if count > allowed {
            simulation.violate(name, "\(count) answers in \(Self.window.secondsText) s, \(allowed) are allowed")
        }
        if first > 10_000 {
            times.removeFirst(first)
            firstOfSecond -= first
            first = 0
        }
    }
}
