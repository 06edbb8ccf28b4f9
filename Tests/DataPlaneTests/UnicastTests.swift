// SPDX-License-Identifier: Apache-2.0
import Basics
import ESP
import EventLoop
import Testing

@testable import DataPlane

/// Which keepalives are due, in a time that the test makes. On the wire: `Tests/Judges/unicast.py`.
@Suite struct KeepaliveTests {
    private let path = KeepaliveSchedule.Path(
        source: .v4(10, 0, 0, 1), remote: SocketAddress(.v4(10, 0, 0, 2), 34_567))
    private let start = Instant.zero + .seconds(1_000)

    @Test func silenceIsBrokenEveryTwentySeconds() {
        var schedule = KeepaliveSchedule(interval: .seconds(20))
        let first = schedule.due([path: nil as Instant?], now: start)
        #expect(first.paths.isEmpty && first.next == start + .seconds(20), "a new path begins with other messages")
        for round in 1...3 {
            let now = start + .seconds(Int64(20 * round))
            let due = schedule.due([path: nil as Instant?], now: now)
            #expect(due.paths == [path] && due.next == now + .seconds(20))
        }
    }

    @Test func packetsPutThemOff() {
        var schedule = KeepaliveSchedule(interval: .seconds(20))
        _ = schedule.due([path: nil as Instant?], now: start)
        let used = start + .seconds(15)
        let due = schedule.due([path: used], now: start + .seconds(20))
        #expect(due.paths.isEmpty && due.next == start + .seconds(35), "not 20 s after the last look")
        #expect(schedule.due([path: used], now: start + .seconds(35)).paths == [path])
    }

    @Test func withoutAPathThereIsNone() {
        var schedule = KeepaliveSchedule(interval: .seconds(20))
        _ = schedule.due([path: nil as Instant?], now: start)
        let none = schedule.due([:], now: start + .seconds(60))
        #expect(none.paths.isEmpty && none.next == nil)
        let back = schedule.due([path: nil as Instant?], now: start + .seconds(80))
        #expect(back.paths.isEmpty, "one that came back is new")
    }
}

/// The rules that route flows, as values; what the kernel makes of them is for `Tests/Judges/unicast.py`.
@Suite struct UnicastRoutesTests {
    private let ours = IPAddress.v4(10, 0, 0, 1)
    private let flow = RoutingRules.Rule.Action.table(RoutingRules.table)
    private let system = RoutingRules.Rule.Action.table(RoutingRules.main)

    private func selector(
        _ from: String, _ to: String, _ ipProtocol: UInt8 = 0, _ sourcePort: UInt16 = 0, _ port: UInt16 = 0
    ) throws -> TrafficSelector {
        TrafficSelector(
            source: try #require(IPPrefix(from)), destination: try #require(IPPrefix(to)), ipProtocol: ipProtocol,
            sourcePort: sourcePort, destinationPort: port)
    }

    @Test func aRuleSaysWhatTheSelectorSays() throws {
        let wanted = try selector("192.168.1.0/24", "192.168.2.0/24", 6, 1_000, 443)
        let rules = UnicastRoutes.rules(for: wanted, 8_600, flow, own: [ours])
        #expect(
            rules == [
                RoutingRules.Rule(
                    family: .v4, priority: 8_600, action: flow, source: wanted.source,
                    destination: wanted.destination, ipProtocol: 6, sourcePort: 1_000, destinationPort: 443)
            ])
    }

    /// A socket that is not bound has no source when its packet is routed.
    @Test func whatThisHostSendsNeedsNoSource() throws {
        let v4 = UnicastRoutes.rules(for: try selector("10.0.0.1/32", "10.0.0.2/32"), 8_600, flow, own: [ours])
        #expect(v4.count == 2 && v4[1].isLocal && v4[1].source == IPPrefix("0.0.0.0/32"))
        let own = [ours, try #require(IPAddress("fd00::1"))]
        let v6 = UnicastRoutes.rules(for: try selector("fd00::/64", "fd02::/64"), 8_600, flow, own: own)
        #expect(v6.count == 2 && v6[1].isLocal && v6[1].source == nil && v6[1].family == .v6)
        let any = UnicastRoutes.rules(for: try selector("0.0.0.0/0", "10.0.0.2/32"), 8_600, flow, own: [ours])
        #expect(any.count == 1 && any[0].source == nil, "any source is also none")
    }

    @Test func keyExchangeAndESPKeepTheSystemsRoutes() {
        let rules = UnicastRoutes.common(.v4, [848, 4_500, 848], [], outer: [ours], own: [ours])
        #expect(rules.count == 6 && rules.allSatisfy { $0.action == system && $0.priority < 8_500 })
        for (ipProtocol, port) in [(50, 0), (17, 848), (17, 4_500)] as [(UInt8, UInt16)] {
            let found = rules.filter { $0.ipProtocol == ipProtocol && $0.sourcePort == port }
            #expect(found.map(\.isLocal) == [true, false], "what this host sends, and the way back to a peer")
            #expect(found.map(\.source) == [nil, IPPrefix(host: ours)])
        }
    }

    /// The first rule that names a packet decides, as in the packet filter.
    @Test func aBypassGoesBeforeTheFlows() throws {
        let policy = [
            PolicyRule(.discard, try selector("0.0.0.0/0", "10.0.0.2/32", 17, 0, 124)),
            PolicyRule(.bypass, try selector("0.0.0.0/0", "10.0.0.2/32", 17)),
            PolicyRule(.bypass, try selector("fd00::/64", "fd02::/64")),
        ]
        let rules = UnicastRoutes.common(.v4, [], policy, outer: [], own: [ours]).filter { $0.ipProtocol != 50 }
        #expect(rules.map(\.action) == [.nothing, .goTo(8_599), system])
        #expect(rules.map(\.priority) == [8_599, 8_500, 8_501], "the target of a jump is there before the jump")
        #expect(rules.allSatisfy { $0.family == .v4 })
    }
}
