// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import CLinux
internal import EventLoop
internal import Glibc

/// The tunnel interface: what the kernel routes into it is read here, what is written here comes out of it as if
/// received. It vanishes with its descriptor, and its routes with it.
final class TunnelInterface {
    let name: String
    let descriptor: Int32
    /// What it is set to.
    private(set) var mtu: TunnelMTU
    /// Octets before each packet that is read from or written to it.
    let header: Int

    /// The kernel's queue towards us, in packets: a burst of a video stream while we encrypt.
    private static let queueLength: Int32 = 2_000

    /// Creates it, settles what must be settled before it is up, and brings it up.
    ///
    /// - Parameter takesRuns: whether several datagrams may be written in one piece (`TunnelWriter`), where the kernel
    ///   can do that.
    init(name: String, mtu: TunnelMTU, takesRuns: Bool) throws(SystemError) {
        var octets = [CChar](repeating: 0, count: Int(CLINUX_NAME_OCTETS))
        for (index, octet) in name.utf8.prefix(octets.count - 1).enumerated() {
            octets[index] = CChar(truncatingIfNeeded: octet)
        }
        var opened = takesRuns ? unsafe clinux_tun_open_with_header(&octets) : -EINVAL
        header = opened < 0 ? 0 : Int(CLINUX_TUN_HEADER)
        if opened == -EINVAL { opened = unsafe clinux_tun_open(&octets, 0) }
        descriptor = try SystemError.check("create the tunnel interface", opened, context: name)
        self.name = name
        self.mtu = mtu
        // All is set: should one of these throw, deinit closes the descriptor.
        //
        // The path back to a remote source is not through a tunnel without an address, so the kernel would drop all
        // that comes out of it; the inbound SA's selector takes the filter's place.
        try SystemSettings.set("net/ipv4/conf/\(name)/rp_filter", to: 0)
        if mtu.v6 == nil {
            // No MLD reports and router solicitations into an IPv4 tunnel. Absent where IPv6 is off altogether.
            try? SystemSettings.set("net/ipv6/conf/\(name)/disable_ipv6", to: 1)
        } else {
            try SystemSettings.set("net/ipv6/conf/\(name)/disable_ipv6", to: 0)
            // No address, so no router solicitations; nobody on the other side is this interface's router.
            try SystemSettings.set("net/ipv6/conf/\(name)/addr_gen_mode", to: 1)
            try SystemSettings.set("net/ipv6/conf/\(name)/accept_ra", to: 0)
        }
        let result = unsafe clinux_interface_configure(name, Int32(clamping: mtu.device), Self.queueLength)
        try SystemError.check("configure the tunnel interface", result, context: name)
        try setMTU(mtu)
    }

    deinit { Glibc.close(descriptor) }

    /// From now on the kernel fragments, or refuses, what is larger.
    func setMTU(_ mtu: TunnelMTU) throws(SystemError) {
        let result = unsafe clinux_interface_configure(name, Int32(clamping: mtu.device), 0)
        try SystemError.check("set the MTU of", result, context: name)
        self.mtu = mtu
        // After the device's own MTU, which sets this one.
        if let mtu = mtu.v6 { try SystemSettings.set("net/ipv6/conf/\(name)/mtu", to: mtu) }
    }

    /// Routes a network into the tunnel.
    func addRoute(_ network: IPPrefix) throws(SystemError) {
        let result = change(network, add: 1)
        // Already there is as good.
        if result != -EEXIST { try SystemError.check("add a route through \(name) to", result, context: "\(network)") }
    }

    func removeRoute(_ network: IPPrefix) { _ = change(network, add: 0) }

    private func change(_ network: IPPrefix, add: Int32) -> Int32 {
        var address = clinux_address(network.address)
        return unsafe clinux_route_change(name, &address, Int32(network.length), Self.metric, add)
    }

    /// Better than a route of last resort that the operator may have beside it.
    private static let metric: Int32 = 10
}
