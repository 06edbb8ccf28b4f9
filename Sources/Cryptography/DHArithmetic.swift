// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import COpenSSL

// How each family of Diffie-Hellman groups is computed with libcrypto: MODP by its constant-time exponentiation, the
// NIST curves by point multiplication, X25519 by EVP. EVP's own MODP would take exponents as wide as the prime and
// check the order of the peer's value, which costs several times the exchange itself.

/// A number of libcrypto, wiped and freed with its owner.
@safe final class Number {
    let value: OpaquePointer

    init() throws(CryptographyError) {
        guard let value = unsafe BN_new() else { throw refused(.failed) }
        unsafe self.value = value
    }

    init(_ octets: [UInt8]) throws(CryptographyError) {
        guard let value = unsafe BN_bin2bn(octets, Int32(octets.count), nil) else { throw refused(.failed) }
        unsafe self.value = value
    }

    /// A private scalar: libcrypto takes its constant-time paths for it.
    convenience init(secret: Secret) throws(CryptographyError) {
        var octets = secret.revealed()  // libcrypto copies them; the array is wiped at once
        defer { wipe(&octets) }
        try self.init(octets)
        unsafe BN_set_flags(value, BN_FLG_CONSTTIME)
    }

    deinit { unsafe BN_clear_free(value) }

    /// In network order, padded on the left.
    func octets(count: Int) throws(CryptographyError) -> [UInt8] {
        var result = [UInt8](repeating: 0, count: count)
        guard unsafe BN_bn2binpad(value, &result, Int32(count)) == Int32(count) else { throw refused(.failed) }
        return result
    }
}

/// Scratch numbers of libcrypto, in its secure heap where there is one.
@safe private final class Scratch {
    let context: OpaquePointer

    init() throws(CryptographyError) {
        guard let context = unsafe BN_CTX_secure_new() else { throw refused(.failed) }
        unsafe self.context = context
    }

    deinit { unsafe BN_CTX_free(context) }
}

/// The groups over safe primes with generator 2 (RFC 2409 6, RFC 3526).
struct MODP {
    private let domain: Domain
    private let size: Int

    init(_ group: DHGroup) throws(CryptographyError) {
        size = group.publicValueSize
        let domain: Domain? =
            switch group {
            case .modp768: .modp768
            case .modp1024: .modp1024
            case .modp1536: .modp1536
            case .modp2048: .modp2048
            case .modp3072: .modp3072
            case .modp4096: .modp4096
            case .ecp256, .ecp384, .ecp521, .curve25519: nil
            }
        guard let domain else { throw .unsupported }
        self.domain = domain
    }

    /// The highest bit is always set, so that the time of an exponentiation does not depend on leading zeros.
    static func privateScalar(_ random: any RandomSource, octets count: Int) -> Secret {
        var octets = random.bytes(count)
        defer { wipe(&octets) }
        octets[0] |= 0x80
        return Secret(octets)
    }

    func publicValue(_ scalar: Secret) throws(CryptographyError) -> [UInt8] {
        try power(Number([2]), scalar).octets(count: size)
    }

    func sharedSecret(_ scalar: Secret, _ peer: [UInt8]) throws(CryptographyError) -> Secret {
        let base = try Number(peer)
        // With a safe prime every y but 0, 1 and p-1 has an order of at least (p-1)/2 (RFC 2412 E, SP 800-56A 5.6.2.3).
        guard unsafe BN_is_zero(base.value) == 0, unsafe BN_is_one(base.value) == 0,
            unsafe BN_cmp(base.value, domain.largest) <= 0
        else { throw .invalidPublicValue }
        var octets = try power(base, scalar).octets(count: size)
        defer { wipe(&octets) }
        return Secret(octets)
    }

    private func power(_ base: Number, _ scalar: Secret) throws(CryptographyError) -> Number {
        let result = try Number()
        let exponent = try Number(secret: scalar)
        let scratch = try Scratch()
        guard
            unsafe BN_mod_exp_mont_consttime(
                result.value, base.value, exponent.value, domain.prime, scratch.context, domain.montgomery) == 1
        else { throw refused(.failed) }
        return result
    }

