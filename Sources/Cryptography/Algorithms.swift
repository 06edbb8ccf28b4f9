// SPDX-License-Identifier: Apache-2.0

/// A hash function of phase 1 and of HMAC.
public enum HashAlgorithm: String, Sendable, Hashable, CaseIterable {
    case md5, sha1, sha256, sha384, sha512

    /// Octets of a digest.
    public var digestSize: Int {
        switch self {
        case .md5: 16
        case .sha1: 20
        case .sha256: 32
        case .sha384: 48
        case .sha512: 64
        }
    }
}

/// A block cipher in CBC mode.
public enum CBCAlgorithm: Sendable, Hashable {
    case aes128, aes192, aes256
    case tripleDES
    case des
    /// Key length in bits, 40 to 448 (RFC 2451 2.2).
    case blowfish(keyBits: Int)

    /// Octets of a block and of the initialisation vector.
    public var blockSize: Int {
        switch self {
        case .aes128, .aes192, .aes256: 16
        case .tripleDES, .des, .blowfish: 8
        }
    }

    /// Octets of a key.
    public var keySize: Int {
        switch self {
        case .aes128: 16
        case .aes192: 24
        case .aes256: 32
        case .tripleDES: 24
        case .des: 8
        case .blowfish(let keyBits): keyBits / 8
        }
    }
}

/// A Diffie-Hellman group by its IANA number.
public enum DHGroup: UInt16, Sendable, Hashable, CaseIterable {
    case modp768 = 1
    case modp1024 = 2
    case modp1536 = 5
    case modp2048 = 14
    case modp3072 = 15
    case modp4096 = 16
    case ecp256 = 19
    case ecp384 = 20
    case ecp521 = 21
    case curve25519 = 31

    /// Octets of a public value on the wire (RFC 2409 5, RFC 5903 7, RFC 8031 2).
    public var publicValueSize: Int {
        switch self {
        case .modp768: 96
        case .modp1024: 128
        case .modp1536: 192
        case .modp2048: 256
        case .modp3072: 384
        case .modp4096: 512
        case .ecp256: 64
        case .ecp384: 96
        case .ecp521: 132
        case .curve25519: 32
        }
    }
}

/// How the GCKS signs what it pushes. The raw value is FMKE's code point (GDOI SIG_ALGORITHM where it has one).
public enum SignatureAlgorithm: UInt16, Sendable, Hashable, CaseIterable {
    /// RSA-2048, PKCS #1 v1.5 with SHA-256: 256 octets.
    case rsa2048 = 1
    /// ECDSA on P-256 with SHA-256, r | s, fixed width (RFC 4754): 64 octets.
    case ecdsaP256 = 4
    /// Ed25519 (RFC 8032): 64 octets. A private number of GDOI's registry.
    case ed25519 = 128

    /// Octets of a signature.
    public var signatureSize: Int { self == .rsa2048 ? 256 : 64 }
}
