// SPDX-License-Identifier: Apache-2.0
import Basics
import ESP
import Testing

/// A client's own rules before the flows of the GCKS (RFC 4301 4.4.1: ordered, the first that names a packet decides).
@Suite struct PolicyTests {
    private static let cameras = TrafficSelector(source: prefix("192.168.3.0/24"), destination: prefix("239.1.1.1/32"))

    private func database(_ rules: [PolicyRule]) throws -> SecurityAssociationDatabase {
        let database = SecurityAssociationDatabase(
            localAddresses: [otherGateway], rules: rules, random: SeededRandom(seed: 2))
        try database.apply(.addInbound(parameters()))
        try database.apply(.addOutbound(parameters(spi: 0x1002, source: otherGateway)))
        try database.apply(.activateOutbound(parameters(spi: 0x1002).key))
        return database
    }

    @Test func theFirstRuleDecides() throws {
        var one = Self.cameras
        one.source = prefix("192.168.3.10/32")
        let discard = PolicyRule(.discard, Self.cameras)
        let keep = PolicyRule(.protect, one)
        let mine = inner()  // from 192.168.3.10
        let other = packet(from: .v4(192, 168, 3, 11), datagram([1]))
        let foreign = packet(from: .v4(192, 168, 4, 1), datagram([1]))
        for (rules, drops) in [
            ([], [nil, nil, nil]), ([discard], [.discarded, .discarded, nil]),
            ([keep, discard], [nil, .discarded, nil]), ([discard, keep], [.discarded, .discarded, nil]),
            ([PolicyRule(.bypass, one)], [.noPolicy, nil, nil]),
        ] as [([PolicyRule], [PacketDrop?])] {
            let database = try database(rules)
            for (packet, wanted) in zip([mine, other, foreign], drops) {
                #expect(drop { () throws(PacketDrop) in try database.seal(packet) } == wanted, "\(rules)")
            }
        }
    }

    /// What others send to the group is discarded as well, and counted where it was opened.
    @Test func whatComesInIsLookedAtToo() throws {
        var ports = Self.cameras
        (ports.ipProtocol, ports.destinationPort) = (17, 5_004)
        let database = try database([PolicyRule(.discard, ports)])
        let sender = try OutboundSA(parameters(source: gateway), random: SeededRandom(seed: 1))
        let bad = try sender.seal(inner())
        let good = packet(datagram(to: 5_005, [1]))
        #expect(drop { () throws(PacketDrop) in try database.open(bad) } == .discarded)
        #expect(try database.open(sender.seal(good)) == good)
        #expect(database.totalDrops == [.discarded: 1])
        #expect(database.snapshot().first { $0.direction == .inbound }?.counters.drops == [.discarded: 1])
        let line = try #require(database.takeEvents().first)
        #expect(line.fields.contains { $0.name == "flow" && $0.value == "17 192.168.3.10:5000 -> 239.1.1.1:5004" })
    }

    /// A rule speaks of packets on their way out; of a unicast that comes in it means the answer.
    @Test func answersAreMeantToo() throws {
        let lan = prefix("192.168.9.0/24")
        let association = parameters(
            destination: otherGateway, selector: TrafficSelector(source: .allV4, destination: lan), source: gateway)
        let rule = PolicyRule(
            .discard, TrafficSelector(source: lan, destination: prefix("10.7.0.0/16"), ipProtocol: 6))
        let database = SecurityAssociationDatabase(
            localAddresses: [otherGateway], rules: [rule], random: SeededRandom(seed: 2))
        try database.apply(.addInbound(association))
        let sender = try OutboundSA(association, random: SeededRandom(seed: 1))
        func open(from source: IPAddress, _ ipProtocol: UInt8) throws -> PacketDrop? {
            let sealed = try sender.seal(
                packet(from: source, to: .v4(192, 168, 9, 1), protocol: ipProtocol, [0, 1, 2, 3]))
            return drop { () throws(PacketDrop) in try database.open(sealed, to: otherGateway) }
        }
        #expect(try open(from: .v4(10, 7, 1, 1), 6) == .discarded)
        #expect(try open(from: .v4(10, 7, 1, 1), 17) == nil)
        #expect(try open(from: .v4(10, 8, 1, 1), 6) == nil)
    }

    @Test func selectorsCoverAndTurn() {
        let wide = TrafficSelector(source: .allV4, destination: prefix("10.0.0.0/8"))
        var narrow = TrafficSelector(
            source: prefix("192.168.1.0/24"), destination: prefix("10.1.0.0/16"), ipProtocol: 17, destinationPort: 53)
        #expect(wide.covers(narrow) && wide.covers(wide) && !narrow.covers(wide))
        #expect(narrow.reversed.sourcePort == 53 && narrow.reversed.source == prefix("10.1.0.0/16"))
        #expect(narrow.reversed.reversed == narrow)
        let dns = narrow
        narrow.destinationPort = 0
        #expect(narrow.covers(dns) && !dns.covers(narrow))
        narrow.destination = .allV6
        #expect(!wide.covers(narrow))
    }
}
