// SPDX-License-Identifier: Apache-2.0

/// A cipher that authenticates too, as ESP uses them: 4 octets of salt, 8 of IV in each packet (RFC 4106, RFC 7634).
public enum AEADAlgorithm: Sendable, Hashable, CaseIterable {
    case aes128gcm, aes256gcm
    case chacha20Poly1305

    /// Octets of a key, without the salt.
    public var keySize: Int { self == .aes128gcm ? 16 : 32 }
}

/// What an ESP security association computes with (RFC 4303): a cipher, and an HMAC beside one that does not
/// authenticate. Its numbers are those of the IPsec DOI (RFC 2407 4.4.4, 4.5, and its registries at IANA).
public struct ESPSuite: Sendable, Hashable {
    public enum Encryption: Sendable, Hashable {
        /// With an ICV of 16 octets, or with AES-GCM also 12 or 8.
        case aead(AEADAlgorithm, icvSize: Int)
        case cbc(CBCAlgorithm)
        /// None at all (RFC 2410): what is sent can be read by everybody, and changed by nobody.
        case null
    }

    public let encryption: Encryption
    /// The hash of the HMAC; nil with an AEAD, which needs none.
    public let integrity: HashAlgorithm?

    fileprivate init(_ encryption: Encryption, _ integrity: HashAlgorithm? = nil) {
        self.encryption = encryption
        self.integrity = integrity
    }

    public static let aes128gcm = ESPSuite(.aead(.aes128gcm, icvSize: 16))
    /// The default.
    public static let aes256gcm = ESPSuite(.aead(.aes256gcm, icvSize: 16))
    public static let chacha20poly1305 = ESPSuite(.aead(.chacha20Poly1305, icvSize: 16))
    public static let aes128sha1 = ESPSuite(.cbc(.aes128), .sha1)
    public static let aes256sha1 = ESPSuite(.cbc(.aes256), .sha1)
    public static let aes128sha256 = ESPSuite(.cbc(.aes128), .sha256)
    public static let aes256sha256 = ESPSuite(.cbc(.aes256), .sha256)
    public static let tripleDESsha1 = ESPSuite(.cbc(.tripleDES), .sha1)
    public static let nullSHA256 = ESPSuite(.null, .sha256)

    public var isAEAD: Bool { integrity == nil }

    /// Whether it is only for peers that can do nothing better: DES, Blowfish, no encryption, MD5 (RFC 8221 5, 6).
    public var isLegacy: Bool {
        switch encryption {
        case .cbc(.des), .cbc(.blowfish), .null: true
        case .aead, .cbc: integrity == .md5
        }
    }

    /// Whether its packets can name their sender, in the first two octets of the IV. Without, a group has one sender:
    /// receivers could not tell two apart, and would take the packets of one for replays of the other's.
    public var namesSenders: Bool { ivSize > 0 }
}

extension ESPSuite: CaseIterable {
    private static let integrities: [HashAlgorithm] = [.sha256, .sha384, .sha512, .sha1, .md5]
    private static let ciphers: [Encryption] = [
        .cbc(.aes256), .cbc(.aes192), .cbc(.aes128), .cbc(.tripleDES), .cbc(.des), .cbc(.blowfish(keyBits: 128)), .null,
    ]

    /// The best first, the legacy ones last.
    public static let allCases: [ESPSuite] = {
        let authenticated: [ESPSuite] = [
            .aes256gcm, .aes128gcm, .chacha20poly1305, ESPSuite(.aead(.aes256gcm, icvSize: 12)),
            ESPSuite(.aead(.aes128gcm, icvSize: 12)), ESPSuite(.aead(.aes256gcm, icvSize: 8)),
            ESPSuite(.aead(.aes128gcm, icvSize: 8)),
        ]
        let combined = ciphers.flatMap { cipher in integrities.map { ESPSuite(cipher, $0) } }
        return authenticated + combined.filter { !$0.isLegacy } + combined.filter(\.isLegacy)
    }()
}

// MARK: Names

extension ESPSuite: RawRepresentable, CustomStringConvertible {
    private static let byName = Dictionary(uniqueKeysWithValues: allCases.map { ($0.rawValue, $0) })

    /// By its name in configurations: `aes256-gcm`, `aes128-gcm8`, `chacha20-poly1305`, `aes192-sha256`, `3des-sha1`,
    /// `null-sha256`.
    public init?(rawValue: String) {
        guard let suite = Self.byName[rawValue] else { return nil }
        self = suite
    }

    public var rawValue: String { integrity.map { "\(cipherName)-\($0.rawValue)" } ?? cipherName }

    public var description: String { rawValue }

