// SPDX-License-Identifier: Apache-2.0

public import Basics
public import Cryptography

/// What satipsec.yaml says, checked: one client's settings.
public struct ClientSettings: Sendable {
    /// Where the key server is and what it calls itself.
    public struct KeyServerAddress: Sendable, Hashable {
        public var address: IPAddress
        /// Also the client's own port.
        public var port: UInt16
        /// The port behind network address translators (RFC 3947).
        public var natPort: UInt16
        /// What it must say in phase 1 (ID_FQDN).
        public var identity: String
    }

    /// Does the packet filter of `satipsec guard` make TCP segments fit the tunnel?
    public enum SegmentClamp: String, Sendable, Hashable, CaseIterable {
        case on
        case off
    }

    /// The wait before phase 1 is tried again; it doubles from try to try.
    public struct Retry: Sendable, Hashable {
        public var first: Duration = .seconds(1)
        public var most: Duration = .seconds(60)
    }

    /// Must the system's own packet filter keep clear packets off the satellite side?
    public enum Guard: String, Sendable, Hashable, CaseIterable {
        /// The client does not start without it.
        case required
        /// Somebody else sees to it.
        case off
    }

    /// What carries the packets.
    public enum DataPlane: String, Sendable, Hashable, CaseIterable {
        /// The client itself.
        case userspace
        /// The kernel's IPsec, by netlink or by PF_KEYv2.
        case xfrm, pfkey
    }

    /// How packets get in and out of the system.
    public enum PacketPath: String, Sendable, Hashable, CaseIterable {
        /// The cheapest that system and interface offer.
        case automatic
        /// What every system has: for comparison, and for packet filters that must see the ESP packets we send.
        case portable
    }

    /// What becomes of the don't-fragment bit outside (RFC 4301 8.1).
    public enum OuterDF: String, Sendable, Hashable, CaseIterable {
        /// Set where no router may cut the packet inside.
        case copy
        case set, clear
    }

    /// How the client names itself in phase 1 (ID_FQDN): the name the key server's file gives it.
    public var name: String
    public var gcks: KeyServerAddress
    /// The client's address towards the satellite; nil: that of the satellite interface.
    public var address: IPAddress?
    public var preSharedKey: Secret
    public var phase1: Phase1Settings
    public var satelliteInterface: String
    public var terrestrialInterface: String
    public var dataPlane: DataPlane
    /// The TUN or xfrm interface, which the client makes; PF_KEY needs none.
    public var tunnelInterface: String
    /// Of the satellite link, in octets.
    public var linkMTU: Int
    /// Path of the UNIX socket for the operator's commands.
    public var controlSocket: String
    public var failClosedGuard: Guard
    public var segmentClamp: SegmentClamp
    /// DSCP of the encrypted packets, 0 to 63; nil copies that of the packet inside.
    public var outerDSCP: UInt8?
    /// DF of encrypted packets over IPv4 to a peer; those to a group never have it.
    public var outerDF = OuterDF.copy
    public var packetPath = PacketPath.automatic
    public var retry: Retry
    /// What passes in clear and what never does, in the order in which it is looked at.
    public var policy: [PolicyRule]

    public static let defaultPath = "/etc/satipsec/satipsec.yaml"
    public static let defaultControlSocket = "/run/satipsec/satipsec.sock"

    static let keys = [
        "name", "gcks", "address", "psk-file", "phase1", "satellite-interface", "terrestrial-interface", "data-plane",
        "tunnel-interface", "link-mtu", "control-socket", "guard", "mss-clamp", "dscp", "outer-df", "packet-path",
        "retry", "policy",
    ]

    /// Reads a configuration file and the secret file it names.
    ///
    /// - Throws: every problem found, not only the first.
    public static func load(path: String) throws(SettingsError) -> ClientSettings {
        try parse(ConfigurationFile.read(path), file: path)
    }

    /// The same from text; `file` is the name in messages, and its folder is where relative paths start.
    static func parse(_ text: String, file: String) throws(SettingsError) -> ClientSettings {
        let problems = Problems(file: file)
        guard let top = ConfigurationFile.top(text, keys: keys, problems: problems) else { throw problems.error }
        guard let settings = ClientSettings(top, folder: Files.folder(of: file)), problems.isEmpty else {
            throw problems.error
        }
        return settings
    }

    /// Only the path of the control socket: what a command needs that asks the daemon, without access to any secret.
    public static func controlSocket(inFile path: String) throws(SettingsError) -> String {
        try ConfigurationFile.controlSocket(path, keys: keys, default: defaultControlSocket)
    }
}

