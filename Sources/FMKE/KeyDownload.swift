// SPDX-License-Identifier: Apache-2.0

import Basics
import Cryptography
import ISAKMP

/// One packet of the KD payload (RFC 6407 5.6): type 1, wrap method 1, length 2, SPI size 1, SPI, attributes.
///
/// GDOI's reserved octet is FMKE's wrap method: 0 for keys in the clear of the encrypted message, 1 for keys under a
/// mask that follows from the group key of the tree.
struct KeyPacket {
    var type: UInt8
    var wrapMethod = GDOI.WrapMethod.none
    var spi: [UInt8]
    var attributes: [DataAttribute]

    func write(to writer: inout OctetWriter) throws(FMKEError) {
        let list = DataAttribute.encode(attributes)
        guard let length = UInt16(exactly: 5 + spi.count + list.count), let spiSize = UInt8(exactly: spi.count) else {
            throw .tooLong
        }
        writer.u8(type)
        writer.u8(wrapMethod)
        writer.u16(length)
        writer.u8(spiSize)
        writer.append(spi)
        writer.append(list)
    }

    /// The body of a KD payload with these packets.
    static func payload(_ packets: [KeyPacket]) throws(FMKEError) -> RawPayload {
        guard let count = UInt16(exactly: packets.count) else { throw .tooLong }
        var writer = OctetWriter()
        writer.u16(count)
        writer.u16(0)
        for packet in packets { try packet.write(to: &writer) }
        return RawPayload(.keyDownload, writer.bytes)
    }
}

/// Takes the packets of a KD payload off its front, in the order of the SAs that they belong to.
struct KeyPacketReader {
    private var reader: FieldReader
    private var remaining: UInt16
    /// What every packet with keys must say; the LKH packet always has 0, since its array has a form of its own.
    var wrapMethod = GDOI.WrapMethod.none

    init(_ body: [UInt8]) throws(FMKEError) {
        reader = FieldReader(body)
        remaining = try reader.u16()
        try reader.zeros(2)
    }

    /// The next packet, which must be of this type and name this SPI; its attributes.
    mutating func next(
        _ type: UInt8, spi: [UInt8], known: Set<UInt16>
    ) throws(FMKEError) -> AttributeReader {
        let packet = try take()
        guard packet.type == type, packet.wrapMethod == wrapMethod, packet.spi == spi else { throw .malformed }
        return try AttributeReader(packet.attributes, known: known)
    }

    /// The LKH packet, where one stands in front: the SPI it names and its array, which must be of this kind.
    mutating func tree(_ array: UInt16) throws(FMKEError) -> (spi: [UInt8], octets: [UInt8])? {
        var ahead = self
        guard remaining > 0, try ahead.reader.u8() == GDOI.KeyPacketType.lkh else { return nil }
        let packet = try take()
        guard packet.wrapMethod == GDOI.WrapMethod.none else { throw .malformed }
        var attributes = try AttributeReader(
            packet.attributes, known: [GDOI.KeyAttribute.lkhDownloadArray, GDOI.KeyAttribute.lkhUpdateArray])
        let octets = try attributes.octets(array)
        try attributes.end()
        guard !octets.isEmpty else { throw .malformed }
        return (packet.spi, octets)
    }

    private mutating func take() throws(FMKEError) -> (
        type: UInt8, wrapMethod: UInt8, spi: [UInt8], attributes: [UInt8]
    ) {
        guard remaining > 0 else { throw .malformed }
        remaining -= 1
        let type = try reader.u8()
        let wrapMethod = try reader.u8()
        let length = try reader.u16()
        guard (GDOI.KeyPacketType.tek...GDOI.KeyPacketType.lkh).contains(type),
            wrapMethod <= GDOI.WrapMethod.groupKeyMask
        else { throw .unsupported }
        var packet = FieldReader(try reader.bytes(Int(length) - 4))
        return (type, wrapMethod, try packet.bytes(Int(packet.u8())), packet.remainder())
    }

    func end() throws(FMKEError) {
        guard remaining == 0 else { throw .malformed }
        try reader.end()
    }
}

extension UInt32 {
    var bigEndianOctets: [UInt8] {
        var writer = OctetWriter(capacity: 4)
        writer.u32(self)
        return writer.bytes
    }
}

extension RekeySPI {
    /// In network order: the two cookies of the header.
    var octets: [UInt8] {
        var writer = OctetWriter(capacity: 16)
        writer.u64(high)
        writer.u64(low)
        return writer.bytes
    }
}
