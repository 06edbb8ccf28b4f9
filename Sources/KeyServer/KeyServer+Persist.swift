// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import Cryptography
internal import FMKE
internal import IKEv1
internal import KeyTree
internal import ReliablePush
internal import Store

/// What the store has of a group, beside members and tree: what differs from it is written.
struct StoredGroup {
    struct Times: Equatable {
        var activateAt: Instant
        var removeAt: Instant?
    }
    var record: GroupRecord?
    var epoch: UInt32?
    var rekeySPI: RekeySPI?
    var sas: [UInt32: Times] = [:]
    var open: [UInt64: OpenRecord] = [:]
    /// Transactions whose verdict is among the outputs, by the drain that takes it: their records stay until then.
    var closing: [UInt64: UInt64] = [:]
}

/// All records are written here: those that one input makes go as one `.persist` in front of everything that the input
/// wants sent (docs/ARCHITECTURE.md, State).
extension KeyServer {
    func save(before start: Int) {
        for id in endpoint.takeChanged() { if let name = owners[id] { unsaved.insert(name) } }
        var changes = unsavedChanges
        unsavedChanges = []
        for id in groups.keys.sorted() { saveGroup(id, into: &changes) }
        for name in unsaved.sorted() { if let change = clientChange(name) { changes.append(change) } }
        unsaved = []
        if !changes.isEmpty { outputs.insert(.persist(changes), at: start) }
    }

    /// To be written with what else this input changes.
    func store(_ name: String, number: UInt64) { unsavedChanges.append(Self.put(name, number: number)) }

    private static func put(_ name: String, number: UInt64) -> RecordChange {
        var writer = OctetWriter(capacity: 8)
        writer.u64(number)
        return .put(Record(name, Secret(writer.bytes)))
    }

    // MARK: Groups

    static func prefix(_ group: UInt32) -> String { "group/\(group)" }

    private func saveGroup(_ id: UInt32, into changes: inout [RecordChange]) {
        // The group is held by nobody while it changes: its table of members would be copied.
        guard let stored = groups[id].map({ changed($0, into: &changes) }) else { return }
        groups[id]?.stored = stored
        for transaction in stored.open.keys where groups[id]?.open[transaction]?.unsavedDelivery != nil {
            groups[id]?.open[transaction]?.unsavedDelivery = nil
        }
        if groups[id]?.unsavedEnded.isEmpty == false { groups[id]?.unsavedEnded = [:] }
        if groups[id]?.members.unsaved.isEmpty == false { groups[id]?.members.saved() }
    }

    /// - Returns: what is stored when the changes are.
    private func changed(_ group: GroupState, into changes: inout [RecordChange]) -> StoredGroup {
        let prefix = Self.prefix(group.entry.id)
        var stored = group.stored
        if stored.epoch != group.rekeySA.epoch {
            stored.epoch = group.rekeySA.epoch
            changes.append(Self.put("\(prefix)/epoch", number: UInt64(group.rekeySA.epoch) + 1))
        }
        if stored.record?.transaction != group.transaction {
            changes.append(Self.put("\(prefix)/transaction", number: group.transaction + 1))
        }
        if stored.rekeySPI != group.rekeySA.spi {
            stored.rekeySPI = group.rekeySA.spi
            changes.append(.put(Record("\(prefix)/rekey-sa", RekeySARecord(group.rekeySA).octets(clock))))
        }
        saveSAs(of: group, prefix, &stored, into: &changes)
        saveOpen(of: group, prefix, &stored, into: &changes)
        for name in group.members.unsaved.sorted() {
            changes.append(Self.memberChange(name, of: group, prefix, clock))
        }
        let record = group.record
        if stored.record != record {
            stored.record = record
            changes.append(.put(Record("\(prefix)/state", record.octets(clock))))
        }
        return stored
    }

