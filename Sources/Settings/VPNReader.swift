// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import Cryptography
internal import KeyServer

/// The VPNs of gcks.yaml.
struct VPNReader {
    static let keys = [
        "name", "id", "ends", "flows", "suite", "legacy", "extended-sequence", "lifetime", "rollover",
    ]
    private static let flowKeys = ["source", "destination", "protocol", "source-port", "destination-port"]
    /// A change takes a few round trips, and comes at 80 % of this.
    private static let shortestLifetime: Duration = .seconds(60)

    private let top: MappingReader
    /// Names of clients, with the lines where they stand.
    private let clients: [String: Int]
    private var problems: Problems { top.problems }

    /// Those of groups are taken too: answers and commands name both alike.
    private var names: [String: Int]
    private var ids: [UInt32: Int]
    /// What each client sends, by client: by its groups and the VPNs so far.
    private var sent: [String: [(selector: TrafficSelector, line: Int)]] = [:]
    /// What each client's profile has to hold: a group or a flow of a VPN may need a message of its own.
    private var load: [String: Int] = [:]

    init(top: MappingReader, clients: [String: Int], groups: GroupReader, entries: [GroupEntry]) {
        self.top = top
        self.clients = clients
        (names, ids) = (groups.names, groups.ids)
        for group in entries {
            for member in group.members {
                load[member.client, default: 0] += 1
                sent[member.client, default: []] += group.flows.map { ($0, groups.line(of: $0)) }
            }
        }
    }

    /// Those that are whole; what is wrong goes to the problems.
    mutating func vpns() -> [VPNEntry] {
        var entries: [VPNEntry] = []
        for vpn in top.mappings("vpns", keys: Self.keys, label: "name") {
            if let entry = read(vpn) { entries.append(entry) }
        }
        return entries
    }

    private mutating func read(_ vpn: MappingReader) -> VPNEntry? {
        let name = vpn.required("name", .name)
        if let name { Self.claim(name, in: &names, vpn.place(of: "name"), "name", problems) }
        let id = vpn.required("id", Scalar<UInt32>.integer(1...UInt32.max))
        if let id { Self.claim(id, in: &ids, vpn.place(of: "id"), "id", problems) }
        let ends = readEnds(of: vpn)
        let flows = readFlows(of: vpn, ends: ends)
        let isLegacyAllowed = vpn.optional("legacy", .truth, default: false)
        let suite = vpn.optional("suite", .espSuite(isLegacyAllowed: isLegacyAllowed), default: .aes256gcm)
        guard let name, let id, let ends else { return nil }
        var entry = VPNEntry(name: name, id: id, ends: ends, flows: flows, suite: suite)
        entry.extendedSequence = vpn.optional("extended-sequence", .truth, default: true)
        if let lifetime = vpn.mapping("lifetime", keys: ["data", "volume"]) {
            entry.lifetime = lifetime.optional(
                "data", .duration(Self.shortestLifetime...(.seconds(365 * 86_400))), default: entry.lifetime)
            entry.volume = lifetime.optional("volume", .size((1 << 20)...(4_095 << 30)))
            GroupReader.check(volume: entry.volume, for: suite, at: lifetime.place(of: "volume"), problems)
        }
        if let rollover = vpn.mapping("rollover", keys: ["keep-old"]) {
            entry.keepOld = rollover.optional(
                "keep-old", .duration(.zero...(.seconds(3_600))), default: entry.keepOld)
        }
        return entry
    }

    private static func claim<Key: Hashable>(
        _ key: Key, in taken: inout [Key: Int], _ place: Place, _ noun: String, _ problems: Problems
    ) {
        if let line = taken[key] {
            problems.add(
                place, "\(key) is the \(noun) of another group or VPN already (line \(line))",
                instead: "give each group and each VPN its own \(noun)")
        } else {
            taken[key] = place.line
        }
    }

    // MARK: Ends

