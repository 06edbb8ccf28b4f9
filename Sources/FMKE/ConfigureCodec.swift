// SPDX-License-Identifier: Apache-2.0

public import Basics
public import ISAKMP

// CONFIGURE on the wire (docs/FMKE.md section 4), behind the HASH payload that phase 1 adds and removes:
//
//     GCKS -> client  HDR*, HASH, PROFILE, ( MEMBERSHIP, SA { SAK, SAT* }, KD )*, ( VPN [, SA { SAT* }, KD] )*
//     client -> GCKS  HDR*, HASH, ACK/NACK

extension Configure {
    /// The payloads of this message, without HASH.
    ///
    /// Throws `malformed` for values that no message may carry, `limit` for more groups or SAs than `limits` allows and
    /// `tooLong` when the encrypted message would be longer than `limits.datagramOctetsSent`.
    public func payloads(limits: Limits = Limits()) throws(FMKEError) -> [RawPayload] {
        try check(limits)
        var result = [profilePayload()]
        for section in groups { result += try section.payloads(limits: limits) }
        for section in vpns { result += try section.payloads(limits: limits) }
        // HASH counts as well, where the limit is kept on the wire.
        guard result.count < limits.payloadsPerMessage else { throw .limit }
        guard result.encodedSize <= limits.datagramOctetsSent else { throw .tooLong }
        return result
    }

    /// Reads the payloads of an authentic message, without HASH. Throws `malformed`, `unsupported` or `limit`.
    public init(payloads: [RawPayload], limits: Limits = Limits()) throws(FMKEError) {
        guard payloads.count < limits.payloadsPerMessage else { throw .limit }
        guard let first = payloads.first, first.type == .profile else { throw .malformed }
        var reader = FieldReader(first.body)
        sequence = try reader.u64()
        generation = try reader.u32()
        part = try reader.u16()
        partCount = try reader.u16()
        try reader.end()
        (groups, vpns) = ([], [])
        var rest = payloads.dropFirst()
        while let next = rest.first, next.type != .vpn {
            groups.append(try GroupSection(payloads: rest.prefix(3), limits: limits))
            rest = rest.dropFirst(3)
        }
        while !rest.isEmpty { vpns.append(try VPNSection(taking: &rest, limits: limits)) }
        try check(limits)
    }

    /// Octets of the UDP payload that this message needs at most, whatever phase 1 negotiated: header, HASH, padding
    /// and the non-ESP marker included. Throws as `payloads` does, but not `tooLong`.
    public var encodedSize: Int {
        get throws(FMKEError) {
            var unlimited = Limits()
            unlimited.datagramOctetsSent = .max
            return try payloads(limits: unlimited).encodedSize
        }
    }

