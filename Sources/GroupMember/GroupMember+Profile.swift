// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import Cryptography
internal import ESP
internal import FMKE
internal import IKEv1
internal import ISAKMP
internal import KeyTree
internal import ReliablePush
internal import Store

/// Phase 2: the profile, and the life of the SAs it brings.
extension GroupMember {
    /// How long SAs that a profile no longer names go on receiving: what was sent before is still on its way.
    private static let unlistedGrace: Duration = .seconds(5)

    func receiveConfigure(_ payloads: [RawPayload], messageID: UInt32, association: AssociationID, now: Instant) {
        let message: Configure
        do {
            message = try Configure(payloads: payloads, limits: configuration.limits)
        } catch {
            log(.error, "configure.malformed", ["reason": "\(error)"])
            return
        }
        guard message.sequence > configureSequence || generation?.lacks(message) == true else {
            log(.warning, "configure.replayed", ["sequence": "\(message.sequence)"])
            return
        }
        if message.sequence > configureSequence {
            configureSequence = message.sequence
            output(.persist([Record("profile/sequence", number: configureSequence)]))
        }
        unansweredAsks = 0
        var items: [ConfigureAnswer.Item] = []
        for section in message.groups { items += apply(section, now: now) }
        for section in message.vpns { items += apply(section, in: message, now: now) }
        collect(message, now: now)
        let answer = ConfigureAnswer(sequence: message.sequence, items: items)
        pending.append(.configureAnswer(answer, messageID: messageID, association: association, at: now))
        log(
            .info, "configure.received",
            [
                "generation": "\(message.generation)", "part": "\(message.part + 1)/\(message.partCount)",
                "groups": message.groups.map(\.name).joined(separator: ","),
            ])
    }

    func send(_ answer: ConfigureAnswer, messageID: UInt32, association: AssociationID, now: Instant) {
        do {
            try endpoint.respond(
                try answer.payloads(), to: messageID, exchange: .configure, on: association, now: now)
        } catch {
            log(.error, "configure.answer-failed", ["reason": "\(error)"])
        }
        drainEndpoint(now: now)
    }

    /// Keeps track of a generation's parts; when all are there, what none of them named is gone.
    private func collect(_ message: Configure, now: Instant) {
        if generation?.lacks(message) != true { generation = ProfileGeneration(message) }
        generation?.parts.insert(message.part)
        generation?.groups.formUnion(message.groups.map(\.group))
        for section in message.vpns { generation?.take(section) }
        guard let generation, generation.parts.count == Int(message.partCount) else { return }
        profileDueAt = nil
        for id in groups.keys.sorted() where !generation.groups.contains(id) { leave(id, why: "not in the profile") }
        keepVPNs(named: generation.vpns, now: now)
        if readyAfter == nil, let firstDatagramAt, !(groups.isEmpty && vpns.isEmpty) {
            readyAfter = now - firstDatagramAt
            log(
                .info, "profile.ready",
                ["seconds": (now - firstDatagramAt).secondsText, "groups": "\(groups.count)"])
        }
    }

    /// One group of a profile. Idempotent.
    private func apply(_ section: GroupSection, now: Instant) -> [ConfigureAnswer.Item] {
        let id = section.group
        let rekeyItem = ConfigureAnswer.Item(group: id, spi: 0, code: .installed)
        guard groups[id] != nil || groups.count + vpns.count < configuration.limits.groupsPerProfile, vpns[id] == nil
        else {
            return [ConfigureAnswer.Item(group: id, spi: 0, code: .limit)]
        }
        // A profile that crossed a newer PUSH on its way may name SAs that we missed. All else we know better.
        let isStale = groups[id].map { section.membership.transaction < $0.receiver.complete } ?? false
        // What the GCKS had used before it wrote this is old, also when newer keys have overtaken it.
        groups[id]?.window.raiseFloor(to: section.membership.sequence)
        do {
            if !isStale { try adopt(section, now: now) }
        } catch {
            return [ConfigureAnswer.Item(group: id, spi: 0, code: .unsupported)]
        }
        var items = [rekeyItem]
        for (position, item) in Self.origins(of: section.dataSAs, in: section.membership.transaction).enumerated() {
            let sa = item.sa
            let next = newerHeld(than: position, of: section.dataSAs, in: id)
            let code = install(
                sa, in: id, transaction: min(item.transaction, next?.transaction ?? .max), before: next?.key,
                activateIn: .milliseconds(Int64(sa.activateInMilliseconds)),
                removeIn: sa.deactivateInMilliseconds.map { .milliseconds(Int64($0)) }, now: now)
            items.append(ConfigureAnswer.Item(group: id, spi: sa.spi, code: code))
        }
        guard !isStale else { return items }
        groups[id]?.learnFlows(of: section.dataSAs, isProfile: true)
        let listed = Set(section.dataSAs.map(\.spi))
        for index in groups[id]?.sas.indices ?? 0..<0 {
            guard let held = groups[id]?.sas[index], !listed.contains(held.key.spi) else { continue }
            groups[id]?.sas[index].removeAt = min(held.removeAt ?? .distantFuture, now + Self.unlistedGrace)
        }
        groups[id]?.receiver.reset(
            memberIndex: section.membership.memberIndex, complete: section.membership.transaction)
        groups[id]?.askAt = nil
        return items
    }

