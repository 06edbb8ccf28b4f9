// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import Cryptography
internal import ISAKMP

// Main Mode with a pre-shared key, responder's side (RFC 2409 5.4):
//
//     initiator                                       us
//     1  HDR, SA, VIDs                          ->
//                                               <-    HDR, SA, VIDs            2   sentAnswer
//     3  HDR, KE, Ni [, NAT-D, NAT-D]           ->
//                                               <-    HDR, KE, Nr [, NAT-D..]  4   sentKeys
//     5  HDR*, IDii, HASH_I                     ->
//                                               <-    HDR*, IDir, HASH_R       6   (done)
//
// Message 2 is never longer than message 1, message 4 never longer than message 3, and none is sent unasked. A repeated
// message gets the same octets. Nothing before message 5 is authentic: a message 3 that differs from the one answered
// is answered as well, a few times, with the same public value and nonce.

/// One exchange as responder, from message 1 on.
struct MainModeResponder {
    private enum State {
        case sentAnswer
        case sentKeys(SentKeys)
    }

    /// After message 4.
    private struct SentKeys {
        let message: [UInt8]
        let answer: [UInt8]
        let keys: MainModeKeys
        let nat: NATSituation
    }

    enum Step {
        case transmit([UInt8])
        /// Message 6, and what came of it.
        case established([UInt8], MainModeResult)
    }

    private static let nonceSizeLimit = 32

    let id: AssociationID
    let credential: PeerCredential
    /// Message 2, for each repetition of message 1.
    let answer: [UInt8]
    private let identity: Identity
    private let limits: Limits
    private let offer: [UInt8]
    private let choice: ReadTransform
    private let features: PeerFeatures
    private var state: State = .sentAnswer
    private var restarts = 0
    private var wrongProofs = 0
    private var privateKey: DHPrivateKey?
    private var nonce: [UInt8] = []

    /// Takes message 1. `.fail(.noProposalChosen)` when the credential allows nothing of the offer.
    init(
        _ received: Received, cookie: UInt64, credential: PeerCredential, identity: Identity, limits: Limits
    ) throws(Refusal) {
        let payloads = try received.payloads(limit: limits.payloadsPerMessage)
        guard payloads.first?.type == .securityAssociation else { throw .drop(.malformed) }
        offer = try payloads.only(.securityAssociation)
        guard let read = try? SecurityAssociation(body: offer, limit: limits.payloadsPerMessage) else {
            throw .drop(.malformed)
        }
        guard let (echo, choice) = Negotiation.choose(from: read, credential, limits: limits) else {
            throw .fail(.noProposalChosen)
        }
        id = AssociationID(initiatorCookie: received.header.initiatorCookie, responderCookie: cookie)
        self.credential = credential
        self.identity = identity
        self.limits = limits
        self.choice = choice
        features = PeerFeatures(payloads)
        // Only what the initiator announced is announced back: it keeps message 2 the shorter one.
        answer = message([RawPayload(.securityAssociation, echo.body())] + features.payloads, .mainMode, id)
    }

    /// Did the initiator answer from its address: has it sent message 3?
    var isProven: Bool {
        if case .sentKeys = state { true } else { false }
    }

    /// Message 3 told of an address translator on the path.
    var isTranslated: Bool { if case .sentKeys(let sent) = state { sent.nat.isOnPath } else { false } }

    /// Is it a message 3 that costs a computation, and no repetition of the one that was answered?
    func isNews(_ received: Received) -> Bool {
        if case .sentKeys(let sent) = state { received.octets != sent.message } else { true }
    }

    /// Takes message 3 or 5, told apart by the encryption flag.
    mutating func receive(_ received: Received, random: any RandomSource) throws(Refusal) -> Step {
        received.isEncrypted ? try takeProof(received) : .transmit(try takeKeys(received, random: random))
    }

