// SPDX-License-Identifier: Apache-2.0

public import Basics
internal import Cryptography
internal import ISAKMP

extension Phase1Endpoint {
    /// Message 1 of somebody, for the first time or again.
    func takeOpening(_ received: Received, now: Instant) throws(Refusal) {
        guard configuration.isResponder else { throw .drop(.unknownPeer) }
        guard !received.isEncrypted else { throw .drop(.malformed) }
        guard let credential = credentials.credential(for: received.remote.address) else {
            throw .drop(.unknownPeer)
        }
        guard members.admitOpening(received.remote.address, limits, now: now) else { throw .drop(.halfOpenLimit) }
        if let answer = openings.answer(received, credential, configuration, now: now) {
            return transmit(answer, from: received.local, to: received.remote)
        }
        let opening = HalfOpenExchange.Opening(remote: received.remote, octets: received.octets)
        if let exchange = halfOpen[opening] {
            // Once message 3 is there, a late message 1 wants nothing any more.
            if !exchange.responder.isProven {
                exchange.isSampleClean = false
                transmit(exchange.responder.answer, from: received.local, to: received.remote)
            }
            throw .drop(.duplicate)
        }
        let responder: MainModeResponder
        do throws(Refusal) {
            responder = try MainModeResponder(
                received, cookie: responderCookie(for: received), credential: credential,
                identity: configuration.identity, limits: limits)
        } catch {
            guard case .fail(let failure) = error else { throw error }
            emit(.failed(peer: credential.name, remote: received.remote, reason: failure))
            report(.noProposalChosen, received.id, to: received)
            return
        }
        guard responder.answer.count <= received.octets.count else { throw .drop(.malformed) }
        try insert(HalfOpenExchange(opening, at: received.local.port, responder, now: now), now: now)
        transmit(responder.answer, from: received.local, to: received.remote)
    }

    private func insert(_ exchange: HalfOpenExchange, now: Instant) throws(Refusal) {
        try makeRoom(for: exchange.opening.remote.address)
        halfOpen.insert(exchange)
        timers[.halfOpen(exchange.id)] = now + limits.halfOpenLifetime
    }

    /// The exchange that a message 3 goes on with whose message 1 we answered and kept nothing of.
    func exchange(of received: Received, now: Instant) throws(Refusal) -> HalfOpenExchange {
        guard configuration.isResponder, !received.isEncrypted,
            let credential = credentials.credential(for: received.remote.address),
            let octets = openings.opening(before: received, credential, configuration, now: now)
        else { throw .drop(.unknownCookies) }
        try admitKeyAgreement(received.remote.address, credential, now: now)
        var reader = OctetReader(octets)
        guard let header = try? Header(reading: &reader) else { throw .drop(.unknownCookies) }
        let opening = Received(octets: octets, header: header, local: received.local, remote: received.remote)
        let responder = try MainModeResponder(
            opening, cookie: received.header.responderCookie, credential: credential,
            identity: configuration.identity, limits: limits)
        let exchange = HalfOpenExchange(
            HalfOpenExchange.Opening(remote: received.remote, octets: octets), at: received.local.port, responder,
            now: now)
        // When message 2 went out is not known.
        exchange.isSampleClean = false
        try insert(exchange, now: now)
        return exchange
    }

    private func admitKeyAgreement(
        _ address: IPAddress, _ credential: PeerCredential, now: Instant
    ) throws(Refusal) {
        let hasProven = openings.hasProven(credential)
        guard keyAgreements.admit(address, hasProven: hasProven, limits, now: now) else {
            throw .drop(.keyAgreementLimit)
        }
    }

