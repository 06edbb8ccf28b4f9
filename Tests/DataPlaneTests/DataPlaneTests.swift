// SPDX-License-Identifier: Apache-2.0
import Basics
import Cryptography
import ESP
import EventLoop
import Testing

@testable import DataPlane

private func parameters(_ spi: UInt32, to outer: IPAddress, from: IPPrefix = .allV4, into: IPPrefix? = nil)
    -> SAParameters
{
    SAParameters(
        key: SAKey(spi: spi, destination: outer),
        selector: TrafficSelector(source: from, destination: into ?? IPPrefix(host: outer)), suite: .aes256gcm,
        cipherKey: Secret([UInt8](repeating: 7, count: 36)), authenticationKey: nil, source: nil, senderID: 0,
        name: "news")
}

@Suite struct ConfigurationTests {
    @Test func theTunnelTakesWhatFitsTheLinkWithItsSuites() {
        #expect(DataPlaneConfiguration.tunnelMTU(linkMTU: 1_500, suites: [.aes256gcm]) == 1_446)
        #expect(DataPlaneConfiguration.tunnelMTU(linkMTU: 1_500, suites: [.aes128sha1, .aes256gcm]) == 1_438)
        #expect(DataPlaneConfiguration.tunnelMTU(linkMTU: 1_500, suites: []) == 1_446, "of the default suite")
        #expect(DataPlaneConfiguration.tunnelMTU(linkMTU: 1_500, suites: [.aes256gcm], overV4: false) == 1_426)
        for link in stride(from: 576, through: 9_000, by: 7) {
            for (suite, isV4) in ESPSuite.allCases.flatMap({ [($0, true), ($0, false)] }) {
                let header = isV4 ? 20 : 40
                let inner = DataPlaneConfiguration.tunnelMTU(linkMTU: link, suites: [suite], overV4: isV4)
                #expect(suite.sealedSize(inner: inner) + header <= link)
                #expect(suite.sealedSize(inner: inner + 1) + header > link)
                #expect(suite.sealedSize(inner: inner) - inner + header <= PacketPump.largestOverhead)
            }
            let inner = DataPlaneConfiguration.tunnelMTU(linkMTU: link, suites: ESPSuite.allCases)
            #expect(ESPSuite.allCases.allSatisfy { $0.sealedSize(inner: inner) + 20 <= link })
        }
    }

    @Test func theTunnelFollowsItsAssociations() throws {
        let (v4, v6) = (IPAddress.v4(239, 1, 1, 1), try #require(IPAddress("ff15::1")))
        var mtu = TunnelMTU(linkMTU: 1_500, carriesIPv6: true, fixed: nil)
        #expect(mtu.device == 1_446 && mtu.v6 == 1_426, "of the default suite")
        mtu.insert(parameters(1, to: v4))
        mtu.insert(parameters(2, to: v6, from: .allV6))
        #expect(mtu.device == 1_446 && mtu.v6 == 1_426)
        // IPv4 in IPv6: the larger outer header counts for it, and IPv6 gets no more than the interface takes.
        let peer = try #require(IPAddress("2001:db8::2"))
        let site = try #require(IPPrefix("192.168.2.0/24"))
        mtu.insert(parameters(3, to: peer, into: site))
        #expect(mtu.device == 1_426 && mtu.v6 == 1_426)
        mtu.remove(SAKey(spi: 3, destination: peer))
        #expect(mtu.device == 1_446)
        mtu.remove(SAKey(spi: 1, destination: v4))
        mtu.remove(SAKey(spi: 2, destination: v6))
        mtu.removeAll()
        #expect(mtu.device == 1_446 && mtu.v6 == 1_426, "without any it stays")
        #expect(TunnelMTU(linkMTU: 1_500, carriesIPv6: false, fixed: nil).v6 == nil)
        let small = TunnelMTU(linkMTU: 1_280, carriesIPv6: true, fixed: nil)
        #expect(small.device == 1_280 && small.v6 == 1_280, "the least for IPv6, at the price of fragments")
        let fixed = TunnelMTU(linkMTU: 1_500, carriesIPv6: true, fixed: 1_600)
        #expect(fixed.device == 1_600 && fixed.v6 == 1_600)
    }

    @Test func theHeaderOfUDPCounts() throws {
        var mtu = TunnelMTU(linkMTU: 1_500, carriesIPv6: false, fixed: nil)
        let site = try #require(IPPrefix("192.168.2.0/24"))
        var inUDP = parameters(1, to: .v4(10, 0, 0, 2), into: site)
        inUDP.encapsulation = UDPEncapsulation(localPort: 4_500, remote: SocketAddress(.v4(10, 0, 0, 2), 4_500))
        mtu.insert(inUDP)
        #expect(mtu.device == 1_438)
        #expect(ESPSuite.aes256gcm.sealedSize(inner: 1_438) + 20 + 8 <= 1_500)
    }

    @Test func errorsTellTheOperatorWhatToDo() {
        #expect(DataPlaneError.reversePathFilter(1).description.contains("Set it to 0"))
        let missing = DataPlaneError.unguarded(interface: "sat0", reason: "no table").description
        #expect(missing.contains("sat0") && missing.contains("no table"))
    }

    @Test func aMissingInterfaceIsNamed() throws {
        let configuration = DataPlaneConfiguration(satelliteInterface: "nosuchif0", terrestrialInterface: "lo")
        let error = #expect(throws: DataPlaneError.self) {
            try UserspaceBackend(configuration: configuration, loop: EventLoop(), random: SystemRandom())
        }
        #expect(error?.description.contains("nosuchif0: No such device") == true)
    }
}

