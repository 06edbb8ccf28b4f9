// SPDX-License-Identifier: Apache-2.0

/// One thing that happened, for one line of the log: engines say it, drivers write it. Never a key.
public struct LogEvent: Sendable, Hashable {
    public enum Level: String, Sendable, Hashable, Comparable, CaseIterable {
        case debug, info, warning, error

        private var rank: Int { Self.allCases.firstIndex(of: self) ?? 0 }
        public static func < (left: Level, right: Level) -> Bool { left.rank < right.rank }
    }
    public struct Field: Sendable, Hashable {
        public var name: String
        public var value: String

        public init(name: String, value: String) {
            self.name = name
            self.value = value
        }
    }
    public var level: Level
    /// A stable dotted name, such as `phase1.established`.
    public var name: String
    public var fields: [Field]

    public init(_ level: Level, _ name: String, _ fields: KeyValuePairs<String, String> = [:]) {
        self.level = level
        self.name = name
        self.fields = fields.map { Field(name: $0.key, value: $0.value) }
    }
}

/// Counts what had no effect, by reason, and says when a count is worth a line in the log.
public struct DropCounters: Sendable, Hashable {
    public private(set) var counts: [String: UInt64] = [:]

    public init() {}

    /// Counts one more. The result is the count if it is a power of ten, else nil: a flood makes few lines.
    public mutating func count(_ reason: String) -> UInt64? {
        let count = (counts[reason] ?? 0) + 1
        counts[reason] = count
        var power: UInt64 = 1
        while power < count { power *= 10 }
        return power == count ? count : nil
    }
}

/// Keeps what peers can cause from filling the log: of each kind a few lines at once, then one a second. What is left
/// out is counted.
public struct LogLimiter: Sendable, Hashable {
    private struct Bucket: Hashable {
        var lines: Int64
        var filledAt: Instant
        var omitted: UInt64 = 0
    }

    private static let burst = Int64(Limits().logLinesAtOnce)
    private static let interval: Int64 = 1_000_000_000
    private var buckets: [String: Bucket] = [:]

    public init() {}

    /// How many lines of this kind were left out since the last one; nil when this one is to be left out too.
    ///
    /// - Parameter kind: out of a bounded number of kinds: nothing that a peer chooses.
    public mutating func admit(_ kind: String, now: Instant) -> UInt64? {
        var bucket = buckets[kind] ?? Bucket(lines: Self.burst, filledAt: now)
        defer { buckets[kind] = bucket }
        let earned = max(0, (now - bucket.filledAt).wholeNanoseconds / Self.interval)
        if bucket.lines + min(earned, Self.burst) >= Self.burst {
            bucket.lines = Self.burst
            bucket.filledAt = now
        } else {
            bucket.lines += earned
            bucket.filledAt = bucket.filledAt + .nanoseconds(earned * Self.interval)
        }
        guard bucket.lines > 0 else {
            bucket.omitted &+= 1
            return nil
        }
        bucket.lines -= 1
        defer { bucket.omitted = 0 }
        return bucket.omitted
    }
}

/// Numbers handed out once each, reserved in blocks: a block is recorded before its first number is used, so a crash
/// skips numbers and never repeats one.
public struct NumberBlock: Sendable, Hashable {
    public static let size: UInt64 = 1_000

    /// The next number to hand out.
    public private(set) var next: UInt64
    /// The first number that is not reserved yet.
    public private(set) var reserved: UInt64

    /// - Parameter first: the first number that was never reserved before.
    public init(first: UInt64) {
        next = first
        reserved = first
    }

    /// A fresh number, and the new reservation to record before the number is used, if one was needed.
    public mutating func take() -> (number: UInt64, reservation: UInt64?) {
        var reservation: UInt64?
        if next >= reserved {
            precondition(next < .max - Self.size, "64-bit numbers do not run out")
            reserved = next + Self.size
            reservation = reserved
        }
        defer { next += 1 }
        return (next, reservation)
    }

    /// The last number handed out, or the one before the first.
    public var last: UInt64 { next &- 1 }
}