    private func saveSAs(
        of group: GroupState, _ prefix: String, _ stored: inout StoredGroup, into changes: inout [RecordChange]
    ) {
        for item in group.data {
            let times = StoredGroup.Times(activateAt: item.activateAt, removeAt: item.removeAt)
            guard stored.sas[item.sa.spi] != times else { continue }
            stored.sas[item.sa.spi] = times
            changes.append(.put(Record("\(prefix)/sa/\(spiText(item.sa.spi))", item.record.octets(clock))))
        }
        guard stored.sas.count > group.data.count else { return }
        let live = Set(group.data.map(\.sa.spi))
        for spi in stored.sas.keys.sorted() where !live.contains(spi) {
            stored.sas[spi] = nil
            changes.append(.remove("\(prefix)/sa/\(spiText(spi))"))
        }
    }

    private func saveOpen(
        of group: GroupState, _ prefix: String, _ stored: inout StoredGroup, into changes: inout [RecordChange]
    ) {
        let all = group.open.merging(group.unsavedEnded) { $1 }
        for (transaction, open) in all.sorted(by: { $0.key < $1.key }) {
            if let delivery = open.unsavedDelivery {
                changes.append(.put(Record("\(prefix)/delivery/\(transaction)", delivery.octets(clock))))
            }
            guard stored.open[transaction] != open.record else { continue }
            stored.open[transaction] = open.record
            changes.append(.put(Record("\(prefix)/open/\(transaction)", open.record.octets(clock))))
        }
        guard stored.open.count > group.open.count else { return }
        for transaction in stored.open.keys.sorted() where group.open[transaction] == nil {
            guard let drain = stored.closing[transaction] else {
                stored.closing[transaction] = drains
                continue
            }
            guard drain < drains, isAdvancing else { continue }
            (stored.open[transaction], stored.closing[transaction]) = (nil, nil)
            changes += [
                .remove("\(prefix)/open/\(transaction)"), .remove("\(prefix)/delivery/\(transaction)"),
            ]
        }
    }

    private static func memberChange(
        _ name: String, of group: GroupState, _ prefix: String, _ clock: RecordClock
    ) -> RecordChange {
        let key = "\(prefix)/member/\(name)"
        guard let record = group.members[name]?.record ?? group.gone[name] else { return .remove(key) }
        return .put(Record(key, record.octets(clock)))
    }

    /// What to store of a change of the tree: its own record and the changed nodes.
    func treeChanges(_ changed: [NodeID], _ tree: KeyTreeServer, _ id: UInt32) -> [RecordChange] {
        let prefix = "\(Self.prefix(id))/tree"
        return [.put(Record(prefix, Secret(tree.treeRecord.octets)))]
            + changed.map { node in
                let name = Self.nodeName(node, prefix)
                let record = tree.record(node)
                guard let key = record.key else { return .remove(name) }
                return .put(Record(name, Self.value(record.version, key)))
            }
    }

    /// All of a tree that was just planted.
    func treeChanges(_ tree: KeyTreeServer, _ id: UInt32) -> [RecordChange] {
        var nodes: [NodeID] = []
        tree.records { nodes.append($0.id) }
        return treeChanges(nodes, tree, id)
    }

    /// As if it had never been.
    func treeRemovals(_ tree: KeyTreeServer, _ id: UInt32) -> [RecordChange] {
        let prefix = "\(Self.prefix(id))/tree"
        var changes = [RecordChange.remove(prefix)]
        tree.records { changes.append(.remove(Self.nodeName($0.id, prefix))) }
        return changes
    }

    /// All that is stored of a group, but for its numbers.
    func removals(of group: GroupState) -> [RecordChange] {
        let prefix = Self.prefix(group.entry.id)
        var names = ["\(prefix)/state", "\(prefix)/rekey-sa"]
        names += group.stored.sas.keys.sorted().map { "\(prefix)/sa/\(spiText($0))" }
        for transaction in group.stored.open.keys.sorted() {
            names += ["\(prefix)/open/\(transaction)", "\(prefix)/delivery/\(transaction)"]
        }
        names += (Set(group.members.keys).union(group.gone.keys)).sorted().map { "\(prefix)/member/\($0)" }
        return names.map(RecordChange.remove) + (group.tree.map { treeRemovals($0, group.entry.id) } ?? [])
    }

