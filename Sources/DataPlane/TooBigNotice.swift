// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import CLinux
internal import ESP
internal import EventLoop

/// Tells senders on the LAN that their packets do not fit the path to a peer. The kernel does so for what does not fit
/// the tunnel; of the paths behind it only we know.
struct TooBigNotice {
    /// RFC 1812 4.3.2.8, RFC 4443 2.4: these messages are limited. Per second.
    private static let mostPerSecond = Limits().tooBigNoticesPerSecond

    private var second: Int64 = 0
    private var sent = 0

    /// Sends it, unless there were too many or the packet is none to be answered.
    mutating func send(about packet: Span<UInt8>, read: InnerPacket, mtu: Int, now: Instant) {
        guard let message = Self.message(about: packet, read: read, mtu: mtu), admits(now) else { return }
        var destination = clinux_address(read.source)
        // Best effort, as routers do it: the sender's next packet asks again.
        _ = unsafe clinux_icmp_send(&destination, message, UInt32(message.count))
    }

    private mutating func admits(_ now: Instant) -> Bool {
        let present = now.nanoseconds / 1_000_000_000
        if present != second { (second, sent) = (present, 0) }
        sent += 1
        return sent <= Self.mostPerSecond
    }

    /// The message, checksum included for IPv4; nil where none may be sent (RFC 1122 3.2.2, RFC 4443 2.4).
    static func message(about packet: Span<UInt8>, read: InnerPacket, mtu: Int) -> [UInt8]? {
        guard !read.source.isMulticast, !read.source.isUnspecified, !read.destination.isMulticast,
            packet.count >= read.count
        else { return nil }
        var message: [UInt8]
        if read.source.isV4 {
            let header = Int(packet[0] & 15) * 4
            let isFirst = packet[6] & 0x1f == 0 && packet[7] == 0
            // Of ICMP itself only questions and answers get one.
            let isError = read.ipProtocol == 1 && (read.count <= header || ![0, 8].contains(packet[header]))
            guard isFirst, !isError else { return nil }
            let value = UInt16(clamping: mtu)
            message = [3, 4, 0, 0, 0, 0, UInt8(value >> 8), UInt8(value & 0xff)]
            for index in 0..<min(read.count, 548) { message.append(packet[index]) }
            let sum = checksum(message)
            (message[2], message[3]) = (UInt8(sum >> 8), UInt8(sum & 0xff))
        } else {
            // Errors are the types below 128; where headers stand between, they cannot be told, and none is sent.
            guard read.ipProtocol != 58 || (packet[6] == 58 && read.count > 40 && packet[40] >= 128) else { return nil }
            let value = UInt32(clamping: mtu)
            message = [2, 0, 0, 0] + (0..<4).map { UInt8(truncatingIfNeeded: value >> UInt32(24 - 8 * $0)) }
            for index in 0..<min(read.count, 1_232) { message.append(packet[index]) }
        }
        return message
    }

    /// RFC 1071.
    private static func checksum(_ octets: [UInt8]) -> UInt16 {
        var sum: UInt32 = 0
        for (index, octet) in octets.enumerated() { sum += UInt32(octet) << (index % 2 == 0 ? 8 : 0) }
        while sum > 0xffff { sum = sum >> 16 + sum & 0xffff }
        return ~UInt16(truncatingIfNeeded: sum)
    }
}
