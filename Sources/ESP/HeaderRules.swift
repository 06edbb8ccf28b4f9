// SPDX-License-Identifier: Apache-2.0

// What tunnel mode does with the traffic class octet: DSCP and ECN (RFC 4301 5.1.2, RFC 6040).

/// The octet of DSCP (6 bits) and ECN (2 bits), inside and outside.
public enum TrafficClass {
    static let notCapable: UInt8 = 0
    static let capable1: UInt8 = 1
    static let congested: UInt8 = 3

    /// Of an IP packet of which at least two octets are there.
    public static func read(_ packet: Span<UInt8>) -> UInt8 {
        packet[0] >> 4 == 6 ? packet[0] << 4 | packet[1] >> 4 : packet[1]
    }

    /// The outer octet for an inner one: the DSCP is copied, or `dscp` instead of it; the ECN field is always copied
    /// (RFC 6040 4.1, normal mode).
    public static func outer(for inner: UInt8, dscp: UInt8?) -> UInt8 {
        guard let dscp else { return inner }
        return dscp << 2 | inner & 3
    }

    /// The inner ECN field that leaves the tunnel; the DSCP stays what it was inside (RFC 4301 5.1.2.1).
    ///
    /// Throws `congestion` for a packet that routers marked outside though its sender knows no marks, so that dropping
    /// it is the only way of telling (RFC 6040 4.2).
    static func inner(_ inner: UInt8, outer: UInt8) throws(PacketDrop) -> UInt8 {
        switch (inner & 3, outer & 3) {
        case (notCapable, congested): throw .congestion
        case (notCapable, _): return notCapable
        case (_, congested): return congested
        case (2, capable1): return capable1
        default: return inner & 3
        }
    }

    /// Carries a congestion mark of the outer header into the inner packet, at `packet`, whose header was read.
    ///
    /// Throws `congestion` as above.
    public static func carryMark(
        outer: UInt8, into buffer: inout MutableSpan<UInt8>, packet: Range<Int>
    ) throws(PacketDrop) {
        let start = packet.lowerBound
        let octet = read(buffer.span.extracting(packet))
        let mark = try inner(octet, outer: outer)
        guard mark != octet & 3 else { return }
        if buffer[start] >> 4 == 6 {
            buffer[start + 1] = buffer[start + 1] & 0xcf | mark << 4
        } else {
            // RFC 1624 3: one word of the header changes, and the sum follows.
            let former = buffer.span.u16(at: start)
            buffer[start + 1] = octet & 0xfc | mark
            let sum = UInt32(~buffer.span.u16(at: start + 10)) + UInt32(~former) + UInt32(buffer.span.u16(at: start))
            let folded = sum >> 16 + sum & 0xffff
            buffer.store(~UInt16(truncatingIfNeeded: folded >> 16 + folded), at: start + 10)
        }
    }
}
