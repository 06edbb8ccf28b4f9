// SPDX-License-Identifier: Apache-2.0
import Basics
import Cryptography
import ESP
import Testing

/// An ESP packet of `parameters(suite)` around any plain text of whole blocks, correctly sealed.
private func craft(_ plain: [UInt8], _ suite: ESPSuite = .aes128gcm, sequence: UInt32 = 1) throws -> [UInt8] {
    let association = parameters(suite)
    var writer = OctetWriter()
    writer.u32(0x1001)
    writer.u32(sequence)
    writer.append([UInt8](repeating: 0, count: suite.ivSize))
    if suite.ivSize > 0 { writer.patch(u16: UInt16(truncatingIfNeeded: sequence), at: 6 + suite.ivSize) }
    let header = writer.bytes
    let key = association.cipherKey
    switch suite.encryption {
    case .aead(let algorithm, let icvSize):
        let cipher = try AEADCipher(algorithm, key: key[0..<algorithm.keySize], tagSize: icvSize, direction: .encrypt)
        var packet = header + plain + [UInt8](repeating: 0, count: icvSize)
        let nonce = try #require(
            AEADNonce(key[algorithm.keySize..<key.count].revealed() + header[8..<16]))
        var span = packet.mutableSpan
        try cipher.seal(&span, aad: 0..<8, text: 16..<16 + plain.count, nonce: nonce)
        return packet
    case .cbc(let algorithm):
        return try signed(header + algorithm.encrypt(plain, key: key, iv: Array(header[8...])), association)
    case .null: return try signed(header + plain, association)
    }
}

private func signed(_ packet: [UInt8], _ association: SAParameters) throws -> [UInt8] {
    let hash = try #require(association.suite.integrity)
    let key = try #require(association.authenticationKey)
    return packet + HMAC.code(hash, key: key, packet).prefix(association.suite.icvSize)
}

/// What a receiver with `parameters()` makes of a plain text.
private func result(of plain: [UInt8], selector: TrafficSelector? = nil) throws -> PacketDrop? {
    let receiver = try InboundSA(parameters(selector: selector))
    let sealed = try craft(plain)
    let result = drop { () throws(PacketDrop) in try receiver.open(sealed) }
    if let result {
        #expect(receiver.counters.drops == [result: 1] && receiver.counters.packets == 0)
        #expect(drop { () throws(PacketDrop) in try receiver.open(sealed) } == .replay, "it was authentic: seen once")
    }
    return result
}

/// Adds padding and trailer as a sender should.
private func padded(_ payload: [UInt8], next: UInt8 = 4) -> [UInt8] {
    let count = (4 - (payload.count + 2) % 4) % 4
    return payload + (0..<count).map { UInt8($0 + 1) } + [UInt8(count), next]
}

