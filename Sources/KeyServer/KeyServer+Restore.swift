// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import Cryptography
internal import IKEv1
internal import ISAKMP
internal import ReliablePush
internal import Store

/// How a new process takes up what an earlier one stored of clients, and whom it owes something
/// (docs/ARCHITECTURE.md, State).
extension KeyServer {
    /// Takes up the ISAKMP SAs of the clients that are still in the configuration as they were.
    /// - Parameter records: all under `client/`.
    /// - Returns: who has not acknowledged its last profile.
    /// - Throws: `UnreadableRecord`, `StoreError`.
    func restoreClients(_ records: [Record], now: Instant) throws -> Set<String> {
        var stored = Dictionary(records.map { ($0.name, $0.value) }) { $1 }
        for (name, address) in directory.names {
            let first = try number(stored.removeValue(forKey: "client/\(name)/sequence"))
            var state = ClientState(
                name: name, address: address, sequence: NumberBlock(first: max(first, configuration.numberFloor)))
            state.isRevoked = stored.removeValue(forKey: "client/\(name)/revoked") != nil
            if state.isRevoked { directory.revoke(name) }
            clients[name] = state
        }
        var (owed, count): (Set<String>, Int) = ([], 0)
        for name in clients.keys.sorted() {
            guard let value = stored.removeValue(forKey: Self.stateName(name)), clients[name]?.isRevoked == false else {
                continue
            }
            let record = try ClientRecord(name: Self.stateName(name), octets: value, clock)
            clients[name]?.wasRegistered = record.wasRegistered
            guard let association = record.association else { continue }
            guard restore(association, of: name, check: record.check, now: now) else {
                unsaved.insert(name)
                continue
            }
            clients[name]?.lastReport = record.lastReport
            clients[name]?.isStoredAsOwed = record.isOwedProfile
            if record.isOwedProfile { owed.insert(name) }
            count += 1
        }
        // Keys of clients that are not declared any more. Their numbers and revocations stay.
        for name in stored.keys.sorted() where name.hasSuffix("/state") { unsavedChanges.append(.remove(name)) }
        if count > 0 { log(.info, "state.restored", ["clients": "\(count)"]) }
        return owed
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

    private func restore(_ record: AssociationRecord, of name: String, check: [UInt8], now: Instant) -> Bool {
        var association = record
        // Behind NAT its address is whatever the translator makes of it: the key and the name have to do.
        guard let credential = directory.credential(ofClient: name),
            constantTimeEqual(Self.check(credential.preSharedKey, association.id), check),
            credential.suites.contains(association.suite),
            association.local.address == configuration.address.address,
            [configuration.address.port, configuration.natTraversalPort].contains(association.local.port),
            directory.client(at: association.remote.address, identity: association.peerIdentity) == name
                || association.peerIsBehindNAT && association.peerIdentity == .name(name)
        else {
            log(.info, "client.not-restored", ["client": name, "reason": "its configuration has changed"])
            return false
        }
        // A clock that was set back must not lengthen a life.
        association.expiresAt = min(association.expiresAt, now + configuration.phase1Lifetime)
        guard endpoint.restore(association, peerName: credential.name, now: now) else { return false }
        clients[name]?.association = association.id
        clients[name]?.lastHeard = now
        owners[association.id] = name
        outputs.append(.associationUp(association.id))
        return true
    }

    /// Gives those their profile whose last one may have got lost, and who lack keys that no open transaction brings.
    func serveRestored(_ owed: Set<String>, now: Instant) {
        for name in owners.values.sorted() {
            for id in groups.keys.sorted() { enterTree(name, of: id, now: now) }
            if isOwedProfile(name, isUnacknowledged: owed.contains(name)) { sendProfile(to: name, now: now) }
        }
    }

    private func isOwedProfile(_ name: String, isUnacknowledged: Bool) -> Bool {
        var isCovered = false
        for group in groups.values {
            guard let member = group.members[name] else { continue }
            let open = group.open.values.filter { $0.sender.isUnconfirmed(member.index) }
            // It will be sent its profile with the others, a few at a time.
            if open.contains(where: \.sender.isByUnicast) {
                isCovered = true
            } else if !member.holdsKeys || member.confirmed < group.transaction, open.isEmpty {
                return true
            }
        }
        return isUnacknowledged && !isCovered
    }
}
