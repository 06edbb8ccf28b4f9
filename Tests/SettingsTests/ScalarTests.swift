// SPDX-License-Identifier: Apache-2.0

import Basics
import Testing

@testable import Settings

@Suite struct ScalarTests {
    @Test(
        arguments: [
            ("500ms", 500_000_000), ("2s", 2_000_000_000), ("1.5s", 1_500_000_000), ("0.001ms", 1_000),
            ("5min", 300_000_000_000), ("8h", 28_800_000_000_000), ("1d", 86_400_000_000_000), ("2 s", 2_000_000_000),
        ] as [(String, Int64)])
    func durations(_ text: String, _ nanoseconds: Int64) throws {
        let value = try Scalar<Duration>.duration(.zero...(.seconds(1_000_000))).parse(text)
        #expect(value == .nanoseconds(nanoseconds))
    }

    @Test(
        arguments: [
            "", "s", "2", "-2s", "+2s", "2S", "2m", "2s3", "1e3s", "0x2s", "2..5s", "2.s", ".5s", "2s ", "２s",
            "99999999999999999999s", "9223372036854775808s", "1.0000000001s", "0.0000000001s", "300000000000h",
        ])
    func noDurations(_ text: String) {
        #expect(throws: Wrong.self) { try Scalar<Duration>.duration(.zero...(.seconds(1_000_000_000))).parse(text) }
    }

    @Test(
        arguments: [
            ("9600bit/s", 9_600), ("64kbit/s", 64_000), ("1.5Mbit/s", 1_500_000), ("2Gbit/s", 2_000_000_000),
        ] as [(String, UInt64)])
    func rates(_ text: String, _ value: UInt64) throws {
        #expect(try Scalar<UInt64>.rate(1...(.max)).parse(text) == value)
    }

    @Test(
        arguments: [
            ("1B", 1), ("512MiB", 536_870_912), ("1GiB", 1_073_741_824), ("10GB", 10_000_000_000), ("1.5KiB", 1_536),
        ] as [(String, UInt64)])
    func sizes(_ text: String, _ value: UInt64) throws {
        #expect(try Scalar<UInt64>.size(1...(.max)).parse(text) == value)
    }

    @Test func whatIsShownIsReadAgain() throws {
        for value in [Duration.milliseconds(1), .milliseconds(1_500), .seconds(90), .seconds(3_600), .seconds(86_400)] {
            #expect(try Scalar<Duration>.duration(.zero...(.seconds(1_000_000))).parse(Quantity.show(value)) == value)
        }
        for value: UInt64 in [1, 9_600, 64_000, 2_000_000] {
            #expect(try Scalar<UInt64>.rate(1...(.max)).parse(Quantity.show(rate: value)) == value)
        }
        for value: UInt64 in [1, 1_025, 1 << 20, 5 << 30] {
            #expect(try Scalar<UInt64>.size(1...(.max)).parse(Quantity.show(size: value)) == value)
        }
    }

    @Test(arguments: [("100%", 100.0), ("99.9%", 99.9), ("0.001%", 0.001)])
    func shares(_ text: String, _ value: Double) throws {
        #expect(try Scalar<Double>.percent.parse(text) == value)
    }

    @Test(arguments: ["0%", "100.1%", "99", "%", "-1%"]) func noShares(_ text: String) {
        #expect(throws: Wrong.self) { try Scalar<Double>.percent.parse(text) }
    }

    @Test(arguments: ["a", "site1", "site-1.example_2", "0", String(repeating: "x", count: 64)])
    func names(_ text: String) throws { #expect(try Scalar<String>.name.parse(text) == text) }

    @Test(arguments: ["", ".", "..", "-a", "_a", "a b", "a/b", "a\nb", "é", String(repeating: "x", count: 65)])
    func noNames(_ text: String) {
        #expect(throws: Wrong.self) { try Scalar<String>.name.parse(text) }
    }

    @Test func aSubnetWithBitsBehindItsLengthIsCorrected() {
        let cases = [
            ("10.1.2.3/16", "10.1.0.0/16"), ("10.1.2.3/31", "10.1.2.2/31"), ("2001:db8::5/64", "2001:db8::/64"),
        ]
        for (text, right) in cases {
            let wrong = #expect(throws: Wrong.self) { try Scalar<IPPrefix>.prefix.parse(text) }
            #expect(wrong?.instead == "write \(right)")
        }
    }
}

@Suite struct NearestNameTests {
    private static let names = ["address", "control-socket", "identity", "port", "nat-port"]

    @Test(
        arguments: [
            ("adress", "address"), ("Address", "address"), ("controlsocket", "control-socket"),
            ("idenitty", "identity"),
            ("prot", "port"), ("natport", "nat-port"),
        ])
    func slipsAreFound(_ slip: String, _ meant: String) {
        #expect(NearestName.find(slip, among: Self.names) == meant)
    }

    @Test(arguments: ["", "banana", "zz", "socket"]) func othersAreNot(_ other: String) {
        #expect(NearestName.find(other, among: Self.names) == nil)
    }
}

@Suite struct KeyStrengthTests {
    private func isStrong(_ octets: [UInt8]) -> Bool { KeyStrength.bits(octets) >= KeyStrength.bitsAtLeast }

    /// What `openssl rand` and the like make, in each notation, must never be refused: 2,000 keys each.
    @Test func randomKeysPass() {
        let random = SeededRandom(seed: 7)
        let base64 = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".utf8)
        for _ in 0..<2_000 {
            let octets = random.bytes(32)
            #expect(isStrong(octets))
            #expect(isStrong(Array(hexadecimal(octets.prefix(20)).utf8)))
            #expect(isStrong(octets.map { base64[Int($0 & 63)] }))
        }
    }

    @Test(
        arguments: [
            "password", "correct horse battery staple", "Correct-Horse-Battery-Staple",
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "0123456789abcdef0123456789abcdef", "00000000000000000000000000000000",
            "1234567890123456789012345678901234567",
            "thequickbrownfoxjumpsoverthelazydog", "secretsecretsecretsecretsecretsecret",
            "S3cr3t!S3cr3t!S3cr3t!S3cr3t!",
            "deadbeefdeadbeefdeadbeefdeadbeef", "site1-psk-2026-11-23",
        ])
    func whatPeopleThinkOfDoesNot(_ key: String) { #expect(!isStrong(Array(key.utf8))) }
}
