// SPDX-License-Identifier: Apache-2.0

public import Basics
internal import Cryptography
internal import FMKE
internal import IKEv1
internal import KeyTree
internal import ReliablePush
public import Store

/// The inventory changes while the server runs.
///
///     inventory -- check, difference --> draft: clients and groups as they will be, keys drawn, transactions begun
///                                          |                    |
///                               plan: put back as it was     apply: the draft stays; ISAKMP SAs end, profiles go out
///
/// All that can fail is in the draft, which works on copies (values, and a copy of each tree that changes): a bad
/// inventory changes nothing, and what a plan says is what an apply does.
extension KeyServer {
    /// What `apply` would do now, without doing it.
    public func plan(_ next: Inventory, now: Instant) throws(CommandError) -> ApplyReport {
        let state = (groups, clients, unsaved, outputs.count, unsavedChanges)
        defer {
            (groups, clients, unsaved, unsavedChanges) = (state.0, state.1, state.2, state.4)
            outputs.removeSubrange(state.3...)
        }
        return try draft(next, now: now).report
    }

    /// Makes this inventory the one in force: all of it in one step, or nothing when it throws.
    ///
    /// Per group at most one transaction begins; its verdict comes as `.ended`. All records, those of the caller
    /// included, are in one `.persist` in front of all that is sent.
    /// - Parameter recording: what the caller wants stored with it, also when nothing differs.
    public func apply(
        _ next: Inventory, recording: [RecordChange] = [], now: Instant
    ) throws(CommandError) -> ApplyReport {
        let start = outputs.count
        defer { save(before: start) }
        let state = (groups, clients, unsaved, unsavedChanges)
        let draft: Draft
        do throws(CommandError) {
            draft = try self.draft(next, now: now)
        } catch {
            (groups, clients, unsaved, unsavedChanges) = state
            outputs.removeSubrange(start...)
            throw error
        }
        unsavedChanges += recording
        endpoint.abandonExchanges { credential, address in
            draft.directory.credential(for: address)?.preSharedKey != credential.preSharedKey
        }
        directory.adopt(draft.directory)
        inventory = next
        for (association, isGone) in draft.ending {
            // Nobody's any more: its end is no event of a client.
            if isGone { owners[association] = nil }
            endpoint.close(association, now: now)
        }
        apply(draft.vpns, now: now)
        drainEndpoint(now: now)
        queueProfiles(of: draft)
        if !draft.report.isEmpty {
            log(
                .info, "inventory.applied",
                [
                    "changes": "\(draft.report.changes.count)", "rekeys": "\(draft.report.rekeys.count)",
                    "profiles": "\(draft.report.profiles.count)",
                    "multicast_octets": "\(draft.report.multicastOctets)",
                    "unicast_octets": "\(draft.report.unicastOctets)",
                ])
            audit(draft.report.changes)
        }
        forgetReportsOfOthers(now: now)
        advanceGroups(to: now)
        return draft.report
    }

    /// What the store has of groups may differ from what is declared now: brings each group to its entry.
    /// - Throws: `CommandError`, and then nobody serves.
    func adaptGroups(_ stored: StoredGroups, now: Instant) throws {
        var draft = Draft(directory: directory)
        draft.profiles = dropGroups(stored)
        for entry in inventory.groups {
            guard let former = groups[entry.id]?.entry, let rekeySA = groups[entry.id]?.rekeySA else { continue }
            let difference = EntryDifference(from: former, to: entry)
            let isChannelLost =
                rekeySA.source != configuration.address.address
                || rekeySA.signatureAlgorithm != configuration.signingKey.algorithm
                || rekeySA.verifyingKey != configuration.signingKey.publicKey
            guard !difference.isEmpty || isChannelLost else { continue }
            log(
                .info, "group.changed",
                [
                    "group": entry.name, "what": difference.details.joined(separator: ","),
                    "added": difference.added.map(\.name).joined(separator: ","),
                    "removed": difference.removed.joined(separator: ","),
                ])
            if isChannelLost {
                for key in groups[entry.id]?.open.keys.sorted() ?? [] {
                    groups[entry.id]?.open[key]?.sender.leaveMulticast(now: now)
                }
            }
            try change(entry, by: difference, isChannelLost: isChannelLost, &draft, now: now)
        }
        queueProfiles(of: draft)
    }

