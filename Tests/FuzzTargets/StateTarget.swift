// SPDX-License-Identifier: Apache-2.0

import Basics
import Cryptography
import IKEv1
import ISAKMP
import KeyServer
import Store

/// The records of clients and groups, opened: the first octet says which.
enum StateTarget {
    private static let clock = RecordClock(microseconds: 1_700_000_000_000_000, now: .zero)

    static func run(_ input: [UInt8]) {
        let octets = Array(input.dropFirst())
        switch input.first {
        case 0: client(octets)
        case 1: check(GroupRecord.self, octets)
        case 2: check(RekeySARecord.self, octets)
        case 3: check(DataSARecord.self, octets)
        case 4: check(MemberRecord.self, octets)
        case 5: check(OpenRecord.self, octets)
        case 6: check(DeliveryRecord.self, octets)
        default: break
        }
    }

    private static func check<Value: StoredRecord>(_ type: Value.Type, _ octets: [UInt8]) {
        guard let record = try? Value(name: "group/1/state", octets: Secret(octets), clock) else { return }
        demand(record.octets(clock) == Secret(octets), "a record of a group has one encoding")
    }

    private static func client(_ octets: [UInt8]) {
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
        return [bare, full, none].map { [0] + $0.octets(clock).revealed() } + groups
    }()

    /// What a server stores that makes a group, begins a rekey and has a client.
    private static let groups: [[UInt8]] = {
        guard let key = try? SigningKey.generate(.ed25519) else { return [] }
        var entry = GroupEntry(
            name: "news", id: 7, control: SocketAddress(.v4(239, 255, 0, 1), 848),
            flows: [TrafficSelector(source: .allV4, destination: IPPrefix(host: .v4(239, 1, 1, 1)))], suite: .aes128gcm,
            members: [("a", .both)])
        entry.revocation = .lkh
        let client = ClientEntry(
            name: "a", address: .v4(10, 0, 0, 2), preSharedKey: Secret(Fixture.counting(from: 1, 32)),
            suites: [.standard])
        let configuration = KeyServer.Configuration(
            identity: "gcks", address: SocketAddress(.v4(10, 0, 0, 1), 848), signingKey: key,
            inventory: Inventory(clients: [client], groups: [entry]), numberFloor: 1_700_000_000_000_000)
        let store = MemoryStore()
        guard let server = try? KeyServer(configuration, records: store, random: SeededRandom(seed: 4), now: .zero),
            (try? server.rekey(group: "news", includingKEK: true, now: .zero)) != nil
        else { return [] }
        while true {
            let output = server.poll()
            if case .wait = output { break }
            if case .persist(let changes) = output { store.apply(changes) }
        }
        let kinds: [(String, UInt8)] = [
            ("state", 1), ("rekey-sa", 2), ("sa/", 3), ("member/", 4), ("open/", 5), ("delivery/", 6),
        ]
        return kinds.flatMap { name, kind in
            store.records(under: "group/7/\(name)").map { [kind] + $0.value.revealed() }
        }
    }()
}
