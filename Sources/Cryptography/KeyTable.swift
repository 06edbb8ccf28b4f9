// SPDX-License-Identifier: Apache-2.0

public import Basics
internal import COpenSSL

/// Many 128-bit keys in one block of memory: 16 octets each, no object per key, wiped when it goes.
///
/// An index outside of `0..<count` is a mistake of the caller and stops the process. The size is fixed: what never
/// changes needs no check of exclusive access, which would take longer than a key's other work.
@safe public final class KeyTable {
    /// Octets of one key.
    public static let keySize = 16

    fileprivate let base: UnsafeMutablePointer<UInt8>
    public let count: Int

    /// Keys that are all zero: places to fill.
    public init(count: Int) {
        precondition(count >= 0, "a count of keys is not negative")
        self.count = count
        unsafe base = .allocate(capacity: count * Self.keySize)
        unsafe base.initialize(repeating: 0, count: count * Self.keySize)
    }

    deinit {
        unsafe OPENSSL_cleanse(base, count * Self.keySize)
        unsafe base.deallocate()
    }

    /// The same keys in a table with room for `count`, the new ones zero.
    public func extended(to count: Int) -> KeyTable {
        precondition(count >= self.count, "a table does not lose keys by growing")
        let larger = KeyTable(count: count)
        unsafe larger.base.update(from: base, count: self.count * Self.keySize)
        return larger
    }

    /// The key as a secret of its own; written from a secret of 16 octets.
    public subscript(index: Int) -> Secret {
        get { unsafe Secret(UnsafeBufferPointer(start: pointer(index), count: Self.keySize)) }
        set {
            precondition(newValue.count == Self.keySize, "a key of a table has 16 octets")
            let place = unsafe pointer(index)
            unsafe newValue.withOctets { octets in
                for offset in 0..<Self.keySize { unsafe place[offset] = octets[offset] }
            }
        }
    }

    /// Draws a new key.
    public func draw(at index: Int, random: any RandomSource) {
        self[index] = Secret(random: random, count: Self.keySize)
    }

    /// Copies one key of a table, which may be this one.
    public func copy(from other: KeyTable, at source: Int, to index: Int) {
        unsafe pointer(index).update(from: other.pointer(source), count: Self.keySize)
    }

    /// Overwrites a key that is not used any more.
    public func wipe(at index: Int) { unsafe OPENSSL_cleanse(pointer(index), Self.keySize) }

    /// All keys one behind the other as one secret.
    public func joined() -> Secret { unsafe Secret(UnsafeBufferPointer(start: base, count: count * Self.keySize)) }

    @inline(__always) fileprivate func pointer(_ index: Int) -> UnsafeMutablePointer<UInt8> {
        precondition(index >= 0 && index < count, "a key lies inside its table")
        return unsafe base + index &* Self.keySize
    }
}

/// Tables to go from one to the next without a count of references for each key: those of a tree's levels.
@safe public final class KeyStack {
    private let tables: [KeyTable]
    private let bases: UnsafeMutablePointer<UnsafeMutablePointer<UInt8>>
    private let counts: UnsafeMutablePointer<Int>

    public init(_ tables: [KeyTable]) {
        self.tables = tables
        unsafe bases = .allocate(capacity: tables.count)
        unsafe counts = .allocate(capacity: tables.count)
        for (level, table) in tables.enumerated() {
            unsafe (bases + level).initialize(to: table.base)
            unsafe (counts + level).initialize(to: table.count)
        }
    }

    deinit {
        unsafe bases.deallocate()
        unsafe counts.deallocate()
    }

    /// Begins to load the keys above a leaf, each in the table behind the last, where `degree` keys of one stand below
    /// one of the next.
    public func prefetch(above leaf: Int, degree: Int) {
        var index = leaf
        for level in 0..<tables.count {
            unsafe shim_prefetch(pointer(level, index))
            index /= degree
        }
    }

    @inline(__always) fileprivate func pointer(_ level: Int, _ index: Int) -> UnsafeMutablePointer<UInt8> {
        precondition(level >= 0 && level < tables.count, "a table is one of the stack's")
        unsafe precondition(index >= 0 && index < counts[level], "a key lies inside its table")
        return unsafe bases[level] + index &* KeyTable.keySize
    }
}

/// What a `BlockPRF` is computed over: 16 octets, the high word first, each in network order.
public struct PRFBlock: Sendable, Hashable {
    public var high: UInt64
    public var low: UInt64

