// SPDX-License-Identifier: Apache-2.0
import Basics
import Cryptography
import ESP
import Testing

private let site = prefix("192.168.9.0/24")
private let original = packet(to: .v4(192, 168, 9, 1), datagram([1, 2, 3]))

/// A unicast SA with extended sequence numbers.
private func extended(_ suite: ESPSuite) -> SAParameters {
    let selector = TrafficSelector(source: prefix("192.168.0.0/16"), destination: site)
    var association = parameters(suite, destination: otherGateway, selector: selector, source: gateway)
    association.extendedSequence = true
    return association
}

private let suites: [ESPSuite] = [.aes256gcm, .chacha20poly1305, .aes128sha256, .tripleDESsha1, .nullSHA256]

// tests: RFC 4303 2.2.1, 3.3.3, 3.4.3 and appendix A
@Suite struct ExtendedSequenceTests {
    @Test(arguments: suites)
    func numbersGoOnBeyondThirtyTwoBits(suite: ESPSuite) throws {
        let first = UInt64(UInt32.max) - 5
        let sender = try OutboundSA(extended(suite), random: SeededRandom(seed: 1), lastSequence: first)
        let receiver = try InboundSA(extended(suite), lastSequence: first)
        var sealed: [[UInt8]] = []
        for _ in 0..<20 { sealed.append(try sender.seal(original)) }
        #expect(Array(sealed[5][4..<8]) == [0, 0, 0, 0], "on the wire is the lower half")
        // Out of order, across the boundary and back.
        for index in [0, 7, 2, 19, 5, 4, 6, 1, 18] { #expect(try receiver.open(sealed[index]) == original) }
        for index in [0, 7, 5] {
            #expect(drop { () throws(PacketDrop) in try receiver.open(sealed[index]) } == .replay)
        }
        #expect(receiver.counters.sequence == first + 20 && sender.counters.sequence == first + 20)
    }

    /// Two whole rounds of the lower half later a packet looks like a fresh one, and only its ICV tells.
    @Test(arguments: suites)
    func theUpperHalfIsAuthentic(suite: ESPSuite) throws {
        let sender = try OutboundSA(extended(suite), random: SeededRandom(seed: 1), lastSequence: 99)
        let sealed = try sender.seal(original)
        let receiver = try InboundSA(extended(suite), lastSequence: 2 << 32)
        #expect(drop { () throws(PacketDrop) in try receiver.open(sealed) } == .notAuthentic)
        var plain = extended(suite)
        plain.extendedSequence = false
        let other = try InboundSA(plain)
        #expect(drop { () throws(PacketDrop) in try other.open(sealed) } == .notAuthentic)
    }

    // tests: RFC 4303 A3 - more than 2^32 packets were lost
    @Test(arguments: suites)
    func lostCountIsFoundAgain(suite: ESPSuite) throws {
        let receiver = try InboundSA(extended(suite), lastSequence: 1_000)
        let sender = try OutboundSA(extended(suite), random: SeededRandom(seed: 1), lastSequence: 3 << 32)
        var opened = 0
        for _ in 0..<400 where drop({ () throws(PacketDrop) in try receiver.open(sender.seal(original)) }) == nil {
            opened += 1
        }
        #expect(receiver.counters.sequence == sender.counters.sequence)
        #expect(opened >= 400 - 256 - 16 && opened < 400 - 255)
        let rest = try sender.seal(original)
        #expect(try receiver.open(rest) == original, "and then as ever")
        #expect(drop { () throws(PacketDrop) in try receiver.open(rest) } == .replay)
    }

    @Test func forgeriesDoNotMoveTheCount() throws {
        let receiver = try InboundSA(extended(.aes256gcm), lastSequence: 1_000)
        let sender = try OutboundSA(extended(.aes256gcm), random: SeededRandom(seed: 1), lastSequence: 1_000)
        for number in 0..<600 {
            var forged = try sender.seal(original)
            forged[20 + number % 20] ^= 1
            #expect(drop { () throws(PacketDrop) in try receiver.open(forged) } == .notAuthentic)
        }
        #expect(try receiver.open(sender.seal(original)) == original)
        #expect(receiver.counters.sequence == 1_601 && receiver.counters.drops == [.notAuthentic: 600])
    }

    @Test(arguments: suites)
    func theEndIsFarAway(suite: ESPSuite) throws {
        let last: UInt64 = 1 << 48 - 1
        let sender = try OutboundSA(extended(suite), random: SeededRandom(seed: 1), lastSequence: last - 1)
        _ = try sender.seal(original)
        #expect(drop { () throws(PacketDrop) in try sender.seal(original) } == .sequenceExhausted)
        #expect(sender.counters.sequence == last)
    }

    // A member that joins late has not counted: a group's numbers stay at 32 bits.
    @Test func groupsHaveThirtyTwoBits() throws {
        var association = parameters()
        association.extendedSequence = true
        #expect(throws: SAError.extendedSequence) { try InboundSA(association) }
        #expect(throws: SAError.extendedSequence) { try OutboundSA(association, random: SeededRandom(seed: 1)) }
        let database = SecurityAssociationDatabase(localAddresses: [gateway], random: SeededRandom(seed: 1))
        #expect(throws: SAError.extendedSequence) { try database.apply(.addInbound(association)) }
    }
}

@Suite struct LimitTests {
    /// Whatever was configured, a key protects no more than its suite allows.
    @Test func aSuiteHasLimitsOfItsOwn() throws {
        let database = SecurityAssociationDatabase(localAddresses: [gateway], random: SeededRandom(seed: 1))
        let cases: [(ESPSuite, configured: UInt64?, limit: UInt64?)] = [
            (.tripleDESsha1, nil, 1 << 26), (.tripleDESsha1, 1_000, 1_000), (.tripleDESsha1, 1 << 40, 1 << 26),
            (.aes256gcm, nil, 1 << 38), (.aes128sha256, nil, 1 << 50), (.chacha20poly1305, nil, nil),
            (.nullSHA256, nil, nil),
        ]
        for (index, (suite, configured, limit)) in cases.enumerated() {
            let association = parameters(suite, spi: UInt32(1_000 + index), source: gateway, octetLimit: configured)
            try database.apply(.addOutbound(association))
            #expect(database.snapshot().first { $0.key == association.key }?.octetLimit == limit, "\(suite)")
        }
    }