    /// Two different clients; nil when it is not that.
    private func readEnds(of vpn: MappingReader) -> [String]? {
        guard vpn.has("ends") else {
            vpn.reportMissing("ends")
            return nil
        }
        let place = vpn.place(of: "ends")
        let ends = vpn.values("ends", .name)
        var areKnown = true
        for (client, place) in ends where clients[client] == nil {
            let near = NearestName.find(client, among: clients.keys.sorted())
            problems.add(
                place, "no client is called \(client)",
                instead: near.map { "did you mean \($0)?" } ?? "add it to clients, or remove it here")
            areKnown = false
        }
        guard ends.count == 2 else {
            if areKnown {
                problems.add(
                    place, "names \(ends.count) client\(ends.count == 1 ? "" : "s")",
                    instead: "write the two ends, for example [hub, site1]")
            }
            return nil
        }
        guard ends[0].value != ends[1].value else {
            problems.add(ends[1].place, "\(ends[1].value) is the other end too", instead: "write two different clients")
            return nil
        }
        return areKnown ? ends.map(\.value) : nil
    }

    // MARK: Flows

    private mutating func readFlows(of vpn: MappingReader, ends: [String]?) -> [TrafficSelector] {
        guard vpn.has("flows") else {
            vpn.reportMissing("flows")
            return []
        }
        let place = vpn.place(of: "flows")
        if vpn.isEmptyList("flows") {
            problems.add(place, "is empty", instead: "list what the VPN protects")
        }
        var selectors: [TrafficSelector] = []
        let readers = vpn.mappings("flows", keys: Self.flowKeys, label: "name")
        for flow in readers {
            guard let selector = readFlow(flow) else { continue }
            selectors.append(selector)
            for (client, selector) in zip(ends ?? [], [selector, selector.mirrored]) {
                claim(selector, of: client, at: flow.place)
            }
        }
        let most = Limits().flowsPerVPN
        if readers.count > most {
            problems.add(
                place, "has \(readers.count) flows, more than \(most)",
                instead: "put the others into a second VPN between the same ends")
        }
        for client in ends ?? [] { count(selectors.count, of: client, at: place) }
        return selectors
    }

    private mutating func claim(_ selector: TrafficSelector, of client: String, at place: Place) {
        if let other = sent[client]?.first(where: { $0.selector.overlaps(selector) }) {
            problems.add(
                place, "overlaps what \(client) sends by the flow of line \(other.line) (\(other.selector))",
                instead: "make their addresses or ports differ, since one packet can have one SA only")
        }
        sent[client, default: []].append((selector, place.line))
    }

    private mutating func count(_ flows: Int, of client: String, at place: Place) {
        let limit = Limits().groupsPerProfile
        let before = load[client] ?? 0
        load[client] = before + flows
        guard before <= limit, before + flows > limit else { return }
        problems.add(
            place, "\(client) is in more than \(limit) groups and flows of VPNs", instead: "merge some of them")
    }

    private func readFlow(_ flow: MappingReader) -> TrafficSelector? {
        let source = readPrefix(flow, "source")
        let destination = readPrefix(flow, "destination")
        let ipProtocol = flow.optional("protocol", Scalar<UInt8>.ipProtocol, default: 0)
        let ports = flow.ports(for: ipProtocol)
        guard let source, let destination else { return nil }
        let isV4 = (source ?? destination)?.address.isV4 ?? true
        if let source, let destination, source.address.isV4 != destination.address.isV4 {
            problems.add(
                flow.place(of: "source"), "\(source) is not of the destination's address family",
                instead: "write an \(destination.address.isV4 ? "IPv4" : "IPv6") subnet, or any")
            return nil
        }
        let all: IPPrefix = isV4 ? .allV4 : .allV6
        return TrafficSelector(
            source: source ?? all, destination: destination ?? all, ipProtocol: ipProtocol,
            sourcePort: ports.source, destinationPort: ports.destination)
    }

    /// The inner value is nil for `any`.
    private func readPrefix(_ flow: MappingReader, _ key: String) -> IPPrefix?? {
        let prefix = flow.required(key, Scalar<IPPrefix?>.prefixOrAny)
        guard case .some(let some?) = prefix, some.address.isMulticast else { return prefix }
        problems.add(
            flow.place(of: key), "\(some) is multicast, and a VPN joins two clients",
            instead: "write a subnet or a host of a site, or make it a flow of a group")
        return nil
    }
}