    /// The group itself: membership, rekey SA, control channel.
    private func adopt(_ section: GroupSection, now: Instant) throws(FMKEError) {
        let id = section.group
        let tree = try Self.tree(of: section)
        // Without a data SA the profile does not say what we may do: as before, or nothing but receive.
        let direction = section.dataSAs.first?.direction
        let maySend = direction.map { $0 != .receiver } ?? groups[id]?.maySend ?? false
        let mayReceive = direction.map { $0 != .sender } ?? groups[id]?.mayReceive ?? true
        guard var group = groups[id] else {
            groups[id] = MemberGroup(
                id: id, name: section.name, membership: section.membership, maySend: maySend, mayReceive: mayReceive,
                channel: try MemberChannel(section.rekeySA, of: id, now: now),
                receiver: PushReceiver(
                    memberIndex: section.membership.memberIndex, complete: section.membership.transaction,
                    random: random),
                tree: tree, window: SequenceWindow(floor: section.membership.sequence))
            output(.joinControl(section.rekeySA.control))
            log(
                .info, "group.joined",
                [
                    "group": section.name, "epoch": "\(section.rekeySA.epoch)",
                    "control": "\(section.rekeySA.control)", "index": "\(section.membership.memberIndex)",
                ])
            return
        }
        // An older epoch is a profile that crossed a change of KEK on its way: what we hold is newer.
        guard section.rekeySA.epoch >= group.channel.rekeySA.epoch else { return }
        if section.rekeySA.spi != group.channel.rekeySA.spi {
            let channel = try MemberChannel(section.rekeySA, of: id, now: now)
            if channel.rekeySA.control != group.channel.rekeySA.control {
                output(.leaveControl(group.channel.rekeySA.control))
                output(.joinControl(channel.rekeySA.control))
            }
            // The old KEK is not kept: a removed member may know it.
            group.rememberKEK()
            group.channel = channel
            group.previous = nil
            group.vainAsks = 0
            log(.info, "group.kek-changed", ["group": group.name, "epoch": "\(channel.rekeySA.epoch)"])
        }
        // A PUSH that we could not install all of may have brought us further already.
        if tree?.transaction ?? .max >= group.tree?.transaction ?? 0 { group.tree = tree }
        group.name = section.name
        group.membership = section.membership
        let (sent, received) = (group.maySend, group.mayReceive)
        (group.maySend, group.mayReceive) = (maySend, mayReceive)
        groups[id] = group
        if sent != maySend || received != mayReceive { changeRole(in: id, sent: sent, received: received) }
    }

    /// Uses what we hold in the directions of a new role. When a new sender begins to send, the profile says: not with
    /// what it does not name.
    private func changeRole(in id: UInt32, sent: Bool, received: Bool) {
        guard let group = groups[id] else { return }
        for (index, held) in group.sas.enumerated() where !held.hasFailed {
            if group.mayReceive, !received {
                output(.data(.addInbound(parameters(held.sa, held.key, of: group, isOutbound: false))))
            } else if !group.mayReceive, received {
                output(.data(.removeInbound(held.key)))
            }
            if group.maySend, !sent {
                output(.data(.addOutbound(parameters(held.sa, held.key, of: group, isOutbound: true))))
                groups[id]?.sas[index].activateAt = .distantFuture
            } else if !group.maySend, sent {
                output(.data(.removeOutbound(held.key)))
                groups[id]?.sas[index].activateAt = nil
                groups[id]?.sas[index].isActive = false
            }
        }
        let role = group.maySend ? (group.mayReceive ? "both" : "sender") : "receiver"
        log(.info, "group.role-changed", ["group": group.name, "role": role])
    }

