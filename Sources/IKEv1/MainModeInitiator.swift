// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import Cryptography
internal import ISAKMP

// Main Mode with a pre-shared key, initiator's side (RFC 2409 5.4):
//
//     us                                              responder
//     1  HDR, SA, VIDs                          ->                   sentOffer
//                                               <-    HDR, SA, VIDs            2
//     3  HDR, KE, Ni [, NAT-D, NAT-D]           ->                   sentKeys
//                                               <-    HDR, KE, Nr [, NAT-D..]  4
//     5  HDR*, IDii [, INITIAL-CONTACT], HASH_I ->                   sentProof
//                                               <-    HDR*, IDir, HASH_R       6
//
// Nothing before message 6 is authentic. So a message 2 or 4 that differs from the one we built on is taken as well, a
// few times: were the first one corrupt or forged, the genuine one still completes the exchange. Our public value,
// nonce and cookie stay the same all the while.

/// One attempt at an ISAKMP SA as initiator. Takes messages, says what to send; the engine repeats it.
struct MainModeInitiator {
    private enum State {
        case sentOffer
        case sentKeys(SentKeys)
        case sentProof(SentProof)
    }

    /// After message 2.
    private struct SentKeys {
        let answer: [UInt8]
        let id: AssociationID
        let choice: ReadTransform
        let features: PeerFeatures
        let key: DHPrivateKey
        let ours: KeyMessage
    }

    /// After message 4.
    private struct SentProof {
        let sentKeys: SentKeys
        let answer: [UInt8]
        let keys: MainModeKeys
        let nat: NATSituation
        /// The last block of message 5, which chains message 6.
        let vector: [UInt8]
    }

    enum Step {
        /// Send this, and repeat it until the next step.
        case transmit([UInt8])
        /// Send this likewise, from now on through the NAT-T port (RFC 3947 4).
        case float([UInt8])
        case established(MainModeResult)
    }

    /// Why the exchange is what it is, constant from message 1 on.
    struct Setup {
        let cookie: UInt64
        let credential: PeerCredential
        let identity: Identity
        /// We know of no older SA with the peer and say so (RFC 2407 4.6.3.3).
        let isInitialContact: Bool
        let limits: Limits
    }

    private static let nonceSize = 32

    private let setup: Setup
    private let offer: [UInt8]
    private let nonce: [UInt8]
    private var state: State = .sentOffer
    private var restarts = 0
    /// Kept across restarts, so that every message 3 of the attempt carries the same value.
    private var privateKey: DHPrivateKey?

    init(_ setup: Setup, random: any RandomSource) {
        self.setup = setup
        offer = Negotiation.offer(setup.credential, limits: setup.limits).body()
        nonce = random.bytes(Self.nonceSize)
    }

    /// Message 1.
    var opening: [UInt8] {
        let id = AssociationID(initiatorCookie: setup.cookie, responderCookie: 0)
        return message([RawPayload(.securityAssociation, offer)] + PeerFeatures.ours.payloads, .mainMode, id)
    }

    /// The cookies of the SA to be, once message 5 is out: what is encrypted under them may overtake message 6.
    var expectedID: AssociationID? {
        if case .sentProof(let sent) = state { sent.sentKeys.id } else { nil }
    }

    /// Takes message 2, 4 or 6, told apart by what they carry.
    mutating func receive(_ received: Received, random: any RandomSource) throws(Refusal) -> Step {
        guard !received.isEncrypted else { return try takeProof(received) }
        let payloads = try received.payloads(limit: setup.limits.payloadsPerMessage)
        if payloads.first?.type == .securityAssociation {
            return try takeAnswer(received, payloads, random: random)
        }
        return try takeKeys(received, payloads)
    }

    /// Message 2: the responder's choice. Gives message 3.
    private mutating func takeAnswer(
        _ received: Received, _ payloads: [RawPayload], random: any RandomSource
    ) throws(Refusal) -> Step {
        switch state {
        case .sentOffer: break
        case .sentKeys(let sent): try restart(received, after: sent.answer)
        case .sentProof(let sent): try restart(received, after: sent.sentKeys.answer)
        }
        let body = try payloads.only(.securityAssociation)
        guard let answer = try? SecurityAssociation(body: body, limit: 1) else { throw .drop(.malformed) }
        // A forged answer must not end the attempt: what we cannot accept is passed over while a better one may come.
        guard let choice = Negotiation.accept(answer, setup.credential) else {
            throw .doubt(.notAcceptable, .noProposalChosen)
        }
        let key = try privateKey(for: choice.suite.group, random: random)
        var ours = KeyMessage(publicValue: key.publicValue, nonce: nonce)
        let features = PeerFeatures(payloads)
        if features.hasNATTraversal {
            ours.natDiscovery = NATTraversal.payloads(
                choice.suite.hash, received.id, local: received.local, remote: received.remote)
        }
        state = .sentKeys(
            SentKeys(
                answer: received.octets, id: received.id, choice: choice, features: features, key: key, ours: ours))
        return .transmit(message(ours.payloads, .mainMode, received.id))
    }

