// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import CLinux
internal import EventLoop
internal import Glibc

/// Speaks to the kernel about routing rules and a routing table of our own, both marked as ours, so that what a
/// predecessor left behind when it was killed can be told from what others put there.
final class RoutingRules {
    /// One rule: packets that it names are routed as it says. An absent prefix is any.
    struct Rule: Hashable {
        enum Action: Hashable {
            case table(UInt32)
            /// On with the rules of this priority.
            case goTo(UInt32)
            case nothing
        }

        var family: AddressFamily
        /// Lower ones are asked first.
        var priority: UInt32
        var action: Action
        var source: IPPrefix?
        var destination: IPPrefix?
        var ipProtocol: UInt8 = 0
        var sourcePort: UInt16 = 0
        var destinationPort: UInt16 = 0
        /// Only what this host sends itself.
        var isLocal = false
    }

    /// One route of our table.
    enum Route: Hashable {
        /// Into an interface, by its index; `source` is what this host sends from if it may choose.
        case network(IPPrefix, interface: UInt32, source: IPAddress?)
        /// What no other route of the table takes stays here, and its sender is told.
        case unreachable(AddressFamily)
    }

    /// The table: the port of the protocol and two digits.
    static let table: UInt32 = 84_800
    static let main = UInt32(RT_TABLE_MAIN.rawValue)
    /// Who made a rule or route; not one of those that the kernel's header names.
    private static let origin: UInt8 = 84

    private let socket: NetlinkSocket

    init() throws(SystemError) { socket = try NetlinkSocket(NETLINK_ROUTE) }

    /// Adding what is there already changes nothing.
    func add(_ rule: Rule) throws(SystemError) {
        try perform(
            Self.request(RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, rule), "add a routing rule for", "\(rule)", EEXIST)
    }

    /// Without effect when it is not there.
    func remove(_ rule: Rule) throws(SystemError) {
        try perform(Self.request(RTM_DELRULE, 0, rule), "remove the routing rule for", "\(rule)", ENOENT)
    }

    func add(_ route: Route) throws(SystemError) {
        let request = Self.request(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, route)
        try perform(request, "add a route to", "\(route)", EEXIST)
    }

    func remove(_ route: Route) throws(SystemError) {
        try perform(Self.request(RTM_DELROUTE, 0, route), "remove the route to", "\(route)", ESRCH)
    }

    private func perform(
        _ request: consuming NetlinkRequest, _ operation: String, _ context: String, _ harmless: Int32
    ) throws(SystemError) {
        do throws(SystemError) {
            try socket.perform(request, operation, context)
        } catch {
            guard error.errno == harmless else { throw error }
        }
    }

    /// Removes all rules and routes with our mark, of both families.
    func removeLeftOvers() {
        for family in [AddressFamily.v4, .v6] {
            // Each request takes one rule out; the bound is for a kernel that takes none and says it did.
            for _ in 0..<10_000 {
                var request = NetlinkRequest(RTM_DELRULE, Self.header(family))
                request.attribute(Int(FRA_PROTOCOL), Self.origin)
                do throws(SystemError) {
                    try socket.perform(request, "remove the routing rules of", "a former client")
                } catch { break }
            }
            try? remove(.unreachable(family))
        }
        // Routes into an interface went with it.
    }

    private static func header(_ family: AddressFamily) -> fib_rule_hdr {
        var header = fib_rule_hdr()
        header.family = UInt8(family == .v4 ? AF_INET : AF_INET6)
        return header
    }

    private static func request(_ type: Int, _ flags: Int32, _ rule: Rule) -> NetlinkRequest {
        var header = header(rule.family)
        header.src_len = UInt8(rule.source?.length ?? 0)
        header.dst_len = UInt8(rule.destination?.length ?? 0)
        switch rule.action {
        case .table: header.action = UInt8(FR_ACT_TO_TBL)
        case .goTo: header.action = UInt8(FR_ACT_GOTO)
        case .nothing: header.action = UInt8(FR_ACT_NOP)
        }
        var request = NetlinkRequest(type, flags: NLM_F_ACK | flags, header)
        request.attribute(Int(FRA_PRIORITY), rule.priority)
        request.attribute(Int(FRA_PROTOCOL), origin)
        switch rule.action {
        case .table(let table): request.attribute(Int(FRA_TABLE), table)
        case .goTo(let target): request.attribute(Int(FRA_GOTO), target)
        case .nothing: break
        }
        for (type, prefix) in [(FRA_SRC, rule.source), (FRA_DST, rule.destination)] {
            if let prefix, prefix.length > 0 { request.attribute(Int(type), octets: prefix.address.octets) }
        }
        if rule.isLocal { request.attribute(Int(FRA_IIFNAME), "lo") }
        if rule.ipProtocol != 0 { request.attribute(Int(FRA_IP_PROTO), rule.ipProtocol) }
        for (type, port) in [(FRA_SPORT_RANGE, rule.sourcePort), (FRA_DPORT_RANGE, rule.destinationPort)] {
            if port != 0 { request.attribute(Int(type), fib_rule_port_range(start: port, end: port)) }
        }
        return request
    }

    private static func request(_ type: Int, _ flags: Int32, _ route: Route) -> NetlinkRequest {
        var message = rtmsg()
        message.rtm_protocol = origin
        message.rtm_scope = UInt8(RT_SCOPE_UNIVERSE.rawValue)
        let destination: IPPrefix
        switch route {
        case .network(let network, _, _):
            destination = network
            message.rtm_type = UInt8(RTN_UNICAST)
            if network.address.isV4 { message.rtm_scope = UInt8(RT_SCOPE_LINK.rawValue) }
        case .unreachable(let family):
            destination = family == .v4 ? .allV4 : .allV6
            message.rtm_type = UInt8(RTN_UNREACHABLE)
        }
        message.rtm_family = UInt8(destination.address.isV4 ? AF_INET : AF_INET6)
        message.rtm_dst_len = UInt8(destination.length)
        var request = NetlinkRequest(type, flags: NLM_F_ACK | flags, message)
        request.attribute(Int(RTA_TABLE.rawValue), table)
        if destination.length > 0 {
            request.attribute(Int(RTA_DST.rawValue), octets: destination.address.octets)
        }
        if case .network(_, let interface, let source) = route {
            request.attribute(Int(RTA_OIF.rawValue), interface)
            if let source { request.attribute(Int(RTA_PREFSRC.rawValue), octets: source.octets) }
        }
        return request
    }
}

extension NetlinkRequest {
    fileprivate mutating func attribute(_ type: Int, octets: [UInt8]) {
        attribute(type) { $0.append(octets: octets) }
    }
}
