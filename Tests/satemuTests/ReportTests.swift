// SPDX-License-Identifier: Apache-2.0
import Basics
import Foundation
import LinkModel
import Testing

@testable import satemu

/// An Ethernet frame with an IPv4 packet from 10.0.0.1 to 239.1.1.1.
func ipv4Frame(protocol number: UInt8, payload: [UInt8], fragmentOffset: UInt8 = 0, options: [UInt8] = []) -> [UInt8] {
    let ethernet: [UInt8] = [1, 0, 0x5e, 1, 1, 1, 2, 0, 0, 0, 0, 1, 8, 0]
    let header: [UInt8] = [
        0x45 + UInt8(options.count / 4), 0, 0, 0, 0, 0, 0, fragmentOffset, 64, number, 0, 0, 10, 0, 0, 1, 239, 1, 1, 1,
    ]
    return ethernet + header + options + payload
}

@Suite struct FrameSummaryTests {
    @Test func espOverIPv4() {
        let esp: [UInt8] = [0x12, 0x34, 0x56, 0x78, 0, 0, 1, 2, 9, 9]
        for options in [[], [0x94, 4, 0, 0]] as [[UInt8]] {
            let summary = FrameSummary(ipv4Frame(protocol: 50, payload: esp, options: options))
            #expect(summary.spi == 0x1234_5678 && summary.sequence == 258)
            #expect(summary.source == .v4(10, 0, 0, 1) && summary.destination == .v4(239, 1, 1, 1))
        }
    }

    @Test func udpPortsAndFragments() {
        let udp: [UInt8] = [3, 80, 1, 244, 0, 8, 0, 0]
        let whole = FrameSummary(ipv4Frame(protocol: 17, payload: udp))
        #expect(whole.sourcePort == 848 && whole.destinationPort == 500 && whole.spi == nil)
        let later = FrameSummary(ipv4Frame(protocol: 17, payload: udp, fragmentOffset: 5))
        #expect(later.ipProtocol == 17 && later.sourcePort == nil)
    }

    @Test func espOverIPv6() {
        let ethernet = [UInt8](repeating: 2, count: 12) + [0x86, 0xdd]
        let header =
            [0x60, 0, 0, 0, 0, 8, 50, 64] + [UInt8](repeating: 0xfe, count: 16) + [UInt8](repeating: 1, count: 16)
        let summary = FrameSummary(ethernet + header + [0, 0, 0, 7, 0, 0, 0, 8])
        #expect(summary.spi == 7 && summary.sequence == 8 && summary.etherType == 0x86dd)
    }

    @Test func cutFramesGiveWhatIsThere() {
        let whole = ipv4Frame(protocol: 50, payload: [0, 0, 0, 1, 0, 0, 0, 2])
        for length in whole.indices {
            let summary = FrameSummary(Array(whole[..<length]))
            #expect(summary.octets == length && summary.sequence == nil)
        }
        var short = whole
        short[14] = 0x41  // a header length below the minimum
        #expect(FrameSummary(short).spi == nil)
    }
}

@Suite struct ReportLineTests {
    func object(_ line: String) throws -> [String: Any] {
        #expect(line.hasSuffix("}\n") && line.count { $0 == "\n" } == 1)
        return try #require(try JSONSerialization.jsonObject(with: Data(line.utf8)) as? [String: Any])
    }

    @Test func aDropLineIsJSON() throws {
        let frame = ipv4Frame(protocol: 50, payload: [0, 0, 0, 1, 0, 0, 0, 2])
        let line = Reports.drop(
            time: 1_700_000_000.000_012, terminal: "site1", direction: .downlink, reason: "burst", frame: frame)
        let fields = try object(line)
        #expect(line.contains("\"time\":1700000000.000012,"))
        #expect(fields["terminal"] as? String == "site1" && fields["reason"] as? String == "burst")
        #expect(fields["spi"] as? Int == 1 && fields["sequence"] as? Int == 2)
        #expect(fields["destination"] as? String == "239.1.1.1" && fields["octets"] as? Int == 42)
        #expect(fields["source_port"] == nil)
    }

    @Test func aStatsLineIsJSON() throws {
        var parameters = LinkParameters()
        parameters.loss = .independent(1)
        let link = Link(parameters, random: SeededRandom(seed: 1))
        link.send([1, 2, 3], now: .zero)
        let fields = try object(
            Reports.stats(time: 1, terminal: "hub", direction: .uplink, link: link, refused: 0))
        #expect(
            fields["offered_octets"] as? Int == 3 && fields["lost"] as? Int == 1 && fields["delivered"] as? Int == 0)
    }
}
