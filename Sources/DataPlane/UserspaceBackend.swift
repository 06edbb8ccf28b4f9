// SPDX-License-Identifier: Apache-2.0

public import Basics
public import ESP
public import EventLoop
internal import Glibc

/// Carries packets in this process: a TUN interface towards the LAN, a raw ESP socket towards the satellite.
///
///     LAN --- kernel's multicast router --- tunnel === this process === ESP socket --- satellite
///
/// IPv4 and IPv6, on the event loop's thread. All it makes in the system goes with its descriptors, so that a crash
/// leaves nothing behind either, but the routing rules of unicast flows (`UnicastRoutes`), which keep those closed
/// until the next start; what keeps the satellite side closed otherwise is the guard.
public final class UserspaceBackend: SABackend {
    private let configuration: DataPlaneConfiguration
    private let facts: StartChecks
    /// Of the tunnel, now.
    private var mtu: TunnelMTU
    private let fragmentationFailuresAtStart: UInt64

    private let associations: SecurityAssociationDatabase
    private let memberships = MulticastMemberships()
    private var routers: [AddressFamily: MulticastRouter] = [:]
    private var tunnel: TunnelInterface?
    private var pump: PacketPump?
    /// Which SAs make a group sent or received, or a network routed into the tunnel.
    private var uses = GroupUses()
    private var unicastRoutes: UnicastRoutes?
    private var keepalives: Keepalives?
    private let loop: EventLoop

    /// Checks the system, then creates the tunnel, becomes the multicast router and opens the ESP socket. Nothing
    /// passes before the first SA. Needs CAP_NET_ADMIN and CAP_NET_RAW.
    ///
    /// - Parameter report: takes lines for the log, of packets that were dropped.
    public init(
        configuration: DataPlaneConfiguration, loop: EventLoop, limits: Limits = Limits(), random: any RandomSource,
        report: @escaping (LogEvent) -> Void = { _ in }
    ) throws(DataPlaneError) {
        self.configuration = configuration
        self.loop = loop
        let facts = try StartChecks(configuration)
        self.facts = facts
        mtu = facts.mtu
        fragmentationFailuresAtStart = SystemSettings.fragmentationFailures()
        associations = SecurityAssociationDatabase(
            localAddresses: facts.satelliteAddresses, linkMTU: facts.largestOuter, wholeMTU: facts.linkMTU,
            rules: configuration.rules,
            limits: limits, random: random)
        do throws(SystemError) {
            // Local names first: what was made is unmade when a later step fails.
            let tunnel = try TunnelInterface(
                name: configuration.tunnelInterface, mtu: facts.mtu, takesRuns: configuration.path == .automatic)
            var routers: [AddressFamily: MulticastRouter] = [:]
            for family in facts.multicastFamilies {
                routers[family] = try MulticastRouter(
                    family: family, loop: loop, terrestrial: configuration.terrestrialInterface, tunnel: tunnel.name,
                    terrestrialNetwork: facts.terrestrialNetworks.first { AddressFamily($0.address) == family },
                    sourcesPerGroup: configuration.sourcesPerGroup)
            }
            for network in configuration.remoteNetworks { try tunnel.addRoute(network) }
            // Who is the multicast router has no living predecessor.
            unicastRoutes = try UnicastRoutes(
                interface: Interfaces.index(of: tunnel.name), facts: facts, policy: configuration.rules,
                keyExchangePorts: configuration.keyExchangePorts, closes: true)
            pump = try PacketPump(
                loop: loop, configuration: configuration, facts: facts, tunnel: tunnel, routers: routers,
                associations: associations, report: report)
            self.tunnel = tunnel
            self.routers = routers
        } catch {
            let isTaken = error.errno == EADDRINUSE && error.operation == MulticastRouter.startOperation
            throw isTaken ? .multicastRouterRunning : .system(error)
        }
    }

    /// Throws `DataPlaneError` for what the system refuses, or what the SA database does not take.
    public func apply(_ change: SAChange) throws {
        guard pump != nil else { throw DataPlaneError.stopped }
        switch change {
        case .addInbound(let parameters), .addOutbound(let parameters): try check(parameters)
        default: break
        }
        // Keys before routes: when something comes, a packet never meets a route without the SA that decides about it;
        // when something goes, its key is gone even if the system refuses to take the route back, and a packet that
        // still takes it is dropped.
        switch change {
        case .addInbound(let parameters):
            try associations.apply(change)
            // Our own network, behind a unicast SA, has its route already.
            if parameters.key.destination.isMulticast { try settle(uses.insert(parameters, .inbound)) }
        case .addOutbound(let parameters):
            try associations.apply(change)
            mtu.insert(parameters)
            try settleMTU()
            if parameters.key.destination.isMulticast {
                try settle(uses.insert(parameters, .outbound))
            } else {
                try DataPlaneError.wrap { () throws(SystemError) in try unicastRoutes?.insert(parameters) }
            }
        case .activateOutbound: try associations.apply(change)
        case .removeInbound(let key):
            let gone = uses.remove(key, .inbound)
            try associations.apply(change)
            try settle(gone)
        case .removeOutbound(let key):
            let gone = uses.remove(key, .outbound)
            mtu.remove(key)
            try associations.apply(change)
            try settleMTU()
            try settle(gone)
            try DataPlaneError.wrap { () throws(SystemError) in try unicastRoutes?.remove(key) }
        case .removeAll:
            let gone = uses.removeAll()
            mtu.removeAll()
            try associations.apply(change)
            unicastRoutes?.removeAll()
            for use in gone { try settle(use) }
        }
        keepalives?.look()
    }

