// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import Cryptography
internal import FMKE
internal import KeyTree
internal import ReliablePush
internal import Store

/// What is stored under `group/`, by group and kind.
struct StoredGroups {
    /// By the part of the name behind the group's number, up to the next slash; with what follows that, in order.
    private(set) var groups: [UInt32: [String: [(name: String, value: Secret)]]] = [:]

    var isEmpty: Bool { groups.isEmpty }

    /// - Parameter records: in the order of their names.
    /// - Throws: `UnreadableRecord` for a name that is of no group.
    init(_ records: [Record]) throws(UnreadableRecord) {
        for record in records {
            let path = record.name.split(separator: "/", maxSplits: 3)
            guard path.count >= 3, let id = UInt32(path[1]) else { throw UnreadableRecord(name: record.name) }
            let rest = path.count > 3 ? String(path[3]) : ""
            groups[id, default: [:]][String(path[2]), default: []].append((rest, record.value))
        }
    }

    /// The one record of a kind.
    func value(_ kind: String, of group: UInt32) -> Secret? { groups[group]?[kind]?.first { $0.name.isEmpty }?.value }

    /// All of a kind that have names of their own, by these.
    func values(_ kind: String, of group: UInt32) -> [(name: String, value: Secret)] {
        (groups[group]?[kind] ?? []).filter { !$0.name.isEmpty }
    }

    /// Full names of all but the numbers, which never go back.
    func leftovers(of group: UInt32) -> [String] {
        let numbers: Set = ["epoch", "transaction", "sequence", "sender-id"]
        return (groups[group] ?? [:]).filter { !numbers.contains($0.key) }.sorted { $0.key < $1.key }.flatMap {
            kind, records in
            records.map { "\(KeyServer.prefix(group))/\(kind)\($0.name.isEmpty ? "" : "/")\($0.name)" }
        }
    }
}

/// How a new process takes up the groups of an earlier one: keys, members, tree, and the transactions under way.
extension KeyServer {
    /// - Returns: whether there was something to restore.
    /// - Throws: `UnreadableRecord`, `StoreError`, `CommandError`.
    func restoreGroup(_ entry: GroupEntry, _ stored: StoredGroups, now: Instant) throws -> Bool {
        let prefix = Self.prefix(entry.id)
        guard let state = stored.value("state", of: entry.id) else { return false }
        guard entry.flows.count <= GroupEntry.mostFlows(with: entry.suite, limits: configuration.limits) else {
            throw CommandError.tooLarge(group: entry.name)
        }
        let record = try GroupRecord(name: "\(prefix)/state", octets: state, clock)
        let rekeyName = "\(prefix)/rekey-sa"
        guard let value = stored.value("rekey-sa", of: entry.id) else { throw UnreadableRecord(name: rekeyName) }
        let rekeySA = try RekeySARecord(name: rekeyName, octets: value, clock).rekeySA
        guard try number(stored.value("epoch", of: entry.id)) == UInt64(rekeySA.epoch) + 1,
            try number(stored.value("transaction", of: entry.id)) == record.transaction + 1
        else { throw UnreadableRecord(name: "\(prefix)/state") }
        let first = try number(stored.value("sequence", of: entry.id))
        var group = GroupState(
            entry: entry, rekeySA: rekeySA, channel: try seal(with: ours(rekeySA), for: entry.id),
            // A clock that was set back must not lengthen a life.
            kekExpiresAt: min(record.kekExpiresAt, now + entry.kekLifetime), transaction: record.transaction,
            firstTransaction: record.firstTransaction,
            sequence: NumberBlock(first: max(first, configuration.numberFloor)),
            dataRekeyAt: min(record.dataRekeyAt, now + Self.share(of: entry.dataLifetime)),
            kekRekeyAt: min(record.kekRekeyAt, now + Self.share(of: entry.kekLifetime)),
            beaconAt: now + entry.push.roundTrip + .seconds(1))
        group.nextSenderID = UInt32(clamping: try number(stored.value("sender-id", of: entry.id)))
        group.nextIndex = record.nextIndex
        group.lastRevocation = record.lastRevocation
        group.severalSendersUpTo = record.severalSendersUpTo
        group.renewal = record.renewal.map { (min($0.at, now + Self.retryPause), $0.reason) }
        group.renewedAt = record.renewedAt.map { min($0, now) }
        group.retirement = record.retirement.map {
            Retirement(
                transaction: $0.transaction, removeAt: $0.removeAt, copiesLeft: max(entry.push.copies, 1), nextAt: now)
        }
        try restoreSAs(of: &group, stored, now: now)
        try restoreMembers(of: &group, stored)
        try restoreTree(of: &group, stored)
        group.entry = formerEntry(of: group)
        group.stored.epoch = rekeySA.epoch
        group.stored.rekeySPI = rekeySA.spi
        group.stored.record = record
        try resumeTransactions(of: &group, stored, now: now)
        groups[entry.id] = group
        let open = group.open.keys.sorted().map { String($0) }.joined(separator: ",")
        log(
            .info, "group.restored",
            [
                "group": entry.name, "epoch": "\(rekeySA.epoch)", "transaction": "\(group.transaction)",
                "members": "\(group.members.count)", "open": open,
            ])
        return true
    }

