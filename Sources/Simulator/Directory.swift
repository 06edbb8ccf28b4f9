// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import Cryptography
internal import IKEv1
internal import KeyServer
internal import ReliablePush

/// The names, addresses and secrets of a scenario: what the operator would write into the file. All look at the same
/// one, and it changes with the file.
final class Directory {
    static let suite = Phase1Suite(encryption: .aes128, hash: .sha256, group: .curve25519)
    let groupNames: [String]
    private(set) var groups: [Scenario.Group]
    private(set) var policies: [GroupPolicy]
    /// Who was in each group at the start. Nobody else comes in later.
    let firstRoles: [[Int: MemberRole]]
    /// Clients that are not in the file for a while.
    var absent: Set<Int> = []

    func isAbsent(_ name: String) -> Bool { Self.member(name).map(absent.contains) ?? false }
    /// So often the control address of each group changed.
    private var moves: [Int]
    private let sharesControlAddress: Bool

    var roles: [[Int: MemberRole]] { groups.map(\.roles) }

    struct GroupPolicy {
        let control: SocketAddress
        let slot: Duration
        /// Bits per second of all answers together.
        let returnRate: UInt64
        let answerOctets: Int
        let spread: Duration
        let activateAfter: Duration
        let keepOld: Duration
        let flows: [TrafficSelector]
        let suite: ESPSuite
        let roundTrip: Duration
    }

    init(_ scenario: Scenario) {
        groupNames = scenario.groups.indices.map { "g\($0)" }
        groups = scenario.groups
        firstRoles = scenario.groups.map(\.roles)
        sharesControlAddress = scenario.sharesControlAddress
        moves = scenario.groups.map { _ in 0 }
        policies = []
        update()
    }

    /// Changes a group in the file.
    func change(_ group: Int, movesControl: Bool = false, _ body: (inout Scenario.Group) -> Void) {
        body(&groups[group])
        if movesControl { moves[group] += 1 }
        update()
    }

    private func update() {
        policies = groups.enumerated().map { index, group in
            GroupPolicy(
                control: Self.control((sharesControlAddress ? 0 : index) + 8 * moves[index]),
                slot: group.push.slot, returnRate: group.push.returnRate, answerOctets: group.push.answerOctets,
                spread: group.push.spread,
                activateAfter: group.rollover.activateAfter, keepOld: group.rollover.keepOld,
                flows: (0..<group.flows).map { Self.flow($0, ofGroup: index) }, suite: group.suite,
                roundTrip: group.push.roundTrip)
        }
    }

    private static func flow(_ number: Int, ofGroup group: Int) -> TrafficSelector {
        TrafficSelector(
            source: .allV4,
            destination: IPPrefix(
                host: .v4(239, 1, UInt8(truncatingIfNeeded: group), UInt8(truncatingIfNeeded: number + 1))))
    }

    /// Octets of one answer with IP and UDP: of a member that reports on each of its groups.
    var answerOctets: Double {
        Double(policies.map(\.answerOctets).max() ?? 0) * (1 + Double(groupNames.count - 1) / 2)
    }

    static func groupID(_ index: Int) -> UInt32 { UInt32(index) + 7 }
    static func control(_ index: Int) -> SocketAddress {
        SocketAddress(.v4(239, 255, 0, UInt8(truncatingIfNeeded: index + 1)), 848)
    }
    static func preSharedKey(_ member: Int) -> Secret { Secret(Array("pre-shared key of m\(member), 32 octets".utf8)) }
    /// The member of this name.
    static func member(_ name: some StringProtocol) -> Int? { name.first == "m" ? Int(name.dropFirst()) : nil }

    /// The group with this id in a record's name, or of this name.
    func index(id: some StringProtocol) -> Int? {
        UInt32(id).flatMap { $0 >= 7 && $0 < 7 + UInt32(groupNames.count) ? Int($0) - 7 : nil }
    }
    func index(name: String) -> Int? { groupNames.firstIndex(of: name) }

    func inventory(_ scenario: Scenario, without revoked: Set<Int>) -> Inventory {
        let removed = revoked.union(absent)
        let clients = (0..<scenario.members).filter { !removed.contains($0) }.map { number in
            ClientEntry(
                name: "m\(number)", address: MemberStation(number: number, clock: .exact).address,
                preSharedKey: Self.preSharedKey(number), suites: [Self.suite])
        }
        let groups = groups.enumerated().map { index, group in
            var entry = GroupEntry(
                name: "g\(index)", id: Self.groupID(index), control: policies[index].control,
                flows: policies[index].flows,
                suite: group.suite,
                members: group.roles.filter { !removed.contains($0.key) }.sorted { $0.key < $1.key }
                    .map { ("m\($0.key)", $0.value) })
            entry.rollover = group.rollover
            entry.push = group.push
            entry.dataLifetime = group.dataLifetime
            entry.kekLifetime = group.kekLifetime
            entry.revocation = group.revocation
            entry.backwardSecrecy = group.backwardSecrecy
            return entry
        }
        let vpns = Self.vpns(scenario).filter { vpn in
            vpn.ends.compactMap(Self.member).allSatisfy { !removed.contains($0) }
        }
        return Inventory(clients: clients, groups: groups, vpns: vpns)
    }

    static func vpns(_ scenario: Scenario) -> [VPNEntry] {
        scenario.vpns.enumerated().map { index, vpn in
            func site(_ number: Int) -> IPPrefix {
                let octet = UInt8(truncatingIfNeeded: index * 16 + number)
                return IPPrefix(address: .v4(172, 16, octet, 0), length: 24) ?? .allV4
            }
            var entry = VPNEntry(
                name: "v\(index)", id: 1_001 + UInt32(index), ends: vpn.ends.map { "m\($0)" },
                flows: (0..<vpn.flows).map { TrafficSelector(source: site(2 * $0), destination: site(2 * $0 + 1)) },
                suite: vpn.suite)
            entry.extendedSequence = vpn.extendedSequence
            entry.lifetime = vpn.lifetime
            entry.keepOld = vpn.keepOld
            return entry
        }
    }
}

extension DriftingClock {
    static let exact = DriftingClock(offset: 0, millionths: 0)
}
