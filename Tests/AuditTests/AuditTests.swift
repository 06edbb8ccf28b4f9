// SPDX-License-Identifier: Apache-2.0
import Audit
import Basics
import Cryptography
import Testing

/// The chain of lines, and each way to spoil it.
@Suite struct AuditTests {
    static let key = AuditChain.key(masterKey: Secret([UInt8](repeating: 7, count: 32)))

    /// A chain of lines without their line feeds.
    static func sample(_ count: Int = 6, after head: AuditHead = .start) -> (lines: [[UInt8]], head: AuditHead) {
        var chain = AuditChain(key: key, head: head)
        let lines = (0..<count).map { index in
            let event = AuditEvent("keys.sent", ["client": "hub \(index)", "odd": "\"quoted\\ \u{1}\n\u{7f}é"])
            return Array(
                chain.line(event, microseconds: 1_795_453_369_000_123 + UInt64(index) * 86_400_000_000).dropLast())
        }
        return (lines, chain.head)
    }

    /// The place of the first bad line, from 1, and its fault.
    static func fault(_ lines: [[UInt8]], key: Secret? = key) -> (line: Int, fault: AuditFault)? {
        var verifier = AuditVerifier(key: key)
        for (index, line) in lines.enumerated() {
            do throws(AuditFault) { try verifier.take(line) } catch { return (index + 1, error) }
        }
        return nil
    }

