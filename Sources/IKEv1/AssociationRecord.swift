// SPDX-License-Identifier: Apache-2.0

public import Basics
public import Cryptography
public import ISAKMP

/// An established ISAKMP SA as it survives the process: what `Phase1Endpoint.record` gives and `restore` takes.
///
/// Message ids are reserved in blocks before they are used, so the SA goes on behind all that may have been used, and
/// no vector comes twice (RFC 2409 appendix B derives it from the id). The numbers of questions whether the peer lives
/// grow with the ids, since each question takes one: they follow from the reservation and never go back (RFC 3706 6.2).
/// Of the peer's ids all up to the greatest one delivered count as delivered: a message that was overtaken on its way
/// during the restart is lost, and none is taken twice. Requests without an answer and a question under way are not
/// kept: the engine above asks again.
public struct AssociationRecord: Sendable, Equatable {
    public var id: AssociationID
    public var isInitiator: Bool
    public var peerIdentity: Identity
    public var local: SocketAddress
    public var remote: SocketAddress
    public var suite: Phase1Suite
    public var establishedAt: Instant
    public var expiresAt: Instant
    public var roundTrip: Duration?
    public var weAreBehindNAT: Bool
    public var peerIsBehindNAT: Bool
    public var hasDeadPeerDetection: Bool
    public var hasNATTraversal: Bool
    public var isInitialContact: Bool
    /// SKEYID_a (RFC 2409 5), and the cipher's key made of SKEYID_e. SKEYID_d has no use in this program.
    public var authenticationKey: Secret
    public var cipherKey: Secret
    /// Of message 6: where the vectors of all later exchanges begin.
    public var lastBlock: [UInt8]
    /// As responder: the digest of message 5, and message 6 for when it is repeated.
    public var proofDigest: [UInt8]
    public var proofAnswer: [UInt8]
    /// Where our message ids began, and the first one that is not reserved.
    public var firstMessageID: UInt32
    public var reservedMessageID: UInt32
    /// Of the first question whether the peer lives.
    public var firstSequence: UInt32
    /// The greatest id of the peer that was delivered in exchanges of type 240 and more, without its top bit.
    public var highestDelivered: UInt32?

    public init(
        id: AssociationID, isInitiator: Bool, peerIdentity: Identity, local: SocketAddress, remote: SocketAddress,
        suite: Phase1Suite, establishedAt: Instant, expiresAt: Instant, authenticationKey: Secret, cipherKey: Secret,
        lastBlock: [UInt8], firstMessageID: UInt32, reservedMessageID: UInt32, firstSequence: UInt32
    ) {
        self.id = id
        self.isInitiator = isInitiator
        self.peerIdentity = peerIdentity
        self.local = local
        self.remote = remote
        self.suite = suite
        self.establishedAt = establishedAt
        self.expiresAt = expiresAt
        self.authenticationKey = authenticationKey
        self.cipherKey = cipherKey
        self.lastBlock = lastBlock
        self.firstMessageID = firstMessageID
        self.reservedMessageID = reservedMessageID
        self.firstSequence = firstSequence
        (roundTrip, highestDelivered) = (nil, nil)
        (weAreBehindNAT, peerIsBehindNAT, hasDeadPeerDetection, hasNATTraversal) = (false, false, false, false)
        isInitialContact = false
        (proofDigest, proofAnswer) = ([], [])
    }

    /// Could an SA be like this: sizes of keys and block, and the order of the message ids?
    public var isPossible: Bool {
        id.initiatorCookie != 0 && id.responderCookie != 0 && cipherKey.count == suite.encryption.keySize
            && !suite.encryption.isWeak(cipherKey) && lastBlock.count == suite.encryption.blockSize
            && authenticationKey.count == suite.hash.digestSize && (1...1 << 30).contains(firstMessageID)
            && (firstMessageID...Association.messageIDLimit).contains(reservedMessageID)
            && firstSequence < 1 << 31 && highestDelivered.map { $0 < 1 << 31 } ?? true
            && (proofDigest.isEmpty && proofAnswer.isEmpty || proofDigest.count == 32 && !proofAnswer.isEmpty)
            && local.address.octets.count == remote.address.octets.count
    }
}

extension Phase1Endpoint {
    /// SAs whose record is another one than when this was asked last.
    public func takeChanged() -> Set<AssociationID> {
        defer { changed = [] }
        return changed
    }

