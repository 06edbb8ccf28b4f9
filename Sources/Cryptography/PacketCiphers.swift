// SPDX-License-Identifier: Apache-2.0

internal import COpenSSL

// The contexts of the data path: the key is set once, each packet brings only its nonce, and everything happens in
// place in the caller's buffer, without an allocation. Ranges are checked before libcrypto sees a pointer.

/// Which way a cipher context works; libcrypto sets up its key schedule for one.
public enum CipherDirection: Sendable {
    case encrypt, decrypt
}

/// The 12-octet nonce of an AEAD in ESP: 4 octets of salt, 8 of explicit IV (RFC 4106 4, RFC 7634 2).
public struct AEADNonce: Sendable, Hashable {
    public var salt: UInt32
    public var iv: UInt64

    public init(salt: UInt32, iv: UInt64) {
        self.salt = salt
        self.iv = iv
    }

    /// From its 12 octets; nil for any other number.
    public init?(_ octets: [UInt8]) {
        guard octets.count == AESGCM.nonceSize else { return nil }
        salt = octets[..<4].reduce(0) { $0 << 8 | UInt32($1) }
        iv = octets[4...].reduce(0) { $0 << 8 | UInt64($1) }
    }

    /// Lends its octets in network order.
    fileprivate func withOctets<Result>(_ body: (UnsafePointer<UInt8>) -> Result) -> Result {
        let words = (
            salt.bigEndian, UInt32(truncatingIfNeeded: iv >> 32).bigEndian, UInt32(truncatingIfNeeded: iv).bigEndian
        )
        return unsafe withUnsafeBytes(of: words) { octets in
            unsafe octets.withMemoryRebound(to: UInt8.self) { unsafe body($0.baseAddress!) }  // 12 octets: never empty
        }
    }
}

/// Whether a range lies inside a buffer of `count` octets.
private func fits(_ range: Range<Int>, _ count: Int) -> Bool { range.lowerBound >= 0 && range.upperBound <= count }

/// Lends four octets in network order.
private func withNetworkOrder<Result>(_ word: UInt32, _ body: (UnsafePointer<UInt8>) -> Result) -> Result {
    unsafe withUnsafeBytes(of: word.bigEndian) { octets in
        unsafe octets.withMemoryRebound(to: UInt8.self) { unsafe body($0.baseAddress!) }  // 4 octets: never empty
    }
}

/// One key of an AEAD in one direction. Not for several threads at a time.
@safe public struct AEADCipher: ~Copyable {
    private let context: OpaquePointer
    private let direction: CipherDirection
    /// Octets of a tag.
    public let tagSize: Int

    /// - Parameters:
    ///   - key: `algorithm.keySize` octets, without the salt.
    ///   - tagSize: 16, with AES-GCM also 12 or 8 (RFC 4106 6).
    public init(
        _ algorithm: AEADAlgorithm, key: Secret, tagSize: Int = 16, direction: CipherDirection
    ) throws(CryptographyError) {
        self.direction = direction
        self.tagSize = tagSize
        unsafe context = try Self.makeContext(algorithm, key, tagSize, direction)
    }

    deinit { unsafe EVP_CIPHER_CTX_free(context) }

    private static func makeContext(
        _ algorithm: AEADAlgorithm, _ key: Secret, _ tagSize: Int, _ direction: CipherDirection
    ) throws(CryptographyError) -> OpaquePointer {
        guard key.count == algorithm.keySize else { throw .malformedKey }
        guard tagSize == 16 || (algorithm != .chacha20Poly1305 && (tagSize == 12 || tagSize == 8)) else {
            throw .unsupported
        }
        guard let cipher = unsafe Fetched.cipher(algorithm) else { throw refused(.unsupported) }
        guard let context = unsafe EVP_CIPHER_CTX_new() else { throw refused(.failed) }
        let result = unsafe key.withOctets { octets in
            unsafe EVP_CipherInit_ex2(
                context, cipher, octets.bindMemory(to: UInt8.self).baseAddress, nil, direction == .encrypt ? 1 : 0, nil)
        }
        guard result == 1 else {
            unsafe EVP_CIPHER_CTX_free(context)
            throw refused(.failed)
        }
        return unsafe context
    }

