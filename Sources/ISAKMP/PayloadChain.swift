// SPDX-License-Identifier: Apache-2.0

internal import Basics

/// The payloads of a message, each behind a generic header that names the type of the *next* one (RFC 2408 3.2).
public enum PayloadChain {
    /// Octets of a generic payload header: next payload 1, reserved 1, length 2 (header included).
    public static let headerSize = 4
    /// What fits behind a generic header.
    public static let bodySizeLimit = 0xffff - headerSize

    /// Takes `octets` apart, at most `limit` payloads; `first` is the type of the first one and 0 ends the chain.
    ///
    /// Octets behind the chain are the padding of an encrypted message and are left alone when `allowPadding` is set
    /// (RFC 2409 appendix B); without it they are `.malformed`, as is a length that does not fit and a reserved octet
    /// that is not 0.
    public static func parse(
        first: PayloadType, _ octets: ArraySlice<UInt8>, limit: Int, allowPadding: Bool
    ) throws(ISAKMPError) -> [RawPayload] {
        var reader = OctetReader(octets)
        var payloads: [RawPayload] = []
        var type = first
        while type != .none {
            guard payloads.count < limit else { throw .tooManyPayloads }
            let payload = try next(type, &reader)
            payloads.append(payload.payload)
            type = payload.next
        }
        guard allowPadding || reader.isEmpty else { throw .malformed }
        return payloads
    }

    /// Chains the payloads: the type of the first one, and all octets behind the ISAKMP header.
    public static func encode(_ payloads: [RawPayload]) -> (first: PayloadType, octets: [UInt8]) {
        var writer = OctetWriter(capacity: payloads.reduce(0) { $0 + headerSize + $1.body.count })
        for (index, payload) in payloads.enumerated() {
            let next = index + 1 < payloads.count ? payloads[index + 1].type : .none
            write(payload.body, next: next, to: &writer)
        }
        return (payloads.first?.type ?? .none, writer.bytes)
    }

    /// One generic header and the body behind it.
    static func write(_ body: [UInt8], next: PayloadType, to writer: inout OctetWriter) {
        precondition(body.count <= bodySizeLimit, "a payload's length fits its 16-bit field")
        writer.u8(next.rawValue)
        writer.u8(0)
        writer.u16(UInt16(headerSize + body.count))
        writer.append(body)
    }

    private static func next(
        _ type: PayloadType, _ reader: inout OctetReader
    ) throws(ISAKMPError) -> (payload: RawPayload, next: PayloadType) {
        do throws(Truncated) {
            let next = PayloadType(rawValue: try reader.u8())
            // spec: RFC 2408 5.3 - the reserved octet of a generic header is zero
            let reserved = try reader.u8()
            let length = Int(try reader.u16())
            guard reserved == 0, length >= headerSize else { throw Truncated() }
            return (RawPayload(type, try reader.bytes(length - headerSize)), next)
        } catch {
            throw .malformed
        }
    }
}
