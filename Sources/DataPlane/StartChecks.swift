// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import EventLoop

/// What must hold before the data plane starts, looked at once, with words for what does not.
struct StartChecks {
    var satelliteAddress: IPAddress
    var satelliteIndex: UInt32
    var terrestrialIndex: UInt32
    /// The LAN: what comes out of the tunnel cannot come from there.
    var terrestrialNetwork: IPPrefix?
    /// Of the tunnel, as long as nothing is sent.
    var mtu: Int
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
        satelliteAddress = try Self.outerSource(configuration)
        satelliteIndex = try DataPlaneError.wrap { () throws(SystemError) in try Interfaces.index(of: satellite) }
        terrestrialIndex = try DataPlaneError.wrap { () throws(SystemError) in try Interfaces.index(of: terrestrial) }
        terrestrialNetwork = try? Interfaces.prefix(of: terrestrial, family: .v4)
        let link = try DataPlaneError.wrap { () throws(SystemError) in try Interfaces.mtu(of: satellite) }
        linkMTU = min(configuration.linkMTU ?? link, link)
        mtu = configuration.mtu ?? DataPlaneConfiguration.tunnelMTU(linkMTU: linkMTU, suites: [])
        guard (Self.smallestMTU...PacketPump.largestInner).contains(mtu) else { throw .unsuitableMTU(mtu) }
        largestOuter = max(linkMTU, configuration.mtu.map { $0 + PacketPump.largestOverhead } ?? 0)
        try Self.checkReversePathFilter(configuration)
        noteForwarding(configuration)
    }

    private static func outerSource(_ configuration: DataPlaneConfiguration) throws(DataPlaneError) -> IPAddress {
        if let address = configuration.satelliteAddress {
            guard address.isV4, !address.isMulticast, !address.isUnspecified else {
                throw .unsuitableAddress("\(address)")
            }
            return address
        }
        return try DataPlaneError.wrap { () throws(SystemError) in
            try Interfaces.address(of: configuration.satelliteInterface, family: .v4)
        }
    }

    /// The kernel takes the larger of the value for all interfaces and that of the tunnel, which we set to 0. What is
    /// left must be 0, or every remote source must have a route into the tunnel.
    private static func checkReversePathFilter(_ configuration: DataPlaneConfiguration) throws(DataPlaneError) {
        let value = SystemSettings.integer("net/ipv4/conf/all/rp_filter") ?? 0
        guard value == 0 || !configuration.remoteNetworks.isEmpty else { throw .reversePathFilter(value) }
    }

    private mutating func noteForwarding(_ configuration: DataPlaneConfiguration) {
        let hasUnicast = configuration.remoteNetworks.contains { !$0.address.isMulticast }
        if hasUnicast, SystemSettings.integer("net/ipv4/ip_forward") == 0 {
            warnings.append("net.ipv4.ip_forward is 0: unicast packets are not forwarded (multicast is)")
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