    /// A whole profile as messages of whole groups and of VPNs, each within `limits.datagramOctetsSent`, numbered from
    /// `first` on. A VPN whose SAs do not fit one message is cut. A profile of nothing is one message of nothing: all
    /// is gone.
    ///
    /// Throws `tooLong` when one group alone does not fit, `limit` for too many groups, `malformed` for values that no
    /// message may carry and for a group listed twice.
    public static func split(
        sequence first: UInt64, generation: UInt32, groups: [GroupSection], vpns: [VPNSection] = [],
        limits: Limits = Limits()
    ) throws(FMKEError) -> [Configure] {
        guard groups.count + vpns.count <= limits.groupsPerProfile else { throw .limit }
        let ids = groups.map(\.group) + vpns.map(\.vpn)
        guard Set(ids).count == ids.count else { throw .malformed }
        let empty = Wire.unicastOverhead + Wire.genericHeaderSize + Wire.profileSize
        // Beside HASH and PROFILE.
        let sectionsMaximum = max(1, (limits.payloadsPerMessage - 2) / 3)
        var parts = [Configure(sequence: 0, generation: generation, part: 0, partCount: 1, groups: [])]
        var size = empty
        func makeRoom(for needed: Int, vpn: UInt32? = nil) throws(FMKEError) {
            guard empty + needed <= limits.datagramOctetsSent else { throw .tooLong }
            let last = parts[parts.count - 1]
            if size + needed > limits.datagramOctetsSent || last.groups.count + last.vpns.count == sectionsMaximum
                || last.vpns.contains(where: { $0.vpn == vpn })
            {
                parts.append(Configure(sequence: 0, generation: generation, part: 0, partCount: 1, groups: []))
                size = empty
            }
            size += needed
        }
        for section in groups {
            try makeRoom(for: section.payloads(limits: limits).chainSize)
            parts[parts.count - 1].groups.append(section)
        }
        for section in vpns {
            for piece in try section.pieces(octets: limits.datagramOctetsSent - empty, limits: limits) {
                try makeRoom(for: piece.payloads(limits: limits).chainSize, vpn: piece.vpn)
                parts[parts.count - 1].vpns.append(piece)
            }
        }
        guard let count = UInt16(exactly: parts.count), first <= .max - UInt64(count) else { throw .limit }
        for index in parts.indices {
            parts[index].sequence = first + UInt64(index)
            (parts[index].part, parts[index].partCount) = (UInt16(index), count)
        }
        return parts
    }

    private func profilePayload() -> RawPayload {
        var writer = OctetWriter(capacity: Wire.profileSize)
        writer.u64(sequence)
        writer.u32(generation)
        writer.u16(part)
        writer.u16(partCount)
        return RawPayload(.profile, writer.bytes)
    }

    private func check(_ limits: Limits) throws(FMKEError) {
        guard part < partCount, groups.count + vpns.count <= limits.groupsPerProfile else {
            throw part < partCount ? .limit : .malformed
        }
        let ids = groups.map(\.group) + vpns.map(\.vpn)
        guard Set(ids).count == ids.count,
            Set(groups.map(\.rekeySA.spi)).count == groups.count
        else { throw .malformed }
    }
}

extension [RawPayload] {
    /// Octets of the chain: generic headers and bodies.
    var chainSize: Int { reduce(0) { $0 + Wire.genericHeaderSize + $1.body.count } }
    /// Octets of the UDP payload of a unicast message with these payloads, at most.
    var encodedSize: Int { Wire.unicastOverhead + chainSize }
}

extension GroupSection {
    /// Flags of MEMBERSHIP.
    private static let senderIDPresent: UInt16 = 0x0001
    private static let oneSender: UInt16 = 0x0002

    func payloads(limits: Limits) throws(FMKEError) -> [RawPayload] {
        try check()
        let associations = SecurityAssociations(
            rekeySA: rekeySA, dataSAs: dataSAs, tree: treeKeys, carriesTimes: true, limits: limits)
        let (association, keys) = try associations.payloads()
        return [RawPayload(.membership, membershipBody()), association, keys]
    }

    init(payloads: ArraySlice<RawPayload>, limits: Limits) throws(FMKEError) {
        guard payloads.map(\.type) == [.membership, .securityAssociation, .keyDownload] else {
            throw payloads.allSatisfy(\.type.isOfConfigure) ? .malformed : .unsupported
        }
        let bodies = payloads.map(\.body)
        var reader = FieldReader(bodies[0])
        group = try reader.u32()
        let memberIndex = try reader.u32()
        let senderID = try reader.u16()
        let flags = try reader.u16()
        let sequence = try reader.u64()
        let transaction = try reader.u64()
        let text = try reader.bytes(Int(reader.u8()))
        try reader.end()
        guard flags & ~(Self.senderIDPresent | Self.oneSender) == 0 else { throw .unsupported }
        let isSender = flags & Self.senderIDPresent != 0
        guard isSender || senderID == 0, let name = String(validating: text, as: UTF8.self) else { throw .malformed }
        self.name = name
        membership = Membership(
            memberIndex: memberIndex, senderID: isSender ? senderID : nil, hasOneSender: flags & Self.oneSender != 0,
            sequence: sequence, transaction: transaction)

        let associations = try SecurityAssociations(
            association: bodies[1], keys: bodies[2], carriesTimes: true, limits: limits)
        guard let rekeySA = associations.rekeySA else { throw .malformed }
        self.rekeySA = rekeySA
        dataSAs = associations.dataSAs
        treeKeys = associations.tree
        try check()
    }

