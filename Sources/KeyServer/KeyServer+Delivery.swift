// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import FMKE
internal import IKEv1
internal import KeyTree
internal import ReliablePush

/// Phase 3: what is due in each group, and the delivery of its transactions (docs/FMKE.md section 7).
extension KeyServer {
    /// From a COMMIT's receipt to the move: covers the spread of its copies.
    private static let commitLead: Duration = .milliseconds(300)

    /// Does what is due in every group, and takes the outputs of every transaction.
    func advanceGroups(to now: Instant) {
        sendDueProfiles(now: now)
        for id in groups.keys.sorted() {
            schedule(id, now: now)
            greetNewcomers(of: id, now: now)
            for transaction in groups[id]?.open.keys.sorted() ?? [] {
                drive(transaction, of: id, now: now)
            }
            retire(id, now: now)
            beacon(id, now: now)
            forget(id, now: now)
        }
        advanceVPNs(to: now)
        drainEndpoint(now: now)
    }

    func nextDeadline(of group: GroupState) -> Instant {
        var waits: [Instant] = []
        // While keys are held back senders stand still.
        let isHeld = isHeld(group.entry.id)
        for transaction in group.open.values where !isHeld {
            if let due = transaction.sender.due { waits.append(due) }
        }
        return group.nextDeadline(senderWaits: waits, isHeld: isHeld)
    }

    /// Starts the transaction that is due, if one is.
    func schedule(_ id: UInt32, now: Instant) {
        // Who was waited for has gone again.
        if groups[id]?.renewal?.reason == .joined, groups[id]?.tree?.hasChanges != true { groups[id]?.renewal = nil }
        guard let group = groups[id] else { return }
        let kekIsDue = group.kekRekeyAt <= now
        let renewal = group.renewal.flatMap { $0.at <= now ? $0.reason : nil }
        guard kekIsDue || renewal != nil || group.dataRekeyAt <= now else { return }
        do {
            _ = try startTransaction(
                group: id, newKEK: kekIsDue || renewal == .revocation || renewal == .joined,
                reason: renewal ?? .scheduled, now: now)
            if renewal != nil { groups[id]?.renewedAt = now }
        } catch {
            // Try again before the keys end, and say so each time.
            let next = now + Self.retryPause
            groups[id]?.dataRekeyAt = next
            groups[id]?.kekRekeyAt = max(group.kekRekeyAt, next)
            if renewal != nil { groups[id]?.renewal?.at = next }
            log(.error, "rekey.failed", ["group": group.entry.name, "reason": "\(error)"])
        }
    }

    private func drive(_ transaction: UInt64, of id: UInt32, now: Instant) {
        while true {
            guard var open = groups[id]?.open[transaction] else { return }
            commitIfDue(&open, group: id, now: now)
            if let held = open.heldVerdict {
                groups[id]?.open[transaction] = open
                guard groups[id]?.revocationIsOver(transaction) ?? now <= now else { return }
                finish(held, open, group: id, now: now)
                return
            }
            guard !isHeld(id) else {
                groups[id]?.open[transaction] = open
                return
            }
            let action = open.sender.poll(now: now)
            groups[id]?.open[transaction] = open
            switch action {
            case .multicast(let header, let body):
                let octets = multicast(header, body: body, channel: open.channel, group: id)
                groups[id]?.open[transaction]?.multicastOctets += octets
            case .unicast(let members):
                for member in members { repair(member, of: id, now: now) }
            case .probe(let members):
                for member in members { probe(member, of: id, now: now) }
            case .ended(let verdict):
                // The proof that a client is out: no sender uses keys that it knows. COMMIT makes them move earlier,
                // but it is not acknowledged.
                if open.reason == .revocation, groups[id]?.revocationIsOver(transaction) ?? now > now {
                    groups[id]?.open[transaction]?.heldVerdict = verdict
                } else {
                    finish(verdict, open, group: id, now: now)
                    return
                }
            case .wait:
                return
            }
        }
    }

