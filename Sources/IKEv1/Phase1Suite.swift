// SPDX-License-Identifier: Apache-2.0

public import Cryptography

/// What phase 1 computes with: one transform of an offer (RFC 2409 appendix A).
public struct Phase1Suite: Sendable, Hashable {
    public var encryption: CBCAlgorithm
    public var hash: HashAlgorithm
    public var group: DHGroup

    public init(encryption: CBCAlgorithm, hash: HashAlgorithm, group: DHGroup) {
        self.encryption = encryption
        self.hash = hash
        self.group = group
    }

    /// The offer of a configuration that names none.
    public static let standard = Phase1Suite(encryption: .aes256, hash: .sha256, group: .ecp256)

    /// Refused unless `legacy: true` stands beside it: DES, Blowfish, MD5, MODP-768.
    public var isLegacy: Bool {
        if case .blowfish = encryption { return true }
        return encryption == .des || hash == .md5 || group == .modp768
    }

    /// From strongSwan's notation, which operators know: `aes256-sha256-ecp256`, `3des-md5-modp1024`,
    /// `aes128-sha1-x25519`, `blowfish128-sha1-modp1536`.
    public init?(_ text: String) {
        let parts = text.split(separator: "-", omittingEmptySubsequences: false).map(String.init)
        guard parts.count == 3,
            let encryption = Self.encryptions.first(where: { $0.0 == parts[0] })?.1,
            let hash = HashAlgorithm(rawValue: parts[1]),
            let group = Self.groups.first(where: { $0.0 == parts[2] })?.1
        else { return nil }
        self.init(encryption: encryption, hash: hash, group: group)
    }

    static let encryptions: [(String, CBCAlgorithm)] = [
        ("aes128", .aes128), ("aes192", .aes192), ("aes256", .aes256), ("3des", .tripleDES), ("des", .des),
        ("blowfish128", .blowfish(keyBits: 128)), ("blowfish192", .blowfish(keyBits: 192)),
        ("blowfish256", .blowfish(keyBits: 256)),
    ]
    static let groups: [(String, DHGroup)] = [
        ("modp768", .modp768), ("modp1024", .modp1024), ("modp1536", .modp1536), ("modp2048", .modp2048),
        ("modp3072", .modp3072), ("modp4096", .modp4096), ("ecp256", .ecp256), ("ecp384", .ecp384),
        ("ecp521", .ecp521), ("x25519", .curve25519),
    ]
}

extension Phase1Suite: CustomStringConvertible {
    public var description: String {
        let encryption = Self.encryptions.first { $0.1 == self.encryption }?.0 ?? "blowfish"
        let group = Self.groups.first { $0.1 == self.group }?.0 ?? "group\(self.group.rawValue)"
        return "\(encryption)-\(hash.rawValue)-\(group)"
    }
}
