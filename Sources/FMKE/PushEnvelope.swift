// SPDX-License-Identifier: Apache-2.0

public import Basics
public import Cryptography
import ISAKMP

// The outside of a PUSH (docs/FMKE.md section 6):
//
//     octets  0..<28  ISAKMP header: cookies = SPI of the rekey SA, next payload 136, exchange 241, flags 1,
//                    message id 0
//            28..<36  sequence, in clear: the second part of the GCM nonce
//            36..<n-16  AES-256-GCM( TRANSACTION, [SA, D, KD | D | PARITY], SIG )
//            n-16..<n   tag over 0..<n-16

/// What can be said of a PUSH without its keys.
public enum PushEnvelope {
    /// SPI and sequence as the datagram names them, nothing of it authentic: for finding the `PushOpener`. nil for what
    /// cannot be a PUSH.
    public static func peek(_ datagram: [UInt8]) -> (spi: RekeySPI, sequence: UInt64)? {
        var reader = OctetReader(datagram)
        guard let header = try? Header(reading: &reader), header.nextPayload == .transaction,
            header.exchange == .push, header.flags == Header.encryptionFlag, header.messageID == 0,
            let sequence = try? reader.u64(), sequence > 0
        else { return nil }
        return (RekeySPI(high: header.initiatorCookie, low: header.responderCookie), sequence)
    }

    /// Octets of the longest plain body of a data datagram, such that its repetition as parity fits as well.
    public static func bodySizeLimit(_ algorithm: SignatureAlgorithm, limits: Limits = Limits()) -> Int {
        // Of the two, parity is the longer: a generic header and a length more than the body without its first octet.
        limits.datagramOctetsSent - overhead(algorithm) - Wire.genericHeaderSize - Shard.lengthSize
    }

    /// Octets of the datagram, UDP payload, that a PUSH with a body of so many octets makes.
    public static func size(_ kind: TransactionHeader.Kind, body: Int, _ algorithm: SignatureAlgorithm) -> Int {
        switch kind {
        // The type of the first payload stands in the header before it.
        case .data: overhead(algorithm) + body - 1
        case .parity: overhead(algorithm) + Wire.genericHeaderSize + body
        case .beacon, .commit: overhead(algorithm)
        }
    }

    /// Octets of a PUSH around the payloads between TRANSACTION and SIG: the size of a BEACON.
    static func overhead(_ algorithm: SignatureAlgorithm) -> Int {
        Wire.pushPrefixSize + Wire.genericHeaderSize + Wire.transactionSize + Wire.genericHeaderSize
            + algorithm.signatureSize + Wire.tagSize
    }

    /// The 36 octets in clear: header and sequence.
    static func prefix(_ spi: RekeySPI, sequence: UInt64, length: UInt32) -> [UInt8] {
        var writer = OctetWriter(capacity: Wire.pushPrefixSize)
        let header = Header(
            initiatorCookie: spi.high, responderCookie: spi.low, nextPayload: .transaction, exchange: .push,
            flags: Header.encryptionFlag, messageID: 0, length: length)
        header.write(to: &writer)
        writer.u64(sequence)
        return writer.bytes
    }
}

/// What protects the PUSHes of one group under one KEK: the AEAD key and salt, and the context of every signature.
struct PushProtection {
    private static let label = Array("FMKE PUSH v1".utf8)

    private let key: Secret
    private let salt: [UInt8]
    /// Label, zero octet, group, SPI, epoch: what each signature is bound to, whatever the message says.
    private let signedContext: [UInt8]

    /// The KEK has 32 octets.
    init(group: UInt32, rekeySA: RekeySA) {
        let spi = rekeySA.spi.octets
        let (group, epoch) = (group.bigEndianOctets, rekeySA.epoch.bigEndianOctets)
        let material = HKDF.derive(
            .sha256, key: rekeySA.kek, salt: [], info: Self.label + spi + group + epoch, count: Wire.kekSize + 4)
        key = material[0..<Wire.kekSize]
        // Revealed: a GCM salt is public enough to stand in an array (RFC 5116 3.2), and each nonce starts with it.
        salt = material[Wire.kekSize..<Wire.kekSize + 4].revealed()
        signedContext = Self.label + [0] + group + spi + epoch
    }

    /// What the GCKS signs: the context, the sequence, the header as sent, and all payloads in front of SIG.
    func signedOctets(prefix: [UInt8], payloads: ArraySlice<UInt8>) -> [UInt8] {
        let (header, sequence) = (prefix[..<Header.size], prefix[Header.size...])
        return signedContext + sequence + header + payloads
    }

    func seal(_ plain: [UInt8], prefix: [UInt8]) throws(FMKEError) -> [UInt8] {
        // Key and nonce have the right size, so libcrypto has run out of memory if this fails.
        do {
            return try prefix + AESGCM.seal(plain, key: key, nonce: salt + prefix[Header.size...], aad: prefix)
        } catch {
            throw .limit
        }
    }

    func open(_ datagram: [UInt8]) throws(FMKEError) -> [UInt8] {
        let prefix = [UInt8](datagram.prefix(Wire.pushPrefixSize))
        let sealed = [UInt8](datagram.dropFirst(Wire.pushPrefixSize))
        do {
            return try AESGCM.open(sealed, key: key, nonce: salt + prefix[Header.size...], aad: prefix)
        } catch {
            throw .notAuthentic
        }
    }
}
