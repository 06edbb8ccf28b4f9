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
///
/// As responder it sends an address that has not proved itself never more octets than came from there, answers a
/// repeated message with the same octets, and repeats nothing on its own. For a message 1 as our own clients send it,
/// it keeps nothing. What is not authentic never ends an attempt
/// at once: the genuine message may still come.
public final class Phase1Endpoint {
    let configuration: Phase1Configuration
    let credentials: any CredentialSource
    let random: any RandomSource

    /// As initiator, by our cookie.
    var attempts: [UInt64: Attempt] = [:]
    /// Whom attempts are under way to.
    var attempted: Set<SocketAddress> = []
    /// As responder, before message 5.
    var halfOpen = HalfOpenTable()
    var openings: KnownOpenings
    var keyAgreements = KeyAgreementBudget()
    /// Where there are peers with an SA; and how many messages 1 from there may be answered.
    var members = MemberAddresses()
    var established: [AssociationID: Association] = [:]
    /// SAs of one peer, the oldest first.
    var byPeer: [PeerKey: [AssociationID]] = [:]
    var timers = DeadlineQueue<Phase1Timer>()
    /// See `takeChanged`.
    var changed: Set<AssociationID> = []

    private var outputs: [Phase1Output] = []
    private var taken = 0
    private var isDrained = true

    /// `configuration` and `credentials` hold for all SAs to come. `random` gives cookies, nonces and private keys.
    public init(configuration: Phase1Configuration, credentials: any CredentialSource, random: any RandomSource) {
        self.configuration = configuration
        self.credentials = credentials
        self.random = random
        openings = KnownOpenings(key: Secret(random: random, count: configuration.isResponder ? 32 : 0))
    }

    var limits: Limits { configuration.limits }

    /// Takes in a UDP datagram of port 848, 500 or 4500. Whatever is wrong with it comes out as `.dropped`.
    public func receive(_ datagram: Datagram, now: Instant) {
        isDrained = false
        do throws(Refusal) {
            if let received = try read(datagram) { try dispatch(received, now: now) }
        } catch {
            drop(datagram.remote, error)
        }
    }

    /// Tells the peer by a protected Delete and forgets the SA; or gives up an attempt, in silence.
    public func close(_ id: AssociationID, now: Instant) {
        isDrained = false
        if let association = established[id] {
            sendDelete(association)
            end(association, .weDeleted)
        } else if id.responderCookie == 0, let attempt = attempts[id.initiatorCookie] {
            remove(attempt)
        }
    }

    /// Asks the peer now whether it lives (RFC 3706); the answer comes as `.alive`, silence as `.ended(.deadPeer)`.
    public func probe(_ id: AssociationID, now: Instant) {
        isDrained = false
        guard let association = established[id], association.features.hasDeadPeerDetection, !association.isProbing
        else { return }
        ask(association, now: now)
    }

    /// What goes behind each answer to a question whether we live, from now on: for peers only that are known to
    /// understand it. RFC 3706 knows of no such payload.
    public func setAnnex(_ payloads: [RawPayload], on id: AssociationID) { established[id]?.annex = payloads }

    public func info(_ id: AssociationID) -> AssociationInfo? { established[id]?.info }

    /// All established SAs, in no order.
    public var associations: [AssociationInfo] { established.values.map(\.info) }

    /// What Wireshark's `ikev1_decryption_table` wants: the initiator's cookie and the cipher key. nil unless
    /// `Phase1Configuration.allowsKeyExport`.
    public func exportableKey(_ id: AssociationID) -> (cookie: UInt64, key: Secret)? {
        guard configuration.allowsKeyExport, let association = established[id] else { return nil }
        return (id.initiatorCookie, association.keys.key)
    }

    /// Does what is due.
    public func advance(to now: Instant) {
        isDrained = false
        while let timer = timers.popDue(now) { fire(timer, now: now) }
    }

    /// The next thing to do, in order; `.wait` when there is nothing more, then nil.
    public func poll() -> Phase1Output? {
        if taken < outputs.count {
            defer { taken += 1 }
            return outputs[taken]
        }
        outputs.removeAll(keepingCapacity: outputs.count < 1_024)
        taken = 0
        guard !isDrained else { return nil }
        isDrained = true
        return .wait(until: timers.next())
    }

    // MARK: In

