// SPDX-License-Identifier: Apache-2.0

public import Basics
public import Cryptography
import ISAKMP

/// Makes the PUSHes of one group under one KEK: the GCKS's side.
///
///     GCKS -> group  HDR, sequence, { TRANSACTION, [SA, D, KD | D | PARITY], SIG }
public final class PushSealer {
    public let group: UInt32
    public let rekeySA: RekeySA
    private let signingKey: SigningKey
    private let protection: PushProtection
    private let limits: Limits
    /// A sequence is a nonce: a second message under an old one would give the AEAD key's authentication away.
    private var lastSequence: UInt64 = 0

    /// Throws `malformed` for a rekey SA that no message may carry or whose public key is not that of `signingKey`.
    public init(
        group: UInt32, rekeySA: RekeySA, signingKey: SigningKey, limits: Limits = Limits()
    ) throws(FMKEError) {
        try rekeySA.check()
        guard rekeySA.signatureAlgorithm == signingKey.algorithm, rekeySA.verifyingKey == signingKey.publicKey else {
            throw .malformed
        }
        self.group = group
        self.rekeySA = rekeySA
        self.signingKey = signingKey
        self.limits = limits
        protection = PushProtection(group: group, rekeySA: rekeySA)
    }

    /// The datagram, ready to send.
    ///
    /// - Parameters:
    ///   - header: of this group and of this rekey SA's epoch.
    ///   - body: an encoded `KeyUpdate` for data, a shard for parity, empty for BEACON and COMMIT.
    ///   - sequence: greater than that of every message sealed before, here and by whoever had this group's KEKs
    ///     earlier. Copies are sent by sending the same octets again.
    ///
    /// Throws `malformed` when header and body do not fit each other or this rekey SA, `limit` for a sequence that does
    /// not go up and for more than `limits` allows, `tooLong` above `limits.datagramOctetsSent`.
    public func seal(_ header: TransactionHeader, body: [UInt8], sequence: UInt64) throws(FMKEError) -> [UInt8] {
        guard header.group == group, header.epoch == rekeySA.epoch else { throw .malformed }
        guard sequence > lastSequence else { throw .limit }
        let signatureSize = rekeySA.signatureAlgorithm.signatureSize
        var payloads = [RawPayload(.transaction, try header.body(limits: limits))]
        payloads += try content(header, body)
        payloads.append(RawPayload(.signature, [UInt8](repeating: 0, count: signatureSize)))

        let size = Wire.pushPrefixSize + payloads.chainSize + Wire.tagSize
        guard size <= limits.datagramOctetsSent, let length = UInt32(exactly: size) else { throw .tooLong }
        var plain = PayloadChain.encode(payloads).octets
        let prefix = PushEnvelope.prefix(rekeySA.spi, sequence: sequence, length: length)
        let end = plain.count - Wire.genericHeaderSize - signatureSize
        let signed = protection.signedOctets(prefix: prefix, payloads: plain[..<end])
        let signature: [UInt8]
        do { signature = try signingKey.sign(signed) } catch { throw .limit }
        plain.replaceSubrange((plain.count - signatureSize)..., with: signature)
        lastSequence = sequence
        defer { wipe(&plain) }
        return try protection.seal(plain, prefix: prefix)
    }

    private func content(_ header: TransactionHeader, _ body: [UInt8]) throws(FMKEError) -> [RawPayload] {
        switch header.kind {
        case .data:
            guard body.count <= PushEnvelope.bodySizeLimit(rekeySA.signatureAlgorithm, limits: limits) else {
                throw .tooLong
            }
            return try PlainBody.decode(body)
        case .parity:
            guard !body.isEmpty else { throw .malformed }
            guard body.count <= limits.datagramOctetsSent else { throw .tooLong }
            return [RawPayload(.parity, body)]
        case .beacon, .commit:
            guard body.isEmpty else { throw .malformed }
            return []
        }
    }
}
