// SPDX-License-Identifier: Apache-2.0
import Basics
import ESP
import Testing

@testable import DataPlane

/// A packet from 192.168.1.10 to 192.168.2.10, its checksum left out.
private func v4(protocol ipProtocol: UInt8 = 17, fragment: UInt16 = 0x4000, _ payload: [UInt8]) -> [UInt8] {
    let count = 20 + payload.count
    return [0x45, 0, UInt8(count >> 8), UInt8(count & 0xff), 0, 1, UInt8(fragment >> 8), UInt8(fragment & 0xff)]
        + [64, ipProtocol, 0, 0, 192, 168, 1, 10, 192, 168, 2, 10] + payload
}

private func v6(next: UInt8 = 17, from source: String = "fd01::10", _ payload: [UInt8]) -> [UInt8] {
    let addresses = [source, "fd02::10"].flatMap { IPAddress($0)?.octets ?? [] }
    return [0x60, 0, 0, 0, UInt8(payload.count >> 8), UInt8(payload.count & 0xff), next, 64] + addresses + payload
}

private func message(_ packet: [UInt8], mtu: Int = 1_380) throws -> [UInt8]? {
    TooBigNotice.message(about: packet.span, read: try InnerPacket(reading: packet.span), mtu: mtu)
}

// tests: RFC 1191 4, RFC 4443 2.4 and 3.2
@Suite struct TooBigNoticeTests {
    private let large = [UInt8](repeating: 7, count: 1_400)

    @Test func itQuotesThePacket() throws {
        let old = try #require(try message(v4(large)))
        #expect(Array(old[..<2]) == [3, 4] && Array(old[4..<8]) == [0, 0, 5, 100])
        #expect(Array(old[8...]) == Array(v4(large).prefix(548)))
        var sum: UInt32 = 0
        for index in stride(from: 0, to: old.count, by: 2) { sum += UInt32(old[index]) << 8 | UInt32(old[index + 1]) }
        while sum > 0xffff { sum = sum >> 16 + sum & 0xffff }
        #expect(sum == 0xffff, "the checksum")
        let new = try #require(try message(v6(large)))
        #expect(Array(new[..<8]) == [2, 0, 0, 0, 0, 0, 5, 100], "the kernel fills in this checksum")
        #expect(Array(new[8...]) == Array(v6(large).prefix(1_232)))
    }

    @Test func errorsAreNotAnswered() throws {
        #expect(try message(v4(protocol: 1, [8] + large)) != nil && message(v4(protocol: 1, [0] + large)) != nil)
        #expect(try message(v4(protocol: 1, [3] + large)) == nil && message(v4(protocol: 1, [])) == nil)
        #expect(try message(v6(next: 58, [128] + large)) != nil && message(v6(next: 58, [1] + large)) == nil)
        #expect(try message(v6(next: 60, [58, 0, 0, 0, 0, 0, 0, 0, 1] + large)) == nil, "hidden behind options")
        #expect(try message(v4(fragment: 0x4010, large)) == nil, "only of a first fragment")
        #expect(try message(v6(from: "::", large)) == nil && message(v6(from: "ff15::1", large)) == nil)
    }
}
