// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import ESP
internal import EventLoop

/// Routes the flows of unicast SAs into the tunnel, and nothing else, by rules that say what a selector says:
/// addresses, protocol and ports (Linux 4.17).
///
///     8480          what this host sends as ESP, or from a port of key exchange: the system's own routing
///     8500 ...      the client's own policy in its order: a bypass goes by the system's routing
///     8600          flows of SAs: table 84800, where each remote network has the tunnel for its route
///
/// So our own ESP to a peer never goes into the tunnel again, though the peer's address may be that of a flow; nor does
/// a strict reverse path filter on the satellite interface miss the way back to the peer there. A table of our own also
/// keeps the system's routing tables as they are. Rules outlive a process that is killed, other than a tunnel and the
/// routes into it: the table then says that the remote networks cannot be reached, until the next start removes all.
final class UnicastRoutes {
    private enum Priority {
        static let keyExchange: UInt32 = 8_480
        static let policy: UInt32 = 8_500
        /// Rules are no more than `Limits` allows a policy to have.
        static let policyEnd: UInt32 = 8_599
        static let flow: UInt32 = 8_600
    }

    private let rules: RoutingRules
    private let interface: UInt32
    private let outer: [IPAddress]
    private let addresses: [IPAddress]
    private let policy: [PolicyRule]
    private let keyExchangePorts: [UInt16]
    private let closes: Bool
    private var families: Set<AddressFamily> = []
    private var users: [TrafficSelector: Set<SAKey>] = [:]
    private var selectors: [SAKey: TrafficSelector] = [:]

    /// Removes what a killed predecessor left: to be made only when it is certain that there is none alive.
    ///
    /// - Parameters:
    ///   - interface: the tunnel's index.
    ///   - facts: our own addresses, towards satellite and LAN: what this host sends of a flow comes from one of these.
    ///   - closes: whether flows stay closed when the interface has vanished with its process.
    init(
        interface: UInt32, facts: StartChecks, policy: [PolicyRule], keyExchangePorts: [UInt16], closes: Bool
    ) throws(SystemError) {
        rules = try RoutingRules()
        self.interface = interface
        outer = facts.satelliteAddresses
        addresses = facts.satelliteAddresses + facts.terrestrialAddresses
        self.policy = policy.contains { $0.action == .bypass } ? policy : []
        self.keyExchangePorts = keyExchangePorts
        self.closes = closes
        rules.removeLeftOvers()
    }

    /// Routes the flow of an outbound SA; of several with one flow the first does.
    func insert(_ parameters: SAParameters) throws(SystemError) {
        let selector = parameters.selector
        if let former = selectors[parameters.key], former != selector { try remove(parameters.key) }
        selectors[parameters.key] = selector
        guard users[selector, default: []].insert(parameters.key).inserted, users[selector]?.count == 1 else { return }
        try prepare(AddressFamily(selector.destination.address))
        try rules.add(route(of: selector))
        for rule in Self.rules(for: selector, Priority.flow, .table(RoutingRules.table), own: addresses) {
            try rules.add(rule)
        }
    }

    /// Takes it back with the last SA of its flow.
    func remove(_ key: SAKey) throws(SystemError) {
        guard let selector = selectors.removeValue(forKey: key) else { return }
        users[selector]?.remove(key)
        guard users[selector]?.isEmpty == true else { return }
        users[selector] = nil
        for rule in Self.rules(for: selector, Priority.flow, .table(RoutingRules.table), own: addresses) {
            try rules.remove(rule)
        }
        // Another flow may go to the same network.
        guard !users.keys.contains(where: { $0.destination == selector.destination }) else { return }
        try rules.remove(route(of: selector))
    }

    /// Removes everything.
    func removeAll() {
        (users, selectors, families) = ([:], [:], [])
        rules.removeLeftOvers()
    }

