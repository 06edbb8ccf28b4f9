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
    /// First two octets of each GCM IV (RFC 6054), and of each CBC IV in a group's SA; 0 for the only sender.
    public var senderID: UInt16
    /// In packets, 64 to 4,096.
    public var replayWindow: Int
    /// Octets after which the SA may protect nothing more; nil for no limit.
    public var octetLimit: UInt64?
    /// The group's name, for status and logs.
    public var name: String

    public init(
        key: SAKey, selector: TrafficSelector, suite: ESPSuite, cipherKey: Secret, authenticationKey: Secret?,
        source: IPAddress?, senderID: UInt16, replayWindow: Int = 1_024, octetLimit: UInt64? = nil, name: String
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
}

/// What one SA did.
public struct SACounters: Sendable, Hashable {
    public var packets: UInt64 = 0
    /// Inner octets.
    public var octets: UInt64 = 0
    /// Highest sequence number sent, or verified from any sender.
    public var sequence: UInt32 = 0
    public var drops: [PacketDrop: UInt64] = [:]
    /// nil while unused.
    public var lastUsed: Instant?

    public init() {}
}

/// Why an SA could not be installed or activated.
public enum SAError: Error, Sendable, Hashable {
    /// A key has not the size that its suite needs.
    case malformedKey
    /// SPI 0 never appears on the wire (RFC 4303 2.1).
    case reservedSPI
    /// More SAs than `Limits` allows.
    case tooMany
    /// There is no such SA to activate.
    case unknownAssociation
    /// libcrypto cannot do what the suite needs.
    case unsupported

    init(_ error: CryptographyError) {
        switch error {
        case .malformedKey: self = .malformedKey
        case .notAuthentic, .invalidPublicValue, .unsupported, .failed: self = .unsupported
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
    public var octetLimit: UInt64?
    /// Whether it is the one that protects its flow now; always true for an inbound SA.
    public var isActive: Bool
    /// Sender ids of which a packet was verified.
    public var senders: Int
    public var counters: SACounters

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
        octetLimit = parameters.octetLimit
        self.isActive = isActive
        self.senders = senders
        self.counters = counters
    }
}