@Suite struct FailClosedGuardTests {
    private func listing(_ chains: String...) -> String {
        "table netdev some_table {\n" + chains.joined(separator: "\n") + "\n}\n"
    }

    private func chain(_ hook: String, policy: String = "drop", device: String = "\"sat0\"", rule: String = "")
        -> String
    {
        """
        \tchain \(hook) {
        \t\ttype filter hook \(hook) device \(device) priority filter; policy \(policy);
        \t\tmeta l4proto { 2, 50 } accept
        \(rule)
        \t}
        """
    }

    @Test func bothHooksMustBeClosed() {
        func problem(_ listing: String) -> String? { FailClosedGuard.problem(interface: "sat0", listing: listing) }
        #expect(problem(listing(chain("ingress"), chain("egress"))) == nil)
        #expect(problem(listing(chain("ingress", device: "{ \"eth9\", \"sat0\" }"), chain("egress"))) == nil)
        #expect(problem("")?.contains("hook ingress") == true)
        #expect(problem(listing(chain("ingress")))?.contains("hook egress") == true)
        #expect(problem(listing(chain("ingress"), chain("egress", policy: "accept"))) != nil)
        #expect(problem(listing(chain("ingress", device: "\"sat00\""), chain("egress"))) != nil)
    }

    @Test(arguments: ["accept", "counter accept", "\t\tcounter packets 17 bytes 1200 accept"])
    func aRuleForEverythingIsNoGuard(rule: String) {
        let open = listing(chain("ingress"), chain("egress", rule: rule))
        #expect(FailClosedGuard.problem(interface: "sat0", listing: open)?.contains("accepts everything") == true)
        let counted = listing(chain("ingress"), chain("egress", rule: "counter packets 17 bytes 1200 drop"))
        #expect(FailClosedGuard.problem(interface: "sat0", listing: counted) == nil)
    }

    /// Exactly what bypasses passes, and the answers; what an earlier rule takes does not.
    @Test func aBypassIsInTheRuleset() throws {
        func rule(
            _ action: PolicyRule.Action, _ from: String, _ to: String, _ ipProtocol: UInt8 = 0, _ port: UInt16 = 0
        ) throws -> PolicyRule {
            PolicyRule(
                action,
                TrafficSelector(
                    source: try #require(IPPrefix(from)), destination: try #require(IPPrefix(to)),
                    ipProtocol: ipProtocol, destinationPort: port))
        }
        let discard = try rule(.discard, "192.168.1.0/24", "10.9.0.9")
        let bypass = try rule(.bypass, "0.0.0.0/0", "10.9.0.0/16", 17, 123)
        let text = FailClosedGuard.ruleset(interface: "sat0", policy: [discard, bypass])
        let (ingress, egress) = try #require(text.firstRange(of: "chain egress")).lowerBound.split(text)
        func lines(_ text: Substring) -> [String] {
            text.split(separator: "\n").map { $0.drop { $0 == " " } }.filter { $0.hasPrefix("meta protocol ip ") }
                .dropFirst().map(String.init)
        }
        #expect(
            lines(egress) == [
                "meta protocol ip ip saddr 192.168.1.0/24 ip daddr 10.9.0.9/32 counter drop",
                "meta protocol ip ip daddr 10.9.0.0/16 meta l4proto 17 th dport 123 accept",
            ])
        #expect(
            lines(ingress) == [
                "meta protocol ip ip saddr 10.9.0.9/32 ip daddr 192.168.1.0/24 counter drop",
                "meta protocol ip ip saddr 10.9.0.0/16 meta l4proto 17 th sport 123 accept",
            ])
        #expect(FailClosedGuard.problem(interface: "sat0", listing: text) == nil)
        let closed = FailClosedGuard.ruleset(interface: "sat0")
        #expect(FailClosedGuard.ruleset(interface: "sat0", policy: [discard]) == closed, "closed is closed")
    }

    /// Outwards only, from our own address and port, and only what is ESP or a keepalive.
    @Test func espInUDPToAnyPortIsOurs() throws {
        let text = FailClosedGuard.ruleset(interface: "sat0", ports: [848, 4_501], natPort: 4_501)
        let (ingress, egress) = try #require(text.firstRange(of: "chain egress")).lowerBound.split(text)
        let lines = egress.split(separator: "\n").map { $0.drop { $0 == " " } }.filter { $0.contains("sport") }
        #expect(
            lines == [
                "udp sport 4501 udp length > 16 @th,64,32 > 255 fib saddr type local accept",
                "udp sport 4501 udp length 9 @th,64,8 0xff fib saddr type local accept",
            ])
        #expect(!ingress.contains("sport"))
    }

    @Test func portsAndInterfacesStandInTheRuleset() {
        let plain = FailClosedGuard.ruleset(interface: "sat0", ports: [1_848, 848, 848])
        #expect(plain.contains("udp dport { 848, 1848 } accept"))
        #expect(!plain.contains("58 }"), "of ICMPv6 only what no router forwards")
        #expect(!plain.contains("frag-off"))
        let both = FailClosedGuard.ruleset(interface: "sat0", terrestrialInterface: "lan\"0\n")
        #expect(both.contains("udp dport { 500, 848, 4500 } accept"))
        #expect(both.contains("iifname \"lan0\" ip daddr 224.0.0.0/4"))
        #expect(FailClosedGuard.problem(interface: "sat0", listing: both) == nil, "it recognises its own rules")
    }
}

