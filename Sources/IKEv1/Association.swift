// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import Cryptography
internal import ISAKMP

/// An established ISAKMP SA: its keys, who the peer is, and the exchanges under it.
///
/// Message ids. All of ours count up from a random start, in 31 bits; the top bit says who chose the id: 0 the SA's
/// initiator, 1 its responder. With the same keys in both directions this is what tells our own messages, reflected,
/// from the peer's. In exchanges of type 240 and more the peer counts likewise, and a window over the count finds
/// repeated and replayed messages for as long as the SA lives; in informational exchanges a peer of any make draws ids
/// at random, and only the latest are remembered.
final class Association {
    /// A request of ours that waits for its answer.
    struct PendingRequest {
        let exchange: ExchangeType
        let octets: [UInt8]
        /// What its HASH payload said; the answer's hash covers it.
        let hash: [UInt8]
        let sentAt: Instant
        var backoff: Backoff
    }

    /// A request or one-way message of the peer that we have delivered.
    struct DeliveredRequest {
        let exchange: ExchangeType
        /// Digest of the datagram, to tell a repetition from a collision.
        let digest: [UInt8]
        let hash: [UInt8]
        /// Its last block, which chains our answer.
        let vector: [UInt8]
        var answer: [UInt8]?
    }

    /// A series of questions whether the peer lives (RFC 3706), from the first sequence number to the last one sent.
    struct Probe {
        let firstSequence: UInt32
        var lastSequence: UInt32
        let sentAt: Instant
        var backoff: Backoff
        /// The peer has been heard of since, by an answer or by anything else.
        var isAnswered = false
    }

    enum Incoming {
        case new, known(DeliveredRequest), stale
    }

    private static let responderBit: UInt32 = 0x8000_0000

    var info: AssociationInfo
    let keys: MessageCipher
    let authenticationKey: Secret
    /// Of message 6.
    let lastBlock: [UInt8]
    let features: PeerFeatures
    let nat: NATSituation
    /// Responder only: a repeated message 5 gets message 6 again.
    let proof: (digest: [UInt8], answer: [UInt8])?

    var pending: [UInt32: PendingRequest] = [:]
    var lastHeard: Instant
    var probe: Probe?
    var isProbing: Bool { probe.map { !$0.isAnswered } ?? false }
    /// Of the newest question whether the peer lives, ours and theirs.
    var sequence: UInt32
    var peerSequence: UInt32?
    /// Taken up from a record, which does not say what the peer asked before: a question of the peer proves nothing, it
    /// may be one of then. Its answer to ours does.
    var isRestored = false
    /// What our answers to the peer's questions carry along.
    var annex: [RawPayload] = []

    private var delivered: [UInt32: DeliveredRequest] = [:]
    private(set) var highestDelivered: UInt32?
    /// Ids of the peer up to this one belong to an earlier run of ours: none of them is taken again.
    private let deliveredBefore: UInt32?
    private let window: UInt32
    private let informationalMemory: Int
    let firstMessageID: UInt32
    private var nextMessageID: UInt32
    /// The first id of ours that no record has reserved yet.
    private(set) var reservedMessageID: UInt32
    /// The reservation that the owner of the records was told of.
    var notedReservation: UInt32
    let firstSequence: UInt32
    private var informationalIDs: [UInt32] = []

    init(
        _ info: AssociationInfo, keys: MessageCipher, authenticationKey: Secret, lastBlock: [UInt8],
        features: PeerFeatures, nat: NATSituation, proof: (digest: [UInt8], answer: [UInt8])?, limits: Limits,
        firstMessageID: UInt32, reservedMessageID: UInt32, firstSequence: UInt32, delivered: UInt32? = nil
    ) {
        self.info = info
        self.keys = keys
        self.authenticationKey = authenticationKey
        self.lastBlock = lastBlock
        self.features = features
        self.nat = nat
        self.proof = proof
        window = UInt32(clamping: max(1, limits.exchangesPerAssociation))
        informationalMemory = max(1, limits.informationalMemory)
        lastHeard = info.establishedAt
        self.firstMessageID = firstMessageID
        (nextMessageID, self.reservedMessageID) = (reservedMessageID, reservedMessageID)
        notedReservation = reservedMessageID
        self.firstSequence = firstSequence
        sequence = firstSequence &+ (reservedMessageID &- firstMessageID)
        (highestDelivered, deliveredBefore) = (delivered, delivered)
    }

    convenience init(
        _ info: AssociationInfo, _ result: MainModeResult, proof: (digest: [UInt8], answer: [UInt8])?,
        limits: Limits, random: any RandomSource
    ) {
        // In the lower half of the 31 bits, so that the count never wraps in the life of an SA.
        let first = UInt32(random.number(below: 1 << 30)) + 1
        self.init(
            info, keys: result.keys.cipher, authenticationKey: result.keys.authenticationKey,
            lastBlock: result.lastBlock, features: result.features, nat: result.nat, proof: proof, limits: limits,
            firstMessageID: first, reservedMessageID: first,
            // spec: RFC 3706 6.2 - the first sequence number is random, with a clear top bit
            firstSequence: UInt32(random.number(below: 1 << 31)))
    }

    // MARK: Message ids

    private var ourBit: UInt32 { info.isInitiator ? 0 : Self.responderBit }

    /// Our next message id; nil while the oldest request in flight would fall out of the peer's window.
    func messageID() -> UInt32? {
        if let oldest = pending.keys.min(), nextMessageID - (oldest & ~Self.responderBit) >= window { return nil }
        return informationalID()
    }

