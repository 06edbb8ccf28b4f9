// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import Cryptography
internal import ISAKMP

/// A received ISAKMP message: its octets, its header, and where it came in.
struct Received {
    let octets: [UInt8]
    let header: Header
    let local: SocketAddress
    let remote: SocketAddress

    var id: AssociationID {
        AssociationID(initiatorCookie: header.initiatorCookie, responderCookie: header.responderCookie)
    }
    var isEncrypted: Bool { header.flags & Header.encryptionFlag != 0 }

    /// The payloads of a message in clear.
    func payloads(limit: Int) throws(Refusal) -> [RawPayload] {
        do throws(ISAKMPError) {
            let rest = octets.dropFirst(Header.size)
            return try PayloadChain.parse(first: header.nextPayload, rest, limit: limit, allowPadding: false)
        } catch {
            throw .drop(.malformed)
        }
    }
}

extension [RawPayload] {
    /// The body of the only payload of a type; none or several are malformed.
    func only(_ type: PayloadType) throws(Refusal) -> [UInt8] {
        let matches = filter { $0.type == type }
        guard let match = matches.first, matches.count == 1 else { throw .drop(.malformed) }
        return match.body
    }
}

/// Messages 3 and 4: `KE, N [, NAT-D, NAT-D]`.
struct KeyMessage: Equatable {
    /// As long as the group's values are.
    let publicValue: [UInt8]
    /// 8 to 256 octets (RFC 2409 5).
    let nonce: [UInt8]
    var natDiscovery: [RawPayload] = []

    init(publicValue: [UInt8], nonce: [UInt8]) {
        self.publicValue = publicValue
        self.nonce = nonce
    }

    init(_ payloads: [RawPayload], _ suite: Phase1Suite) throws(Refusal) {
        publicValue = try payloads.only(.keyExchange)
        nonce = try payloads.only(.nonce)
        natDiscovery = payloads.filter { $0.type == .natDiscovery }
        guard publicValue.count == suite.group.publicValueSize, (8...256).contains(nonce.count) else {
            throw .drop(.malformed)
        }
    }

    var payloads: [RawPayload] { [RawPayload(.keyExchange, publicValue), RawPayload(.nonce, nonce)] + natDiscovery }

    /// g^xy with our half of the exchange.
    func shared(with key: DHPrivateKey) throws(Refusal) -> Secret {
        do throws(CryptographyError) {
            return try key.sharedSecret(with: publicValue)
        } catch {
            throw error == .invalidPublicValue
                ? .doubt(.notAcceptable, .invalidPublicValue) : .fail(.cryptographyFailed)
        }
    }
}

/// Messages 5 and 6, decrypted: `ID, HASH` and perhaps notifications.
struct ProofMessage {
    let identity: [UInt8]
    let hash: [UInt8]
    /// INITIAL-CONTACT (RFC 2407 4.6.3.3).
    let isInitialContact: Bool

    init(_ payloads: [RawPayload]) throws(Refusal) {
        identity = try payloads.only(.identification)
        hash = try payloads.only(.hash)
        isInitialContact = payloads.contains { payload in
            payload.type == .notification && (try? Notification(body: payload.body))?.type == .initialContact
        }
    }

    /// The identity behind a hash that is right, when it is the one the credential expects.
    func identity(for credential: PeerCredential) throws(Refusal) -> Identity {
        guard let read = try? Identity(body: identity) else { throw .fail(.peerMisbehaved) }
        guard credential.accepts(read) else { throw .fail(.wrongIdentity) }
        return read
    }
}

extension PeerCredential {
    func accepts(_ identity: Identity) -> Bool { expectedIdentity.map { $0 == identity } ?? true }
}

/// What Main Mode leaves behind: an ISAKMP SA.
struct MainModeResult {
    let keys: MainModeKeys
    let suite: Phase1Suite
    /// Last ciphertext block of message 6, where the vectors of all later exchanges begin.
    let lastBlock: [UInt8]
    let peerIdentity: Identity
    let lifetime: Duration
    let features: PeerFeatures
    let nat: NATSituation
    let isInitialContact: Bool
}
