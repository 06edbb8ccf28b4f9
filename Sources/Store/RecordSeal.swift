// SPDX-License-Identifier: Apache-2.0

public import Basics
public import Cryptography

/// Seals the values of one store before they leave the process, so that a copy of its file tells names and lengths, and
/// a change of it is noticed.
///
///     root   = HKDF-SHA-256(master key, salt = the store's id, info = "SatIPSec store v1", 32)
///     key    = HMAC-SHA-256(root, name)                          one for each name
///     sealed = 1 | nonce (12, random) | AES-256-GCM(key, nonce, value; revision (u64) | name)
///
/// The revision in the authenticated data keeps an older value of the same name from being put back alone; the whole
/// file put back is another matter (numbers, of which the process keeps a floor by the clock).
public struct RecordSeal: Sendable {
    /// Octets of the master key.
    public static let masterKeySize = 32
    /// Octets of a store's id.
    public static let storeIDSize = 16
    private static let version: UInt8 = 1

    private let root: Secret

    /// - Parameters:
    ///   - masterKey: 32 octets.
    ///   - storeID: 16 octets, drawn when the store is made.
    public init(masterKey: Secret, storeID: [UInt8]) {
        root = HKDF.derive(
            .sha256, key: masterKey, salt: storeID, info: Array("SatIPSec store v1".utf8), count: Self.masterKeySize)
    }

    /// The octets to write for a value. Throws `unavailable` when libcrypto does not work.
    public func seal(
        _ value: Secret, name: String, revision: UInt64, random: any RandomSource
    ) throws(StoreError) -> [UInt8] {
        let nonce = random.bytes(AESGCM.nonceSize)
        // Revealed: the plain text of the seal.
        var plain = value.revealed()
        defer { wipe(&plain) }
        do {
            let text = try AESGCM.seal(
                plain, key: key(of: name), nonce: nonce, aad: Self.associated(name, revision: revision))
            return [Self.version] + nonce + text
        } catch {
            throw .unavailable("libcrypto refused to seal")
        }
    }

    /// The value, or `corrupt` for anything that was not sealed by this key under this name and revision.
    public func open(_ sealed: [UInt8], name: String, revision: UInt64) throws(StoreError) -> Secret {
        let start = 1 + AESGCM.nonceSize
        guard sealed.count >= start + AESGCM.tagSize, sealed[0] == Self.version else { throw .corrupt }
        do {
            var plain = try AESGCM.open(
                Array(sealed[start...]), key: key(of: name), nonce: Array(sealed[1..<start]),
                aad: Self.associated(name, revision: revision))
            defer { wipe(&plain) }
            return Secret(plain)
        } catch {
            throw .corrupt
        }
    }

    private func key(of name: String) -> Secret { HMAC.secret(.sha256, key: root, Array(name.utf8)) }

    private static func associated(_ name: String, revision: UInt64) -> [UInt8] {
        var writer = OctetWriter(capacity: 8 + name.utf8.count)
        writer.u64(revision)
        writer.append(Array(name.utf8))
        return writer.bytes
    }
}
