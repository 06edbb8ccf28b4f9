// SPDX-License-Identifier: Apache-2.0

import Basics
import Cryptography
import IKEv1
import ISAKMP

/// First octet: the type of the first payload; second: whether padding is allowed; the rest: a chain. And all of it
/// as a header with what follows.
enum ISAKMPTarget {
    static func run(_ octets: [UInt8]) {
        var reader = OctetReader(octets)
        if let header = try? Header(reading: &reader) {
            let rest = reader.remainder()
            take(header.nextPayload, rest, allowPadding: true)
        }
        guard octets.count > 2 else { return }
        take(PayloadType(rawValue: octets[0]), Array(octets[2...]), allowPadding: octets[1] & 1 == 1)
    }

    private static func take(_ first: PayloadType, _ octets: [UInt8], allowPadding: Bool) {
        guard let payloads = try? PayloadChain.parse(first: first, octets[...], limit: 64, allowPadding: allowPadding)
        else { return }
        if !allowPadding {
            let again = PayloadChain.encode(payloads)
            demand(again.first == first && again.octets == octets, "a chain has one encoding")
        }
        for payload in payloads {
            if let identity = try? Identity(body: payload.body) {
                demand((try? Identity(body: identity.body())) == identity, "an identity reads what it wrote")
            }
            if let notification = try? Notification(body: payload.body) {
                demand(
                    (try? Notification(body: notification.body())) == notification,
                    "a notification reads what it wrote")
            }
            if let delete = try? DeletePayload(body: payload.body) {
                demand((try? DeletePayload(body: delete.body())) == delete, "a delete payload reads what it wrote")
            }
            if let association = try? SecurityAssociation(body: payload.body, limit: 32) {
                demand(
                    (try? SecurityAssociation(body: association.body(), limit: 32)) == association,
                    "an SA payload reads what it wrote")
            }
            _ = try? DataAttribute.parse(payload.body[...])
        }
    }

    static let seeds: [[UInt8]] = {
        let chain = PayloadChain.encode([
            RawPayload(.identification, Identity.name("gcks.example").body()),
            RawPayload(.delete, DeletePayload(spis: [Fixture.counting(from: 0, 16)]).body()),
        ])
        return [[chain.first.rawValue, 0] + chain.octets] + Phase1Target.firstMessages
    }()
}

/// Datagrams, each behind its length in two octets: those with an even position go to a responder, the others to an
/// initiator that waits for message 2.
enum Phase1Target {
    private static let client = SocketAddress(.v4(192, 0, 2, 11), 848)
    private static let server = SocketAddress(.v4(192, 0, 2, 1), 848)
    private static let suite: Phase1Suite = {
        guard let suite = Phase1Suite("aes128-sha256-x25519") else { fatalError("this is a suite") }
        return suite
    }()

    private struct Everybody: CredentialSource {
        func credential(for address: IPAddress) -> PeerCredential? { Phase1Target.credential }
    }
    private static let credential = PeerCredential(
        name: "peer", preSharedKey: Fixture.masterKey, expectedIdentity: nil, suites: [suite], lifetime: .seconds(3_600)
    )

    private static func endpoint(isResponder: Bool, seed: UInt64) -> Phase1Endpoint {
        Phase1Endpoint(
            configuration: Phase1Configuration(identity: .name("us"), isResponder: isResponder),
            credentials: Everybody(), random: SeededRandom(seed: seed))
    }

    static func run(_ octets: [UInt8]) {
        let responder = endpoint(isResponder: true, seed: 1)
        let initiator = endpoint(isResponder: false, seed: 2)
        _ = initiator.initiate(credential, from: client, to: server, now: .zero)
        var bytesIn = 0
        var bytesOut = 0
        _ = drain(initiator)
        var reader = OctetReader(octets)
        var position = 0
        while position < 8, let count = try? Int(reader.u16()), let bytes = try? reader.bytes(min(count, 16_384)) {
            let now = Instant.zero + .milliseconds(Int64(position) * 10)
            if position.isMultiple(of: 2) {
                bytesIn += bytes.count
                responder.receive(Datagram(local: server, remote: client, bytes: Array(bytes)), now: now)
                bytesOut += drain(responder)
            } else {
                initiator.receive(Datagram(local: client, remote: server, bytes: Array(bytes)), now: now)
                _ = drain(initiator)
            }
            position += 1
        }
        demand(bytesOut <= bytesIn, "an unproven address gets no more octets than it sent")
        responder.advance(to: .zero + .seconds(100))
        initiator.advance(to: .zero + .seconds(100))
        _ = drain(responder)
        _ = drain(initiator)
    }

    private static func drain(_ endpoint: Phase1Endpoint) -> Int {
        var octets = 0
        while let output = endpoint.poll() {
            switch output {
            case .transmit(let datagram): octets += datagram.bytes.count
            case .event: break
            case .wait: return octets
            }
        }
        return octets
    }

    /// Message 1 of an initiator, and what a responder says to it.
    static let firstMessages: [[UInt8]] = {
        let initiator = endpoint(isResponder: false, seed: 2)
        let responder = endpoint(isResponder: true, seed: 1)
        _ = initiator.initiate(credential, from: client, to: server, now: .zero)
        var messages: [[UInt8]] = []
        var (from, to) = (initiator, responder)
        for _ in 0..<6 {
            var sent: [[UInt8]] = []
            while let output = from.poll() {
                if case .transmit(let datagram) = output { sent.append(datagram.bytes) }
                if case .wait = output { break }
            }
            guard let message = sent.first else { break }
            messages.append(message)
            let addresses = to === responder ? (server, client) : (client, server)
            to.receive(Datagram(local: addresses.0, remote: addresses.1, bytes: message), now: .zero)
            (from, to) = (to, from)
        }
        return messages
    }()

    static let seeds: [[UInt8]] = {
        func framed(_ bytes: [UInt8]) -> [UInt8] { [UInt8(bytes.count >> 8), UInt8(bytes.count & 255)] + bytes }
        return [firstMessages.flatMap(framed)] + firstMessages.map(framed)
    }()
}
