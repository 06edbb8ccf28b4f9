// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import EventLoop

/// What must hold before the data plane starts, looked at once, with words for what does not.
struct StartChecks {
    /// Our outer addresses, at most one of each family.
    var satelliteAddresses: [IPAddress]
    var satelliteIndex: UInt32
    var terrestrialIndex: UInt32
    /// The LAN, of each family that it has: what comes out of the tunnel cannot come from there.
    var terrestrialNetworks: [IPPrefix]
    /// Our addresses there, at most one of each family.
    var terrestrialAddresses: [IPAddress]
    /// Of the tunnel, as long as nothing is sent.
    var mtu: TunnelMTU
    /// The largest outer packet that the link takes.
    var linkMTU: Int
    /// The largest ESP packet to send, outer header included: the link's MTU, or more where the operator chose a tunnel
    /// MTU that makes the kernel fragment.
    var largestOuter: Int
    var warnings: [String] = []

    /// RFC 791 3.1: every host takes datagrams of this size.
    private static let smallestMTU = 576

    init(_ configuration: DataPlaneConfiguration) throws(DataPlaneError) {
        let satellite = configuration.satelliteInterface
        let terrestrial = configuration.terrestrialInterface
        for name in [satellite, terrestrial] {
            guard try DataPlaneError.wrap({ () throws(SystemError) in try Interfaces.isUp(name) }) else {
                throw .interfaceDown(name)
            }
        }
        if configuration.requiresGuard, let problem = FailClosedGuard.problem(interface: satellite) {
            throw .unguarded(interface: satellite, reason: problem)
        }
        satelliteAddresses = try Self.outerSources(configuration)
        satelliteIndex = try DataPlaneError.wrap { () throws(SystemError) in try Interfaces.index(of: satellite) }
        terrestrialIndex = try DataPlaneError.wrap { () throws(SystemError) in try Interfaces.index(of: terrestrial) }
        terrestrialNetworks = [AddressFamily.v4, .v6].compactMap { family in
            try? Interfaces.prefix(of: terrestrial, family: family)
        }
        terrestrialAddresses = [AddressFamily.v4, .v6].compactMap { family in
            try? Interfaces.address(of: terrestrial, family: family)
        }.filter { !$0.isLinkLocal }
        let interfaceMTU = try DataPlaneError.wrap { () throws(SystemError) in try Interfaces.mtu(of: satellite) }
        linkMTU = min(configuration.linkMTU ?? interfaceMTU, interfaceMTU)
        let isV6Off = SystemSettings.integer("net/ipv6/conf/\(terrestrial)/disable_ipv6") != 0
        mtu = TunnelMTU(linkMTU: linkMTU, carriesIPv6: !isV6Off, fixed: configuration.mtu)
        guard (Self.smallestMTU...PacketPump.largestInner).contains(mtu.device) else {
            throw .unsuitableMTU(mtu.device)
        }
        let largestInner = max(configuration.mtu ?? 0, isV6Off ? 0 : TunnelMTU.smallestV6)
        largestOuter = max(linkMTU, largestInner + PacketPump.largestOverhead)
        if !isV6Off, linkMTU < TunnelMTU.smallestV6 + PacketPump.largestOverhead {
            warnings.append(
                "a link of \(linkMTU) octets is small for IPv6: large packets may have to leave as fragments")
        }
        try Self.checkReversePathFilter(configuration)
        noteForwarding(configuration)
    }

    /// Whose groups we can carry: outside a group's packets are of its own family.
    var multicastFamilies: [AddressFamily] {
        satelliteAddresses.map { AddressFamily($0) }.filter { $0 == .v4 || mtu.v6 != nil }
    }

    /// The configured address, and the interface's own of the other family. Link-local addresses are none that a
    /// member elsewhere could tell from its own.
    private static func outerSources(_ configuration: DataPlaneConfiguration) throws(DataPlaneError) -> [IPAddress] {
        var found: [IPAddress] = []
        var failure: SystemError?
        for family in [AddressFamily.v4, .v6] {
            if let address = configuration.satelliteAddress, AddressFamily(address) == family {
                guard !address.isMulticast, !address.isUnspecified, !address.isLinkLocal else {
                    throw .unsuitableAddress("\(address)")
                }
                found.append(address)
                continue
            }
            do throws(SystemError) {
                let address = try Interfaces.address(of: configuration.satelliteInterface, family: family)
                if !address.isLinkLocal || family == .v4 { found.append(address) }
            } catch {
                failure = failure ?? error
            }
        }
        if found.isEmpty, let failure { throw .system(failure) }
        return found
    }

    /// The kernel takes the larger of the value for all interfaces and that of the tunnel, which we set to 0. What is
    /// left must be 0, or every remote source must have a route into the tunnel. IPv6 has no such filter.
    private static func checkReversePathFilter(_ configuration: DataPlaneConfiguration) throws(DataPlaneError) {
        let value = SystemSettings.integer("net/ipv4/conf/all/rp_filter") ?? 0
        guard value == 0 || !configuration.remoteNetworks.isEmpty else { throw .reversePathFilter(value) }
    }

    private mutating func noteForwarding(_ configuration: DataPlaneConfiguration) {
        let unicast = configuration.remoteNetworks.filter { !$0.address.isMulticast }
        if unicast.contains(where: \.address.isV4), SystemSettings.integer("net/ipv4/ip_forward") == 0 {
            warnings.append("net.ipv4.ip_forward is 0: unicast packets are not forwarded (multicast is)")
        }
        if unicast.contains(where: { !$0.address.isV4 }), SystemSettings.integer("net/ipv6/conf/all/forwarding") == 0 {
            warnings.append("net.ipv6.conf.all.forwarding is 0: IPv6 unicast packets are not forwarded (multicast is)")
        }
    }
}

extension DataPlaneError {
    /// Turns what a system call threw into our error.
    static func wrap<Result>(_ body: () throws(SystemError) -> Result) throws(DataPlaneError) -> Result {
        do throws(SystemError) {
            return try body()
        } catch {
            throw .system(error)
        }
    }
}
