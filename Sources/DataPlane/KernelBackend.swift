// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import CLinux
internal import Cryptography
public import ESP
public import EventLoop
internal import Glibc

/// Has the kernel carry packets: its ESP, its multicast router, and as much of a packet filter as those two need beside
/// them. This process gives it SAs and policies and reads what it counted.
///
///     xfrm   LAN --- multicast router --- xfrm interface --- policy, SA --- satellite
///     pfkey  LAN --- multicast router --- satellite interface, policy, SA
///
/// IPv4. Nothing of it goes by itself when this process is killed, except memberships and multicast routes, without
/// which no multicast passes; the next start removes the rest. Until then every SA ends at its time.
public final class KernelBackend: SABackend {
    /// How the kernel is spoken to.
    public enum Interface: String, Sendable, Hashable {
        /// Netlink, with an interface of our own.
        case xfrm
        /// PF_KEYv2 (RFC 2367): no AES-GCM, replay windows of at most 32 packets, policies on all interfaces.
        case pfkey
    }

    /// The kernel says that an outbound or inbound SA has reached a limit, or (soft) nears it.
    public var onExpiry: ((_ key: SAKey, _ isHard: Bool) -> Void)?

    private let interface: Interface
    private let configuration: DataPlaneConfiguration
    private let facts: StartChecks
    private let satelliteAddress: IPAddress
    /// Of the tunnel, in octets.
    private let mtu: Int
    private let fragmentationFailuresAtStart: UInt64
    private let statisticsAtStart: [String: UInt64]
    private let loop: EventLoop
    private let database: any KernelDatabase
    private let filter: KernelFilter
    private let routes: InterfaceRoutes
    private let memberships = MulticastMemberships()
    private var tunnel: XFRMInterface?
    private var router: MulticastRouter?
    private var isStopped = false
    /// Of xfrm; PF_KEY's policies stand on all interfaces, and decide by themselves.
    private var unicastRoutes: UnicastRoutes?
    private var shared: UDPSocket?
    private var keepalives: Keepalives?

    private var associations: [SAKey: Association] = [:]
    private var flows: [Flow] = []
    private var uses = GroupUses()
    private var nextRequest: UInt32
    /// What SAs did that are gone.
    private var former = SACounters()

    /// One SA in the kernel.
    private struct Association {
        var inKernel: KernelAssociation
        var inbound: SAParameters?
        var outbound: SAParameters?
        /// What it had done when the kernel took it away.
        var lastUsage: KernelUsage?
    }

    /// What one policy is for: a selector and a direction, with the SAs that serve it.
    private struct Flow {
        var selector: TrafficSelector
        /// What may really go: of a group's SA what is for that group, however wide its selector is.
        var exact: TrafficSelector
        /// As the policy has it.
        var matched: TrafficSelector
        var outer: IPAddress
        var isOutbound: Bool
        var request: UInt32
        var rank: UInt32
        var members: Set<SAKey> = []
        var active: SAKey?
    }

