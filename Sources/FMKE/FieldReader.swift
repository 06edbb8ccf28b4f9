// SPDX-License-Identifier: Apache-2.0

import Basics
import ISAKMP

/// `OctetReader` in the errors of this module, with the two checks that every payload needs: reserved octets are zero
/// and nothing is left over.
struct FieldReader {
    private var reader: OctetReader

    init(_ octets: [UInt8]) { reader = OctetReader(octets) }

    var count: Int { reader.count }

    func isNext(_ octet: UInt8) -> Bool {
        var ahead = self
        return (try? ahead.u8()) == octet
    }

    mutating func u8() throws(FMKEError) -> UInt8 {
        do { return try reader.u8() } catch { throw .malformed }
    }
    mutating func u16() throws(FMKEError) -> UInt16 {
        do { return try reader.u16() } catch { throw .malformed }
    }
    mutating func u32() throws(FMKEError) -> UInt32 {
        do { return try reader.u32() } catch { throw .malformed }
    }
    mutating func u64() throws(FMKEError) -> UInt64 {
        do { return try reader.u64() } catch { throw .malformed }
    }
    mutating func bytes(_ count: Int) throws(FMKEError) -> [UInt8] {
        do { return try reader.bytes(count) } catch { throw .malformed }
    }
    mutating func remainder() -> [UInt8] { reader.remainder() }

    /// Reserved octets: anything but zero is refused, so that a later version can give them a meaning.
    mutating func zeros(_ count: Int) throws(FMKEError) {
        guard try bytes(count).allSatisfy({ $0 == 0 }) else { throw .malformed }
    }

    func end() throws(FMKEError) {
        guard reader.isEmpty else { throw .malformed }
    }
}

/// The attributes of one payload or key packet, which FMKE writes in a fixed order and form: one value has one
/// encoding, and each attribute is read by naming the one that must come next.
struct AttributeReader {
    private var rest: ArraySlice<DataAttribute>

    /// Throws `unsupported` for a type that is not in `known`.
    init(_ octets: [UInt8], known: Set<UInt16>) throws(FMKEError) {
        let list: [DataAttribute]
        do { list = try DataAttribute.parse(octets[...]) } catch { throw .malformed }
        guard list.allSatisfy({ known.contains($0.type) }) else { throw .unsupported }
        rest = list[...]
    }

    func isNext(_ type: UInt16) -> Bool { rest.first?.type == type }

    mutating func basic(_ type: UInt16) throws(FMKEError) -> UInt16 {
        guard let next = rest.first, next.type == type, case .basic(let value) = next.value else { throw .malformed }
        rest = rest.dropFirst()
        return value
    }

    mutating func octets(_ type: UInt16) throws(FMKEError) -> [UInt8] {
        guard let next = rest.first, next.type == type, case .variable(let value) = next.value else {
            throw .malformed
        }
        rest = rest.dropFirst()
        return value
    }

    /// Four octets in the variable form, whatever the value.
    mutating func u32(_ type: UInt16) throws(FMKEError) -> UInt32 {
        var reader = FieldReader(try octets(type))
        let value = try reader.u32()
        try reader.end()
        return value
    }

    func end() throws(FMKEError) {
        guard rest.isEmpty else { throw .malformed }
    }
}

extension DataAttribute {
    static func basic(_ type: UInt16, _ value: UInt16) -> DataAttribute {
        DataAttribute(type, .basic(value))
    }
    static func octets(_ type: UInt16, _ value: [UInt8]) -> DataAttribute {
        DataAttribute(type, .variable(value))
    }
    static func u32(_ type: UInt16, _ value: UInt32) -> DataAttribute {
        var writer = OctetWriter(capacity: 4)
        writer.u32(value)
        return octets(type, writer.bytes)
    }
}

extension PayloadChain {
    /// A whole chain without padding or tail, in the errors of this module.
    static func read(first: PayloadType, _ octets: [UInt8], limit: Int) throws(FMKEError) -> [RawPayload] {
        do {
            return try parse(first: first, octets[...], limit: limit, allowPadding: false)
        } catch .tooManyPayloads {
            throw .limit
        } catch {
            throw .malformed
        }
    }
}