extension ClientSettings {
    private init?(_ top: MappingReader, folder: String) {
        let name = top.required("name", .name)
        let server = Self.readServer(top.requiredMapping("gcks", keys: ["address", "port", "nat-port", "identity"]))
        let phase1 = Phase1Settings(top.mapping("phase1", keys: Phase1Settings.keys))
        let key = top.required("psk-file", .text).flatMap {
            SecretFiles(folder: folder, problems: top.problems)
                .preSharedKey(
                    $0, at: top.place(of: "psk-file"), isLegacyAllowed: phase1.isLegacyAllowed,
                    legacyKey: "phase1.legacy")
        }
        let address = top.optional("address", .unicast)
        if let address, let server { Self.check(address, against: server, top) }
        let satellite = top.required("satellite-interface", .interface)
        let terrestrial = top.required("terrestrial-interface", .interface)
        let dataPlane = top.optional("data-plane", Scalar<DataPlane>.word, default: .userspace)
        let tunnel = top.optional("tunnel-interface", .interface, default: "tun0")
        Self.checkDistinct(satellite, terrestrial, tunnel, top)
        let mtu = top.optional("link-mtu", Scalar<Int>.integer(576...9_000), default: 1_500)
        let socket = top.controlSocket(folder: folder, default: Self.defaultControlSocket)
        let failClosedGuard = top.optional("guard", Scalar<Guard>.word, default: .required)
        let clamp = top.optional("mss-clamp", Scalar<SegmentClamp>.word, default: .off)
        let dscp = top.optional("dscp", Scalar<UInt8?>.dscp, default: nil)
        let retry = Self.readRetry(top.mapping("retry", keys: ["first", "most"]))
        let policy = PolicyReader(top).rules()
        if dataPlane != .userspace, !policy.isEmpty {
            top.problems.add(
                top.place(of: "policy"), "is not done by data-plane: \(dataPlane.rawValue)",
                instead: "write data-plane: userspace, or leave policy out")
        }
        if dataPlane != .userspace, dscp != nil {
            top.problems.add(
                top.place(of: "dscp"), "is not done by data-plane: \(dataPlane.rawValue)",
                instead: "write data-plane: userspace, or dscp: copy")
        }
        let outerDF = top.optional("outer-df", Scalar<OuterDF>.word, default: .copy)
        if dataPlane != .userspace, outerDF != .copy {
            top.problems.add(
                top.place(of: "outer-df"), "is not done by data-plane: \(dataPlane.rawValue)",
                instead: "write data-plane: userspace, or outer-df: copy")
        }
        guard let name, let server, let key, let satellite, let terrestrial, let socket else { return nil }
        self.init(
            name: name, gcks: server, address: address, preSharedKey: key, phase1: phase1,
            satelliteInterface: satellite, terrestrialInterface: terrestrial, dataPlane: dataPlane,
            tunnelInterface: tunnel, linkMTU: mtu, controlSocket: socket, failClosedGuard: failClosedGuard,
            segmentClamp: clamp, outerDSCP: dscp,
            retry: retry, policy: policy)
        self.outerDF = outerDF
        packetPath = top.optional("packet-path", Scalar<PacketPath>.word, default: .automatic)
    }

    private static func readServer(_ reader: MappingReader?) -> KeyServerAddress? {
        guard let reader else { return nil }
        let address = reader.required("address", .unicast)
        let port = reader.optional("port", .port, default: 848)
        let natPort = reader.optional("nat-port", .port, default: 4500)
        let identity = reader.required("identity", .name)
        if port == natPort {
            reader.problems.add(
                reader.place(of: "nat-port"), "is the same as port", instead: "write 4500, or what gcks.yaml says")
        }
        guard let address, let identity else { return nil }
        return KeyServerAddress(address: address, port: port, natPort: natPort, identity: identity)
    }

    private static func check(_ address: IPAddress, against server: KeyServerAddress, _ top: MappingReader) {
        if address.isV4 != server.address.isV4 {
            top.problems.add(
                top.place(of: "address"), "\(address) is not of the GCKS's address family",
                instead: "write an \(server.address.isV4 ? "IPv4" : "IPv6") address")
        } else if address == server.address {
            top.problems.add(
                top.place(of: "address"), "\(address) is the GCKS itself", instead: "write the client's own address")
        }
    }

    private static func checkDistinct(
        _ satellite: String?, _ terrestrial: String?, _ tunnel: String, _ top: MappingReader
    ) {
        let advice = "name three different interfaces"
        if let satellite, satellite == terrestrial {
            top.problems.add(
                top.place(of: "terrestrial-interface"), "\(satellite) is the satellite-interface", instead: advice)
        }
        if tunnel == satellite || tunnel == terrestrial {
            top.problems.add(
                top.place(of: "tunnel-interface"), "\(tunnel) is another interface of this file",
                instead: "name an interface that the client may make, for example tun0")
        }
    }

    private static func readRetry(_ reader: MappingReader?) -> Retry {
        var retry = Retry()
        guard let reader else { return retry }
        retry.first = reader.optional("first", .duration(.milliseconds(100)...(.seconds(600))), default: retry.first)
        retry.most = reader.optional("most", .duration(.milliseconds(100)...(.seconds(3_600))), default: retry.most)
        if retry.most < retry.first {
            reader.problems.add(
                reader.place(of: "most"), "\(Quantity.show(retry.most)) is shorter than first",
                instead: "write at least \(Quantity.show(retry.first))")
        }
        return retry
    }
}
