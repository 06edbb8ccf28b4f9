// SPDX-License-Identifier: Apache-2.0

public import Basics
public import Cryptography
public import ISAKMP

/// How one peer proves itself and what it may offer.
public struct PeerCredential: Sendable {
    /// Our name for the peer or the range of peers, for logs.
    public var name: String
    public var preSharedKey: Secret
    /// What the peer's identification payload must say; nil accepts any (a range of clients), and the engine above
    /// decides by the identity it is told.
    public var expectedIdentity: Identity?
    /// In order of preference.
    public var suites: [Phase1Suite]
    /// How long the ISAKMP SA may live.
    public var lifetime: Duration

    public init(
        name: String, preSharedKey: Secret, expectedIdentity: Identity?, suites: [Phase1Suite], lifetime: Duration
    ) {
        self.name = name
        self.preSharedKey = preSharedKey
        self.expectedIdentity = expectedIdentity
        self.suites = suites
        self.lifetime = lifetime
    }
}

/// Finds the credential for an address that starts phase 1 with us: Main Mode with pre-shared keys must choose the key
/// before it can read the identity (RFC 2409 5.4).
public protocol CredentialSource {
    func credential(for address: IPAddress) -> PeerCredential?
}

/// What an endpoint is told once.
public struct Phase1Configuration: Sendable {
    /// What we call ourselves in messages 5 and 6.
    public var identity: Identity
    /// Do we answer message 1 of strangers?
    public var isResponder: Bool
    /// The port behind NAT (RFC 3947); datagrams on it carry the non-ESP marker.
    public var natTraversalPort: UInt16 = 4500
    /// First retransmission time-out, longer than a satellite's 600 ms round trip; it doubles from try to try.
    public var retransmitAfter: Duration = .milliseconds(1_500)
    /// Idle time after which a peer is asked whether it lives (RFC 3706); nil for never.
    public var deadPeerInterval: Duration? = .seconds(30)
    /// A NAT-T keep-alive's interval for the side behind the NAT (RFC 3948 4).
    public var natKeepAlive: Duration = .seconds(20)
    /// How much of the lifetime may pass before the initiator authenticates anew, in percent.
    public var reauthenticateAtPercent = 80
    /// May `Phase1Endpoint.exportableKey` give cipher keys away, for an operator who reads his own traffic?
    public var allowsKeyExport = false
    public var limits = Limits()

    public init(identity: Identity, isResponder: Bool) {
        self.identity = identity
        self.isResponder = isResponder
    }
}

/// The pair of cookies that names an ISAKMP SA (RFC 2408 2.5.3).
public struct AssociationID: Hashable, Sendable {
    public var initiatorCookie: UInt64
    public var responderCookie: UInt64

    public init(initiatorCookie: UInt64, responderCookie: UInt64) {
        self.initiatorCookie = initiatorCookie
        self.responderCookie = responderCookie
    }
}

/// An ISAKMP SA as others may see it.
public struct AssociationInfo: Sendable {
    public var id: AssociationID
    /// `PeerCredential.name`.
    public var peerName: String
    public var peerIdentity: Identity
    public var isInitiator: Bool
    public var local: SocketAddress
    public var remote: SocketAddress
    public var suite: Phase1Suite
    public var establishedAt: Instant
    public var expiresAt: Instant
    /// Measured in phase 1 between our message and its answer; retransmitted messages do not count.
    public var roundTrip: Duration?
    /// A network address translator lies on the path.
    public var isBehindNAT: Bool
    /// Did the peer say INITIAL-CONTACT: it knows of no older SA with us?
    public var isInitialContact: Bool
    /// Both sides find out by themselves when the other is gone (RFC 3706). Nothing protects its negotiation.
    public var hasDeadPeerDetection = false

    public init(
        id: AssociationID, peerName: String, peerIdentity: Identity, isInitiator: Bool, local: SocketAddress,
        remote: SocketAddress, suite: Phase1Suite, establishedAt: Instant, expiresAt: Instant, roundTrip: Duration?,
        isBehindNAT: Bool, isInitialContact: Bool
    ) {
        self.id = id
        self.peerName = peerName
        self.peerIdentity = peerIdentity
        self.isInitiator = isInitiator
        self.local = local
        self.remote = remote
        self.suite = suite
        self.establishedAt = establishedAt
        self.expiresAt = expiresAt
        self.roundTrip = roundTrip
        self.isBehindNAT = isBehindNAT
        self.isInitialContact = isInitialContact
    }
}

