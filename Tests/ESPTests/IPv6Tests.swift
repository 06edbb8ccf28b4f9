// SPDX-License-Identifier: Apache-2.0
import Basics
import Cryptography
import ESP
import Testing

func address(_ text: String) -> IPAddress {
    guard let result = IPAddress(text) else { fatalError("an address has a typing error: \(text)") }
    return result
}

let groupV6 = address("ff15::1234")
let gatewayV6 = address("2001:db8:f::1")
let otherGatewayV6 = address("2001:db8:f::2")

/// A whole IPv6 packet.
func packetV6(
    from source: IPAddress = address("2001:db8:3::10"), to destination: IPAddress = groupV6, next: UInt8 = 17,
    trafficClass: UInt8 = 0, hops: UInt8 = 64, _ payload: [UInt8]
) -> [UInt8] {
    var writer = OctetWriter()
    writer.u32(6 << 28 | UInt32(trafficClass) << 20 | 0xabcde)
    writer.u16(UInt16(payload.count))
    writer.u8(next)
    writer.u8(hops)
    writer.append(source.octets)
    writer.append(destination.octets)
    writer.append(payload)
    return writer.bytes
}

/// An inner packet of the IPv6 group with `count` octets of data.
func innerV6(_ count: Int = 11) -> [UInt8] { packetV6(datagram((0..<count).map { UInt8(truncatingIfNeeded: $0) })) }

/// Parameters of an SA of the IPv6 group, or of another destination.
func parametersV6(
    _ suite: ESPSuite = .aes128gcm, spi: UInt32 = 0x6001, destination: IPAddress = groupV6,
    selector: TrafficSelector? = nil, source: IPAddress? = nil, senderID: UInt16 = 0
) -> SAParameters {
    let own = TrafficSelector(source: prefix("2001:db8:3::/48"), destination: IPPrefix(host: destination))
    return parameters(
        suite, spi: spi, destination: destination, selector: selector ?? own, source: source, senderID: senderID)
}

private func read(_ octets: [UInt8]) throws(PacketDrop) -> InnerPacket { try InnerPacket(reading: octets.span) }

/// An extension header of 8 octets and 8 more for each of `more`.
private func header(next: UInt8, more: UInt8 = 0) -> [UInt8] {
    [next, more] + [UInt8](repeating: 0, count: 6 + 8 * Int(more))
}

/// A Fragment header (RFC 8200 4.5); the offset in octets.
private func fragment(next: UInt8, offset: UInt16 = 0, more: Bool = false) -> [UInt8] {
    let field = offset & 0xfff8 | (more ? 1 : 0)
    return [next, 0, UInt8(field >> 8), UInt8(field & 0xff), 0, 0, 0, 9]
}

// tests: RFC 8200 3 and 4, RFC 4301 4.4.1.1 and 7
@Suite struct InnerV6Tests {
    @Test func addressesProtocolAndPorts() throws {
        let packet = try read(packetV6(datagram(from: 1_234, to: 5_004, [1, 2])) + [9, 9])
        #expect(packet.source == address("2001:db8:3::10") && packet.destination == groupV6)
        #expect(packet.ipProtocol == 17 && packet.sourcePort == 1_234 && packet.destinationPort == 5_004)
        #expect(packet.count == 50, "without what stands behind it")
        let other = try read(packetV6(next: 58, [128, 0, 0, 0]))
        #expect(other.ipProtocol == 58 && other.sourcePort == nil && other.destinationPort == nil)
        #expect(try read(packetV6(next: 59, [])).count == 40, "no next header")
        #expect(try read(packetV6(next: 17, [1, 2, 3])).sourcePort == nil, "too short for ports")
    }

    @Test func everyLength() {
        let whole = packetV6(next: 0, header(next: 60, more: 1) + header(next: 17) + datagram([1, 2, 3]))
        for size in 0..<whole.count {
            #expect(drop { () throws(PacketDrop) in try read([UInt8](whole.prefix(size))) } == .malformed)
            var shortened = [UInt8](whole.prefix(size))
            guard size >= 40 else { continue }
            shortened[5] = UInt8(size - 40)
            let isWhole = size >= 40 + 16 + 8
            let result = drop { () throws(PacketDrop) in try read(shortened) }
            #expect(result == (isWhole ? nil : .malformed), "\(size) octets, and it says so")
        }
        for version: UInt8 in [0, 1, 5, 7, 15] {
            var changed = whole
            changed[0] = version << 4
            #expect(drop { () throws(PacketDrop) in try read(changed) } == .malformed)
        }
    }

    @Test func portsAreFoundBehindExtensionHeaders() throws {
        // What each header costs: AH counts in fours.
        let authentication: [UInt8] = [17, 4] + [UInt8](repeating: 0, count: 22)
        let options = header(next: 60) + header(next: 43) + header(next: 44, more: 2)
        let all = options + fragment(next: 60) + header(next: 17)
        let chains: [(first: UInt8, headers: [UInt8])] = [
            (0, header(next: 17)), (43, header(next: 17, more: 2)), (60, header(next: 17, more: 31)),
            (135, header(next: 17)), (139, header(next: 17, more: 4)), (140, header(next: 17)), (51, authentication),
            (0, all), (44, fragment(next: 17, more: true)),
        ]
        for (first, headers) in chains {
            let packet = try read(packetV6(next: first, headers + datagram(from: 7, to: 5_004, [1])))
            #expect(packet.ipProtocol == 17 && packet.sourcePort == 7 && packet.destinationPort == 5_004)
        }
    }

