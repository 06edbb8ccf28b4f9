// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import FMKE
internal import Cryptography
internal import ReliablePush
internal import IKEv1
internal import ISAKMP
internal import KeyTree

/// Phase 1 events, profiles (phase 2) and STATUS.
extension KeyServer {
    func handle(_ event: Phase1Event, now: Instant) {
        switch event {
        case .established(let info): register(info, now: now)
        case .failed(let peer, let remote, let reason):
            logAndAudit(
                .warning, "phase1.failed", by: peer ?? "unknown",
                ["peer": peer ?? "unknown", "from": "\(remote)", "reason": "\(reason)"], now: now)
        case .ended(let info, let reason): associationEnded(info, reason: reason, now: now)
        case .reauthenticationDue:
            break  // the client is the initiator: it will come
        case .request(let info, let exchange, _, let payloads):
            guard exchange == .status, let name = clientName(info.id) else {
                drop("unsupportedExchange", from: info.remote)
                return
            }
            receiveStatus(payloads, from: name, info: info, now: now)
        case .answer(let info, let exchange, let messageID, let payloads):
            guard exchange == .configure, let name = clientName(info.id) else { return }
            receiveAnswer(payloads, to: messageID, from: name, info: info, now: now)
        case .unanswered(let info, _, let messageID):
            guard let name = clientName(info.id) else { return }
            let profile = clients[name]?.pending.removeValue(forKey: messageID)
            if clients[name]?.pending.isEmpty == true { unsaved.insert(name) }
            log(
                .warning, "configure.unanswered", by: name, ["client": name, "to": "\(info.remote)"], now: now)
            // As long as the client is there it must get its newest profile, or we its answer: a client that has none
            // does not know that it lacks anything. Dead peer detection ends this.
            if let profile, profile.generation == clients[name]?.generation { sendProfile(to: name, now: now) }
        case .alive(let info):
            guard let name = clientName(info.id) else { return }
            heard(name, now: now)
        case .annex(let info, let payloads):
            guard let name = clientName(info.id), let digest = ReportDigest(payloads: payloads) else { return }
            receiveDigest(digest, from: name, now: now)
        case .moved(let info, let from):
            log(
                .info, "phase1.moved", by: info.peerName,
                ["client": info.peerName, "from": "\(from)", "to": "\(info.remote)"], now: now)
            if let name = clientName(info.id) { vpnsMoved(name, now: now) }
        case .dropped(let reason, let from): drop(reason.rawValue, from: from)
        }
    }

    func clientName(_ id: AssociationID) -> String? { owners[id] }

    private func drop(_ reason: String, from: SocketAddress) {
        guard let count = drops.count(reason) else { return }
        log(.warning, "datagram.dropped", ["reason": reason, "from": "\(from)", "count": "\(count)"])
    }

    // MARK: Phase 1

    private func register(_ info: AssociationInfo, now: Instant) {
        guard let name = directory.client(at: info.remote.address, identity: info.peerIdentity),
            !directory.isRevoked(name)
        else {
            logAndAudit(
                .warning, "client.refused", by: info.peerName,
                ["peer": info.peerName, "from": "\(info.remote)", "identity": Self.text(info.peerIdentity)], now: now)
            endpoint.close(info.id, now: now)
            return
        }
        let previous = clients[name]?.association
        let isRestart = info.isInitialContact && clients[name]?.wasRegistered == true
        clients[name]?.association = info.id
        owners[info.id] = name
        if let previous, previous != info.id { owners[previous] = nil }
        clients[name]?.pending = [:]
        clients[name]?.lastReport = 0
        clients[name]?.lastHeard = now
        clients[name]?.wasRegistered = true
        unsaved.insert(name)
        outputs.append(.associationUp(info.id))
        logAndAudit(
            .info, "client.authenticated", by: name,
            [
                "client": name, "from": "\(info.remote)", "suite": "\(info.suite)",
                "rtt_ms": info.roundTrip.map { "\($0.wholeMilliseconds)" } ?? "unknown",
                "nat": "\(info.isBehindNAT)",
            ], now: now)
        if let previous, previous != info.id { endpoint.close(previous, now: now) }
        for id in groups.keys.sorted() {
            enterTree(name, of: id, now: now)
            guard let member = groups[id]?.members[name], member.role.maySend else { continue }
            assignSenderID(to: name, in: id, now: now)
            // spec: RFC 6407 3.5.1 - its counters are gone with its memory, so its keys must not go on either.
            guard isRestart, member.holdsKeys else { continue }
            // It begins again at sequence number 1: the one window of its receivers would take that for a replay.
            if let group = groups[id], group.hasOneSender {
                groups[id]?.members[name]?.sendsSince = group.transaction + 1
            }
            renew(id, reason: .senderRestarted, now: now)
        }
        vpnsRegistered(name, now: now)
        sendProfile(to: name, now: now)
    }

