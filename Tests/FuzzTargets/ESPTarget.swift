// SPDX-License-Identifier: Apache-2.0

import Basics
import Cryptography
import ESP

/// The first octet says what the rest is. Bit 1 chooses the family inside and outside, IPv4 or (set) IPv6.
///
///     bits 2, 0    the rest is
///     0 0          what a raw socket gives: an outer IPv4 datagram with ESP, or over IPv6 the ESP packet alone
///     0 1          the plain text of an ESP packet, padding and trailer included, which is sealed under the SA's key
///     1 any        a packet from the LAN, which is sealed and opened again
enum ESPTarget {
    private static let key = Fixture.counting(from: 0x40, 36)
    private static let spi: UInt32 = 0x1001

    private struct Family: Sendable {
        let own: IPAddress
        let peer: IPAddress
        let group: IPAddress
        let selector: TrafficSelector

        init(own: String, peer: String, group: String, source: String) {
            guard let own = IPAddress(own), let peer = IPAddress(peer), let group = IPAddress(group),
                let source = IPPrefix(source)
            else { fatalError("these are addresses") }
            (self.own, self.peer, self.group) = (own, peer, group)
            selector = TrafficSelector(
                source: source, destination: IPPrefix(host: group), ipProtocol: 17, destinationPort: 5_004)
        }

        func parameters(_ selector: TrafficSelector) -> SAParameters {
            SAParameters(
                key: SAKey(spi: spi, destination: group), selector: selector, suite: .aes256gcm,
                cipherKey: Secret(key), authenticationKey: nil, source: nil, senderID: 0, name: "news")
        }
    }

    private static let v4 = Family(
        own: "192.0.2.2", peer: "192.0.2.1", group: "239.1.1.1", source: "198.51.100.0/24")
    private static let v6 = Family(
        own: "2001:db8::2", peer: "2001:db8::1", group: "ff15::1", source: "2001:db8:1::/48")

    private static func database(own: IPAddress) -> SecurityAssociationDatabase {
        SecurityAssociationDatabase(localAddresses: [own], linkMTU: 65_535, random: SeededRandom(seed: 1))
    }

    static func run(_ octets: [UInt8]) {
        guard let kind = octets.first else { return }
        let family = kind & 2 == 0 ? v4 : v6
        let rest = Array(octets.dropFirst())
        if kind & 4 != 0 { return roundTrip(rest, family) }
        let isSealed = kind & 1 == 0
        receive(isSealed ? rest : family.own.isV4 ? outer(sealed(rest)) : sealed(rest), family)
    }

    private static func receive(_ datagram: [UInt8], _ family: Family) {
        let database = database(own: family.own)
        Fixture.made { try database.apply(.addInbound(family.parameters(family.selector))) }
        guard let packet = open(datagram, database, family) else { return }
        guard let read = try? InnerPacket(reading: packet.span) else {
            return demand(false, "what comes out is a packet")
        }
        demand(
            family.selector.source.contains(read.source) && family.selector.destination.contains(read.destination)
                && read.ipProtocol == 17 && read.destinationPort == 5_004 && read.count == packet.count,
            "what comes out is the selector's")
        mark(packet)
    }

    private static func open(
        _ datagram: [UInt8], _ database: SecurityAssociationDatabase, _ family: Family
    ) -> [UInt8]? {
        var buffer = datagram
        let whole = 0..<buffer.count
        var inner = 0..<0
        do {
            var span = buffer.mutableSpan
            let range =
                family.own.isV4
                ? try? database.decapsulate(in: &span, datagram: whole, now: .zero)
                : try? database.decapsulate(
                    in: &span, packet: whole, source: family.peer, destination: family.group, now: .zero)
            guard let range else { return nil }
            inner = range
        }
        return Array(buffer[inner])
    }