    private static func nodeName(_ node: NodeID, _ prefix: String) -> String {
        let octets = [24, 16, 8, 0].map { UInt8(truncatingIfNeeded: node.rawValue >> $0) }
        return "\(prefix)/node/\(hexadecimal(octets))"
    }

    private static func value(_ version: UInt64, _ key: Secret) -> Secret {
        var writer = OctetWriter(capacity: 24)
        writer.u64(version)
        // Revealed to be sealed by the store.
        writer.append(key.revealed())
        var octets = writer.bytes
        defer { wipe(&octets) }
        return Secret(octets)
    }

    // MARK: Clients

    static func stateName(_ client: String) -> String { "client/\(client)/state" }

    private func clientChange(_ name: String) -> RecordChange? {
        guard let client = clients[name] else { return nil }
        clients[name]?.isStoredAsOwed = !client.pending.isEmpty
        let key = Self.stateName(name)
        let association = client.association.flatMap { endpoint.record($0) }
        // A client that never came, or never may again, leaves nothing.
        guard association != nil || client.wasRegistered, !client.isRevoked else { return .remove(key) }
        var record = ClientRecord(
            lastReport: client.lastReport, wasRegistered: client.wasRegistered, association: association, check: [])
        record.isOwedProfile = !client.pending.isEmpty
        if let association, let preSharedKey = directory.credential(ofClient: client.name)?.preSharedKey {
            record.check = Self.check(preSharedKey, association.id)
        } else {
            record.association = nil
        }
        return .put(Record(key, record.octets(clock)))
    }

    /// Another one with another pre-shared key; it tells nothing of the key.
    static func check(_ key: Secret, _ id: AssociationID) -> [UInt8] {
        var writer = OctetWriter(capacity: 48)
        writer.append(Array("SatIPSec ISAKMP SA".utf8))
        writer.u64(id.initiatorCookie)
        writer.u64(id.responderCookie)
        return HMAC.code(.sha256, key: key, writer.bytes)
    }
}

// MARK: Records of states

extension GroupState {
    var record: GroupRecord {
        GroupRecord(
            transaction: transaction, firstTransaction: firstTransaction, lastRevocation: lastRevocation,
            kekExpiresAt: kekExpiresAt, kekRekeyAt: kekRekeyAt, dataRekeyAt: dataRekeyAt, nextIndex: nextIndex,
            severalSendersUpTo: severalSendersUpTo, renewedAt: renewedAt,
            renewal: renewal.map { GroupRecord.Renewal(at: $0.at, reason: $0.reason) },
            retirement: retirement.map {
                GroupRecord.Retirement(transaction: $0.transaction, removeAt: $0.removeAt)
            })
    }
}

extension ServerDataSA {
    var record: DataSARecord {
        DataSARecord(
            transaction: transaction, createdAt: createdAt, activateAt: activateAt, removeAt: removeAt,
            expiresAt: expiresAt, sa: sa)
    }
}

extension MemberState {
    var record: MemberRecord {
        var record = MemberRecord(index: index, role: role)
        (record.holdsKeys, record.senderID) = (holdsKeys, senderID)
        (record.confirmed, record.confirmedAt) = (confirmed, confirmedAt)
        (record.since, record.sendsSince, record.movesBy) = (since, sendsSince, movesBy)
        return record
    }
}

extension OpenTransaction {
    var record: OpenRecord {
        OpenRecord(
            reason: reason, epoch: epoch, membersBelow: membersBelow, isMasked: isMasked, isCommitted: isCommitted,
            isByUnicast: sender.isByUnicast, startedAt: sender.startedAt, activateAt: sender.activateAt,
            deactivateAt: sender.deactivateAt == .distantFuture ? nil : sender.deactivateAt)
    }
}