    /// Checks the system, removes what a killed predecessor left, and becomes the multicast router. Nothing passes
    /// before the first SA. Needs CAP_NET_ADMIN and CAP_NET_RAW, and the program nft.
    public init(
        _ interface: Interface, configuration: DataPlaneConfiguration, loop: EventLoop
    ) throws(DataPlaneError) {
        self.interface = interface
        self.configuration = configuration
        self.loop = loop
        facts = try StartChecks(configuration)
        guard let address = facts.satelliteAddresses.first(where: \.isV4) else {
            throw .system(
                SystemError("find an IPv4 address of", errno: EADDRNOTAVAIL, context: configuration.satelliteInterface))
        }
        satelliteAddress = address
        // One for all suites that it may be given: the kernel's interface keeps its own.
        mtu =
            configuration.mtu
            ?? DataPlaneConfiguration.tunnelMTU(linkMTU: facts.linkMTU, suites: ESPSuite.allCases, overV4: true)
        if interface == .pfkey, configuration.requiresGuard,
            !FailClosedGuard.admitsOpened(interface: configuration.satelliteInterface)
        {
            throw .unguarded(
                interface: configuration.satelliteInterface,
                reason: "its rules are those of another data-plane and keep out what the kernel has opened")
        }
        fragmentationFailuresAtStart = SystemSettings.fragmentationFailures()
        statisticsAtStart = SystemSettings.ipsecStatistics()
        let satellite = configuration.satelliteInterface
        let name: String
        switch interface {
        case .xfrm:
            name = configuration.tunnelInterface
            filter = KernelFilter(origin: .tunnel(name))
            nextRequest = 1
        case .pfkey:
            name = satellite
            filter = KernelFilter(origin: .satellite(satellite))
            nextRequest = PFKeyDatabase.requests.lowerBound
        }
        routes = InterfaceRoutes(name: name)
        do throws(SystemError) {
            switch interface {
            case .xfrm: database = try XFRMDatabase(loop: loop)
            case .pfkey: database = try PFKeyDatabase(loop: loop)
            }
        } catch {
            throw .noKernel(interface.rawValue, error)
        }
        do throws(SystemError) {
            // Whoever is the multicast router now is alive, and what it put into the kernel is in use.
            let family = AddressFamily.v4.number
            _ = clinux_mroute_close(
                try SystemError.check(MulticastRouter.startOperation, clinux_mroute_open(family)), family)
            try database.removeLeftOvers()
            try XFRMInterface.removeLeftOvers(interfaceID: XFRMDatabase.interfaceID)
            if interface == .xfrm {
                tunnel = try XFRMInterface(
                    name: name, satellite: facts.satelliteIndex, interfaceID: XFRMDatabase.interfaceID, mtu: mtu)
            }
        } catch {
            let isTaken = error.errno == EADDRINUSE && error.operation == MulticastRouter.startOperation
            throw isTaken ? .multicastRouterRunning : .system(error)
        }
        // The filter before the routes that need it.
        try filter.load([], outgoing: [])
        try DataPlaneError.wrap { () throws(SystemError) in
            router = try MulticastRouter(
                family: .v4, loop: loop, terrestrial: configuration.terrestrialInterface, tunnel: name,
                terrestrialNetwork: facts.terrestrialNetworks.first { $0.address.isV4 },
                sourcesPerGroup: configuration.sourcesPerGroup)
            for network in configuration.remoteNetworks { try routes.add(network) }
            if interface == .xfrm {
                unicastRoutes = try UnicastRoutes(
                    interface: Interfaces.index(of: name), facts: facts, policy: [],
                    keyExchangePorts: configuration.keyExchangePorts, closes: false)
            }
        }
        database.onExpiry = { [unowned self] key, isHard, done in expired(key, isHard, done) }
    }

    deinit { stop() }

    // MARK: Changes

    /// Throws `DataPlaneError` for what the kernel refuses, and for what it cannot do.
    public func apply(_ change: SAChange) throws {
        guard !isStopped else { throw DataPlaneError.stopped }
        switch change {
        case .addInbound(let parameters):
            try check(parameters)
            try add(parameters, .inbound)
        case .addOutbound(let parameters):
            try check(parameters)
            try add(parameters, .outbound)
        case .activateOutbound(let key): try activate(key)
        case .removeInbound(let key): try remove(key, .inbound)
        case .removeOutbound(let key): try remove(key, .outbound)
        case .removeAll: try removeAll()
        }
        keepalives?.look()
    }

    /// The kernel itself takes ESP out of what comes to it. PF_KEY makes no use of it.
    public func share(_ socket: UDPSocket) throws {
        guard interface == .xfrm, socket.family == .v4 else { return }
        try DataPlaneError.wrap { () throws(SystemError) in try socket.shareWithKernel() }
        shared = socket
        keepalives = Keepalives(
            socket, loop: loop, interval: configuration.keepaliveInterval, fallback: [satelliteAddress]
        ) { [unowned self] in snapshot() }
    }