    /// Message 3: the initiator's public value and nonce. Gives message 4.
    private mutating func takeKeys(_ received: Received, random: any RandomSource) throws(Refusal) -> [UInt8] {
        if case .sentKeys(let sent) = state {
            guard received.octets != sent.message else { return sent.answer }
            guard restarts < limits.phase1Restarts else { throw .drop(.wrongState) }
            restarts += 1
        }
        let payloads = try received.payloads(limit: limits.payloadsPerMessage)
        let theirs = try KeyMessage(payloads, choice.suite)
        let key = try privateKey(random: random)
        if nonce.isEmpty { nonce = random.bytes(min(theirs.nonce.count, Self.nonceSizeLimit)) }
        guard nonce.count <= theirs.nonce.count else { throw .drop(.malformed) }
        var ours = KeyMessage(publicValue: key.publicValue, nonce: nonce)
        let nat = situation(received, theirs)
        if features.hasNATTraversal, theirs.natDiscovery.count >= 2 {
            ours.natDiscovery = NATTraversal.payloads(
                choice.suite.hash, id, local: received.local, remote: received.remote)
        }
        let shared = try theirs.shared(with: key)
        let keys = try MainModeKeys(
            choice.suite, id: id, preSharedKey: credential.preSharedKey, initiator: theirs, responder: ours,
            shared: shared, offer: offer)
        let answer = message(ours.payloads, .mainMode, id)
        state = .sentKeys(SentKeys(message: received.octets, answer: answer, keys: keys, nat: nat))
        return answer
    }

    /// Message 5: the initiator's proof. Gives message 6.
    private mutating func takeProof(_ received: Received) throws(Refusal) -> Step {
        guard case .sentKeys(let sent) = state else { throw .drop(.wrongState) }
        guard wrongProofs < limits.wrongProofs else { throw .drop(.notAuthentic) }
        let cipher = sent.keys.cipher
        let proof: ProofMessage
        do {
            proof = try ProofMessage(
                cipher.open(
                    received.octets, first: received.header.nextPayload, vector: sent.keys.firstVector,
                    limit: limits.payloadsPerMessage, isMinimal: false))
            guard constantTimeEqual(proof.hash, sent.keys.initiatorProof(proof.identity)) else {
                throw Refusal.drop(.notAuthentic)
            }
        } catch {
            // Garbage, payloads that make no sense, a wrong hash: all look alike, and nearly always mean two different
            // pre-shared keys (RFC 2409 5.4).
            wrongProofs += 1
            throw .doubt(.notAuthentic, .authenticationFailed)
        }
        let peerIdentity = try proof.identity(for: credential)
        let octets = try answer(proof: sent.keys, vector: cipher.lastBlock(received.octets))
        return .established(
            octets,
            MainModeResult(
                keys: sent.keys, suite: choice.suite, lastBlock: cipher.lastBlock(octets), peerIdentity: peerIdentity,
                lifetime: min(credential.lifetime, choice.lifetime ?? .seconds(28_800)), features: features,
                nat: sent.nat, isInitialContact: proof.isInitialContact))
    }

    /// Message 6.
    private func answer(proof keys: MainModeKeys, vector: [UInt8]) throws(Refusal) -> [UInt8] {
        let identity = identity.body()
        let payloads = [
            RawPayload(.identification, identity), RawPayload(.hash, keys.responderProof(identity)),
        ]
        do throws(CryptographyError) {
            return try keys.cipher.seal(payloads, .mainMode, id, messageID: 0, vector: vector)
        } catch {
            throw .fail(.cryptographyFailed)
        }
    }

    private func situation(_ received: Received, _ theirs: KeyMessage) -> NATSituation {
        guard features.hasNATTraversal else { return NATSituation() }
        return NATTraversal.situation(
            choice.suite.hash, id, local: received.local, remote: received.remote,
            received: theirs.natDiscovery.map(\.body))
    }

    private mutating func privateKey(random: any RandomSource) throws(Refusal) -> DHPrivateKey {
        if let privateKey { return privateKey }
        do throws(CryptographyError) {
            let key = try choice.suite.group.generateKey(random: random)
            privateKey = key
            return key
        } catch {
            throw .fail(.cryptographyFailed)
        }
    }
}