    /// Our keys of the tree, as the profile has them. Throws `malformed` when they are none, or not ours.
    private static func tree(of section: GroupSection) throws(FMKEError) -> KeyTreeMember? {
        // Revealed to be taken apart: each key in it becomes a secret of its own.
        guard var octets = section.treeKeys?.revealed() else { return nil }
        defer { wipe(&octets) }
        do {
            let keys = try MemberKeys(octets: octets)
            guard keys.slot == section.membership.memberIndex, keys.transaction <= section.membership.transaction
            else { throw KeyTreeError.malformed }
            return try KeyTreeMember(keys)
        } catch { throw .malformed }
    }

    // MARK: Data SAs

    /// Of several SAs for one flow in one message the last is the transaction's own; those in front of it are of
    /// earlier ones and go when the transaction's predecessors go.
    static func origins(of sas: [DataSA], in transaction: UInt64) -> [(sa: DataSA, transaction: UInt64)] {
        sas.enumerated().map { index, sa in
            let isOwn = !sas[(index + 1)...].contains { $0.selector == sa.selector }
            return (sa, isOwn ? transaction : transaction - min(transaction, 1))
        }
    }

    /// Messages name SAs oldest first: one that we missed stands before those behind it that we hold.
    /// - Returns: the first of those; nil when we hold none.
    func newerHeld(than position: Int, of sas: [DataSA], in id: UInt32) -> MemberSA? {
        let later = Set(sas[(position + 1)...].map(\.spi))
        return groups[id]?.sas.first { later.contains($0.key.spi) }
    }

    /// Takes a data SA in, or brings the times of a known one up to date.
    /// - Parameter next: one that we hold and that is newer; nil when none is.
    func install(
        _ sa: DataSA, in id: UInt32, transaction: UInt64, before next: SAKey? = nil, activateIn: Duration,
        removeIn: Duration?, now: Instant
    ) -> ConfigureAnswer.Code {
        guard let group = groups[id] else { return .failed }
        let activateAt = now + activateIn
        let removeAt = removeIn.map { now + $0 }
        let key = SAKey(spi: sa.spi, destination: sa.selector.destination.address)
        if let index = group.sas.firstIndex(where: { $0.key == key && $0.hasFailed }) {
            // Another try, as if it were new.
            groups[id]?.sas.remove(at: index)
        } else if let index = group.sas.firstIndex(where: { $0.key == key }) {
            if let planned = group.sas[index].activateAt {
                groups[id]?.sas[index].activateAt = min(planned, activateAt)
            }
            if let removeAt { groups[id]?.sas[index].removeAt = min(group.sas[index].removeAt ?? removeAt, removeAt) }
            return .known
        }
        guard !group.retired.contains(key) else { return .known }
        // Far more than a message holds: a receiver does not know which of them are in use.
        if group.sas.count >= configuration.limits.dataAssociationsPerGroup * 4 { dropOldest(of: id) }
        let taken =
            groups.contains { $0.key != id && $0.value.sas.contains { $0.sa.selector.overlaps(sa.selector) } }
            || vpns.values.contains { $0.sends(sa.selector) }
        guard !taken else { return .conflict }
        let held = groups[id]?.sas ?? []
        let position = held.firstIndex { $0.key == next } ?? held.endIndex
        groups[id]?.sas.insert(
            MemberSA(
                sa: sa, key: key, transaction: transaction, expiresAt: now + .seconds(Int64(sa.lifetimeSeconds)),
                activateAt: group.maySend ? activateAt : nil, removeAt: removeAt), at: position)
        if group.mayReceive { output(.data(.addInbound(parameters(sa, key, of: group, isOutbound: false)))) }
        if group.maySend { output(.data(.addOutbound(parameters(sa, key, of: group, isOutbound: true)))) }
        log(
            .info, "sa.installed",
            [
                "group": group.name, "spi": spiText(sa.spi), "suite": sa.suite.rawValue,
                "flow": "\(sa.selector)", "activate_in_ms": "\(activateIn.wholeMilliseconds)",
            ])
        return .installed
    }

