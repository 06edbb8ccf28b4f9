// SPDX-License-Identifier: Apache-2.0

import Basics
import Cryptography
import ISAKMP

// A rekey SA on the wire: SAK (RFC 6407 5.3) and the KEK packet in KD (5.6.2).
//
//     SAK: protocol 1 = UDP | source id | destination id | SPI 16 | reserved 4 | attributes

extension RekeySA {
    private static let known: Set<UInt16> = [
        GDOI.SAKAttribute.kekAlgorithm, GDOI.SAKAttribute.kekLifetime, GDOI.SAKAttribute.signatureHash,
        GDOI.SAKAttribute.signatureAlgorithm, GDOI.SAKAttribute.epoch,
    ]

    func policyBody() -> [UInt8] {
        var writer = OctetWriter()
        writer.u8(GDOI.udp)
        writer.identification(IPPrefix(host: source), port: 0)
        writer.identification(IPPrefix(host: control.address), port: control.port)
        writer.append(spi.octets)
        writer.u32(0)
        var attributes = [
            DataAttribute.basic(GDOI.SAKAttribute.kekAlgorithm, GDOI.kekAlgorithmFMKE),
            .u32(GDOI.SAKAttribute.kekLifetime, lifetimeSeconds),
        ]
        // Ed25519 has its hash inside (RFC 8032 5.1); the others could do with several.
        if signatureAlgorithm != .ed25519 {
            attributes.append(.basic(GDOI.SAKAttribute.signatureHash, GDOI.sha256))
        }
        attributes += [
            .basic(GDOI.SAKAttribute.signatureAlgorithm, signatureAlgorithm.rawValue),
            .u32(GDOI.SAKAttribute.epoch, epoch),
        ]
        writer.append(DataAttribute.encode(attributes))
        return writer.bytes
    }

    init(policy: [UInt8], keys: inout KeyPacketReader) throws(FMKEError) {
        var reader = FieldReader(policy)
        guard try reader.u8() == GDOI.udp else { throw .unsupported }
        let (source, sourcePort) = try reader.identification()
        let (control, controlPort) = try reader.identification()
        guard source.isHost, control.isHost, sourcePort == 0 else { throw .malformed }
        let spi = RekeySPI(high: try reader.u64(), low: try reader.u64())
        try reader.zeros(4)

        var attributes = try AttributeReader(reader.remainder(), known: Self.known)
        guard try attributes.basic(GDOI.SAKAttribute.kekAlgorithm) == GDOI.kekAlgorithmFMKE else { throw .unsupported }
        let lifetime = try attributes.u32(GDOI.SAKAttribute.kekLifetime)
        var hash: UInt16?
        if attributes.isNext(GDOI.SAKAttribute.signatureHash) {
            hash = try attributes.basic(GDOI.SAKAttribute.signatureHash)
        }
        let number = try attributes.basic(GDOI.SAKAttribute.signatureAlgorithm)
        guard let algorithm = SignatureAlgorithm(rawValue: number) else { throw .unsupported }
        guard hash == (algorithm == .ed25519 ? nil : GDOI.sha256) else { throw .unsupported }
        let epoch = try attributes.u32(GDOI.SAKAttribute.epoch)
        try attributes.end()

        var packet = try keys.next(
            GDOI.KeyPacketType.kek, spi: spi.octets,
            known: [GDOI.KeyAttribute.kekKey, GDOI.KeyAttribute.kekSignatureKey])
        let kek = Secret(try packet.octets(GDOI.KeyAttribute.kekKey))
        let verifyingKey = try packet.octets(GDOI.KeyAttribute.kekSignatureKey)
        try packet.end()
        self.init(
            spi: spi, source: source.address, control: SocketAddress(control.address, controlPort), epoch: epoch,
            lifetimeSeconds: lifetime, signatureAlgorithm: algorithm, verifyingKey: verifyingKey, kek: kek)
    }

    func check() throws(FMKEError) {
        guard source.isV4 == control.address.isV4, control.port != 0, lifetimeSeconds > 0, kek.count == Wire.kekSize,
            !verifyingKey.isEmpty, verifyingKey.count <= Wire.verifyingKeyMaximum
        else { throw .malformed }
    }
}

extension RekeySA {
    /// The KEK packet of this SA (RFC 6407 5.6.2): the KEK alone, since no IV travels with it, and the GCKS's public
    /// key as DER SubjectPublicKeyInfo.
    func keyPacket(_ wrapMethod: UInt8) -> KeyPacket {
        KeyPacket(
            type: GDOI.KeyPacketType.kek, wrapMethod: wrapMethod, spi: spi.octets,
            attributes: [
                // Revealed: a key download is what the message is for, and the message is encrypted.
                .octets(GDOI.KeyAttribute.kekKey, kek.revealed()),
                .octets(GDOI.KeyAttribute.kekSignatureKey, verifyingKey),
            ])
    }
}
