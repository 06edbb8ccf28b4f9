// SPDX-License-Identifier: Apache-2.0

import Basics
import Cryptography
import IKEv1
import ISAKMP
import KeyServer

/// The record of a client, opened.
enum StateTarget {
    private static let clock = RecordClock(microseconds: 1_700_000_000_000_000, now: .zero)

    static func run(_ octets: [UInt8]) {
        guard let record = try? ClientRecord(name: "client/a/state", octets: Secret(octets), clock) else { return }
        demand(record.octets(clock) == Secret(octets), "a client's record has one encoding")
        guard let association = record.association else { return }
        let endpoint = Phase1Endpoint(
            configuration: Phase1Configuration(identity: .name("gcks"), isResponder: true), credentials: Nobody(),
            random: SeededRandom(seed: 3))
        guard endpoint.restore(association, peerName: "a", now: .zero) else { return }
        demand(endpoint.record(association.id) == association, "what is restored is what was kept")
        endpoint.probe(association.id, now: .zero)
        endpoint.close(association.id, now: .zero)
    }

    private struct Nobody: CredentialSource {
        func credential(for address: IPAddress) -> PeerCredential? { nil }
    }

    static let seeds: [[UInt8]] = {
        var association = AssociationRecord(
            id: AssociationID(initiatorCookie: 1, responderCookie: 2), isInitiator: false, peerIdentity: .name("a"),
            local: SocketAddress(.v4(10, 0, 0, 1), 848), remote: SocketAddress(.v4(10, 0, 0, 2), 848), suite: .standard,
            establishedAt: .zero, expiresAt: .zero + .seconds(600),
            authenticationKey: Secret(Fixture.counting(from: 1, 32)),
            cipherKey: Secret(Fixture.counting(from: 2, 32)), lastBlock: Fixture.counting(from: 3, 16),
            firstMessageID: 5, reservedMessageID: 69, firstSequence: 9)
        let bare = ClientRecord(
            lastReport: 3, wasRegistered: true, association: association, check: Fixture.counting(from: 4, 32))
        association.roundTrip = .milliseconds(600)
        association.highestDelivered = 77
        (association.hasDeadPeerDetection, association.peerIsBehindNAT) = (true, true)
        (association.proofDigest, association.proofAnswer) = (Fixture.counting(from: 5, 32), [1, 2, 3])
        let full = ClientRecord(
            lastReport: 4, wasRegistered: false, association: association, check: Fixture.counting(from: 6, 32))
        let none = ClientRecord(lastReport: 0, wasRegistered: true, association: nil, check: [])
        return [bare, full, none].map { $0.octets(clock).revealed() }
    }()
}
