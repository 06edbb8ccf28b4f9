// SPDX-License-Identifier: Apache-2.0

public import Basics

extension DHGroup {
    /// A fresh key pair. The private scalar is drawn from `random`, so that a seed replays a whole run.
    public func generateKey(random: any RandomSource) throws(CryptographyError) -> DHPrivateKey {
        let scalar = try privateScalar(random)
        let publicValue: [UInt8]
        switch self {
        case .modp768, .modp1024, .modp1536, .modp2048, .modp3072, .modp4096:
            publicValue = try MODP(self).publicValue(scalar)
        case .ecp256, .ecp384, .ecp521: publicValue = try ECP(self).publicValue(scalar)
        case .curve25519: publicValue = try X25519.publicValue(scalar)
        }
        return DHPrivateKey(group: self, scalar: scalar, publicValue: publicValue)
    }

    private func privateScalar(_ random: any RandomSource) throws(CryptographyError) -> Secret {
        switch self {
        // Safe primes: an exponent of twice the group's strength in bits is enough (RFC 3526 8, RFC 7919 5.2), and
        // the whole width would make each computation several times dearer.
        case .modp768, .modp1024: MODP.privateScalar(random, octets: 20)
        case .modp1536: MODP.privateScalar(random, octets: 30)
        case .modp2048: MODP.privateScalar(random, octets: 32)
        case .modp3072: MODP.privateScalar(random, octets: 36)
        case .modp4096: MODP.privateScalar(random, octets: 40)
        case .ecp256, .ecp384, .ecp521: try ECP(self).privateScalar(random)
        case .curve25519: Secret(random: random, count: 32)
        }
    }
}

/// One side's half of a Diffie-Hellman exchange. Immutable, so that a worker may compute with it.
public final class DHPrivateKey: Sendable {
    public let group: DHGroup
    /// As it goes into a KE payload: a padded MODP number, x | y of a point, or the 32 octets of X25519.
    public let publicValue: [UInt8]
    private let scalar: Secret

    fileprivate init(group: DHGroup, scalar: Secret, publicValue: [UInt8]) {
        self.group = group
        self.scalar = scalar
        self.publicValue = publicValue
    }

    /// g^xy with the peer: a padded MODP number, the x coordinate alone (RFC 5903 9), or the 32 octets of X25519.
    ///
    /// Throws `invalidPublicValue` for a wrong length, for a MODP number that is not in 2...p-2, for a point that is
    /// not on the curve, and for an X25519 result of zeros (RFC 7748 6.1).
    public func sharedSecret(with peer: [UInt8]) throws(CryptographyError) -> Secret {
        guard peer.count == group.publicValueSize else { throw .invalidPublicValue }
        switch group {
        case .modp768, .modp1024, .modp1536, .modp2048, .modp3072, .modp4096:
            return try MODP(group).sharedSecret(scalar, peer)
        case .ecp256, .ecp384, .ecp521: return try ECP(group).sharedSecret(scalar, peer)
        case .curve25519: return try X25519.sharedSecret(scalar, peer)
        }
    }
}
