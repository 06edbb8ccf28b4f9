// SPDX-License-Identifier: Apache-2.0

public import Basics
import Cryptography
import ISAKMP

// The plain body of a data datagram (docs/FMKE.md 6.5): the type of the first payload, then the chain
// `SA, [D,] KD`, `D` alone, or `SUCCESSION [, SA, KD]`. It is what parity is computed over, and it stands in the PUSH
// behind TRANSACTION.

extension KeyUpdate {
    /// The plain body. Throws `malformed` for an update without content, for times inside the SAs (they stand in the
    /// TRANSACTION payload), for an SPI listed twice, and for keys in the clear beside a slice of the tree; `limit` for
    /// more SAs than `limits` allows.
    public func body(limits: Limits = Limits()) throws(FMKEError) -> [UInt8] {
        try check(limits)
        var payloads: [RawPayload] = []
        if !replaced.isEmpty {
            let delete = DeletePayload(
                doi: GDOI.domain, protocolID: GDOI.esp, spis: replaced.map(\.bigEndianOctets))
            payloads.append(RawPayload(.delete, delete.body()))
        }
        if rekeySA != nil || !dataSAs.isEmpty {
            let associations = SecurityAssociations(
                rekeySA: rekeySA, dataSAs: dataSAs, tree: succession == nil ? treeSlice.map { Secret($0) } : nil,
                carriesTimes: false, followsSuccession: succession != nil, limits: limits)
            let (association, keys) = try associations.payloads()
            payloads = [association] + payloads + [keys]
        }
        if let succession, let treeSlice {
            payloads.insert(RawPayload(.succession, succession.octets + treeSlice), at: 0)
        }
        return PlainBody.encode(payloads)
    }

    /// Reads a plain body. Throws `malformed`, `unsupported` or `limit`.
    public init(body: [UInt8], limits: Limits = Limits()) throws(FMKEError) {
        var payloads = try PlainBody.decode(body)
        var update = KeyUpdate(rekeySA: nil, dataSAs: [], replaced: [])
        if payloads.first?.type == .succession {
            var reader = FieldReader(payloads.removeFirst().body)
            update.succession = try Succession(reading: &reader)
            update.treeSlice = reader.remainder()
            update.areKeysMasked = true
        }
        if let delete = payloads.first(where: { $0.type == .delete }) {
            update.replaced = try Self.replaced(in: delete.body)
        }
        if let association = payloads.first, association.type == .securityAssociation, let keys = payloads.last {
            let associations = try SecurityAssociations(
                association: association.body, keys: keys.body, carriesTimes: false,
                followsSuccession: update.succession != nil, limits: limits)
            update.rekeySA = associations.rekeySA
            update.dataSAs = associations.dataSAs
            if let tree = associations.tree {
                // A second slice, where SUCCESSION has brought one, goes with no rekey SA and was refused by that.
                update.treeSlice = tree.revealed()
                update.areKeysMasked = true
            }
        }
        try update.check(limits)
        self = update
    }

    /// The same update as several that each have a body of at most `octets`, the number that
    /// `PushEnvelope.bodySizeLimit` gives: one datagram each. Each stands on its own; the SPIs to replace are named in
    /// the first ones.
    ///
    /// Throws `tooLong` when one SA alone does not fit, `malformed` for a change of the tree, which the tree itself
    /// cuts, and as `body` does.
    public func split(octets: Int, limits: Limits = Limits()) throws(FMKEError) -> [KeyUpdate] {
        let named = replaced + dataSAs.map(\.spi)
        guard Set(named).count == named.count, treeSlice == nil else { throw .malformed }
        var parts: [KeyUpdate] = []
        var current = KeyUpdate(rekeySA: rekeySA, dataSAs: [], replaced: [])
        func fits(_ part: KeyUpdate) throws(FMKEError) -> Bool {
            let most = limits.dataAssociationsPerGroup
            guard part.dataSAs.count <= most, part.replaced.count <= most else { return false }
            return try part.body(limits: limits).count <= octets
        }
        func add(_ change: (inout KeyUpdate) -> Void) throws(FMKEError) {
            var extended = current
            change(&extended)
            if try fits(extended) {
                current = extended
                return
            }
            if !current.isEmpty { parts.append(current) }
            current = KeyUpdate(rekeySA: nil, dataSAs: [], replaced: [])
            change(&current)
            guard try fits(current) else { throw .tooLong }
        }
        if rekeySA != nil { guard try fits(current) else { throw .tooLong } }
        for spi in replaced { try add { $0.replaced.append(spi) } }
        for dataSA in dataSAs { try add { $0.dataSAs.append(dataSA) } }
        return current.isEmpty ? parts : parts + [current]
    }

