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
/// leaves nothing behind either; what keeps the satellite side closed then is the guard.
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

    /// Checks the system, then creates the tunnel, becomes the multicast router and opens the ESP socket. Nothing
    /// passes before the first SA. Needs CAP_NET_ADMIN and CAP_NET_RAW.
    ///
    /// - Parameter report: takes lines for the log, of packets that were dropped.
    public init(
        configuration: DataPlaneConfiguration, loop: EventLoop, limits: Limits = Limits(), random: any RandomSource,
        report: @escaping (LogEvent) -> Void = { _ in }
    ) throws(DataPlaneError) {
        self.configuration = configuration
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
            try settle(uses.insert(parameters, .inbound))
        case .addOutbound(let parameters):
            try associations.apply(change)
            mtu.insert(parameters)
            try settleMTU()
            try settle(uses.insert(parameters, .outbound))
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
        case .removeAll:
            let gone = uses.removeAll()
            mtu.removeAll()
            try associations.apply(change)
            for use in gone { try settle(use) }
        }
    }

    public func stop() {
        try? associations.apply(.removeAll)
        _ = uses.removeAll()
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
        guard group.isMulticast else {
            // A network behind another client; our own, of an inbound SA, has its route already.
            if use.isSent {
                try tunnel?.addRoute(use.destination)
            } else if !configuration.remoteNetworks.contains(use.destination) {
                tunnel?.removeRoute(use.destination)
            }
            return
        }
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
        if let pump {
            pump.report(to: &status)
            status.warnings += pump.replacedInterfaces.map {
                "interface \($0) was removed or replaced after the start; start again to use it"
            }
        }
        return status
    }
}
