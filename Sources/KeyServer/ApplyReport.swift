// SPDX-License-Identifier: Apache-2.0

/// What a change of the inventory does, or would do: `gcks apply` and its `--dry-run` say the same.
///
/// Octets are UDP payload of what the GCKS sends when nothing is lost: the first transmissions with their copies and
/// parity, and each profile once. Answers, COMMITs and BEACONs come on top.
public struct ApplyReport: Sendable, Hashable, Codable {
    public struct Change: Sendable, Hashable, Codable {
        public enum Kind: String, Sendable, Hashable, Codable {
            case client, group, member, vpn
        }
        public enum Action: String, Sendable, Hashable, Codable {
            case added, removed, changed
        }
        public var kind: Kind
        public var action: Action
        /// Of the client or group; of a member the client's.
        public var name: String
        /// Of a member, the group's.
        public var group: String?
        /// What changed, by the words of the configuration file; a member's role.
        public var details: [String]

        public init(_ kind: Kind, _ action: Action, _ name: String, group: String? = nil, details: [String] = []) {
            (self.kind, self.action, self.name, self.group, self.details) = (kind, action, name, group, details)
        }
    }
    /// A group that gets new keys.
    public struct Rekey: Sendable, Hashable, Codable {
        public var group: String
        public var transaction: UInt64
        public var reason: RekeyReason
        /// Why, each a word of the configuration file or `eviction`.
        public var causes: [String]
        /// Members that are registered and to confirm.
        public var members: Int
        /// PUSHes of the first round; 0 when all goes by unicast.
        public var datagrams: Int
        public var multicastOctets: Int
        /// Members that get a profile because of it.
        public var unicasts: Int
    }

    public var changes: [Change] = []
    public var rekeys: [Rekey] = []
    /// Clients that get a new profile, sorted.
    public var profiles: [String] = []
    /// Registered clients whose ISAKMP SA ends: they register anew if they still may.
    public var disconnected: [String] = []
    public var multicastOctets = 0
    public var unicastOctets = 0

    public init() {}

    /// Nothing differs.
    public var isEmpty: Bool { changes.isEmpty }

    /// By group: what to wait for.
    public var transactions: [String: UInt64] {
        Dictionary(rekeys.map { ($0.group, $0.transaction) }) { max($0, $1) }
    }
}
