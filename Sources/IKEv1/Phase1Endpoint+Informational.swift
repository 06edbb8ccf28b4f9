// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import Cryptography
internal import ISAKMP

// Informational exchanges (RFC 2409 5.7) and dead peer detection (RFC 3706):
//
//     HDR*, HASH, N(R-U-THERE, sequence)      ->
//                                             <-   HDR*, HASH, N(R-U-THERE-ACK, sequence) [, private payloads]
//     HDR*, HASH, D(cookies)                  ->   (nothing)
//     HDR, N(error)                           ->   (a hint for an attempt under way, nothing else)
//
// Each is an exchange of its own with a message id, and so a vector, of its own.

extension Phase1Endpoint {
    func takeInformational(_ received: Received, now: Instant) throws(Refusal) {
        if let association = established[received.id] {
            guard received.isEncrypted else { throw .drop(.unencrypted) }
            try takeProtected(received, association, now: now)
        } else if let attempt = attempts[received.header.initiatorCookie], !received.isEncrypted {
            try takeHint(received, attempt)
        } else {
            throw .drop(.unknownCookies)
        }
    }

    private func takeProtected(_ received: Received, _ association: Association, now: Instant) throws(Refusal) {
        let messageID = received.header.messageID
        guard messageID != 0 else { throw .drop(.malformed) }
        try checkPath(received, association)
        // With one key for both directions, our own message sent back to us would pass for the peer's.
        guard !association.isOurs(messageID), association.isNewInformational(messageID) else {
            throw .drop(.duplicate)
        }
        let (hash, payloads) = try association.open(
            received, vector: association.vector(messageID), limits: limits, isMinimal: false)
        guard constantTimeEqual(hash, association.informationalHash(messageID, payloads)) else {
            throw .drop(.notAuthentic)
        }
        association.rememberInformational(messageID)
        for payload in payloads where established[association.info.id] != nil {
            switch payload.type {
            case .notification: try takeNotification(payload, received, association, now: now)
            case .delete: try takeDelete(payload, association)
            default: break
            }
        }
        let annex = payloads.filter(\.type.isPrivate)
        if !annex.isEmpty, established[association.info.id] != nil { emit(.annex(association.info, annex)) }
    }

    private func takeNotification(
        _ payload: RawPayload, _ received: Received, _ association: Association, now: Instant
    ) throws(Refusal) {
        guard let notification = try? Notification(body: payload.body) else { throw .drop(.malformed) }
        switch notification.type {
        case .areYouThere:
            let sequence = try sequence(of: notification, association)
            if let last = association.peerSequence, sequence < last { throw .drop(.duplicate) }
            if sequence != association.peerSequence, !association.isRestored { heard(received, association, now: now) }
            association.peerSequence = sequence
            let answer = livenessNotification(.areYouThereAcknowledgement, sequence, association)
            inform(association, [answer] + association.annex)
        case .areYouThereAcknowledgement:
            let sequence = try sequence(of: notification, association)
            guard let probe = association.probe, (probe.firstSequence...probe.lastSequence).contains(sequence) else {
                throw .drop(.duplicate)
            }
            // Late, when the peer has been heard of otherwise in the meantime: no news.
            guard association.isProbing else { return }
            if probe.backoff.transmissions == 1 { association.measured(now - probe.sentAt) }
            heard(received, association, now: now)
        case .initialContact: endOlder(than: association)
        default: break
        }
    }

    /// A Delete under an SA may end that SA or another one of the same peer.
    private func takeDelete(_ payload: RawPayload, _ association: Association) throws(Refusal) {
        guard let delete = try? DeletePayload(body: payload.body) else { throw .drop(.malformed) }
        guard delete.protocolID == Proposal.isakmp else { return }
        let key = PeerKey(name: association.info.peerName, identity: association.info.peerIdentity)
        for id in byPeer[key] ?? [] where delete.spis.contains(id.octets) {
            if let named = established[id] { end(named, .peerDeleted) }
        }
    }

    /// The timer of dead peer detection: nothing while the peer is heard of, otherwise a question, and after as many
    /// as a request may have transmissions the end.
    func askWhetherAlive(_ association: Association, now: Instant) {
        let id = association.info.id
        if association.isProbing {
            let transmissions = association.probe?.backoff.transmissions ?? 0
            guard transmissions < limits.requestTransmissions else { return end(association, .deadPeer) }
        } else if let interval = configuration.deadPeerInterval, now - association.lastHeard < interval {
            timers[.deadPeer(id)] = association.lastHeard + interval
            return
        }
        ask(association, now: now)
    }

    /// Sends the next R-U-THERE.
    func ask(_ association: Association, now: Instant) {
        let id = association.info.id
        association.sequence &+= 1
        if association.isProbing {
            association.probe?.lastSequence = association.sequence
            association.probe?.backoff.transmitted()
        } else {
            association.probe = Association.Probe(
                firstSequence: association.sequence, lastSequence: association.sequence, sentAt: now,
                backoff: Backoff(first: association.requestTimeout(configuration)))
        }
        inform(association, [livenessNotification(.areYouThere, association.sequence, association)])
        if let probe = association.probe { timers[.deadPeer(id)] = now + probe.backoff.timeout }
    }

    func sendDelete(_ association: Association) {
        let delete = DeletePayload(spis: [association.info.id.octets])
        inform(association, [RawPayload(.delete, delete.body())])
    }

    /// Sends a protected informational message, once.
    private func inform(_ association: Association, _ payloads: [RawPayload]) {
        let messageID = association.informationalID()
        let hash = association.informationalHash(messageID, payloads)
        let vector = association.vector(messageID)
        // The library computed this suite in Main Mode; should it fail now, the message is as good as lost.
        guard let octets = try? association.seal(.informational, messageID, hash: hash, payloads, vector: vector)
        else { return }
        transmit(octets, on: association)
    }

    private func livenessNotification(
        _ type: NotifyType, _ sequence: UInt32, _ association: Association
    ) -> RawPayload {
        var data = OctetWriter()
        data.u32(sequence)
        let notification = Notification(spi: association.info.id.octets, type: type, data: data.bytes)
        return RawPayload(.notification, notification.body())
    }

    private func sequence(of notification: Notification, _ association: Association) throws(Refusal) -> UInt32 {
        var reader = OctetReader(notification.data)
        // spec: RFC 3706 7.4 - the cookies must be those of the SA
        guard notification.spi == association.info.id.octets, let sequence = try? reader.u32(), reader.isEmpty else {
            throw .drop(.malformed)
        }
        return sequence
    }
}