@Suite struct GroupUsesTests {
    private let group = IPAddress.v4(239, 1, 1, 1)

    @Test func aGroupIsUsedUntilItsLastAssociationGoes() {
        var uses = GroupUses()
        #expect(uses.insert(parameters(1, to: group), .inbound).isReceived)
        // Roll-over: the new one comes before the old one goes.
        #expect(uses.insert(parameters(2, to: group), .inbound).isReceived)
        #expect(uses.remove(SAKey(spi: 1, destination: group), .inbound)?.isReceived == true)
        #expect(uses.isReceived(outer: group))
        let last = uses.remove(SAKey(spi: 2, destination: group), .inbound)
        #expect(last?.isReceived == false && last?.isSent == false && last?.outer == group)
        #expect(uses.remove(SAKey(spi: 2, destination: group), .inbound) == nil)
        #expect(!uses.isReceived(outer: group) && uses.groups.isEmpty)
    }

    @Test func oneAssociationMayServeBothDirections() {
        var uses = GroupUses()
        _ = uses.insert(parameters(1, to: group), .inbound)
        let use = uses.insert(parameters(1, to: group), .outbound)
        #expect(use.isSent && use.isReceived)
        #expect(uses.groups == [DataPlaneStatus.Group(address: group, isSent: true, isReceived: true)])
        let rest = uses.remove(SAKey(spi: 1, destination: group), .inbound)
        #expect(rest?.isSent == true && rest?.isReceived == false)
    }

    @Test func aWideSelectorStillMeansItsGroupAlone() throws {
        var uses = GroupUses()
        let all = try #require(IPPrefix("224.0.0.0/4"))
        #expect(uses.insert(parameters(1, to: group, into: all), .outbound).destination == IPPrefix(host: group))
        let site = try #require(IPPrefix("192.168.2.0/24"))
        let unicast = uses.insert(parameters(2, to: .v4(10, 0, 0, 2), into: site), .outbound)
        #expect(unicast.destination == site && unicast.isSent)
        #expect(uses.groups.map(\.address) == [group])
        #expect(Set(uses.removeAll().map(\.destination)) == [IPPrefix(host: group), site])
        #expect(uses.groups.isEmpty)
    }
}

@Suite struct RecordingBackendTests {
    private let group = IPAddress.v4(239, 1, 1, 1)

    @Test func itRemembersChangesAndKeepsTheirSum() throws {
        let backend = RecordingBackend()
        let (old, new) = (parameters(1, to: group), parameters(2, to: group))
        try backend.apply(.addInbound(old))
        try backend.apply(.addOutbound(old))
        #expect(backend.activeKey(for: old.selector) == nil)
        try backend.apply(.activateOutbound(old.key))
        // Make before break, everything twice.
        for _ in 0..<2 {
            try backend.apply(.addOutbound(new))
            try backend.apply(.activateOutbound(new.key))
            try backend.apply(.removeOutbound(old.key))
        }
        #expect(backend.changes.count == 9)
        #expect(backend.activeKey(for: old.selector) == new.key)
        let statuses = backend.snapshot()
        #expect(statuses.filter { $0.direction == .outbound && $0.isActive }.map(\.key.spi) == [2])
        #expect(statuses.filter { $0.direction == .inbound }.map(\.key.spi) == [1])
        try backend.apply(.removeAll)
        #expect(backend.snapshot().isEmpty && backend.activeKey(for: old.selector) == nil)
    }

    @Test func itFailsWhenTold() throws {
        let backend = RecordingBackend()
        backend.nextError = DataPlaneError.interfaceDown("sat0")
        #expect(throws: DataPlaneError.interfaceDown("sat0")) { try backend.apply(.removeAll) }
        try backend.apply(.removeAll)
        backend.stop()
        #expect(throws: DataPlaneError.stopped) { try backend.apply(.removeAll) }
        #expect(backend.isStopped && backend.changes.count == 1)
    }
}

extension String.Index {
    /// What stands before and behind this place.
    fileprivate func split(_ text: String) -> (Substring, Substring) { (text[..<self], text[self...]) }
}