    /// Message 3 or 5.
    /// - Parameter isAdmitted: that message 3 may cost a computation is decided.
    func take(
        _ received: Received, _ exchange: HalfOpenExchange, isAdmitted: Bool = false, now: Instant
    ) throws(Refusal) {
        let origin = exchange.opening.remote
        // Only message 5 may change ports, and only with a translator on the path: for that of NAT traversal, and what
        // the translator makes of it. Without one, a copy that somebody sent to the other port would bind the SA to it.
        let isSamePath = received.remote == origin && received.local.port == exchange.localPort
        let mayMove = received.isEncrypted && exchange.responder.isTranslated
        guard isSamePath || mayMove && received.remote.address == origin.address else { throw .drop(.wrongAddress) }
        if !isAdmitted, !received.isEncrypted, exchange.responder.isNews(received) {
            try admitKeyAgreement(origin.address, exchange.responder.credential, now: now)
        }
        let step: MainModeResponder.Step
        do throws(Refusal) {
            step = try exchange.responder.receive(received, random: random)
        } catch {
            switch error {
            case .drop: throw error
            case .doubt(let reason, let failure):
                report(failure, exchange, to: received)
                throw .drop(reason)
            case .fail(let failure):
                report(failure, exchange, to: received)
                remove(exchange)
                return
            }
        }
        if exchange.isSampleClean {
            let sample = now - exchange.sentAt
            exchange.roundTrip = min(sample, exchange.roundTrip ?? sample)
        }
        switch step {
        case .transmit(let octets):
            exchange.isSampleClean = octets != exchange.lastAnswer
            exchange.lastAnswer = octets
            exchange.sentAt = now
            transmit(octets, from: received.local, to: received.remote)
        case .established(let octets, let result):
            remove(exchange)
            transmit(octets, from: received.local, to: received.remote)
            openings.remember(
                exchange.opening.octets, answer: exchange.responder.answer, exchange.responder.credential,
                configuration)
            establish(
                result,
                Peer(credential: exchange.responder.credential, local: received.local, remote: received.remote),
                proof: (Self.digest(received), octets), roundTrip: exchange.roundTrip, now: now)
        }
    }

    /// An exchange has taken too long.
    func expire(_ exchange: HalfOpenExchange) {
        remove(exchange)
        // Of an address that never answered nobody needs to hear: anybody can make up a message 1.
        if exchange.responder.isProven, !exchange.isFailureReported {
            emit(.failed(peer: exchange.responder.credential.name, remote: exchange.opening.remote, reason: .noAnswer))
        }
    }

    /// Forgets exchanges that are not finished: the credential which they began with holds no longer.
    /// - Parameter isMeant: asked with what the exchange began with, and the address that it is with.
    public func abandonExchanges(where isMeant: (PeerCredential, IPAddress) -> Bool) {
        mutated()
        for exchange in halfOpen.all where isMeant(exchange.responder.credential, exchange.opening.remote.address) {
            remove(exchange)
        }
    }

    private func remove(_ exchange: HalfOpenExchange) {
        halfOpen.remove(exchange)
        halfOpen.compact()
        timers[.halfOpen(exchange.id)] = nil
    }

    private func makeRoom(for address: IPAddress) throws(Refusal) {
        let (hasRoom, victim) = halfOpen.room(for: address, limits, random: random)
        guard !hasRoom else { return }
        guard let victim else { throw .drop(.halfOpenLimit) }
        remove(victim)
        emit(.dropped(.halfOpenLimit, from: victim.opening.remote))
    }

    /// Random: unique, and nobody can guess it (RFC 2408 2.5.3). The state behind it is ours to keep anyway, since
    /// message 3 does not repeat the offer that HASH_I covers.
    private func responderCookie(for received: Received) -> UInt64 {
        while true {
            let cookie = random.next()
            let id = AssociationID(
                initiatorCookie: received.header.initiatorCookie, responderCookie: cookie)
            if cookie != 0, halfOpen[id] == nil, established[id] == nil { return cookie }
        }
    }

    /// Reports why an exchange fails, once: to the log, and to the peer in clear where it can act on it.
    private func report(_ failure: Phase1Failure, _ exchange: HalfOpenExchange, to received: Received) {
        guard !exchange.isFailureReported else { return }
        exchange.isFailureReported = true
        emit(.failed(peer: exchange.responder.credential.name, remote: received.remote, reason: failure))
        switch failure {
        case .authenticationFailed, .wrongIdentity: report(.authenticationFailed, exchange.id, to: received)
        case .noAnswer, .noProposalChosen, .peerReports, .peerMisbehaved, .invalidPublicValue, .cryptographyFailed:
            break
        }
    }

    /// A notification in clear: the peer may not have our keys, and under keys it could not read it (RFC 2409 5.7). It
    /// is never longer than what it answers.
    private func report(_ type: NotifyType, _ id: AssociationID, to received: Received) {
        let notification = Notification(spi: id.octets, type: type)
        let octets = message(
            [RawPayload(.notification, notification.body())], .informational, id,
            messageID: UInt32(truncatingIfNeeded: random.next()) | 1)
        guard octets.count <= received.octets.count else { return }
        transmit(octets, from: received.local, to: received.remote)
    }
}