    private var isEmpty: Bool { rekeySA == nil && dataSAs.isEmpty && replaced.isEmpty && succession == nil }

    private static func replaced(in body: [UInt8]) throws(FMKEError) -> [UInt32] {
        let delete: DeletePayload
        do { delete = try DeletePayload(body: body) } catch { throw .malformed }
        guard delete.doi == GDOI.domain, delete.protocolID == GDOI.esp else { throw .unsupported }
        var result: [UInt32] = []
        for octets in delete.spis {
            var reader = FieldReader(octets)
            result.append(try reader.u32())
            try reader.end()
        }
        return result
    }

    private func check(_ limits: Limits) throws(FMKEError) {
        guard !isEmpty, treeSlice == nil || rekeySA != nil || succession != nil, areKeysMasked == (treeSlice != nil)
        else { throw .malformed }
        if let succession {
            try succession.check()
            guard let treeSlice, !treeSlice.isEmpty, rekeySA == nil, replaced.isEmpty else { throw .malformed }
            guard dataSAs.count + Int(succession.flowCount) <= limits.dataAssociationsPerGroup else { throw .limit }
        }
        guard replaced.count <= limits.dataAssociationsPerGroup else { throw .limit }
        let named = replaced + dataSAs.map(\.spi)
        guard named.allSatisfy({ $0 >= Wire.smallestSPI }), Set(named).count == named.count else { throw .malformed }
    }
}

/// The octets of a plain body and the payloads in it.
enum PlainBody {
    private static let forms: [[PayloadType]] = [
        [.securityAssociation, .keyDownload], [.securityAssociation, .delete, .keyDownload], [.delete],
        [.succession], [.succession, .securityAssociation, .keyDownload],
    ]

    static func encode(_ payloads: [RawPayload]) -> [UInt8] {
        let chain = PayloadChain.encode(payloads)
        return [chain.first.rawValue] + chain.octets
    }

    static func decode(_ body: [UInt8]) throws(FMKEError) -> [RawPayload] {
        guard let first = body.first else { throw .malformed }
        let payloads = try PayloadChain.read(first: PayloadType(rawValue: first), Array(body.dropFirst()), limit: 3)
        try check(payloads)
        return payloads
    }

    /// The payloads of a data datagram are one of these sequences.
    static func check(_ payloads: some Collection<RawPayload>) throws(FMKEError) {
        guard forms.contains(payloads.map(\.type)) else {
            let known = Set(forms.joined())
            throw payloads.allSatisfy({ known.contains($0.type) }) ? .malformed : .unsupported
        }
    }
}

/// One datagram of a block as the erasure code sees it: the length of the plain body in two octets, the body, zeros up
/// to the longest body of the block.
///
/// All shards of a block have one size, so that a parity shard, and any Reed-Solomon code over the shards, gives a lost
/// body back together with its length. The parity of a block of one datagram is the shard itself: repetition.
public enum Shard {
    /// Octets in front of the body.
    public static let lengthSize = 2

    /// The shard of `body` in a block whose shards have `size` octets (the longest body and `lengthSize`); `malformed`
    /// when it does not fit.
    public static func make(_ body: [UInt8], size: Int) throws(FMKEError) -> [UInt8] {
        guard let length = UInt16(exactly: body.count), body.count + lengthSize <= size else { throw .malformed }
        var writer = OctetWriter(capacity: size)
        writer.u16(length)
        writer.append(body)
        writer.append(repeatElement(0, count: size - lengthSize - body.count))
        return writer.bytes
    }

    /// The plain body in a shard; `malformed` when the length does not fit or the padding is not zero.
    public static func body(from shard: [UInt8]) throws(FMKEError) -> [UInt8] {
        var reader = FieldReader(shard)
        let body = try reader.bytes(Int(reader.u16()))
        try reader.zeros(reader.count)
        return body
    }
}
