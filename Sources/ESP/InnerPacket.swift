// SPDX-License-Identifier: Apache-2.0

public import Basics

/// What the SPD needs to know of an IPv4 or IPv6 packet: addresses, protocol and ports (RFC 791 3.1, RFC 8200 3 and 4,
/// RFC 4301 4.4.1.1).
public struct InnerPacket: Sendable, Hashable {
    public var source: IPAddress
    public var destination: IPAddress
    /// The next layer's: IPv6 extension headers do not count. In an IPv6 fragment that is not the first it is what its
    /// Fragment header says, which may be an extension header.
    public var ipProtocol: UInt8
    /// nil where the packet shows none: another protocol than TCP, UDP, SCTP or UDP-Lite, a fragment that is not the
    /// first, or a packet that ends before them.
    public var sourcePort: UInt16?
    public var destinationPort: UInt16?
    /// Octets of header and payload, by the length field of the header.
    public var count: Int
    /// No router may cut it: IPv4 with DF, or IPv6 of more than the 1,280 octets that every link carries.
    public var isIndivisible: Bool

    /// Octets of a header without options or extension headers.
    public static func headerSize(isV4: Bool) -> Int { isV4 ? 20 : 40 }

    /// IPv6 extension headers that are walked; RFC 8200 4.1 knows seven places for them.
    public static let extensionHeaderLimit = 8

    /// Reads the header at the start of `octets`; there may be more octets than the packet is long.
    ///
    /// Throws `malformed` unless a whole IPv4 or IPv6 packet stands there, with at most `extensionHeaderLimit`
    /// extension headers, all of them whole.
    public init(reading octets: Span<UInt8>) throws(PacketDrop) {
        guard !octets.isEmpty else { throw .malformed }
        switch octets[0] >> 4 {
        case 4: try self.init(readingV4: octets)
        case 6: try self.init(readingV6: octets)
        default: throw .malformed
        }
    }

    private init(readingV4 octets: Span<UInt8>) throws(PacketDrop) {
        guard octets.count >= Self.headerSize(isV4: true) else { throw .malformed }
        let header = Int(octets[0] & 15) * 4
        count = Int(octets.u16(at: 2))
        guard header >= Self.headerSize(isV4: true), count >= header, count <= octets.count else { throw .malformed }
        source = .v4(octets.u32(at: 12))
        destination = .v4(octets.u32(at: 16))
        ipProtocol = octets[9]
        isIndivisible = octets[6] & 0x40 != 0
        if octets.u16(at: 6) & 0x1fff == 0 { readPorts(octets, at: header) }
    }

    private init(readingV6 octets: Span<UInt8>) throws(PacketDrop) {
        let header = Self.headerSize(isV4: false)
        guard octets.count >= header else { throw .malformed }
        // A jumbogram has 0 here and so ends within its own hop-by-hop header.
        count = header + Int(octets.u16(at: 4))
        guard count <= octets.count else { throw .malformed }
        source = .v6(octets.u64(at: 8), octets.u64(at: 16))
        destination = .v6(octets.u64(at: 24), octets.u64(at: 32))
        ipProtocol = octets[6]
        isIndivisible = count > 1_280
        try walk(octets, from: header)
    }

    /// Goes over the extension headers to the next layer's protocol and its ports.
    private mutating func walk(_ octets: Span<UInt8>, from start: Int) throws(PacketDrop) {
        var position = start
        for _ in 0...Self.extensionHeaderLimit {
            let size: Int
            switch ipProtocol {
            case IPv6Extension.hopByHop, IPv6Extension.routing, IPv6Extension.destination, IPv6Extension.mobility,
                IPv6Extension.identity, IPv6Extension.shim:
                guard count - position >= 8 else { throw .malformed }
                size = 8 + 8 * Int(octets[position + 1])
            case IPv6Extension.authentication:
                guard count - position >= 8 else { throw .malformed }
                size = 8 + 4 * Int(octets[position + 1])
            case IPv6Extension.fragment:
                guard count - position >= 8 else { throw .malformed }
                size = 8
            default:
                return readPorts(octets, at: position)
            }
            guard count - position >= size else { throw .malformed }
            let isLaterFragment = ipProtocol == IPv6Extension.fragment && octets.u16(at: position + 2) & 0xfff8 != 0
            ipProtocol = octets[position]
            // spec: RFC 4301 7 - what follows in a later fragment is no header.
            if isLaterFragment { return }
            position += size
        }
        throw .malformed
    }

    private mutating func readPorts(_ octets: Span<UInt8>, at position: Int) {
        guard [6, 17, 132, 136].contains(ipProtocol), count - position >= 4 else { return }
        sourcePort = octets.u16(at: position)
        destinationPort = octets.u16(at: position + 2)
    }
}

/// Protocol numbers of extension headers (RFC 8200 4, RFC 4302, RFC 6275, RFC 7401, RFC 5533).
private enum IPv6Extension {
    static let hopByHop: UInt8 = 0
    static let routing: UInt8 = 43
    static let fragment: UInt8 = 44
    static let authentication: UInt8 = 51
    static let destination: UInt8 = 60
    static let mobility: UInt8 = 135
    static let identity: UInt8 = 139
    static let shim: UInt8 = 140
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