    /// What the entry must have said of what keys depend on, for these to be as they are.
    private func formerEntry(of group: GroupState) -> GroupEntry {
        var entry = group.entry
        entry.control = group.rekeySA.control
        let newest = group.data.filter { $0.transaction == group.transaction }.map(\.sa)
        // None are left when the server was away for longer than they last; then new ones come anyway.
        if let sa = newest.first { (entry.flows, entry.suite) = (newest.map(\.selector), sa.suite) }
        if (group.tree != nil) != (entry.revocation == .lkh) { entry.revocation = group.tree == nil ? .flat : .lkh }
        if let tree = group.tree { entry.backwardSecrecy = tree.parameters.backwardSecrecy }
        // Who is revoked may be in the file all the same.
        let out = entry.members.filter { clients[$0.client]?.isRevoked == true && group.members[$0.client] == nil }
        entry.members = group.members.map { ($0.key, $0.value.role) }.sorted { $0.0 < $1.0 } + out
        return entry
    }

    /// A rekey SA that we can seal under, whatever key signed when it was made: `adaptGroups` replaces it then.
    private func ours(_ rekeySA: RekeySA) -> RekeySA {
        var rekeySA = rekeySA
        rekeySA.signatureAlgorithm = configuration.signingKey.algorithm
        rekeySA.verifyingKey = configuration.signingKey.publicKey
        return rekeySA
    }

    /// How much later than planned a sender may move that got its profile late.
    private static let lateMove: Duration = .seconds(60)

    /// A transaction older than this share of its keys' life goes on by unicast.
    private static let lateAtPercent = 10

    private func restoreSAs(of group: inout GroupState, _ stored: StoredGroups, now: Instant) throws {
        let entry = group.entry
        for (name, value) in stored.values("sa", of: entry.id) {
            let full = "\(Self.prefix(entry.id))/sa/\(name)"
            let record = try DataSARecord(name: full, octets: value, clock)
            guard name == spiText(record.sa.spi), record.transaction <= group.transaction else {
                throw UnreadableRecord(name: full)
            }
            group.stored.sas[record.sa.spi] = StoredGroup.Times(
                activateAt: record.activateAt, removeAt: record.removeAt)
            // As above: no time may be later than it could be if it were set now.
            let latest = now + entry.rollover.activateAfter
            group.data.append(
                ServerDataSA(
                    sa: record.sa, transaction: record.transaction, createdAt: min(record.createdAt, now),
                    activateAt: min(record.activateAt, latest),
                    removeAt: record.removeAt.map {
                        min($0, latest + entry.rollover.keepOld + Self.lateMove)
                    },
                    expiresAt: min(record.expiresAt, now + entry.dataLifetime)))
        }
        group.data = group.live(now: now).sorted { ($0.transaction, $0.sa.spi) < ($1.transaction, $1.sa.spi) }
    }

    private func restoreMembers(of group: inout GroupState, _ stored: StoredGroups) throws {
        let id = group.entry.id
        for (name, value) in stored.values("member", of: id) {
            let full = "\(Self.prefix(id))/member/\(name)"
            let record = try MemberRecord(name: full, octets: value, clock)
            guard record.index < group.nextIndex, group.names.updateValue(name, forKey: record.index) == nil else {
                throw UnreadableRecord(name: full)
            }
            guard record.until == nil else {
                group.gone[name] = record
                continue
            }
            var member = MemberState(index: record.index, role: record.role)
            (member.holdsKeys, member.senderID) = (record.holdsKeys, record.senderID)
            (member.confirmed, member.confirmedAt) = (record.confirmed, record.confirmedAt)
            (member.since, member.sendsSince, member.movesBy) = (record.since, record.sendsSince, record.movesBy)
            group.members.restore(member, name: name)
        }
    }

    private func restoreTree(of group: inout GroupState, _ stored: StoredGroups) throws {
        let id = group.entry.id
        guard let value = stored.value("tree", of: id) else { return }
        let name = "\(Self.prefix(id))/tree"
        do {
            let record = try TreeRecord(octets: value.revealed())
            var nodes: [NodeRecord] = []
            for (path, value) in stored.values("tree", of: id) {
                var octets = value.revealed()
                defer { wipe(&octets) }
                var reader = OctetReader(octets)
                let parts = path.split(separator: "/")
                guard parts.count == 2, parts[0] == "node", let raw = UInt32(parts[1], radix: 16) else {
                    throw KeyTreeError.malformed
                }
                let version = try reader.u64()
                nodes.append(
                    NodeRecord(id: NodeID(rawValue: raw), version: version, key: Secret(reader.remainder())))
            }
            group.tree = try KeyTreeServer(record, nodes: nodes, random: random)
        } catch {
            throw UnreadableRecord(name: name)
        }
    }

