// SPDX-License-Identifier: Apache-2.0

public import Basics
internal import COpenSSL

// Cryptography owns every use of libcrypto: keys that wipe themselves, hashes and HMAC, CBC and GCM, Diffie-Hellman,
// signatures, key derivation, constant-time comparison. It writes no primitive of its own, and every result of EVP is
// compared with 1 (a -1 taken for success was CVE-2013-2944).

/// Key material: octets on the heap that are wiped when the last reference goes and that never print themselves.
///
/// A class, not a noncopyable struct: keys live in dictionaries, arrays and enum payloads of the engines, and a
/// reference moves there without ever copying an octet.
@safe public final class Secret: @unchecked Sendable {
    // Sendable: the memory is written in init and deinit only.
    private let storage: UnsafeMutableRawBufferPointer

    public var count: Int { unsafe storage.count }

    /// Copies the octets; the caller's array is the caller's to forget.
    public init(_ octets: some Collection<UInt8>) {
        unsafe storage = .allocate(byteCount: octets.count, alignment: 16)
        unsafe storage.copyBytes(from: octets)
    }

    /// Fresh key material.
    public convenience init(random: any RandomSource, count: Int) {
        var octets = random.bytes(count)
        self.init(octets)
        wipe(&octets)
    }

    deinit {
        if let base = unsafe storage.baseAddress { unsafe OPENSSL_cleanse(base, storage.count) }
        unsafe storage.deallocate()
    }

    /// Lends the octets to a computation.
    public func withOctets<Result>(_ body: (UnsafeRawBufferPointer) throws -> Result) rethrows -> Result {
        try unsafe body(UnsafeRawBufferPointer(storage))
    }

    /// A copy in the open, for the one place that must write a key: the encrypted part of a message, a sealed record,
    /// the key log. Name the reason where it is called.
    public func revealed() -> [UInt8] { unsafe [UInt8](storage) }

    /// A part of this key as a key of its own, for example cipher key and salt.
    public subscript(range: Range<Int>) -> Secret {
        precondition(range.lowerBound >= 0 && range.upperBound <= count, "a part lies inside the secret")
        return unsafe Secret(UnsafeRawBufferPointer(rebasing: storage[range]))
    }
}

extension Secret: Equatable {
    /// In constant time for equal lengths.
    public static func == (left: Secret, right: Secret) -> Bool {
        guard left.count == right.count else { return false }
        guard left.count > 0 else { return true }
        return unsafe CRYPTO_memcmp(left.storage.baseAddress, right.storage.baseAddress, left.count) == 0
    }
}

extension Secret: CustomStringConvertible, CustomDebugStringConvertible, CustomReflectable {
    public var description: String { "<secret, \(count) octets>" }
    public var debugDescription: String { description }
    public var customMirror: Mirror { Mirror(self, children: EmptyCollection<Mirror.Child>()) }
}

/// Overwrites an array that held key material.
public func wipe(_ octets: inout [UInt8]) {
    unsafe octets.withUnsafeMutableBytes { buffer in
        if let base = buffer.baseAddress { unsafe OPENSSL_cleanse(base, buffer.count) }
    }
}

/// Compares two public or secret values in a time that depends on their lengths only.
public func constantTimeEqual(_ left: [UInt8], _ right: [UInt8]) -> Bool {
    guard left.count == right.count else { return false }
    return unsafe left.isEmpty || CRYPTO_memcmp(left, right, left.count) == 0
}
