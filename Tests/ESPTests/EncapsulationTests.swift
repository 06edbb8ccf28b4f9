// SPDX-License-Identifier: Apache-2.0
import Basics
import Cryptography
import Testing

@testable import ESP

/// ESP in UDP (RFC 3948) as far as the SA database goes.
@Suite struct EncapsulationTests {
    private let ours = IPAddress.v4(10, 0, 0, 1)
    private let peer = IPAddress.v4(10, 0, 0, 2)
    private let now = Instant.zero + .seconds(1)

    private func parameters(_ spi: UInt32, inUDP: Bool) throws -> SAParameters {
        var parameters = SAParameters(
            key: SAKey(spi: spi, destination: peer),
            selector: TrafficSelector(
                source: prefix("192.168.1.0/24"), destination: prefix("192.168.2.0/24")),
            suite: .aes256gcm, cipherKey: Secret([UInt8](repeating: UInt8(spi), count: 36)), authenticationKey: nil,
            source: ours, senderID: 0, name: "vpn", hasOneSender: true)
        if inUDP { parameters.encapsulation = UDPEncapsulation(localPort: 4_500, remote: SocketAddress(peer, 34_567)) }
        return parameters
    }

    private func sender(_ parameters: SAParameters, linkMTU: Int = 1_500) throws -> SecurityAssociationDatabase {
        let database = SecurityAssociationDatabase(
            localAddresses: [ours], linkMTU: linkMTU, random: SeededRandom(seed: 1))
        try database.apply(.addOutbound(parameters))
        try database.apply(.activateOutbound(parameters.key))
        return database
    }

    /// An inner IPv4 packet of so many octets with room around it.
    private func inner(_ count: Int, mayBeCut: Bool = true) -> [UInt8] {
        var packet: [UInt8] = [
            0x45, 0, UInt8(count >> 8), UInt8(count & 255), 0, 1, mayBeCut ? 0 : 0x40, 0, 9, 17, 0, 0,
        ]
        packet += [192, 168, 1, 10, 192, 168, 2, 10] + [UInt8](repeating: 7, count: count - 20)
        return [UInt8](repeating: 0, count: 64) + packet + [UInt8](repeating: 0, count: 64)
    }

    private func seal(_ database: SecurityAssociationDatabase, _ buffer: inout [UInt8]) throws(PacketDrop)
        -> SecurityAssociationDatabase.Sealed
    {
        var span = buffer.mutableSpan
        return try database.encapsulate(in: &span, inner: 64..<span.count - 64, now: now)
    }

    @Test(arguments: [(true, true), (false, false), (true, false), (false, true)])
    func anSAIsHeardTheWayItTravels(asked: Bool, came: Bool) throws {
        let parameters = try parameters(1, inUDP: asked)
        var buffer = inner(100)
        let sealed = try seal(sender(parameters), &buffer)
        #expect(sealed.encapsulation == parameters.encapsulation)
        let receiver = SecurityAssociationDatabase(localAddresses: [peer], random: SeededRandom(seed: 2))
        try receiver.apply(.addInbound(parameters))
        var span = buffer.mutableSpan
        if asked == came {
            let opened = try receiver.decapsulate(
                in: &span, packet: sealed.range, source: .v4(10, 9, 9, 9), destination: peer, isInUDP: came, now: now)
            #expect(opened.count == 100, "from any outer source")
        } else {
            #expect(throws: PacketDrop.encapsulation) {
                try receiver.decapsulate(
                    in: &span, packet: sealed.range, source: ours, destination: peer, isInUDP: came, now: now)
            }
            #expect(receiver.totalDrops == [.encapsulation: 1])
            #expect(receiver.snapshot().first?.counters.drops == [.encapsulation: 1])
            // Its number was not spent.
            let opened = try receiver.decapsulate(
                in: &span, packet: sealed.range, source: ours, destination: peer, isInUDP: asked, now: now)
            #expect(opened.count == 100)
        }
    }

    @Test func theHeaderOfUDPCountsForTheLink() throws {
        for (inUDP, largest) in [(false, 1_446), (true, 1_438)] {
            let database = try sender(parameters(1, inUDP: inUDP))
            var fits = inner(largest)
            let sealed = try seal(database, &fits)
            #expect(sealed.range.count + 20 + (inUDP ? 8 : 0) <= 1_500)
            var tooBig = inner(largest + 1, mayBeCut: false)
            #expect(throws: PacketDrop.tooBig) { try seal(database, &tooBig) }
            let read = try InnerPacket(reading: tooBig.span.extracting(64..<64 + largest + 1))
            #expect(database.largestInner(for: read, now: now) == largest)
        }
    }

    @Test func theFirstOctetsTellWhatADatagramIs() {
        func kind(_ octets: [UInt8]) -> PayloadInUDP { PayloadInUDP(reading: octets.span) }
        #expect(kind([0xff]) == .keepalive)
        #expect(kind([0xfe]) == .keyExchange && kind([]) == .keyExchange && kind([0xff, 0xff]) == .keyExchange)
        #expect(kind([0, 0, 0, 0, 1, 2, 3, 4, 5]) == .keyExchange, "the marker")
        #expect(kind([0, 0, 1, 0, 0, 0, 0, 1]) == .esp)
        #expect(kind([0, 0, 1, 0, 0, 0, 0]) == .keyExchange, "too short for ESP")
    }
}
