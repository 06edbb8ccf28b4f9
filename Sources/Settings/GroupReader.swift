// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import Cryptography
internal import KeyServer
internal import ReliablePush

/// The groups of gcks.yaml.
struct GroupReader {
    static let keys = [
        "name", "id", "control", "flows", "suite", "legacy", "members", "lifetime", "rollover", "push", "revocation",
        "backward-secrecy",
    ]
    private static let flowKeys = ["source", "destination", "protocol", "source-port", "destination-port"]
    private static let memberKeys = ["client", "role"]
    /// A lifetime is worth at least this many activation delays, or a group does nothing but roll over.
    private static let activationsPerLifetime = 10

    private let top: MappingReader
    /// Names of clients, with the lines where they stand.
    private let clients: [String: Int]
    /// The family of the GCKS and so of everything else; nil when it is not known.
    private let isV4: Bool?
    /// That of the GCKS; nil when it is not known.
    private let port: UInt16?
    private var problems: Problems { top.problems }

    /// With the lines where they stand.
    private(set) var names: [String: Int] = [:]
    private(set) var ids: [UInt32: Int] = [:]
    private var controls: [SocketAddress: Int] = [:]
    private var flows: [IPAddress: [(selector: TrafficSelector, place: Place)]] = [:]
    private var controlAddresses: [IPAddress: Place] = [:]
    private var groupsOfClient: [String: Int] = [:]

    init(top: MappingReader, clients: [String: Int], isV4: Bool?, port: UInt16?) {
        self.top = top
        self.clients = clients
        self.isV4 = isV4
        self.port = port
    }

    /// Those that are whole; what is wrong goes to the problems.
    mutating func groups() -> [GroupEntry] {
        var entries: [GroupEntry] = []
        for group in top.mappings("groups", keys: Self.keys, label: "name") {
            if let entry = read(group) { entries.append(entry) }
        }
        checkControlsAgainstFlows()
        return entries
    }

    private mutating func read(_ group: MappingReader) -> GroupEntry? {
        let name = group.required("name", .name)
        if let name { Self.claim(name, in: &names, group.place(of: "name"), "name", problems) }
        let id = group.required("id", Scalar<UInt32>.integer(1...UInt32.max))
        if let id { Self.claim(id, in: &ids, group.place(of: "id"), "id", problems) }
        let control = group.required("control", .multicastSocket)
        if let control {
            Self.claim(control, in: &controls, group.place(of: "control"), "control channel", problems)
            controlAddresses[control.address] = group.place(of: "control")
            checkFamily(of: control.address, at: group.place(of: "control"))
            if let port, control.port != port {
                problems.add(
                    group.place(of: "control"), "\(control) is not on the GCKS's port, and no client lets another in",
                    instead: "write \(SocketAddress(control.address, port))")
            }
        }
        let flows = readFlows(of: group)
        let isLegacyAllowed = group.optional("legacy", .truth, default: false)
        let suite = group.optional("suite", .espSuite(isLegacyAllowed: isLegacyAllowed), default: .aes256gcm)
        checkCount(of: flows, for: suite, of: group)
        let members = readMembers(of: group)
        checkSenders(members, for: suite, of: group)
        guard let name, let id, let control else { return nil }
        var entry = GroupEntry(name: name, id: id, control: control, flows: flows, suite: suite, members: members)
        readPolicies(of: group, into: &entry)
        return entry
    }

    private static func claim<Key: Hashable>(
        _ key: Key, in taken: inout [Key: Int], _ place: Place, _ noun: String, _ problems: Problems
    ) {
        if let line = taken[key] {
            problems.add(
                place, "\(key) is the \(noun) of another group already (line \(line))",
                instead: "give each group its own \(noun)")
        } else {
            taken[key] = place.line
        }
    }

    private func checkFamily(of address: IPAddress, at place: Place) {
        guard let isV4, address.isV4 != isV4 else { return }
        problems.add(
            place, "\(address) is not of the GCKS's address family",
            instead: "write an \(isV4 ? "IPv4" : "IPv6") address")
    }

    // MARK: Flows

    private mutating func readFlows(of group: MappingReader) -> [TrafficSelector] {
        guard group.has("flows") else {
            group.reportMissing("flows")
            return []
        }
        if group.isEmptyList("flows") {
            problems.add(group.place(of: "flows"), "is empty", instead: "list what the group protects")
        }
        var selectors: [TrafficSelector] = []
        for flow in group.mappings("flows", keys: Self.flowKeys, label: "name") {
            guard let selector = readFlow(flow) else { continue }
            if let other = flows[selector.destination.address]?.first(where: { $0.selector.overlaps(selector) }) {
                problems.add(
                    flow.place, "overlaps the flow of line \(other.place.line) (\(other.selector))",
                    instead: "make their sources or ports differ, since one packet can have one SA only")
            }
            flows[selector.destination.address, default: []].append((selector, flow.place(of: "destination")))
            selectors.append(selector)
        }
        return selectors
    }

