// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import Cryptography
internal import ISAKMP

/// Why a message changes nothing, or ends the exchange.
enum Refusal: Error, Equatable {
    /// Without effect: the exchange waits on.
    case drop(DropReason)
    /// Without effect as well, since nobody has proved to have sent it; but when nothing better comes, this is why the
    /// exchange failed.
    case doubt(DropReason, Phase1Failure)
    /// The exchange cannot go on.
    case fail(Phase1Failure)
}

/// The keys that follow from a pre-shared key and a Diffie-Hellman exchange (RFC 2409 5 and appendix B).
struct KeyChain {
    let skeyid: Secret
    let derivation: Secret
    let authentication: Secret
    let encryption: Secret

    init(
        _ hash: HashAlgorithm, preSharedKey: Secret, initiatorNonce: [UInt8], responderNonce: [UInt8], shared: Secret,
        id: AssociationID
    ) {
        let cookies = id.octets
        let skeyid = HMAC.secret(hash, key: preSharedKey, initiatorNonce, responderNonce)
        func next(_ previous: [PRFInput], _ number: UInt8) -> Secret {
            HMAC.secret(hash, key: skeyid, parts: previous + [.secret(shared), .octets(cookies), .octets([number])])
        }
        self.skeyid = skeyid
        derivation = next([], 0)
        authentication = next([.secret(derivation)], 1)
        encryption = next([.secret(authentication)], 2)
    }

    /// The cipher key: the front of SKEYID_e, or of its expansion when it is too short (RFC 2409 appendix B).
    static func cipherKey(_ suite: Phase1Suite, from encryption: Secret) -> Secret {
        let size = suite.encryption.keySize
        guard encryption.count < size else { return encryption[0..<size] }
        var block = HMAC.secret(suite.hash, key: encryption, [0])
        var octets = block.revealed()  // joined below into a secret again, and wiped
        defer { wipe(&octets) }
        while octets.count < size {
            block = HMAC.secret(suite.hash, key: encryption, parts: [.secret(block)])
            octets += block.revealed()
        }
        return Secret(octets.prefix(size))
    }
}

/// What the last two messages of Main Mode are made with, the same on both sides.
struct MainModeKeys {
    let id: AssociationID
    let authenticationKey: Secret
    let cipher: MessageCipher
    /// Of message 5: hash(g^xi | g^xr), cut to a block (RFC 2409 appendix B).
    let firstVector: [UInt8]
    private let hash: HashAlgorithm
    private let skeyid: Secret
    private let initiatorValue: [UInt8]
    private let responderValue: [UInt8]
    private let offer: [UInt8]

    /// `offer` is the body of the initiator's SA payload. Throws `.fail(.peerMisbehaved)` for a weak DES key, which
    /// must not be used (RFC 2409 appendix A).
    init(
        _ suite: Phase1Suite, id: AssociationID, preSharedKey: Secret, initiator: KeyMessage, responder: KeyMessage,
        shared: Secret, offer: [UInt8]
    ) throws(Refusal) {
        let chain = KeyChain(
            suite.hash, preSharedKey: preSharedKey, initiatorNonce: initiator.nonce, responderNonce: responder.nonce,
            shared: shared, id: id)
        let cipherKey = KeyChain.cipherKey(suite, from: chain.encryption)
        guard !suite.encryption.isWeak(cipherKey) else { throw .fail(.peerMisbehaved) }
        self.id = id
        hash = suite.hash
        skeyid = chain.skeyid
        authenticationKey = chain.authentication
        cipher = MessageCipher(algorithm: suite.encryption, key: cipherKey)
        initiatorValue = initiator.publicValue
        responderValue = responder.publicValue
        self.offer = offer
        let digest = suite.hash.digest(initiatorValue, responderValue)
        firstVector = [UInt8](digest.prefix(suite.encryption.blockSize))
    }

    /// HASH_I, over the body of the initiator's identification payload.
    func initiatorProof(_ identity: [UInt8]) -> [UInt8] {
        Self.proof(
            hash, skeyid, values: (initiatorValue, responderValue), cookies: (id.initiatorOctets, id.responderOctets),
            offer: offer, identity: identity)
    }