    public func share(_ socket: UDPSocket) throws {
        guard let pump else { throw DataPlaneError.stopped }
        try DataPlaneError.wrap { () throws(SystemError) in try pump.share(socket) }
        keepalives = Keepalives(
            socket, loop: loop, interval: configuration.keepaliveInterval, fallback: facts.satelliteAddresses
        ) { [unowned self] in associations.snapshot() }
    }

    public func stop() {
        try? associations.apply(.removeAll)
        _ = uses.removeAll()
        keepalives = nil
        unicastRoutes?.removeAll()
        unicastRoutes = nil
        pump?.stop()
        pump = nil
        for router in routers.values { router.close() }
        routers = [:]
        tunnel = nil
        memberships.leaveAll()
    }

    /// Makes the tunnel's MTU that of the SAs we send with.
    private func settleMTU() throws(DataPlaneError) {
        guard (mtu.device, mtu.v6) != (tunnel?.mtu.device, tunnel?.mtu.v6) else { return }
        try DataPlaneError.wrap { () throws(SystemError) in try tunnel?.setMTU(mtu) }
    }

    /// Makes the system agree with what a group or network is used for now.
    private func settle(_ use: GroupUses.Use?) throws(DataPlaneError) {
        guard let use else { return }
        try DataPlaneError.wrap { () throws(SystemError) in try route(use) }
    }

    private func route(_ use: GroupUses.Use) throws(SystemError) {
        let group = use.destination.address
        try routers[AddressFamily(group)]?.set(group, isSent: use.isSent, isReceived: use.isReceived)
        if use.isReceived {
            try memberships.join(use.outer, interface: configuration.satelliteInterface)
            pump?.joined.insert(use.outer)
        } else if !uses.isReceived(outer: use.outer) {
            memberships.leave(use.outer, interface: configuration.satelliteInterface)
            pump?.joined.remove(use.outer)
        }
    }

    private func check(_ parameters: SAParameters) throws(DataPlaneError) {
        let outer = parameters.key.destination
        let inner = parameters.selector.destination
        guard facts.satelliteAddresses.contains(where: { $0.isV4 == outer.isV4 }) else {
            let family = outer.isV4 ? "IPv4" : "IPv6"
            throw .unsupportedAssociation(
                "\(configuration.satelliteInterface) has no \(family) address to reach \(outer) from")
        }
        guard inner.address.isV4 || mtu.v6 != nil else {
            throw .unsupportedAssociation(
                "IPv6 is off on \(configuration.terrestrialInterface), so nothing carries \(parameters.selector)")
        }
        guard !outer.isMulticast || outer.isV4 == inner.address.isV4 else {
            throw .unsupportedAssociation("\(parameters.selector) are not of the address family of the group \(outer)")
        }
        guard !outer.isUnspecified, !outer.isLinkLocalMulticast else {
            throw .unsupportedAssociation("no router forwards \(parameters.selector) to \(outer)")
        }
        guard outer.isMulticast || !inner.address.isMulticast else {
            throw .unsupportedAssociation("\(parameters.selector) are multicasts, but \(outer) is no group")
        }
        if let encapsulation = parameters.encapsulation {
            try check(encapsulation, of: parameters, isForUs: facts.satelliteAddresses.contains(outer))
        }
    }

    private func check(
        _ encapsulation: UDPEncapsulation, of parameters: SAParameters, isForUs: Bool
    ) throws(DataPlaneError) {
        let outer = parameters.key.destination
        guard !outer.isMulticast else {
            throw .unsupportedAssociation("multicasts to \(outer) cannot travel in UDP between two addresses")
        }
        guard let shared = pump?.shared, shared.port == encapsulation.localPort,
            shared.family == AddressFamily(encapsulation.remote.address), shared.family == AddressFamily(outer)
        else {
            throw .unsupportedAssociation(
                "there is no socket on port \(encapsulation.localPort) for ESP in UDP with \(encapsulation.remote)")
        }
        guard isForUs || encapsulation.remote.address == outer else {
            throw .unsupportedAssociation("ESP for \(outer) in UDP does not go to \(encapsulation.remote)")
        }
    }
}

extension UserspaceBackend {
    public func snapshot() -> [SAStatus] { associations.snapshot() }

    public func status() -> DataPlaneStatus {
        var status = DataPlaneStatus(backend: "userspace")
        status.satelliteInterface = configuration.satelliteInterface
        status.terrestrialInterface = configuration.terrestrialInterface
        status.tunnelInterface = tunnel?.name ?? configuration.tunnelInterface
        status.satelliteAddresses = facts.satelliteAddresses
        status.mtu = mtu.device
        status.mtuV6 = mtu.v6
        status.warnings = facts.warnings
        // Asked anew each time: rules that stood at the start may have been flushed since.
        let problem = FailClosedGuard.problem(interface: configuration.satelliteInterface)
        status.isGuarded = problem == nil
        if let problem {
            status.warnings.append("packets in clear may pass \(configuration.satelliteInterface): \(problem)")
        }
        status.groups = uses.groups
        let failures = SystemSettings.fragmentationFailures()
        status.fragmentationFailures = failures - min(failures, fragmentationFailuresAtStart)
        if status.fragmentationFailures > 0 {
            status.warnings.append(
                "the kernel dropped packets that are larger than \(mtu.device) octets and may not be fragmented;"
                    + " load the guard with its rule for the LAN interface, or make the senders' packets smaller")
        }
        status.warnings += unicastRoutes?.warnings ?? []
        if let pump {
            pump.report(to: &status)
            status.warnings += pump.replacedInterfaces.map {
                "interface \($0) was removed or replaced after the start; start again to use it"
            }
        }
        return status
    }
}
