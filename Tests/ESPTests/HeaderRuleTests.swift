// SPDX-License-Identifier: Apache-2.0
import Basics
import Cryptography
import ESP
import Testing

/// What becomes of an inner packet whose outer header carried `outer`.
private func marked(_ packet: [UInt8], outer: UInt8) throws(PacketDrop) -> [UInt8] {
    var buffer = packet
    var span = buffer.mutableSpan
    try TrafficClass.carryMark(outer: outer, into: &span, packet: 0..<packet.count)
    return buffer
}

private func withClass(_ octet: UInt8, _ original: [UInt8]) -> [UInt8] {
    var packet = original
    packet[1] = octet
    (packet[10], packet[11]) = (0, 0)
    let sum = headerSum(packet)
    (packet[10], packet[11]) = (UInt8(~sum >> 8 & 0xff), UInt8(~sum & 0xff))
    return packet
}

/// The one's complement sum of an IPv4 header: 0xffff when its checksum is right.
private func headerSum(_ packet: [UInt8]) -> UInt32 {
    var sum: UInt32 = 0
    for index in stride(from: 0, to: 20, by: 2) { sum += UInt32(packet[index]) << 8 | UInt32(packet[index + 1]) }
    while sum > 0xffff { sum = sum >> 16 + sum & 0xffff }
    return sum
}

// tests: RFC 4301 5.1.2.1, RFC 6040 4
@Suite struct TrafficClassTests {
    @Test func theOuterOctet() {
        for octet: UInt8 in 0...255 {
            #expect(TrafficClass.outer(for: octet, dscp: nil) == octet)
            #expect(TrafficClass.outer(for: octet, dscp: 46) == 184 | octet & 3, "the ECN field goes along")
        }
    }

    /// RFC 6040, figure 4: rows are inner, columns outer Not-ECT, ECT(1), ECT(0), CE.
    private static let table: [[UInt8?]] = [[0, 0, 0, nil], [1, 1, 1, 3], [2, 1, 2, 3], [3, 3, 3, 3]]

    @Test func marksComeIn() throws {
        for (inner, row) in Self.table.enumerated() {
            for (outer, expected) in row.enumerated() {
                for dscp: UInt8 in [0, 10, 46, 63] {
                    let octet = dscp << 2 | UInt8(inner)
                    let v4 = withClass(octet, packet(datagram([1, 2, 3])))
                    let v6 = packetV6(trafficClass: octet, datagram([1, 2, 3]))
                    for original in [v4, v6] {
                        guard let expected else {
                            let result = drop { () throws(PacketDrop) in try marked(original, outer: UInt8(outer)) }
                            #expect(result == .congestion)
                            continue
                        }
                        // The outer DSCP is nobody's business inside.
                        let result = try marked(original, outer: UInt8(outer) | 0xa8)
                        #expect(TrafficClass.read(result.span) == octet & 0xfc | expected)
                        if original[0] >> 4 == 4 { #expect(headerSum(result) == 0xffff) }
                        #expect(result.count == original.count && result[12...] == original[12...])
                    }
                }
            }
        }
    }
}

// tests: RFC 4301 8.2
@Suite struct PathMTUTests {
    private static let selector = TrafficSelector(source: .allV4, destination: prefix("192.168.4.0/24"))
    private static let selectorV6 = TrafficSelector(source: .allV6, destination: prefix("2001:db8:4::/48"))

    private func sender(_ parameters: SAParameters) throws -> SecurityAssociationDatabase {
        let database = SecurityAssociationDatabase(
            localAddresses: [gateway, gatewayV6], linkMTU: 1_600, wholeMTU: 1_500, random: SeededRandom(seed: 1))
        try database.apply(.addOutbound(parameters))
        try database.apply(.activateOutbound(parameters.key))
        return database
    }

    private func v4(_ size: Int, df: Bool) -> [UInt8] {
        packet(to: .v4(192, 168, 4, 7), fragment: df ? 0x4000 : 0, [UInt8](repeating: 1, count: size - 20))
    }