    /// What to keep of an SA; nil when it is not established, or not any more.
    public func record(_ id: AssociationID) -> AssociationRecord? { established[id]?.record }

    /// Before a message goes out: did its id take a new reservation?
    func noteReservation(of association: Association) {
        guard association.notedReservation != association.reservedMessageID else { return }
        association.notedReservation = association.reservedMessageID
        changed.insert(association.info.id)
    }

    /// Takes an SA of an earlier run into use. No event comes of it.
    ///
    /// - Parameters:
    ///   - peerName: `PeerCredential.name` of the peer.
    ///   - now: the SA must not have expired by then.
    /// - Returns: false when it has expired, cannot be, or is there already.
    public func restore(_ record: AssociationRecord, peerName: String, now: Instant) -> Bool {
        mutated()
        guard record.isPossible, record.expiresAt > now, established[record.id] == nil else { return false }
        var info = AssociationInfo(
            id: record.id, peerName: peerName, peerIdentity: record.peerIdentity, isInitiator: record.isInitiator,
            local: record.local, remote: record.remote, suite: record.suite, establishedAt: record.establishedAt,
            expiresAt: record.expiresAt, roundTrip: record.roundTrip,
            isBehindNAT: record.weAreBehindNAT || record.peerIsBehindNAT, isInitialContact: record.isInitialContact)
        info.hasDeadPeerDetection = record.hasDeadPeerDetection && configuration.deadPeerInterval != nil
        let association = Association(info, record, limits: limits, now: now)
        established[info.id] = association
        members.add(info.remote.address)
        byPeer[PeerKey(name: peerName, identity: info.peerIdentity), default: []].append(info.id)
        timers[.expire(info.id)] = info.expiresAt
        if record.hasDeadPeerDetection, let interval = configuration.deadPeerInterval {
            // Not all peers of a server that comes back in one moment.
            timers[.deadPeer(info.id)] = now + interval / 2 + random.duration(below: interval / 2)
        }
        if record.weAreBehindNAT { timers[.keepAlive(info.id)] = now + configuration.natKeepAlive }
        return true
    }
}

extension Association {
    /// Ids that are reserved at a time.
    static let reservation: UInt32 = 64
    static let messageIDLimit: UInt32 = 0x7fff_ffff

    convenience init(_ info: AssociationInfo, _ record: AssociationRecord, limits: Limits, now: Instant) {
        self.init(
            info, keys: MessageCipher(algorithm: record.suite.encryption, key: record.cipherKey),
            authenticationKey: record.authenticationKey, lastBlock: record.lastBlock,
            features: PeerFeatures(
                hasDeadPeerDetection: record.hasDeadPeerDetection, hasNATTraversal: record.hasNATTraversal),
            nat: NATSituation(weAreBehind: record.weAreBehindNAT, peerIsBehind: record.peerIsBehindNAT),
            proof: record.proofDigest.isEmpty ? nil : (record.proofDigest, record.proofAnswer), limits: limits,
            firstMessageID: record.firstMessageID, reservedMessageID: record.reservedMessageID,
            firstSequence: record.firstSequence, delivered: record.highestDelivered)
        lastHeard = now
        isRestored = true
    }

    var record: AssociationRecord {
        var record = AssociationRecord(
            id: info.id, isInitiator: info.isInitiator, peerIdentity: info.peerIdentity, local: info.local,
            remote: info.remote, suite: info.suite, establishedAt: info.establishedAt, expiresAt: info.expiresAt,
            authenticationKey: authenticationKey, cipherKey: keys.key, lastBlock: lastBlock,
            firstMessageID: firstMessageID, reservedMessageID: reservedMessageID, firstSequence: firstSequence)
        record.roundTrip = info.roundTrip
        (record.weAreBehindNAT, record.peerIsBehindNAT) = (nat.weAreBehind, nat.peerIsBehind)
        record.hasDeadPeerDetection = features.hasDeadPeerDetection
        record.hasNATTraversal = features.hasNATTraversal
        record.isInitialContact = info.isInitialContact
        if let proof { (record.proofDigest, record.proofAnswer) = (proof.digest, proof.answer) }
        record.highestDelivered = highestDelivered
        return record
    }
}