    // MARK: Transactions under way

    private func resumeTransactions(of group: inout GroupState, _ stored: StoredGroups, now: Instant) throws {
        let id = group.entry.id
        for (number, value) in stored.values("open", of: id) {
            let name = "\(Self.prefix(id))/open/\(number)"
            guard let transaction = UInt64(number), transaction <= group.transaction,
                let delivery = stored.values("delivery", of: id).first(where: { $0.name == number })?.value
            else { throw UnreadableRecord(name: name) }
            let record = try OpenRecord(name: name, octets: value, clock)
            group.stored.open[transaction] = record
            let content = try DeliveryRecord(
                name: "\(Self.prefix(id))/delivery/\(number)", octets: delivery, clock)
            group.open[transaction] = resumed(transaction, record, content, of: group, now: now)
        }
    }

    /// It goes on as if all that was sent so far had been lost: with who has not confirmed, in the same way, with the
    /// same content.
    private func resumed(
        _ transaction: UInt64, _ record: OpenRecord, _ delivery: DeliveryRecord, of group: GroupState, now: Instant
    ) -> OpenTransaction {
        // Between the rounds that there were and the greatest number.
        var resumption = PushSender.Resumption(
            startedAt: min(record.startedAt, now), firstRound: UInt8(64 + random.number(below: 96)))
        func note(_ member: MemberRecord, _ reason: UnconfirmedReason?) {
            if member.confirmed >= transaction {
                let after = member.confirmedAt.map { max($0 - resumption.startedAt, .zero) } ?? .zero
                resumption.confirmed.append((member.index, after))
            } else if let reason {
                resumption.failed.append((member.index, reason))
            }
        }
        var members: [UInt32] = []
        var absent: [String] = []
        for (name, member) in group.members where member.index < record.membersBelow {
            guard !delivery.isAbsent(member.index) else {
                absent.append(name)
                continue
            }
            members.append(member.index)
            note(member.record, clients[name]?.association == nil ? .unreachable : nil)
        }
        for (name, member) in group.gone where member.index < record.membersBelow && member.until ?? 0 >= transaction {
            guard !delivery.isAbsent(member.index) else {
                absent.append(name)
                continue
            }
            members.append(member.index)
            note(member, .revoked)
        }
        // Members of another channel could not read it. And the lives of its keys count from receipt: told much later
        // they would be longer than others know.
        let isLate = now - resumption.startedAt > group.entry.dataLifetime * Self.lateAtPercent / 100
        let channel = record.isByUnicast || isLate ? nil : sealer(delivery.rekeySA, of: group)
        let latest = now + group.entry.rollover.activateAfter
        let sender = PushSender(
            group: group.entry.id, epoch: delivery.rekeySA.epoch, transaction: transaction,
            parts: channel == nil ? [] : delivery.parts, members: members, policy: group.entry.push,
            activateAt: min(record.activateAt, latest),
            deactivateAt: record.deactivateAt.map { min($0, latest + group.entry.rollover.keepOld) } ?? .distantFuture,
            resuming: resumption, now: now)
        return OpenTransaction(
            sender: sender, channel: channel ?? group.channel, epoch: record.epoch, reason: record.reason,
            isMasked: record.isMasked, absent: absent.sorted(), membersBelow: record.membersBelow,
            isCommitted: record.isCommitted,
            commitAtPercent: record.reason == .revocation ? 100 : group.entry.rollover.commitAtPercent)
    }

    private func sealer(_ rekeySA: RekeySA, of group: GroupState) -> PushSealer? {
        guard rekeySA.control == group.entry.control, rekeySA.source == configuration.address.address else {
            return nil
        }
        return try? seal(with: rekeySA, for: group.entry.id)
    }

    // MARK: The configuration

    /// Forgets groups that are not declared any more, but for their numbers.
    /// - Returns: their members, who are to be told.
    func dropGroups(_ stored: StoredGroups) -> Set<String> {
        var members: Set<String> = []
        for id in stored.groups.keys.sorted() where groups[id] == nil {
            let leftovers = stored.leftovers(of: id)
            guard !leftovers.isEmpty else { continue }
            unsavedChanges += leftovers.map(RecordChange.remove)
            members.formUnion(stored.values("member", of: id).map(\.name))
            log(.info, "group.removed", ["group": "\(id)"])
        }
        return members
    }
}