    func assignSenderID(to name: String, in group: UInt32, now: Instant) {
        guard var state = groups.removeValue(forKey: group) else { return }
        // Held by nobody else: its table of members is not copied.
        giveSenderID(to: name, in: &state, now: now)
        groups[group] = state
    }

    func giveSenderID(to name: String, in state: inout GroupState, now: Instant) {
        guard state.nextSenderID <= UInt32(UInt16.max) else {
            // An id that was given before could repeat a vector: without one a sender gets no keys of this group.
            state.members[name]?.senderID = nil
            log(
                .error, "group.sender-ids-exhausted", by: name,
                [
                    "group": state.entry.name, "client": name,
                    "remedy": "start gcks with a new state file, which changes all keys",
                ], now: now)
            return
        }
        state.members[name]?.senderID = UInt16(state.nextSenderID)
        state.nextSenderID += 1
        store("group/\(state.entry.id)/sender-id", number: UInt64(state.nextSenderID))
    }

    private func associationEnded(_ info: AssociationInfo, reason: AssociationEnd, now: Instant) {
        guard let name = clientName(info.id) else { return }
        owners[info.id] = nil
        clients[name]?.association = nil
        clients[name]?.pending = [:]
        unsaved.insert(name)
        let level: LogEvent.Level = reason == .deadPeer || reason == .expired ? .warning : .info
        logAndAudit(level, "client.gone", by: name, ["client": name, "reason": reason.explanation], now: now)
        for id in groups.keys {
            guard let member = groups[id]?.members[name] else { continue }
            // Gone by its own will without a word on the keys (the GCKS was not whom it expects): it never took them,
            // and coming again is no restart.
            if reason == .peerDeleted, member.confirmed == 0 { groups[id]?.members[name]?.holdsKeys = false }
            waitNoMore(member, of: id)
            for key in groups[id]?.open.keys.sorted() ?? [] {
                groups[id]?.open[key]?.sender.giveUp(member.index, reason: .unreachable)
            }
        }
        vpnsGone(name, now: now)
    }

    // MARK: Phase 2

