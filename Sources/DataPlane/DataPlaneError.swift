// SPDX-License-Identifier: Apache-2.0

public import EventLoop

/// Why the data plane cannot start or cannot carry out a change. Each case is one thing for the operator to put right.
public enum DataPlaneError: Error, Hashable, Sendable {
    /// A system call failed.
    case system(SystemError)
    /// The fail-closed guard is not on the satellite interface.
    case unguarded(interface: String, reason: String)
    /// The interface exists but is down.
    case interfaceDown(String)
    /// The configured address is none that this back end can send from.
    case unsuitableAddress(String)
    /// Another multicast router runs in this network namespace.
    case multicastRouterRunning
    /// `net.ipv4.conf.all.rp_filter` is on and would drop what comes out of the tunnel.
    case reversePathFilter(Int)
    /// Less than the 576 octets that every IPv4 host must be able to take, or more than fits an outer packet.
    case unsuitableMTU(Int)
    /// The SA's selector or addresses make no sense for this back end.
    case unsupportedAssociation(String)
    /// This kernel lacks what a kernel back end needs.
    case noKernel(String, SystemError)
    /// nft did not take the rules that a kernel back end needs; what it said.
    case filter(String)
    /// The back end was stopped.
    case stopped
}

extension DataPlaneError: CustomStringConvertible {
    public var description: String {
        switch self {
        case .system(let error): error.description
        case .unguarded(let interface, let reason):
            """
            the fail-closed guard is not in place on \(interface): \(reason). Set it up: \
            satipsec guard --config FILE | nft -f -
            """
        case .interfaceDown(let name): "interface \(name) is down"
        case .unsuitableAddress(let what): "\(what) is no unicast address that routers carry"
        case .multicastRouterRunning: "another multicast router is running on this host; stop it first"
        case .reversePathFilter(let value):
            "net.ipv4.conf.all.rp_filter is \(value): the kernel would drop every packet that comes out of the tunnel."
                + " Set it to 0: sysctl -w net.ipv4.conf.all.rp_filter=0 (interfaces may keep theirs)"
        case .unsuitableMTU(let value): "\(value) octets are no fit MTU for the tunnel"
        case .unsupportedAssociation(let what): what
        case .noKernel(let interface, let error):
            """
            this kernel does not do data-plane: \(interface) (\(error)); set data-plane: userspace, or use a kernel \
            that has it (CONFIG_INET_ESP, CONFIG_XFRM_USER, CONFIG_XFRM_INTERFACE, CONFIG_NET_KEY)
            """
        case .filter(let what): "the packet filter does not take the kernel back end's rules: \(what)"
        case .stopped: "the data plane was stopped"
        }
    }
}
