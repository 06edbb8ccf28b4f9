// SPDX-License-Identifier: Apache-2.0
import Basics
import ISAKMP
import Testing

@Suite struct HeaderTests {
    static let header = Header(
        initiatorCookie: 0x0102_0304_0506_0708, responderCookie: 0x1112_1314_1516_1718, nextPayload: .hash,
        exchange: .configure, flags: 1, messageID: 0xdead_beef, length: 28)

    @Test func octetsAreThoseOfTheStandard() throws {
        var writer = OctetWriter()
        Self.header.write(to: &writer)
        #expect(hexadecimal(writer.bytes) == "010203040506070811121314151617180810f001deadbeef0000001c")
        var reader = OctetReader(writer.bytes)
        #expect(try Header(reading: &reader) == Self.header)
        #expect(reader.isEmpty)
    }

    @Test func wrongLengthVersionAndTruncationAreRefused() {
        var writer = OctetWriter()
        Self.header.write(to: &writer)
        let good = writer.bytes
        for count in 0..<28 { #expect(error(Array(good[..<count])) == .malformed) }
        #expect(error(good + [0]) == .lengthMismatch)
        for version: UInt8 in [0x00, 0x11, 0x20, 0xff] {
            var other = good
            other[17] = version
            #expect(error(other) == .unsupportedVersion)
        }
        for index in 24..<28 {
            for bit in 0..<8 {
                var other = good
                other[index] ^= 1 << UInt8(bit)
                #expect(error(other) == .lengthMismatch)
            }
        }
    }

    private func error(_ octets: [UInt8]) -> ISAKMPError? {
        var reader = OctetReader(octets)
        do throws(ISAKMPError) {
            _ = try Header(reading: &reader)
            return nil
        } catch {
            return error
        }
    }
}

@Suite struct PayloadChainTests {
    static let payloads = [
        RawPayload(.hash, [UInt8](0..<20)), RawPayload(.nonce, []), RawPayload(.vendorID, [1, 2, 3]),
    ]

    @Test func chainsNameTheNextType() throws {
        let (first, octets) = PayloadChain.encode(Self.payloads)
        #expect(first == .hash)
        #expect(hexadecimal(octets.suffix(11)) == "0d000004" + "00000007010203")
        #expect(try PayloadChain.parse(first: first, octets[...], limit: 3, allowPadding: false) == Self.payloads)
        #expect(PayloadChain.encode([]) == (.none, []))
        #expect(try PayloadChain.parse(first: .none, [], limit: 0, allowPadding: false).isEmpty)
    }

    @Test func paddingIsLeftAloneOnlyWhereItMayStand() throws {
        let (first, octets) = PayloadChain.encode(Self.payloads)
        for tail in [[0], [0, 0, 0, 0, 0, 0, 0], [7, 6, 5, 4, 3]] as [[UInt8]] {
            let padded = octets + tail
            #expect(try PayloadChain.parse(first: first, padded[...], limit: 3, allowPadding: true) == Self.payloads)
            #expect(throws: ISAKMPError.malformed) {
                try PayloadChain.parse(first: first, padded[...], limit: 3, allowPadding: false)
            }
        }
    }

    @Test func limitAndReservedOctetHold() {
        let (first, octets) = PayloadChain.encode(Self.payloads)
        #expect(throws: ISAKMPError.tooManyPayloads) {
            try PayloadChain.parse(first: first, octets[...], limit: 2, allowPadding: false)
        }
        var reserved = octets
        reserved[1] = 1
        #expect(throws: ISAKMPError.malformed) {
            try PayloadChain.parse(first: first, reserved[...], limit: 3, allowPadding: false)
        }
    }

    @Test func everyTruncationIsRefused() {
        let (first, octets) = PayloadChain.encode(Self.payloads)
        for count in 0..<octets.count {
            #expect(throws: ISAKMPError.malformed) {
                try PayloadChain.parse(first: first, octets[..<count], limit: 3, allowPadding: true)
            }
        }
    }

    @Test func everyWrongLengthIsRefusedOrReadsOtherwise() {
        let (first, octets) = PayloadChain.encode(Self.payloads)
        for start in [0, 24, 28] {
            for length in 0...UInt16.max {
                var other = octets
                other[start + 2] = UInt8(length >> 8)
                other[start + 3] = UInt8(length & 0xff)
                guard other != octets else { continue }
                let read = try? PayloadChain.parse(first: first, other[...], limit: 3, allowPadding: false)
                #expect(read != Self.payloads)
            }
        }
    }
}