    /// A congestion mark changes one octet, and the checksum of IPv4.
    private static func mark(_ packet: [UInt8]) {
        for outer: UInt8 in 0...3 {
            var buffer = packet
            var isMarked = false
            do {
                var span = buffer.mutableSpan
                isMarked = (try? TrafficClass.carryMark(outer: outer, into: &span, packet: 0..<packet.count)) != nil
            }
            let changed = packet.indices.filter { buffer[$0] != packet[$0] }
            demand(isMarked || changed.isEmpty, "what is dropped is not changed")
            demand(changed.allSatisfy { [1, 10, 11].contains($0) }, "a mark changes nothing else")
        }
    }

    private static func roundTrip(_ packet: [UInt8], _ family: Family) {
        let all: IPPrefix = family.own.isV4 ? .allV4 : .allV6
        let parameters = family.parameters(TrafficSelector(source: all, destination: all))
        let (sender, receiver) = (database(own: family.own), database(own: family.own))
        Fixture.made {
            try sender.apply(.addOutbound(parameters))
            try sender.apply(.activateOutbound(parameters.key))
            try receiver.apply(.addInbound(parameters))
        }
        var buffer = [UInt8](repeating: 0, count: 24) + packet + [UInt8](repeating: 0, count: 33)
        var esp: [UInt8] = []
        do {
            let inner = 24..<24 + packet.count
            var range = 0..<0
            do {
                var span = buffer.mutableSpan
                guard let sealed = try? sender.encapsulate(in: &span, inner: inner, now: .zero) else { return }
                range = sealed.range
            }
            esp = Array(buffer[range])
        }
        guard let read = try? InnerPacket(reading: packet.span) else {
            return demand(false, "what is sealed is a packet")
        }
        demand(
            open(family.own.isV4 ? outer(esp) : esp, receiver, family) == Array(packet.prefix(read.count)),
            "what was sealed is opened")
    }

    /// ESP with a valid tag around any plain text.
    private static func sealed(_ plain: [UInt8]) -> [UInt8] {
        let header: [UInt8] = [0, 0, 0x10, 0x01, 0, 0, 0, 9]
        let vector: [UInt8] = [0, 0, 0, 0, 0, 0, 0, 9]
        let text = Fixture.made {
            try AESGCM.seal(plain, key: Secret(key[..<32]), nonce: Array(key[32...]) + vector, aad: header)
        }
        return header + vector + text
    }

    private static func outer(_ payload: [UInt8]) -> [UInt8] {
        let count = 20 + payload.count
        let header: [UInt8] = [
            0x45, 0, UInt8(truncatingIfNeeded: count >> 8), UInt8(truncatingIfNeeded: count), 0, 0, 0x40, 0, 16, 50, 0,
            0, 192, 0, 2, 1, 239, 1, 1, 1,
        ]
        return header + payload
    }

    static let seeds: [[UInt8]] = {
        let udp: [UInt8] = [0x13, 0x88, 0x13, 0x8c, 0, 12, 0, 0, 1, 2, 3, 4]
        let inner: [UInt8] =
            [0x45, 0, 0, 32, 0, 0, 0x40, 0, 16, 17, 0, 0, 198, 51, 100, 7, 239, 1, 1, 1] + udp
        let plain = inner + [1, 2, 2, 4]
        func packet(_ next: UInt8, _ payload: [UInt8]) -> [UInt8] {
            let source = IPAddress.v6(0x2001_0db8_0001_0000, 7).octets
            return [0x60, 0, 0, 0, 0, UInt8(payload.count), next, 16] + source + v6.group.octets + payload
        }
        let options: [UInt8] = [60, 0, 5, 2, 0, 0, 1, 0, 44, 0, 1, 4, 0, 0, 0, 0, 17, 0, 0, 1, 0, 0, 0, 9]
        let innerV6 = packet(0, options + udp)
        let plainV6 = packet(17, udp) + [1, 2, 2, 41]
        return [
            [1] + plain, [0] + outer(sealed(plain)), [1] + inner + [0, 4], [3] + plainV6, [2] + sealed(plainV6),
            [3] + innerV6 + [1, 2, 2, 41], [4] + inner, [6] + innerV6,
        ]
    }()
}
