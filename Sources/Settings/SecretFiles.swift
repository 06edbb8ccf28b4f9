// SPDX-License-Identifier: Apache-2.0

public import Cryptography

/// Loads the secret files that a configuration names, relative to its own folder.
struct SecretFiles {
    let folder: String
    let problems: Problems

    /// A file of this size holds no pre-shared key any more.
    private static let keyOctetsAtMost = 4_096
    private static let signingKeyOctetsAtMost = 65_536

    /// A pre-shared key: the content of the file as it stands (hexadecimal, base64 and text are not decoded), without
    /// one line feed at its end. `legacyKey` is the key that would allow a weak one, if there is any.
    func preSharedKey(_ path: String, at place: Place, isLegacyAllowed: Bool, legacyKey: String?) -> Secret? {
        guard var octets = read(path, at: place, octetsAtMost: Self.keyOctetsAtMost) else { return nil }
        defer { wipe(&octets) }
        if octets.last == 0x0a { octets.removeLast() }
        do {
            try Self.check(octets, path: path, isLegacyAllowed: isLegacyAllowed, legacyKey: legacyKey)
        } catch {
            problems.add(place, error)
            return nil
        }
        return Secret(octets)
    }

    private static func check(
        _ octets: [UInt8], path: String, isLegacyAllowed: Bool, legacyKey: String?
    ) throws(Wrong) {
        guard !octets.isEmpty else { throw Wrong("\(path) is empty", instead: advice) }
        let isText = octets.allSatisfy { (0x20...0x7e).contains($0) || (0x09...0x0d).contains($0) }
        guard !isText || !octets.contains(where: { (0x0a...0x0d).contains($0) }) else {
            throw Wrong("\(path) has more than one line", instead: "keep the key alone in it, with LF as its line end")
        }
        guard !isText || octets.first != 0x20 && octets.last != 0x20 && !octets.contains(0x09) else {
            throw Wrong("\(path) has blanks around its key", instead: "remove them on both sides: they count")
        }
        guard !isLegacyAllowed else { return }
        let advice = advice + (legacyKey.map { ", or set \($0): true" } ?? "")
        guard octets.count >= KeyStrength.octetsAtLeast else {
            throw Wrong(
                "the key in \(path) is shorter than \(KeyStrength.octetsAtLeast) octets",
                instead: advice)
        }
        guard KeyStrength.bits(octets) >= KeyStrength.bitsAtLeast else {
            throw Wrong(
                "the key in \(path) can be guessed (under \(Int(KeyStrength.bitsAtLeast)) bits)",
                instead: advice)
        }
    }

    private static let advice = "make one with openssl rand -hex 32"

    /// The key that seals the key server's state: 64 hexadecimal digits, and a line feed.
    func masterKey(_ path: String, at place: Place) -> Secret? {
        guard var octets = read(path, at: place, octetsAtMost: Self.keyOctetsAtMost) else { return nil }
        defer { wipe(&octets) }
        if octets.last == 0x0a { octets.removeLast() }
        var key: [UInt8] = []
        defer { wipe(&key) }
        key.reserveCapacity(32)
        for position in stride(from: 0, to: octets.count - 1, by: 2) {
            guard let high = Self.digit(octets[position]), let low = Self.digit(octets[position + 1]) else { break }
            key.append(high << 4 | low)
        }
        guard octets.count == 64, key.count == 32 else {
            problems.add(
                place, "\(path) does not hold 64 hexadecimal digits alone",
                instead:
                    "make one with openssl rand -hex 32; for a state that exists, bring back the key it was made with")
            return nil
        }
        return Secret(key)
    }

    private static func digit(_ octet: UInt8) -> UInt8? {
        switch octet {
        case 0x30...0x39: octet - 0x30
        case 0x41...0x46: octet - 0x41 + 10
        case 0x61...0x66: octet - 0x61 + 10
        default: nil
        }
    }

    /// The key that the GCKS signs with, PEM.
    func signingKey(_ path: String, at place: Place) -> SigningKey? {
        guard var octets = read(path, at: place, octetsAtMost: Self.signingKeyOctetsAtMost) else { return nil }
        defer { wipe(&octets) }
        do {
            return try SigningKey(pem: octets)
        } catch {
            problems.add(
                place, "\(path) holds no private key that can sign here",
                instead: "make one with gcks init, or openssl genpkey -algorithm ed25519")
            return nil
        }
    }

    private func read(_ path: String, at place: Place, octetsAtMost limit: Int) -> [UInt8]? {
        do {
            return try Files.read(Files.resolve(path, from: folder), octetsAtMost: limit, privacy: .secret)
        } catch {
            problems.add(place, error)
            return nil
        }
    }
}

/// One secret from which every client's own pre-shared key follows, so that 100,000 clients need no 100,000 files.
public enum ProvisioningKey {
    /// The pre-shared key of the client of this name: the lower-case hexadecimal digits of 32 octets of HKDF-SHA256
    /// (RFC 5869; no salt, info `SatIPSec pre-shared key` NUL name). The digits themselves are the key, so that it can
    /// stand in a text file like any other.
    public static func preSharedKey(from provisioningKey: Secret, client name: String) -> Secret {
        let info = Array("SatIPSec pre-shared key".utf8) + [0] + Array(name.utf8)
        let derived = HKDF.derive(.sha256, key: provisioningKey, salt: [], info: info, count: 32)
        return hexadecimal(derived)
    }

    /// The digits of a secret as a secret.
    static func hexadecimal(_ secret: Secret) -> Secret {
        var octets = secret.revealed()  // to write the same key in another form, wiped below
        var digits: [UInt8] = []
        digits.reserveCapacity(2 * octets.count)
        for octet in octets {
            for nibble in [octet >> 4, octet & 15] { digits.append(nibble < 10 ? 0x30 + nibble : 0x57 + nibble) }
        }
        defer {
            wipe(&octets)
            wipe(&digits)
        }
        return Secret(digits)
    }
}
