// SPDX-License-Identifier: Apache-2.0

/// An IPv4 or IPv6 address.
public enum IPAddress: Hashable, Sendable, Comparable {
    case v4(UInt32)
    case v6(UInt64, UInt64)

    /// From its octets in network order: 4 or 16 of them, anything else is nil.
    public init?(octets: some Collection<UInt8>) {
        func word(_ part: some Collection<UInt8>) -> UInt64 { part.reduce(0) { $0 << 8 | UInt64($1) } }
        switch octets.count {
        case 4: self = .v4(UInt32(truncatingIfNeeded: word(octets)))
        case 16: self = .v6(word(octets.prefix(8)), word(octets.dropFirst(8)))
        default: return nil
        }
    }

    /// From its text: dotted quad, or RFC 4291 form with at most one `::` and an optional dotted tail. No zone.
    public init?(_ text: some StringProtocol) {
        if text.contains(":") {
            guard let octets = Self.parseV6(text) else { return nil }
            self.init(octets: octets)
        } else {
            guard let octets = Self.parseV4(text) else { return nil }
            self.init(octets: octets)
        }
    }

    public static func v4(_ a: UInt8, _ b: UInt8, _ c: UInt8, _ d: UInt8) -> IPAddress {
        .v4(UInt32(a) << 24 | UInt32(b) << 16 | UInt32(c) << 8 | UInt32(d))
    }

    public static let anyV4 = IPAddress.v4(0)
    public static let anyV6 = IPAddress.v6(0, 0)

    public var isV4: Bool { if case .v4 = self { true } else { false } }
    public var isUnspecified: Bool { self == .anyV4 || self == .anyV6 }

    /// 224.0.0.0/4 or ff00::/8.
    public var isMulticast: Bool {
        switch self {
        case .v4(let value): value >> 28 == 0xe
        case .v6(let high, _): high >> 56 == 0xff
        }
    }

    /// 224.0.0.0/24, or the IPv6 scopes of one interface or one link (RFC 4291 2.7: ff01::/16, ff02::/16 and the same
    /// with flags, and scope 0, which is reserved), which no router forwards.
    public var isLinkLocalMulticast: Bool {
        switch self {
        case .v4(let value): value >> 8 == 0xe0_0000
        case .v6(let high, _): high >> 56 == 0xff && high >> 48 & 15 <= 2
        }
    }

    /// 169.254.0.0/16 or fe80::/10, which no router forwards.
    public var isLinkLocal: Bool {
        switch self {
        case .v4(let value): value >> 16 == 0xa9fe
        case .v6(let high, _): high >> 54 == 0x3fa
        }
    }

    public var bitCount: Int { isV4 ? 32 : 128 }

    /// In network order: 4 or 16 octets.
    public var octets: [UInt8] {
        switch self {
        case .v4(let value): (0..<4).map { UInt8(truncatingIfNeeded: value >> (24 - 8 * $0)) }
        case .v6(let high, let low):
            (0..<16).map { UInt8(truncatingIfNeeded: ($0 < 8 ? high : low) >> (56 - 8 * ($0 & 7))) }
        }
    }

    public static func < (left: IPAddress, right: IPAddress) -> Bool {
        switch (left, right) {
        case (.v4(let a), .v4(let b)): a < b
        case (.v6(let a, let b), .v6(let c, let d)): (a, b) < (c, d)
        case (.v4, .v6): true
        case (.v6, .v4): false
        }
    }

    private static func parseV4(_ text: some StringProtocol) -> [UInt8]? {
        let parts = text.split(separator: ".", omittingEmptySubsequences: false)
        guard parts.count == 4 else { return nil }
        var octets: [UInt8] = []
        for part in parts {
            guard (1...3).contains(part.utf8.count), part.utf8.allSatisfy({ (0x30...0x39).contains($0) }),
                part.utf8.count == 1 || part.first != "0", let value = UInt8(part)
            else { return nil }
            octets.append(value)
        }
        return octets
    }

    private static func parseV6(_ text: some StringProtocol) -> [UInt8]? {
        let halves = splitAtDoubleColon(text)
        guard let halves, let head = groups(halves.0) else { return nil }
        guard let tailText = halves.1 else { return head.count == 16 ? head : nil }
        guard let tail = groups(tailText), head.count + tail.count <= 14 else { return nil }
        return head + [UInt8](repeating: 0, count: 16 - head.count - tail.count) + tail
    }

    private static func splitAtDoubleColon(_ text: some StringProtocol) -> (String, String?)? {
        let characters = Array(text)
        var position: Int?
        for index in characters.indices.dropLast() where characters[index] == ":" && characters[index + 1] == ":" {
            guard position == nil else { return nil }
            position = index
        }
        guard let position else { return (String(text), nil) }
        return (String(characters[..<position]), String(characters[(position + 2)...]))
    }

    private static func groups(_ text: String) -> [UInt8]? {
        guard !text.isEmpty else { return [] }
        var octets: [UInt8] = []
        let parts = text.split(separator: ":", omittingEmptySubsequences: false)
        for (index, part) in parts.enumerated() {
            if part.contains("."), index == parts.count - 1 {
                guard let tail = parseV4(part) else { return nil }
                octets += tail
            } else {
                guard (1...4).contains(part.utf8.count), let value = UInt16(part, radix: 16), !part.hasPrefix("+")
                else {
                    return nil
                }
                octets += [UInt8(value >> 8), UInt8(value & 0xff)]
            }
        }
        return octets.count <= 16 ? octets : nil
    }
}

