// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import Cryptography
internal import KeyServer

// DesiredState owns the numbered revisions of what the operator wants: clients, ranges and groups, with who asked for
// them, when and why. It stores them beside the key server's other records, sealed like these and with every secret in
// them, so that an old revision can come back whatever became of the files that it was read from; and it writes them as
// files again, in which no secret stands.

/// Where a revision comes from.
public enum RevisionSource: Sendable, Hashable {
    /// What `gcks serve` was started with, or read again at SIGHUP.
    case configurationFile
    /// `gcks apply`.
    case command
    /// An earlier revision.
    case rollback(to: UInt64)
}

extension RevisionSource: CustomStringConvertible {
    public var description: String {
        switch self {
        case .configurationFile: "config file"
        case .command: "apply"
        case .rollback(let number): "rollback to \(number)"
        }
    }
}

/// What is known of a revision beside the inventory itself.
public struct Revision: Sendable, Hashable {
    /// From 1.
    public var number: UInt64
    /// Microseconds since 1970.
    public var madeAt: UInt64
    public var source: RevisionSource
    /// Who asked for it: a file's name, or the user of the process that did.
    public var author: String
    /// Why, in the operator's words; may be empty.
    public var comment: String

    public init(number: UInt64, madeAt: UInt64, source: RevisionSource, author: String, comment: String) {
        (self.number, self.madeAt, self.source) = (number, madeAt, source)
        (self.author, self.comment) = (author, comment)
    }
}

/// There is no revision of this number, or not any more.
public struct UnknownRevision: Error, Hashable, Sendable {
    public var number: UInt64
    public init(number: UInt64) { self.number = number }
}

extension UnknownRevision: CustomStringConvertible {
    public var description: String { "there is no revision \(number); 'gcks history' lists them" }
}

extension Revision {
    static let version: UInt8 = 1
    /// Of author and comment each, in octets; what is longer is cut.
    static let wordsAtMost = 1_000

    /// `desired/N`: version | number, time (u64 each) | source (u8), its revision (u64) | author, comment (length u16,
    /// UTF-8 each).
    var octets: Secret {
        var writer = OctetWriter(capacity: 64)
        writer.u8(Self.version)
        writer.u64(number)
        writer.u64(madeAt)
        switch source {
        case .configurationFile:
            writer.u8(0)
            writer.u64(0)
        case .command:
            writer.u8(1)
            writer.u64(0)
        case .rollback(let earlier):
            writer.u8(2)
            writer.u64(earlier)
        }
        for words in [author, comment] {
            let text = Self.cut(words).utf8
            writer.u16(UInt16(clamping: text.count))
            writer.append(text)
        }
        return Secret(writer.bytes)
    }

    /// Throws `UnreadableRecord` for anything that `octets` does not write.
    init(name: String, octets value: Secret) throws(UnreadableRecord) {
        do {
            // Revealed: there is nothing secret in it.
            var reader = OctetReader(value.revealed())
            guard try reader.u8() == Self.version else { throw Truncated() }
            (number, madeAt) = (try reader.u64(), try reader.u64())
            switch (try reader.u8(), try reader.u64()) {
            case (0, 0): source = .configurationFile
            case (1, 0): source = .command
            case (2, let earlier): source = .rollback(to: earlier)
            default: throw Truncated()
            }
            func words() throws -> String {
                let octets = try reader.bytes(Int(try reader.u16()))
                guard let text = String(validating: octets, as: UTF8.self) else { throw Truncated() }
                return text
            }
            (author, comment) = (try words(), try words())
            guard reader.isEmpty, number > 0 else { throw Truncated() }
        } catch {
            throw UnreadableRecord(name: name)
        }
    }

    private static func cut(_ text: String) -> String {
        var cut = text
        while cut.utf8.count > wordsAtMost { cut.removeLast() }
        return cut
    }
}
