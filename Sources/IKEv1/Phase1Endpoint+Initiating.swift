// SPDX-License-Identifier: Apache-2.0

public import Basics
internal import Cryptography
internal import ISAKMP

/// An exchange as initiator, with what repeats its messages.
final class Attempt {
    let cookie: UInt64
    let credential: PeerCredential
    /// Where message 1 went.
    let remote: SocketAddress
    var local: SocketAddress
    var machine: MainModeInitiator
    var octets: [UInt8]
    /// Sending through the NAT-T port, and having done so.
    var isFloated = false
    var hasFloated = false
    var backoff: Backoff
    var sentAt: Instant
    var roundTrip: Duration?
    /// Why it fails unless something better comes, and after how many transmissions of the present message.
    var doubt: Phase1Failure?
    var transmissionLimit: Int
    /// Messages under the new keys that overtook message 6.
    private(set) var early: [Received] = []
    private let earlyLimit: Int

    init(
        _ setup: MainModeInitiator.Setup, local: SocketAddress, remote: SocketAddress, now: Instant,
        configuration: Phase1Configuration, random: any RandomSource
    ) {
        cookie = setup.cookie
        credential = setup.credential
        self.local = local
        self.remote = remote
        machine = MainModeInitiator(setup, random: random)
        octets = machine.opening
        backoff = Backoff(first: configuration.retransmitAfter)
        transmissionLimit = configuration.limits.requestTransmissions
        earlyLimit = configuration.limits.earlyMessages
        sentAt = now
    }

    /// The peer, or somebody in its name, says it will not work: one more try, then this is the reason.
    func doubt(_ failure: Phase1Failure) {
        doubt = failure
        transmissionLimit = min(transmissionLimit, backoff.transmissions + 1)
    }

    func keepEarly(_ received: Received) throws(Refusal) {
        guard early.count < earlyLimit else { throw .drop(.wrongState) }
        early.append(received)
    }
}

extension Phase1Endpoint {
    /// Starts Main Mode with one of the credential's suites, of which there must be at least one. The result's
    /// responder cookie is 0: the SA is known by both cookies once it is established. nil when an attempt at the same
    /// address and port is under way. `local` may leave the address to the system, when datagrams that come in tell
    /// the real one.
    public func initiate(
        _ credential: PeerCredential, from local: SocketAddress, to remote: SocketAddress, now: Instant
    ) -> AssociationID? {
        precondition(!credential.suites.isEmpty, "a credential names at least one suite")
        mutated()
        guard attempted.insert(remote).inserted else { return nil }
        var cookie = random.next()
        while cookie == 0 || attempts[cookie] != nil { cookie = random.next() }
        let setup = MainModeInitiator.Setup(
            cookie: cookie, credential: credential, identity: configuration.identity,
            isInitialContact: !hasAssociation(with: credential), limits: limits)
        let attempt = Attempt(
            setup, local: local, remote: remote, now: now, configuration: configuration, random: random)
        attempts[cookie] = attempt
        send(attempt, now: now)
        return AssociationID(initiatorCookie: cookie, responderCookie: 0)
    }

    /// Message 2, 4 or 6, or what claims to be one.
    func take(_ received: Received, _ attempt: Attempt, now: Instant) throws(Refusal) {
        guard received.remote.address == attempt.remote.address,
            received.remote.port == attempt.remote.port
                || attempt.hasFloated && received.remote.port == configuration.natTraversalPort
        else { throw .drop(.wrongAddress) }
        if attempt.local.address.isUnspecified { attempt.local.address = received.local.address }
        let step: MainModeInitiator.Step
        do throws(Refusal) {
            step = try attempt.machine.receive(received, random: random)
        } catch {
            switch error {
            case .drop: throw error
            case .doubt(let reason, let failure):
                attempt.doubt(failure)
                throw .drop(reason)
            case .fail(let failure): return fail(attempt, failure)
            }
        }
        if attempt.backoff.transmissions == 1 {
            let sample = now - attempt.sentAt
            attempt.roundTrip = min(sample, attempt.roundTrip ?? sample)
        }
        switch step {
        case .transmit(let octets): advance(attempt, octets, isFloated: false, now: now)
        case .float(let octets): advance(attempt, octets, isFloated: true, now: now)
        case .established(let result):
            // The ports of message 6 are those on which message 5 arrived, so both sides agree on them.
            let peer = Peer(credential: attempt.credential, local: received.local, remote: received.remote)
            guard attempt.credential.accepts(result.peerIdentity) else {
                refuse(result, peer, now: now)
                return fail(attempt, .wrongIdentity)
            }
            remove(attempt)
            establish(result, peer, proof: nil, roundTrip: attempt.roundTrip, now: now)
            takeEarly(attempt.early, now: now)
        }
    }

    /// What the peer tells an attempt in clear: a hint that shortens it, since anybody could have sent it.
    func takeHint(_ received: Received, _ attempt: Attempt) throws(Refusal) {
        guard received.remote.address == attempt.remote.address else { throw .drop(.wrongAddress) }
        for payload in try received.payloads(limit: limits.payloadsPerMessage) where payload.type == .notification {
            guard let notification = try? Notification(body: payload.body) else { throw .drop(.malformed) }
            if notification.type.isError { attempt.doubt(.peerReports(notification.type.rawValue)) }
        }
        throw .drop(.unencrypted)
    }

    /// The message in flight has not been answered in time.
    func retransmit(_ attempt: Attempt, now: Instant) {
        guard attempt.backoff.transmissions < attempt.transmissionLimit else {
            return fail(attempt, attempt.doubt ?? .noAnswer)
        }
        attempt.backoff.transmitted()
        send(attempt, now: now)
    }

    func remove(_ attempt: Attempt) {
        attempts[attempt.cookie] = nil
        attempted.remove(attempt.remote)
        timers[.retransmit(attempt.cookie)] = nil
    }

    private func fail(_ attempt: Attempt, _ failure: Phase1Failure) {
        remove(attempt)
        emit(.failed(peer: attempt.credential.name, remote: attempt.remote, reason: failure))
    }

    private func advance(_ attempt: Attempt, _ octets: [UInt8], isFloated: Bool, now: Instant) {
        attempt.octets = octets
        attempt.isFloated = isFloated
        attempt.hasFloated = attempt.hasFloated || isFloated
        attempt.backoff = Backoff(first: configuration.retransmitAfter)
        attempt.transmissionLimit = limits.requestTransmissions
        attempt.doubt = nil
        attempt.sentAt = now
        send(attempt, now: now)
    }

    private func send(_ attempt: Attempt, now: Instant) {
        let path = path(attempt)
        transmit(attempt.octets, from: path.local, to: path.remote)
        timers[.retransmit(attempt.cookie)] = now + attempt.backoff.timeout
    }

    private func path(_ attempt: Attempt) -> (local: SocketAddress, remote: SocketAddress) {
        guard attempt.isFloated else { return (attempt.local, attempt.remote) }
        let port = configuration.natTraversalPort
        return (SocketAddress(attempt.local.address, port), SocketAddress(attempt.remote.address, port))
    }

    private func takeEarly(_ early: [Received], now: Instant) {
        for received in early {
            do throws(Refusal) {
                try takeExchange(received, now: now)
            } catch {
                drop(received.remote, error)
            }
        }
    }

    private func hasAssociation(with credential: PeerCredential) -> Bool {
        if let identity = credential.expectedIdentity {
            return byPeer[PeerKey(name: credential.name, identity: identity)] != nil
        }
        return byPeer.keys.contains { $0.name == credential.name }
    }
}
