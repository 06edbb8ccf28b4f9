// SPDX-License-Identifier: Apache-2.0

public import Basics

/// Why a message or a payload could not be read. Always the peer's fault.
public enum ISAKMPError: Error, Hashable, Sendable {
    /// Does not follow the format.
    case malformed
    /// More payloads than our limit.
    case tooManyPayloads
    /// The version octet is not 0x10 (RFC 2408 3.1).
    case unsupportedVersion
    /// The header's length is not the datagram's.
    case lengthMismatch
}

extension Header {
    /// Where the length field stands, for a writer that learns the length last.
    static let lengthOffset = 24

    /// Reads the 28 octets at the front of a whole message; `reader` then stands at the first payload.
    ///
    /// Throws `.malformed` when there are fewer, `.unsupportedVersion`, and `.lengthMismatch` when the header does not
    /// give the length of the whole datagram.
    public init(reading reader: inout OctetReader) throws(ISAKMPError) {
        let total = reader.count
        let version: UInt8
        do throws(Truncated) {
            initiatorCookie = try reader.u64()
            responderCookie = try reader.u64()
            nextPayload = PayloadType(rawValue: try reader.u8())
            version = try reader.u8()
            exchange = ExchangeType(rawValue: try reader.u8())
            flags = try reader.u8()
            messageID = try reader.u32()
            length = try reader.u32()
        } catch {
            throw .malformed
        }
        guard version == Self.version else { throw .unsupportedVersion }
        // spec: RFC 2408 5.2 - a message whose length field and size differ is discarded
        guard UInt64(length) == UInt64(total) else { throw .lengthMismatch }
    }

    /// Appends the 28 octets.
    public func write(to writer: inout OctetWriter) {
        writer.u64(initiatorCookie)
        writer.u64(responderCookie)
        writer.u8(nextPayload.rawValue)
        writer.u8(Self.version)
        writer.u8(exchange.rawValue)
        writer.u8(flags)
        writer.u32(messageID)
        writer.u32(length)
    }
}
