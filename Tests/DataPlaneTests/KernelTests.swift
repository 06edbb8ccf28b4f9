// SPDX-License-Identifier: Apache-2.0
import Basics
import Testing

@testable import DataPlane

/// What goes to the kernel as text and octets; what the kernel makes of it is for Tests/KernelTests.
@Suite struct KernelMessageTests {
    private let group = IPPrefix(host: .v4(239, 1, 1, 1))

    @Test func netlinkAttributesHaveTheirLengthAndPadding() {
        var request = NetlinkRequest(16, flags: 4, UInt16(0x0201))
        request.attribute(3, "tun0")
        request.attribute(18) { $0.attribute(1, UInt8(7)) }
        let octets = request.message.octets
        #expect(Array(octets[4..<8]) == [16, 0, 5, 0], "type and flags")
        #expect(Array(octets[16..<20]) == [1, 2, 0, 0], "the fixed part, padded")
        #expect(Array(octets[20..<32]) == [9, 0, 3, 0] + Array("tun0".utf8) + [0, 0, 0, 0])
        #expect(Array(octets[32...]) == [12, 0, 18, 0, 5, 0, 1, 0, 7, 0, 0, 0], "one in the other")
    }

    @Test func attributesThatLieAboutTheirLengthEndTheReading() {
        let good: [UInt8] = [5, 0, 1, 0, 7, 0, 0, 0]
        #expect(NetlinkReport.attributes(good[...])[1]?.elementsEqual([7]) == true)
        for bad in [[3, 0, 2, 0], [200, 0, 2, 0], [5, 0]] as [[UInt8]] {
            let found = NetlinkReport.attributes((good + bad)[...])
            #expect(found.keys.sorted() == [1], "what stands before is taken")
        }
        #expect(PFKeyReport([2, 8, 0, 3, 0, 0][...]) == nil)
        let cut = PFKeyReport(([2, 8, 0, 3] + [UInt8](repeating: 0, count: 12) + [9, 0, 1, 0])[...])
        #expect(cut?.extensions.isEmpty == true)
    }

    @Test func aWipedMessageHoldsNothing() {
        var message = KernelMessage()
        message.append(UInt64.max)
        message.wipe()
        #expect(message.octets.allSatisfy { $0 == 0 })
    }

    @Test func theFilterLetsPassWhatTheFlowsNameAndNothingElse() {
        let selector = TrafficSelector(
            source: IPPrefix(host: .v4(192, 168, 1, 10)), destination: group, ipProtocol: 17, destinationPort: 5_004)
        let opened = KernelFilter.Permission(request: 7, selector: selector)
        let tunnel = KernelFilter(origin: .tunnel("tun0")).ruleset([opened], outgoing: [])
        #expect(tunnel.contains("iifname \"tun0\" ipsec in reqid 7 ip saddr 192.168.1.10/32 ip daddr 239.1.1.1/32"))
        #expect(tunnel.contains("meta l4proto 17 th dport 5004 accept\niifname \"tun0\" counter drop"))
        let satellite = KernelFilter(origin: .satellite("sat0")).ruleset([], outgoing: [selector])
        #expect(satellite.contains("iifname \"sat0\" meta ipsec exists counter drop"))
        #expect(satellite.contains("th dport 5004 rt ipsec exists accept\noifname \"sat0\" ip daddr 224.0.0.0/4"))
    }

    /// Linux lets an interface be called almost anything.
    @Test func anInterfaceNameAddsNothingToTheFilter() {
        let name = "a\" accept\n"
        let origins = [KernelFilter.Origin.tunnel(name), .satellite(name)]
        for origin in origins {
            let filter = KernelFilter(origin: origin)
            let rules = filter.ruleset([], outgoing: [])
            #expect(rules.contains("iifname \"a accept\" ") && !rules.contains("iifname \"a\""))
            // What such a rule names is another interface, so nothing is loaded that looks like protection.
            let error = #expect(throws: DataPlaneError.self) { try filter.load([], outgoing: []) }
            #expect(error?.description.contains("cannot name") == true)
        }
        for name in ["tun*", "a\\b"] {
            #expect(throws: DataPlaneError.self) { try KernelFilter(origin: .tunnel(name)).load([], outgoing: []) }
        }
    }

    @Test func theGuardLetsInWhatWasOpenedOnlyWhenTold() {
        #expect(!FailClosedGuard.ruleset(interface: "sat0").contains("meta ipsec"))
        let rules = FailClosedGuard.ruleset(interface: "sat0", admitsOpened: true)
        #expect(rules.split(separator: "\n").count { $0.contains("meta ipsec exists accept") } == 1)
        #expect(FailClosedGuard.problem(interface: "sat0", listing: rules) == nil)
    }
}
