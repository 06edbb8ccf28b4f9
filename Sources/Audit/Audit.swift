// SPDX-License-Identifier: Apache-2.0

public import Basics
public import Cryptography

// Audit owns the record of who did what with keys: events, the chain of lines that they become, and the check of such a
// chain. It writes no file (AuditFile does) and reads no clock: what comes in is an event and a time, what goes out is
// octets; the same chain follows from the same events.
//
//      {"number":7,"time":"2026-11-24T01:02:03.456789Z","event":"keys.sent","fields":{...},"previous":HASH,"mac":MAC}
//
// HASH is SHA-256 of the line before without its line feed, so that no line can be changed, taken out, moved or put in
// alone. MAC is HMAC-SHA-256 over this line up to it, under a key that follows from the master key, so that nobody
// without that key can write the chain anew. That its end was cut off is seen by whoever remembers its head.

/// One thing to remember for good. Its fields never hold a key.
public struct AuditEvent: Sendable, Hashable {
    /// A stable dotted name, such as `keys.sent`.
    public var name: String
    public var fields: [LogEvent.Field]

    public init(_ name: String, _ fields: KeyValuePairs<String, String> = [:]) {
        self.name = name
        self.fields = fields.map { LogEvent.Field(name: $0.key, value: $0.value) }
    }

    /// Names for one field: the first of them, and how many more there are.
    public static func list(_ names: some Collection<String>, most: Int = 64) -> String {
        let text = names.prefix(most).joined(separator: ",")
        return names.count > most ? "\(text),+\(names.count - most)" : text
    }
}

/// How far a chain goes: the number of its last line and that line's hash.
public struct AuditHead: Sendable, Hashable {
    public static let size = 40
    static let hashSize = 32
    /// Before the first line.
    public static let start = AuditHead(number: 0, hash: [UInt8](repeating: 0, count: hashSize))

    public var number: UInt64
    /// 32 octets.
    public var hash: [UInt8]

    public init(number: UInt64, hash: [UInt8]) {
        self.number = number
        self.hash = hash
    }

    /// From 40 octets; nil for any other number of them.
    public init?(octets: [UInt8]) {
        guard octets.count == Self.size else { return nil }
        number = octets.prefix(8).reduce(0) { $0 << 8 | UInt64($1) }
        hash = Array(octets[8...])
    }

    /// Number (8 octets, the highest first), hash (32).
    public var octets: [UInt8] {
        var writer = OctetWriter(capacity: Self.size)
        writer.u64(number)
        writer.append(hash)
        return writer.bytes
    }
}

/// Makes lines of events.
public struct AuditChain: Sendable {
    /// Octets of a line at most, its line feed not among them. What is longer than that in a field is cut.
    public static let lineOctets = 16_384
    private static let valueOctets = 4_096

    public private(set) var head: AuditHead
    private let key: Secret

    /// - Parameters:
    ///   - key: of `key(masterKey:)`.
    ///   - head: what the chain goes on behind.
    public init(key: Secret, head: AuditHead = .start) {
        self.key = key
        self.head = head
    }

    /// The key of the lines' codes, which follows from the master key alone.
    public static func key(masterKey: Secret) -> Secret {
        HKDF.derive(.sha256, key: masterKey, salt: [], info: Array("SatIPSec audit v1".utf8), count: 32)
    }

    /// The next line, with its line feed.
    /// - Parameter microseconds: since 1970.
    public mutating func line(_ event: AuditEvent, microseconds: UInt64) -> [UInt8] {
        let number = head.number + 1
        var text =
            "{\"number\":\(number),\"time\":\"\(AuditTime.text(microseconds))\",\"event\":\(Self.quoted(event.name))"
        text += ",\"fields\":{"
        var room = Self.lineOctets - 512
        for (index, field) in event.fields.enumerated() {
            let piece = "\(index > 0 ? "," : "")\(Self.quoted(field.name)):\(Self.quoted(field.value))"
            guard piece.utf8.count <= room else { continue }
            room -= piece.utf8.count
            text += piece
        }
        text += "},\"previous\":\"\(hexadecimal(head.hash))\""
        let body = Array(text.utf8)
        let code = HMAC.code(.sha256, key: key, body)
        let line = body + Array("\(AuditLine.codeStart)\(hexadecimal(code))\"}".utf8)
        head = AuditHead(number: number, hash: HashAlgorithm.sha256.digest(line))
        return line + [0x0a]
    }

    /// As a JSON string (RFC 8259 7).
    private static func quoted(_ text: String) -> String {
        var result = "\""
        var count = 0
        for scalar in text.unicodeScalars {
            let piece: String
            switch scalar {
            case "\"", "\\": piece = "\\\(scalar)"
            case _ where scalar.value < 0x20 || scalar.value == 0x7f:
                let digits = String(scalar.value, radix: 16)
                piece = "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
            default: piece = String(scalar)
            }
            count += piece.utf8.count
            guard count <= valueOctets else { return result + "...\"" }
            result += piece
        }
        return result + "\""
    }
}

/// Times as RFC 3339 writes them.
public enum AuditTime {
    /// UTC with microseconds.
    public static func text(_ microseconds: UInt64) -> String {
        // The end of the year 9999.
        let microseconds = min(microseconds, 253_402_300_799_999_999)
        let seconds = microseconds / 1_000_000
        let (year, month, day) = date(Int(clamping: seconds / 86_400))
        func two(_ number: UInt64) -> String { number < 10 ? "0\(number)" : "\(number)" }
        let fraction = String(microseconds % 1_000_000)
        return
            "\(year)-\(two(UInt64(month)))-\(two(UInt64(day)))T\(two(seconds / 3_600 % 24)):\(two(seconds / 60 % 60)):"
            + "\(two(seconds % 60)).\(String(repeating: "0", count: 6 - fraction.count))\(fraction)Z"
    }

    /// The day so many days after 1 January 1970, in the Gregorian calendar.
    private static func date(_ days: Int) -> (year: Int, month: Int, day: Int) {
        // Years begin in March here, so that the leap day is the last; 400 of them have 146,097 days.
        let shifted = days + 719_468
        let (era, rest) = (shifted / 146_097, shifted % 146_097)
        let yearOfEra = (rest - rest / 1_460 + rest / 36_524 - rest / 146_096) / 365
        let dayOfYear = rest - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
        let month = (5 * dayOfYear + 2) / 153
        let day = dayOfYear - (153 * month + 2) / 5 + 1
        return (yearOfEra + era * 400 + (month >= 10 ? 1 : 0), month < 10 ? month + 3 : month - 9, day)
    }
}
