// SPDX-License-Identifier: Apache-2.0

public import Basics
public import ESP
public import EventLoop

// DataPlane owns the path of the user's packets through a client: the back ends that carry out SA changes (user space
// now; the kernel's later), the tunnel interface, raw ESP sockets, multicast routing between LAN and tunnel, and the
// check that the fail-closed guard of the satellite interface is in place. Keys and their life are the engines' matter.

/// What carries packets under the SAs that the control plane gives it.
///
/// A back end sends nothing that no active outbound SA protects, and delivers nothing that no inbound SA verified.
public protocol SABackend: AnyObject {
    /// Carries out one change. Repeating a change has no further effect.
    func apply(_ change: SAChange) throws
    /// Lends it the socket of key exchange on the port for address translators, by which ESP in UDP then comes and goes
    /// (RFC 3948). To be closed after the back end was stopped.
    func share(_ socket: UDPSocket) throws
    /// All SAs in force and what each did, without keys.
    func snapshot() -> [SAStatus]
    /// The state as a whole.
    func status() -> DataPlaneStatus
    /// Forgets all SAs and leaves nothing behind in the system: interface, routes, memberships. Final.
    func stop()
}

/// A back end's state apart from the single SAs.
public struct DataPlaneStatus: Sendable, Hashable {
    /// What a multicast group is routed for.
    public struct Group: Sendable, Hashable {
        public var address: IPAddress
        /// From the LAN into the tunnel.
        public var isSent: Bool
        /// Joined on the satellite side, from the tunnel to the LAN.
        public var isReceived: Bool

        public init(address: IPAddress, isSent: Bool, isReceived: Bool) {
            self.address = address
            self.isSent = isSent
            self.isReceived = isReceived
        }
    }

    /// `userspace`, `recording`.
    public var backend: String
    public var satelliteInterface = ""
    public var terrestrialInterface = ""
    public var tunnelInterface = ""
    /// Outer sources of what we send, at most one of each family.
    public var satelliteAddresses: [IPAddress] = []
    /// Of the tunnel: the largest inner packet, in octets.
    public var mtu = 0
    /// The same for IPv6 packets; nil where none are carried.
    public var mtuV6: Int?
    /// Was the fail-closed guard in place at the start? nil when nobody looked.
    public var isGuarded: Bool?
    public var groups: [Group] = []
    /// The largest outer packets for peers of which routers told less than the link takes, in octets.
    public var pathMTUs: [IPAddress: Int] = [:]
    /// Packets read from the tunnel, and written to it.
    public var packetsFromTunnel: UInt64 = 0
    public var packetsToTunnel: UInt64 = 0
    /// ESP packets sent to the satellite side, and received from it.
    public var packetsToSatellite: UInt64 = 0
    public var packetsFromSatellite: UInt64 = 0
    /// All drops since the start, those of single SAs included.
    public var drops: [PacketDrop: UInt64] = [:]
    /// The kernel's own packets on the tunnel (IGMP, MLD, router solicitations), which nobody misses.
    public var kernelPackets: UInt64 = 0
    /// ESP packets lost since the receive buffer was full.
    public var receiveOverflow: UInt64 = 0
    /// How often the kernel dropped an IPv4 packet because it may not be fragmented, since the start (`IpFragFails`):
    /// multicasts larger than the tunnel's MTU with DF set vanish this way, without an ICMP message to their sender.
    public var fragmentationFailures: UInt64 = 0
    /// What the operator should know, in sentences.
    public var warnings: [String] = []

    public init(backend: String) { self.backend = backend }
}
