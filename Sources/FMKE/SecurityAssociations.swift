// SPDX-License-Identifier: Apache-2.0

import Basics
import Cryptography
import ISAKMP

/// An SA payload in GDOI's form (RFC 6407 5.2) and the KD payload (5.6) that goes with it.
///
///     SA { DOI 2, situation 0, next attribute payload, reserved, [SAK] SAT* }
///     KD { [LKH packet] [KEK packet] TEK packet* }
///
/// The key packets stand in the order of SAK and SATs, one for each. In front of them, where the group has a key tree,
/// is the packet of the tree: a member's keys in CONFIGURE, an update slice in a PUSH.
struct SecurityAssociations {
    var rekeySA: RekeySA?
    var dataSAs: [DataSA]
    /// The content of the LKH packet. With one in a PUSH, the keys beside it are masked.
    var tree: Secret?
    /// Where a data SA carries its own times: in CONFIGURE. In a PUSH they stand in the TRANSACTION payload.
    var carriesTimes: Bool
    /// Whether the tree's slice and the new KEK are in a SUCCESSION payload in front.
    var followsSuccession: Bool
    var use = DataSA.Use.group
    var limits: Limits

    init(
        rekeySA: RekeySA?, dataSAs: [DataSA], tree: Secret?, carriesTimes: Bool, followsSuccession: Bool = false,
        use: DataSA.Use = .group, limits: Limits
    ) {
        self.use = use
        self.rekeySA = rekeySA
        self.dataSAs = dataSAs
        self.tree = tree
        self.carriesTimes = carriesTimes
        self.followsSuccession = followsSuccession
        self.limits = limits
    }

    func payloads() throws(FMKEError) -> (association: RawPayload, keys: RawPayload) {
        try check()
        var attributes: [RawPayload] = []
        var packets: [KeyPacket] = []
        let wrapMethod = wrapMethod
        if let tree, let rekeySA {
            // Revealed: in a CONFIGURE as the keys below; in a PUSH the tree has wrapped each key in it.
            packets.append(
                KeyPacket(
                    type: GDOI.KeyPacketType.lkh, spi: rekeySA.spi.octets,
                    attributes: [.octets(Self.array(carriesTimes: carriesTimes), tree.revealed())]))
        }
        if let rekeySA {
            attributes.append(RawPayload(.rekeySA, rekeySA.policyBody()))
            packets.append(rekeySA.keyPacket(wrapMethod))
        }
        for dataSA in dataSAs {
            attributes.append(RawPayload(.dataSA, dataSA.policyBody(use)))
            packets.append(dataSA.keyPacket(wrapMethod))
        }
        let chain = PayloadChain.encode(attributes)
        var writer = OctetWriter(capacity: 12 + chain.octets.count)
        writer.u32(GDOI.domain)
        writer.u32(GDOI.situation)
        writer.u16(UInt16(chain.first.rawValue))
        writer.u16(0)
        writer.append(chain.octets)
        return (RawPayload(.securityAssociation, writer.bytes), try KeyPacket.payload(packets))
    }

    init(
        association: [UInt8], keys: [UInt8], carriesTimes: Bool, followsSuccession: Bool = false,
        use: DataSA.Use = .group, limits: Limits
    ) throws(FMKEError) {
        var reader = FieldReader(association)
        guard try reader.u32() == GDOI.domain, try reader.u32() == GDOI.situation else { throw .unsupported }
        guard let first = UInt8(exactly: try reader.u16()) else { throw .malformed }
        try reader.zeros(2)
        let list = try PayloadChain.read(
            first: PayloadType(rawValue: first), reader.remainder(), limit: 1 + limits.dataAssociationsPerGroup)
        var packets = try KeyPacketReader(keys)
        let tree = try packets.tree(Self.array(carriesTimes: carriesTimes))
        if followsSuccession || (tree != nil && !carriesTimes) { packets.wrapMethod = GDOI.WrapMethod.groupKeyMask }
        var rekeySA: RekeySA?
        var dataSAs: [DataSA] = []
        for payload in list {
            switch payload.type {
            case .rekeySA where rekeySA == nil && dataSAs.isEmpty:
                rekeySA = try RekeySA(policy: payload.body, keys: &packets)
            case .dataSA:
                dataSAs.append(try DataSA(policy: payload.body, use, keys: &packets))
            case .rekeySA:
                throw .malformed
            default:
                throw .unsupported
            }
        }
        try packets.end()
        guard tree == nil || tree?.spi == rekeySA?.spi.octets else { throw .malformed }
        self.init(
            rekeySA: rekeySA, dataSAs: dataSAs, tree: tree.map { Secret($0.octets) }, carriesTimes: carriesTimes,
            followsSuccession: followsSuccession, use: use, limits: limits)
        try check()
    }

    private var wrapMethod: UInt8 {
        followsSuccession || (tree != nil && !carriesTimes) ? GDOI.WrapMethod.groupKeyMask : GDOI.WrapMethod.none
    }

    /// What the LKH packet holds: the keys of one member in a CONFIGURE, what changes for all in a PUSH.
    private static func array(carriesTimes: Bool) -> UInt16 {
        carriesTimes ? GDOI.KeyAttribute.lkhDownloadArray : GDOI.KeyAttribute.lkhUpdateArray
    }

    /// What holds for every set of SAs, on both sides: there is at least one, and no SPI twice; a change of the tree
    /// always changes the KEK.
    private func check() throws(FMKEError) {
        guard rekeySA != nil || !dataSAs.isEmpty, use == .group || rekeySA == nil else { throw .malformed }
        guard tree == nil || rekeySA != nil, tree?.count != 0, !followsSuccession || rekeySA == nil else {
            throw .malformed
        }
        guard dataSAs.count <= limits.dataAssociationsPerGroup else { throw .limit }
        try rekeySA?.check()
        var seen = Set<UInt32>()
        for dataSA in dataSAs {
            try dataSA.check(use)
            guard seen.insert(dataSA.spi).inserted else { throw .malformed }
            guard carriesTimes || (dataSA.activateInMilliseconds == 0 && dataSA.deactivateInMilliseconds == nil) else {
                throw .malformed
            }
        }
    }
}
