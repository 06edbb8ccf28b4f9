// SPDX-License-Identifier: Apache-2.0

public import Basics
public import Cryptography

// ESP owns the data plane's protocol (RFC 4303, tunnel mode, RFC 4301): the SAD, the SPD, the transforms and the replay
// window. It opens no socket; callers own every buffer.

/// Names an SA: SPI and outer destination (RFC 4303 2.1; the source distinguishes senders of a multicast SA).
public struct SAKey: Hashable, Sendable {
    public var spi: UInt32
    /// The group address itself, or this client for a unicast SA.
    public var destination: IPAddress

    public init(spi: UInt32, destination: IPAddress) {
        self.spi = spi
        self.destination = destination
    }
}

public struct UDPEncapsulation: Hashable, Sendable {
    /// Our port, that of IKE behind a NAT (4500).
    public var localPort: UInt16
    /// Where the peer's packets come from and ours go to: its address as others see it.
    public var remote: SocketAddress

    public init(localPort: UInt16, remote: SocketAddress) {
        self.localPort = localPort
        self.remote = remote
    }
}

/// All that the data plane needs to know of one SA in one direction.
public struct SAParameters: Sendable, Equatable {
    public var key: SAKey
    /// Which inner packets it may carry.
    public var selector: TrafficSelector
    public var suite: ESPSuite
    public var cipherKey: Secret
    public var authenticationKey: Secret?
    /// Outer source of what we send; nil for an inbound SA: any sender (each sender id has replay state of its own).
    public var source: IPAddress?
    /// First two octets of each AEAD IV (RFC 6054), and of each CBC IV in a group's SA; 0 for the only sender.
    public var senderID: UInt16
    /// Sequence numbers of 64 bits, of which a packet shows the lower half (RFC 4303 2.2.1). For a unicast SA only.
    public var extendedSequence = false
    /// In packets, 64 to 4,096.
    public var replayWindow: Int
    /// Octets after which the SA may protect nothing more; nil for no limit but the suite's own.
    public var octetLimit: UInt64?
    /// The group's name, for status and logs.
    public var name: String
    /// Nobody else ever sends with this SA: one replay window is enough, and vectors need not tell senders apart.
    public var hasOneSender: Bool
    /// How long it may live from now on; nil: until it is removed. Enforced by back ends in the kernel, where an SA
    /// outlives a client that was killed.
    public var lifetime: Duration?
    /// ESP in UDP (RFC 3948); nil for plain ESP. Unicast SAs alone have it.
    public var encapsulation: UDPEncapsulation?

    /// What the suite allows if that is less: whoever configured a limit, a sender keeps to it.
    var outboundOctetLimit: UInt64? {
        guard let most = suite.octetLimit else { return octetLimit }
        return min(octetLimit ?? most, most)
    }

    /// The last sequence number there is. Extended ones end with the 48-bit counter of an AEAD's IVs.
    var lastSequence: UInt64 { extendedSequence ? 1 << 48 - 1 : UInt64(UInt32.max) }

    public init(
        key: SAKey, selector: TrafficSelector, suite: ESPSuite, cipherKey: Secret, authenticationKey: Secret?,
        source: IPAddress?, senderID: UInt16, replayWindow: Int = 1_024, octetLimit: UInt64? = nil, name: String,
        hasOneSender: Bool = false, lifetime: Duration? = nil
    ) {
        self.key = key
        self.selector = selector
        self.suite = suite
        self.cipherKey = cipherKey
        self.authenticationKey = authenticationKey
        self.source = source
        self.senderID = senderID
        self.replayWindow = replayWindow
        self.octetLimit = octetLimit
        self.name = name
        self.hasOneSender = hasOneSender
        self.lifetime = lifetime
    }
}

/// What the control plane asks of a data plane back end. Each is idempotent.
public enum SAChange: Sendable {
    /// Install for receiving. For a group: join it on the satellite side and route it to the LAN.
    case addInbound(SAParameters)
    /// Keep ready for sending; nothing is sent with it yet. For a group: route it from the LAN into the tunnel (where
    /// it is dropped as long as no SA is active).
    case addOutbound(SAParameters)
    /// From now on, send what matches its selector with this SA.
    case activateOutbound(SAKey)
    case removeInbound(SAKey)
    case removeOutbound(SAKey)
    /// Everything goes, at once (the client shuts down or lost its authorisation).
    case removeAll
}