    private func check(_ parameters: SAParameters) throws(DataPlaneError) {
        let outer = parameters.key.destination
        let inner = parameters.selector.destination.address
        guard parameters.key.spi != 0 else { throw .unsupportedAssociation("SPI 0 is reserved") }
        guard outer.isV4, inner.isV4 else {
            throw .unsupportedAssociation("the kernel back ends carry IPv4 only, not \(parameters.selector)")
        }
        guard !outer.isUnspecified, !outer.isLinkLocalMulticast else {
            throw .unsupportedAssociation("no router forwards \(parameters.selector) to \(outer)")
        }
        guard outer.isMulticast || !inner.isMulticast else {
            throw .unsupportedAssociation("\(parameters.selector) are multicasts, but \(outer) is no group")
        }
        // The kernel keeps one replay window for an SA, and makes its vectors without a sender id (RFC 6054): of two
        // senders one would be taken for a replay of the other, and with AES-GCM their vectors could meet.
        guard !outer.isMulticast || parameters.hasOneSender else {
            throw .unsupportedAssociation(
                "group \(parameters.name) has several senders, which the kernel cannot tell apart;"
                    + " set data-plane: userspace")
        }
        guard parameters.suite.cipherKeySize == parameters.cipherKey.count,
            parameters.suite.authenticationKeySize == parameters.authenticationKey?.count ?? 0
        else { throw .unsupportedAssociation("a key of group \(parameters.name) has not the size of its suite") }
        guard !outer.isMulticast || !parameters.extendedSequence, !outer.isMulticast || parameters.encapsulation == nil
        else { throw .unsupportedAssociation("\(parameters.selector) has what is for unicast SAs alone") }
        try database.check(parameters)
        if let encapsulation = parameters.encapsulation, encapsulation.localPort != shared?.port {
            throw .unsupportedAssociation(
                "there is no socket on port \(encapsulation.localPort) for ESP in UDP with \(encapsulation.remote)")
        }
    }

    private func add(_ parameters: SAParameters, _ direction: GroupUses.Direction) throws(DataPlaneError) {
        let key = parameters.key
        let isOutbound = direction == .outbound
        let request = flow(for: parameters, isOutbound: isOutbound)?.request ?? makeRequest(for: parameters)
        var association =
            associations[key]
            ?? Association(
                inKernel: KernelAssociation(parameters: parameters, source: .anyV4, request: request))
        let old = associations[key]?.inKernel
        if isOutbound { association.outbound = parameters } else { association.inbound = parameters }
        var wanted = KernelAssociation(
            parameters: association.outbound ?? parameters,
            source: association.outbound == nil ? .anyV4 : source(parameters),
            request: association.inKernel.request)
        if !wanted.isSame(as: association.inKernel) || flow(of: key, isOutbound)?.selector != parameters.selector {
            wanted.request = request
        }
        try DataPlaneError.wrap { () throws(SystemError) in
            // The policy comes before the SA, and says that nothing leaves yet.
            try enlist(key, parameters, isOutbound: isOutbound, request: wanted.request)
            if let old, old.isSame(as: wanted) {
                // Its time runs from its beginning. One that has expired does not come to life again.
                wanted.parameters.lifetime = old.parameters.lifetime
                if old.parameters.octetLimit != wanted.parameters.octetLimit, association.lastUsage == nil {
                    try database.update(wanted)
                }
            } else {
                if let old {
                    retire(old)
                    try database.remove(old)
                }
                association.lastUsage = nil
                try database.add(wanted)
            }
        }
        association.inKernel = wanted
        associations[key] = association
        try loadFilter()
        try settle(uses.insert(parameters, direction))
        if isOutbound, !key.destination.isMulticast {
            try DataPlaneError.wrap { () throws(SystemError) in try unicastRoutes?.insert(parameters) }
        }
    }

    private func activate(_ key: SAKey) throws(DataPlaneError) {
        guard associations[key]?.outbound != nil,
            let index = flows.firstIndex(where: { $0.isOutbound && $0.members.contains(key) })
        else { throw .unsupportedAssociation("there is no SA \(spiText(key.spi)) to send with") }
        guard flows[index].active != key else { return }
        flows[index].active = key
        try setPolicies(flows[index])
    }

