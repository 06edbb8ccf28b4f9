// SPDX-License-Identifier: Apache-2.0

public import Basics
public import ISAKMP

// A VPN in CONFIGURE (docs/FMKE.md 4.7): VPN alone, or with SAs VPN, SA { SAT* }, KD.
//
//     VPN: id 4 | flags 2 | transaction 8 | peer: type 1, port 2, length 1, address | name length 1 | name

extension VPNSection {
    private static let encapsulated: UInt16 = 0x0001
    private static let keepsOthersFlag: UInt16 = 0x0002
    /// Type of the peer's identification in a section without SAs.
    private static let noPeer: UInt8 = 0

    /// The payloads of this section. Throws `malformed` for values that no message may carry, `limit` for more SAs than
    /// `limits` allows.
    public func payloads(limits: Limits = Limits()) throws(FMKEError) -> [RawPayload] {
        try check()
        let payload = RawPayload(.vpn, body())
        guard !dataSAs.isEmpty else { return [payload] }
        let associations = SecurityAssociations(
            rekeySA: nil, dataSAs: dataSAs, tree: nil, carriesTimes: true, use: .vpn, limits: limits)
        let (association, keys) = try associations.payloads()
        return [payload, association, keys]
    }

    /// Reads one section off the front. Throws `malformed`, `unsupported` or `limit`.
    public init(taking rest: inout ArraySlice<RawPayload>, limits: Limits = Limits()) throws(FMKEError) {
        guard let first = rest.first, first.type == .vpn else {
            throw rest.allSatisfy(\.type.isOfConfigure) ? .malformed : .unsupported
        }
        rest = rest.dropFirst()
        var reader = FieldReader(first.body)
        vpn = try reader.u32()
        let flags = try reader.u16()
        transaction = try reader.u64()
        guard flags & ~(Self.encapsulated | Self.keepsOthersFlag) == 0 else { throw .unsupported }
        keepsOthers = flags & Self.keepsOthersFlag != 0
        peer = try Self.peer(&reader, isEncapsulated: flags & Self.encapsulated != 0)
        let text = try reader.bytes(Int(reader.u8()))
        try reader.end()
        guard let name = String(validating: text, as: UTF8.self) else { throw .malformed }
        self.name = name
        dataSAs = []
        if peer != nil {
            let payloads = rest.prefix(2)
            guard payloads.map(\.type) == [.securityAssociation, .keyDownload] else {
                throw payloads.allSatisfy(\.type.isOfConfigure) ? .malformed : .unsupported
            }
            rest = rest.dropFirst(2)
            let bodies = payloads.map(\.body)
            dataSAs =
                try SecurityAssociations(
                    association: bodies[0], keys: bodies[1], carriesTimes: true, use: .vpn, limits: limits
                ).dataSAs
        }
        try check()
    }

    private static func peer(_ reader: inout FieldReader, isEncapsulated: Bool) throws(FMKEError) -> Peer? {
        if reader.isNext(noPeer) {
            try reader.zeros(4)
            guard !isEncapsulated else { throw .malformed }
            return nil
        }
        let (prefix, port) = try reader.identification()
        guard prefix.isHost else { throw .malformed }
        return Peer(address: SocketAddress(prefix.address, port), isEncapsulated: isEncapsulated)
    }

    private func body() -> [UInt8] {
        let text = Array(name.utf8)
        var writer = OctetWriter(capacity: 35 + text.count)
        writer.u32(vpn)
        writer.u16(
            (peer?.isEncapsulated == true ? Self.encapsulated : 0) | (keepsOthers ? Self.keepsOthersFlag : 0))
        writer.u64(transaction)
        if let peer {
            writer.identification(IPPrefix(host: peer.address.address), port: peer.address.port)
        } else {
            writer.append([Self.noPeer, 0, 0, 0])
        }
        writer.u8(UInt8(text.count))
        writer.append(text)
        return writer.bytes
    }

    private func check() throws(FMKEError) {
        try Wire.check(name: name)
        guard let peer else {
            guard dataSAs.isEmpty, keepsOthers else { throw .malformed }
            return
        }
        guard !dataSAs.isEmpty, !peer.address.address.isMulticast, (peer.address.port != 0) == peer.isEncapsulated
        else { throw .malformed }
    }

    /// The same as sections whose payloads take no more octets than these. Throws `tooLong` when one SA does not fit.
    func pieces(octets: Int, limits: Limits) throws(FMKEError) -> [VPNSection] {
        var pieces: [VPNSection] = []
        var rest = dataSAs[...]
        repeat {
            var piece = self
            var count = min(rest.count, limits.dataAssociationsPerGroup)
            while true {
                piece.dataSAs = Array(rest.prefix(count))
                guard try piece.payloads(limits: limits).chainSize > octets else { break }
                guard count > 1 else { throw .tooLong }
                count -= 1
            }
            pieces.append(piece)
            rest = rest.dropFirst(count)
        } while !rest.isEmpty
        return pieces
    }
}