    /// Sends COMMIT when enough members have confirmed, and its copies.
    private func commitIfDue(_ open: inout OpenTransaction, group id: UInt32, now: Instant) {
        guard let group = groups[id] else { return }
        if !open.isCommitted, let share = open.commitAtPercent, open.sender.confirmedPercent >= share,
            open.sender.confirmedCount > 0
        {
            let instant = now + group.entry.push.roundTrip / 2 + Self.commitLead
            open.isCommitted = true
            guard instant < open.sender.activateAt else { return }
            open.commitsLeft = max(group.entry.push.copies, 1)
            open.commitAt = now
            for index in group.data.indices where group.data[index].transaction == open.sender.transaction {
                groups[id]?.data[index].activateAt = instant
            }
            _ = open.sender.commit(activateAt: instant, now: now)
            log(
                .info, "rekey.committed",
                ["group": group.entry.name, "transaction": "\(open.sender.transaction)"])
        }
        while open.commitsLeft > 0, let due = open.commitAt, due <= now {
            // Times count from receipt, half a round trip after the send.
            var header = open.sender.commit(activateAt: open.sender.activateAt, now: now)
            let flight = UInt32(clamping: (group.entry.push.roundTrip / 2).wholeMilliseconds)
            header.activateInMilliseconds -= min(header.activateInMilliseconds, flight)
            multicast(header, body: [], channel: group.channel, group: id)
            open.commitsLeft -= 1
            open.commitAt = open.commitsLeft > 0 ? now + group.entry.push.spread / 2 : nil
        }
    }

    func finish(_ verdict: PushVerdict, _ open: OpenTransaction, group id: UInt32, now: Instant) {
        guard let group = groups[id] else { return }
        let report = VerdictReport(
            group: group.entry.name, transaction: verdict.transaction, reason: open.reason, epoch: open.epoch,
            verdict: verdict.isComplete ? "confirmed" : "unconfirmed",
            confirmed: verdict.confirmed.map { .init(client: group.memberName($0.key), seconds: $0.value.inSeconds) }
                .sorted { ($0.seconds, $0.client) < ($1.seconds, $1.client) },
            unconfirmed: verdict.unconfirmed.map { .init(client: group.memberName($0.key), reason: $0.value.rawValue) }
                .sorted { $0.client < $1.client },
            absent: open.absent, seconds: (now - open.sender.startedAt).inSeconds, rounds: verdict.rounds,
            datagrams: verdict.datagrams, multicastOctets: open.multicastOctets,
            negativeAcknowledgements: verdict.negativeAcknowledgements,
            unicasts: verdict.unicasts)
        groups[id]?.lastVerdict = report
        groups[id]?.learn(from: open.sender)
        groups[id]?.open[verdict.transaction] = nil
        // It began with this input: its verdict is to be said all the same.
        if group.stored.open[verdict.transaction] == nil { groups[id]?.unsavedEnded[verdict.transaction] = open }
        if open.reason == .revocation {
            // Who registers from now on sends with the new keys at once.
            for index in group.data.indices where group.data[index].transaction == verdict.transaction {
                groups[id]?.data[index].activateAt = min(group.data[index].activateAt, now)
            }
        }
        log(
            verdict.isComplete ? .info : .warning, "rekey.ended",
            [
                "group": report.group, "transaction": "\(report.transaction)", "verdict": report.verdict,
                "confirmed": "\(report.confirmed.count)",
                "unconfirmed": report.unconfirmed.map { "\($0.client):\($0.reason)" }.joined(separator: ","),
                "seconds": (now - open.sender.startedAt).secondsText, "rounds": "\(report.rounds)",
            ])
        audit(report)
        outputs.append(.ended(report))
    }

    /// - Returns: octets of the datagram.
    @discardableResult
    private func multicast(
        _ header: TransactionHeader, body: [UInt8], channel: PushSealer, group id: UInt32
    ) -> Int {
        guard var group = groups[id] else { return 0 }
        let (sequence, reservation) = group.sequence.take()
        groups[id] = group
        if let reservation { store("group/\(id)/sequence", number: reservation) }
        do {
            var header = header
            header.epoch = channel.rekeySA.epoch
            let bytes = try channel.seal(header, body: body, sequence: sequence)
            outputs.append(
                .transmit(Datagram(local: configuration.address, remote: channel.rekeySA.control, bytes: bytes)))
            log(
                .debug, "push.sent",
                [
                    "group": group.entry.name, "kind": "\(header.kind)", "transaction": "\(header.transaction)",
                    "sequence": "\(sequence)", "round": "\(header.feedback.round)", "octets": "\(bytes.count)",
                ])
            return bytes.count
        } catch {
            log(.error, "push.failed", ["group": group.entry.name, "reason": "\(error)"])
            return 0
        }
    }