// tests: RFC 4303 2.4 to 2.7 and 3.4.4, RFC 4301 5.2 - what a key holder may still not do
@Suite struct FormatTests {
    @Test func wellFormedPacketsPass() throws {
        for size in 0..<8 { #expect(try result(of: padded(inner(size))) == nil) }
        #expect(try result(of: inner(8) + [1, 2, 3, 4, 5, 6, 6, 4] + []) == nil, "more padding than needed")
    }

    @Test func paddingIsChecked() throws {
        let payload = inner(8)  // 36 octets
        for wrong: [UInt8] in [[0, 0, 2, 4], [2, 1, 2, 4], [1, 3, 2, 4], [1, 2, 255, 4], [1, 2, 39, 4]] {
            #expect(try result(of: payload + wrong) == .malformed, "\(wrong)")
        }
        #expect(try result(of: [0, 0, 2, 4]) == .malformed)
        #expect(try result(of: [1, 2, 2, 4]) == .malformed, "nothing but padding")
        #expect(try result(of: [1, 2, 3, 4]) == .malformed)
    }

    @Test(arguments: ESPSuite.allCases)
    func paddingIsCheckedWithEverySuite(suite: ESPSuite) throws {
        let align = suite.alignment
        let payload = inner((0..<align).first { (inner($0).count + 4) % align == 0 } ?? 0)
        let receiver = try InboundSA(parameters(suite))
        var number: UInt32 = 0
        for wrong: [UInt8] in [[0, 0, 2, 4], [2, 1, 2, 4], [1, 3, 2, 4], [1, 2, 255, 4], [0, 2, 1, 59]] {
            number += 1
            let sealed = try craft(payload + wrong, suite, sequence: number)
            #expect(drop { () throws(PacketDrop) in try receiver.open(sealed) } == .malformed, "\(wrong)")
        }
        #expect(try receiver.open(craft(payload + [1, 2, 2, 4], suite, sequence: number + 1)) == payload)
        #expect(receiver.counters.drops == [.malformed: 5] && receiver.counters.packets == 1)
    }

    @Test func nextHeaders() throws {
        #expect(try result(of: padded([UInt8](repeating: 7, count: 30), next: 59)) == .dummy)
        #expect(try result(of: padded([], next: 59)) == .dummy)
        let v6: [UInt8] = [0x60, 0, 0, 0, 0, 0, 59] + [UInt8](repeating: 0, count: 33)
        #expect(try result(of: padded(v6, next: 41)) == .policyMismatch)
        for next: UInt8 in [0, 1, 6, 17, 50, 51, 255] {
            #expect(try result(of: padded(inner(), next: next)) == .policyMismatch)
        }
        #expect(try result(of: padded(v6, next: 4)) == .malformed, "not what it says")
    }

    @Test func innerHeadersAreChecked() throws {
        let good = inner(20)
        for size in 0..<good.count { #expect(try result(of: padded([UInt8](good.prefix(size)))) == .malformed) }
        for (index, octet) in [(0, 0x44), (0, 0x4f), (0, 0x65), (0, 0x05), (2, 0xff), (3, 19)] as [(Int, UInt8)] {
            var changed = good
            changed[index] = octet
            #expect(try result(of: padded(changed)) == .malformed, "octet \(index) = \(octet)")
        }
    }

    @Test func trafficFlowPaddingIsCutOff() throws {
        let receiver = try InboundSA(parameters())
        #expect(try receiver.open(try craft(padded(inner(9) + [UInt8](repeating: 0, count: 100)))) == inner(9))
        #expect(receiver.counters.octets == UInt64(inner(9).count))
    }

    @Test func innerAddressesAreChecked() throws {
        #expect(try result(of: padded(packet(to: .v4(239, 1, 1, 2), datagram([1])))) == .policyMismatch)
        #expect(try result(of: padded(packet(from: .v4(10, 0, 0, 1), datagram([1])))) == .policyMismatch)
        #expect(try result(of: padded(packet(to: .v4(192, 168, 9, 9), datagram([1])))) == .policyMismatch)
        // A selector wider than the group does not let one group's key speak for another.
        let wide = TrafficSelector(source: .allV4, destination: prefix("239.0.0.0/8"))
        #expect(try result(of: padded(packet(to: .v4(239, 1, 1, 2), datagram([1]))), selector: wide) == .policyMismatch)
        #expect(try result(of: padded(inner()), selector: wide) == nil)
    }

    @Test func portsAreChecked() throws {
        var selector = parameters().selector
        selector.ipProtocol = 17
        selector.destinationPort = 5_004
        #expect(try result(of: padded(inner()), selector: selector) == nil)
        #expect(try result(of: padded(packet(datagram(to: 5_005, [1]))), selector: selector) == .policyMismatch)
        #expect(try result(of: padded(packet(protocol: 6, datagram([1]))), selector: selector) == .policyMismatch)
        #expect(try result(of: padded(packet([0x13])), selector: selector) == .policyMismatch, "no ports in it")
        let laterFragment = padded(packet(fragment: 0x0010, datagram([1])))
        #expect(try result(of: laterFragment, selector: selector) == .policyMismatch)
        #expect(try result(of: laterFragment) == nil, "where ports do not matter fragments pass")
        #expect(
            try result(of: padded(packet(fragment: 0x2000, datagram([1]))), selector: selector) == nil, "the first one")
    }
}

@Suite struct PublishedPacketTests {
    private static let hosts = TrafficSelector(
        source: prefix("192.168.123.3/32"), destination: prefix("192.168.123.200/32"))

    // tests: RFC 3602 4, cases 7 and 8 - whole tunnel-mode packets, to which our HMAC is added (they have none)
    @Test(arguments: [
        (
            """
            0000876500000002f4e765244f6407adf13dc1380f673f37
            773b5241a4c449225e4f3ce5ed611b0c237ca96cf74a93013c1b0ea1a0cf70f8e4ecaec78ac53aad7a0f022b859243c6
            47752e94a859352b8a4d4d2decd136e5c177f132ad3fbfb2201ac9904c74ee0a109e0ca1e4dfe9d5a100b842f1c22f0d
            """,
            """
            45000054090400004001f988c0a87b03c0a87bc808009f76a90a0100b49c083d02a20400
            08090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f3031323334353637
            """
        ),
        (
            """
            000087650000000585d47224b5f3dd5d2101d4ea8dffab22
            15b92683819596a8047232cc00f7048fe45318e11f8a0f62ede3c3fc61203bb50f980a08c9843fd3a1b06d5c07ff9639
            b7eb7dfb3512e5de435e7207ed971ef3d2726d9b5ef6affc6d17a0decbb13892
            """,
            """
            45000044090c00004001f990c0a87b03c0a87bc80800d63caa0a0200c69c083da3de0300
            ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff
            """
        ),
    ])
    func cbcTunnelPackets(sealed: String, original: String) throws {
        let authenticationKey = Secret(1...32)
        let receiver = try InboundSA(
            SAParameters(
                key: SAKey(spi: 0x8765, destination: .v4(192, 168, 123, 200)), selector: Self.hosts,
                suite: .aes128sha256, cipherKey: Secret(hex("0123456789abcdef0123456789abcdef")),
                authenticationKey: authenticationKey, source: nil, senderID: 0, name: "RFC 3602"))
        let code = HMAC.code(.sha256, key: authenticationKey, hex(sealed)).prefix(16)
        #expect(try receiver.open(hex(sealed) + code) == hex(original))
        #expect(receiver.counters.sequence == UInt32(hex(sealed)[7]))
    }