    @Test func aLineIsJSONThatSaysWhatItWasGiven() throws {
        let (lines, head) = Self.sample(1)
        let text = String(decoding: lines[0], as: UTF8.self)
        #expect(
            text.hasPrefix(
                #"{"number":1,"time":"2026-11-23T17:02:49.000123Z","event":"keys.sent","fields":{"client":"hub 0","#
                    + #""odd":"\"quoted\\ \u0001\u000a\u007fé"},"previous":"00000000"#), "\(text)")
        #expect(head.number == 1 && head.hash == HashAlgorithm.sha256.digest(lines[0]))
        #expect(AuditHead(octets: head.octets) == head && AuditHead(octets: [1]) == nil)
        let line = try #require(AuditLine(lines[0]))
        #expect(line.number == 1 && line.event == "keys.sent" && line.time == "2026-11-23T17:02:49.000123Z")
    }

    @Test(
        arguments: [
            (0, "1970-01-01T00:00:00.000000Z"), (951_782_400_000_000, "2000-02-29T00:00:00.000000Z"),
            (951_868_799_999_999, "2000-02-29T23:59:59.999999Z"),
            (1_709_164_800_000_001, "2024-02-29T00:00:00.000001Z"),
            (4_107_542_400_000_000, "2100-03-01T00:00:00.000000Z"), (UInt64.max, "9999-12-31T23:59:59.999999Z"),
        ] as [(UInt64, String)])
    func timesAreThoseOfTheCalendar(microseconds: UInt64, text: String) {
        #expect(AuditTime.text(microseconds) == text)
    }

    @Test func aChainIsVerifiedAlsoInPieces() {
        let (lines, head) = Self.sample()
        #expect(Self.fault(lines) == nil && Self.fault(lines, key: nil) == nil)
        let (more, _) = Self.sample(3, after: head)
        #expect(Self.fault(lines + more) == nil)
    }

    @Test func everyFlippedBitOfEveryLineIsNamed() {
        let (lines, _) = Self.sample(4)
        for place in lines.indices {
            for bit in 0..<lines[place].count * 8 {
                var bad = lines
                bad[place][bit / 8] ^= 1 << UInt8(bit % 8)
                let found = Self.fault(bad)
                if found?.line != place + 1 {
                    Issue.record("bit \(bit) of line \(place + 1): \(String(describing: found))")
                }
            }
        }
    }

    /// Without the key the chain alone shows it, at the line itself or at the next one, up to the last but one.
    @Test func everyFlippedBitIsSeenWithoutTheKey() {
        let (lines, _) = Self.sample(3)
        for place in lines.indices.dropLast() {
            for bit in 0..<lines[place].count * 8 {
                var bad = lines
                bad[place][bit / 8] ^= 1 << UInt8(bit % 8)
                let found = Self.fault(bad, key: nil)?.line ?? 0
                if found != place + 1, found != place + 2 { Issue.record("bit \(bit) of line \(place + 1): \(found)") }
            }
        }
    }

    @Test func everyLineThatIsTakenOutIsNamed() {
        let (lines, _) = Self.sample()
        for place in lines.indices.dropLast() {
            var bad = lines
            bad.remove(at: place)
            let found = Self.fault(bad)
            #expect(found?.line == place + 1)
            #expect(found?.fault == .missing(from: UInt64(place) + 1, to: UInt64(place) + 1))
        }
    }

    @Test func everyLineThatIsMovedOrThereTwiceIsNamed() {
        let (lines, _) = Self.sample()
        for first in lines.indices {
            for second in lines.indices where second > first {
                var bad = lines
                bad.swapAt(first, second)
                #expect(Self.fault(bad)?.line == first + 1)
            }
            for place in lines.indices {
                var bad = lines
                bad.insert(lines[first], at: place)
                let expected = place <= first ? (place == first ? place + 2 : place + 1) : place + 1
                #expect(Self.fault(bad)?.line == expected, "line \(first + 1) again at \(place + 1)")
            }
        }
    }

    @Test func everyLineThatIsCutShortIsNamed() {
        let (lines, _) = Self.sample(3)
        for place in lines.indices {
            for count in 0..<lines[place].count {
                var bad = lines
                bad[place] = Array(lines[place].prefix(count))
                #expect(Self.fault(bad)?.line == place + 1)
                bad[place] = Array(lines[place].dropFirst(lines[place].count - count))
                #expect(Self.fault(bad)?.line == place + 1)
            }
        }
    }

    @Test func whatAnotherKeyWroteIsNoLineOfOurs() {
        let (lines, head) = Self.sample(2)
        var other = AuditChain(key: AuditChain.key(masterKey: Secret([UInt8](repeating: 8, count: 32))), head: head)
        let line = Array(other.line(AuditEvent("keys.sent"), microseconds: 1).dropLast())
        #expect(Self.fault(lines + [line])?.fault == .changed)
        // The hashes alone cannot tell.
        #expect(Self.fault(lines + [line], key: nil) == nil)
    }

    /// A line of another chain under the same key: before the store was lost, say.
    @Test func aLineOfAnotherPastDoesNotFollow() {
        let (lines, _) = Self.sample(3)
        var other = AuditChain(key: Self.key)
        _ = other.line(AuditEvent("gcks.started"), microseconds: 1)
        let second = Array(other.line(AuditEvent("gcks.started"), microseconds: 2).dropLast())
        #expect(Self.fault([lines[0], second, lines[2]])?.line == 2)
        #expect(Self.fault([lines[0], second])?.fault == .unlinked)
    }

    @Test func aFileMayBeginLaterOnlyWhereItSaysSo() {
        let (lines, head) = Self.sample(3)
        #expect(Self.fault(Array(lines.dropFirst()))?.fault == .missing(from: 1, to: 1))
        var chain = AuditChain(key: Self.key, head: head)
        let next = Array(chain.line(AuditEvent("audit.rotated"), microseconds: 1).dropLast())
        #expect(Self.fault([next]) == nil && Self.fault(lines + [next]) == nil)
    }

    @Test func aLineHasALimit() throws {
        var chain = AuditChain(key: Self.key)
        let long = String(repeating: "\u{1}", count: 20_000)
        let event = AuditEvent("rekey.ended", ["a": long, "b": long, "c": long, "d": long, "e": long, "f": "short"])
        let line = chain.line(event, microseconds: 1)
        #expect(line.count <= AuditChain.lineOctets + 1 && Self.fault([Array(line.dropLast())]) == nil)
        #expect(String(decoding: line, as: UTF8.self).contains(#""f":"short""#))
    }

    @Test func aListOfManyNamesSaysHowManyMoreThereAre() {
        #expect(AuditEvent.list(["a", "b"]) == "a,b" && AuditEvent.list([]) == "")
        #expect(AuditEvent.list((1...70).map(String.init), most: 3) == "1,2,3,+67")
    }
}