    private func remove(_ key: SAKey, _ direction: GroupUses.Direction) throws(DataPlaneError) {
        let use = uses.remove(key, direction)
        guard var association = associations[key] else { return }
        if direction == .outbound { association.outbound = nil } else { association.inbound = nil }
        var failure: DataPlaneError?
        func attempt(_ body: () throws(DataPlaneError) -> Void) {
            do throws(DataPlaneError) { try body() } catch { failure = failure ?? error }
        }
        // The key first: should anything else fail, what needed it is dropped.
        if association.outbound == nil, association.inbound == nil {
            retire(association.inKernel)
            associations[key] = nil
            attempt { () throws(DataPlaneError) in
                try DataPlaneError.wrap { () throws(SystemError) in try database.remove(association.inKernel) }
            }
        } else {
            associations[key] = association
        }
        // A route goes before the policy that guards it.
        attempt { () throws(DataPlaneError) in try settle(use) }
        if direction == .outbound {
            attempt { () throws(DataPlaneError) in
                try DataPlaneError.wrap { () throws(SystemError) in try unicastRoutes?.remove(key) }
            }
        }
        attempt { () throws(DataPlaneError) in try dismiss(key, isOutbound: direction == .outbound) }
        attempt { () throws(DataPlaneError) in try loadFilter() }
        if let failure { throw failure }
    }

    private func removeAll() throws(DataPlaneError) {
        var failure: DataPlaneError?
        for key in associations.keys {
            for direction in [GroupUses.Direction.inbound, .outbound] {
                do throws(DataPlaneError) { try remove(key, direction) } catch { failure = failure ?? error }
            }
        }
        if let failure { throw failure }
    }

    public func stop() {
        guard !isStopped else { return }
        router?.close()
        router = nil
        memberships.leaveAll()
        try? removeAll()
        for network in configuration.remoteNetworks { routes.remove(network) }
        isStopped = true
        keepalives = nil
        unicastRoutes?.removeAll()
        database.onExpiry = nil
        try? database.removeLeftOvers()
        tunnel?.remove()
        tunnel = nil
        KernelFilter.remove()
    }

    // MARK: Flows and policies

    private func source(_ parameters: SAParameters) -> IPAddress { parameters.source ?? satelliteAddress }

    private func flow(for parameters: SAParameters, isOutbound: Bool) -> Flow? {
        flows.first {
            $0.isOutbound == isOutbound && $0.selector == parameters.selector && $0.outer == parameters.key.destination
        }
    }

    private func flow(of key: SAKey, _ isOutbound: Bool) -> Flow? {
        flows.first { $0.isOutbound == isOutbound && $0.members.contains(key) }
    }

    /// The number of the same flow in the other direction, or a new one.
    private func makeRequest(for parameters: SAParameters) -> UInt32 {
        if let other = flows.first(where: {
            $0.selector == parameters.selector && $0.outer == parameters.key.destination
        }) {
            return other.request
        }
        defer { nextRequest = interface == .pfkey ? PFKeyDatabase.request(after: nextRequest) : nextRequest &+ 1 }
        return nextRequest
    }

    /// Makes the SA one of those that serve its flow; the flow's policies stand before it comes.
    private func enlist(
        _ key: SAKey, _ parameters: SAParameters, isOutbound: Bool, request: UInt32
    ) throws(SystemError) {
        if let index = flows.firstIndex(where: { $0.isOutbound == isOutbound && $0.members.contains(key) }) {
            if flows[index].selector == parameters.selector { return }
            try? dismiss(key, isOutbound: isOutbound)
        }
        if let index = flows.firstIndex(where: {
            $0.isOutbound == isOutbound && $0.selector == parameters.selector && $0.outer == key.destination
        }) {
            flows[index].members.insert(key)
            return
        }
        var exact = parameters.selector
        if key.destination.isMulticast { exact.destination = IPPrefix(host: key.destination) }
        var matched = exact
        if interface == .pfkey, isOutbound, key.destination.isMulticast {
            // The multicast router asks the policies for a packet of its own making, with our address and protocol 4,
            // not for the one that it forwards: the packet filter looks at that one.
            matched = TrafficSelector(source: .allV4, destination: exact.destination)
        }
        let flow = Flow(
            selector: parameters.selector, exact: exact, matched: matched, outer: key.destination,
            isOutbound: isOutbound,
            request: request, rank: nextRank, members: [key])
        try apply(flow)
        flows.append(flow)
    }

