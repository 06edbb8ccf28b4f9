// SPDX-License-Identifier: Apache-2.0

/// The only way a reader fails: there were fewer octets than the format needs.
public struct Truncated: Error, Hashable, Sendable {
    public init() {}
}

/// Reads big-endian fields off the front of a message. Never traps: what is not there throws.
public struct OctetReader: Sendable {
    public private(set) var rest: ArraySlice<UInt8>

    public init(_ octets: [UInt8]) { rest = octets[...] }
    public init(_ octets: ArraySlice<UInt8>) { rest = octets }

    public var isEmpty: Bool { rest.isEmpty }
    public var count: Int { rest.count }

    /// The next `count` octets.
    public mutating func slice(_ count: Int) throws(Truncated) -> ArraySlice<UInt8> {
        guard count >= 0, count <= rest.count else { throw Truncated() }
        defer { rest = rest.dropFirst(count) }
        return rest.prefix(count)
    }

    public mutating func bytes(_ count: Int) throws(Truncated) -> [UInt8] { try [UInt8](slice(count)) }

    /// All that is left.
    public mutating func remainder() -> [UInt8] {
        defer { rest = rest.suffix(0) }
        return [UInt8](rest)
    }

    public mutating func u8() throws(Truncated) -> UInt8 { try integer() }
    public mutating func u16() throws(Truncated) -> UInt16 { try integer() }
    public mutating func u32() throws(Truncated) -> UInt32 { try integer() }
    public mutating func u64() throws(Truncated) -> UInt64 { try integer() }

    private mutating func integer<Value: FixedWidthInteger & UnsignedInteger>() throws(Truncated) -> Value {
        var value: Value = 0
        for octet in try slice(Value.bitWidth / 8) { value = value &<< 8 | Value(octet) }
        return value
    }
}

/// Writes big-endian fields one behind the other.
public struct OctetWriter: Sendable {
    public private(set) var bytes: [UInt8] = []

    public init(capacity: Int = 0) { bytes.reserveCapacity(capacity) }

    public var count: Int { bytes.count }

    public mutating func u8(_ value: UInt8) { bytes.append(value) }
    public mutating func u16(_ value: UInt16) { integer(value) }
    public mutating func u32(_ value: UInt32) { integer(value) }
    public mutating func u64(_ value: UInt64) { integer(value) }
    public mutating func append(_ octets: some Sequence<UInt8>) { bytes.append(contentsOf: octets) }

    /// Overwrites two octets written earlier: a length that is known only at the end.
    public mutating func patch(u16 value: UInt16, at offset: Int) {
        bytes[offset] = UInt8(value >> 8)
        bytes[offset + 1] = UInt8(value & 0xff)
    }

    private mutating func integer<Value: FixedWidthInteger & UnsignedInteger>(_ value: Value) {
        for shift in stride(from: Value.bitWidth - 8, through: 0, by: -8) {
            bytes.append(UInt8(truncatingIfNeeded: value >> Value(shift)))
        }
    }
}

/// Two lower-case digits per octet.
public func hexadecimal(_ octets: some Sequence<UInt8>) -> String {
    let digits: [Character] = Array("0123456789abcdef")
    var text = ""
    for octet in octets {
        text.append(digits[Int(octet >> 4)])
        text.append(digits[Int(octet & 15)])
    }
    return text
}

/// The octets behind hexadecimal text; blanks between octets are allowed, anything else is nil.
public func octets(hexadecimal text: some StringProtocol) -> [UInt8]? {
    var result: [UInt8] = []
    var high: UInt8?
    for character in text where !character.isWhitespace {
        guard character.isASCII, let digit = character.hexDigitValue.map(UInt8.init) else { return nil }
        if let upper = high {
            result.append(upper << 4 | digit)
            high = nil
        } else {
            high = digit
        }
    }
    return high == nil ? result : nil
}

/// An SPI as people write it: `0x000012ab`.
public func spiText(_ spi: UInt32) -> String {
    "0x" + hexadecimal((0..<4).map { UInt8(truncatingIfNeeded: spi >> (24 - 8 * $0)) })
}
