// SPDX-License-Identifier: Apache-2.0

internal import Basics

/// A data attribute (RFC 2408 3.3): a 15-bit type with a value of 16 bits or of any length.
public struct DataAttribute: Hashable, Sendable {
    /// How the value travels. A reader accepts an integer in either form and an echo keeps the form it came in.
    public enum Value: Hashable, Sendable {
        /// AF = 1: two octets in place of a length.
        case basic(UInt16)
        /// AF = 0: a length and that many octets.
        case variable([UInt8])
    }

    /// Without the AF bit.
    public var type: UInt16
    public var value: Value

    private static let formatBit: UInt16 = 0x8000

    /// `type` is below 0x8000.
    public init(_ type: UInt16, _ value: Value) {
        precondition(type < Self.formatBit, "an attribute type has 15 bits")
        self.type = type
        self.value = value
    }

    /// `.basic` when the number fits 16 bits, otherwise four octets.
    public init(_ type: UInt16, integer: UInt32) {
        self.init(type, UInt16(exactly: integer).map { .basic($0) } ?? .variable(Self.octets(integer)))
    }

    /// The value as a number, whichever form it came in: nil for nothing, and for more than 8 octets.
    public var integer: UInt64? {
        switch value {
        case .basic(let number): UInt64(number)
        case .variable(let octets):
            (1...8).contains(octets.count) ? octets.reduce(0) { $0 << 8 | UInt64($1) } : nil
        }
    }

    /// Reads attributes until the octets end; throws `.malformed` when the last one is cut short.
    public static func parse(_ octets: ArraySlice<UInt8>) throws(ISAKMPError) -> [DataAttribute] {
        var reader = OctetReader(octets)
        var attributes: [DataAttribute] = []
        do throws(Truncated) {
            while !reader.isEmpty {
                let field = try reader.u16()
                let second = try reader.u16()
                let isBasic = field & formatBit != 0
                let value: Value = isBasic ? .basic(second) : .variable(try reader.bytes(Int(second)))
                attributes.append(DataAttribute(field & ~formatBit, value))
            }
        } catch {
            throw .malformed
        }
        return attributes
    }

    /// The attributes one behind the other, each in its own form.
    public static func encode(_ attributes: [DataAttribute]) -> [UInt8] {
        var writer = OctetWriter()
        for attribute in attributes {
            switch attribute.value {
            case .basic(let number):
                writer.u16(attribute.type | formatBit)
                writer.u16(number)
            case .variable(let octets):
                precondition(octets.count <= 0xffff, "an attribute's length fits its 16-bit field")
                writer.u16(attribute.type)
                writer.u16(UInt16(octets.count))
                writer.append(octets)
            }
        }
        return writer.bytes
    }

    private static func octets(_ number: UInt32) -> [UInt8] {
        var writer = OctetWriter()
        writer.u32(number)
        return writer.bytes
    }
}