@Suite struct DataAttributeTests {
    @Test func bothFormsKeepTheirOctets() throws {
        let wire = try #require(octets(hexadecimal: "80010007 800e0100 000c0004 00015180 000c0000 7fff000101"))
        let attributes = try DataAttribute.parse(wire[...])
        #expect(attributes.map(\.type) == [1, 14, 12, 12, 0x7fff])
        #expect(attributes.map(\.integer) == [7, 256, 86_400, nil, 1])
        #expect(DataAttribute.encode(attributes) == wire)
    }

    @Test func integersTakeTheShortFormThatFits() {
        #expect(DataAttribute(12, integer: 3_600).value == .basic(3_600))
        #expect(DataAttribute(12, integer: 86_400).value == .variable([0, 1, 0x51, 0x80]))
        #expect(DataAttribute(1, .variable([UInt8](repeating: 0xff, count: 8))).integer == .max)
        #expect(DataAttribute(1, .variable([UInt8](repeating: 0, count: 9))).integer == nil)
    }

    @Test func truncationsAreRefused() throws {
        let wire = try #require(octets(hexadecimal: "80010007 000c0004 00015180"))
        for count in 1..<wire.count where count != 4 {
            #expect(throws: ISAKMPError.malformed) { try DataAttribute.parse(wire[..<count]) }
        }
    }
}

@Suite struct IdentityTests {
    @Test(arguments: [
        (Identity.address(.v4(10, 1, 2, 3)), "01000000" + "0a010203"),
        (.name("site1"), "02000000" + "7369746531"), (.user("a@b"), "03000000" + "614062"),
        (.address(.v6(0x2001_0db8 << 32, 1)), "05000000" + "20010db8000000000000000000000001"),
        (.keyID([0, 0, 4, 210]), "0b000000" + "000004d2"), (.other(type: 9, data: [0x30, 0]), "09000000" + "3000"),
    ])
    func octetsAndBack(identity: Identity, hexadecimal text: String) throws {
        #expect(hexadecimal(identity.body()) == text)
        #expect(try Identity(body: identity.body()) == identity)
    }

    @Test(arguments: ["10.0.0.0/8", "192.168.1.0/24", "0.0.0.0/0", "10.1.1.1/32", "2001:db8::/33", "::/0"])
    func subnetsTravelAsAddressAndMask(text: String) throws {
        let identity = Identity.subnet(try #require(IPPrefix(text)))
        #expect(try Identity(body: identity.body()) == identity)
    }

    @Test func protocolAndPortOfPhaseOneAreAccepted() throws {
        let name: [UInt8] = [0x61]
        for head in [[2, 0, 0, 0], [2, 17, 1, 0xf4], [2, 17, 0, 0], [2, 17, 0x11, 0x94]] as [[UInt8]] {
            #expect(try Identity(body: head + name) == .name("a"))
        }
        for head in [[2, 0, 1, 0xf4], [2, 6, 1, 0xf4]] as [[UInt8]] {
            #expect(throws: ISAKMPError.malformed) { try Identity(body: head + name) }
        }
    }

    @Test(arguments: [
        "", "01", "010000", "01000000", "010000000a0102", "010000000a01020304", "02000000", "0200000061000a",
        "020000006100",
        "02000000ff", "0200000061e280ae62", "02000000c285", "040000000a00000000ff00ff", "040000000a000001ffffff00",
        "050000000a010203", "0600000000", "0b000000",
    ])
    func malformedBodiesAreRefused(text: String) throws {
        let body = try #require(octets(hexadecimal: text))
        #expect(throws: ISAKMPError.malformed) { try Identity(body: body) }
    }
}