/// Why an ISAKMP SA or an attempt at one ended.
public enum Phase1Failure: Error, Hashable, Sendable {
    /// Nobody answered all our transmissions.
    case noAnswer
    /// No transform both sides accept.
    case noProposalChosen
    /// Message 5 or 6 decrypts to garbage or its hash is wrong: nearly always two different pre-shared keys.
    case authenticationFailed
    /// The peer told us so, in clear: a hint, not a proof.
    case peerReports(UInt16)
    /// The identity is not the expected one.
    case wrongIdentity
    /// A message that cannot be, in this state.
    case peerMisbehaved
    /// The Diffie-Hellman value is not in the group.
    case invalidPublicValue
    /// Our cryptographic library could not compute the suite: DES and Blowfish without its legacy provider, mostly.
    case cryptographyFailed
}

/// Why a call of the engine above had no effect. Always the caller's or our limits' fault, never the peer's.
public enum Phase1UseError: Error, Hashable, Sendable {
    /// No ISAKMP SA by that name, or no longer.
    case unknownAssociation
    /// No request by that message id waits for an answer.
    case unknownMessage
    /// Not an exchange type of 240 and more, or the multicast one.
    case unsupportedExchange
    /// The message would be longer than `Limits.datagramOctetsSent`.
    case tooLong
    /// `Limits.exchangesPerAssociation` requests are in flight.
    case tooManyExchanges
    /// The cryptographic library failed.
    case cryptographyFailed
}

public enum AssociationEnd: Hashable, Sendable {
    case peerDeleted, weDeleted, expired, deadPeer, replaced
}

/// What happened, for the engine above and for the log.
public enum Phase1Event: Sendable {
    /// Both sides are authenticated. On the responder this comes in the same turn as message 6, so what the engine
    /// sends now leaves right behind it.
    case established(AssociationInfo)
    /// An attempt ended. `peer` is the credential's name where one was found.
    case failed(peer: String?, remote: SocketAddress, reason: Phase1Failure)
    case ended(AssociationInfo, reason: AssociationEnd)
    /// Time to authenticate anew: the initiator calls `initiate` again; old and new SA overlap.
    case reauthenticationDue(AssociationInfo)
    /// The peer opened a protected exchange of a type above phase 1's own (32 and more). Authentic, decrypted, and
    /// delivered once: repetitions are answered from memory.
    case request(AssociationInfo, exchange: ExchangeType, messageID: UInt32, payloads: [RawPayload])
    /// The answer to our `request`.
    case answer(AssociationInfo, exchange: ExchangeType, messageID: UInt32, payloads: [RawPayload])
    /// Our `request` was sent as often as the limits allow.
    case unanswered(AssociationInfo, exchange: ExchangeType, messageID: UInt32)
    /// The peer proved that it lives, after a DPD request or `probe`: by its answer or any other authentic message.
    case alive(AssociationInfo)
    /// Payloads of private types (128 and above) in an authentic informational message: what the peer's engine put
    /// behind its answer to dead peer detection (`Phase1Endpoint.setAnnex`).
    case annex(AssociationInfo, [RawPayload])
    /// The peer moved to another address or port (NAT), and proved it by an authentic message.
    case moved(AssociationInfo, from: SocketAddress)
    /// A datagram without effect, and why, for counters and a log line.
    case dropped(DropReason, from: SocketAddress)
}

/// Why a datagram had no effect.
public enum DropReason: String, Sendable, Hashable, CaseIterable {
    case malformed, tooLong, unknownCookies, unknownPeer, wrongState, notAuthentic, unencrypted, duplicate
    case halfOpenLimit, keyAgreementLimit, version, unsupportedExchange, wrongAddress
    /// Well-formed, but not what we offered or not in the group.
    case notAcceptable
}

/// What the endpoint wants done, in this order.
public enum Phase1Output: Sendable {
    case transmit(Datagram)
    case event(Phase1Event)
    /// Nothing more now; call `advance(to:)` at this instant at the latest (nil: only when something comes in).
    case wait(until: Instant?)
}
