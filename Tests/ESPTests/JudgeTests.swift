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
        let spi: UInt32
        let open, seal: [String]
    }

    private struct Answer: Decodable {
        let opened: [String?]
        let sealed: [String]
    }

    private static func ask(_ parameters: SAParameters, open: [[UInt8]], seal: [[UInt8]]) throws -> Answer {
        let request = Request(
            suite: parameters.suite.rawValue, cipher_key: hexadecimal(parameters.cipherKey.revealed()),
            authentication_key: hexadecimal(parameters.authenticationKey?.revealed() ?? []),
            source: gateway.description, destination: parameters.key.destination.description,
            spi: parameters.key.spi, open: open.map { hexadecimal($0) }, seal: seal.map { hexadecimal($0) })
        let output = try Judge.run(
            "/usr/bin/python3", [Judge.scripts.appendingPathComponent("esp_scapy.py").path],
            package: "python3-scapy", input: JSONEncoder().encode(request))
        return try JSONDecoder().decode(Answer.self, from: output)
    }

    /// GCKS -> gateways: one SA of a group; we seal and scapy opens, scapy seals and we open.
    @Test(arguments: ESPSuite.allCases)
    func bothWays(suite: ESPSuite) throws {
        let association = parameters(suite, spi: 0xfedc_1001, source: gateway, senderID: 0xbeef)
        let sender = try OutboundSA(association, random: SystemRandom())
        let ours = try originals.map { outer(try sender.seal($0)) }
        var forged = ours[5]
        forged[forged.count - 20] ^= 1

        let answer = try Self.ask(association, open: ours + [forged], seal: originals)

        for (original, opened) in zip(originals, answer.opened) { #expect(opened == hexadecimal(original)) }
        #expect(answer.opened.count == originals.count + 1 && answer.opened.last == .some(nil), "it does verify")
        let receiver = SecurityAssociationDatabase(localAddress: otherGateway, random: SystemRandom())
        try receiver.apply(.addInbound(association))
        #expect(answer.sealed.count == originals.count)
        for (original, sealed) in zip(originals, answer.sealed) {
            #expect(try receiver.open(datagram: hex(sealed)) == original)
            #expect(drop { () throws(PacketDrop) in try receiver.open(datagram: hex(sealed)) } == .replay)
        }
        #expect(receiver.totalDrops == [.replay: UInt64(originals.count)])
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
                "-e", "esp.icv_good",
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
        for (index, suite) in ESPSuite.allCases.enumerated() {
            let address = IPAddress.v4(239, 1, 1, UInt8(index + 1))
            let association = parameters(
                suite, spi: 0xa000_1001 + UInt32(index), destination: address, seed: UInt8(index * 30), source: gateway,
                senderID: UInt16(index))
            // Where any member may send, the table names no source.
            keys.append(wiresharkLine(for: association, source: index % 2 == 0 ? gateway : nil))
            let sender = try OutboundSA(association, random: SystemRandom())
            for size in [1, 2, 3, 20, 1_000] {
                let data = (0..<size).map { UInt8(truncatingIfNeeded: $0 &* 3 &+ index) }
                let original = packet(to: address, datagram(to: UInt16(40_000 + index), data))
                packets.append(outer(try sender.seal(original), to: address))
                let spi = "0xa000100" + String(index + 1)
                expected.append((spi, Int(sender.counters.sequence), address, data, suite.isAEAD))
            }
        }
        let lines = try Self.dissect(packets, keys: keys)
        try #require(lines.count == expected.count)
        for (line, wanted) in zip(lines, expected) {
            try #require(line.count == 6)
            #expect(line[0] == wanted.group.description && line[1] == wanted.spi && line[2] == String(wanted.sequence))
            #expect(line[3] == String(40_000 + Int(wanted.group.octets[3]) - 1), "the inner port")
            #expect(line[4] == hexadecimal(wanted.data), "the inner data")
            // tshark 4.0 checks no tag of an AEAD.
            #expect(wanted.isAEAD || line[5] == "1", "the ICV")
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

    @Test func aMissingJudgeIsNamed() {
        #expect {
            _ = try Judge.run("/usr/bin/no-such-judge", [], package: "some-package")
        } throws: { "\($0)".contains("some-package") }
    }
}