    /// What keeps the kernel from forwarding flows that are not this host's own.
    var warnings: [String] {
        [(AddressFamily.v4, "net.ipv4.ip_forward"), (.v6, "net.ipv6.conf.all.forwarding")].compactMap { family, name in
            let isNeeded = users.keys.contains { selector in
                AddressFamily(selector.destination.address) == family
                    && !(selector.source.isHost && addresses.contains(selector.source.address))
            }
            let path = String(name.map { $0 == "." ? "/" : $0 })
            guard isNeeded, SystemSettings.integer(path) == 0 else { return nil }
            return "\(name) is 0: packets of VPNs are not forwarded (multicast is)"
        }
    }

    private func route(of selector: TrafficSelector) -> RoutingRules.Route {
        .network(selector.destination, interface: interface, source: Self.own(of: selector, addresses))
    }

    /// What holds for all flows of a family, before the first of them.
    private func prepare(_ family: AddressFamily) throws(SystemError) {
        guard !families.contains(family) else { return }
        if closes { try rules.add(.unreachable(family)) }
        for rule in Self.common(family, keyExchangePorts, policy, outer: outer, own: addresses) { try rules.add(rule) }
        families.insert(family)
    }

    /// The rules before those of the flows.
    static func common(
        _ family: AddressFamily, _ ports: [UInt16], _ policy: [PolicyRule], outer: [IPAddress], own: [IPAddress]
    ) -> [RoutingRules.Rule] {
        var found: [RoutingRules.Rule] = []
        for (ipProtocol, port) in [(50, 0)] + Set(ports).sorted().map({ (17, $0) }) as [(UInt8, UInt16)] {
            // Without a source yet; and with ours: only for a rule that is not for this host's packets alone does the
            // kernel look at protocol and ports when it asks for the way back to a peer.
            for source in [nil] + outer.filter({ AddressFamily($0) == family }) {
                found.append(
                    RoutingRules.Rule(
                        family: family, priority: Priority.keyExchange, action: .table(RoutingRules.main),
                        source: source.map { IPPrefix(host: $0) }, ipProtocol: ipProtocol, sourcePort: port,
                        isLocal: source == nil))
            }
        }
        let own = own.filter { AddressFamily($0) == family }
        let policy = policy.filter { AddressFamily($0.selector.destination.address) == family }
        guard !policy.isEmpty else { return found }
        // Where those go that a rule keeps from a later bypass; it must be there before them.
        found.append(RoutingRules.Rule(family: family, priority: Priority.policyEnd, action: .nothing))
        for (index, one) in policy.enumerated() {
            let priority = min(Priority.policy + UInt32(clamping: index), Priority.policyEnd - 1)
            found += rules(
                for: one.selector, priority,
                one.action == .bypass ? .table(RoutingRules.main) : .goTo(Priority.policyEnd), own: own)
        }
        return found
    }

    /// The rules that say what a selector says.
    static func rules(
        for selector: TrafficSelector, _ priority: UInt32, _ action: RoutingRules.Rule.Action, own: [IPAddress]
    ) -> [RoutingRules.Rule] {
        let family = AddressFamily(selector.destination.address)
        let exact = RoutingRules.Rule(
            family: family, priority: priority, action: action,
            source: selector.source.length > 0 ? selector.source : nil,
            destination: selector.destination.length > 0 ? selector.destination : nil,
            ipProtocol: selector.ipProtocol, sourcePort: selector.sourcePort, destinationPort: selector.destinationPort)
        guard exact.source != nil, Self.own(of: selector, own) != nil else { return [exact] }
        // What this host sends may have no source yet when it is routed: the route gives it one. IPv6 has no rule for
        // that alone, so there it is what this host sends from anywhere.
        var unbound = exact
        unbound.isLocal = true
        unbound.source = family == .v4 ? IPPrefix(host: .anyV4) : nil
        return [exact, unbound]
    }

    /// Which of our addresses a flow is from, if any.
    private static func own(of selector: TrafficSelector, _ addresses: [IPAddress]) -> IPAddress? {
        addresses.first { selector.source.contains($0) }
    }
}