    @Test func aChainHasABound() throws {
        func chain(_ count: Int) -> [UInt8] {
            let headers = (0..<count).flatMap { header(next: $0 == count - 1 ? 17 : 60) }
            return packetV6(next: count == 0 ? 17 : 60, headers + datagram([1]))
        }
        for count in 0...InnerPacket.extensionHeaderLimit { #expect(try read(chain(count)).destinationPort == 5_004) }
        for count in InnerPacket.extensionHeaderLimit + 1...30 {
            #expect(drop { () throws(PacketDrop) in try read(chain(count)) } == .malformed)
        }
    }

    @Test func laterFragmentsShowNoPorts() throws {
        for chain in [fragment(next: 17, offset: 8), fragment(next: 17, offset: 1_232, more: true)] {
            let packet = try read(packetV6(next: 44, chain + datagram([1])))
            #expect(packet.ipProtocol == 17 && packet.sourcePort == nil)
        }
        // What follows is data, however much it looks like headers.
        let nested = fragment(next: 44, offset: 8) + fragment(next: 17) + datagram([1])
        #expect(try read(packetV6(next: 44, nested)).sourcePort == nil)
        #expect(try read(packetV6(next: 44, nested)).ipProtocol == 44)
        #expect(try read(packetV6(next: 44, fragment(next: 60, offset: 8) + [17])).sourcePort == nil)
        // A fragment in a first fragment: odd, but its ports are there.
        let twice = fragment(next: 44) + fragment(next: 17) + datagram([1])
        #expect(try read(packetV6(next: 44, twice)).destinationPort == 5_004)
        let hidden = fragment(next: 44) + fragment(next: 17, offset: 8) + datagram([1])
        #expect(try read(packetV6(next: 44, hidden)).sourcePort == nil)
    }

    @Test func selectorsMatch() throws {
        var selector = parametersV6().selector
        selector.ipProtocol = 17
        selector.destinationPort = 5_004
        #expect(try selector.admits(read(innerV6())))
        #expect(try selector.admits(read(packetV6(next: 0, header(next: 17) + datagram([1])))))
        #expect(try !selector.admits(read(packetV6(next: 44, fragment(next: 17, offset: 8) + datagram([1])))))
        #expect(try selector.admits(read(packetV6(next: 44, fragment(next: 17, more: true) + datagram([1])))))
        #expect(try !selector.admits(read(packetV6(from: address("2001:db8:4::1"), datagram([1])))))
        #expect(try !selector.admits(read(packetV6(datagram(to: 5_005, [1])))))
        let any = TrafficSelector(source: .allV4, destination: .allV4)
        #expect(try !any.admits(read(innerV6())), "all of IPv4 is nothing of IPv6")
        #expect(try !TrafficSelector(source: .allV6, destination: .allV6).admits(read(inner())))
    }
}

// tests: RFC 4303 2.6 and 3.3, RFC 4301 5.1 and 5.2
@Suite struct NestingTests {
    /// One SA, sender and receiver with both addresses.
    private func pair(
        _ parameters: SAParameters
    ) throws -> (SecurityAssociationDatabase, SecurityAssociationDatabase) {
        let sender = SecurityAssociationDatabase(
            localAddresses: [gateway, gatewayV6], linkMTU: 9_000, random: SeededRandom(seed: 1))
        let receiver = SecurityAssociationDatabase(
            localAddresses: [otherGateway, otherGatewayV6], random: SeededRandom(seed: 2))
        try sender.apply(.addOutbound(parameters))
        try sender.apply(.activateOutbound(parameters.key))
        try receiver.apply(.addInbound(parameters))
        return (sender, receiver)
    }

    private static let v4 = TrafficSelector(source: prefix("192.168.0.0/16"), destination: prefix("192.168.4.0/24"))
    private static let v6 = TrafficSelector(source: prefix("2001:db8::/32"), destination: prefix("2001:db8:4::/48"))
    private static func original(_ isV4: Bool, _ size: Int) -> [UInt8] {
        let data = datagram([UInt8](repeating: 5, count: size))
        return isV4
            ? packet(to: .v4(192, 168, 4, 7), data) : packetV6(to: address("2001:db8:4::7"), data)
    }