    private func queueProfiles(of draft: Draft) {
        let queued = draft.profiles.subtracting(draft.served).filter { clients[$0]?.association != nil }
        profileQueue += queued.subtracting(dueProfiles).sorted()
        dueProfiles.formUnion(queued)
    }

    /// A change of the inventory as it takes shape.
    private struct Draft {
        let directory: ClientDirectory
        var report = ApplyReport()
        /// ISAKMP SAs that end, and whether their client is gone altogether.
        var ending: [(AssociationID, isGone: Bool)] = []
        var vpns = VPNDraft()
        /// Clients whose profile changes; and those that a transaction by unicast serves.
        var profiles: Set<String> = []
        var served: Set<String> = []
    }

    /// Leaves clients and groups as the next inventory wants them.
    private func draft(_ next: Inventory, now: Instant) throws(CommandError) -> Draft {
        try next.check(limits: configuration.limits)
        let difference = InventoryDifference(from: inventory, to: next)
        var draft = Draft(directory: ClientDirectory(next, lifetime: configuration.phase1Lifetime))
        draft.report.changes = Self.changes(of: difference)
        try changeClients(difference, next, &draft)
        for entry in difference.removedGroups { try remove(entry, &draft, now: now) }
        for (entry, change) in difference.changedGroups { try self.change(entry, by: change, &draft, now: now) }
        for entry in difference.addedGroups { try add(entry, &draft, now: now) }
        draft.vpns = try self.draft(difference, now: now)
        draft.profiles.formUnion(draft.vpns.profiles)
        draft.report.rekeys += draft.vpns.rekeys
        try reckon(&draft, now: now)
        return draft
    }

    // MARK: Clients

    private func changeClients(
        _ difference: InventoryDifference, _ next: Inventory, _ draft: inout Draft
    ) throws(CommandError) {
        for name in difference.removedClients {
            guard let client = clients.removeValue(forKey: name) else { continue }
            if let association = client.association {
                draft.ending.append((association, isGone: true))
                draft.report.disconnected.append(name)
            }
            unsaved.remove(name)
            // Its numbers stay, and whether it was revoked: it may come back.
            unsavedChanges.append(.remove(Self.stateName(name)))
            log(.warning, "client.removed", ["client": name])
        }
        let terms = next.terms
        for name in difference.addedClients {
            do throws(StoreError) {
                clients[name] = try newClient(name, terms[name]?.address)
            } catch {
                throw .store(error)
            }
            log(.info, "client.added", ["client": name])
        }
        for (name, client) in clients where client.isRevoked { draft.directory.revoke(name) }
        for (name, details) in difference.changedClients {
            clients[name]?.address = terms[name]?.address
            log(.info, "client.changed", ["client": name, "what": details.joined(separator: ",")])
            guard let association = clients[name]?.association,
                details.contains("key") || !isGood(association, of: name, by: draft.directory)
            else { continue }
            clients[name]?.association = nil
            draft.ending.append((association, isGone: false))
            draft.report.disconnected.append(name)
        }
        draft.report.disconnected.sort()
    }

    /// Could an ISAKMP SA have come about like this by what that directory says?
    private func isGood(_ association: AssociationID, of name: String, by directory: ClientDirectory) -> Bool {
        guard let info = endpoint.info(association), let credential = directory.credential(ofClient: name) else {
            return false
        }
        return credential.suites.contains(info.suite) && credential.name == info.peerName
            && directory.client(at: info.remote.address, identity: info.peerIdentity) == name
    }

    // MARK: Groups

    /// What a change of a group makes necessary.
    private struct Turn {
        var causes: [String] = []
        var evicts = false
        var isForced = false
        var newKEK = false
        var byUnicast = false
        var joins = false
        var isScheduled = false

        /// nil: no new keys.
        var reason: RekeyReason? {
            evicts ? .revocation : isForced ? .applied : joins ? .joined : isScheduled ? .scheduled : nil
        }