    /// Takes the framing of the NAT-T port off and reads the header; nil for a keep-alive, which means nothing here.
    private func read(_ datagram: Datagram) throws(Refusal) -> Received? {
        guard datagram.bytes.count <= limits.datagramOctets else { throw .drop(.tooLong) }
        var octets = datagram.bytes
        if datagram.local.port == configuration.natTraversalPort {
            guard octets != NATTraversal.keepAlive else { return nil }
            guard octets.starts(with: NATTraversal.nonESPMarker) else { throw .drop(.malformed) }
            octets.removeFirst(NATTraversal.nonESPMarker.count)
        }
        var reader = OctetReader(octets)
        do throws(ISAKMPError) {
            let header = try Header(reading: &reader)
            return Received(octets: octets, header: header, local: datagram.local, remote: datagram.remote)
        } catch {
            throw .drop(error == .unsupportedVersion ? .version : .malformed)
        }
    }

    private func dispatch(_ received: Received, now: Instant) throws(Refusal) {
        let header = received.header
        guard header.initiatorCookie != 0, header.flags & ~Header.encryptionFlag == 0 else { throw .drop(.malformed) }
        switch header.exchange {
        case .mainMode: try takeMainMode(received, now: now)
        case .informational: try takeInformational(received, now: now)
        case .push: throw .drop(.unsupportedExchange)
        default:
            guard header.exchange.rawValue >= ExchangeType.firstPrivate else { throw .drop(.unsupportedExchange) }
            try takeExchange(received, now: now)
        }
    }

    private func takeMainMode(_ received: Received, now: Instant) throws(Refusal) {
        guard received.header.messageID == 0 else { throw .drop(.malformed) }
        if let attempt = attempts[received.header.initiatorCookie] {
            // A responder cookie of 0 would be our own message 1, reflected.
            guard received.header.responderCookie != 0 else { throw .drop(.unknownCookies) }
            try take(received, attempt, now: now)
        } else if received.header.responderCookie == 0 {
            try takeOpening(received, now: now)
        } else if let exchange = halfOpen[received.id] {
            try take(received, exchange, now: now)
        } else if let association = established[received.id] {
            try takeLate(received, association)
        } else {
            try take(received, exchange(of: received, now: now), isAdmitted: true, now: now)
        }
    }

    /// A Main Mode message after the SA is there: the initiator missed message 6 and repeats message 5.
    private func takeLate(_ received: Received, _ association: Association) throws(Refusal) {
        guard let proof = association.proof, received.isEncrypted else { throw .drop(.duplicate) }
        guard Self.digest(received) == proof.digest else { throw .drop(.wrongState) }
        guard received.remote.address == association.info.remote.address else { throw .drop(.wrongAddress) }
        // To where it came from: behind NAT that may be another port by now. What anybody can repeat moves nothing.
        transmit(proof.answer, from: received.local, to: received.remote)
        throw .drop(.duplicate)
    }

    static func digest(_ received: Received) -> [UInt8] { HashAlgorithm.sha256.digest(received.octets) }

    // MARK: Out

    func emit(_ event: Phase1Event) { outputs.append(.event(event)) }

    /// Reports a datagram without effect.
    func drop(_ remote: SocketAddress, _ refusal: Refusal) {
        switch refusal {
        case .drop(let reason), .doubt(let reason, _): emit(.dropped(reason, from: remote))
        case .fail: emit(.dropped(.wrongState, from: remote))
        }
    }

    /// Every message on the NAT-T port carries the marker (RFC 3948 2.2).
    func transmit(_ octets: [UInt8], from local: SocketAddress, to remote: SocketAddress) {
        let framing = local.port == configuration.natTraversalPort ? NATTraversal.nonESPMarker : []
        outputs.append(.transmit(Datagram(local: local, remote: remote, bytes: framing + octets)))
    }

    func transmit(_ octets: [UInt8], on association: Association) {
        noteReservation(of: association)
        transmit(octets, from: association.info.local, to: association.info.remote)
    }

    /// A NAT keep-alive has no marker.
    func transmitKeepAlive(on association: Association) {
        let info = association.info
        outputs.append(
            .transmit(Datagram(local: info.local, remote: info.remote, bytes: NATTraversal.keepAlive)))
    }

    /// After a mutation by one of the public calls in the extensions.
    func mutated() { isDrained = false }
}

extension ExchangeType {
    /// Where the types for private use begin (RFC 2408 3.1), FMKE's among them.
    static let firstPrivate: UInt8 = 240
}