    private func repair(_ member: UInt32, of id: UInt32, now: Instant) {
        guard let name = groups[id]?.names[member], groups[id]?.members[name] != nil else { return }
        if clients[name]?.association != nil {
            let isOnItsWay = clients[name]?.pending.values.contains {
                $0.sentAt == now && $0.transactions[id] == groups[id]?.transaction
            }
            if isOnItsWay != true { sendProfile(to: name, now: now) }
        } else {
            for key in groups[id]?.open.keys.sorted() ?? [] {
                groups[id]?.open[key]?.sender.giveUp(member, reason: .unreachable)
            }
        }
    }

    private func probe(_ member: UInt32, of id: UInt32, now: Instant) {
        guard let name = groups[id]?.names[member], groups[id]?.members[name] != nil,
            let association = clients[name]?.association
        else { return }
        endpoint.probe(association, now: now)
    }

    /// Ends the SAs that a transaction replaced, once every sender has confirmed it, and tells the members.
    private func retire(_ id: UInt32, now: Instant) {
        guard var group = groups[id] else { return }
        // This comes with every datagram, so the members are looked at only while something waits for them. What is
        // announced goes under the newest KEK: to a member that a repair is still to bring this KEK it would be a sign
        // of something missed, and make it ask for a profile. The old SAs do no harm until then.
        let isWaiting =
            group.data.contains { $0.transaction < group.transaction && $0.removeAt == nil }
            && !group.isRepairingKEK
        let confirmed = isWaiting ? group.confirmedBySenders : 0
        let replaced = group.data.indices.filter {
            group.data[$0].transaction < confirmed && group.data[$0].removeAt == nil
        }
        if !replaced.isEmpty {
            let activateAt = group.data.filter { $0.transaction == confirmed }.map(\.activateAt).max() ?? now
            let removeAt = max(group.sendersMove(to: confirmed), activateAt, now) + group.entry.rollover.keepOld
            for index in replaced { group.data[index].removeAt = removeAt }
            group.retirement = Retirement(
                transaction: confirmed, removeAt: removeAt, copiesLeft: max(group.entry.push.copies, 1), nextAt: now)
            groups[id] = group
        }
        while let retirement = groups[id]?.retirement, retirement.nextAt <= now {
            announce(retirement, group: group, now: now)
            let isLast = retirement.copiesLeft <= 1
            groups[id]?.retirement?.copiesLeft -= 1
            groups[id]?.retirement?.nextAt = now + group.entry.push.spread / 2
            if isLast { groups[id]?.retirement = nil }
        }
    }

    private func announce(_ retirement: Retirement, group: GroupState, now: Instant) {
        // Times count from receipt, half a round trip after the send.
        let receipt = now + group.entry.push.roundTrip / 2
        let end = UInt32(clamping: max((retirement.removeAt - receipt).wholeMilliseconds, 0))
        let header = TransactionHeader(
            kind: .commit, group: group.entry.id, epoch: group.rekeySA.epoch, transaction: retirement.transaction,
            feedback: group.question, activateInMilliseconds: .max, deactivateInMilliseconds: end)
        multicast(header, body: [], channel: group.channel, group: group.entry.id)
    }

    /// Names the newest transaction to members that heard nothing of it, ever more rarely.
    private func beacon(_ id: UInt32, now: Instant) {
        guard let group = groups[id], group.beaconAt <= now else { return }
        let open = group.open[group.transaction]
        // Its rounds have polls of their own, which know whom to ask.
        guard open?.sender.isInRounds != true else {
            groups[id]?.beaconAt = now + max(group.beaconPause, group.entry.push.roundTrip)
            return
        }
        let pause = min(group.beaconPause * 2, group.entry.push.beaconInterval)
        groups[id]?.beaconPause = pause
        groups[id]?.beaconAt = now + pause
        let header =
            open?.sender.beacon(feedback: group.question, now: now)
            ?? TransactionHeader(
                kind: .beacon, group: id, epoch: group.rekeySA.epoch, transaction: group.transaction,
                feedback: group.question, activateInMilliseconds: 0, deactivateInMilliseconds: 0)
        // Who missed a change of the KEK can open nothing newer: while it is under way it is told under the old one.
        multicast(header, body: [], channel: open?.channel ?? group.channel, group: id)
    }

    /// Drops data SAs that are over.
    private func forget(_ id: UInt32, now: Instant) {
        guard !isHeld(id), let group = groups[id] else { return }
        let live = group.live(now: now)
        if live.count != group.data.count { groups[id]?.data = live }
    }
}