    private func v6(_ size: Int) -> [UInt8] {
        packetV6(to: address("2001:db8:4::7"), next: 59, [UInt8](repeating: 1, count: size - 40))
    }

    private func tell(
        _ database: SecurityAssociationDatabase, _ mtu: Int, to peer: IPAddress = otherGateway, spi: UInt32 = 0x1001,
        sequence: UInt32 = 1, now: Instant = start
    ) -> Bool {
        database.notePathMTU(mtu, destination: peer, spi: spi, sequence: sequence, now: now)
    }

    @Test func whatMayNotBeCutMustFit() throws {
        let database = try sender(parameters(destination: otherGateway, selector: Self.selector))
        let whole = ESPSuite.aes128gcm.largestInner(sealed: 1_480)
        #expect(try !database.seal(v4(whole, df: true)).sealed.exceedsPath)
        #expect(drop { () throws(PacketDrop) in try database.seal(v4(whole + 1, df: true)) } == .tooBig)
        #expect(try database.seal(v4(whole + 1, df: false)).sealed.exceedsPath, "it is cut outside")
        #expect(tell(database, 1_000))
        let smaller = ESPSuite.aes128gcm.largestInner(sealed: 980)
        let tooBig = v4(smaller + 1, df: true)
        #expect(try database.seal(v4(smaller, df: true)).sealed.isIndivisible)
        #expect(drop { () throws(PacketDrop) in try database.seal(tooBig) } == .tooBig)
        #expect(try database.largestInner(for: InnerPacket(reading: tooBig.span), now: start) == smaller)
    }

    @Test func smallIPv6PacketsAreAlwaysCarried() throws {
        let database = try sender(
            parameters(destination: otherGatewayV6, selector: Self.selectorV6))
        #expect(tell(database, 1_280, to: otherGatewayV6) == false, "nothing was sent yet")
        _ = try database.seal(v6(100))
        #expect(tell(database, 1_280, to: otherGatewayV6))
        #expect(try database.seal(v6(1_280)).sealed.exceedsPath)
        #expect(drop { () throws(PacketDrop) in try database.seal(v6(1_281)) } == .tooBig)
        let read = try InnerPacket(reading: v6(1_281).span)
        #expect(database.largestInner(for: read, now: start) == 1_280)
    }

    @Test func onlyWhatQuotesOurPacketsIsBelieved() throws {
        let database = try sender(parameters(destination: otherGateway, selector: Self.selector))
        for _ in 0..<5 { _ = try database.seal(v4(100, df: true)) }
        #expect(!tell(database, 1_000, spi: 0x1002))
        #expect(!tell(database, 1_000, to: .v4(10, 1, 0, 3)))
        #expect(!tell(database, 1_000, sequence: 6) && !tell(database, 1_000, sequence: 0), "never sent")
        #expect(database.pathMTUs.isEmpty)
        #expect(tell(database, 1_000, sequence: 5))
        #expect(tell(database, 1_400) && database.pathMTUs == [otherGateway: 1_000], "the smallest counts")
        #expect(tell(database, 68) && database.pathMTUs == [otherGateway: 576])
        try database.apply(.removeAll)
        #expect(database.pathMTUs.isEmpty)
    }

    @Test func groupsHaveNoPathMTU() throws {
        let database = try sender(parameters())
        _ = try database.seal(inner())
        #expect(!tell(database, 1_000, to: group))
        #expect(try !database.seal(packet([UInt8](repeating: 1, count: 1_500))).sealed.exceedsPath)
    }

    @Test func itIsForgotten() throws {
        let database = try sender(parameters(destination: otherGateway, selector: Self.selector))
        _ = try database.seal(v4(100, df: true))
        #expect(tell(database, 1_000))
        let large = v4(1_300, df: true)
        #expect(drop { () throws(PacketDrop) in try database.seal(large, now: start + .seconds(599)) } == .tooBig)
        #expect(try database.seal(large, now: start + .seconds(600)).octets.count > 1_300)
    }
}