    /// The first that came decides.
    private var nextRank: UInt32 { (flows.map(\.rank).max() ?? 0) + 1 }

    private func setPolicies(_ flow: Flow) throws(DataPlaneError) {
        try DataPlaneError.wrap { () throws(SystemError) in try apply(flow) }
    }

    private func apply(_ flow: Flow) throws(SystemError) {
        for policy in policies(of: flow) { try database.set(policy) }
    }

    private func policies(of flow: Flow) -> [KernelPolicy] {
        func policy(_ direction: KernelPolicy.Direction) -> KernelPolicy {
            KernelPolicy(
                direction: direction, selector: flow.matched, rank: flow.rank, request: flow.request,
                source: flow.isOutbound ? flow.active.flatMap { associations[$0]?.inKernel.source } ?? .anyV4 : .anyV4,
                destination: flow.outer, active: flow.active?.spi)
        }
        // What is opened is for us or for the LAN.
        return flow.isOutbound ? [policy(.out)] : [policy(.into), policy(.forward)]
    }

    private func dismiss(_ key: SAKey, isOutbound: Bool) throws(DataPlaneError) {
        guard let index = flows.firstIndex(where: { $0.isOutbound == isOutbound && $0.members.contains(key) }) else {
            return
        }
        flows[index].members.remove(key)
        if flows[index].active == key {
            flows[index].active = nil
            if !flows[index].members.isEmpty { try setPolicies(flows[index]) }
        }
        guard flows[index].members.isEmpty else { return }
        let flow = flows.remove(at: index)
        try DataPlaneError.wrap { () throws(SystemError) in
            for policy in policies(of: flow) { try database.remove(policy) }
        }
    }

    private var loaded = ""

    /// Makes the filter let pass what the flows are for.
    private func loadFilter() throws(DataPlaneError) {
        let permissions = flows.filter { !$0.isOutbound }
            .map { KernelFilter.Permission(request: $0.request, selector: $0.exact) }
        let outgoing = flows.filter { $0.isOutbound && $0.outer.isMulticast }.map(\.exact)
        let rules = filter.ruleset(permissions, outgoing: outgoing)
        guard rules != loaded else { return }
        try filter.load(permissions, outgoing: outgoing)
        loaded = rules
    }

    // MARK: Routes

    /// Makes the system agree with what a group or network is used for now.
    private func settle(_ use: GroupUses.Use?) throws(DataPlaneError) {
        guard let use else { return }
        try DataPlaneError.wrap { () throws(SystemError) in try route(use) }
    }

    private func route(_ use: GroupUses.Use) throws(SystemError) {
        let group = use.destination.address
        guard group.isV4, group.isMulticast else {
            // A network behind another client; our own, of an inbound SA, has its route already, and so has the peer.
            guard interface == .pfkey, use.destination != IPPrefix(host: use.outer) else { return }
            if use.isSent {
                try routes.add(use.destination)
            } else if !configuration.remoteNetworks.contains(use.destination) {
                routes.remove(use.destination)
            }
            return
        }
        // Who is a group's only sender receives nothing from anybody.
        let isReceived = use.isReceived && !use.isSent
        try router?.set(group, isSent: use.isSent, isReceived: isReceived)
        if isReceived {
            try memberships.join(use.outer, interface: configuration.satelliteInterface)
        } else if use.isSent || !uses.isReceived(outer: use.outer) {
            memberships.leave(use.outer, interface: configuration.satelliteInterface)
        }
    }

    // MARK: Counters

    private func expired(_ key: SAKey, _ isHard: Bool, _ done: KernelUsage) {
        guard associations[key] != nil else { return }
        if isHard { associations[key]?.lastUsage = done }
        onExpiry?(key, isHard)
    }

    private func usage(of association: Association) -> KernelUsage {
        association.lastUsage ?? database.usage(of: association.inKernel) ?? KernelUsage()
    }

