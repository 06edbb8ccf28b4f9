// SPDX-License-Identifier: Apache-2.0

internal import CLinux

/// UDP datagrams of one flow, one behind the other, that the kernel may take from us in one piece and cut again
/// ("generic segmentation offload"): all of one payload size but the last, which may be smaller.
///
/// What comes out at the other end must be what came in. The kernel makes new checksums when it cuts, so only datagrams
/// whose checksums are right are taken; and it numbers the packets (the Identification field) from the first one's
/// number on, which says something only about packets that may be fragmented (RFC 6864 4).
struct DatagramRun {
    /// IPv4 header without options, and UDP header.
    static let header = 28
    private static let ipHeader = 20
    /// The whole has the length field of one IP packet.
    private static let largest = 65_535

    /// What all datagrams of a run have in common.
    private struct Flow: Equatable {
        var source: UInt32
        var destination: UInt32
        var ports: UInt32
        /// DSCP and ECN.
        var trafficClass: UInt8
        var ttl: UInt8
        var mayBeFragmented: Bool
    }

    private var flow = Flow(source: 0, destination: 0, ports: 0, trafficClass: 0, ttl: 0, mayBeFragmented: false)
    /// Datagrams in it; 0 when there is none that others may follow.
    private(set) var count = 0
    /// Octets of payload of each but the last.
    private(set) var segment = 0
    /// Octets of payload of all.
    private var payload = 0
    private var identification: UInt16 = 0
    private var isComplete = false

    /// Takes `packet` for the first of a new run. Gives false, and is empty, when nothing may follow it.
    mutating func begin(_ packet: Span<UInt8>) -> Bool {
        count = 0
        guard let read = Self.read(packet), packet.count > Self.header else { return false }
        flow = read
        count = 1
        segment = packet.count - Self.header
        payload = segment
        identification = packet.u16(4)
        isComplete = false
        return true
    }

    /// Takes a packet that belongs behind the others; false when it does not.
    mutating func extend(_ packet: Span<UInt8>) -> Bool {
        guard count > 0, !isComplete, packet.count > Self.header, packet.count - Self.header <= segment,
            payload + packet.count <= Self.largest, let read = Self.read(packet), read == flow
        else { return false }
        let follows = packet.u16(4) == identification &+ UInt16(truncatingIfNeeded: count)
        // Linux numbers what it may not fragment with 0, and the guard's rule for the LAN allows fragments afterwards.
        guard !flow.mayBeFragmented || follows || (packet.u16(4) == 0 && identification == 0) else { return false }
        count += 1
        payload += packet.count - Self.header
        isComplete = packet.count - Self.header < segment
        return true
    }

    /// Makes the first packet's header that of the whole, as the kernel wants it: lengths, the sum of the pseudo header
    /// in place of the UDP checksum. A multicast may be fragmented: the kernel's multicast router, which drops what is
    /// larger than the link and may not be, looks at the whole.
    func writeHeader(_ packet: inout MutableSpan<UInt8>) {
        packet.put16(UInt16(Self.header + payload), 2)
        if flow.destination >> 28 == 0xe { packet[6] &= 0xbf }
        packet.put16(0, 10)
        packet.put16(~packet.sum(0..<Self.ipHeader, start: 0), 10)
        let length = 8 + payload
        packet.put16(UInt16(length), 24)
        packet.put16(packet.sum(12..<20, start: UInt32(17 + length)), 26)
    }

    /// An IPv4 packet with a whole UDP datagram whose checksum is there and right; nil for all others.
    private static func read(_ packet: Span<UInt8>) -> Flow? {
        // No options; neither more fragments nor an offset.
        guard packet.count >= header, packet[0] == 0x45, packet[9] == 17, packet.u16(6) & 0x3fff == 0,
            Int(packet.u16(2)) == packet.count, Int(packet.u16(24)) == packet.count - ipHeader,
            packet.u16(26) != 0
        else { return nil }
        let pseudo = UInt32(17 + packet.count - ipHeader)
        // From the source address to the end: pseudo header and datagram in one.
        guard packet.sum(12..<packet.count, start: pseudo) == 0xffff else { return nil }
        return Flow(
            source: UInt32(packet.u16(12)) << 16 | UInt32(packet.u16(14)),
            destination: UInt32(packet.u16(16)) << 16 | UInt32(packet.u16(18)),
            ports: UInt32(packet.u16(20)) << 16 | UInt32(packet.u16(22)), trafficClass: packet[1], ttl: packet[8],
            mayBeFragmented: packet[6] & 0x40 == 0)
    }
}

extension Span<UInt8> {
    /// 16 bits in network order.
    fileprivate func u16(_ offset: Int) -> UInt16 { UInt16(self[offset]) << 8 | UInt16(self[offset + 1]) }

    /// The one's complement sum of a range that lies inside.
    fileprivate func sum(_ range: Range<Int>, start: UInt32) -> UInt16 {
        unsafe extracting(range).withUnsafeBufferPointer { octets in
            unsafe clinux_checksum(octets.baseAddress, UInt32(octets.count), start)
        }
    }
}

extension MutableSpan<UInt8> {
    fileprivate mutating func put16(_ value: UInt16, _ offset: Int) {
        self[offset] = UInt8(value >> 8)
        self[offset + 1] = UInt8(truncatingIfNeeded: value)
    }

    fileprivate func sum(_ range: Range<Int>, start: UInt32) -> UInt16 { span.sum(range, start: start) }
}
