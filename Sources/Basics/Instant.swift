// SPDX-License-Identifier: Apache-2.0

/// A point on a monotonic time line, in nanoseconds since an origin that the driver chooses.
///
/// Engines never read a clock: they are told the time with every input. The daemons take it from `CLOCK_BOOTTIME`, the
/// simulator and the tests make it up.
public struct Instant: InstantProtocol, Hashable, Sendable {
    public typealias Duration = Swift.Duration

    public var nanoseconds: Int64

    public init(nanoseconds: Int64) { self.nanoseconds = nanoseconds }

    public static let zero = Instant(nanoseconds: 0)
    /// Later than anything that happens.
    public static let distantFuture = Instant(nanoseconds: .max)

    /// The instant this much later; saturates instead of trapping, since lifetimes can come from the wire.
    public func advanced(by duration: Duration) -> Instant {
        let (sum, overflow) = nanoseconds.addingReportingOverflow(duration.wholeNanoseconds)
        return Instant(nanoseconds: overflow ? (duration < .zero ? .min : .max) : sum)
    }

    public func duration(to other: Instant) -> Duration {
        let (difference, overflow) = other.nanoseconds.subtractingReportingOverflow(nanoseconds)
        return .nanoseconds(overflow ? (other > self ? .max : .min) : difference)
    }

    public static func < (left: Instant, right: Instant) -> Bool { left.nanoseconds < right.nanoseconds }
    public static func + (left: Instant, right: Duration) -> Instant { left.advanced(by: right) }
    public static func - (left: Instant, right: Duration) -> Instant { left.advanced(by: .zero - right) }
    public static func - (left: Instant, right: Instant) -> Duration { right.duration(to: left) }
}

extension Duration {
    /// In nanoseconds, saturating at the ends of Int64 (292 years).
    public var wholeNanoseconds: Int64 {
        let (seconds, attoseconds) = components
        let (scaled, overflow) = seconds.multipliedReportingOverflow(by: 1_000_000_000)
        guard !overflow else { return seconds < 0 ? .min : .max }
        let (sum, carry) = scaled.addingReportingOverflow(attoseconds / 1_000_000_000)
        return carry ? (seconds < 0 ? .min : .max) : sum
    }

    /// In milliseconds, rounded towards zero.
    public var wholeMilliseconds: Int64 { wholeNanoseconds / 1_000_000 }

    /// In seconds, as a floating-point number for reports.
    public var inSeconds: Double { Double(wholeNanoseconds) / 1e9 }

    /// In seconds with three decimals, for a line of the log: `1.250`.
    public var secondsText: String {
        let milliseconds = wholeMilliseconds
        let fraction = String(milliseconds.magnitude % 1_000 + 1_000).dropFirst()
        return "\(milliseconds < 0 ? "-" : "")\(milliseconds.magnitude / 1_000).\(fraction)"
    }
}