    private var cipherName: String {
        switch encryption {
        case .aead(.chacha20Poly1305, _): "chacha20-poly1305"
        case .aead(let algorithm, let icvSize):
            (algorithm == .aes128gcm ? "aes128-gcm" : "aes256-gcm") + (icvSize == 16 ? "" : "\(icvSize)")
        case .cbc(.aes128): "aes128"
        case .cbc(.aes192): "aes192"
        case .cbc(.aes256): "aes256"
        case .cbc(.tripleDES): "3des"
        case .cbc(.des): "des"
        case .cbc(.blowfish(let keyBits)): "blowfish\(keyBits)"
        case .null: "null"
        }
    }
}

// MARK: Numbers on the wire

extension ESPSuite {
    /// ESP transform identifier (IANA, "IPSEC ESP Transform Identifiers"). ChaCha20-Poly1305 has a number for IKEv2
    /// only (RFC 7634 5): ours is from the private range.
    public var transformID: UInt8 {
        switch encryption {
        case .aead(.chacha20Poly1305, _): 249
        case .aead(_, let icvSize): icvSize == 8 ? 18 : icvSize == 12 ? 19 : 20
        case .cbc(.aes128), .cbc(.aes192), .cbc(.aes256): 12
        case .cbc(.tripleDES): 3
        case .cbc(.des): 2
        case .cbc(.blowfish): 7
        case .null: 11
        }
    }

    /// The Key Length attribute, in bits; nil for a cipher with one length, beside which it must not stand
    /// (RFC 2407 4.5).
    public var keyLength: UInt16? {
        switch encryption {
        case .aead(.chacha20Poly1305, _), .cbc(.tripleDES), .cbc(.des), .null: nil
        case .aead(let algorithm, _): UInt16(algorithm.keySize * 8)
        case .cbc(let algorithm): UInt16(algorithm.keySize * 8)
        }
    }

    /// The Authentication Algorithm attribute; nil with an AEAD.
    public var authenticationID: UInt16? {
        switch integrity {
        case nil: nil
        case .md5: 1
        case .sha1: 2
        case .sha256: 5
        case .sha384: 6
        case .sha512: 7
        }
    }

    /// The suite these attributes name, or nil.
    public init?(transformID: UInt8, keyLength: UInt16?, authenticationID: UInt16?) {
        let match = Self.allCases.first {
            $0.transformID == transformID && $0.keyLength == keyLength && $0.authenticationID == authenticationID
        }
        guard let match else { return nil }
        self = match
    }
}

// MARK: Sizes

extension ESPSuite {
    /// Octets of key material for the cipher, an AEAD's 4-octet salt at its end included (RFC 4106 8.1, RFC 7634 2);
    /// 0 without encryption.
    public var cipherKeySize: Int {
        switch encryption {
        case .aead(let algorithm, _): algorithm.keySize + 4
        case .cbc(let algorithm): algorithm.keySize
        case .null: 0
        }
    }

    /// Octets of key material for the HMAC: as many as its hash gives (RFC 2403, 2404, 4868); 0 with an AEAD.
    public var authenticationKeySize: Int { integrity?.digestSize ?? 0 }

    /// Octets of the initialisation vector in each packet.
    public var ivSize: Int {
        switch encryption {
        case .aead: 8
        case .cbc(let algorithm): algorithm.blockSize
        case .null: 0
        }
    }

    /// Octets of the integrity check value at the end of each packet: MD5 and SHA1 are cut to 96 bits, the others to
    /// half (RFC 2403, 2404, 4868).
    public var icvSize: Int {
        switch integrity {
        case nil: if case .aead(_, let icvSize) = encryption { icvSize } else { 0 }
        case .md5, .sha1: 12
        case .sha256: 16
        case .sha384: 24
        case .sha512: 32
        }
    }

    /// What payload, padding and trailer are aligned to, in octets: a block, and at least 4 (RFC 4303 2.4).
    public var alignment: Int { if case .cbc(let algorithm) = encryption { algorithm.blockSize } else { 4 } }
}

// MARK: Limits

extension ESPSuite {
    /// Octets that one key may protect at most, whatever was configured; nil where sequence numbers end before.
    ///
    /// - Blocks of 64 bits: two of 2^32 are equal by chance, and tell something (Sweet32). 2^23 of them, 64 MiB, are
    ///   two equal ones with a chance of 2^-19.
    /// - AES-GCM: 2^34 blocks, 256 GiB, keep what an attacker gains below 2^-60 (RFC 8446 5.5 ends near there).
    ///   An ICV of 8 octets is good for 2^32 packets of up to 2 KiB (NIST SP 800-38D, appendix C), which are more.
    /// - AES-CBC: 2^46 blocks, two equal ones with a chance of 2^-37.
    public var octetLimit: UInt64? {
        switch encryption {
        case .aead(.aes128gcm, _), .aead(.aes256gcm, _): 1 << 38
        case .cbc(let algorithm): algorithm.blockSize == 8 ? 1 << 26 : 1 << 50
        case .aead(.chacha20Poly1305, _), .null: nil
        }
    }
}
