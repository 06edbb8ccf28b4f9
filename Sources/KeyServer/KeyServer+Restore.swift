// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import Cryptography
internal import IKEv1
internal import ReliablePush
internal import Store

/// What of a client survives the process, and how a new process takes it up (docs/ARCHITECTURE.md, State).
extension KeyServer {
    // MARK: Writing

    /// Puts the records of the clients that an input changed in front of everything that the input wants sent: this is
    /// the one place where they are written.
    func save(before start: Int) {
        for id in endpoint.takeChanged() { if let name = owners[id] { unsaved.insert(name) } }
        guard !unsaved.isEmpty else { return }
        let changes = unsaved.sorted().compactMap { name in clients[name].map { change(of: $0) } }
        unsaved = []
        outputs.insert(.persist(changes), at: start)
    }

    private func change(of client: ClientState) -> RecordChange {
        let name = Self.stateName(client.name)
        let association = client.association.flatMap { endpoint.record($0) }
        // A client that never came, or never may again, leaves nothing.
        guard association != nil || client.wasRegistered, !client.isRevoked else { return .remove(name) }
        var record = ClientRecord(
            lastReport: client.lastReport, wasRegistered: client.wasRegistered, association: association, check: [])
        if let association, let key = directory.credential(ofClient: client.name)?.preSharedKey {
            record.check = Self.check(key, association.id)
        } else {
            record.association = nil
        }
        return .put(Record(name, record.octets(clock)))
    }

    static func stateName(_ client: String) -> String { "client/\(client)/state" }

    /// Another one with another pre-shared key; it tells nothing of the key.
    private static func check(_ key: Secret, _ id: AssociationID) -> [UInt8] {
        var writer = OctetWriter(capacity: 48)
        writer.append(Array("SatIPSec ISAKMP SA".utf8))
        writer.u64(id.initiatorCookie)
        writer.u64(id.responderCookie)
        return HMAC.code(.sha256, key: key, writer.bytes)
    }

    // MARK: Reading

    /// Takes up the ISAKMP SAs of the clients that are still in the configuration as they were.
    /// - Throws: `UnreadableRecord`, `StoreError`.
    func restoreClients(_ records: any RecordStore, now: Instant) throws {
        var count = 0
        for name in clients.keys.sorted() where clients[name]?.isRevoked == false {
            guard let value = try records.value(of: Self.stateName(name)) else { continue }
            let record = try ClientRecord(name: Self.stateName(name), octets: value, clock)
            clients[name]?.wasRegistered = record.wasRegistered
            guard var association = record.association else { continue }
            guard let credential = directory.credential(ofClient: name),
                constantTimeEqual(Self.check(credential.preSharedKey, association.id), record.check),
                credential.suites.contains(association.suite),
                association.local.address == configuration.address.address,
                [configuration.address.port, configuration.natTraversalPort].contains(association.local.port),
                directory.client(at: association.remote.address, identity: association.peerIdentity) == name
            else {
                log(.info, "client.not-restored", ["client": name, "reason": "its configuration has changed"])
                unsaved.insert(name)
                continue
            }
            // A clock that was set back must not lengthen a life.
            association.expiresAt = min(association.expiresAt, now + configuration.phase1Lifetime)
            guard endpoint.restore(association, peerName: credential.name, now: now) else {
                unsaved.insert(name)
                continue
            }
            clients[name]?.association = association.id
            clients[name]?.lastReport = record.lastReport
            clients[name]?.lastHeard = now
            owners[association.id] = name
            outputs.append(.associationUp(association.id))
            count += 1
        }
        if count > 0 { log(.info, "state.restored", ["clients": "\(count)"]) }
    }

    /// Gives a group that was just made to those of its members that are there.
    /// - Returns: their names.
    @discardableResult
    func serve(_ id: UInt32, reason: RekeyReason, now: Instant) -> [String] {
        let names = groups[id]?.members.keys.filter { clients[$0]?.association != nil }.sorted() ?? []
        guard !names.isEmpty else { return [] }
        for name in names {
            enterTree(name, of: id, now: now)
            if groups[id]?.members[name]?.role.maySend == true { assignSenderID(to: name, in: id, now: now) }
        }
        deliverByUnicast(id, reason: reason, now: now)
        return names
    }

    /// Every group has new keys. Whose ISAKMP SA was restored gets them by unicast, a few at a time, with a verdict.
    func serveRestored(now: Instant) {
        guard !owners.isEmpty else { return }
        var served: Set<String> = []
        for id in groups.keys.sorted() { served.formUnion(serve(id, reason: .restarted, now: now)) }
        // In no group any more: its profile says so.
        for name in Set(owners.values).subtracting(served).sorted() { sendProfile(to: name, now: now) }
    }
}