        mutating func force(_ cause: String, newKEK: Bool = false, byUnicast: Bool = false) {
            causes.append(cause)
            isForced = true
            if newKEK { self.newKEK = true }
            if byUnicast { self.byUnicast = true }
        }
    }

    /// - Parameter isChannelLost: nothing can be told under the present KEK.
    private func change(
        _ entry: GroupEntry, by difference: EntryDifference, isChannelLost: Bool = false, _ draft: inout Draft,
        now: Instant
    ) throws(CommandError) {
        guard var group = groups[entry.id] else { return }
        // The original stays as it is until all is well.
        do { group.tree = try group.tree?.copy() } catch { throw .cryptography }
        let old = group.entry
        let hadOneSender = group.hasOneSender
        if old.members.count(where: { $0.role.maySend }) > 1 { group.severalSendersUpTo = group.transaction }
        group.entry = entry
        var turn = Turn()
        if difference.areFlowsChanged { turn.force("flows") }
        if difference.isSuiteChanged { turn.force("suite") }
        if difference.isControlChanged { turn.force("control", newKEK: true) }
        if isChannelLost { turn.force("channel", newKEK: true, byUnicast: true) }
        if difference.isRenamed {
            draft.profiles.formUnion(group.members.keys)
            log(.info, "group.renamed", ["group": entry.name, "was": old.name])
        }
        takeOut(difference.removed, of: &group, &turn, &draft, now: now)
        let newSenders = changeRoles(difference, in: &group, &draft, now: now)
        try takeIn(difference.added, to: &group, &turn, &draft, now: now)
        if hadOneSender, !newSenders.isEmpty {
            // Receivers keep one window for what they have: who is new there sends with what comes.
            for name in newSenders { group.members[name]?.sendsSince = group.transaction + 1 }
            turn.force("senders", byUnicast: !group.hasOneSender)
        }
        if difference.isMethodChanged { try replant(&group, &turn) }
        if difference.areLifetimesChanged { bringForward(&group, since: old, &turn, now: now) }
        group.beaconAt = min(group.beaconAt, now + entry.push.beaconInterval)
        if let reason = turn.reason {
            try renewKeys(
                of: &group, newKEK: turn.newKEK || reason == .revocation || reason == .joined, reason: reason,
                byUnicast: turn.byUnicast, now: now)
            if reason == .joined { group.renewedAt = now }
            groups[entry.id] = group
            announceStart(of: group)
            note(group, causes: turn.causes, &draft)
        } else {
            groups[entry.id] = group
        }
    }

    private func takeOut(
        _ names: [String], of group: inout GroupState, _ turn: inout Turn, _ draft: inout Draft, now: Instant
    ) {
        for name in names {
            guard let member = group.takeOut(name) else { continue }
            let isInTree = takeOut(member, ofTree: group.tree)
            let heldKeys = member.holdsKeys || group.tree != nil && isInTree
            group.giveUp(on: member, heldKeys: heldKeys, now: now)
            draft.profiles.insert(name)
            // Who never had a key needs no other.
            guard heldKeys else { continue }
            if !turn.evicts { turn.causes.append("eviction") }
            turn.evicts = true
        }
    }

    /// - Returns: who did not send before.
    private func changeRoles(
        _ difference: EntryDifference, in group: inout GroupState, _ draft: inout Draft, now: Instant
    ) -> [String] {
        var newSenders = difference.added.filter { $0.role.maySend }.map(\.name)
        for change in difference.roles where group.members[change.name] != nil {
            group.members[change.name]?.role = change.to
            draft.profiles.insert(change.name)
            if !change.to.maySend { group.members[change.name]?.senderID = nil }
            guard change.to.maySend, !change.from.maySend else { continue }
            newSenders.append(change.name)
            if clients[change.name]?.association != nil { giveSenderID(to: change.name, in: &group, now: now) }
        }
        return newSenders
    }