/// Why a packet was dropped: one counter each.
public enum PacketDrop: String, Error, Sendable, Hashable, CaseIterable {
    case malformed, unknownSPI, replay, notAuthentic, expired, noPolicy, policyMismatch, tooBig, noActiveSA
    case sequenceExhausted, senderLimit, dummy, ownPacket, socketError
    /// By a rule of the client's own policy.
    case discarded
    /// Marked on its way by a router, though its sender knows no marks (RFC 6040 4.2).
    case congestion
    /// In UDP though its SA is for plain ESP, or the reverse.
    case encapsulation
}

/// What one SA did.
public struct SACounters: Sendable, Hashable {
    public var packets: UInt64 = 0
    /// Inner octets.
    public var octets: UInt64 = 0
    /// Highest sequence number sent, or verified from any sender.
    public var sequence: UInt64 = 0
    public var drops: [PacketDrop: UInt64] = [:]
    /// nil while unused.
    public var lastUsed: Instant?

    public init() {}
}

/// Why an SA could not be installed or activated.
public enum SAError: Error, Sendable, Hashable {
    /// A key has not the size that its suite needs, or is one of a cipher's weak ones.
    case malformedKey
    /// SPI 0 never appears on the wire (RFC 4303 2.1).
    case reservedSPI
    /// More SAs than `Limits` allows.
    case tooMany
    /// There is no such SA to activate.
    case unknownAssociation
    /// Extended sequence numbers are for unicast SAs: who joins a group late does not know the upper half.
    case extendedSequence
    /// libcrypto cannot do what the suite needs.
    case unsupported(ESPSuite)
    /// DES and Blowfish come from OpenSSL's legacy provider, which is not installed.
    case legacyProviderMissing(ESPSuite)

    init(_ error: CryptographyError, suite: ESPSuite) {
        switch (error, suite.encryption) {
        case (.malformedKey, _): self = .malformedKey
        case (.unsupported, .cbc(.des)), (.unsupported, .cbc(.blowfish)): self = .legacyProviderMissing(suite)
        default: self = .unsupported(suite)
        }
    }
}

extension SAError: CustomStringConvertible {
    public var description: String {
        switch self {
        case .malformedKey: "a key does not fit its suite"
        case .reservedSPI: "SPI 0 is reserved"
        case .tooMany: "there are too many SAs"
        case .unknownAssociation: "there is no such SA"
        case .extendedSequence: "a group's SA cannot have extended sequence numbers"
        case .unsupported(let suite): "libcrypto on this machine cannot do \(suite)"
        case .legacyProviderMissing(let suite):
            "\(suite) needs OpenSSL's legacy provider (ossl-modules/legacy.so; on Debian in the package libssl3),"
                + " which is not installed"
        }
    }
}

/// What one SA is and did, without its keys: for status, metrics and reports.
public struct SAStatus: Sendable, Hashable {
    public enum Direction: String, Sendable, Hashable {
        case inbound, outbound
    }

    public var key: SAKey
    public var direction: Direction
    /// The group's or VPN's name.
    public var name: String
    public var suite: ESPSuite
    public var selector: TrafficSelector
    /// Outer source of what we send.
    public var source: IPAddress?
    public var senderID: UInt16
    /// Octets after which it protects nothing more, and the last sequence number it may use.
    public var octetLimit: UInt64?
    public var lastSequence: UInt64
    /// Whether it is the one that protects its flow now; always true for an inbound SA.
    public var isActive: Bool
    /// Sender ids of which a packet was verified.
    public var senders: Int
    public var counters: SACounters
    /// How its packets travel; nil for plain ESP.
    public var encapsulation: UDPEncapsulation?

    public init(
        _ parameters: SAParameters, direction: Direction, isActive: Bool, senders: Int, counters: SACounters
    ) {
        key = parameters.key
        self.direction = direction
        name = parameters.name
        suite = parameters.suite
        selector = parameters.selector
        source = parameters.source
        senderID = parameters.senderID
        octetLimit = direction == .outbound ? parameters.outboundOctetLimit : parameters.octetLimit
        lastSequence = parameters.lastSequence
        self.isActive = isActive
        self.senders = senders
        self.counters = counters
        encapsulation = parameters.encapsulation
    }

    /// Whether most of what it may send is sent, and it is time for new keys: long before a packet has to be dropped.
    public var isWorn: Bool {
        guard direction == .outbound else { return false }
        if let octetLimit, counters.octets >= octetLimit / 100 * Self.wornPercent { return true }
        return counters.sequence >= lastSequence / 100 * Self.wornPercent
    }

    private static let wornPercent: UInt64 = 80
}