    /// A prime and what is computed from it once.
    @safe private final class Domain: @unchecked Sendable {
        // Sendable: nothing changes after init, and libcrypto only reads these.
        let prime: OpaquePointer
        /// p - 2, the largest public value that is accepted.
        let largest: OpaquePointer
        let montgomery: OpaquePointer

        static let modp768 = unsafe Domain(BN_get_rfc2409_prime_768(nil))
        static let modp1024 = unsafe Domain(BN_get_rfc2409_prime_1024(nil))
        static let modp1536 = unsafe Domain(BN_get_rfc3526_prime_1536(nil))
        static let modp2048 = unsafe Domain(BN_get_rfc3526_prime_2048(nil))
        static let modp3072 = unsafe Domain(BN_get_rfc3526_prime_3072(nil))
        static let modp4096 = unsafe Domain(BN_get_rfc3526_prime_4096(nil))

        private init?(_ prime: OpaquePointer?) {
            guard let prime = unsafe prime, let largest = unsafe BN_dup(prime),
                let montgomery = unsafe BN_MONT_CTX_new(), let scratch = unsafe BN_CTX_new()
            else { return nil }
            defer { unsafe BN_CTX_free(scratch) }
            guard unsafe BN_sub_word(largest, 2) == 1, unsafe BN_MONT_CTX_set(montgomery, prime, scratch) == 1 else {
                return nil
            }
            unsafe self.prime = prime
            unsafe self.largest = largest
            unsafe self.montgomery = montgomery
        }
    }
}

/// The groups over the NIST curves (RFC 5903).
struct ECP {
    private let curve: Curve
    /// Octets of a coordinate.
    private let size: Int

    init(_ group: DHGroup) throws(CryptographyError) {
        size = group.publicValueSize / 2
        let curve: Curve? =
            switch group {
            case .ecp256: .p256
            case .ecp384: .p384
            case .ecp521: .p521
            case .modp768, .modp1024, .modp1536, .modp2048, .modp3072, .modp4096, .curve25519: nil
            }
        guard let curve else { throw .unsupported }
        self.curve = curve
    }

    /// Uniform in 1..<order, by drawing again what lies outside (FIPS 186-5 A.2.2).
    func privateScalar(_ random: any RandomSource) throws(CryptographyError) -> Secret {
        for _ in 0..<128 {
            var octets = random.bytes(size)
            defer { wipe(&octets) }
            if size == 66 { octets[0] &= 0x01 }  // P-521: 528 bits drawn, 521 wanted
            let number = try Number(octets)
            if unsafe BN_is_zero(number.value) == 0, unsafe BN_cmp(number.value, curve.order) < 0 {
                return Secret(octets)
            }
        }
        throw .failed  // less likely than 2^-128 with a source that is random at all
    }

    func publicValue(_ scalar: Secret) throws(CryptographyError) -> [UInt8] {
        let result = try Point(curve)
        let factor = try Number(secret: scalar)
        let scratch = try Scratch()
        guard unsafe EC_POINT_mul(curve.group, result.value, factor.value, nil, nil, scratch.context) == 1 else {
            throw refused(.failed)
        }
        return [UInt8](try encoded(result, scratch).dropFirst())
    }

    func sharedSecret(_ scalar: Secret, _ peer: [UInt8]) throws(CryptographyError) -> Secret {
        let base = try Point(curve)
        let scratch = try Scratch()
        // Decoding refuses coordinates that are not below the field's prime and points that are not on the curve;
        // these curves have no small subgroups (cofactor 1), and infinity has no such encoding.
        let uncompressed = [0x04] + peer
        guard
            unsafe EC_POINT_oct2point(curve.group, base.value, uncompressed, uncompressed.count, scratch.context) == 1,
            unsafe EC_POINT_is_on_curve(curve.group, base.value, scratch.context) == 1,
            unsafe EC_POINT_is_at_infinity(curve.group, base.value) == 0
        else { throw refused(.invalidPublicValue) }
        let result = try Point(curve)
        let factor = try Number(secret: scalar)
        guard unsafe EC_POINT_mul(curve.group, result.value, nil, base.value, factor.value, scratch.context) == 1,
            unsafe EC_POINT_is_at_infinity(curve.group, result.value) == 0
        else { throw refused(.failed) }
        // spec: RFC 5903 9 - the secret is the x coordinate alone.
        var octets = try encoded(result, scratch)
        defer { wipe(&octets) }
        return Secret(octets[1...size])
    }