    private func checkCount(of flows: [TrafficSelector], for suite: ESPSuite, of group: MappingReader) {
        let most = GroupEntry.mostFlows(with: suite)
        guard flows.count > most else { return }
        problems.add(
            group.place(of: "flows"),
            "has \(flows.count) flows, and one datagram carries the keys of \(most) (suite \(suite))",
            instead: "put the others into a second group with the same members")
    }

    private func readFlow(_ flow: MappingReader) -> TrafficSelector? {
        let source = flow.required("source", Scalar<IPPrefix?>.prefixOrAny)
        let destination = flow.required("destination", .multicast)
        if case .some(let prefix?) = source, let destination, prefix.address.isV4 != destination.isV4 {
            problems.add(
                flow.place(of: "source"), "\(prefix) is not of the destination's address family",
                instead: "write an \(destination.isV4 ? "IPv4" : "IPv6") subnet, or any")
        }
        if case .some(let prefix?) = source, prefix.address.isMulticast {
            problems.add(
                flow.place(of: "source"), "\(prefix) is multicast, which no packet comes from",
                instead: "write the subnet of the senders, or any")
        }
        let ipProtocol = flow.optional("protocol", Scalar<UInt8>.ipProtocol, default: 0)
        let ports = flow.ports(for: ipProtocol)
        guard let source, let destination else { return nil }
        return TrafficSelector(
            source: source ?? (destination.isV4 ? .allV4 : .allV6), destination: IPPrefix(host: destination),
            ipProtocol: ipProtocol, sourcePort: ports.source, destinationPort: ports.destination)
    }

    private func checkControlsAgainstFlows() {
        for (address, place) in controlAddresses {
            guard let flow = flows[address]?.first else { continue }
            problems.add(
                place, "\(address) is the destination of a flow too (line \(flow.place.line))",
                instead: "give the control channel an address of its own")
        }
    }

    // MARK: Members

    private mutating func readMembers(of group: MappingReader) -> [(client: String, role: MemberRole)] {
        guard group.has("members") else {
            group.reportMissing("members")
            return []
        }
        var members: [(client: String, role: MemberRole)] = []
        var lines: [String: Int] = [:]
        var areRolesKnown = true
        let readers = group.mappings("members", keys: Self.memberKeys, label: "client")
        for member in readers {
            let role = member.optional("role", Scalar<MemberRole>.word)
            if role == nil, member.has("role") { areRolesKnown = false }
            guard let client = member.required("client", .name) else { continue }
            let place = member.place(of: "client")
            guard clients[client] != nil else {
                let near = NearestName.find(client, among: clients.keys.sorted())
                problems.add(
                    place, "no client is called \(client)",
                    instead: near.map { "did you mean \($0)?" } ?? "add it to clients, or remove it here")
                continue
            }
            if let line = lines[client] {
                problems.add(place, "\(client) is a member already (line \(line))", instead: "keep one of the two")
                continue
            }
            lines[client] = place.line
            members.append((client, role ?? .receiver))
            countGroups(of: client, at: place)
        }
        checkMembers(members, isComplete: areRolesKnown && members.count == readers.count, of: group)
        return members
    }

    private mutating func countGroups(of client: String, at place: Place) {
        let limit = Limits().groupsPerProfile
        groupsOfClient[client, default: 0] += 1
        guard groupsOfClient[client] == limit + 1 else { return }
        problems.add(place, "\(client) is in more than \(limit) groups", instead: "merge some of its groups")
    }

    private func checkMembers(
        _ members: [(client: String, role: MemberRole)], isComplete: Bool, of group: MappingReader
    ) {
        let place = group.place(of: "members")
        let senders = members.count { $0.role.maySend }
        let limit = Limits().sendersPerAssociation
        if group.isEmptyList("members") {
            problems.add(place, "is empty", instead: "list the clients of the group")
        } else if senders == 0, isComplete {
            problems.add(place, "has no sender", instead: "give at least one member role: sender or both")
        } else if senders > limit {
            problems.add(place, "has \(senders) senders, more than \(limit)", instead: "split the group")
        }
    }

    private func checkSenders(
        _ members: [(client: String, role: MemberRole)], for suite: ESPSuite, of group: MappingReader
    ) {
        let senders = members.count { $0.role.maySend }
        guard senders > 1, !suite.namesSenders else { return }
        problems.add(
            group.place(of: "suite"), "\(suite) does not say who sent a packet, and the group has \(senders) senders",
            instead: "write another suite, or give the group one sender")
    }

    /// Where a flow stands.
    func line(of flow: TrafficSelector) -> Int {
        flows[flow.destination.address]?.first { $0.selector == flow }?.place.line ?? 0
    }