extension IPAddress: CustomStringConvertible {
    /// Dotted quad, or the canonical form of RFC 5952.
    public var description: String {
        switch self {
        case .v4: return octets.map(String.init).joined(separator: ".")
        case .v6:
            let octets = octets
            let groups = stride(from: 0, to: 16, by: 2).map { UInt16(octets[$0]) << 8 | UInt16(octets[$0 + 1]) }
            var best = 0..<0
            var start = 0
            while start < 8 {
                var end = start
                while end < 8, groups[end] == 0 { end += 1 }
                if end - start > max(best.count, 1) { best = start..<end }
                start = max(end, start + 1)
            }
            func text(_ range: Range<Int>) -> String {
                groups[range].map { String($0, radix: 16) }.joined(separator: ":")
            }
            return best.isEmpty ? text(0..<8) : text(0..<best.lowerBound) + "::" + text(best.upperBound..<8)
        }
    }
}

/// An address prefix, a CIDR block: `10.0.0.0/8`, `2001:db8::/32`. Bits behind the length are zero.
public struct IPPrefix: Hashable, Sendable {
    public let address: IPAddress
    public let length: Int

    /// nil when the length does not fit the family or the address has bits set behind it.
    public init?(address: IPAddress, length: Int) {
        guard (0...address.bitCount).contains(length), Self.masked(address, length) == address else { return nil }
        self.address = address
        self.length = length
    }

    /// Exactly one host.
    public init(host address: IPAddress) {
        self.address = address
        self.length = address.bitCount
    }

    /// From `address/length`, or an address alone for a host.
    public init?(_ text: some StringProtocol) {
        let parts = text.split(separator: "/", omittingEmptySubsequences: false)
        guard let first = parts.first, let address = IPAddress(first) else { return nil }
        guard parts.count > 1 else {
            self.init(host: address)
            return
        }
        guard parts.count == 2, parts[1].utf8.allSatisfy({ (0x30...0x39).contains($0) }), let length = Int(parts[1])
        else { return nil }
        self.init(address: address, length: length)
    }

    public static let allV4 = IPPrefix(host: .anyV4, length: 0)
    public static let allV6 = IPPrefix(host: .anyV6, length: 0)

    private init(host address: IPAddress, length: Int) {
        self.address = address
        self.length = length
    }

    public var isHost: Bool { length == address.bitCount }

    public func contains(_ other: IPAddress) -> Bool {
        other.isV4 == address.isV4 && Self.masked(other, length) == address
    }

    public func overlaps(_ other: IPPrefix) -> Bool {
        length <= other.length ? contains(other.address) : other.contains(address)
    }

    /// The netmask as octets, 4 or 16 of them (RFC 2407 4.6.2.1 sends subnets as address and mask).
    public var mask: [UInt8] {
        Self.masked(address.isV4 ? .v4(.max) : .v6(.max, .max), length).octets
    }

    private static func masked(_ address: IPAddress, _ length: Int) -> IPAddress {
        switch address {
        case .v4(let value): .v4(length == 0 ? 0 : value & (.max << UInt32(32 - length)))
        case .v6(let high, let low):
            .v6(
                length == 0 ? 0 : length >= 64 ? high : high & (.max << UInt64(64 - length)),
                length <= 64 ? 0 : low & (.max << UInt64(128 - length)))
        }
    }
}

extension IPPrefix: CustomStringConvertible {
    public var description: String { "\(address)/\(length)" }
}

/// An IP address and a UDP port.
public struct SocketAddress: Hashable, Sendable {
    public var address: IPAddress
    public var port: UInt16

    public init(_ address: IPAddress, _ port: UInt16) {
        self.address = address
        self.port = port
    }
}

extension SocketAddress: CustomStringConvertible {
    public var description: String { address.isV4 ? "\(address):\(port)" : "[\(address)]:\(port)" }
}

/// Which packets a security association protects (RFC 4301 4.4.1.1, the part GDOI can express): source and destination
/// prefix, protocol and ports; 0 means any protocol or any port.
public struct TrafficSelector: Hashable, Sendable {
    public var source: IPPrefix
    public var destination: IPPrefix
    public var ipProtocol: UInt8
    public var sourcePort: UInt16
    public var destinationPort: UInt16

    public init(
        source: IPPrefix, destination: IPPrefix, ipProtocol: UInt8 = 0, sourcePort: UInt16 = 0,
        destinationPort: UInt16 = 0
    ) {
        self.source = source
        self.destination = destination
        self.ipProtocol = ipProtocol
        self.sourcePort = sourcePort
        self.destinationPort = destinationPort
    }

    /// Could one packet match both?
    public func overlaps(_ other: TrafficSelector) -> Bool {
        func meet<Value: BinaryInteger>(_ a: Value, _ b: Value) -> Bool { a == 0 || b == 0 || a == b }
        return source.overlaps(other.source) && destination.overlaps(other.destination)
            && meet(ipProtocol, other.ipProtocol) && meet(sourcePort, other.sourcePort)
            && meet(destinationPort, other.destinationPort)
    }
}

extension TrafficSelector: CustomStringConvertible {
    public var description: String {
        func port(_ value: UInt16) -> String { value == 0 ? "" : " port \(value)" }
        let suffix = ipProtocol == 0 ? "" : " proto \(ipProtocol)"
        return "\(source)\(port(sourcePort)) -> \(destination)\(port(destinationPort))\(suffix)"
    }
}