    private func retire(_ association: KernelAssociation) {
        let done = associations[association.parameters.key]?.lastUsage ?? database.usage(of: association)
        guard let done else { return }
        former.drops.merge(done.drops) { $0 &+ $1 }
        if association.source.isUnspecified { receivedBefore &+= done.packets } else { sentBefore &+= done.packets }
    }
    private var sentBefore: UInt64 = 0
    private var receivedBefore: UInt64 = 0
}

extension KernelBackend {
    public func snapshot() -> [SAStatus] {
        let active = Set(flows.compactMap(\.active))
        return associations.values.flatMap { association -> [SAStatus] in
            let done = usage(of: association)
            let counters = SACounters(done, isExpired: association.lastUsage != nil, now: loop.now)
            func status(_ parameters: SAParameters?, _ direction: SAStatus.Direction) -> SAStatus? {
                guard let parameters else { return nil }
                return SAStatus(
                    parameters, direction: direction,
                    isActive: direction == .inbound || active.contains(parameters.key),
                    senders: direction == .outbound || counters.packets > 0 ? 1 : 0,
                    counters: direction == .inbound && association.outbound != nil ? SACounters() : counters)
            }
            return [status(association.inbound, .inbound), status(association.outbound, .outbound)].compactMap { $0 }
        }.sorted {
            ($0.name, $0.direction.rawValue, $0.key.destination, $0.key.spi)
                < ($1.name, $1.direction.rawValue, $1.key.destination, $1.key.spi)
        }
    }

    public func status() -> DataPlaneStatus {
        var status = DataPlaneStatus(backend: interface.rawValue)
        status.satelliteInterface = configuration.satelliteInterface
        status.terrestrialInterface = configuration.terrestrialInterface
        status.tunnelInterface = tunnel?.name ?? ""
        status.satelliteAddresses = [satelliteAddress]
        status.mtu = mtu
        status.warnings = facts.warnings
        // Asked anew each time: rules that stood at the start may have been flushed since.
        let problem = FailClosedGuard.problem(interface: configuration.satelliteInterface)
        status.isGuarded = problem == nil
        if let problem {
            status.warnings.append("packets in clear may pass \(configuration.satelliteInterface): \(problem)")
        }
        if !isStopped, !filter.stands {
            status.warnings.append("the rules of table \(KernelFilter.table) are gone; start the client again")
        }
        status.groups = uses.groups
        let failures = SystemSettings.fragmentationFailures()
        status.fragmentationFailures = failures - min(failures, fragmentationFailuresAtStart)
        status.drops = former.drops
        (status.packetsToSatellite, status.packetsFromSatellite) = (sentBefore, receivedBefore)
        for association in associations.values {
            let done = usage(of: association)
            status.drops.merge(done.drops) { $0 &+ $1 }
            if association.outbound == nil {
                status.packetsFromSatellite &+= done.packets
            } else {
                status.packetsToSatellite &+= done.packets
            }
        }
        // Of no SA of ours; the kernel counts these for the whole of its network namespace.
        let statistics = SystemSettings.ipsecStatistics()
        for (name, reason) in Self.reasons {
            let (now, before) = (statistics[name] ?? 0, statisticsAtStart[name] ?? 0)
            if now > before { status.drops[reason, default: 0] &+= now - before }
        }
        // The kernel has no queue of ours between these.
        status.packetsFromTunnel = status.packetsToSatellite
        status.packetsToTunnel = status.packetsFromSatellite
        return status
    }
}

extension KernelBackend {
    /// Drops that belong to no single SA, by the kernel's names.
    private static let reasons: [(String, PacketDrop)] = [
        ("XfrmInNoStates", .unknownSPI), ("XfrmInStateMismatch", .encapsulation), ("XfrmInHdrError", .malformed),
        ("XfrmInStateExpired", .expired),
        ("XfrmInTmplMismatch", .policyMismatch), ("XfrmInNoPols", .policyMismatch),
        ("XfrmInPolBlock", .policyMismatch), ("XfrmOutPolBlock", .noActiveSA), ("XfrmOutNoStates", .noActiveSA),
        ("XfrmOutStateExpired", .expired), ("XfrmOutStateSeqError", .sequenceExhausted),
    ]
}
