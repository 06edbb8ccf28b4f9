// SPDX-License-Identifier: Apache-2.0

public import Basics
internal import Cryptography
public import ISAKMP

// The protected exchanges of other modules, types 240 and more (FMKE's CONFIGURE and STATUS):
//
//     HDR*, HASH(M-ID | type | payloads)      ->          request: repeated until the answer comes
//                                             <-   HDR*, HASH(M-ID | type | 1 | HASH of the request | payloads)
//     HDR*, HASH(M-ID | type | payloads)      ->          one-way: sent once, no answer
//
// The vector of a request is hash(last block of message 6 | M-ID), that of its answer the request's last block.

extension Phase1Endpoint {
    /// Sends a protected message that wants an answer, and repeats it until `.answer` or `.unanswered`. Its message id.
    ///
    /// The first time-out follows the measured round trip: 1.5 times that and 200 ms, at least 500 ms; it doubles from
    /// try to try, up to eightfold. Several may be in flight.
    public func request(
        _ exchange: ExchangeType, _ payloads: [RawPayload], on id: AssociationID, now: Instant
    ) throws(Phase1UseError) -> UInt32 {
        mutated()
        guard let association = established[id] else { throw .unknownAssociation }
        guard association.pending.count < limits.exchangesPerAssociation else { throw .tooManyExchanges }
        let sealed = try seal(exchange, payloads, association)
        let pending = Association.PendingRequest(
            exchange: exchange, octets: sealed.octets, hash: sealed.hash, sentAt: now,
            backoff: Backoff(first: association.requestTimeout(configuration)))
        association.pending[sealed.messageID] = pending
        timers[.request(id, sealed.messageID)] = now + pending.backoff.timeout
        transmit(sealed.octets, on: association)
        return sealed.messageID
    }

    /// Octets of the datagram (UDP payload) that a request with these payloads makes; nil for an SA that is not ours.
    public func requestSize(_ payloads: [RawPayload], on id: AssociationID) -> Int? {
        guard let info = established[id]?.info else { return nil }
        let hash = PayloadChain.headerSize + info.suite.hash.digestSize
        let plain = payloads.reduce(hash) { $0 + PayloadChain.headerSize + $1.body.count }
        let block = info.suite.encryption.blockSize
        let marker = info.local.port == configuration.natTraversalPort ? NATTraversal.nonESPMarker.count : 0
        return marker + Header.size + (plain + block - 1) / block * block
    }

    /// Repeats a request no more and waits for no answer: another one says it all.
    public func withdraw(_ messageID: UInt32, on id: AssociationID) {
        mutated()
        guard established[id]?.pending.removeValue(forKey: messageID) != nil else { return }
        timers[.request(id, messageID)] = nil
    }

    /// Answers a `.request` of the peer, once, and remembers the answer for when the request is repeated.
    public func respond(
        _ payloads: [RawPayload], to messageID: UInt32, exchange: ExchangeType, on id: AssociationID, now: Instant
    ) throws(Phase1UseError) {
        mutated()
        guard let association = established[id] else { throw .unknownAssociation }
        guard let request = association.deliveredRequest(messageID), request.exchange == exchange,
            request.answer == nil
        else { throw .unknownMessage }
        let hash = association.answerHash(messageID, exchange, request: request.hash, payloads)
        let octets = try seal(exchange, messageID, hash, payloads, request.vector, association)
        association.setAnswer(octets, to: messageID)
        transmit(octets, on: association)
    }

    /// Sends a protected message once, without an answer; the peer gets it as `.request`. Its message id.
    public func send(
        _ exchange: ExchangeType, _ payloads: [RawPayload], on id: AssociationID, now: Instant
    ) throws(Phase1UseError) -> UInt32 {
        mutated()
        guard let association = established[id] else { throw .unknownAssociation }
        let sealed = try seal(exchange, payloads, association)
        transmit(sealed.octets, on: association)
        return sealed.messageID
    }

    private func seal(
        _ exchange: ExchangeType, _ payloads: [RawPayload], _ association: Association
    ) throws(Phase1UseError) -> (messageID: UInt32, octets: [UInt8], hash: [UInt8]) {
        guard exchange.rawValue >= ExchangeType.firstPrivate, exchange != .push else { throw .unsupportedExchange }
        guard let messageID = association.messageID() else { throw .tooManyExchanges }
        let hash = association.requestHash(messageID, exchange, payloads)
        let vector = association.vector(messageID)
        return (messageID, try seal(exchange, messageID, hash, payloads, vector, association), hash)
    }

