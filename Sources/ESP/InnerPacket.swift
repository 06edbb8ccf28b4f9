// SPDX-License-Identifier: Apache-2.0

public import Basics

/// What the SPD needs to know of an IPv4 packet: addresses, protocol and ports (RFC 791 3.1, RFC 4301 4.4.1.1).
public struct InnerPacket: Sendable, Hashable {
    public var source: IPAddress
    public var destination: IPAddress
    public var ipProtocol: UInt8
    /// nil where the packet shows none: another protocol than TCP, UDP, SCTP or UDP-Lite, a fragment that is not the
    /// first, or a packet that ends before them.
    public var sourcePort: UInt16?
    public var destinationPort: UInt16?
    /// The Total Length field: octets of header and payload.
    public var count: Int

    /// Octets of an IPv4 header without options.
    public static let minimumHeader = 20

    /// Reads the header at the start of `octets`; there may be more octets than the packet is long.
    ///
    /// Throws `malformed` unless a whole IPv4 packet stands there.
    public init(reading octets: Span<UInt8>) throws(PacketDrop) {
        guard octets.count >= Self.minimumHeader, octets[0] >> 4 == 4 else { throw .malformed }
        let header = Int(octets[0] & 15) * 4
        count = Int(octets.u16(at: 2))
        guard header >= Self.minimumHeader, count >= header, count <= octets.count else { throw .malformed }
        source = .v4(octets.u32(at: 12))
        destination = .v4(octets.u32(at: 16))
        ipProtocol = octets[9]
        let isFirstFragment = octets.u16(at: 6) & 0x1fff == 0
        let hasPorts = [6, 17, 132, 136].contains(ipProtocol)
        guard hasPorts, isFirstFragment, count >= header + 4 else { return }
        sourcePort = octets.u16(at: header)
        destinationPort = octets.u16(at: header + 2)
    }
}

extension InnerPacket: CustomStringConvertible {
    /// The five that tell flows apart, for the log: `17 192.168.1.2:5000 -> 239.1.1.1:5004`, the protocol in front.
    public var description: String {
        func end(_ address: IPAddress, _ port: UInt16?) -> String { port.map { "\(address):\($0)" } ?? "\(address)" }
        return "\(ipProtocol) \(end(source, sourcePort)) -> \(end(destination, destinationPort))"
    }
}

extension TrafficSelector {
    /// Whether a packet is one of those that this selector names. A packet that shows no ports matches only a selector
    /// for any port (RFC 4301 7.2: such fragments are dropped where ports decide).
    public func admits(_ packet: InnerPacket) -> Bool {
        (ipProtocol == 0 || ipProtocol == packet.ipProtocol)
            && (sourcePort == 0 || sourcePort == packet.sourcePort)
            && (destinationPort == 0 || destinationPort == packet.destinationPort)
            && destination.contains(packet.destination) && source.contains(packet.source)
    }
}

extension Span<UInt8> {
    /// In network order. The caller has checked that the octets are there.
    func u16(at offset: Int) -> UInt16 { UInt16(self[offset]) << 8 | UInt16(self[offset + 1]) }

    /// In network order. The caller has checked that the octets are there.
    func u32(at offset: Int) -> UInt32 { UInt32(u16(at: offset)) << 16 | UInt32(u16(at: offset + 2)) }

    /// In network order. The caller has checked that the octets are there.
    func u64(at offset: Int) -> UInt64 { UInt64(u32(at: offset)) << 32 | UInt64(u32(at: offset + 4)) }
}

extension MutableSpan<UInt8> {
    /// In network order. The caller has checked that there is room.
    mutating func store<Value: FixedWidthInteger & UnsignedInteger>(_ value: Value, at offset: Int) {
        let count = Value.bitWidth / 8
        for index in 0..<count {
            self[offset + index] = UInt8(truncatingIfNeeded: value >> Value(8 * (count - 1 - index)))
        }
    }
}
