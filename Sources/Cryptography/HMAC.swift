// SPDX-License-Identifier: Apache-2.0

internal import COpenSSL

/// One part of what a PRF is computed over, in the open or secret.
public enum PRFInput: Sendable {
    case octets([UInt8])
    case secret(Secret)
}

/// The keyed hash of RFC 2104, which is also the PRF of phase 1 (RFC 2409 4).
public enum HMAC {
    /// The authentication code of the parts, one behind the other.
    public static func code(_ hash: HashAlgorithm, key: Secret, _ parts: [UInt8]...) -> [UInt8] {
        code(hash, key: key, parts: parts)
    }

    /// The authentication code of the parts, one behind the other.
    public static func code(_ hash: HashAlgorithm, key: Secret, parts: [[UInt8]]) -> [UInt8] {
        compute(hash, key: key, parts: parts.lazy.map { PRFInput.octets($0) })
    }

    /// The authentication code of parts of which some are secret.
    public static func code(_ hash: HashAlgorithm, key: Secret, parts: [PRFInput]) -> [UInt8] {
        compute(hash, key: key, parts: parts)
    }

    /// PRF output that is itself a key.
    public static func secret(_ hash: HashAlgorithm, key: Secret, _ parts: [UInt8]...) -> Secret {
        secret(hash, key: key, parts: parts)
    }

    /// PRF output that is itself a key.
    public static func secret(_ hash: HashAlgorithm, key: Secret, parts: [[UInt8]]) -> Secret {
        secret(hash, key: key, parts: parts.map { PRFInput.octets($0) })
    }

    /// PRF output that is itself a key, over parts of which some are secret.
    public static func secret(_ hash: HashAlgorithm, key: Secret, parts: [PRFInput]) -> Secret {
        var octets = compute(hash, key: key, parts: parts)
        defer { wipe(&octets) }
        return Secret(octets)
    }

    private static func compute(_ hash: HashAlgorithm, key: Secret, parts: some Sequence<PRFInput>) -> [UInt8] {
        var context = MACContext(hash: hash, key: key)
        context.restart()
        for part in parts {
            switch part {
            case .octets(let octets): unsafe octets.withUnsafeBytes { unsafe context.update($0) }
            case .secret(let secret): unsafe secret.withOctets { unsafe context.update($0) }
            }
        }
        return context.finish()
    }
}

/// Key derivation of RFC 5869: extract and expand.
public enum HKDF {
    /// `count` octets of key material, at most 255 digests.
    ///
    /// - Parameters:
    ///   - key: the input key material, not empty.
    ///   - salt: may be empty, which stands for as many zeros as a digest has octets.
    ///   - info: binds the result to its purpose.
    public static func derive(_ hash: HashAlgorithm, key: Secret, salt: [UInt8], info: [UInt8], count: Int) -> Secret {
        precondition(key.count > 0, "a key is derived from a key")
        precondition((1...255 * hash.digestSize).contains(count), "RFC 5869 2.3: at most 255 blocks")
        let context = unsafe EVP_KDF_CTX_new(Fetched.hkdf)
        defer { unsafe EVP_KDF_CTX_free(context) }
        var output = [UInt8](repeating: 0, count: count)
        defer { wipe(&output) }
        var name = [CChar](hash.name.utf8CString)
        var salt = salt
        var info = info
        let result = unsafe key.withOctets { octets in
            unsafe name.withUnsafeMutableBufferPointer { name in
                unsafe salt.withUnsafeMutableBytes { salt in
                    unsafe info.withUnsafeMutableBytes { info in
                        let key = unsafe UnsafeMutableRawPointer(mutating: octets.baseAddress)
                        var parameters = unsafe [
                            OSSL_PARAM_construct_utf8_string(parameterName("digest"), name.baseAddress, 0),
                            OSSL_PARAM_construct_octet_string(parameterName("key"), key, octets.count),
                            OSSL_PARAM_construct_octet_string(parameterName("info"), info.baseAddress, info.count),
                        ]
                        if unsafe !salt.isEmpty {
                            unsafe parameters.append(
                                OSSL_PARAM_construct_octet_string(parameterName("salt"), salt.baseAddress, salt.count))
                        }
                        unsafe parameters.append(OSSL_PARAM_construct_end())
                        return unsafe EVP_KDF_derive(context, &output, count, parameters)
                    }
                }
            }
        }
        precondition(result == 1, "libcrypto's default provider has HKDF")
        return Secret(output)
    }
}

/// The name of a parameter for libcrypto, which keeps the pointer: a `String` would lend it only for one call.
func parameterName(_ name: StaticString) -> UnsafePointer<CChar> {
    unsafe UnsafeRawPointer(name.utf8Start).assumingMemoryBound(to: CChar.self)
}