    private func seal(
        _ exchange: ExchangeType, _ messageID: UInt32, _ hash: [UInt8], _ payloads: [RawPayload], _ vector: [UInt8],
        _ association: Association
    ) throws(Phase1UseError) -> [UInt8] {
        let octets: [UInt8]
        do throws(CryptographyError) {
            octets = try association.seal(exchange, messageID, hash: hash, payloads, vector: vector)
        } catch {
            throw .cryptographyFailed
        }
        guard octets.count <= limits.datagramOctetsSent else { throw .tooLong }
        return octets
    }

    /// A message of an exchange of type 240 or more.
    func takeExchange(_ received: Received, now: Instant) throws(Refusal) {
        guard received.isEncrypted else { throw .drop(.unencrypted) }
        guard received.header.messageID != 0 else { throw .drop(.malformed) }
        guard let association = established[received.id] else {
            // The responder may have sent it right behind message 6, and overtaken that.
            guard let attempt = attempts[received.id.initiatorCookie], attempt.machine.expectedID == received.id,
                attempt.remote.address == received.remote.address
            else { throw .drop(.unknownCookies) }
            return try attempt.keepEarly(received)
        }
        try checkPath(received, association)
        if association.isOurs(received.header.messageID) {
            try takeAnswer(received, association, now: now)
        } else {
            try takeRequest(received, association, now: now)
        }
    }

    private func takeAnswer(_ received: Received, _ association: Association, now: Instant) throws(Refusal) {
        let messageID = received.header.messageID
        let exchange = received.header.exchange
        guard let pending = association.pending[messageID] else { throw .drop(.duplicate) }
        let (hash, payloads) = try association.open(
            received, vector: association.keys.lastBlock(pending.octets), limits: limits, isMinimal: true)
        let expected = association.answerHash(messageID, exchange, request: pending.hash, payloads)
        guard exchange == pending.exchange, constantTimeEqual(hash, expected) else { throw .drop(.notAuthentic) }
        association.pending[messageID] = nil
        timers[.request(association.info.id, messageID)] = nil
        if pending.backoff.transmissions == 1 { association.measured(now - pending.sentAt) }
        heard(received, association, now: now)
        emit(.answer(association.info, exchange: exchange, messageID: messageID, payloads: payloads))
    }

    private func takeRequest(_ received: Received, _ association: Association, now: Instant) throws(Refusal) {
        let messageID = received.header.messageID
        let exchange = received.header.exchange
        let digest = Self.digest(received)
        switch association.incoming(messageID) {
        case .none, .stale: throw .drop(.duplicate)
        case .known(let request):
            if request.digest == digest, let answer = request.answer { transmit(answer, on: association) }
            throw .drop(.duplicate)
        case .new: break
        }
        let (hash, payloads) = try association.open(
            received, vector: association.vector(messageID), limits: limits, isMinimal: true)
        guard constantTimeEqual(hash, association.requestHash(messageID, exchange, payloads)) else {
            throw .drop(.notAuthentic)
        }
        let request = Association.DeliveredRequest(
            exchange: exchange, digest: digest, hash: hash, vector: association.keys.lastBlock(received.octets))
        association.deliver(messageID, request)
        changed.insert(association.info.id)
        heard(received, association, now: now)
        emit(.request(association.info, exchange: exchange, messageID: messageID, payloads: payloads))
    }

    /// No answer in time: the same octets again, or the end of our patience.
    func retransmit(_ messageID: UInt32, _ association: Association, now: Instant) {
        let id = association.info.id
        guard var pending = association.pending[messageID] else { return }
        guard pending.backoff.transmissions < limits.requestTransmissions else {
            association.pending[messageID] = nil
            emit(.unanswered(association.info, exchange: pending.exchange, messageID: messageID))
            return
        }
        pending.backoff.transmitted()
        association.pending[messageID] = pending
        timers[.request(id, messageID)] = now + pending.backoff.timeout
        transmit(pending.octets, on: association)
    }
}