    /// Sends a client everything it may have, as one generation of CONFIGURE messages.
    func sendProfile(to name: String, now: Instant) {
        dueProfiles.remove(name)
        guard var client = clients[name], let association = client.association else { return }
        guard !isWaiting(name) else {
            heldProfiles.insert(name)
            return
        }
        var sections = sections(for: name, now: now)
        // Not above, where the group is held: its table of members would be copied.
        for section in sections where groups[section.group]?.members[name]?.holdsKeys == false {
            groups[section.group]?.members[name]?.holdsKeys = true
        }
        // A client acts on no older profile once it has seen this one.
        for (messageID, pending) in client.pending { endpoint.withdraw(messageID, on: pending.association) }
        client.pending = [:]
        client.generation &+= 1
        client.lastProfileAt = now
        let vpnSections = vpnSections(for: name, now: now)
        client.vpnPending = nil
        do {
            let messages = try split(
                &sections, vpns: vpnSections, for: name, generation: client.generation, now: now)
            auditProfile(of: name, sections, vpnSections)
            var messageIDs: [UInt32] = []
            for var message in messages {
                let (number, reservation) = client.sequence.take()
                if let reservation { store("client/\(name)/sequence", number: reservation) }
                message.sequence = number
                let messageID = try endpoint.request(.configure, message.payloads(), on: association, now: now)
                messageIDs.append(messageID)
                client.pending[messageID] = PendingConfigure(
                    association: association, sequence: number, generation: client.generation, sentAt: now,
                    transactions: Dictionary(
                        message.groups.map { ($0.group, $0.membership.transaction) }
                    ) { max($0, $1) })
            }
            client.vpnPending = vpnsSent(to: name, messages: messageIDs)
            log(
                .info, "configure.sent", by: name,
                ["client": name, "groups": "\(sections.count)", "messages": "\(messages.count)"], now: now)
        } catch {
            if !vpnSections.isEmpty { unprofiled.insert(name) }
            log(.error, "configure.failed", by: name, ["client": name, "reason": "\(error)"], now: now)
        }
        if client.pending.isEmpty == client.isStoredAsOwed { unsaved.insert(name) }
        clients[name] = client
    }

    /// All groups that a client may be told of now.
    func sections(for name: String, now: Instant) -> [GroupSection] {
        groups.keys.sorted().compactMap { id in
            guard let group = groups[id], let member = group.members[name],
                !member.role.maySend || member.senderID != nil
            else { return nil }
            return section(of: group, for: member, now: now)
        }
    }

    /// As messages; where a group's SAs do not fit one, those are left out that are missed least.
    private func split(
        _ sections: inout [GroupSection], vpns: [VPNSection], for name: String, generation: UInt32, now: Instant
    ) throws(FMKEError) -> [Configure] {
        for index in sections.indices {
            var leftOut: [UInt32] = []
            while sections[index].dataSAs.count > configuration.limits.dataAssociationsPerGroup {
                leftOut.append(leaveOneOut(of: &sections[index], now: now))
            }
            while !sections[index].dataSAs.isEmpty {
                do throws(FMKEError) {
                    _ = try Configure.split(
                        sequence: 0, generation: generation, groups: [sections[index]], limits: configuration.limits)
                    break
                } catch {
                    guard error == .tooLong, sections[index].dataSAs.count > 1 else { throw error }
                    leftOut.append(leaveOneOut(of: &sections[index], now: now))
                }
            }
            guard !leftOut.isEmpty else { continue }
            let spis = leftOut.map(spiText).joined(separator: ",")
            log(.warning, "configure.crowded", ["client": name, "group": sections[index].name, "left_out": spis])
        }
        return try Configure.split(
            sequence: 0, generation: generation, groups: sections, vpns: vpns, limits: configuration.limits)
    }

    /// Takes out the SA that is missed least. A sender whose SA ends before it would move on takes the time of the one
    /// that is left out: after a revocation it must not stay with an SA that the removed client knows. That goes for
    /// the group from then on, so that no later profile takes what it sends with for something that is not in use yet.
    /// - Returns: its SPI.
    private func leaveOneOut(of section: inout GroupSection, now: Instant) -> UInt32 {
        let index = Self.leastNeeded(of: section.dataSAs)
        let out = section.dataSAs.remove(at: index)
        let before = section.dataSAs[..<index].last { $0.selector == out.selector }
        guard let end = before?.deactivateInMilliseconds, out.direction != .receiver,
            let next = section.dataSAs[index...].firstIndex(where: { $0.selector == out.selector })
        else { return out.spi }
        let successor = section.dataSAs[next]
        guard successor.activateInMilliseconds > end - min(end, Self.flightMilliseconds),
            successor.activateInMilliseconds > out.activateInMilliseconds
        else { return out.spi }
        section.dataSAs[next].activateInMilliseconds = out.activateInMilliseconds
        let position = groups[section.group]?.data.firstIndex { $0.sa.spi == successor.spi }
        if let position {
            let activateAt = now + .milliseconds(Int64(out.activateInMilliseconds))
            groups[section.group]?.data[position].activateAt = activateAt
        }
        return out.spi
    }