    private func membershipBody() -> [UInt8] {
        let text = Array(name.utf8)
        var writer = OctetWriter(capacity: 29 + text.count)
        writer.u32(group)
        writer.u32(membership.memberIndex)
        writer.u16(membership.senderID ?? 0)
        writer.u16(
            (membership.senderID == nil ? 0 : Self.senderIDPresent) | (membership.hasOneSender ? Self.oneSender : 0))
        writer.u64(membership.sequence)
        writer.u64(membership.transaction)
        writer.u8(UInt8(text.count))
        writer.append(text)
        return writer.bytes
    }

    private func check() throws(FMKEError) { try Wire.check(name: name) }
}

extension Wire {
    /// The name of a group or VPN goes to logs and terminals: no control characters.
    static func check(name: String) throws(FMKEError) {
        guard name.utf8.count <= groupNameMaximum, name.utf8.allSatisfy({ $0 >= 0x20 && $0 != 0x7f }) else {
            throw .malformed
        }
    }
}

extension PayloadType {
    var isOfConfigure: Bool {
        [.profile, .membership, .securityAssociation, .keyDownload, .vpn].contains(self)
    }
}

// MARK: The answer

extension ConfigureAnswer {
    private static let itemSize = 12

    /// The one payload of the answer, without HASH. Throws `malformed` for a reserved SPI or an SA listed twice,
    /// `tooLong` when the encrypted message would be longer than `limits.datagramOctetsSent`.
    public func payloads(limits: Limits = Limits()) throws(FMKEError) -> [RawPayload] {
        try check()
        guard let count = UInt16(exactly: items.count) else { throw .tooLong }
        var writer = OctetWriter(capacity: 12 + items.count * Self.itemSize)
        writer.u64(sequence)
        writer.u16(count)
        writer.u16(0)
        for item in items {
            writer.u32(item.group)
            writer.u32(item.spi)
            writer.u8(item.code.rawValue)
            writer.append([0, 0, 0])
        }
        let result = [RawPayload(.acknowledgement, writer.bytes)]
        guard result.encodedSize <= limits.datagramOctetsSent else { throw .tooLong }
        return result
    }

    /// Reads the payload of an authentic answer, without HASH. Throws `malformed`, `unsupported` or `limit`.
    public init(payloads: [RawPayload], limits: Limits = Limits()) throws(FMKEError) {
        guard let first = payloads.first, first.type == .acknowledgement, payloads.count == 1 else { throw .malformed }
        var reader = FieldReader(first.body)
        sequence = try reader.u64()
        let count = Int(try reader.u16())
        try reader.zeros(2)
        guard reader.count == count * Self.itemSize else { throw .malformed }
        guard count <= limits.groupsPerProfile * (1 + limits.dataAssociationsPerGroup) else { throw .limit }
        items = []
        items.reserveCapacity(count)
        for _ in 0..<count {
            let group = try reader.u32()
            let spi = try reader.u32()
            guard let code = Code(rawValue: try reader.u8()) else { throw .unsupported }
            try reader.zeros(3)
            items.append(Item(group: group, spi: spi, code: code))
        }
        try check()
    }

    private func check() throws(FMKEError) {
        var seen = Set<UInt64>()
        for item in items {
            guard item.spi == 0 || item.spi >= Wire.smallestSPI,
                seen.insert(UInt64(item.group) << 32 | UInt64(item.spi)).inserted
            else { throw .malformed }
        }
    }
}
