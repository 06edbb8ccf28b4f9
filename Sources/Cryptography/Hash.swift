// SPDX-License-Identifier: Apache-2.0

internal import COpenSSL

extension HashAlgorithm {
    /// The digest of the parts, one behind the other.
    public func digest(_ parts: [UInt8]...) -> [UInt8] { digest(parts) }

    /// The digest of the parts, one behind the other.
    public func digest(_ parts: [[UInt8]]) -> [UInt8] {
        let context = unsafe EVP_MD_CTX_new()
        defer { unsafe EVP_MD_CTX_free(context) }
        var result = [UInt8](repeating: 0, count: digestSize)
        var succeeded = unsafe EVP_DigestInit_ex(context, Fetched.digest(self), nil) == 1
        for part in parts where !part.isEmpty {
            succeeded = unsafe succeeded && EVP_DigestUpdate(context, part, part.count) == 1
        }
        succeeded = unsafe succeeded && EVP_DigestFinal_ex(context, &result, nil) == 1
        precondition(succeeded, "libcrypto's default provider computes our digests")
        return result
    }

    /// What libcrypto calls it.
    var name: String {
        switch self {
        case .md5: "MD5"
        case .sha1: "SHA1"
        case .sha256: "SHA2-256"
        case .sha384: "SHA2-384"
        case .sha512: "SHA2-512"
        }
    }
}

/// Algorithms looked up once: a fetch by name costs more than the computations it is for.
@safe enum Fetched {
    // Written once each by Swift's own once-initialisation, and reference counted inside libcrypto: safe to share.
    nonisolated(unsafe) static let hmac = unsafe EVP_MAC_fetch(nil, "HMAC", nil)
    nonisolated(unsafe) static let hkdf = unsafe EVP_KDF_fetch(nil, "HKDF", nil)
    nonisolated(unsafe) private static let md5 = unsafe EVP_MD_fetch(nil, HashAlgorithm.md5.name, nil)
    nonisolated(unsafe) private static let sha1 = unsafe EVP_MD_fetch(nil, HashAlgorithm.sha1.name, nil)
    nonisolated(unsafe) private static let sha256 = unsafe EVP_MD_fetch(nil, HashAlgorithm.sha256.name, nil)
    nonisolated(unsafe) private static let sha384 = unsafe EVP_MD_fetch(nil, HashAlgorithm.sha384.name, nil)
    nonisolated(unsafe) private static let sha512 = unsafe EVP_MD_fetch(nil, HashAlgorithm.sha512.name, nil)

    nonisolated(unsafe) private static let aes128gcm = unsafe EVP_CIPHER_fetch(nil, "AES-128-GCM", nil)
    nonisolated(unsafe) private static let aes256gcm = unsafe EVP_CIPHER_fetch(nil, "AES-256-GCM", nil)
    nonisolated(unsafe) private static let chacha20 = unsafe EVP_CIPHER_fetch(nil, "ChaCha20-Poly1305", nil)
    nonisolated(unsafe) static let aes128ecb = unsafe EVP_CIPHER_fetch(nil, "AES-128-ECB", nil)
    nonisolated(unsafe) static let aes128wrap = unsafe EVP_CIPHER_fetch(nil, "AES-128-WRAP", nil)
    nonisolated(unsafe) static let aes192wrap = unsafe EVP_CIPHER_fetch(nil, "AES-192-WRAP", nil)
    nonisolated(unsafe) static let aes256wrap = unsafe EVP_CIPHER_fetch(nil, "AES-256-WRAP", nil)
    nonisolated(unsafe) private static let aes128 = unsafe EVP_CIPHER_fetch(nil, "AES-128-CBC", nil)
    nonisolated(unsafe) private static let aes192 = unsafe EVP_CIPHER_fetch(nil, "AES-192-CBC", nil)
    nonisolated(unsafe) private static let aes256 = unsafe EVP_CIPHER_fetch(nil, "AES-256-CBC", nil)
    nonisolated(unsafe) private static let tripleDES = unsafe EVP_CIPHER_fetch(nil, "DES-EDE3-CBC", nil)
    nonisolated(unsafe) private static let des = unsafe EVP_CIPHER_fetch(legacy, "DES-CBC", nil)
    nonisolated(unsafe) private static let blowfish = unsafe EVP_CIPHER_fetch(legacy, "BF-CBC", nil)

    /// A library context of its own for the legacy provider (DES, Blowfish), loaded when first asked for. Loading it
    /// into the default context would switch off the automatic default provider there.
    nonisolated(unsafe) private static let legacy: OpaquePointer? = {
        guard let context = unsafe OSSL_LIB_CTX_new() else { return nil }
        guard unsafe OSSL_PROVIDER_load(context, "legacy") != nil else {
            unsafe OSSL_LIB_CTX_free(context)
            return nil
        }
        return unsafe context
    }()

    static func digest(_ algorithm: HashAlgorithm) -> OpaquePointer? {
        switch algorithm {
        case .md5: unsafe md5
        case .sha1: unsafe sha1
        case .sha256: unsafe sha256
        case .sha384: unsafe sha384
        case .sha512: unsafe sha512
        }
    }

    /// nil when libcrypto lacks it, as ChaCha20-Poly1305 in a FIPS build.
    static func cipher(_ algorithm: AEADAlgorithm) -> OpaquePointer? {
        switch algorithm {
        case .aes128gcm: unsafe aes128gcm
        case .aes256gcm: unsafe aes256gcm
        case .chacha20Poly1305: unsafe chacha20
        }
    }

    /// nil when libcrypto lacks it (DES and Blowfish where the legacy provider is not installed).
    static func cipher(_ algorithm: CBCAlgorithm) -> OpaquePointer? {
        switch algorithm {
        case .aes128: return unsafe aes128
        case .aes192: return unsafe aes192
        case .aes256: return unsafe aes256
        case .tripleDES: return unsafe tripleDES
        case .des, .blowfish:
            // Without its context a fetch would silently search the default one.
            guard unsafe legacy != nil else { return nil }
            return unsafe algorithm == .des ? des : blowfish
        }
    }
}
