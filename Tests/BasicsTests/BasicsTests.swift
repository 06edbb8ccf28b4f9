// SPDX-License-Identifier: Apache-2.0
import Basics
import Testing

@Suite struct AddressTests {
    // tests: RFC 4291 2.5.6 and 2.7, RFC 3927 2.1
    @Test func whatNoRouterForwards() {
        for text in ["224.0.0.22", "ff02::16", "ff01::1", "ff12::1", "ff00::1", "ff30::1"] {
            #expect(IPAddress(text)?.isLinkLocalMulticast == true, "\(text)")
        }
        for text in ["224.0.1.1", "239.1.1.1", "ff05::2", "ff15::1", "ff1e::1", "fe80::1"] {
            #expect(IPAddress(text)?.isLinkLocalMulticast == false, "\(text)")
        }
        for text in ["fe80::1", "febf::1", "169.254.1.1"] { #expect(IPAddress(text)?.isLinkLocal == true, "\(text)") }
        for text in ["fec0::1", "fd00::1", "2001:db8::1", "169.255.1.1"] {
            #expect(IPAddress(text)?.isLinkLocal == false, "\(text)")
        }
    }

    @Test(arguments: [
        ("192.168.1.10", "192.168.1.10"), ("0.0.0.0", "0.0.0.0"), ("::", "::"), ("::1", "::1"),
        ("2001:DB8:0:0:8:800:200C:417A", "2001:db8::8:800:200c:417a"), ("ff15::1234", "ff15::1234"),
        ("::ffff:10.0.0.1", "::ffff:a00:1"), ("1:0:0:2:0:0:0:3", "1:0:0:2::3"), ("1:0:2:3:4:5:6:7", "1:0:2:3:4:5:6:7"),
    ])
    func textRoundTrip(text: String, canonical: String) throws {
        let address = try #require(IPAddress(text))
        #expect(address.description == canonical)
        #expect(IPAddress(octets: address.octets) == address)
    }

    @Test(arguments: [
        "", "1.2.3", "1.2.3.4.5", "256.1.1.1", "01.2.3.4", "1.2.3.", "+1.2.3.4", ":", ":::", "1::2::3", "12345::",
        "1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9", "fe80::1%eth0", "g::", "::1.2.3.4.5",
    ])
    func malformedTextIsRefused(text: String) { #expect(IPAddress(text) == nil) }

    @Test func prefixesContainAndOverlap() throws {
        let ten = try #require(IPPrefix("10.0.0.0/8"))
        let site = try #require(IPPrefix("10.1.0.0/16"))
        #expect(ten.contains(.v4(10, 200, 3, 4)) && !ten.contains(.v4(11, 0, 0, 1)))
        #expect(ten.overlaps(site) && site.overlaps(ten))
        #expect(IPPrefix("10.1.0.0/8") == nil, "bits behind the length")
        #expect(IPPrefix("10.0.0.0/33") == nil)
        #expect(site.mask == [255, 255, 0, 0])
        let v6 = try #require(IPPrefix("2001:db8::/33"))
        #expect(v6.contains(try #require(IPAddress("2001:db8:7fff::1"))))
        #expect(!v6.contains(try #require(IPAddress("2001:db8:8000::1"))))
        #expect(IPPrefix.allV4.contains(.v4(1, 2, 3, 4)) && !IPPrefix.allV4.contains(.anyV6))
    }

    @Test func multicastRanges() throws {
        #expect(IPAddress.v4(239, 1, 1, 1).isMulticast && !IPAddress.v4(240, 0, 0, 0).isMulticast)
        #expect(IPAddress.v4(224, 0, 0, 22).isLinkLocalMulticast && !IPAddress.v4(224, 0, 1, 1).isLinkLocalMulticast)
        #expect(try #require(IPAddress("ff02::16")).isLinkLocalMulticast)
    }
}

@Suite struct OctetTests {
    @Test func readersReadWhatWritersWrote() throws {
        var writer = OctetWriter()
        writer.u8(1)
        writer.u16(0x0203)
        writer.u32(0x0405_0607)
        writer.u64(0x0809_0a0b_0c0d_0e0f)
        #expect(writer.bytes == Array(1...15))
        var reader = OctetReader(writer.bytes)
        #expect(try reader.u8() == 1)
        #expect(try reader.u16() == 0x0203)
        #expect(try reader.u32() == 0x0405_0607)
        #expect(try reader.u64() == 0x0809_0a0b_0c0d_0e0f)
        #expect(reader.isEmpty)
    }

    @Test func shortInputThrowsAndConsumesNothing() {
        var reader = OctetReader([1, 2, 3])
        #expect(throws: Truncated.self) { try reader.u32() }
        #expect(throws: Truncated.self) { try reader.slice(-1) }
        #expect(reader.count == 3)
    }

    @Test func hexadecimalText() {
        #expect(hexadecimal([0, 0xab, 0xff]) == "00abff")
        #expect(octets(hexadecimal: "00 AB ff") == [0, 0xab, 0xff])
        #expect(octets(hexadecimal: "0") == nil && octets(hexadecimal: "zz") == nil)
    }
}

@Suite struct TimeTests {
    @Test func instantsSaturate() {
        #expect(Instant(nanoseconds: .max - 1) + .seconds(5) == .distantFuture)
        #expect(Instant.zero + .seconds(2) - .milliseconds(500) == Instant(nanoseconds: 1_500_000_000))
        #expect(Duration.seconds(1 << 40).wholeNanoseconds == .max)
    }

    @Test func timersComeEarliestFirst() {
        var timers = TimerTable<String>()
        timers["late"] = .zero + .seconds(2)
        timers["early"] = .zero + .seconds(1)
        timers["gone"] = .zero
        timers["gone"] = nil
        #expect(timers.next == .zero + .seconds(1))
        #expect(timers.popDue(.zero + .seconds(3)) == "early")
        #expect(timers.popDue(.zero + .seconds(1)) == nil)
        #expect(timers.popDue(.zero + .seconds(2)) == "late")
    }
}

@Suite struct RandomTests {
    @Test func aSeedReplays() {
        let (a, b, c) = (SeededRandom(seed: 7), SeededRandom(seed: 7), SeededRandom(seed: 8))
        let first = a.bytes(100)
        #expect(first == b.bytes(100) && first != c.bytes(100))
    }

    @Test func numbersStayInRangeAndReachIt() {
        let random = SeededRandom(seed: 1)
        var seen = Set<UInt64>()
        for _ in 0..<1_000 { seen.insert(random.number(below: 7)) }
        #expect(seen == Set(0..<7))
    }
}
