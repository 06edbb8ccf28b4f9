// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import CLinux
internal import EventLoop
internal import Glibc

/// The xfrm interface: what the kernel routes into it leaves by the satellite interface under our policies or not at
/// all, and what our SAs open comes out of it. Unlike a TUN it outlives the process that made it.
final class XFRMInterface {
    let name: String
    private let socket: NetlinkSocket
    private var isThere = true

    /// Creates it, settles what must be settled before it is up, and brings it up.
    init(name: String, satellite: UInt32, interfaceID: UInt32, mtu: Int) throws(SystemError) {
        self.name = name
        socket = try NetlinkSocket(NETLINK_ROUTE)
        var request = NetlinkRequest(RTM_NEWLINK, flags: NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, ifinfomsg())
        request.attribute(Int(IFLA_IFNAME), name)
        request.attribute(Int(IFLA_MTU), UInt32(clamping: mtu))
        request.attribute(Int(IFLA_LINKINFO)) { request in
            request.attribute(Int(IFLA_INFO_KIND), Self.kind)
            request.attribute(Int(IFLA_INFO_DATA)) { request in
                request.attribute(Int(IFLA_XFRM_LINK), satellite)
                request.attribute(Int(IFLA_XFRM_IF_ID), interfaceID)
            }
        }
        try socket.perform(request, "create the tunnel interface", name)
        // What an SA opened needs no way back to its source: the packet filter's rules look at it instead.
        try SystemSettings.set("net/ipv4/conf/\(name)/rp_filter", to: 0)
        try? SystemSettings.set("net/ipv6/conf/\(name)/disable_ipv6", to: 1)
        let result = unsafe clinux_interface_configure(name, Int32(clamping: mtu), 0)
        try SystemError.check("configure the tunnel interface", result, context: name)
    }

    deinit { remove() }

    func remove() {
        guard isThere else { return }
        isThere = false
        guard let index = try? Interfaces.index(of: name) else { return }
        try? Self.remove(Int32(clamping: index), name, by: socket)
    }

    /// Removes the interfaces of this id that a killed predecessor left, whatever their names.
    static func removeLeftOvers(interfaceID: UInt32) throws(SystemError) {
        let socket = try NetlinkSocket(NETLINK_ROUTE)
        var found: [Int32] = []
        try socket.ask(
            NetlinkRequest(RTM_GETLINK, flags: NLM_F_DUMP, ifinfomsg()), "list the interfaces", ""
        ) { report in
            guard let info = report.body.value(at: 0, as: ifinfomsg.self),
                let link = report.attributes(after: ifinfomsg.self)[Int(IFLA_LINKINFO)]
            else { return }
            let parts = NetlinkReport.attributes(link)
            guard parts[Int(IFLA_INFO_KIND)]?.elementsEqual(kind.utf8 + [0]) == true,
                let data = parts[Int(IFLA_INFO_DATA)],
                NetlinkReport.attributes(data)[Int(IFLA_XFRM_IF_ID)]?.value(at: 0) == interfaceID
            else { return }
            found.append(info.ifi_index)
        }
        for index in found { try remove(index, "of a former client", by: socket) }
    }

    private static let kind = "xfrm"

    private static func remove(_ index: Int32, _ label: String, by socket: NetlinkSocket) throws(SystemError) {
        var info = ifinfomsg()
        info.ifi_index = index
        try socket.perform(NetlinkRequest(RTM_DELLINK, info), "remove the tunnel interface", label)
    }
}

/// IPv4 routes through one interface.
struct InterfaceRoutes {
    let name: String

    /// Better than a route of last resort that the operator may have beside it.
    private static let metric: Int32 = 10

    /// Adding what is there already changes nothing.
    func add(_ network: IPPrefix) throws(SystemError) {
        let result = change(network, add: 1)
        if result != -EEXIST { try SystemError.check("add a route through \(name) to", result, context: "\(network)") }
    }

    func remove(_ network: IPPrefix) { _ = change(network, add: 0) }

    private func change(_ network: IPPrefix, add: Int32) -> Int32 {
        guard network.address.isV4 else { return -EAFNOSUPPORT }
        var address = clinux_address(network.address)
        return unsafe clinux_route_change(name, &address, Int32(network.length), Self.metric, add)
    }
}
