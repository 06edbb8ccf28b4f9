// SPDX-License-Identifier: Apache-2.0

public import Basics
public import Cryptography

/// A value of the store with one strict encoding, a version in front.
public protocol StoredRecord: Sendable {
    static var version: UInt8 { get }
    func write(to writer: inout OctetWriter, _ clock: RecordClock)
    /// Throws anything for octets that `write` does not make.
    init(reading reader: inout OctetReader, _ clock: RecordClock) throws
}

extension StoredRecord {
    public func octets(_ clock: RecordClock) -> Secret {
        var writer = OctetWriter(capacity: 128)
        writer.u8(Self.version)
        write(to: &writer, clock)
        var octets = writer.bytes
        defer { wipe(&octets) }
        return Secret(octets)
    }

    /// Throws `UnreadableRecord` for anything that `octets` does not write.
    public init(name: String, octets value: Secret, _ clock: RecordClock) throws(UnreadableRecord) {
        // Revealed to be taken apart; the keys become secrets again.
        var octets = value.revealed()
        defer { wipe(&octets) }
        do {
            var reader = OctetReader(octets)
            guard try reader.u8() == Self.version else { throw Truncated() }
            try self.init(reading: &reader, clock)
            guard reader.isEmpty else { throw Truncated() }
        } catch {
            throw UnreadableRecord(name: name)
        }
    }
}

extension OctetWriter {
    /// Microseconds since 1970; the greatest number for never.
    mutating func time(_ instant: Instant?, _ clock: RecordClock) {
        u64(instant.map { min(clock.microseconds($0), OctetReader.lastTime) } ?? .max)
    }

    /// Of at most 2^32 - 1 octets, its length in front.
    mutating func part(_ octets: [UInt8]) {
        u32(UInt32(clamping: octets.count))
        append(octets)
    }
}

extension OctetReader {
    /// In the year 2112.
    fileprivate static let lastTime: UInt64 = 1 << 52 - 1

    mutating func time(_ clock: RecordClock) throws -> Instant {
        let microseconds = try u64()
        guard microseconds <= Self.lastTime else { throw Truncated() }
        return clock.instant(microseconds)
    }

    mutating func timeOrNever(_ clock: RecordClock) throws -> Instant? {
        let microseconds = try u64()
        guard microseconds <= Self.lastTime || microseconds == .max else { throw Truncated() }
        return microseconds == .max ? nil : clock.instant(microseconds)
    }

    mutating func part() throws -> [UInt8] { try bytes(Int(try u32())) }

    /// Octets of bits below `limit`.
    mutating func flags(below limit: UInt8) throws -> UInt8 {
        let flags = try u8()
        guard flags < limit else { throw Truncated() }
        return flags
    }
}
