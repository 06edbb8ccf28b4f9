// SPDX-License-Identifier: Apache-2.0

public import Basics
public import ISAKMP

// STATUS on the wire (docs/FMKE.md section 5), behind the HASH payload that phase 1 adds and removes:
//
//     client -> GCKS  HDR*, HASH, REPORT

extension Status {
    private static let headSize = 12

    /// The one payload of this message, without HASH. Throws `malformed` for a group, block or SPI listed twice and for
    /// values that no message may carry, `limit` for more than `limits` allows, `tooLong` when the encrypted message
    /// would be longer than `limits.datagramOctetsSent` (`split` makes several).
    public func payloads(limits: Limits = Limits()) throws(FMKEError) -> [RawPayload] {
        try check(limits)
        guard let count = UInt16(exactly: groups.count) else { throw .limit }
        var writer = OctetWriter(capacity: Self.headSize + groups.reduce(0) { $0 + $1.encodedSize })
        writer.u64(report)
        writer.u16(count)
        writer.u16(0)
        for group in groups { group.write(to: &writer) }
        let result = [RawPayload(.report, writer.bytes)]
        guard result.encodedSize <= limits.datagramOctetsSent else { throw .tooLong }
        return result
    }

    /// Reads the payload of an authentic message, without HASH. Throws `malformed`, `unsupported` or `limit`.
    public init(payloads: [RawPayload], limits: Limits = Limits()) throws(FMKEError) {
        guard let first = payloads.first, first.type == .report, payloads.count == 1 else { throw .malformed }
        var reader = FieldReader(first.body)
        report = try reader.u64()
        let count = Int(try reader.u16())
        try reader.zeros(2)
        guard count <= limits.groupsPerProfile else { throw .limit }
        groups = []
        for _ in 0..<count { groups.append(try GroupReport(&reader)) }
        try reader.end()
        try check(limits)
    }

    /// The same reports as messages that each fit `limits.datagramOctetsSent`, numbered from `first` on. One group's
    /// report is never cut: `tooLong` when it does not fit. No groups make one message without groups.
    public static func split(
        report first: UInt64, groups: [GroupReport], limits: Limits = Limits()
    ) throws(FMKEError) -> [Status] {
        let empty = Wire.unicastOverhead + Wire.genericHeaderSize + headSize
        var parts: [[GroupReport]] = [[]]
        var size = empty
        for group in groups {
            guard empty + group.encodedSize <= limits.datagramOctetsSent else { throw .tooLong }
            if size + group.encodedSize > limits.datagramOctetsSent {
                parts.append([])
                size = empty
            }
            parts[parts.count - 1].append(group)
            size += group.encodedSize
        }
        guard first <= .max - UInt64(parts.count) else { throw .limit }
        return parts.enumerated().map { Status(report: first + UInt64($0), groups: $1) }
    }

    private func check(_ limits: Limits) throws(FMKEError) {
        guard groups.count <= limits.groupsPerProfile else { throw .limit }
        guard Set(groups.map(\.group)).count == groups.count else { throw .malformed }
        for group in groups { try group.check(limits) }
    }
}

extension GroupReport {
    private static let wantsProfileFlag: UInt16 = 0x0001
    private static let wantsRekeyFlag: UInt16 = 0x0002
    private static let fixedSize = 28

    var encodedSize: Int { Self.fixedSize + 12 * missing.count + 4 * activeSPIs.count }

    fileprivate func write(to writer: inout OctetWriter) {
        writer.u32(group)
        writer.u32(epoch)
        writer.u64(complete)
        writer.u64(sequence)
        writer.u16((wantsProfile ? Self.wantsProfileFlag : 0) | (wantsRekey ? Self.wantsRekeyFlag : 0))
        // `check` has bounded both.
        writer.u8(UInt8(missing.count))
        writer.u8(UInt8(activeSPIs.count))
        for block in missing {
            writer.u64(block.transaction)
            writer.u16(block.block)
            writer.u8(block.needed)
            writer.u8(0)
        }
        for spi in activeSPIs { writer.u32(spi) }
    }

    fileprivate init(_ reader: inout FieldReader) throws(FMKEError) {
        group = try reader.u32()
        epoch = try reader.u32()
        complete = try reader.u64()
        sequence = try reader.u64()
        let flags = try reader.u16()
        guard flags & ~(Self.wantsProfileFlag | Self.wantsRekeyFlag) == 0 else { throw .unsupported }
        wantsProfile = flags & Self.wantsProfileFlag != 0
        wantsRekey = flags & Self.wantsRekeyFlag != 0
        let missingCount = try reader.u8()
        let spiCount = try reader.u8()
        missing = []
        for _ in 0..<missingCount {
            let transaction = try reader.u64()
            let block = try reader.u16()
            let needed = try reader.u8()
            try reader.zeros(1)
            missing.append(Missing(transaction: transaction, block: block, needed: needed))
        }
        activeSPIs = []
        for _ in 0..<spiCount { activeSPIs.append(try reader.u32()) }
    }

    fileprivate func check(_ limits: Limits) throws(FMKEError) {
        guard missing.count <= UInt8.max, activeSPIs.count <= UInt8.max else { throw .limit }
        var blocks = Set<Missing>()
        for block in missing {
            guard block.needed > 0, Int(block.needed) <= limits.datagramsPerBlock,
                Int(block.block) < limits.blocksPerTransaction,
                blocks.insert(Missing(transaction: block.transaction, block: block.block, needed: 0)).inserted
            else { throw .malformed }
        }
        guard activeSPIs.allSatisfy({ $0 >= Wire.smallestSPI }), Set(activeSPIs).count == activeSPIs.count else {
            throw .malformed
        }
    }
}
