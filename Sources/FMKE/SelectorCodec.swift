// SPDX-License-Identifier: Apache-2.0

import Basics

// The identification fields inside SAK and SAT (RFC 6407 5.3, 5.5): type 1, port 2, length 1, data. Both standards draw
// the length as one octet.

private enum IdentificationType {
    static let ipv4: UInt8 = 1
    static let ipv4Subnet: UInt8 = 4
    static let ipv6: UInt8 = 5
    static let ipv6Subnet: UInt8 = 6
}

extension OctetWriter {
    /// A host by its address alone, anything wider as address and mask (RFC 2407 4.6.2).
    mutating func identification(_ prefix: IPPrefix, port: UInt16) {
        let data = prefix.isHost ? prefix.address.octets : prefix.address.octets + prefix.mask
        let isV4 = prefix.address.isV4
        let type =
            prefix.isHost
            ? (isV4 ? IdentificationType.ipv4 : IdentificationType.ipv6)
            : (isV4 ? IdentificationType.ipv4Subnet : IdentificationType.ipv6Subnet)
        u8(type)
        u16(port)
        u8(UInt8(data.count))
        append(data)
    }
}

extension FieldReader {
    mutating func identification() throws(FMKEError) -> (prefix: IPPrefix, port: UInt16) {
        let type = try u8()
        let port = try u16()
        let data = try bytes(Int(u8()))
        switch type {
        case IdentificationType.ipv4, IdentificationType.ipv6:
            guard let address = IPAddress(octets: data), address.isV4 == (type == IdentificationType.ipv4) else {
                throw .malformed
            }
            return (IPPrefix(host: address), port)
        case IdentificationType.ipv4Subnet, IdentificationType.ipv6Subnet:
            return (try subnet(data, isV4: type == IdentificationType.ipv4Subnet), port)
        default:
            throw .unsupported
        }
    }

    private func subnet(_ data: [UInt8], isV4: Bool) throws(FMKEError) -> IPPrefix {
        guard data.count == (isV4 ? 8 : 32), let address = IPAddress(octets: data.prefix(data.count / 2)) else {
            throw .malformed
        }
        let mask = [UInt8](data.suffix(data.count / 2))
        let length = mask.reduce(0) { $0 + $1.nonzeroBitCount }
        // A host has the other type, and a mask with holes is no prefix: one value, one encoding.
        guard length < address.bitCount, let prefix = IPPrefix(address: address, length: length), prefix.mask == mask
        else { throw .malformed }
        return prefix
    }
}