    private func takeIn(
        _ members: [EntryDifference.Member], to group: inout GroupState, _ turn: inout Turn, _ draft: inout Draft,
        now: Instant
    ) throws(CommandError) {
        var hasNewcomers = false
        for member in members where clients[member.name]?.isRevoked == false {
            group.admit(member.name, role: member.role)
            guard clients[member.name]?.association != nil else { continue }
            draft.profiles.insert(member.name)
            if member.role.maySend { giveSenderID(to: member.name, in: &group, now: now) }
            guard let tree = group.tree, let index = group.members[member.name]?.index else { continue }
            do { try tree.join(at: index) } catch { throw .tooLarge(group: group.entry.name) }
            hasNewcomers = true
        }
        guard hasNewcomers, let tree = group.tree else { return }
        do throws(KeyTreeError) {
            if let changed = try admit(to: tree) {
                unsavedChanges += treeChanges(changed, tree, group.entry.id)
            } else {
                turn.joins = true
                turn.causes.append("members")
            }
        } catch {
            throw .cryptography
        }
    }

    /// Another way to take members out: a tree is planted, or let go of. Its members learn of it by their profiles.
    private func replant(_ group: inout GroupState, _ turn: inout Turn) throws(CommandError) {
        turn.force("revocation", newKEK: true, byUnicast: true)
        if let tree = group.tree { unsavedChanges += treeRemovals(tree, group.entry.id) }
        (group.tree, group.treeUpdate, group.newcomers) = (nil, nil, [])
        guard group.entry.revocation == .lkh else { return }
        var indices: [UInt32] = []
        for (name, member) in group.members where member.holdsKeys || clients[name]?.association != nil {
            indices.append(member.index)
            if group.entry.backwardSecrecy, !member.holdsKeys { group.members[name]?.since = group.transaction + 1 }
        }
        do {
            try plantTree(of: &group, members: indices, transaction: group.transaction + 1)
        } catch {
            throw .cryptography
        }
    }

    /// Keys that are older than a shorter lifetime allows are changed now, others earlier than planned. A longer one
    /// begins with the next keys: members know when the present ones end.
    private func bringForward(_ group: inout GroupState, since old: GroupEntry, _ turn: inout Turn, now: Instant) {
        if let made = group.data.map(\.createdAt).max() {
            group.dataRekeyAt = min(group.dataRekeyAt, made + Self.share(of: group.entry.dataLifetime))
        }
        let made = group.kekExpiresAt - old.kekLifetime
        group.kekRekeyAt = min(group.kekRekeyAt, made + Self.share(of: group.entry.kekLifetime))
        guard min(group.dataRekeyAt, group.kekRekeyAt) <= now else { return }
        turn.isScheduled = true
        turn.causes.append("lifetime")
        if group.kekRekeyAt <= now { turn.newKEK = true }
    }

    private func add(_ entry: GroupEntry, _ draft: inout Draft, now: Instant) throws(CommandError) {
        let present = entry.members.map(\.client).filter { clients[$0]?.association != nil }
        do {
            try makeGroup(entry, present: Set(present), now: now)
        } catch let error as CommandError {
            throw error
        } catch let error as StoreError {
            throw .store(error)
        } catch {
            throw .cryptography
        }
        for name in present where groups[entry.id]?.members[name]?.role.maySend == true {
            assignSenderID(to: name, in: entry.id, now: now)
        }
        deliverByUnicast(entry.id, reason: .applied, now: now)
        if let group = groups[entry.id] { note(group, causes: ["group"], &draft) }
    }

    /// Its transactions end with it, and what is stored of it goes, but for its numbers.
    private func remove(_ entry: GroupEntry, _ draft: inout Draft, now: Instant) throws(CommandError) {
        guard let group = groups[entry.id] else { return }
        draft.profiles.formUnion(group.members.keys)
        for key in group.open.keys.sorted() {
            guard var open = groups[entry.id]?.open[key] else { continue }
            for member in group.members.values { open.sender.giveUp(member.index, reason: .revoked) }
            if let held = open.heldVerdict {
                finish(held, open, group: entry.id, now: now)
            } else if case .ended(let verdict) = open.sender.poll(now: now) {
                finish(verdict, open, group: entry.id, now: now)
            }
        }
        unsavedChanges += removals(of: group)
        groups[entry.id] = nil
        log(.warning, "group.removed", ["group": entry.name])
    }

    // MARK: The report

