// SPDX-License-Identifier: Apache-2.0

// The numbers of the wire format. docs/FMKE.md section 8 is the same list.

/// From RFC 6407 and the IPsec DOI (RFC 2407).
enum GDOI {
    /// Domain of interpretation and situation of SA and Delete payloads (RFC 6407 5.2, 5.9).
    static let domain: UInt32 = 2
    static let situation: UInt32 = 0
    /// SAT protocol-id of ESP (RFC 6407 5.5; the IPsec DOI says 3).
    static let esp: UInt8 = 1
    /// IP protocol in SAK.
    static let udp: UInt8 = 17

    /// KD packet types (RFC 6407 5.6).
    enum KeyPacketType {
        static let tek: UInt8 = 1
        static let kek: UInt8 = 2
        static let lkh: UInt8 = 3
    }
    /// The reserved octet of a KD packet, which FMKE gives a meaning: keys in the clear of the encrypted message, or
    /// exclusive-or a mask that follows from the group key of the new tree (docs/FMKE.md 4.4).
    enum WrapMethod {
        static let none: UInt8 = 0
        static let groupKeyMask: UInt8 = 1
    }
    /// Attributes of SAK (RFC 6407 5.3; 128 and above are private).
    enum SAKAttribute {
        static let kekAlgorithm: UInt16 = 2
        static let kekLifetime: UInt16 = 4
        static let signatureHash: UInt16 = 5
        static let signatureAlgorithm: UInt16 = 6
        /// Ours: the epoch, 4 octets.
        static let epoch: UInt16 = 128
    }
    /// Attributes of SAT (RFC 2407 4.5, RFC 6407 5.5.1.1; 32001 and above are private).
    enum SATAttribute {
        static let lifeType: UInt16 = 1
        static let lifeDuration: UInt16 = 2
        static let encapsulation: UInt16 = 4
        static let authentication: UInt16 = 5
        static let keyLength: UInt16 = 6
        /// Extended sequence numbers (RFC 4304 2): the value 1 says 64 bits. In a VPN only.
        static let extendedSequence: UInt16 = 11
        static let addressPreservation: UInt16 = 14
        static let direction: UInt16 = 15
        /// Ours: in how long senders move to the SA, in milliseconds, 4 octets.
        static let activateIn: UInt16 = 32_001
        /// Ours: in how long the SA is gone, in milliseconds, 4 octets.
        static let deactivateIn: UInt16 = 32_002
    }
    /// Attributes of KD packets (RFC 6407 5.6.1 to 5.6.3).
    enum KeyAttribute {
        static let tekKey: UInt16 = 1
        static let tekIntegrityKey: UInt16 = 2
        static let kekKey: UInt16 = 1
        static let kekSignatureKey: UInt16 = 2
        static let lkhDownloadArray: UInt16 = 1
        static let lkhUpdateArray: UInt16 = 2
    }

    /// KEK_ALGORITHM of FMKE: AES-256-GCM under keys derived as docs/FMKE.md 6.2 says. From the private range.
    static let kekAlgorithmFMKE: UInt16 = 128
    /// SIG_HASH_ALGORITHM SHA-256.
    static let sha256: UInt16 = 3
    static let lifeSeconds: UInt16 = 1
    static let lifeKilobytes: UInt16 = 2
    static let tunnel: UInt16 = 1
    /// Address preservation: the outer destination is the inner one.
    static let preserveDestination: UInt16 = 3
    /// Address preservation: the outer addresses are the gateways'.
    static let preserveNone: UInt16 = 1
    static let longSequence: UInt16 = 1
}

/// Sizes and bounds of FMKE's own payloads, in octets without the generic header.
enum Wire {
    static let genericHeaderSize = 4
    static let profileSize = 16
    static let transactionSize = 64
    /// SUCCESSION without the slice.
    static let successionSize = 16
    /// Header and sequence of a PUSH: what the tag covers in clear.
    static let pushPrefixSize = 36
    static let tagSize = 16
    static let kekSize = 32
    static let groupNameMaximum = 64
    /// DER SubjectPublicKeyInfo of the largest key in use is 294 (RSA-2048).
    static let verifyingKeyMaximum = 512
    /// SPIs below are reserved (RFC 4303 2.1).
    static let smallestSPI: UInt32 = 256
    /// What phase 1 adds to a unicast message at most: header, HASH payload with SHA2-512, padding to 16, and the
    /// non-ESP marker of RFC 3948.
    static let unicastOverhead = 28 + 4 + 64 + 15 + 4
}
