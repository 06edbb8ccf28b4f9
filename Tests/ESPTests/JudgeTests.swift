// SPDX-License-Identifier: Apache-2.0
import Basics
import Cryptography
import ESP
import Foundation
import Testing

/// Inner packets of many sizes, so that every length of padding appears.
private let originals: [[UInt8]] = (Array(0...33) + [200, 1_000, 1_316]).map { inner($0) }

private func outer(_ sealed: [UInt8], to destination: IPAddress = group) -> [UInt8] {
    packet(from: gateway, to: destination, protocol: 50, sealed)
}

@Suite struct ScapyTests {
    private struct Request: Encodable {
        let suite, cipher_key, authentication_key, source, destination: String
        let spi, first: UInt32
        let high: UInt32?
        let open, seal: [String]

        private enum CodingKeys: CodingKey {
            case suite, cipher_key, authentication_key, source, destination, spi, first, high, open, seal
        }

        init(_ parameters: SAParameters, high: UInt32? = nil, first: UInt32 = 1, open: [[UInt8]], seal: [[UInt8]]) {
            suite = parameters.suite.rawValue
            cipher_key = hexadecimal(parameters.cipherKey.revealed())
            authentication_key = hexadecimal(parameters.authenticationKey?.revealed() ?? [])
            source = parameters.source?.description ?? gateway.description
            destination = parameters.key.destination.description
            spi = parameters.key.spi
            (self.first, self.high) = (first, high)
            self.open = open.map { hexadecimal($0) }
            self.seal = seal.map { hexadecimal($0) }
        }

        func encode(to encoder: any Encoder) throws {
            var container = encoder.container(keyedBy: CodingKeys.self)
            try container.encode(suite, forKey: .suite)
            try container.encode(cipher_key, forKey: .cipher_key)
            try container.encode(authentication_key, forKey: .authentication_key)
            try container.encode(source, forKey: .source)
            try container.encode(destination, forKey: .destination)
            try container.encode(spi, forKey: .spi)
            try container.encode(first, forKey: .first)
            try container.encode(high, forKey: .high)  // null where there is none
            try container.encode(open, forKey: .open)
            try container.encode(seal, forKey: .seal)
        }
    }

    private struct Answer: Decodable {
        let opened: [String?]
        let sealed: [String]
    }

    private static func ask(_ requests: [Request]) throws -> [Answer] {
        let output = try Judge.run(
            "/usr/bin/python3", [Judge.scripts.appendingPathComponent("esp_scapy.py").path],
            package: "python3-scapy", input: JSONEncoder().encode(requests))
        return try JSONDecoder().decode([Answer].self, from: output)
    }

    /// GCKS -> gateways: one SA of a group; we seal and scapy opens, scapy seals and we open. With every suite.
    @Test func bothWays() throws {
        var requests: [Request] = []
        let associations = ESPSuite.allCases.map {
            parameters($0, spi: 0xfedc_1001, source: gateway, senderID: 0xbeef)
        }
        for association in associations {
            let sender = try OutboundSA(association, random: SystemRandom())
            let ours = try originals.map { outer(try sender.seal($0)) }
            var forged = ours[5]
            forged[forged.count - 20] ^= 1
            requests.append(Request(association, open: ours + [forged], seal: originals))
        }
        let answers = try Self.ask(requests)

        try #require(answers.count == associations.count && associations.count == 42)
        for (association, answer) in zip(associations, answers) {
            let suite = association.suite
            for (original, opened) in zip(originals, answer.opened) {
                #expect(opened == hexadecimal(original), "\(suite)")
            }
            #expect(answer.opened.count == originals.count + 1 && answer.opened.last == .some(nil), "\(suite) verifies")
            let receiver = SecurityAssociationDatabase(localAddresses: [otherGateway], random: SystemRandom())
            try receiver.apply(.addInbound(association))
            #expect(answer.sealed.count == originals.count)
            // Scapy's IVs are random throughout, and a group's receiver takes the first two octets for the sender.
            for (original, sealed) in zip(originals, answer.sealed) {
                #expect(try receiver.open(datagram: hex(sealed)) == original, "\(suite)")
                #expect(drop { () throws(PacketDrop) in try receiver.open(datagram: hex(sealed)) } == .replay)
            }
            #expect(receiver.totalDrops == [.replay: UInt64(originals.count)], "\(suite)")
        }
    }

