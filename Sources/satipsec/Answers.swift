// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import Cryptography
internal import DataPlane
internal import ESP
internal import GroupMember

/// `GET /v1/status` of a client: the engine's view and the data plane's.
struct StatusAnswer: Encodable {
    var state: String
    var member: MemberSnapshot
    var dataPlane: DataPlaneAnswer

    init(_ member: MemberSnapshot, _ status: DataPlaneStatus, requiresGuard: Bool) {
        let isOpen = requiresGuard && status.isGuarded == false
        state = member.state == "registered" && !isOpen ? "ok" : "degraded"
        self.member = member
        dataPlane = DataPlaneAnswer(status)
    }
}

struct DataPlaneAnswer: Encodable {
    struct Group: Encodable {
        var address: String
        var isSent: Bool
        var isReceived: Bool
    }
    var backend: String
    var satelliteInterface: String
    var terrestrialInterface: String
    var tunnelInterface: String
    /// Octets.
    var mtu: Int
    /// The same for IPv6 packets, where they are carried.
    var mtuV6: Int?
    var isGuarded: Bool?
    var groups: [Group]
    var packetsFromTunnel: UInt64
    var packetsToTunnel: UInt64
    var packetsToSatellite: UInt64
    var packetsFromSatellite: UInt64
    var receiveOverflow: UInt64
    var fragmentationFailures: UInt64
    var drops: [String: UInt64]
    var warnings: [String]

    init(_ status: DataPlaneStatus) {
        backend = status.backend
        satelliteInterface = status.satelliteInterface
        terrestrialInterface = status.terrestrialInterface
        tunnelInterface = status.tunnelInterface
        mtu = status.mtu
        mtuV6 = status.mtuV6
        isGuarded = status.isGuarded
        groups = status.groups.map {
            Group(address: "\($0.address)", isSent: $0.isSent, isReceived: $0.isReceived)
        }
        packetsFromTunnel = status.packetsFromTunnel
        packetsToTunnel = status.packetsToTunnel
        packetsToSatellite = status.packetsToSatellite
        packetsFromSatellite = status.packetsFromSatellite
        receiveOverflow = status.receiveOverflow
        fragmentationFailures = status.fragmentationFailures
        drops = Dictionary(uniqueKeysWithValues: status.drops.map { ($0.key.rawValue, $0.value) })
        warnings = status.warnings
    }
}

/// `GET /v1/sas` of a client: one SA in one direction, with its counters.
struct SAAnswer: Encodable {
    var group: String
    var spi: String
    /// `inbound` or `outbound`.
    var direction: String
    var destination: String
    var flow: String
    var suite: String
    var isActive: Bool
    var packets: UInt64
    /// Inner octets.
    var octets: UInt64
    /// Inner octets after which it protects nothing more: what was configured, or the suite's own limit.
    var octetLimit: UInt64?
    var sequence: UInt64
    /// It nears a limit, and the GCKS was asked for new keys.
    var isWorn: Bool
    var senders: Int
    var drops: [String: UInt64]
    /// nil once the engine has let go of it.
    var expiresInSeconds: Double?
    var lastUsedSeconds: Double?
    /// What carries it: `userspace`, `xfrm`, `pfkey`.
    var backend: String

    init(_ status: SAStatus, of member: MemberSnapshot, backend: String, now: Instant) {
        self.backend = backend
        group = status.name
        spi = spiText(status.key.spi)
        direction = status.direction.rawValue
        destination = "\(status.key.destination)"
        flow = "\(status.selector)"
        suite = status.suite.rawValue
        isActive = status.isActive
        packets = status.counters.packets
        octets = status.counters.octets
        octetLimit = status.octetLimit
        isWorn = status.isWorn
        sequence = status.counters.sequence
        senders = status.senders
        drops = Dictionary(uniqueKeysWithValues: status.counters.drops.map { ($0.key.rawValue, $0.value) })
        let text = spi
        expiresInSeconds = member.sas.first { $0.spi == text }?.expiresInSeconds
        lastUsedSeconds = status.counters.lastUsed.map { (now - $0).inSeconds }
    }
}
