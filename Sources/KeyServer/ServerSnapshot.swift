// SPDX-License-Identifier: Apache-2.0

public import Basics
internal import FMKE
internal import IKEv1
internal import KeyTree
internal import Cryptography
internal import ReliablePush

/// What an operator sees of the server. Encoded as JSON these are the control interface's stable schema; no key is in
/// any of them.
public struct ServerSnapshot: Sendable, Codable {
    /// One member of one group.
    public struct Member: Sendable, Codable, Hashable {
        public var client: String
        public var role: MemberRole
        public var index: UInt32
        /// The newest transaction it confirmed, and whether that is the group's newest.
        public var confirmedTransaction: UInt64
        public var isCurrent: Bool
        public var holdsKeys: Bool
    }
    /// A group's key tree.
    public struct Tree: Sendable, Codable, Hashable {
        public var members: Int
        /// Levels above the leaves: a member holds so many keys and one.
        public var height: Int
        public var backwardSecrecy: Bool
        /// The last change that went out by multicast: its transaction, and what it took once over.
        public var updateTransaction: UInt64?
        public var updateOctets: Int?
        public var updateDatagrams: Int?
    }
    public struct Group: Sendable, Codable {
        public var name: String
        public var id: UInt32
        public var control: String
        public var flows: [String]
        public var suite: String
        public var epoch: UInt32
        public var transaction: UInt64
        public var openTransactions: [UInt64]
        public var members: [Member]
        public var nextDataRekeySeconds: Double
        public var nextKEKRekeySeconds: Double
        public var lastVerdict: VerdictReport?
        public var revocation: RevocationMethod
        /// With revocation `lkh`.
        public var tree: Tree?
    }
    public struct Client: Sendable, Codable {
        public var name: String
        /// Where it was last seen, else its declared address.
        public var address: String?
        /// `registered`, `absent` or `revoked`.
        public var state: String
        public var suite: String?
        public var isBehindNAT: Bool?
        public var roundTripMilliseconds: Int64?
        public var registeredSeconds: Double?
        public var lastHeardSeconds: Double?
        public var pendingConfigures: Int
        public var groups: [String]
    }
    /// The audit file, by the daemon.
    public struct Audit: Sendable, Codable {
        public var file: String
        /// Of the newest line that is in it.
        public var number: UInt64
        /// Lines that could not be written yet, and why.
        public var waiting: Int
        public var failure: String?

        public init(file: String, number: UInt64, waiting: Int, failure: String?) {
            self.file = file
            self.number = number
            self.waiting = waiting
            self.failure = failure
        }
    }
    /// A VPN and its two ends.
    public struct VPN: Sendable, Codable {
        public struct End: Sendable, Codable {
            public var client: String
            public var isRegistered: Bool
            /// Of the newest SAs in use, or else of the newest: what it receives and sends with.
            public var inboundSPIs: [String]
            public var outboundSPIs: [String]
        }
        public var name: String
        public var id: UInt32
        public var ends: [End]
        /// `up`, `half` (SAs that are not in use yet, or an end that is not registered), `down` or `revoked`.
        public var state: String
        public var flows: [String]
        public var suite: String
        public var extendedSequence: Bool
        /// ESP in UDP.
        public var isEncapsulated: Bool
        public var transaction: UInt64
        public var openTransactions: [UInt64]
        /// nil without SAs.
        public var expiresInSeconds: Double?
        public var nextRekeySeconds: Double?
        public var lastVerdict: VerdictReport?
    }
    public struct SA: Sendable, Codable {
        /// Or VPN.
        public var group: String
        public var spi: String
        public var flow: String
        public var suite: String
        public var transaction: UInt64
        /// `pending` (not yet active), `active` or `old` (replaced, kept for receiving).
        public var state: String
        public var expiresInSeconds: Double
        /// In a VPN, the end that sends with it.
        public var from: String?
    }

    /// `ok`, or `degraded` when a client is absent or a transaction ended unconfirmed.
    public var state: String
    /// Why, one sentence each.
    public var alarms: [String]
    public var identity: String
    public var address: String
    public var uptimeSeconds: Double
    public var groups: [Group]
    public var clients: [Client]
    public var sas: [SA]
    /// Datagrams without effect, by reason.
    public var drops: [String: UInt64]
    /// nil without an audit file.
    public var audit: Audit?
    public var vpns: [VPN]
}