    /// gatewayV6 -> otherGateway(V6): the other nestings, unicast and of a group.
    @Test func nestings() throws {
        let suites: [ESPSuite] = [.aes256gcm, .chacha20poly1305, .aes128sha1, .aes128sha256, .nullSHA256]
        let nestings: [(isOuterV4: Bool, isInnerV4: Bool)] = [(true, false), (false, true), (false, false)]
        let inners = { (isV4: Bool) in (Array(0...17) + [1_000]).map { isV4 ? inner($0) : innerV6($0) } }
        var requests: [Request] = []
        var receivers: [InboundSA] = []
        for (suite, nesting) in suites.flatMap({ suite in nestings.map { (suite, $0) } }) {
            let destination = nesting.isOuterV4 ? otherGateway : nesting.isInnerV4 ? otherGatewayV6 : groupV6
            let source = nesting.isOuterV4 ? gateway : gatewayV6
            let all: IPPrefix = nesting.isInnerV4 ? .allV4 : .allV6
            let association = parameters(
                suite, spi: 0xfedc_6001, destination: destination,
                selector: TrafficSelector(source: all, destination: all), source: source, senderID: 0xbeef)
            let sender = try OutboundSA(association, random: SystemRandom())
            let ours = try inners(nesting.isInnerV4).map { original in
                let sealed = try sender.seal(original)
                return nesting.isOuterV4
                    ? outer(sealed, to: destination) : packetV6(from: source, to: destination, next: 50, sealed)
            }
            requests.append(Request(association, open: ours, seal: inners(nesting.isInnerV4)))
            receivers.append(try InboundSA(association))
        }
        let answers = try Self.ask(requests)
        try #require(answers.count == requests.count)
        for (index, answer) in answers.enumerated() {
            let nesting = nestings[index % nestings.count]
            let originals = inners(nesting.isInnerV4)
            #expect(answer.opened == originals.map { hexadecimal($0) }, "\(suites[index / nestings.count])")
            try #require(answer.sealed.count == originals.count)
            for (original, sealed) in zip(originals, answer.sealed) {
                let header = InnerPacket.headerSize(isV4: nesting.isOuterV4)
                #expect(try receivers[index].open([UInt8](hex(sealed)[header...])) == original)
            }
        }
    }

    /// Gateway -> gateway: a unicast SA with extended sequence numbers, where the upper half goes on.
    @Test func extendedSequenceNumbers() throws {
        let suites: [ESPSuite] = [.aes256gcm, .chacha20poly1305, .aes128sha256, .nullSHA256]
        let selector = TrafficSelector(source: prefix("192.168.0.0/16"), destination: prefix("192.168.9.0/24"))
        let original = packet(to: .v4(192, 168, 9, 1), datagram([1, 2, 3]))
        let associations = suites.map { suite in
            var association = parameters(suite, destination: otherGateway, selector: selector, source: gateway)
            association.extendedSequence = true
            return association
        }
        var requests: [Request] = []
        for association in associations {
            let sender = try OutboundSA(association, random: SystemRandom(), lastSequence: 0x7_ffff_ffff)
            let ours = outer(try sender.seal(original), to: otherGateway)
            #expect(Array(ours[24..<28]) == [0, 0, 0, 0], "the lower half alone")
            requests.append(Request(association, high: 8, first: 5, open: [ours], seal: [original]))
            requests.append(Request(association, high: 7, open: [ours], seal: []))
        }
        let answers = try Self.ask(requests)
        try #require(answers.count == requests.count)
        for (index, association) in associations.enumerated() {
            #expect(answers[2 * index].opened == [hexadecimal(original)], "\(association.suite)")
            #expect(answers[2 * index + 1].opened == [nil], "another upper half, \(association.suite)")
            // A receiver that has counted as far as 7 * 2^32 and a half.
            let receiver = try InboundSA(association, lastSequence: 0x7_f000_0000)
            let sealed = hex(try #require(answers[2 * index].sealed.first))
            #expect(try receiver.open([UInt8](sealed[20...])) == original, "\(association.suite)")
            #expect(receiver.counters.sequence == 0x8_0000_0005)
        }
    }
}

@Suite struct WiresharkTests {
    /// A capture file of whole IPv4 packets, link type 101.
    private static func capture(_ packets: [[UInt8]]) -> Data {
        var octets: [UInt8] = []
        func append(_ words: UInt32...) {
            for word in words { octets += (0..<4).map { UInt8(truncatingIfNeeded: word >> UInt32(8 * $0)) } }
        }
        append(0xa1b2_c3d4, 0x0004_0002, 0, 0, 65_535, 101)
        for (number, packet) in packets.enumerated() {
            append(1_700_000_000, UInt32(number), UInt32(packet.count), UInt32(packet.count))
            octets += packet
        }
        return Data(octets)
    }

