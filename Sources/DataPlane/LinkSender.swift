// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import CLinux
internal import ESP
internal import EventLoop
internal import Glibc

/// The outer IPv4 header of ESP packets to groups, where no kernel writes it.
struct OuterHeader {
    /// Octets before the ESP packet: an IPv4 header without options.
    static let size = 20

    /// What goes over the link in one piece, in octets.
    var linkMTU: Int
    var ttl: UInt8

    /// Writes it before an ESP packet; false, and nothing written, for one that needs a route or must be cut.
    func write(
        _ buffer: inout MutableSpan<UInt8>, packet: Range<Int>, source: IPAddress, destination: IPAddress,
        trafficClass: UInt8, identification: UInt16
    ) -> Bool {
        guard case .v4(let group) = destination, destination.isMulticast, case .v4(let from) = source, from != 0,
            packet.lowerBound >= Self.size, packet.upperBound <= buffer.count, Self.size + packet.count <= linkMTU
        else { return false }
        // No DF to a group: one member's path must not decide for all.
        var fields: [10 of UInt16] = [
            0x4500 | UInt16(trafficClass), UInt16(Self.size + packet.count), identification, 0, UInt16(ttl) << 8 | 50,
            0,
            UInt16(from >> 16), UInt16(truncatingIfNeeded: from), UInt16(group >> 16),
            UInt16(truncatingIfNeeded: group),
        ]
        var sum: UInt32 = 0
        for index in fields.indices { sum += UInt32(fields[index]) }
        sum = sum & 0xffff + sum >> 16
        fields[5] = ~UInt16(truncatingIfNeeded: sum & 0xffff + sum >> 16)
        let start = packet.lowerBound - Self.size
        for index in fields.indices {
            buffer[start + 2 * index] = UInt8(fields[index] >> 8)
            buffer[start + 2 * index + 1] = UInt8(truncatingIfNeeded: fields[index])
        }
        return true
    }
}

/// Sends ESP packets to IPv4 groups straight to the satellite interface. A group's hardware address follows from the
/// group (RFC 1112 6.4), so that neither a route nor a neighbour has to be looked up for a packet. Queueing discipline
/// and guard of the interface stay.
final class LinkSender {
    private let header: OuterHeader
    /// Of the last packet. What may be cut needs a number of its own (RFC 6864 4.1).
    private var identification: UInt16 = 0
    let descriptor: Int32
    let interface: UInt32

    /// - Throws: `EOPNOTSUPP` for an interface that is no Ethernet, where the raw socket remains.
    init(_ name: String, interface: UInt32, header: OuterHeader, buffer: Int) throws(SystemError) {
        let opened = unsafe clinux_link_open(name, Int32(clamping: buffer))
        descriptor = try SystemError.check("open a packet socket on", opened, context: name)
        self.interface = interface
        self.header = header
    }

    deinit { close(descriptor) }

    /// Writes the outer header before a packet that goes this way; false for one that does not.
    func writeHeader(
        _ buffer: inout MutableSpan<UInt8>, packet: Range<Int>, source: IPAddress, destination: IPAddress,
        trafficClass: UInt8
    ) -> Bool {
        identification &+= 1
        return header.write(
            &buffer, packet: packet, source: source, destination: destination, trafficClass: trafficClass,
            identification: identification)
    }
}