extension KeyServer {
    public func snapshot(now: Instant) -> ServerSnapshot {
        let ordered = groups.values.sorted { $0.entry.name < $1.entry.name }
        var alarms: [String] = []
        if let hold { alarms.append("no keys are given out: \(hold.reason)") }
        for group in ordered {
            for name in group.ahead.keys.sorted() { alarms.append(Self.aheadReason(name, of: group.entry.name)) }
        }
        for client in clients.values.sorted(by: { $0.name < $1.name }) where !client.isRevoked {
            if client.association == nil { alarms.append("client \(client.name) is not registered") }
        }
        for group in ordered {
            for (name, member) in group.members.sorted(by: { $0.key < $1.key })
            where member.holdsKeys && member.confirmed < group.transaction && group.open[group.transaction] == nil {
                alarms.append("client \(name) has not confirmed the newest keys of group \(group.entry.name)")
            }
        }
        let tunnels = vpns.values.sorted { $0.entry.name < $1.entry.name }
        for vpn in tunnels where state(of: vpn, now: now) != "revoked" && state(of: vpn, now: now) != "up" {
            alarms.append("VPN \(vpn.entry.name) is \(state(of: vpn, now: now))")
        }
        return ServerSnapshot(
            state: alarms.isEmpty ? "ok" : "degraded", alarms: alarms, identity: configuration.identity,
            address: "\(configuration.address)", uptimeSeconds: (now - startedAt).inSeconds,
            groups: ordered.map { describe($0, now: now) },
            clients: clients.values.sorted { $0.name < $1.name }.map { describe($0, now: now) },
            sas: ordered.flatMap { group in group.live(now: now).map { describe($0, of: group, now: now) } }
                + tunnels.flatMap { describeSAs(of: $0, now: now) },
            drops: drops.counts, vpns: tunnels.map { describe($0, now: now) })
    }

    private func describe(_ group: GroupState, now: Instant) -> ServerSnapshot.Group {
        ServerSnapshot.Group(
            name: group.entry.name, id: group.entry.id, control: "\(group.entry.control)",
            flows: group.entry.flows.map(\.description), suite: group.entry.suite.rawValue,
            epoch: group.rekeySA.epoch, transaction: group.transaction, openTransactions: group.open.keys.sorted(),
            members: group.members.sorted { $0.value.index < $1.value.index }.map { name, member in
                ServerSnapshot.Member(
                    client: name, role: member.role, index: member.index, confirmedTransaction: member.confirmed,
                    isCurrent: member.confirmed == group.transaction, holdsKeys: member.holdsKeys)
            },
            nextDataRekeySeconds: (group.dataRekeyAt - now).inSeconds,
            nextKEKRekeySeconds: (group.kekRekeyAt - now).inSeconds, lastVerdict: group.lastVerdict,
            revocation: group.entry.revocation,
            tree: group.tree.map {
                ServerSnapshot.Tree(
                    members: $0.memberCount, height: $0.height, backwardSecrecy: group.entry.backwardSecrecy,
                    updateTransaction: group.treeUpdate?.transaction, updateOctets: group.treeUpdate?.octets,
                    updateDatagrams: group.treeUpdate?.datagrams)
            })
    }

    private func describe(_ client: ClientState, now: Instant) -> ServerSnapshot.Client {
        let info = client.association.flatMap { endpoint.info($0) }
        return ServerSnapshot.Client(
            name: client.name, address: (info?.remote.description) ?? client.address?.description,
            state: client.isRevoked ? "revoked" : info == nil ? "absent" : "registered",
            suite: info?.suite.description, isBehindNAT: info?.isBehindNAT,
            roundTripMilliseconds: info?.roundTrip?.wholeMilliseconds,
            registeredSeconds: info.map { (now - $0.establishedAt).inSeconds },
            lastHeardSeconds: client.lastHeard.map { (now - $0).inSeconds }, pendingConfigures: client.pending.count,
            groups: groups.values.filter { $0.members[client.name] != nil }.map(\.entry.name).sorted())
    }

    private func describe(_ item: ServerDataSA, of group: GroupState, now: Instant) -> ServerSnapshot.SA {
        let end = min(item.expiresAt, item.removeAt ?? item.expiresAt)
        let isOld =
            group.data.contains { $0.transaction > item.transaction && $0.activateAt <= now }
        return ServerSnapshot.SA(
            group: group.entry.name, spi: spiText(item.sa.spi), flow: item.sa.selector.description,
            suite: item.sa.suite.rawValue, transaction: item.transaction,
            state: item.activateAt > now ? "pending" : isOld ? "old" : "active", expiresInSeconds: (end - now).inSeconds
        )
    }
}

extension MemberRole: Codable {}