    /// Encrypts `text` in place and writes the tag into the `tagSize` octets behind it.
    ///
    /// - Parameter high: the high-order half of an extended sequence number, which is part of the AAD behind its first
    ///   four octets and stands in no packet (RFC 4106 5).
    public func seal(
        _ buffer: inout MutableSpan<UInt8>, aad: Range<Int>, high: UInt32? = nil, text: Range<Int>, nonce: AEADNonce
    ) throws(CryptographyError) {
        precondition(direction == .encrypt, "this context was made to seal")
        guard fits(aad, buffer.count), fits(text, buffer.count - tagSize) else { throw .failed }
        let context = unsafe self.context
        let tagSize = Int32(self.tagSize)
        let done = unsafe buffer.withUnsafeMutableBufferPointer { octets -> Bool in
            guard let base = octets.baseAddress else { return false }
            var written: Int32 = 0
            guard unsafe Self.start(context, base, aad, high, text, nonce) else { return false }
            return unsafe EVP_EncryptFinal_ex(context, base + text.upperBound, &written) == 1
                && EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, tagSize, base + text.upperBound) == 1
        }
        guard done else { throw refused(.failed) }
    }

    /// Decrypts `text` in place and verifies the tag in the `tagSize` octets behind it; on `notAuthentic` the text is
    /// unusable and must be thrown away.
    public func open(
        _ buffer: inout MutableSpan<UInt8>, aad: Range<Int>, high: UInt32? = nil, text: Range<Int>, nonce: AEADNonce
    ) throws(CryptographyError) {
        precondition(direction == .decrypt, "this context was made to open")
        guard fits(aad, buffer.count), fits(text, buffer.count - tagSize) else { throw .notAuthentic }
        let context = unsafe self.context
        let tagSize = Int32(self.tagSize)
        let done = unsafe buffer.withUnsafeMutableBufferPointer { octets -> Bool in
            guard let base = octets.baseAddress else { return false }
            var written: Int32 = 0
            guard unsafe Self.start(context, base, aad, high, text, nonce) else { return false }
            return unsafe EVP_CIPHER_CTX_ctrl(
                context, EVP_CTRL_AEAD_SET_TAG, tagSize, base + text.upperBound) == 1
                && EVP_DecryptFinal_ex(context, base + text.upperBound, &written) == 1
        }
        guard done else { throw refused(.notAuthentic) }
    }

    /// Nonce, AAD and text, in either direction.
    private static func start(
        _ context: OpaquePointer, _ base: UnsafeMutablePointer<UInt8>, _ aad: Range<Int>, _ high: UInt32?,
        _ text: Range<Int>, _ nonce: AEADNonce
    ) -> Bool {
        var written: Int32 = 0
        guard unsafe nonce.withOctets({ unsafe EVP_CipherInit_ex2(context, nil, nil, $0, -1, nil) }) == 1 else {
            return false
        }
        var rest = aad
        if let high {
            guard aad.count >= 4, unsafe EVP_CipherUpdate(context, nil, &written, base + aad.lowerBound, 4) == 1,
                unsafe withNetworkOrder(high, { unsafe EVP_CipherUpdate(context, nil, &written, $0, 4) }) == 1
            else { return false }
            rest = aad.lowerBound + 4..<aad.upperBound
        }
        if !rest.isEmpty {
            guard unsafe EVP_CipherUpdate(context, nil, &written, base + rest.lowerBound, Int32(rest.count)) == 1 else {
                return false
            }
        }
        guard !text.isEmpty else { return true }
        let start = unsafe base + text.lowerBound
        return unsafe EVP_CipherUpdate(context, start, &written, start, Int32(text.count)) == 1
            && written == Int32(text.count)
    }
}

/// One key of a block cipher in CBC mode in one direction. Not for several threads at a time.
@safe public struct CBCCipher: ~Copyable {
    private let context: OpaquePointer
    private let blockSize: Int

    public init(
        _ algorithm: CBCAlgorithm, key: Secret, direction: CipherDirection
    ) throws(CryptographyError) {
        blockSize = algorithm.blockSize
        unsafe context = try Self.makeContext(algorithm, key, direction)
    }

    deinit { unsafe EVP_CIPHER_CTX_free(context) }

    private static func makeContext(
        _ algorithm: CBCAlgorithm, _ key: Secret, _ direction: CipherDirection
    ) throws(CryptographyError) -> OpaquePointer {
        guard key.count == algorithm.keySize, key.count >= 5 else { throw .malformedKey }
        guard let cipher = unsafe Fetched.cipher(algorithm) else { throw refused(.unsupported) }
        guard let context = unsafe EVP_CIPHER_CTX_new() else { throw refused(.failed) }
        let way: Int32 = direction == .encrypt ? 1 : 0
        var done = unsafe EVP_CipherInit_ex2(context, cipher, nil, nil, way, nil) == 1
        if case .blowfish = algorithm {
            done = unsafe done && EVP_CIPHER_CTX_set_key_length(context, Int32(key.count)) == 1
        }
        done =
            unsafe done
            && key.withOctets { octets in
                unsafe EVP_CipherInit_ex2(
                    context, nil, octets.bindMemory(to: UInt8.self).baseAddress, nil, way, nil) == 1
            }
        guard unsafe done && EVP_CIPHER_CTX_set_padding(context, 0) == 1 else {
            unsafe EVP_CIPHER_CTX_free(context)
            throw refused(.failed)
        }
        return unsafe context
    }