    /// Makes room: the oldest SA that is not in use for sending goes.
    private func dropOldest(of id: UInt32) {
        guard let group = groups[id], let index = group.sas.firstIndex(where: { !$0.isActive }) else { return }
        remove(group.sas[index])
        groups[id]?.sas.remove(at: index)
        groups[id]?.retire(group.sas[index].key)
        log(.warning, "sa.removed", ["group": group.name, "spi": spiText(group.sas[index].key.spi), "reason": "limit"])
    }

    private func parameters(_ sa: DataSA, _ key: SAKey, of group: MemberGroup, isOutbound: Bool) -> SAParameters {
        // Over the other family the data plane knows our address.
        let isOwnFamily = configuration.local.address.isV4 == key.destination.isV4
        return SAParameters(
            key: key, selector: sa.selector, suite: sa.suite, cipherKey: sa.cipherKey,
            authenticationKey: sa.authenticationKey,
            source: isOutbound && isOwnFamily ? configuration.local.address : nil,
            senderID: isOutbound ? group.membership.senderID ?? 0 : 0,
            octetLimit: isOutbound ? sa.lifetimeKilobytes.map { UInt64($0) * 1_024 } : nil, name: group.name,
            hasOneSender: group.membership.hasOneSender, lifetime: .seconds(Int64(sa.lifetimeSeconds)))
    }

    /// Moves senders to SAs whose time has come and takes out those whose time is over.
    func ageSAs(of id: UInt32, now: Instant) {
        guard let group = groups[id] else { return }
        // Of each flow the newest one that is due; never one that is older than what is in use: activation times of
        // transactions that overlap need not be in their order (COMMIT moves one of them, a repair comes late).
        for index in group.sas.indices.reversed() {
            guard let sa = groups[id]?.sas[index], let due = sa.activateAt, due <= now, sa.endsAt > now else {
                continue
            }
            groups[id]?.sas[index].activateAt = nil
            let others = group.sas.indices.filter { $0 != index && group.sas[$0].sa.selector == sa.sa.selector }
            let isOvertaken = others.contains { other in
                groups[id]?.sas[other].isActive == true && group.sas[other].isNewer(than: sa, isLater: other > index)
            }
            guard !isOvertaken, !sa.hasFailed else { continue }
            output(.data(.activateOutbound(sa.key)))
            groups[id]?.sas[index].isActive = true
            for other in others { groups[id]?.sas[other].isActive = false }
            log(.info, "sa.activated", ["group": group.name, "spi": spiText(sa.key.spi)])
        }
        for sa in groups[id]?.sas ?? [] where sa.endsAt <= now {
            remove(sa)
            log(
                sa.expiresAt <= now ? .warning : .info, "sa.removed",
                [
                    "group": group.name, "spi": spiText(sa.key.spi),
                    "reason": sa.expiresAt <= now ? "expired" : "replaced",
                ])
        }
        for sa in groups[id]?.sas ?? [] where sa.endsAt <= now { groups[id]?.retire(sa.key) }
        groups[id]?.sas.removeAll { $0.endsAt <= now }
        if let previous = group.previous, previous.until <= now { groups[id]?.previous = nil }
    }

    /// In both directions, whatever the group's role is by now: what is not there is not missed.
    private func remove(_ sa: MemberSA) {
        output(.data(.removeInbound(sa.key)))
        output(.data(.removeOutbound(sa.key)))
    }

    /// Drops a group and everything of it.
    func leave(_ id: UInt32, why: String) {
        guard let group = groups.removeValue(forKey: id) else { return }
        for sa in group.sas { remove(sa) }
        output(.leaveControl(group.channel.rekeySA.control))
        log(.warning, "group.left", ["group": group.name, "reason": why])
    }
}

extension Record {
    init(_ name: String, number: UInt64) {
        var writer = OctetWriter(capacity: 8)
        writer.u64(number)
        self.init(name, .init(writer.bytes))
    }
}