    static func changes(of difference: InventoryDifference) -> [ApplyReport.Change] {
        typealias Change = ApplyReport.Change
        var changes = difference.removedClients.map { Change(.client, .removed, $0) }
        changes += difference.addedClients.map { Change(.client, .added, $0) }
        changes += difference.changedClients.map { Change(.client, .changed, $0.name, details: $0.details) }
        changes += difference.removedGroups.map { Change(.group, .removed, $0.name) }
        changes += difference.addedGroups.map { Change(.group, .added, $0.name) }
        for (entry, group) in difference.changedGroups {
            if !group.details.isEmpty { changes.append(Change(.group, .changed, entry.name, details: group.details)) }
            changes += group.removed.map { Change(.member, .removed, $0, group: entry.name) }
            changes += group.added.map {
                Change(.member, .added, $0.name, group: entry.name, details: [$0.role.rawValue])
            }
            changes += group.roles.map {
                Change(.member, .changed, $0.name, group: entry.name, details: [$0.from.rawValue, $0.to.rawValue])
            }
        }
        changes += difference.removedVPNs.map { Change(.vpn, .removed, $0.name, details: $0.ends) }
        changes += difference.addedVPNs.map { Change(.vpn, .added, $0.name, details: $0.ends) }
        changes += difference.changedVPNs.map { Change(.vpn, .changed, $0.entry.name, details: $0.details) }
        return changes
    }

    /// What the transaction that just began takes.
    private func note(_ group: GroupState, causes: [String], _ draft: inout Draft) {
        guard let open = group.open[group.transaction] else { return }
        let forecast = open.sender.forecast
        let octets = forecast.reduce(0) { sum, datagram in
            sum + PushEnvelope.size(datagram.kind, body: datagram.octets, configuration.signingKey.algorithm)
        }
        var unicasts = 0
        if forecast.isEmpty {
            let served = group.members.keys.filter { clients[$0]?.association != nil }
            draft.served.formUnion(served)
            unicasts = served.count
        }
        draft.report.rekeys.append(
            ApplyReport.Rekey(
                group: group.entry.name, transaction: group.transaction, reason: open.reason, causes: causes,
                members: open.sender.unconfirmedCount, datagrams: forecast.count, multicastOctets: octets,
                unicasts: unicasts))
        draft.report.multicastOctets += octets
    }

    /// What the profiles take: the very messages are made, and not sent.
    private func reckon(_ draft: inout Draft, now: Instant) throws(CommandError) {
        let names = draft.profiles.union(draft.served).filter { clients[$0]?.association != nil }.sorted()
        draft.report.profiles = names
        for name in names {
            guard let association = clients[name]?.association else { continue }
            do throws(FMKEError) {
                let messages = try Configure.split(
                    sequence: 0, generation: 1, groups: sections(for: name, now: now),
                    vpns: vpnSections(for: name, now: now), limits: configuration.limits)
                for message in messages {
                    let payloads = try message.payloads(limits: configuration.limits)
                    draft.report.unicastOctets += endpoint.requestSize(payloads, on: association) ?? 0
                }
            } catch {
                // Some SAs are left out of a profile that is too long, which is said when it is sent.
                guard error == .tooLong || error == .limit else { throw .cryptography }
                draft.report.unicastOctets += configuration.limits.datagramOctetsSent
            }
        }
    }

    // MARK: Profiles

    private static let profilesAtOnce = 4
    private static let profileOctets = 700

    /// Sends changed profiles a few at a time, at the pace of the fastest control channel: a change may concern
    /// everybody.
    func sendDueProfiles(now: Instant) {
        guard !dueProfiles.isEmpty, profilesAt <= now else { return }
        var sent = 0
        while sent < Self.profilesAtOnce, let name = profileQueue.popFirst() {
            guard dueProfiles.contains(name) else { continue }
            sendProfile(to: name, now: now)
            sent += 1
        }
        if profileQueue.isEmpty { dueProfiles = [] }
        let fastest = groups.values.map(\.entry.push).max { $0.controlRate < $1.controlRate } ?? PushPolicy()
        profilesAt = now + fastest.serialisation(of: Self.profileOctets) * sent
    }
}