    /// HASH_R, over the body of the responder's identification payload.
    func responderProof(_ identity: [UInt8]) -> [UInt8] {
        Self.proof(
            hash, skeyid, values: (responderValue, initiatorValue), cookies: (id.responderOctets, id.initiatorOctets),
            offer: offer, identity: identity)
    }

    /// HASH_I or HASH_R (RFC 2409 5): of values and cookies the prover's own come first.
    static func proof(
        _ hash: HashAlgorithm, _ skeyid: Secret, values: ([UInt8], [UInt8]), cookies: ([UInt8], [UInt8]),
        offer: [UInt8], identity: [UInt8]
    ) -> [UInt8] {
        HMAC.code(hash, key: skeyid, values.0, values.1, cookies.0, cookies.1, offer, identity)
    }
}

/// The encryption of everything behind the header (RFC 2409 appendix B).
struct MessageCipher {
    let algorithm: CBCAlgorithm
    let key: Secret

    /// A whole message: the header with its length, the payloads padded with zeros to the block and encrypted.
    func seal(
        _ payloads: [RawPayload], _ exchange: ExchangeType, _ id: AssociationID, messageID: UInt32, vector: [UInt8]
    ) throws(CryptographyError) -> [UInt8] {
        var (first, plain) = PayloadChain.encode(payloads)
        defer { wipe(&plain) }
        let excess = plain.count % algorithm.blockSize
        if excess > 0 { plain += [UInt8](repeating: 0, count: algorithm.blockSize - excess) }
        let text = try algorithm.encrypt(plain, key: key, iv: vector)
        return message(first, exchange, id, flags: Header.encryptionFlag, messageID: messageID, text)
    }

    /// The payloads of a message whose header is read already. What is behind them is padding: zeros (RFC 2409 appendix
    /// B). Else anybody could put on a block that no hash covers, and the next message of the exchange, or after
    /// message 6 all exchanges, would be chained to it. `isMinimal` asks for less than a block; some pad with a whole
    /// one.
    func open(
        _ octets: [UInt8], first: PayloadType, vector: [UInt8], limit: Int, isMinimal: Bool
    ) throws(Refusal) -> [RawPayload] {
        let text = [UInt8](octets.dropFirst(Header.size))
        guard !text.isEmpty, text.count % algorithm.blockSize == 0 else { throw .drop(.malformed) }
        do {
            var plain = try algorithm.decrypt(text, key: key, iv: vector)
            defer { wipe(&plain) }
            let payloads = try PayloadChain.parse(first: first, plain[...], limit: limit, allowPadding: true)
            let used = payloads.reduce(0) { $0 + PayloadChain.headerSize + $1.body.count }
            guard plain.count - used <= algorithm.blockSize - (isMinimal ? 1 : 0),
                plain[used...].allSatisfy({ $0 == 0 })
            else { throw ISAKMPError.malformed }
            return payloads
        } catch {
            throw .doubt(.notAuthentic, .authenticationFailed)
        }
    }

    /// The vector that chains the next message of the same exchange.
    func lastBlock(_ message: [UInt8]) -> [UInt8] { [UInt8](message.suffix(algorithm.blockSize)) }
}

/// A whole message from its header fields and what stands behind the header.
func message(
    _ first: PayloadType, _ exchange: ExchangeType, _ id: AssociationID, flags: UInt8 = 0, messageID: UInt32 = 0,
    _ rest: [UInt8]
) -> [UInt8] {
    let size = Header.size + rest.count
    var writer = OctetWriter(capacity: size)
    Header(
        initiatorCookie: id.initiatorCookie, responderCookie: id.responderCookie, nextPayload: first,
        exchange: exchange, flags: flags, messageID: messageID, length: UInt32(size)
    ).write(to: &writer)
    writer.append(rest)
    return writer.bytes
}

/// A whole message in clear.
func message(
    _ payloads: [RawPayload], _ exchange: ExchangeType, _ id: AssociationID, messageID: UInt32 = 0
) -> [UInt8] {
    let (first, octets) = PayloadChain.encode(payloads)
    return message(first, exchange, id, messageID: messageID, octets)
}