    @Test func wearIsSeenBeforeTheEnd() throws {
        let size = UInt64(inner().count)
        var status = SAStatus(
            parameters(octetLimit: 100 * size), direction: .outbound, isActive: true, senders: 1,
            counters: SACounters())
        #expect(!status.isWorn)
        status.counters.octets = 79 * size
        #expect(!status.isWorn)
        status.counters.octets = 80 * size
        #expect(status.isWorn)
        status.direction = .inbound
        #expect(!status.isWorn, "its sender sees to it")
        status = SAStatus(
            parameters(.nullSHA256), direction: .outbound, isActive: true, senders: 1, counters: SACounters())
        status.counters.sequence = 3_400_000_000
        #expect(!status.isWorn)
        status.counters.sequence = 3_440_000_000
        #expect(status.isWorn)
    }

    // tests: RFC 2405 3, RFC 2451 2.3
    @Test func weakKeysAreRefused() throws {
        let des = try #require(ESPSuite(rawValue: "des-sha1"))
        let doubled = "0123456789abcdef0123456789abcdeffedcba9876543210"
        for (suite, key) in [(des, "e0fee0fef1fef1fe"), (.tripleDESsha1, doubled)] {
            var association = parameters(suite)
            association.cipherKey = Secret(hex(key))
            #expect(throws: SAError.malformedKey) { try InboundSA(association) }
            #expect(throws: SAError.malformedKey) { try OutboundSA(association, random: SeededRandom(seed: 1)) }
        }
    }

    @Test func errorsTellTheOperatorWhatToDo() throws {
        let blowfish = try #require(ESPSuite(rawValue: "blowfish128-md5"))
        let text = SAError.legacyProviderMissing(blowfish).description
        #expect(text.contains("blowfish128-md5") && text.contains("libssl3") && text.contains("legacy.so"))
    }
}
