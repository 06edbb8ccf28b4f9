// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import CLinux
internal import ESP
internal import EventLoop
internal import Glibc

/// The kernel's multicast router of one family between LAN and tunnel.
///
///     group is     (*,G)               (S,G)
///     sent         LAN > tunnel        -
///     received     tunnel > LAN        -
///     both         LAN > tunnel        tunnel > LAN, per remote source
///
/// One (*,G) entry carries one direction only. A group that goes both ways gets an (S,G) entry for each remote source,
/// added before that source's first packet is written into the tunnel. The satellite interface is no part of it: the
/// kernel never forwards between there and anywhere.
final class MulticastRouter {
    private struct Route {
        var isSent = false
        var isReceived = false
        /// Remote sources with an entry of their own, the oldest first.
        var sources: [IPAddress] = []
    }

    /// What the error says when there is another router.
    static let startOperation = "start multicast routing"

    private static let terrestrial: Int32 = 0
    private static let tunnel: Int32 = 1

    private let family: AddressFamily
    private let descriptor: Int32
    private let terrestrialNetwork: IPPrefix?
    private let sourcesPerGroup: Int
    private var routes: [IPAddress: Route] = [:]
    private var watch: FileWatch?
    private var isClosed = false
    /// What `admit` saw last: packets of one stream come one behind the other.
    private var lastAdmitted: (source: IPAddress, group: IPAddress)?

    /// - Throws: `EADDRINUSE` when there is another multicast router.
    ///
    /// - Parameter terrestrialNetwork: where no remote source can be, if that is known.
    init(
        family: AddressFamily, loop: EventLoop, terrestrial: String, tunnel: String, terrestrialNetwork: IPPrefix?,
        sourcesPerGroup: Int
    ) throws(SystemError) {
        self.family = family
        self.terrestrialNetwork = terrestrialNetwork
        self.sourcesPerGroup = sourcesPerGroup
        descriptor = try SystemError.check(Self.startOperation, clinux_mroute_open(family.number))
        // All is set: should one of these throw, deinit closes the descriptor.
        for (number, name) in [(Self.terrestrial, terrestrial), (Self.tunnel, tunnel)] {
            let result = clinux_mroute_add_interface(
                descriptor, family.number, number, try Interfaces.index(of: name))
            try SystemError.check("route multicasts of", result, context: name)
        }
        // IGMP reports and the kernel's questions about groups that are none of ours: read, so that they do not
        // hold memory, and thrown away.
        let descriptor = descriptor
        watch = loop.watch(readable: descriptor) {
            var octet: UInt8 = 0
            for _ in 0..<64 where unsafe recv(descriptor, &octet, 1, Int32(MSG_DONTWAIT)) < 0 { break }
        }
    }

    deinit { close() }

    /// Makes the kernel forward the group in these directions and no others.
    func set(_ group: IPAddress, isSent: Bool, isReceived: Bool) throws(SystemError) {
        let old = routes[group] ?? Route()
        lastAdmitted = nil
        guard old.isSent != isSent || old.isReceived != isReceived else { return }
        for source in old.sources { remove(source, group, parent: Self.tunnel) }
        if old.isSent || old.isReceived {
            remove(family.any, group, parent: old.isSent ? Self.terrestrial : Self.tunnel)
        }
        routes[group] = nil
        if isSent {
            try add(family.any, group, from: Self.terrestrial, to: Self.tunnel)
        } else if isReceived {
            try add(family.any, group, from: Self.tunnel, to: Self.terrestrial)
        } else {
            return
        }
        routes[group] = Route(isSent: isSent, isReceived: isReceived)
    }

    /// To be called before a packet of this source and group is written into the tunnel. Cheap unless the group goes
    /// both ways and the source is new.
    ///
    /// Throws `policyMismatch` for a source that pretends to be in our own LAN: its entry would turn that host's own
    /// packets away.
    func admit(source: IPAddress, group: IPAddress) throws(PacketDrop) {
        if let lastAdmitted, lastAdmitted == (source, group) { return }
        if let route = routes[group], route.isSent, route.isReceived, !route.sources.contains(source) {
            if let terrestrialNetwork, terrestrialNetwork.contains(source) { throw .policyMismatch }
            if route.sources.count >= sourcesPerGroup, let oldest = route.sources.first {
                remove(oldest, group, parent: Self.tunnel)
                routes[group]?.sources.removeFirst()
            }
            do throws(SystemError) {
                try add(source, group, from: Self.tunnel, to: Self.terrestrial)
            } catch {
                throw .socketError
            }
            routes[group]?.sources.append(source)
        }
        lastAdmitted = (source, group)
    }

    /// Gives multicast routing up: every entry goes.
    func close() {
        guard !isClosed else { return }
        isClosed = true
        watch?.cancel()
        watch = nil
        routes = [:]
        _ = clinux_mroute_close(descriptor, family.number)
    }

    private func add(
        _ source: IPAddress, _ group: IPAddress, from parent: Int32, to output: Int32
    ) throws(SystemError) {
        var (origin, target) = (clinux_address(source), clinux_address(group))
        let result = unsafe clinux_mroute_add(descriptor, &origin, &target, parent, 1 << UInt32(output))
        try SystemError.check("route group", result, context: "\(group)")
    }

    private func remove(_ source: IPAddress, _ group: IPAddress, parent: Int32) {
        var (origin, target) = (clinux_address(source), clinux_address(group))
        _ = unsafe clinux_mroute_remove(descriptor, &origin, &target, parent)
    }
}