    static func check(volume: UInt64?, for suite: ESPSuite, at place: Place, _ problems: Problems) {
        guard let volume, let most = suite.octetLimit, volume > most else { return }
        problems.add(
            place, "is more than one key of \(suite) may protect",
            instead: "write \(Quantity.show(size: most)) or less, or another suite")
    }

    // MARK: Policies

    private func readPolicies(of group: MappingReader, into entry: inout GroupEntry) {
        let year = Duration.seconds(365 * 86_400)
        let lifetime = group.mapping("lifetime", keys: ["data", "kek", "volume"])
        if let lifetime {
            entry.dataLifetime = lifetime.optional("data", .duration(.seconds(1)...year), default: entry.dataLifetime)
            entry.kekLifetime = lifetime.optional("kek", .duration(.seconds(1)...year), default: entry.kekLifetime)
            entry.dataVolume = lifetime.optional("volume", .size((1 << 20)...(4_095 << 30)))
            Self.check(volume: entry.dataVolume, for: entry.suite, at: lifetime.place(of: "volume"), problems)
        }
        if let rollover = group.mapping("rollover", keys: ["activate-after", "keep-old", "commit-at"]) {
            entry.rollover.activateAfter = rollover.optional(
                "activate-after", .duration(.milliseconds(1)...(.seconds(600))), default: entry.rollover.activateAfter)
            entry.rollover.keepOld = rollover.optional(
                "keep-old", .duration(.zero...(.seconds(3_600))), default: entry.rollover.keepOld)
            entry.rollover.commitAtPercent = rollover.optional("commit-at", .percent)
        }
        if let push = group.mapping("push", keys: Self.pushKeys) { Self.readPush(push, into: &entry.push) }
        readRevocation(of: group, into: &entry)
        let least = entry.rollover.activateAfter * Self.activationsPerLifetime
        for (key, value) in [("data", entry.dataLifetime), ("kek", entry.kekLifetime)] where value < least {
            problems.add(
                lifetime?.place(of: key) ?? group.place(of: "rollover"),
                "\(Quantity.show(value)) for \(key) is under \(Self.activationsPerLifetime) times activate-after",
                instead: "write at least \(Quantity.show(least)), or a shorter activate-after")
        }
    }

    private func readRevocation(of group: MappingReader, into entry: inout GroupEntry) {
        let method = group.optional("revocation", Scalar<RevocationMethod>.word)
        entry.backwardSecrecy = group.optional("backward-secrecy", Scalar<Bool>.truth, default: false)
        // It is a word on the method as well: only the tree can do it.
        let standard = entry.backwardSecrecy ? .lkh : RevocationMethod.standard(members: entry.members.count)
        entry.revocation = method ?? standard
        if entry.backwardSecrecy, method == .flat {
            problems.add(
                group.place(of: "backward-secrecy"), "needs the key tree, and revocation is flat",
                instead: "write revocation: lkh, or remove it")
        }
    }

    private static let pushKeys = [
        "copies", "proactive", "adapt", "block-size", "spread", "feedback", "confirm-within", "repair-rounds",
        "control-rate", "return-rate", "round-trip", "unicast-below", "beacon-interval",
    ]

    private static func readPush(_ reader: MappingReader, into push: inout PushPolicy) {
        let rates: ClosedRange<UInt64> = 1_000...10_000_000_000
        push.copies = reader.optional("copies", Scalar<Int>.integer(1...10), default: push.copies)
        push.proactive = reader.optional("proactive", .overhead, default: push.proactive)
        push.adapts = reader.optional("adapt", .truth, default: push.adapts)
        push.blockSize = reader.optional("block-size", Scalar<Int>.integer(1...128), default: push.blockSize)
        push.feedback = reader.optional("feedback", .feedback, default: push.feedback)
        push.confirmWithin = reader.optional(
            "confirm-within", .duration(.seconds(1)...(.seconds(86_400))), default: push.confirmWithin)
        if reader.has("confirm-within"), push.feedback == .all {
            reader.problems.add(
                reader.place(of: "confirm-within"), "has no meaning where every member is asked",
                instead: "leave it out, or write feedback: none or census N")
        }
        push.spread = reader.optional("spread", .duration(.zero...(.seconds(60))), default: push.spread)
        push.repairRounds = reader.optional("repair-rounds", Scalar<Int>.integer(0...20), default: push.repairRounds)
        push.controlRate = reader.optional("control-rate", .rate(rates), default: push.controlRate)
        push.returnRate = reader.optional("return-rate", .rate(rates), default: push.returnRate)
        push.roundTrip = reader.optional("round-trip", .duration(.zero...(.seconds(60))), default: push.roundTrip)
        push.unicastBelow = reader.optional(
            "unicast-below", Scalar<Int>.integer(0...1_000_000), default: push.unicastBelow)
        push.beaconInterval = reader.optional(
            "beacon-interval", .duration(.seconds(1)...(.seconds(86_400))), default: push.beaconInterval)
    }
}