    /// Encrypts or decrypts `text`, whole blocks, in place, with the initialisation vector that stands in the buffer.
    public func process(
        _ buffer: inout MutableSpan<UInt8>, iv: Range<Int>, text: Range<Int>
    ) throws(CryptographyError) {
        guard fits(iv, buffer.count), iv.count == blockSize, fits(text, buffer.count),
            text.count.isMultiple(of: blockSize)
        else { throw .failed }
        guard !text.isEmpty else { return }
        let context = unsafe self.context
        let done = unsafe buffer.withUnsafeMutableBufferPointer { octets -> Bool in
            guard let base = octets.baseAddress else { return false }
            var written: Int32 = 0
            let start = unsafe base + text.lowerBound
            return unsafe EVP_CipherInit_ex2(context, nil, nil, base + iv.lowerBound, -1, nil) == 1
                && EVP_CipherUpdate(context, start, &written, start, Int32(text.count)) == 1
                && written == Int32(text.count)
        }
        guard done else { throw refused(.failed) }
    }
}

/// One HMAC key. Not for several threads at a time.
@safe public struct MACContext: ~Copyable {
    private let context: OpaquePointer
    /// Octets of a code that is not truncated.
    public let size: Int

    public init(hash: HashAlgorithm, key: Secret) {
        size = hash.digestSize
        let created = unsafe EVP_MAC_CTX_new(Fetched.hmac)
        guard let created = unsafe created else { preconditionFailure("libcrypto's default provider has HMAC") }
        unsafe context = created
        var name = [CChar](hash.name.utf8CString)
        let result = unsafe name.withUnsafeMutableBufferPointer { name in
            var parameters = unsafe [
                OSSL_PARAM_construct_utf8_string(parameterName("digest"), name.baseAddress, 0),
                OSSL_PARAM_construct_end(),
            ]
            return unsafe key.withOctets { octets in
                // An empty key is legal (RFC 2104 pads it), but no pointer at all would mean "the key of before".
                var noOctets: UInt8 = 0
                guard let base = unsafe octets.bindMemory(to: UInt8.self).baseAddress, octets.count > 0 else {
                    return unsafe EVP_MAC_init(created, &noOctets, 0, &parameters)
                }
                return unsafe EVP_MAC_init(created, base, octets.count, &parameters)
            }
        }
        precondition(result == 1, "libcrypto's default provider has HMAC over our hashes")
    }

    deinit { unsafe EVP_MAC_CTX_free(context) }

    /// Begins the next message with the same key.
    func restart() {
        let result = unsafe EVP_MAC_init(context, nil, 0, nil)
        precondition(result == 1, "an HMAC context can be used again")
    }

    mutating func update(_ octets: UnsafeRawBufferPointer) {
        guard let base = unsafe octets.bindMemory(to: UInt8.self).baseAddress else { return }
        let result = unsafe EVP_MAC_update(context, base, octets.count)
        precondition(result == 1, "HMAC takes any octets")
    }

    mutating func finish() -> [UInt8] {
        var code = [UInt8](repeating: 0, count: size)
        var written = 0
        let result = unsafe EVP_MAC_final(context, &code, &written, code.count)
        precondition(result == 1 && written == size, "HMAC gives a whole code")
        return code
    }

    /// Writes the first `count` octets of the code over `range` into the octets right behind it.
    ///
    /// - Parameter high: the high-order half of an extended sequence number, which the code covers behind the range
    ///   and which stands in no packet (RFC 4303 2.2.1).
    public func append(
        to buffer: inout MutableSpan<UInt8>, over range: Range<Int>, high: UInt32? = nil, count: Int
    ) throws(CryptographyError) {
        guard count > 0, count <= size, fits(range, buffer.count - count) else { throw .failed }
        let done = unsafe withCode(&buffer, range, high) { code, base in
            unsafe (base + range.upperBound).update(from: code, count: count)
            return true
        }
        guard done else { throw refused(.failed) }
    }

    /// Whether the `count` octets right behind `range` are the code over it; compared in constant time.
    public func isValid(
        in buffer: inout MutableSpan<UInt8>, over range: Range<Int>, high: UInt32? = nil, count: Int
    ) -> Bool {
        guard count > 0, count <= size, fits(range, buffer.count - count) else { return false }
        return unsafe withCode(&buffer, range, high) { code, base in
            unsafe CRYPTO_memcmp(code, base + range.upperBound, count) == 0
        }
    }

    /// Computes the code over a range into memory on the stack.
    private func withCode(
        _ buffer: inout MutableSpan<UInt8>, _ range: Range<Int>, _ high: UInt32?,
        _ body: (UnsafePointer<UInt8>, UnsafeMutablePointer<UInt8>) -> Bool
    ) -> Bool {
        restart()
        let context = unsafe self.context
        return unsafe buffer.withUnsafeMutableBufferPointer { octets in
            guard let base = octets.baseAddress else { return false }
            return unsafe withUnsafeTemporaryAllocation(of: UInt8.self, capacity: 64) { code in
                var written = 0
                guard let start = code.baseAddress,
                    unsafe EVP_MAC_update(context, base + range.lowerBound, range.count) == 1,
                    high.map({ unsafe withNetworkOrder($0) { unsafe EVP_MAC_update(context, $0, 4) } == 1 }) ?? true,
                    unsafe EVP_MAC_final(context, start, &written, code.count) == 1
                else { return false }
                return unsafe body(start, base)
            }
        }
    }
}