    /// A profile's times count from its receipt, which is later for one member than for the other.
    private static let flightMilliseconds: UInt32 = 2_000

    /// Of a group's SAs, oldest first, the position of the one that is missed least: the oldest whose successor is in
    /// use; else the oldest that is not in use yet and has a successor; else the oldest.
    private static func leastNeeded(of sas: [DataSA]) -> Int {
        func successors(_ index: Int) -> [DataSA] {
            sas[(index + 1)...].filter { $0.selector == sas[index].selector }
        }
        let isOver = sas.indices.first { index in successors(index).contains { $0.activateInMilliseconds == 0 } }
        let isBetween = sas.indices.first { index in
            sas[index].activateInMilliseconds > 0 && !successors(index).isEmpty
        }
        return isOver ?? isBetween ?? sas.startIndex
    }

    /// nil for a newcomer whose transaction has not come yet.
    private func section(of group: GroupState, for member: MemberState, now: Instant) -> GroupSection? {
        var treeKeys: Secret?
        if let tree = group.tree {
            guard let keys = try? tree.memberKeys(member.index) else { return nil }
            // Revealed to be written into an encrypted message; a secret again until then.
            treeKeys = Secret(keys.octets)
        }
        var rekeySA = group.rekeySA
        rekeySA.lifetimeSeconds = UInt32(clamping: max(Int64((group.kekExpiresAt - now).inSeconds), 1))
        let membership = Membership(
            memberIndex: member.index, senderID: member.senderID,
            hasOneSender: group.hasOneSender, sequence: group.sequence.last, transaction: group.transaction)
        return GroupSection(
            group: group.entry.id, name: group.entry.name, membership: membership, rekeySA: rekeySA,
            dataSAs: group.data.filter { $0.transaction >= member.since }.compactMap { item in
                var described = item.described(now: now, for: member.role)
                if item.transaction < member.sendsSince { described?.activateInMilliseconds = .max }
                return described
            }, treeKeys: treeKeys)
    }

    private func receiveAnswer(
        _ payloads: [RawPayload], to messageID: UInt32, from name: String, info: AssociationInfo, now: Instant
    ) {
        guard let pending = clients[name]?.pending.removeValue(forKey: messageID) else { return }
        if clients[name]?.pending.isEmpty == true { unsaved.insert(name) }
        heard(name, now: now)
        guard let answer = try? ConfigureAnswer(payloads: payloads, limits: configuration.limits),
            answer.sequence == pending.sequence
        else {
            log(.warning, "configure.answer-malformed", by: name, ["client": name], now: now)
            return
        }
        let refused = Set(answer.items.filter { !$0.code.isGood }.map(\.group))
        vpnsAnswered(by: name, to: messageID, refused: refused, now: now)
        // What is refused of a VPN is the VPN's matter alone.
        if !refused.isEmpty {
            let bad = answer.items.filter { !$0.code.isGood }
            let list = bad.prefix(8).map { "group \($0.group) spi \(spiText($0.spi)): \($0.code)" }
            log(
                .error, "configure.refused", by: name,
                ["client": name, "count": "\(bad.count)", "items": list.joined(separator: "; ")], now: now)
            guard refused.allSatisfy({ vpns[$0] != nil }) else { return }
        } else {
            log(
                .info, "configure.acknowledged", by: name, ["client": name, "sas": "\(answer.items.count)"], now: now)
        }
        for (group, transaction) in pending.transactions.sorted(by: { $0.key < $1.key }) {
            confirm(client: name, group: group, transaction: transaction, sentAt: pending.sentAt, now: now)
        }
        if isMovingLate(name, since: pending, now: now) { sendProfile(to: name, now: now) }
    }

