// SPDX-License-Identifier: Apache-2.0

public import Basics
public import Cryptography
public import ISAKMP

// IKEv1 owns phase 1: RFC 2409 Main Mode with pre-shared keys in both roles, and the ISAKMP SAs that come of it with
// their keys, initialisation vectors, informational messages, dead peer detection (RFC 3706), NAT traversal (RFC 3947)
// and the protected exchanges of other modules. It opens no socket and reads no clock.

/// All ISAKMP SAs of one node, as initiator and as responder, sans-I/O.
///
/// One rule for callers: after each call that takes `now`, drain `poll()` until it gives `.wait(until:)`.
public final class Phase1Endpoint {
    public init(configuration: Phase1Configuration, credentials: any CredentialSource, random: any RandomSource) {
        fatalError("to come")
    }

    /// Takes in a UDP datagram of port 848, 500 or 4500.
    public func receive(_ datagram: Datagram, now: Instant) {}

    /// Starts Main Mode. The result's responder cookie is 0 until the SA is established; nil when an attempt at the
    /// same remote address is under way.
    public func initiate(
        _ credential: PeerCredential, from local: SocketAddress, to remote: SocketAddress, now: Instant
    ) -> AssociationID? { nil }

    /// Sends a protected message that wants an answer, and repeats it until `.answer` or `.unanswered`. Its message id.
    public func request(
        _ exchange: ExchangeType, _ payloads: [RawPayload], on id: AssociationID, now: Instant
    ) throws(Phase1UseError) -> UInt32 { throw .unknownAssociation }

    /// Answers a `.request` of the peer, and remembers the answer for when the request is repeated.
    public func respond(
        _ payloads: [RawPayload], to messageID: UInt32, exchange: ExchangeType, on id: AssociationID, now: Instant
    ) throws(Phase1UseError) { throw .unknownAssociation }

    /// Sends a protected message once, without an answer; the peer gets it as `.request`. Its message id.
    public func send(
        _ exchange: ExchangeType, _ payloads: [RawPayload], on id: AssociationID, now: Instant
    ) throws(Phase1UseError) -> UInt32 { throw .unknownAssociation }

    /// Tells the peer by a protected Delete and forgets the SA, or gives up an attempt.
    public func close(_ id: AssociationID, now: Instant) {}

    /// Asks the peer at once whether it lives (RFC 3706); the answer comes as `.alive`.
    public func probe(_ id: AssociationID, now: Instant) {}

    public func info(_ id: AssociationID) -> AssociationInfo? { nil }
    /// All established SAs, in no order.
    public var associations: [AssociationInfo] { [] }

    /// What Wireshark's `ikev1_decryption_table` wants: the initiator's cookie and the cipher key. nil unless
    /// `Phase1Configuration.allowsKeyExport`.
    public func exportableKey(_ id: AssociationID) -> (cookie: UInt64, key: Secret)? { nil }

    /// Does what is due.
    public func advance(to now: Instant) {}

    /// The next thing to do, in order; `.wait` when there is nothing more, then nil.
    public func poll() -> Phase1Output? { nil }
}
