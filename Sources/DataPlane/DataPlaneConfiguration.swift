// SPDX-License-Identifier: Apache-2.0

public import Basics
public import Cryptography
internal import ESP

/// How packets get in and out of the system.
public enum PacketPath: String, Sendable, Hashable, CaseIterable {
    /// The cheapest that system and interface offer, each part by itself.
    case automatic
    /// Plain reads and writes at the tunnel, raw sockets at the link: what every system has.
    case portable
}

/// Where a client's data plane sits in the system.
public struct DataPlaneConfiguration: Sendable, Hashable {
    /// Towards the satellite: protected packets only.
    public var satelliteInterface: String
    /// Towards the LAN: packets in clear.
    public var terrestrialInterface: String
    /// Name of the tunnel interface to create.
    public var tunnelInterface: String
    /// Outer source of what we send over its family; nil, and the other family, take the satellite interface's first
    /// address (of IPv6 the first that is not link-local).
    public var satelliteAddress: IPAddress?
    /// The largest outer packet that the link takes, in octets; nil, or more than that, is the satellite interface's.
    public var linkMTU: Int?
    /// MTU of the tunnel in octets; nil follows the suites that we send with, so that one inner packet fills one outer
    /// packet of the link.
    public var mtu: Int?
    /// Networks behind other clients, routed into the tunnel. A strict reverse path filter that the operator keeps on
    /// accepts multicasts only from sources in these.
    public var remoteNetworks: [IPPrefix]
    /// The client's own policy, in its order.
    public var rules: [PolicyRule] = []
    /// Refuse to start unless the fail-closed guard stands on the satellite interface.
    public var requiresGuard: Bool
    /// TTL or hop limit of the ESP packets.
    public var outerTTL: UInt8
    /// DSCP of the ESP packets, 0 to 63; nil copies that of the inner packet.
    public var outerDSCP: UInt8?
    /// DF of ESP packets over IPv4 to a peer (RFC 4301 8.1). Those to a group never have it: no router tells their
    /// sender that they were too big.
    public var outerDF: DontFragment = .copy
    /// Our ports of key exchange, whose datagrams never take a VPN.
    public var keyExchangePorts: [UInt16] = FailClosedGuard.defaultPorts
    /// After so long without a packet to a peer, an address translator between is reminded of us (RFC 3948 4).
    public var keepaliveInterval: Duration = .seconds(20)
    /// Buffers asked for at the ESP socket, in octets; the system may give less.
    public var socketBuffer: Int
    /// Packets per system call and wake-up.
    public var batch: Int
    /// Remote sources per group that is both sent and received, which need a kernel route each; the oldest gives way.
    public var sourcesPerGroup: Int

    /// What becomes of the don't-fragment bit outside.
    public enum DontFragment: Sendable, Hashable {
        /// Set where no router may cut the inner packet: IPv4 with DF, or IPv6 of more than 1,280 octets.
        case copy
        case set
        case clear
    }
    /// How packets get in and out of the system.
    public var path = PacketPath.automatic

    public init(
        satelliteInterface: String, terrestrialInterface: String, tunnelInterface: String = "satipsec0",
        satelliteAddress: IPAddress? = nil, linkMTU: Int? = nil, mtu: Int? = nil, remoteNetworks: [IPPrefix] = [],
        requiresGuard: Bool = true, outerTTL: UInt8 = 64, socketBuffer: Int = 8 << 20, limits: Limits = Limits()
    ) {
        self.satelliteInterface = satelliteInterface
        self.terrestrialInterface = terrestrialInterface
        self.tunnelInterface = tunnelInterface
        self.satelliteAddress = satelliteAddress
        self.linkMTU = linkMTU
        self.mtu = mtu
        self.remoteNetworks = remoteNetworks
        self.requiresGuard = requiresGuard
        self.outerTTL = outerTTL
        self.socketBuffer = socketBuffer
        batch = limits.datagramsPerWakeup
        sourcesPerGroup = limits.sendersPerAssociation
    }

    /// The largest inner packet whose ESP packet fits the link with each of these suites: with AES-GCM on a link of
    /// 1,500 it is 1,446 octets over IPv4, and 1,426 over IPv6. Without any suite, that of the default one.
    public static func tunnelMTU(linkMTU: Int, suites: some Collection<ESPSuite>, overV4: Bool = true) -> Int {
        let room = linkMTU - InnerPacket.headerSize(isV4: overV4)
        let fits = suites.map { $0.largestInner(sealed: room) }
        return fits.min() ?? ESPSuite.aes256gcm.largestInner(sealed: room)
    }
}
