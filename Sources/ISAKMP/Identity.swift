// SPDX-License-Identifier: Apache-2.0

internal import Basics

extension Identity {
    /// Identification types (RFC 2407 4.6.2.1).
    private enum Code {
        static let ipv4: UInt8 = 1
        static let name: UInt8 = 2
        static let user: UInt8 = 3
        static let ipv4Subnet: UInt8 = 4
        static let ipv6: UInt8 = 5
        static let ipv6Subnet: UInt8 = 6
        static let keyID: UInt8 = 11
    }

    /// Octets of text or key id that we read and send.
    public static let dataSizeLimit = 255
    private static let udp: UInt8 = 17

    /// Reads the body of an identification payload: type 1, protocol 1, port 2, data.
    ///
    /// Protocol and port are 0 and 0, or UDP and any port (500 in RFC 2407 4.6.2; peers behind NAT and GDOI send
    /// others). `.malformed` for anything else, for data that does not suit its type, for text that is empty, longer
    /// than 255 octets, not UTF-8 or with control characters, and for a mask with holes.
    public init(body: [UInt8]) throws(ISAKMPError) {
        var reader = OctetReader(body)
        let type: UInt8
        do throws(Truncated) {
            type = try reader.u8()
            let ipProtocol = try reader.u8()
            let port = try reader.u16()
            guard ipProtocol == Self.udp || (ipProtocol == 0 && port == 0) else { throw Truncated() }
        } catch {
            throw .malformed
        }
        guard let identity = Self.read(type, reader.remainder()) else { throw .malformed }
        self = identity
    }

    /// The body of an identification payload, with protocol and port 0: some peers hash them as 0 whatever is sent.
    public func body() -> [UInt8] {
        let (type, data) = typeAndData
        return [type, 0, 0, 0] + data
    }

    private static func read(_ type: UInt8, _ data: [UInt8]) -> Identity? {
        switch type {
        case Code.ipv4: data.count == 4 ? IPAddress(octets: data).map { .address($0) } : nil
        case Code.ipv6: data.count == 16 ? IPAddress(octets: data).map { .address($0) } : nil
        case Code.name: text(data).map { .name($0) }
        case Code.user: text(data).map { .user($0) }
        case Code.ipv4Subnet: data.count == 8 ? subnet(data) : nil
        case Code.ipv6Subnet: data.count == 32 ? subnet(data) : nil
        case Code.keyID: (1...dataSizeLimit).contains(data.count) ? .keyID(data) : nil
        default: .other(type: type, data: data)
        }
    }

    private static func text(_ data: [UInt8]) -> String? {
        guard (1...dataSizeLimit).contains(data.count), let text = String(validating: data, as: UTF8.self) else {
            return nil
        }
        return text.unicodeScalars.contains(where: isUnprintable) ? nil : text
    }

    /// A name ends up in log lines and on screens: nothing that could break a line or turn its direction.
    private static func isUnprintable(_ scalar: Unicode.Scalar) -> Bool {
        switch scalar.properties.generalCategory {
        case .control, .format, .lineSeparator, .paragraphSeparator, .unassigned, .privateUse, .surrogate: true
        default: false
        }
    }

    private static func subnet(_ data: [UInt8]) -> Identity? {
        let half = data.count / 2
        let mask = data.suffix(half)
        let length = mask.reduce(0) { $0 + $1.nonzeroBitCount }
        guard let address = IPAddress(octets: data.prefix(half)),
            let prefix = IPPrefix(address: address, length: length), prefix.mask == [UInt8](mask)
        else { return nil }
        return .subnet(prefix)
    }

    private var typeAndData: (UInt8, [UInt8]) {
        switch self {
        case .address(let address): (address.isV4 ? Code.ipv4 : Code.ipv6, address.octets)
        case .name(let text): (Code.name, [UInt8](text.utf8))
        case .user(let text): (Code.user, [UInt8](text.utf8))
        case .subnet(let prefix):
            (prefix.address.isV4 ? Code.ipv4Subnet : Code.ipv6Subnet, prefix.address.octets + prefix.mask)
        case .keyID(let octets): (Code.keyID, octets)
        case .other(let type, let data): (type, data)
        }
    }
}

extension Identity: CustomStringConvertible {
    /// For log lines: the address, name or prefix as text, anything else in hexadecimal behind its type.
    public var description: String {
        switch self {
        case .address(let address): address.description
        case .name(let text), .user(let text): text
        case .subnet(let prefix): prefix.description
        case .keyID(let octets): "key-id:\(hexadecimal(octets))"
        case .other(let type, let data): "type-\(type):\(hexadecimal(data))"
        }
    }
}