    public init(high: UInt64, low: UInt64) {
        self.high = high
        self.low = low
    }
}

/// AES-128 on one block as a pseudo-random function with keys and results of 16 octets: the fastest one that EVP offers
/// when nearly every call brings another key, since the context and the cipher stay.
///
/// A permutation stands for a function up to about 2^64 inputs under one key. Whoever uses it keeps the inputs of
/// different purposes apart.
@safe public final class BlockPRF {
    private let context: OpaquePointer

    public init() throws(CryptographyError) { unsafe context = try Self.makeContext() }

    deinit { unsafe EVP_CIPHER_CTX_free(context) }

    private static func makeContext() throws(CryptographyError) -> OpaquePointer {
        guard let cipher = unsafe Fetched.aes128ecb, let context = unsafe EVP_CIPHER_CTX_new() else {
            throw refused(.failed)
        }
        guard unsafe EVP_CipherInit_ex2(context, cipher, nil, nil, 1, nil) == 1 else {
            unsafe EVP_CIPHER_CTX_free(context)
            throw refused(.failed)
        }
        // Padding stays on: a whole block is encrypted at once either way, it comes only with a final call that nobody
        // makes, and to have it off costs libcrypto a look at its parameters with each new key.
        return unsafe context
    }

    /// Computes a key from a key; the places may be the same.
    public func derive(
        from keys: KeyTable, at source: Int, _ input: PRFBlock, into results: KeyTable, at index: Int
    ) {
        let result = unsafe results.pointer(index)
        unsafe evaluate(keys.pointer(source), input, result)
    }

    /// The same between two tables of a stack.
    public func derive(
        in stack: KeyStack, from level: Int, _ source: Int, _ input: PRFBlock, to above: Int, _ index: Int
    ) {
        let result = unsafe stack.pointer(above, index)
        unsafe evaluate(stack.pointer(level, source), input, result)
    }

    /// `mask` with tables of a stack.
    public func mask(
        in stack: KeyStack, _ above: Int, _ index: Int, with level: Int, _ source: Int, _ input: PRFBlock,
        into text: inout [UInt8], at offset: Int
    ) {
        precondition(offset >= 0 && offset <= text.count - KeyTable.keySize, "the text has room for a key")
        let (plain, key) = unsafe (stack.pointer(above, index), stack.pointer(level, source))
        unsafe mask(plain, key, input, into: &text, at: offset)
    }

    /// Writes `plain` exclusive-or the function's value into 16 octets of `text`.
    public func mask(
        _ plain: KeyTable, at index: Int, with keys: KeyTable, at source: Int, _ input: PRFBlock,
        into text: inout [UInt8], at offset: Int
    ) {
        precondition(offset >= 0 && offset <= text.count - KeyTable.keySize, "the text has room for a key")
        let (plain, key) = unsafe (plain.pointer(index), keys.pointer(source))
        unsafe mask(plain, key, input, into: &text, at: offset)
    }

    @inline(__always) private func mask(
        _ plain: UnsafeMutablePointer<UInt8>, _ key: UnsafeMutablePointer<UInt8>, _ input: PRFBlock,
        into text: inout [UInt8], at offset: Int
    ) {
        unsafe text.withUnsafeMutableBufferPointer { text in
            guard let base = text.baseAddress else { return }
            let place = unsafe base + offset
            unsafe evaluate(key, input, place)
            for octet in 0..<KeyTable.keySize { unsafe place[octet] ^= plain[octet] }
        }
    }

    /// The reverse of `mask`: a key out of 16 octets of a text.
    public func unmask(
        _ text: ArraySlice<UInt8>, with keys: KeyTable, at source: Int, _ input: PRFBlock,
        into results: KeyTable, at index: Int
    ) throws(CryptographyError) {
        guard text.count == KeyTable.keySize else { throw .notAuthentic }
        let result = unsafe results.pointer(index)
        unsafe evaluate(keys.pointer(source), input, result)
        var place = unsafe result
        for octet in text {
            unsafe place.pointee ^= octet
            unsafe place += 1
        }
    }

    /// The function's value as a key of its own.
    public func secret(with keys: KeyTable, at source: Int, _ input: PRFBlock) -> Secret {
        let result = KeyTable(count: 1)
        derive(from: keys, at: source, input, into: result, at: 0)
        return result[0]
    }

