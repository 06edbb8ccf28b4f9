// SPDX-License-Identifier: Apache-2.0

import Basics

/// What the drop log tells of an Ethernet frame: enough to find it again in a capture.
struct FrameSummary: Equatable {
    var octets = 0
    var etherType: UInt16?
    var ipProtocol: UInt8?
    var source: IPAddress?
    var destination: IPAddress?
    /// ESP (RFC 4303 2).
    var spi: UInt32?
    var sequence: UInt32?
    /// UDP.
    var sourcePort: UInt16?
    var destinationPort: UInt16?

    /// What is cut off or unknown stays nil.
    init(_ frame: [UInt8]) {
        octets = frame.count
        var reader = OctetReader(frame)
        try? parse(&reader)
    }

    private mutating func parse(_ reader: inout OctetReader) throws(Truncated) {
        _ = try reader.slice(12)  // destination and source
        let type = try reader.u16()
        etherType = type
        switch type {
        case 0x0800: try parseV4(&reader)
        case 0x86dd: try parseV6(&reader)
        default: break
        }
    }

    private mutating func parseV4(_ reader: inout OctetReader) throws(Truncated) {
        let header = [UInt8](try reader.slice(20))
        ipProtocol = header[9]
        source = IPAddress(octets: header[12..<16])
        destination = IPAddress(octets: header[16..<20])
        _ = try reader.slice((Int(header[0] & 15) - 5) * 4)  // options
        // A later fragment has no header of the next protocol.
        if header[6] & 0x1f == 0, header[7] == 0 { try parseTransport(&reader) }
    }

    private mutating func parseV6(_ reader: inout OctetReader) throws(Truncated) {
        let header = [UInt8](try reader.slice(40))
        ipProtocol = header[6]
        source = IPAddress(octets: header[8..<24])
        destination = IPAddress(octets: header[24..<40])
        try parseTransport(&reader)
    }

    private mutating func parseTransport(_ reader: inout OctetReader) throws(Truncated) {
        switch ipProtocol {
        case 50:
            spi = try reader.u32()
            sequence = try reader.u32()
        case 17:
            sourcePort = try reader.u16()
            destinationPort = try reader.u16()
        default: break
        }
    }
}
