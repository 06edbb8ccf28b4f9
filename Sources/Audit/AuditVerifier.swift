// SPDX-License-Identifier: Apache-2.0

internal import Basics
public import Cryptography

/// What of a line its place in the chain depends on.
public struct AuditLine: Sendable, Hashable {
    static let codeStart = ",\"mac\":\""
    private static let numberStart = Array("{\"number\":".utf8)
    private static let timeStart = Array(",\"time\":\"".utf8)
    private static let eventStart = Array("Z\",\"event\":\"".utf8)
    private static let previousStart = Array("},\"previous\":\"".utf8)
    private static let codeBegin = Array(codeStart.utf8)
    private static let end = Array("\"}".utf8)
    /// From `previous` to the end, and from `mac`.
    private static let codeCount = codeBegin.count + 64 + end.count
    private static let tailCount = previousStart.count + 64 + 1 + codeCount

    public let number: UInt64
    /// As RFC 3339 writes it.
    public let time: String
    public let event: String
    let previous: [UInt8]
    let code: [UInt8]

    /// nil for what `AuditChain` does not write.
    /// - Parameter octets: without the line feed.
    public init?(_ octets: [UInt8]) {
        guard octets.count <= AuditChain.lineOctets, octets.starts(with: Self.numberStart) else { return nil }
        var position = Self.numberStart.count
        let digits = octets[position...].prefix { (0x30...0x39).contains($0) }
        guard digits.first.map({ $0 != 0x30 }) == true, digits.count <= 19,
            let number = UInt64(String(decoding: digits, as: UTF8.self))
        else { return nil }
        position = digits.endIndex
        guard octets[position...].starts(with: Self.timeStart) else { return nil }
        position += Self.timeStart.count
        guard octets.count >= position + 26 + Self.eventStart.count + Self.tailCount else { return nil }
        let time = octets[position..<position + 26]
        guard time.allSatisfy({ (0x30...0x39).contains($0) || [0x2d, 0x2e, 0x3a, 0x54].contains($0) }) else {
            return nil
        }
        position += 26
        guard octets[position...].starts(with: Self.eventStart) else { return nil }
        let event = octets[(position + Self.eventStart.count)...].prefix { $0 != 0x22 }
        let tail = octets.suffix(Self.tailCount)
        guard tail.starts(with: Self.previousStart), octets.suffix(Self.end.count).elementsEqual(Self.end) else {
            return nil
        }
        let hash = tail.dropFirst(Self.previousStart.count).prefix(64)
        let code = octets.suffix(Self.codeCount)
        guard tail[hash.endIndex] == 0x22, code.starts(with: Self.codeBegin), let previous = Self.octets(hash),
            let code = Self.octets(code.dropFirst(Self.codeBegin.count).prefix(64))
        else { return nil }
        self.number = number
        self.time = String(decoding: time, as: UTF8.self) + "Z"
        self.event = String(decoding: event, as: UTF8.self)
        self.previous = previous
        self.code = code
    }

    /// What the code is computed over.
    static func body(_ octets: [UInt8]) -> [UInt8] { Array(octets.dropLast(codeCount)) }

    /// From lower-case hexadecimal digits: each value has one form only.
    private static func octets(_ digits: ArraySlice<UInt8>) -> [UInt8]? {
        var result: [UInt8] = []
        var high: UInt8?
        for digit in digits {
            let value: UInt8
            switch digit {
            case 0x30...0x39: value = digit - 0x30
            case 0x61...0x66: value = digit - 0x57
            default: return nil
            }
            if let first = high {
                result.append(first << 4 | value)
                high = nil
            } else {
                high = value
            }
        }
        return result
    }
}

/// What is wrong with a line, the first such.
public enum AuditFault: Error, Sendable, Hashable {
    /// It has not the form of a line; the last one of a file has no line feed.
    case malformed
    /// Its code is not that of its octets: it was changed, or made with another master key.
    case changed
    /// The lines from the first number to the second are missing in front of it.
    case missing(from: UInt64, to: UInt64)
    /// It is a line of this chain in the wrong place: the number that belongs here.
    case misplaced(expected: UInt64)
    /// It does not follow from the line before it.
    case unlinked
}

extension AuditFault: CustomStringConvertible {
    public var description: String {
        switch self {
        case .malformed: "is no whole line of an audit file"
        case .changed: "was changed, or is not sealed by this master key"
        case .missing(let from, let to):
            from == to
                ? "comes too early: line \(from) is missing" : "comes too early: lines \(from) to \(to) are missing"
        case .misplaced(let expected): "is in the wrong place or there twice: number \(expected) belongs here"
        case .unlinked: "does not follow from the line before it"
        }
    }
}

/// Checks the lines of a chain one after the other.
public struct AuditVerifier: Sendable {
    /// The last good line, or where the chain is to begin; nil as long as any beginning is accepted.
    public private(set) var head: AuditHead?
    /// The first line's number.
    public private(set) var first: UInt64?
    private let key: Secret?
    private let beginsAnywhere: Bool

    /// Events that a file may begin with whose earlier lines are in another file.
    public static let beginnings: Set<String> = ["audit.rotated", "audit.continued"]

    /// - Parameters:
    ///   - key: of `AuditChain.key`; nil to check the chain of hashes only, which tells changes but not a chain that
    ///     was computed anew, and nothing of the last line.
    ///   - beginsAnywhere: the first line may have any number: what was before it is in another file. Otherwise it is
    ///     the first one of the chain, or says that it goes on.
    public init(key: Secret?, beginsAnywhere: Bool = false) {
        self.key = key
        self.beginsAnywhere = beginsAnywhere
    }

    /// Checks the next line, without its line feed. After a fault there is no going on.
    @discardableResult
    public mutating func take(_ octets: [UInt8]) throws(AuditFault) -> AuditLine {
        guard let line = AuditLine(octets) else { throw .malformed }
        if let key, !constantTimeEqual(HMAC.code(.sha256, key: key, AuditLine.body(octets)), line.code) {
            throw .changed
        }
        if let head {
            let expected = head.number + 1
            guard line.number >= expected else { throw .misplaced(expected: expected) }
            guard line.number == expected else { throw .missing(from: expected, to: line.number - 1) }
            guard constantTimeEqual(line.previous, head.hash) else { throw .unlinked }
        } else if line.number == 1 {
            guard line.previous == AuditHead.start.hash else { throw .unlinked }
        } else if !beginsAnywhere, !Self.beginnings.contains(line.event) {
            throw .missing(from: 1, to: line.number - 1)
        }
        if first == nil { first = line.number }
        head = AuditHead(number: line.number, hash: HashAlgorithm.sha256.digest(octets))
        return line
    }
}