    /// The first octets of the function's value, for one that is not secret.
    public func octets(with keys: KeyTable, at source: Int, _ input: PRFBlock, count: Int) -> [UInt8] {
        precondition((0...KeyTable.keySize).contains(count), "a block has 16 octets")
        var value = [UInt8](repeating: 0, count: KeyTable.keySize)
        unsafe value.withUnsafeMutableBufferPointer { value in
            guard let base = value.baseAddress else { return }
            unsafe evaluate(keys.pointer(source), input, base)
        }
        value.removeLast(KeyTable.keySize - count)
        return value
    }

    @inline(__always) private func evaluate(
        _ key: UnsafePointer<UInt8>, _ input: PRFBlock, _ result: UnsafeMutablePointer<UInt8>
    ) {
        let words = (input.high.bigEndian, input.low.bigEndian)
        let done = unsafe withUnsafeBytes(of: words) { octets in
            // A tuple of two words is 16 octets, never empty.
            let block = unsafe octets.baseAddress?.assumingMemoryBound(to: UInt8.self)
            // EVP_Cipher gives whole blocks to the cipher as they are, past the buffer for parts of one that
            // EVP_CipherUpdate keeps, and says how many octets came of it.
            return unsafe EVP_CipherInit_ex2(context, nil, key, nil, 1, nil) == 1
                && EVP_Cipher(context, result, block, 16) == 16
        }
        precondition(done, "AES in an initialised context takes any key and any block")
    }
}

/// AES key wrap (RFC 3394) with the default initial value.
public enum AESKeyWrap {
    /// Octets by which a wrapped key is longer.
    public static let overhead = 8

    /// Wraps a key of a multiple of 8 octets, at least 16, under a key of 16, 24 or 32.
    public static func wrap(_ secret: Secret, under key: Secret) throws(CryptographyError) -> [UInt8] {
        guard isWrappable(secret.count) else { throw .malformedKey }
        var text = [UInt8](repeating: 0, count: secret.count + overhead)
        let done = try unsafe transform(key, 1) { context in
            unsafe secret.withOctets { octets in
                var written: Int32 = 0
                return unsafe EVP_CipherUpdate(
                    context, &text, &written, octets.bindMemory(to: UInt8.self).baseAddress, Int32(octets.count)) == 1
                    && Int(written) == text.count
            }
        }
        guard done else { throw refused(.failed) }
        return text
    }

    /// The key inside, or `notAuthentic` for anything that was not wrapped under this key.
    public static func unwrap(_ text: [UInt8], under key: Secret) throws(CryptographyError) -> Secret {
        guard isWrappable(text.count - overhead) else { throw .notAuthentic }
        var plain = [UInt8](repeating: 0, count: text.count)
        defer { wipe(&plain) }
        let done = try unsafe transform(key, 0) { context in
            var written: Int32 = 0
            return unsafe EVP_CipherUpdate(context, &plain, &written, text, Int32(text.count)) == 1
                && Int(written) == text.count - overhead
        }
        guard done else { throw refused(.notAuthentic) }
        return Secret(plain[..<(text.count - overhead)])
    }

    private static func isWrappable(_ count: Int) -> Bool { (16...4_096).contains(count) && count.isMultiple(of: 8) }

    private static func transform(
        _ key: Secret, _ direction: Int32, _ body: (OpaquePointer) -> Bool
    ) throws(CryptographyError) -> Bool {
        let cipher: OpaquePointer?
        switch key.count {
        case 16: unsafe cipher = Fetched.aes128wrap
        case 24: unsafe cipher = Fetched.aes192wrap
        case 32: unsafe cipher = Fetched.aes256wrap
        default: throw .malformedKey
        }
        guard let cipher = unsafe cipher, let context = unsafe EVP_CIPHER_CTX_new() else { throw refused(.unsupported) }
        defer { unsafe EVP_CIPHER_CTX_free(context) }
        unsafe EVP_CIPHER_CTX_set_flags(context, EVP_CIPHER_CTX_FLAG_WRAP_ALLOW)
        let ready = unsafe key.withOctets { octets in
            unsafe EVP_CipherInit_ex2(
                context, cipher, octets.bindMemory(to: UInt8.self).baseAddress, nil, direction, nil) == 1
        }
        return unsafe ready && body(context)
    }
}