    /// Did a repeated profile come so late to a sender that its activation, which counts from receipt, is behind that
    /// of the others? Then the times of a fresh profile make it move at once.
    private func isMovingLate(_ name: String, since pending: PendingConfigure, now: Instant) -> Bool {
        pending.transactions.contains { id, transaction in
            guard let group = groups[id], group.members[name]?.role.maySend == true else { return false }
            return now - pending.sentAt > group.entry.push.roundTrip * 2
                && group.data.contains {
                    $0.transaction == transaction && $0.activateAt > pending.sentAt && $0.removeAt == nil
                }
        }
    }

    /// Did a sender catch up by a PUSH with a transaction that is not in use yet, past one that is? All SAs of a PUSH
    /// have the same time, so it would stay behind the others until then; a profile tells it which ones are in use.
    private func isSendingWithOldKeys(
        _ member: MemberState, of group: GroupState, having complete: UInt64, now: Instant
    ) -> Bool {
        guard member.role.maySend, complete > member.confirmed else { return false }
        let skipped = group.data.contains {
            $0.transaction > member.confirmed && $0.transaction < complete && $0.activateAt <= now
        }
        return skipped && group.data.contains { $0.transaction == complete && $0.activateAt > now }
    }

    // MARK: STATUS

    private func receiveStatus(_ payloads: [RawPayload], from name: String, info: AssociationInfo, now: Instant) {
        guard let status = try? Status(payloads: payloads, limits: configuration.limits) else {
            log(.warning, "status.malformed", by: name, ["client": name], now: now)
            return
        }
        guard status.report > clients[name]?.lastReport ?? 0 else {
            drop("oldReport", from: info.remote)
            return
        }
        clients[name]?.lastReport = status.report
        unsaved.insert(name)
        heard(name, now: now)
        var needsProfile = false
        for report in status.groups {
            if takeVPNReport(report, from: name, now: now) {
                if report.wantsProfile { needsProfile = true }
                continue
            }
            guard let member = groups[report.group]?.members[name] else {
                // It reports a group that is no longer its: its profile tells it so.
                needsProfile = true
                continue
            }
            guard let standing = standing(of: member, in: report, now: now) else {
                noteReportFromTheFuture(report, from: name, now: now)
                continue
            }
            // It may have them by a profile whose answer got lost.
            let sentAt = clients[name]?.pending.values.map(\.sentAt).min() ?? now - standing.roundTrip
            confirm(client: name, group: report.group, transaction: report.complete, sentAt: sentAt, now: now)
            if standing.sendsWithOldKeys { needsProfile = true }
            for missing in report.missing {
                groups[report.group]?.open[missing.transaction]?.sender.negativeAcknowledgement(
                    from: member.index, needed: missing.needed, block: missing.block, now: now)
            }
            if report.wantsProfile { needsProfile = true }
            if report.wantsRekey, member.role.maySend { refresh(report.group, now: now) }
            // It lacks something of which no transaction is under way any more: repair it by itself.
            if standing.isBehind, !report.missing.isEmpty { needsProfile = true }
        }
        let recently = clients[name]?.lastProfileAt.map { now - $0 < .seconds(1) } ?? false
        if needsProfile, !recently { sendProfile(to: name, now: now) }
    }

