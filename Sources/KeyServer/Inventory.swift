// SPDX-License-Identifier: Apache-2.0

public import Basics
public import Cryptography
public import IKEv1
public import ReliablePush

/// A client as the operator declares it.
public struct ClientEntry: Sendable {
    public var name: String
    /// Its address towards the satellite: the PSK is chosen by it.
    public var address: IPAddress
    public var preSharedKey: Secret
    public var suites: [Phase1Suite]

    public init(name: String, address: IPAddress, preSharedKey: Secret, suites: [Phase1Suite]) {
        self.name = name
        self.address = address
        self.preSharedKey = preSharedKey
        self.suites = suites
    }
}

/// A range of addresses whose clients share one key and are told apart by the name they give in message 5.
public struct ClientRange: Sendable {
    public var name: String
    public var addresses: IPPrefix
    public var preSharedKey: Secret
    public var suites: [Phase1Suite]
    /// The names that may appear from this range; each is a client like any other.
    public var members: [String]

    public init(
        name: String, addresses: IPPrefix, preSharedKey: Secret, suites: [Phase1Suite], members: [String]
    ) {
        self.name = name
        self.addresses = addresses
        self.preSharedKey = preSharedKey
        self.suites = suites
        self.members = members
    }
}

public enum MemberRole: String, Sendable, Hashable, CaseIterable {
    case sender, receiver, both

    public var maySend: Bool { self != .receiver }
    public var mayReceive: Bool { self != .sender }
}

/// How a removed member loses its keys.
public enum RevocationMethod: String, Sendable, Hashable, CaseIterable, Codable {
    /// Every other member gets the new keys by unicast.
    case flat
    /// By the key tree (docs/KEYTREE.md): one multicast takes the member out and brings the others new keys.
    case lkh

    /// What a group of that many members has unless its entry says otherwise. From four members on, the one multicast
    /// takes fewer octets than a unicast and its answer for each of the others. But flat needs nothing that was learnt
    /// before, and as long as all the unicasts together take no longer than one round trip it ends as soon; so small
    /// groups keep it.
    public static func standard(members: Int) -> RevocationMethod { members > 8 ? .lkh : .flat }
}

/// When senders move to new SAs.
public struct RolloverPolicy: Sendable, Hashable {
    /// From the first transmission to the move, at most (DESIGN's `at-latest`).
    public var activateAfter: Duration = .seconds(2)
    /// From the move until the replaced SAs are gone.
    public var keepOld: Duration = .seconds(5)
    /// Move earlier, by COMMIT, as soon as this share of the members has confirmed, in percent; nil: by time alone.
    public var commitAtPercent: Double?
    public init() {}
}

/// A group as the operator declares it.
public struct GroupEntry: Sendable {
    public var name: String
    public var id: UInt32
    /// Multicast group and port of its control channel.
    public var control: SocketAddress
    /// What is protected: one SA per flow.
    public var flows: [TrafficSelector]
    public var suite: ESPSuite
    /// By client name, in the order of the file: the position is not the member index.
    public var members: [(client: String, role: MemberRole)]
    public var dataLifetime: Duration = .seconds(3_600)
    /// In octets; nil for the suite's own limit.
    public var dataVolume: UInt64?
    public var kekLifetime: Duration = .seconds(86_400)
    public var rollover = RolloverPolicy()
    public var push = PushPolicy()
    public var revocation = RevocationMethod.flat
    /// With `lkh`: whether a newcomer waits for new keys, so that it learns none from before its time.
    public var backwardSecrecy = false

    public init(
        name: String, id: UInt32, control: SocketAddress, flows: [TrafficSelector], suite: ESPSuite,
        members: [(client: String, role: MemberRole)]
    ) {
        self.name = name
        self.id = id
        self.control = control
        self.flows = flows
        self.suite = suite
        self.members = members
    }
}

extension GroupEntry {
    /// How many flows a group with this suite may have, so that the current and the next SAs of all fit one message:
    /// one less than `Limits` says where the keys of one SA have more than 64 octets, as with HMAC-SHA2-512.
    public static func mostFlows(with suite: ESPSuite, limits: Limits = Limits()) -> Int {
        let keys = suite.cipherKeySize + suite.authenticationKeySize
        return max(limits.flowsPerGroup - (keys > 64 ? 1 : 0), 1)
    }
}

/// Everything the operator declared: the desired state.
public struct Inventory: Sendable {
    public var clients: [ClientEntry]
    public var ranges: [ClientRange]
    public var groups: [GroupEntry]
    public var vpns: [VPNEntry]

    public init(
        clients: [ClientEntry], ranges: [ClientRange] = [], groups: [GroupEntry], vpns: [VPNEntry] = []
    ) {
        self.clients = clients
        self.ranges = ranges
        self.groups = groups
        self.vpns = vpns
    }
}
