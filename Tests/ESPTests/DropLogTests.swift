// SPDX-License-Identifier: Apache-2.0
import Basics
import ESP
import Testing

extension LogEvent {
    fileprivate subscript(name: String) -> String? { fields.first { $0.name == name }?.value }
}

/// One line of each kind of drop, with what is known of the packet.
@Suite struct DropLogTests {
    private func database() throws -> SecurityAssociationDatabase {
        let database = SecurityAssociationDatabase(localAddresses: [otherGateway], random: SeededRandom(seed: 2))
        try database.apply(.addInbound(parameters()))
        return database
    }

    @Test func whatArrivesIsNamedByItsHeader() throws {
        let database = try database()
        let sender = try OutboundSA(parameters(source: gateway), random: SeededRandom(seed: 1))
        var sealed = try sender.seal(inner())
        sealed[30] ^= 1
        #expect(drop { () throws(PacketDrop) in try database.open(sealed) } == .notAuthentic)
        let event = try #require(database.takeEvents().first)
        #expect(event.name == "packet.dropped" && event.level == .info)
        #expect(event["reason"] == "notAuthentic" && event["direction"] == "inbound" && event["group"] == "video")
        #expect(event["spi"] == "0x00001001" && event["sequence"] == "1" && event["omitted"] == "0")
        #expect(event["from"] == "10.1.0.1" && event["to"] == "239.1.1.1" && event["flow"] == nil, "nobody has read it")
        #expect(database.takeEvents().isEmpty, "once")
        #expect(drop { () throws(PacketDrop) in try database.open([0, 0, 9, 9] + sealed.dropFirst(4)) } == .unknownSPI)
        let unknown = try #require(database.takeEvents().first)
        #expect(unknown["reason"] == "unknownSPI" && unknown["spi"] == "0x00000909" && unknown["group"] == nil)
        #expect(drop { () throws(PacketDrop) in try database.open([1, 2, 3]) } == .malformed)
        #expect(database.takeEvents().first?["reason"] == "malformed")
    }

    @Test func whatWasReadIsNamedByItsFlow() throws {
        let database = try database()
        let sender = try OutboundSA(parameters(source: gateway), random: SeededRandom(seed: 1))
        let foreign = packet(from: .v4(10, 9, 9, 9), datagram(from: 1_000, to: 2_000, [1]))
        let sealed = try sender.seal(foreign)
        #expect(drop { () throws(PacketDrop) in try database.open(sealed) } == .policyMismatch)
        #expect(database.takeEvents().first?["flow"] == "17 10.9.9.9:1000 -> 239.1.1.1:2000")
        #expect(drop { () throws(PacketDrop) in try database.open(sealed) } == .replay)
        #expect(database.takeEvents().first?["flow"] == nil, "not that of the packet before")
        #expect(drop { () throws(PacketDrop) in try database.seal(inner()) } == .noPolicy)
        let event = try #require(database.takeEvents().first)
        #expect(event["reason"] == "noPolicy" && event["direction"] == "outbound" && event["spi"] == nil)
        #expect(event["flow"] == "17 192.168.3.10:5000 -> 239.1.1.1:5004")
        try database.apply(.addOutbound(parameters(source: otherGateway, octetLimit: 1)))
        #expect(drop { () throws(PacketDrop) in try database.seal(packet(protocol: 1, [8, 0])) } == .noActiveSA)
        #expect(database.takeEvents().first?["flow"] == "1 192.168.3.10 -> 239.1.1.1")
        try database.apply(.activateOutbound(parameters().key))
        #expect(drop { () throws(PacketDrop) in try database.seal(inner()) } == .expired)
        let expired = try #require(database.takeEvents().first)
        #expect(expired["spi"] == "0x00001001" && expired["group"] == "video" && expired["flow"] != nil)
    }

    // A flood of 10,000 in one second makes 20 lines; one second later there is one more, which counts the rest.
    @Test func aFloodMakesFewLines() throws {
        let database = try database()
        var lines = 0
        for number in 0..<10_000 {
            _ = drop { () throws(PacketDrop) in try database.seal(inner()) }
            if number % 10 == 0 { lines += database.takeEvents().count }
        }
        #expect(lines == 20)
        let later = start + .seconds(1)
        #expect(drop { () throws(PacketDrop) in try database.seal(inner(), now: later) } == .noPolicy)
        #expect(database.takeEvents().map { $0["omitted"] } == ["9980"])
        #expect(database.totalDrops == [.noPolicy: 10_001], "each is counted")
        // Another reason has lines of its own.
        #expect(drop { () throws(PacketDrop) in try database.open([1, 2, 3], now: later) } == .malformed)
        #expect(database.takeEvents().count == 1)
    }

    @Test func whatIsAsItShouldBeMakesNoLine() throws {
        let database = try database()
        let sender = try OutboundSA(parameters(), random: SeededRandom(seed: 1))
        let sealed = try sender.seal(inner())
        #expect(drop { () throws(PacketDrop) in try database.open(sealed, from: otherGateway) } == .ownPacket)
        #expect(try database.open(sealed) == inner())
        #expect(database.takeEvents().isEmpty && database.totalDrops == [.ownPacket: 1])
    }

    @Test func nobodyHasToAsk() throws {
        let database = try database()
        for second in 0..<1_000 {
            _ = drop { () throws(PacketDrop) in try database.seal(inner(), now: start + .seconds(Int64(second))) }
        }
        #expect(database.takeEvents().count == 64)
    }
}
