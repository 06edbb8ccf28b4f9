// SPDX-License-Identifier: Apache-2.0

import Basics
import Logging
import Synchronization
import Testing

@testable import Control

@Suite struct LogfmtTests {
    /// 2026-11-23T15:00:00.123Z
    private static let time = WallTime(milliseconds: 1_795_446_000_123)

    private func line(_ fields: [(String, String)], level: Logger.Level = .info, event: String = "phase1.established")
        -> String
    {
        LogfmtHandler.line(Self.time, level, event, fields.map { (name: $0.0, value: $0.1) })
    }

    @Test func anEventIsOneLine() {
        #expect(
            line([("peer", "site1"), ("suite", "aes256-sha256-ecp256")])
                == "2026-11-23T15:00:00.123Z info  phase1.established peer=site1 suite=aes256-sha256-ecp256\n")
    }

    @Test(
        arguments: [
            ("plain", "plain"), ("", "\"\""), ("two words", "\"two words\""), ("a=b", "\"a=b\""),
            ("say \"x\"", #""say \"x\"""#), (#"c:\d"#, #""c:\\d""#), ("line\nbreak\tand\r", #""line\nbreak\tand\r""#),
            ("\u{1b}[2J", #""\u{1b}[2J""#), ("\u{2028}", #""\u{2028}""#), ("\u{202e}x", #""\u{202e}x""#),
            ("größe", "größe"),
            ("10.0.0.1:848", "10.0.0.1:848"), ("<secret, 32 octets>", "\"<secret, 32 octets>\""),
        ])
    func valuesAreQuotedWhenNeeded(_ value: String, _ written: String) {
        #expect(line([("k", value)]) == "2026-11-23T15:00:00.123Z info  phase1.established k=\(written)\n")
    }

    @Test func levelsHaveOneWidth() {
        let starts = Logger.Level.allCases.map { line([], level: $0).dropFirst(25).prefix(6) }
        #expect(starts == ["trace ", "debug ", "info  ", "note  ", "warn  ", "error ", "crit  "])
    }

    @Test(
        arguments: [
            (Int64(0), "1970-01-01T00:00:00.000Z"), (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"), (1_709_251_199_001, "2024-02-29T23:59:59.001Z"),
            (1_735_689_599_000, "2024-12-31T23:59:59.000Z"), (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
        ])
    func datesAreRight(_ milliseconds: Int64, _ text: String) {
        #expect(WallTime(milliseconds: milliseconds).description == text)
    }

    @Test func theLoggerAddsItsFieldsInOrder() {
        let lines = Mutex<[String]>([])
        var logger = Logger(label: "test") { _ in
            LogfmtHandler(level: .info, clock: { Self.time }) { line in lines.withLock { $0.append(line) } }
        }
        logger[metadataKey: "node"] = "gcks"
        logger.info("push.sent", metadata: ["group": "news", "copies": "2"])
        logger.debug("not shown")
        logger.report(Basics.LogEvent(.warning, "phase1.failed", ["peer": "site1", "reason": "no answer"]))
        logger.report(Basics.LogEvent(.debug, "not shown either"))
        #expect(
            lines.withLock { $0 } == [
                "2026-11-23T15:00:00.123Z info  push.sent copies=2 group=news node=gcks\n",
                "2026-11-23T15:00:00.123Z warn  phase1.failed node=gcks peer=site1 reason=\"no answer\"\n",
            ])
    }
}

@Suite struct TextTableTests {
    @Test func columnsAreAligned() {
        var table = TextTable(["CLIENT": .left, "RTT": .right, "STATE": .left])
        table.add(["site1", "612ms", "registered"])
        table.add(["a-longer-name", "", "absent"])
        #expect(
            table.text == """
                CLIENT           RTT  STATE
                site1          612ms  registered
                a-longer-name      -  absent

                """)
    }

    @Test func aNameFromTheWireDoesNotReachTheTerminal() {
        var table = TextTable(["NAME": .left])
        table.add(["\u{1b}[2Jevil\n\u{202e}"])
        #expect(table.text == "NAME\n\\u{1b}[2Jevil\\u{a}\\u{202e}\n")
    }

    @Test(
        arguments: [
            (0.0, "0ms"), (0.6125, "613ms"), (0.9996, "1.0s"), (1.25, "1.3s"), (9.96, "10s"), (59.4, "59s"),
            (61, "1m01s"),
            (3_600, "1h00m"), (93_780, "1d02h"), (-5, "-5.0s"), (.infinity, "-"), (.nan, "-"),
        ])
    func durationsAreReadable(_ seconds: Double, _ text: String) {
        #expect(Readable.duration(seconds: seconds) == text)
    }

    @Test(arguments: [(0.0, "0B"), (1_023, "1023B"), (1_536, "1.5KiB"), (3_435_973_837, "3.2GiB"), (2e12, "1.8TiB")])
    func sizesAreReadable(_ octets: Double, _ text: String) { #expect(Readable.size(octets: octets) == text) }
}

@Suite struct JSONTextTests {
    private struct Report: Encodable {
        var zeta = 1
        var alpha = ["b": "/v1", "a": "ü"]
    }

    @Test func keysAreSorted() throws {
        let text = String(decoding: try JSONText.encode(Report()), as: UTF8.self)
        #expect(text == "{\n  \"alpha\" : {\n    \"a\" : \"ü\",\n    \"b\" : \"/v1\"\n  },\n  \"zeta\" : 1\n}")
    }

    @Test func anyValueIsRead() throws {
        let json = Array(#"{"a":[1,2.5,"x",null,true,{}],"big":18446744073709551615,"n":-3}"#.utf8)
        let value = try JSONText.decode(JSONValue.self, from: json)
        #expect(value["a"].elements == [.integer(1), .number(2.5), .string("x"), .null, .bool(true), .object([:])])
        #expect(value["a"].text == "1,2.5,x,-,yes,-")
        #expect(value["n"].number == -3)
        #expect(value["none"]["deeper"] == .null)
        #expect(value.members.map(\.key) == ["a", "big", "n"])
    }
}
