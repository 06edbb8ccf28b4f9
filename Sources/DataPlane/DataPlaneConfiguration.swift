// SPDX-License-Identifier: Apache-2.0

public import Basics
internal import Cryptography

/// Where a client's data plane sits in the system.
public struct DataPlaneConfiguration: Sendable, Hashable {
    /// Towards the satellite: protected packets only.
    public var satelliteInterface: String
    /// Towards the LAN: packets in clear.
    public var terrestrialInterface: String
    /// Name of the tunnel interface to create.
    public var tunnelInterface: String
    /// Outer source of what we send; nil takes the satellite interface's first address.
    public var satelliteAddress: IPAddress?
    /// MTU of the tunnel in octets; nil computes it from the satellite interface's, so that one inner packet with the
    /// largest overhead of all suites fills one outer packet.
    public var mtu: Int?
    /// Networks behind other clients, routed into the tunnel. A strict reverse path filter that the operator keeps on
    /// accepts multicasts only from sources in these.
    public var remoteNetworks: [IPPrefix]
    /// Refuse to start unless the fail-closed guard stands on the satellite interface.
    public var requiresGuard: Bool
    /// TTL of the ESP packets to a group.
    public var outerTTL: UInt8
    /// Buffers asked for at the ESP socket, in octets; the system may give less.
    public var socketBuffer: Int
    /// Packets per system call and wake-up.
    public var batch: Int
    /// Remote sources per group that is both sent and received, which need a kernel route each; the oldest gives way.
    public var sourcesPerGroup: Int

    public init(
        satelliteInterface: String, terrestrialInterface: String, tunnelInterface: String = "satipsec0",
        satelliteAddress: IPAddress? = nil, mtu: Int? = nil, remoteNetworks: [IPPrefix] = [],
        requiresGuard: Bool = true, outerTTL: UInt8 = 64, socketBuffer: Int = 8 << 20, limits: Limits = Limits()
    ) {
        self.satelliteInterface = satelliteInterface
        self.terrestrialInterface = terrestrialInterface
        self.tunnelInterface = tunnelInterface
        self.satelliteAddress = satelliteAddress
        self.mtu = mtu
        self.remoteNetworks = remoteNetworks
        self.requiresGuard = requiresGuard
        self.outerTTL = outerTTL
        self.socketBuffer = socketBuffer
        batch = limits.datagramsPerWakeup
        sourcesPerGroup = limits.sendersPerAssociation
    }

    /// The largest inner packet whose ESP packet fits the link, whatever the suite: 1,438 octets on a link of 1,500.
    public static func tunnelMTU(linkMTU: Int) -> Int {
        // spec: RFC 4303 2 - header, IV, then payload with padding and the two trailer octets aligned, then the ICV.
        let fits = ESPSuite.allCases.map { suite in
            let room = linkMTU - outerHeader - espHeader - suite.ivSize - suite.icvSize
            return room / suite.alignment * suite.alignment - espTrailer
        }
        return fits.min() ?? 0
    }

    /// IPv4 without options; SPI and sequence number; pad length and next header.
    private static let outerHeader = 20
    private static let espHeader = 8
    private static let espTrailer = 2
}