    @Test(arguments: ESPSuite.allCases)
    func allFour(suite: ESPSuite) throws {
        for (isOuterV4, isInnerV4) in [(true, true), (true, false), (false, true), (false, false)] {
            let parameters = parameters(
                suite, destination: isOuterV4 ? otherGateway : otherGatewayV6,
                selector: isInnerV4 ? Self.v4 : Self.v6)
            let (sender, receiver) = try pair(parameters)
            for size in Array(0...40) + [1_000, 1_400] {
                let original = Self.original(isInnerV4, size)
                let (sealed, octets) = try sender.seal(original)
                #expect(sealed.source == (isOuterV4 ? gateway : gatewayV6))
                #expect(sealed.destination == parameters.key.destination)
                #expect(octets.count == suite.sealedSize(inner: original.count))
                let opened = try receiver.open(octets, from: sealed.source, to: sealed.destination)
                #expect(opened == original)
            }
            let other = drop { () throws(PacketDrop) in try sender.seal(Self.original(!isInnerV4, 5)) }
            #expect(other == .noPolicy, "the other family has no SA")
        }
    }

    @Test func theSourceIsOfTheOuterFamily() throws {
        // A profile names the client's address of the control channel, whatever the group's family is.
        let (sender, _) = try pair(parametersV6(source: gateway))
        #expect(try sender.seal(innerV6()).sealed.source == gatewayV6)
        let single = SecurityAssociationDatabase(localAddresses: [gateway], random: SeededRandom(seed: 1))
        try single.apply(.addOutbound(parametersV6()))
        try single.apply(.activateOutbound(parametersV6().key))
        #expect(try single.seal(innerV6()).sealed.source == .anyV6, "the caller's matter")
    }

    @Test func ownPacketsOfBothFamilies() throws {
        let (sender, receiver) = try pair(parametersV6())
        let octets = try sender.seal(innerV6()).octets
        for own in [otherGateway, otherGatewayV6] {
            let result = drop { () throws(PacketDrop) in try receiver.open(octets, from: own, to: groupV6) }
            #expect(result == .ownPacket)
        }
        #expect(try receiver.open(octets, from: gatewayV6, to: groupV6) == innerV6())
    }

    @Test(arguments: ESPSuite.allCases)
    func theLinkCountsTheLargerHeader(suite: ESPSuite) throws {
        let sender = SecurityAssociationDatabase(localAddresses: [gatewayV6], random: SeededRandom(seed: 1))
        try sender.apply(.addOutbound(parametersV6(suite)))
        try sender.apply(.activateOutbound(parametersV6().key))
        let largest = suite.largestInner(sealed: 1_460)
        #expect(try sender.seal(packetV6([UInt8](repeating: 1, count: largest - 40))).octets.count <= 1_460)
        let over = packetV6([UInt8](repeating: 1, count: largest - 39))
        #expect(drop { () throws(PacketDrop) in try sender.seal(over) } == .tooBig)
    }

    @Test(arguments: ESPSuite.allCases)
    func everyBitOfAnIPv6Packet(suite: ESPSuite) throws {
        let sender = try OutboundSA(parametersV6(suite), random: SeededRandom(seed: 1))
        let receiver = try InboundSA(parametersV6(suite))
        let sealed = try sender.seal(innerV6(9))
        for bit in 0..<sealed.count * 8 {
            var changed = sealed
            changed[bit / 8] ^= 0x80 >> UInt8(bit % 8)
            let result = drop { () throws(PacketDrop) in try receiver.open(changed) }
            #expect(result == (bit == 63 ? .replay : .notAuthentic), "bit \(bit)")
        }
        for size in 0..<sealed.count {
            #expect(drop { () throws(PacketDrop) in try receiver.open([UInt8](sealed.prefix(size))) } != nil)
        }
        #expect(try receiver.open(sealed) == innerV6(9))
    }

    @Test func theTrailerNamesTheFamily() throws {
        func result(_ plain: [UInt8], next: UInt8) throws -> PacketDrop? {
            // A sender that has the key and writes what it likes.
            let material = parametersV6().cipherKey
            let padding = (4 - (plain.count + 2) % 4) % 4
            let text = plain + (0..<padding).map { UInt8($0 + 1) } + [UInt8(padding), next]
            let head: [UInt8] = [0, 0, 0x60, 0x01, 0, 0, 0, 1]
            let iv: [UInt8] = [0, 0, 0, 0, 0, 0, 0, 1]
            let sealed = try AESGCM.seal(
                text, key: material[0..<16], nonce: material[16..<20].revealed() + iv, aad: head)
            let receiver = try InboundSA(parametersV6())
            return drop { () throws(PacketDrop) in try receiver.open(head + iv + sealed) }
        }
        #expect(try result(innerV6(), next: 41) == nil)
        #expect(try result(innerV6(), next: 4) == .malformed)
        #expect(try result(inner(), next: 41) == .malformed)
        #expect(try result(inner(), next: 4) == .policyMismatch, "IPv4 in the SA of an IPv6 group")
        #expect(try result(innerV6() + [UInt8](repeating: 0, count: 50), next: 41) == nil, "traffic-flow padding")
        #expect(try result(packetV6(to: address("ff15::1235"), datagram([1])), next: 41) == .policyMismatch)
        let good = innerV6(20)
        for size in 0..<good.count { #expect(try result([UInt8](good.prefix(size)), next: 41) == .malformed) }
    }
}