    /// The lines that tshark prints of a capture with an `esp_sa` table.
    private static func dissect(_ packets: [[UInt8]], keys: [String]) throws -> [[String]] {
        let folder = try Judge.temporaryFolder()
        defer { try? FileManager.default.removeItem(at: folder) }
        let file = folder.appendingPathComponent("packets.pcap")
        try capture(packets).write(to: file)
        try Data((keys.joined(separator: "\n") + "\n").utf8).write(to: folder.appendingPathComponent("esp_sa"))
        let output = try Judge.run(
            "/usr/bin/tshark",
            [
                "-r", file.path, "-o", "esp.enable_encryption_decode:TRUE", "-o",
                "esp.enable_authentication_check:TRUE", "-Y", "esp", "-T", "fields", "-E", "occurrence=l",
                "-e", "ip.dst", "-e", "esp.spi", "-e", "esp.sequence", "-e", "udp.dstport", "-e", "data.data",
                "-e", "esp.icv_good", "-e", "ipv6.dst",
            ], package: "tshark", environment: ["WIRESHARK_CONFIG_DIR": folder.path])
        return String(decoding: output, as: UTF8.self).split(separator: "\n").map {
            $0.split(separator: "\t", omittingEmptySubsequences: false).map(String.init)
        }
    }

    /// Our multicast ESP of every suite, with the key file our programs write.
    @Test func decryptsOurMulticastPackets() throws {
        var packets: [[UInt8]] = []
        var keys: [String] = []
        var expected: [(spi: String, sequence: Int, group: IPAddress, data: [UInt8], isAEAD: Bool)] = []
        // This version of Wireshark has not heard of ChaCha20-Poly1305.
        for (index, suite) in ESPSuite.allCases.filter({ $0 != .chacha20poly1305 }).enumerated() {
            let address = IPAddress.v4(239, 1, 1, UInt8(index + 1))
            let association = parameters(
                suite, spi: 0xa000_1001 + UInt32(index), destination: address, seed: UInt8(index * 5), source: gateway,
                senderID: UInt16(index))
            // Where any member may send, the table names no source.
            keys.append(wiresharkLine(for: association, source: index % 2 == 0 ? gateway : nil))
            let sender = try OutboundSA(association, random: SystemRandom())
            for size in [1, 2, 3, 20, 1_000] {
                let data = (0..<size).map { UInt8(truncatingIfNeeded: $0 &* 3 &+ index) }
                let original = packet(to: address, datagram(to: UInt16(40_000 + index), data))
                packets.append(outer(try sender.seal(original), to: address))
                let spi = "0xa00010" + hexadecimal([UInt8(index + 1)])
                expected.append((spi, Int(sender.counters.sequence), address, data, suite.isAEAD))
            }
        }
        let lines = try Self.dissect(packets, keys: keys)
        try #require(lines.count == expected.count)
        for (line, wanted) in zip(lines, expected) {
            try #require(line.count == 7)
            #expect(line[0] == wanted.group.description && line[1] == wanted.spi && line[2] == String(wanted.sequence))
            #expect(line[3] == String(40_000 + Int(wanted.group.octets[3]) - 1), "the inner port")
            #expect(line[4] == hexadecimal(wanted.data), "the inner data")
            // tshark 4.0 checks no tag of an AEAD.
            #expect(wanted.isAEAD || line[5] == "1", "the ICV")
        }
    }

