// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import Cryptography
internal import ISAKMP

/// Whom an ISAKMP SA is with. Under a credential for a range of clients the identity tells them apart.
struct PeerKey: Hashable {
    let name: String
    let identity: Identity
}

/// The other end of a finished Main Mode.
struct Peer {
    let credential: PeerCredential
    let local: SocketAddress
    let remote: SocketAddress
}

extension Phase1Endpoint {
    /// Takes a finished Main Mode into use.
    func establish(
        _ result: MainModeResult, _ peer: Peer, proof: (digest: [UInt8], answer: [UInt8])?, roundTrip: Duration?,
        now: Instant
    ) {
        let association = association(result, peer, proof: proof, roundTrip: roundTrip, now: now)
        let info = association.info
        established[info.id] = association
        members.add(info.remote.address)
        changed.insert(info.id)
        let key = PeerKey(name: info.peerName, identity: info.peerIdentity)
        byPeer[key, default: []].append(info.id)
        setTimers(association, lifetime: result.lifetime, now: now)
        emit(.established(info))
        if info.isInitialContact { endOlder(than: association) }
        while let ids = byPeer[key], ids.count > max(1, limits.associationsPerPeer), let oldest = established[ids[0]] {
            sendDelete(oldest)
            end(oldest, .replaced)
        }
    }

    /// Tells a peer that took the SA into use that we do not.
    func refuse(_ result: MainModeResult, _ peer: Peer, now: Instant) {
        sendDelete(association(result, peer, proof: nil, roundTrip: nil, now: now))
    }

    private func association(
        _ result: MainModeResult, _ peer: Peer, proof: (digest: [UInt8], answer: [UInt8])?, roundTrip: Duration?,
        now: Instant
    ) -> Association {
        var info = AssociationInfo(
            id: result.keys.id, peerName: peer.credential.name, peerIdentity: result.peerIdentity,
            isInitiator: proof == nil, local: peer.local, remote: peer.remote, suite: result.suite, establishedAt: now,
            expiresAt: now + result.lifetime, roundTrip: roundTrip, isBehindNAT: result.nat.isOnPath,
            isInitialContact: result.isInitialContact)
        info.hasDeadPeerDetection = result.features.hasDeadPeerDetection && configuration.deadPeerInterval != nil
        return Association(info, result, proof: proof, limits: limits, random: random)
    }

    private func setTimers(_ association: Association, lifetime: Duration, now: Instant) {
        let info = association.info
        timers[.expire(info.id)] = info.expiresAt
        if info.isInitiator {
            // Up to a tenth of the lifetime early, so that clients that came in one burst do not come back in one.
            let percent = Duration.nanoseconds(lifetime.wholeNanoseconds / 100)
            let latest = percent * configuration.reauthenticateAtPercent
            timers[.reauthenticate(info.id)] = now + max(.zero, latest - random.duration(below: percent * 10))
        }
        if association.features.hasDeadPeerDetection, let interval = configuration.deadPeerInterval {
            timers[.deadPeer(info.id)] = now + interval
        }
        if association.nat.weAreBehind { timers[.keepAlive(info.id)] = now + configuration.natKeepAlive }
    }

    /// Forgets an SA and says so.
    func end(_ association: Association, _ reason: AssociationEnd) {
        let info = association.info
        guard established.removeValue(forKey: info.id) != nil else { return }
        members.remove(info.remote.address)
        let key = PeerKey(name: info.peerName, identity: info.peerIdentity)
        byPeer[key]?.removeAll { $0 == info.id }
        if byPeer[key]?.isEmpty == true { byPeer[key] = nil }
        for messageID in association.pending.keys { timers[.request(info.id, messageID)] = nil }
        timers[.expire(info.id)] = nil
        timers[.reauthenticate(info.id)] = nil
        timers[.deadPeer(info.id)] = nil
        timers[.keepAlive(info.id)] = nil
        emit(.ended(info, reason: reason))
    }

    /// The peer knows of no older SA with us, so those we remember are dead (RFC 2407 4.6.3.3).
    func endOlder(than association: Association) {
        let key = PeerKey(name: association.info.peerName, identity: association.info.peerIdentity)
        for id in byPeer[key] ?? [] {
            guard id != association.info.id else { return }
            if let older = established[id] { end(older, .replaced) }
        }
    }

    /// Where may a message of an SA come from? From where the last one came; behind a translator from elsewhere too,
    /// but then it counts only once it proves authentic and new (RFC 3947 4).
    func checkPath(_ received: Received, _ association: Association) throws(Refusal) {
        let info = association.info
        guard received.local.port == info.local.port,
            received.remote == info.remote || association.nat.peerIsBehind
        else { throw .drop(.wrongAddress) }
    }

    /// An authentic message that is no repetition has come in.
    func heard(_ received: Received, _ association: Association, now: Instant) {
        association.lastHeard = now
        if association.isProbing {
            association.probe?.isAnswered = true
            emit(.alive(association.info))
            timers[.deadPeer(association.info.id)] = configuration.deadPeerInterval.map { now + $0 }
        }
        let old = association.info.remote
        guard received.remote != old else { return }
        association.info.remote = received.remote
        members.remove(old.address)
        members.add(received.remote.address)
        changed.insert(association.info.id)
        emit(.moved(association.info, from: old))
    }

    /// Does what one timer asks for.
    func fire(_ timer: Phase1Timer, now: Instant) {
        switch timer {
        case .retransmit(let cookie):
            if let attempt = attempts[cookie] { retransmit(attempt, now: now) }
        case .halfOpen(let id):
            if let exchange = halfOpen[id] { expire(exchange) }
        case .request(let id, let messageID):
            if let association = established[id] { retransmit(messageID, association, now: now) }
        case .deadPeer(let id):
            if let association = established[id] { askWhetherAlive(association, now: now) }
        case .keepAlive(let id):
            guard let association = established[id] else { return }
            transmitKeepAlive(on: association)
            timers[.keepAlive(id)] = now + max(.seconds(1), configuration.natKeepAlive)
        case .reauthenticate(let id):
            if let association = established[id] { emit(.reauthenticationDue(association.info)) }
        case .expire(let id):
            guard let association = established[id] else { return }
            sendDelete(association)
            end(association, .expired)
        }
    }
}