    /// A client that has everything says so in its answer to dead peer detection. One that has not is left alone: it
    /// knows, or will learn from a BEACON, and sends a STATUS.
    private func receiveDigest(_ digest: ReportDigest, from name: String, now: Instant) {
        var expected: [UInt32: UInt64] = [:]
        for (id, group) in groups where group.members[name]?.holdsKeys == true { expected[id] = group.transaction }
        guard !expected.isEmpty, digest == ReportDigest(expected) else { return }
        for (id, transaction) in expected.sorted(by: { $0.key < $1.key }) {
            let roundTrip = groups[id]?.entry.push.roundTrip ?? .zero
            let sentAt = clients[name]?.pending.values.map(\.sentAt).min() ?? now - roundTrip
            confirm(client: name, group: id, transaction: transaction, sentAt: sentAt, now: now)
        }
    }

    /// What a report means before anything changes by it; nil when it cannot be. (A function of its own, so that nobody
    /// holds the group while it changes: its table of members would be copied.)
    private func standing(
        of member: MemberState, in report: GroupReport, now: Instant
    ) -> (roundTrip: Duration, sendsWithOldKeys: Bool, isBehind: Bool)? {
        guard let group = groups[report.group], report.complete <= group.transaction,
            report.epoch <= group.rekeySA.epoch
        else { return nil }
        return (
            group.entry.push.roundTrip,
            isSendingWithOldKeys(member, of: group, having: report.complete, now: now),
            report.complete < group.transaction && group.open[group.transaction] == nil
        )
    }

    /// New data keys because a sender nears a limit, unless they are on their way already.
    private func refresh(_ group: UInt32, now: Instant) {
        guard let state = groups[group], state.open.isEmpty,
            state.data.allSatisfy({ now - $0.createdAt >= state.entry.rollover.activateAfter * 2 })
        else { return }
        renew(group, reason: .volume, now: now)
    }

    /// New data keys because of what one member did or said. One member must not keep the whole group rolling over: the
    /// next time is when the SAs of this time have replaced the former ones.
    func renew(_ group: UInt32, reason: RekeyReason, now: Instant) {
        guard let state = groups[group], state.renewal == nil else { return }
        let rollover = state.entry.rollover
        let earliest = state.renewedAt.map { $0 + rollover.activateAfter + rollover.keepOld } ?? now
        groups[group]?.renewal = (max(earliest, now), reason)
        schedule(group, now: now)
    }

    private func confirm(client name: String, group: UInt32, transaction: UInt64, sentAt: Instant, now: Instant) {
        // Of numbers that no transaction of this run had, a member could make up any number.
        guard let member = groups[group]?.members[name], transaction >= groups[group]?.firstTransaction ?? 0 else {
            return
        }
        if transaction > member.confirmed {
            groups[group]?.members[name]?.confirmed = transaction
            groups[group]?.members[name]?.confirmedAt = now
            let movesBy = groups[group]?.movesBy(transaction, sentAt: sentAt, now: now)
            groups[group]?.members[name]?.movesBy = movesBy
            log(
                .info, "keys.confirmed",
                [
                    "client": name, "group": groups[group]?.entry.name ?? "\(group)",
                    "transaction": "\(transaction)",
                ])
        }
        for key in groups[group]?.open.keys.sorted() ?? [] where key <= transaction {
            groups[group]?.open[key]?.sender.confirm(member.index, now: now)
        }
    }

    /// A client proved that it lives.
    func heard(_ name: String, now: Instant) {
        clients[name]?.lastHeard = now
        for id in groups.keys {
            guard let member = groups[id]?.members[name] else { continue }
            for key in groups[id]?.open.keys.sorted() ?? [] {
                groups[id]?.open[key]?.sender.heard(from: member.index)
            }
        }
    }

    // MARK: Words

    /// For the log; what a peer calls itself may be as long as a datagram.
    static func text(_ identity: Identity) -> String {
        switch identity {
        case .address(let address): "\(address)"
        case .name(let name), .user(let name): String(name.prefix(64))
        case .subnet(let prefix): "\(prefix)"
        case .keyID(let octets): "key-id \(hexadecimal(octets.prefix(32)))"
        case .other(let type, _): "type \(type)"
        }
    }
}