    /// Message 4: the responder's public value and nonce. Gives message 5.
    private mutating func takeKeys(_ received: Received, _ payloads: [RawPayload]) throws(Refusal) -> Step {
        let sent: SentKeys
        switch state {
        case .sentOffer: throw .drop(.wrongState)
        case .sentKeys(let keys): sent = keys
        case .sentProof(let proof):
            try restart(received, after: proof.answer)
            sent = proof.sentKeys
        }
        guard received.id == sent.id else { throw .drop(.unknownCookies) }
        let theirs = try KeyMessage(payloads, sent.choice.suite)
        // Our own message 3, sent back to us.
        guard theirs.publicValue != sent.ours.publicValue else { throw .drop(.notAcceptable) }
        let shared = try theirs.shared(with: sent.key)
        let keys = try MainModeKeys(
            sent.choice.suite, id: sent.id, preSharedKey: setup.credential.preSharedKey, initiator: sent.ours,
            responder: theirs, shared: shared, offer: offer)
        let nat =
            sent.features.hasNATTraversal
            ? NATTraversal.situation(
                sent.choice.suite.hash, sent.id, local: received.local, remote: received.remote,
                received: theirs.natDiscovery.map(\.body)) : NATSituation()
        let octets = try proof(keys)
        state = .sentProof(
            SentProof(
                sentKeys: sent, answer: received.octets, keys: keys, nat: nat,
                vector: keys.cipher.lastBlock(octets)))
        return nat.isOnPath ? .float(octets) : .transmit(octets)
    }

    /// Message 6: the responder's proof.
    private func takeProof(_ received: Received) throws(Refusal) -> Step {
        guard case .sentProof(let sent) = state else { throw .drop(.wrongState) }
        guard received.id == sent.sentKeys.id else { throw .drop(.unknownCookies) }
        let cipher = sent.keys.cipher
        let proof = try ProofMessage(
            cipher.open(
                received.octets, first: received.header.nextPayload, vector: sent.vector,
                limit: setup.limits.payloadsPerMessage, isMinimal: false))
        guard constantTimeEqual(proof.hash, sent.keys.responderProof(proof.identity)) else {
            throw .doubt(.notAuthentic, .authenticationFailed)
        }
        // Whether it is the identity we expect is for the endpoint to see, which can tell the peer under the new keys.
        guard let identity = try? Identity(body: proof.identity) else { throw .fail(.peerMisbehaved) }
        let choice = sent.sentKeys.choice
        // The lifetime is the one we offered: HASH_R does not cover what message 2 says, and a responder that wants
        // less ends the SA by a Delete.
        return .established(
            MainModeResult(
                keys: sent.keys, suite: choice.suite, lastBlock: cipher.lastBlock(received.octets),
                peerIdentity: identity, lifetime: setup.credential.lifetime,
                features: sent.sentKeys.features, nat: sent.nat, isInitialContact: proof.isInitialContact))
    }

    /// Message 5. The notification stands before the hash, so that the last block, which chains message 6, holds
    /// something that is verified.
    private func proof(_ keys: MainModeKeys) throws(Refusal) -> [UInt8] {
        let identity = setup.identity.body()
        var payloads = [RawPayload(.identification, identity)]
        if setup.isInitialContact {
            let notification = Notification(spi: keys.id.octets, type: .initialContact)
            payloads.append(RawPayload(.notification, notification.body()))
        }
        payloads.append(RawPayload(.hash, keys.initiatorProof(identity)))
        do throws(CryptographyError) {
            return try keys.cipher.seal(payloads, .mainMode, keys.id, messageID: 0, vector: keys.firstVector)
        } catch {
            throw .fail(.cryptographyFailed)
        }
    }

    private mutating func privateKey(
        for group: DHGroup, random: any RandomSource
    ) throws(Refusal) -> DHPrivateKey {
        if let privateKey, privateKey.group == group { return privateKey }
        do throws(CryptographyError) {
            let key = try group.generateKey(random: random)
            privateKey = key
            return key
        } catch {
            throw .fail(.cryptographyFailed)
        }
    }

    private mutating func restart(_ received: Received, after answer: [UInt8]) throws(Refusal) {
        guard received.octets != answer else { throw .drop(.duplicate) }
        guard restarts < setup.limits.phase1Restarts else { throw .drop(.wrongState) }
        restarts += 1
    }
}