    /// 04 | x | y.
    private func encoded(_ point: Point, _ scratch: Scratch) throws(CryptographyError) -> [UInt8] {
        var octets = [UInt8](repeating: 0, count: 1 + 2 * size)
        let written = unsafe EC_POINT_point2oct(
            curve.group, point.value, POINT_CONVERSION_UNCOMPRESSED, &octets, octets.count, scratch.context)
        guard written == octets.count else { throw refused(.failed) }
        return octets
    }

    @safe private final class Curve: @unchecked Sendable {
        // Sendable: nothing changes after init, and libcrypto only reads these.
        let group: OpaquePointer
        let order: OpaquePointer

        static let p256 = Curve(NID_X9_62_prime256v1)
        static let p384 = Curve(NID_secp384r1)
        static let p521 = Curve(NID_secp521r1)

        private init?(_ identifier: Int32) {
            guard let group = unsafe EC_GROUP_new_by_curve_name(identifier),
                let order = unsafe EC_GROUP_get0_order(group)
            else { return nil }
            unsafe self.group = group
            unsafe self.order = order
        }
    }

    @safe private final class Point {
        let value: OpaquePointer

        init(_ curve: Curve) throws(CryptographyError) {
            guard let value = unsafe EC_POINT_new(curve.group) else { throw refused(.failed) }
            unsafe self.value = value
        }

        deinit { unsafe EC_POINT_clear_free(value) }
    }
}

/// Curve25519 (RFC 7748 6.1; number 31 in Main Mode is by agreement, RFC 8031 registers it for IKEv2).
enum X25519 {
    static func publicValue(_ scalar: Secret) throws(CryptographyError) -> [UInt8] {
        let key = try privateKey(scalar)
        var octets = [UInt8](repeating: 0, count: 32)
        var count = octets.count
        guard unsafe EVP_PKEY_get_raw_public_key(key.value, &octets, &count) == 1, count == 32 else {
            throw refused(.failed)
        }
        return octets
    }

    static func sharedSecret(_ scalar: Secret, _ peer: [UInt8]) throws(CryptographyError) -> Secret {
        let key = try privateKey(scalar)
        guard let raw = unsafe EVP_PKEY_new_raw_public_key_ex(nil, "X25519", nil, peer, peer.count) else {
            throw refused(.invalidPublicValue)
        }
        let other = unsafe KeyObject(raw)
        guard let context = unsafe EVP_PKEY_CTX_new_from_pkey(nil, key.value, nil) else { throw refused(.failed) }
        defer { unsafe EVP_PKEY_CTX_free(context) }
        guard unsafe EVP_PKEY_derive_init(context) == 1, unsafe EVP_PKEY_derive_set_peer(context, other.value) == 1
        else { throw refused(.failed) }
        var octets = [UInt8](repeating: 0, count: 32)
        defer { wipe(&octets) }
        var count = octets.count
        // A value of small order gives zeros whatever the scalar; libcrypto refuses them, and so do we.
        guard unsafe EVP_PKEY_derive(context, &octets, &count) == 1, count == 32,
            !constantTimeEqual(octets, [UInt8](repeating: 0, count: 32))
        else { throw refused(.invalidPublicValue) }
        return Secret(octets)
    }

    private static func privateKey(_ scalar: Secret) throws(CryptographyError) -> KeyObject {
        var octets = scalar.revealed()  // libcrypto copies them; the array is wiped at once
        defer { wipe(&octets) }
        guard let key = unsafe EVP_PKEY_new_raw_private_key_ex(nil, "X25519", nil, octets, octets.count) else {
            throw refused(.malformedKey)
        }
        return unsafe KeyObject(key)
    }
}

/// Owns one EVP_PKEY, private or public.
@safe final class KeyObject: @unchecked Sendable {
    // Sendable: libcrypto locks the caches inside; nothing else changes.
    let value: OpaquePointer

    init(_ value: OpaquePointer) { unsafe self.value = value }

    deinit { unsafe EVP_PKEY_free(value) }
}
