// SPDX-License-Identifier: Apache-2.0

internal import COpenSSL

/// The private key with which the GCKS signs what it pushes.
public final class SigningKey: Sendable {
    public let algorithm: SignatureAlgorithm
    /// The public half as a DER SubjectPublicKeyInfo (RFC 5280 4.1.2.7).
    public let publicKey: [UInt8]
    private let key: KeyObject

    private init(_ key: KeyObject) throws(CryptographyError) {
        guard let algorithm = key.signatureAlgorithm else { throw .unsupported }
        self.key = key
        self.algorithm = algorithm
        publicKey = try key.subjectPublicKeyInfo()
    }

    /// A fresh key from the system's randomness.
    public static func generate(_ algorithm: SignatureAlgorithm) throws(CryptographyError) -> SigningKey {
        let name =
            switch algorithm {
            case .rsa2048: "RSA"
            case .ecdsaP256: "EC"
            case .ed25519: "ED25519"
            }
        guard let context = unsafe EVP_PKEY_CTX_new_from_name(nil, name, nil) else { throw refused(.unsupported) }
        defer { unsafe EVP_PKEY_CTX_free(context) }
        var ready = unsafe EVP_PKEY_keygen_init(context) == 1
        switch algorithm {
        case .rsa2048: ready = unsafe ready && EVP_PKEY_CTX_set_rsa_keygen_bits(context, 2_048) == 1
        case .ecdsaP256: ready = unsafe ready && EVP_PKEY_CTX_set_group_name(context, "P-256") == 1
        case .ed25519: break
        }
        var generated: OpaquePointer?
        guard ready, unsafe EVP_PKEY_generate(context, &generated) == 1, let generated = unsafe generated else {
            throw refused(.failed)
        }
        return try unsafe SigningKey(KeyObject(generated))
    }

    /// From an unencrypted PEM file: PKCS #8, or the older forms that libcrypto reads.
    public convenience init(pem: [UInt8]) throws(CryptographyError) {
        guard !pem.isEmpty, pem.count <= 65_536 else { throw .malformedKey }
        // The source reads from the array's memory, so both live inside one closure.
        let decoded = unsafe pem.withUnsafeBytes { octets -> OpaquePointer? in
            guard let source = unsafe BIO_new_mem_buf(octets.baseAddress, Int32(octets.count)) else { return nil }
            defer { unsafe BIO_free(source) }
            // Without a call-back of ours, an encrypted file would make libcrypto ask on the terminal.
            return unsafe PEM_read_bio_PrivateKey(source, nil, { _, _, _, _ in -1 }, nil)
        }
        guard let decoded = unsafe decoded else { throw refused(.malformedKey) }
        try unsafe self.init(KeyObject(decoded))
    }

    /// PKCS #8 in PEM, unencrypted: for the key file, whose mode protects it.
    public func pem() throws(CryptographyError) -> Secret {
        guard let sink = unsafe BIO_new(BIO_s_secmem()) else { throw refused(.failed) }
        defer { unsafe BIO_free(sink) }
        var start: UnsafeMutablePointer<CChar>?
        guard unsafe PEM_write_bio_PKCS8PrivateKey(sink, key.value, nil, nil, 0, nil, nil) == 1 else {
            throw refused(.failed)
        }
        let count = unsafe BIO_ctrl(sink, BIO_CTRL_INFO, 0, &start)
        guard count > 0, let start = unsafe start else { throw refused(.failed) }
        return unsafe Secret(UnsafeRawBufferPointer(start: start, count: count))
    }

    /// A signature of `algorithm.signatureSize` octets.
    public func sign(_ message: [UInt8]) throws(CryptographyError) -> [UInt8] {
        guard let context = unsafe EVP_MD_CTX_new() else { throw refused(.failed) }
        defer { unsafe EVP_MD_CTX_free(context) }
        // DER of an ECDSA signature on P-256 has at most 72 octets.
        var signature = [UInt8](repeating: 0, count: max(algorithm.signatureSize, 80))
        var count = signature.count
        guard unsafe EVP_DigestSignInit_ex(context, nil, algorithm.digestName, nil, nil, key.value, nil) == 1,
            unsafe EVP_DigestSign(context, &signature, &count, message, message.count) == 1, count <= signature.count
        else { throw refused(.failed) }
        signature.removeLast(signature.count - count)
        if algorithm == .ecdsaP256 { signature = try ECDSAForm.fixed(der: signature) }
        guard signature.count == algorithm.signatureSize else { throw .failed }
        return signature
    }
}

/// The public key against which members check what the GCKS pushed.
public final class VerifyingKey: Sendable {
    public let algorithm: SignatureAlgorithm
    private let key: KeyObject