    // tests: RFC 7634 appendix A - a whole tunnel-mode packet
    private static let chachaSealed = """
        0102030400000005101112131415161724039428b97f417e3c13753a4f05087b67c352e6a7fab1b982d466ef407ae5c614ee8099
        d52844eb61aa95dfab4c02f72aa71e7c4c4f64c9befe2facc638e8f3cbec163fac469b502773f6fb94e664da9165b82829f641e0
        76aaa8266b7fb0f7b11b369907e1ad43
        """
    private static let chachaPlain = """
        45000054a6f200004001e778c6336405c000020508005b7a3a080000553bec100007362708090a0b0c0d0e0f101112131415161718
        191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f3031323334353637
        """

    @Test func chachaTunnelPacket() throws {
        let receiver = try InboundSA(
            SAParameters(
                key: SAKey(spi: 0x0102_0304, destination: .v4(203, 0, 113, 5)),
                selector: TrafficSelector(source: prefix("198.51.100.5/32"), destination: prefix("192.0.2.5/32")),
                suite: .chacha20poly1305, cipherKey: Secret(Array(0x80...0x9f) + [0xa0, 0xa1, 0xa2, 0xa3]),
                authenticationKey: nil, source: nil, senderID: 0, name: "RFC 7634"))
        #expect(try receiver.open(hex(Self.chachaSealed)) == hex(Self.chachaPlain))
        #expect(receiver.counters.sequence == 5)
    }

    // tests: RFC 4106 6, SP 800-38D 5.2.1.2 - a short ICV is the first octets of the long one: the packets below, cut
    @Test(arguments: [8, 12])
    func shortICVs(size: Int) throws {
        let suite = try #require(ESPSuite(rawValue: "aes128-gcm\(size)"))
        var parameters = parameters(suite)
        parameters.cipherKey = Secret(hex("feffe9928665731c6d6a8f9467308308cafebabe"))
        let sealed = hex(Self.mcgrew).dropLast(16 - size)
        // It verifies, and then its trailer is not one of a tunnel.
        let receiver = try InboundSA(parameters)
        #expect(drop { () throws(PacketDrop) in try receiver.open(Array(sealed)) } == .policyMismatch)
        let other = try InboundSA(parameters)
        #expect(drop { () throws(PacketDrop) in try other.open(hex(Self.mcgrew)) } != .policyMismatch, "not of 16")
    }

    private static let mcgrew = """
        0000a5f80000000afacedbaddecaf888
        deb22cd9b07c72c16e3a65beeb8df304a5a5897d33ae530f1ba76d5d114d2a5c3de81827c10e9a4f51330d0eec416642
        cfbb85a5b47e48a4ec3b9ba95d918bd183b70d3aa8bc6ee4c309e9d85a41ad4a
        """

    // tests: RFC 4106 by the packets of draft-mcgrew-gcm-test-01 4. Their trailer says ICMP (next header 1): a receiver
    // for tunnels verifies them and then refuses; the plain text is checked at the level of the cipher.
    @Test(arguments: [
        (
            ESPSuite.aes128gcm, "feffe9928665731c6d6a8f9467308308cafebabe", mcgrew,
            """
            4500003e698f000080114dccc0a80102c0a801010a980035002a2343b2d0010000010000000000000373697009637962
            6572636974790264 6b00000100010001
            """
        ),
        (
            .aes256gcm, "abbccddef00112233445566778899aababbccddef00112233445566778899aab11223344",
            """
            4a2cbfe3000000020102030405060708
            ff425c9b724599df7a3bcd510194e00d6a78107f1b0b1cbf06efae9d65a5d763748a637985771d347f0545659f14e99d
            ef842d8eb335f4eecfdbf831824b4c4915956c96
            """,
            """
            4500003069a6400080062690c0a801029389155e0a9e008b2dc57ee00000000070024000
            20bf0000020405b40101040201020201
            """
        ),
    ])
    func gcmPackets(suite: ESPSuite, material: String, sealed: String, plain: String) throws {
        let material = Secret(hex(material))
        let sealed = hex(sealed)
        let keySize = material.count - 4
        let nonce = material[keySize..<material.count].revealed() + sealed[8..<16]
        let text = try AESGCM.open(
            Array(sealed[16...]), key: material[0..<keySize], nonce: nonce, aad: Array(sealed[..<8]))
        #expect(text == hex(plain))
        var parameters = parameters(suite)
        parameters.cipherKey = material
        let receiver = try InboundSA(parameters)
        #expect(drop { () throws(PacketDrop) in try receiver.open(sealed) } == .policyMismatch)
        var changed = sealed
        changed[20] ^= 1
        let fresh = try InboundSA(parameters)
        #expect(drop { () throws(PacketDrop) in try fresh.open(changed) } == .notAuthentic)
    }
}
