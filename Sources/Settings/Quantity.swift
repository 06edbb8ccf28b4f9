// SPDX-License-Identifier: Apache-2.0

internal import Basics

/// Numbers with units: `2s`, `64kbit/s`, `1GiB`. A number without its unit is refused, since guessing it wrong costs a
/// factor of a thousand.
enum Quantity {
    /// A decimal number times `scale`, in integers throughout; nil when it is none, has digits that do not fit the
    /// scale, or overflows.
    static func decimal(_ text: some StringProtocol, scale: UInt64) -> UInt64? {
        let parts = text.split(separator: ".", omittingEmptySubsequences: false)
        guard let whole = parts.first, parts.count <= 2, let integer = digits(whole) else { return nil }
        let (scaled, overflow) = integer.multipliedReportingOverflow(by: scale)
        guard !overflow else { return nil }
        guard parts.count == 2 else { return scaled }
        guard (1...9).contains(parts[1].utf8.count), let fraction = digits(parts[1]) else { return nil }
        let divisor = (0..<parts[1].utf8.count).reduce(UInt64(1)) { product, _ in product * 10 }
        let (high, low) = fraction.multipliedFullWidth(by: scale)
        guard high == 0, low % divisor == 0 else { return nil }
        let (sum, carry) = scaled.addingReportingOverflow(low / divisor)
        return carry ? nil : sum
    }

    /// A decimal number and one of these units, with or without a blank between them.
    static func read(_ text: String, units: [(String, UInt64)]) -> UInt64? {
        let number = text.prefix { $0.isASCII && ($0.isNumber || $0 == ".") }
        let unit = text.dropFirst(number.count).drop { $0 == " " }
        guard let scale = units.first(where: { $0.0 == unit })?.1 else { return nil }
        return decimal(number, scale: scale)
    }

    private static func digits(_ text: some StringProtocol) -> UInt64? {
        text.utf8.allSatisfy { (0x30...0x39).contains($0) } ? UInt64(text) : nil
    }

    /// A duration as an operator would write it.
    static func show(_ duration: Duration) -> String {
        let nanoseconds = duration.wholeNanoseconds
        for (unit, scale) in durationUnits.reversed() where nanoseconds != 0 && nanoseconds % Int64(scale) == 0 {
            return "\(nanoseconds / Int64(scale))\(unit)"
        }
        return "\(duration.inSeconds)s"
    }

    /// A rate as an operator would write it.
    static func show(rate: UInt64) -> String {
        for (unit, scale) in rateUnits.reversed() where rate != 0 && rate % scale == 0 {
            return "\(rate / scale)\(unit)"
        }
        return "\(rate)bit/s"
    }

    /// A size as an operator would write it.
    static func show(size: UInt64) -> String {
        for (unit, scale) in binarySizeUnits.reversed() where size != 0 && size % scale == 0 {
            return "\(size / scale)\(unit)"
        }
        return "\(size)B"
    }

    static let durationUnits: [(String, UInt64)] = [
        ("ms", 1_000_000), ("s", 1_000_000_000), ("min", 60_000_000_000), ("h", 3_600_000_000_000),
        ("d", 86_400_000_000_000),
    ]
    static let rateUnits: [(String, UInt64)] = [
        ("bit/s", 1), ("kbit/s", 1_000), ("Mbit/s", 1_000_000), ("Gbit/s", 1_000_000_000),
    ]
    static let binarySizeUnits: [(String, UInt64)] = [
        ("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40),
    ]
    static let decimalSizeUnits: [(String, UInt64)] = [
        ("kB", 1_000), ("MB", 1_000_000), ("GB", 1_000_000_000), ("TB", 1_000_000_000_000),
    ]
}

extension Scalar where Value == Duration {
    static func duration(_ range: ClosedRange<Duration>) -> Scalar {
        Scalar("a duration", write: "write a number with its unit, for example 500ms, 2s, 5min or 8h") { text in
            Quantity.read(text, units: Quantity.durationUnits).flatMap { Int64(exactly: $0) }.map { .nanoseconds($0) }
        }.within(range, Quantity.show)
    }
}

extension Scalar where Value == Duration? {
    /// A duration, or `off`.
    static func durationOrOff(_ range: ClosedRange<Duration>) -> Scalar {
        Scalar { text throws(Wrong) in
            text == "off" ? nil : try Scalar<Duration>.duration(range).parse(text)
        }
    }
}

extension Scalar where Value == UInt64 {
    /// Bits per second; prefixes are powers of 1,000.
    static func rate(_ range: ClosedRange<UInt64>) -> Scalar {
        Scalar("a rate", write: "write a number with its unit, for example 64kbit/s or 2Mbit/s") {
            Quantity.read($0, units: Quantity.rateUnits)
        }.within(range) { Quantity.show(rate: $0) }
    }

    /// Octets.
    static func size(_ range: ClosedRange<UInt64>) -> Scalar {
        Scalar("a size", write: "write a number with its unit, for example 512MiB, 1GiB or 10GB") {
            Quantity.read($0, units: Quantity.binarySizeUnits + Quantity.decimalSizeUnits)
        }.within(range) { Quantity.show(size: $0) }
    }
}