    @Test func decryptsOurIPv6Packets() throws {
        let suites: [ESPSuite] = [.aes128gcm, .aes256gcm, .aes128sha1, .aes256sha256]
        let sizes = [1, 2, 3, 20, 1_000]
        func data(_ suite: Int, _ size: Int) -> [UInt8] {
            (0..<sizes[size]).map { UInt8(truncatingIfNeeded: $0 &* 3 &+ suite) }
        }
        var packets: [[UInt8]] = []
        var keys: [String] = []
        for (index, suite) in suites.enumerated() {
            let association = parametersV6(suite, spi: 0xa000_6001 + UInt32(index), source: gatewayV6)
            keys.append(wiresharkLine(for: association, source: index % 2 == 0 ? gatewayV6 : nil))
            let sender = try OutboundSA(association, random: SystemRandom())
            for size in sizes.indices {
                let original = packetV6(datagram(to: 40_000, data(index, size)))
                packets.append(packetV6(from: gatewayV6, to: groupV6, next: 50, try sender.seal(original)))
            }
        }
        let lines = try Self.dissect(packets, keys: keys)
        try #require(lines.count == packets.count)
        for (number, line) in lines.enumerated() {
            let (suite, size) = number.quotientAndRemainder(dividingBy: sizes.count)
            #expect(line[1] == "0xa000600\(suite + 1)" && line[2] == "\(size + 1)" && line[3] == "40000")
            #expect(line[4] == hexadecimal(data(suite, size)) && line[6] == groupV6.description)
        }
    }

    @Test func withoutTheKeyThereIsNothingToSee() throws {
        let association = parameters(.aes256gcm, source: gateway)
        let sender = try OutboundSA(association, random: SystemRandom())
        let sealed = outer(try sender.seal(inner(100)))
        let other = wiresharkLine(for: parameters(.aes256gcm, spi: 0x1002), source: gateway)
        let lines = try Self.dissect([sealed], keys: [other])
        #expect(lines.count == 1 && lines[0][3].isEmpty && lines[0][4].isEmpty)
    }

    @Test func linesAreExact() {
        #expect(
            wiresharkLine(for: parameters(), source: gateway) == """
                "IPv4","10.1.0.1","239.1.1.1","0x00001001","AES-GCM with 16 octet ICV [RFC4106]",\
                "0x0102030405060708090a0b0c0d0e0f1011121314","NULL",""
                """)
        #expect(
            wiresharkLine(for: parameters(.aes128sha1), source: nil) == """
                "IPv4","*","239.1.1.1","0x00001001","AES-CBC [RFC3602]","0x0102030405060708090a0b0c0d0e0f10",\
                "HMAC-SHA-1-96 [RFC2404]","0x65666768696a6b6c6d6e6f707172737475767778"
                """)
    }

    @Test func everySuiteHasAName() {
        let lines = ESPSuite.allCases.map { wiresharkLine(for: parameters($0), source: gateway) }
        #expect(lines.allSatisfy { $0.split(separator: ",").count == 8 })
        #expect(lines.contains { $0.contains("\"ChaCha20 with Poly1305 [RFC7634]\"") })
        #expect(
            wiresharkLine(for: parameters(.nullSHA256), source: gateway).hasPrefix(
                "\"IPv4\",\"10.1.0.1\",\"239.1.1.1\",\"0x00001001\",\"NULL\",\"\",\"HMAC-SHA-256-128 [RFC4868]\",\"0x"))
    }

    @Test func aMissingJudgeIsNamed() {
        #expect {
            _ = try Judge.run("/usr/bin/no-such-judge", [], package: "some-package")
        } throws: { "\($0)".contains("some-package") }
    }
}
