// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import IKEv1
internal import ISAKMP

/// Finds the pre-shared key for an address and the client behind an identity.
final class ClientDirectory: CredentialSource {
    private var byAddress: [IPAddress: ClientEntry]
    private var byName: [String: ClientEntry]
    /// Longest prefix first.
    private var ranges: [ClientRange]
    private let lifetime: Duration
    private var revoked: Set<String> = []

    init(_ inventory: Inventory, lifetime: Duration) {
        byAddress = Dictionary(inventory.clients.map { ($0.address, $0) }) { first, _ in first }
        byName = Dictionary(inventory.clients.map { ($0.name, $0) }) { first, _ in first }
        ranges = inventory.ranges.sorted { $0.addresses.length > $1.addresses.length }
        self.lifetime = lifetime
    }

    /// Every client there may be, with its address where it is declared.
    var names: [(String, IPAddress?)] {
        byName.values.map { ($0.name, $0.address) } + ranges.flatMap { $0.members.map { ($0, nil) } }
    }

    func revoke(_ name: String) { revoked.insert(name) }

    /// Knows from now on what another one knows.
    func adopt(_ other: ClientDirectory) {
        (byAddress, byName, ranges, revoked) = (other.byAddress, other.byName, other.ranges, other.revoked)
    }

    func credential(for address: IPAddress) -> PeerCredential? {
        if let client = byAddress[address] {
            guard !revoked.contains(client.name) else { return nil }
            return PeerCredential(
                name: client.name, preSharedKey: client.preSharedKey, expectedIdentity: nil, suites: client.suites,
                lifetime: lifetime)
        }
        guard let range = ranges.first(where: { $0.addresses.contains(address) }) else { return nil }
        return PeerCredential(
            name: range.name, preSharedKey: range.preSharedKey, expectedIdentity: nil, suites: range.suites,
            lifetime: lifetime)
    }

    /// What a client of this name proves itself with; nil for one that is revoked or not in the configuration.
    func credential(ofClient name: String) -> PeerCredential? {
        if let client = byName[name] { return credential(for: client.address) }
        guard !revoked.contains(name), let range = ranges.first(where: { $0.members.contains(name) }) else {
            return nil
        }
        return PeerCredential(
            name: range.name, preSharedKey: range.preSharedKey, expectedIdentity: nil, suites: range.suites,
            lifetime: lifetime)
    }

    /// The client that this address may be under this identity; nil when the two do not fit together.
    func client(at address: IPAddress, identity: Identity) -> String? {
        if let client = byAddress[address] {
            // A client's own key proves which one it is; its identity must not claim to be another.
            guard identity == .name(client.name) || identity == .address(address) else { return nil }
            return client.name
        }
        guard case .name(let name) = identity,
            let range = ranges.first(where: { $0.addresses.contains(address) }), range.members.contains(name)
        else { return nil }
        return name
    }

    func isRevoked(_ name: String) -> Bool { revoked.contains(name) }
}