    /// Our next message id for an informational exchange, which has no window.
    func informationalID() -> UInt32 {
        if nextMessageID >= reservedMessageID {
            reservedMessageID = min(nextMessageID, Self.messageIDLimit - Self.reservation) + Self.reservation
        }
        defer { nextMessageID += 1 }
        return nextMessageID | ourBit
    }

    /// Did we use this message id ourselves?
    func isOurs(_ messageID: UInt32) -> Bool {
        let count = messageID & ~Self.responderBit
        return messageID & Self.responderBit == ourBit && (firstMessageID..<nextMessageID).contains(count)
    }

    /// Is it a message id the peer may open an exchange of type 240 and more with, and do we know it?
    func incoming(_ messageID: UInt32) -> Incoming? {
        guard messageID & Self.responderBit != ourBit else { return nil }
        let count = messageID & ~Self.responderBit
        if let known = delivered[count] { return .known(known) }
        if let deliveredBefore, count <= deliveredBefore { return .stale }
        if let highestDelivered, count <= highestDelivered, highestDelivered - count >= window { return .stale }
        return .new
    }

    /// Remembers a message that was delivered, and forgets those that left the window.
    func deliver(_ messageID: UInt32, _ request: DeliveredRequest) {
        let count = messageID & ~Self.responderBit
        delivered[count] = request
        let highest = max(count, highestDelivered ?? count)
        highestDelivered = highest
        guard delivered.count > Int(window) else { return }
        delivered = delivered.filter { highest - $0.key < window }
    }

    func deliveredRequest(_ messageID: UInt32) -> DeliveredRequest? { delivered[messageID & ~Self.responderBit] }

    func setAnswer(_ answer: [UInt8], to messageID: UInt32) {
        delivered[messageID & ~Self.responderBit]?.answer = answer
    }

    /// Remembers the id of an informational message of the peer; false when it is a repetition.
    func isNewInformational(_ messageID: UInt32) -> Bool { !informationalIDs.contains(messageID) }

    func rememberInformational(_ messageID: UInt32) {
        informationalIDs.append(messageID)
        if informationalIDs.count > informationalMemory { informationalIDs.removeFirst() }
    }

    // MARK: Hashes and vectors

    /// What the first message of an exchange is chained to (RFC 2409 appendix B).
    func vector(_ messageID: UInt32) -> [UInt8] {
        let digest = info.suite.hash.digest(lastBlock, Self.octets(messageID))
        return [UInt8](digest.prefix(info.suite.encryption.blockSize))
    }

    /// Of an informational message (RFC 2409 5.7): over the payloads behind the HASH, with their headers.
    func informationalHash(_ messageID: UInt32, _ payloads: [RawPayload]) -> [UInt8] {
        code(Self.octets(messageID), PayloadChain.encode(payloads).octets)
    }

    /// Of a request or one-way message (FMKE): the exchange type is covered too.
    func requestHash(_ messageID: UInt32, _ exchange: ExchangeType, _ payloads: [RawPayload]) -> [UInt8] {
        code(Self.octets(messageID) + [exchange.rawValue], PayloadChain.encode(payloads).octets)
    }

    /// Of an answer (FMKE): bound to the request it answers.
    func answerHash(
        _ messageID: UInt32, _ exchange: ExchangeType, request: [UInt8], _ payloads: [RawPayload]
    ) -> [UInt8] {
        code(Self.octets(messageID) + [exchange.rawValue, 1] + request, PayloadChain.encode(payloads).octets)
    }

    private func code(_ head: [UInt8], _ payloads: [UInt8]) -> [UInt8] {
        var payloads = payloads
        defer { wipe(&payloads) }
        return HMAC.code(info.suite.hash, key: authenticationKey, head, payloads)
    }

    private static func octets(_ messageID: UInt32) -> [UInt8] {
        var writer = OctetWriter()
        writer.u32(messageID)
        return writer.bytes
    }

    // MARK: Sealing and opening

    /// A protected message: HASH and the payloads.
    func seal(
        _ exchange: ExchangeType, _ messageID: UInt32, hash: [UInt8], _ payloads: [RawPayload], vector: [UInt8]
    ) throws(CryptographyError) -> [UInt8] {
        try keys.seal(
            [RawPayload(.hash, hash)] + payloads, exchange, info.id, messageID: messageID, vector: vector)
    }

    /// Decrypts a protected message and takes the HASH off its front.
    func open(
        _ received: Received, vector: [UInt8], limits: Limits, isMinimal: Bool
    ) throws(Refusal) -> (hash: [UInt8], payloads: [RawPayload]) {
        let payloads = try keys.open(
            received.octets, first: received.header.nextPayload, vector: vector,
            limit: limits.payloadsPerMessage, isMinimal: isMinimal)
        guard let first = payloads.first, first.type == .hash else { throw .drop(.notAuthentic) }
        return (first.body, [RawPayload](payloads.dropFirst()))
    }

    // MARK: Round trip

    /// First time-out of a request, fit to the path.
    func requestTimeout(_ configuration: Phase1Configuration) -> Duration {
        guard let roundTrip = info.roundTrip else { return configuration.retransmitAfter }
        return max(.milliseconds(500), roundTrip * 3 / 2 + .milliseconds(200))
    }

    /// Takes in a measurement, smoothed as TCP does (RFC 6298 2.3).
    func measured(_ sample: Duration) {
        info.roundTrip = info.roundTrip.map { ($0 * 7 + sample) / 8 } ?? sample
    }
}
