// SPDX-License-Identifier: Apache-2.0

public import Basics
import Cryptography
import ISAKMP

/// Opens and verifies the PUSHes of one group under one KEK: the member's side. It keeps no replay state: the engine
/// above compares `Push.sequence` with what it has seen, after this.
public final class PushOpener {
    public let group: UInt32
    public let rekeySA: RekeySA
    private let verifyingKey: VerifyingKey
    private let protection: PushProtection
    private let limits: Limits

    /// Throws `malformed` for a rekey SA that no message may carry or a public key that is none of its algorithm.
    public init(group: UInt32, rekeySA: RekeySA, limits: Limits = Limits()) throws(FMKEError) {
        try rekeySA.check()
        do {
            verifyingKey = try VerifyingKey(der: rekeySA.verifyingKey, algorithm: rekeySA.signatureAlgorithm)
        } catch {
            throw .malformed
        }
        self.group = group
        self.rekeySA = rekeySA
        self.limits = limits
        protection = PushProtection(group: group, rekeySA: rekeySA)
    }

    /// The message in a datagram, in the order of what each check costs: shape of the header, SPI, tag, signature,
    /// and only then the payloads.
    ///
    /// Throws `notAuthentic` for another SPI, a wrong tag (not from a holder of the KEK) and a wrong signature (not
    /// from the GCKS, or from it but for another group, KEK, epoch or sequence); `malformed`, `unsupported`, `limit`
    /// and `tooLong` for the rest. An authentic but malformed message is the GCKS's fault.
    public func open(_ datagram: [UInt8]) throws(FMKEError) -> Push {
        guard datagram.count <= limits.datagramOctets else { throw .tooLong }
        guard datagram.count >= PushEnvelope.overhead(rekeySA.signatureAlgorithm),
            let (spi, sequence) = PushEnvelope.peek(datagram)
        else { throw .malformed }
        guard spi == rekeySA.spi else { throw .notAuthentic }
        var plain = try protection.open(datagram)
        defer { wipe(&plain) }
        try verify(plain, prefix: [UInt8](datagram.prefix(Wire.pushPrefixSize)))
        return try parse(plain, spi: spi, sequence: sequence)
    }

    /// Every member knows the KEK, so the tag says nothing about who of them, or the GCKS, sent this.
    private func verify(_ plain: [UInt8], prefix: [UInt8]) throws(FMKEError) {
        let size = rekeySA.signatureAlgorithm.signatureSize
        let payloads = plain.dropLast(Wire.genericHeaderSize + size)
        let signed = protection.signedOctets(prefix: prefix, payloads: payloads)
        guard verifyingKey.isValid([UInt8](plain.suffix(size)), for: signed) else { throw .notAuthentic }
    }

    private func parse(_ plain: [UInt8], spi: RekeySPI, sequence: UInt64) throws(FMKEError) -> Push {
        let payloads = try PayloadChain.read(first: .transaction, plain, limit: limits.payloadsPerMessage)
        // The chain fills the plain text, so a SIG of this size at its end stands where `verify` has looked for it.
        guard let first = payloads.first, let last = payloads.last, payloads.count >= 2, last.type == .signature,
            last.body.count == rekeySA.signatureAlgorithm.signatureSize
        else { throw .malformed }
        let header = try TransactionHeader(body: first.body, limits: limits)
        guard header.group == group, header.epoch == rekeySA.epoch else { throw .malformed }
        return Push(
            spi: spi, sequence: sequence, header: header,
            body: try body(header, [RawPayload](payloads[1..<(payloads.count - 1)])))
    }

    private func body(_ header: TransactionHeader, _ payloads: [RawPayload]) throws(FMKEError) -> [UInt8] {
        switch header.kind {
        case .data:
            try PlainBody.check(payloads)
            return PlainBody.encode(payloads)
        case .parity:
            guard payloads.count == 1, let parity = payloads.first, parity.type == .parity, !parity.body.isEmpty else {
                throw .malformed
            }
            return parity.body
        case .beacon, .commit:
            guard payloads.isEmpty else { throw .malformed }
            return []
        }
    }
}