    /// From a DER SubjectPublicKeyInfo, which must be of the algorithm that is named beside it.
    public init(der: [UInt8], algorithm: SignatureAlgorithm) throws(CryptographyError) {
        guard !der.isEmpty, der.count <= 4_096 else { throw .malformedKey }
        let decoded = unsafe der.withUnsafeBufferPointer { octets -> OpaquePointer? in
            var position = octets.baseAddress
            let end = unsafe position.map { unsafe $0 + octets.count }
            guard let key = unsafe d2i_PUBKEY(nil, &position, octets.count) else { return nil }
            guard unsafe position == end else {  // octets behind the key
                unsafe EVP_PKEY_free(key)
                return nil
            }
            return unsafe key
        }
        guard let decoded = unsafe decoded else { throw refused(.malformedKey) }
        let key = unsafe KeyObject(decoded)
        guard key.signatureAlgorithm == algorithm else { throw refused(.unsupported) }
        self.algorithm = algorithm
        self.key = key
    }

    /// Whether the signature was made over this message. Anything but a success of libcrypto is a no.
    public func isValid(_ signature: [UInt8], for message: [UInt8]) -> Bool {
        guard signature.count == algorithm.signatureSize else { return false }
        var encoded = signature
        if algorithm == .ecdsaP256 {
            guard let der = try? ECDSAForm.der(fixed: signature) else { return false }
            encoded = der
        }
        guard let context = unsafe EVP_MD_CTX_new() else { return false }
        defer { unsafe EVP_MD_CTX_free(context) }
        guard unsafe EVP_DigestVerifyInit_ex(context, nil, algorithm.digestName, nil, nil, key.value, nil) == 1,
            unsafe EVP_DigestVerify(context, encoded, encoded.count, message, message.count) == 1
        else {
            ERR_clear_error()
            return false
        }
        return true
    }
}

extension SignatureAlgorithm {
    /// nil where the algorithm hashes inside (RFC 8032 5.1).
    fileprivate var digestName: String? { self == .ed25519 ? nil : "SHA2-256" }
}

extension KeyObject {
    /// Which of our algorithms this key is for; nil for any other kind, curve or size.
    fileprivate var signatureAlgorithm: SignatureAlgorithm? {
        if unsafe EVP_PKEY_is_a(value, "ED25519") == 1 { return .ed25519 }
        if unsafe EVP_PKEY_is_a(value, "RSA") == 1 { return unsafe EVP_PKEY_get_bits(value) == 2_048 ? .rsa2048 : nil }
        guard unsafe EVP_PKEY_is_a(value, "EC") == 1 else { return nil }
        var name = [CChar](repeating: 0, count: 64)
        var count = 0
        guard unsafe EVP_PKEY_get_group_name(value, &name, name.count, &count) == 1 else { return nil }
        return name.prefix(count).elementsEqual("prime256v1".utf8.map { CChar($0) }) ? .ecdsaP256 : nil
    }

    fileprivate func subjectPublicKeyInfo() throws(CryptographyError) -> [UInt8] {
        let count = unsafe i2d_PUBKEY(value, nil)
        guard count > 0 else { throw refused(.failed) }
        var octets = [UInt8](repeating: 0, count: Int(count))
        let written = unsafe octets.withUnsafeMutableBufferPointer { buffer in
            var position = buffer.baseAddress
            return unsafe i2d_PUBKEY(value, &position)
        }
        guard written == count else { throw refused(.failed) }
        return octets
    }
}

/// ECDSA signatures as libcrypto has them (DER) and as the wire has them (r | s, each 32 octets, RFC 4754 7).
private enum ECDSAForm {
    static func fixed(der: [UInt8]) throws(CryptographyError) -> [UInt8] {
        let decoded = unsafe der.withUnsafeBufferPointer { octets in
            var position = octets.baseAddress
            return unsafe d2i_ECDSA_SIG(nil, &position, octets.count)
        }
        guard let decoded = unsafe decoded else { throw refused(.failed) }
        defer { unsafe ECDSA_SIG_free(decoded) }
        var halves = [UInt8](repeating: 0, count: 64)
        let done = unsafe halves.withUnsafeMutableBufferPointer { buffer in
            guard let base = buffer.baseAddress else { return false }
            return unsafe BN_bn2binpad(ECDSA_SIG_get0_r(decoded), base, 32) == 32
                && BN_bn2binpad(ECDSA_SIG_get0_s(decoded), base + 32, 32) == 32
        }
        guard done else { throw refused(.failed) }
        return halves
    }

    static func der(fixed: [UInt8]) throws(CryptographyError) -> [UInt8] {
        guard fixed.count == 64, let signature = unsafe ECDSA_SIG_new() else { throw refused(.failed) }
        defer { unsafe ECDSA_SIG_free(signature) }
        let r = unsafe BN_bin2bn([UInt8](fixed[..<32]), 32, nil)
        let s = unsafe BN_bin2bn([UInt8](fixed[32...]), 32, nil)
        guard unsafe ECDSA_SIG_set0(signature, r, s) == 1 else {  // takes both over only when it succeeds
            unsafe BN_free(r)
            unsafe BN_free(s)
            throw refused(.failed)
        }
        let count = unsafe i2d_ECDSA_SIG(signature, nil)
        guard count > 0 else { throw refused(.failed) }
        var octets = [UInt8](repeating: 0, count: Int(count))
        let written = unsafe octets.withUnsafeMutableBufferPointer { buffer in
            var position = buffer.baseAddress
            return unsafe i2d_ECDSA_SIG(signature, &position)
        }
        guard written == count else { throw refused(.failed) }
        return octets
    }
}
