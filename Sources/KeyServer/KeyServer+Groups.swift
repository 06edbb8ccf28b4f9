// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import Cryptography
internal import FMKE
internal import IKEv1
internal import ReliablePush
internal import Store

/// Groups: their keys, the transactions that change them, and phase 3.
extension KeyServer {
    /// When the scheduled change of a key comes: at this share of its life, in percent.
    private static let rekeyAtPercent = 80
    /// Transactions whose data SAs may live at a time; what is older goes even if a sender still has nothing newer.
    private static let generationsKept = 3
    /// From a COMMIT's receipt to the move: covers the spread of its copies.
    private static let commitLead: Duration = .milliseconds(300)

    func makeGroup(_ entry: GroupEntry, records: any RecordStore, now: Instant) throws {
        let prefix = "group/\(entry.id)"
        let floor = configuration.numberFloor
        guard entry.flows.count <= configuration.limits.flowsPerGroup else {
            throw CommandError.tooLarge(group: entry.name)
        }
        let epoch = try number(records.value(of: "\(prefix)/epoch"))
        let rekeySA = newRekeySA(for: entry, epoch: UInt32(truncatingIfNeeded: max(epoch, floor / 1_000_000)))
        let transaction = max(try number(records.value(of: "\(prefix)/transaction")), floor)
        var group = GroupState(
            entry: entry, rekeySA: rekeySA,
            channel: try seal(with: rekeySA, for: entry.id),
            kekExpiresAt: now + entry.kekLifetime, transaction: transaction, firstTransaction: transaction,
            sequence: NumberBlock(first: max(try number(records.value(of: "\(prefix)/sequence")), floor)),
            dataRekeyAt: now + Self.share(of: entry.dataLifetime), kekRekeyAt: now + Self.share(of: entry.kekLifetime),
            beaconAt: now + entry.push.beaconInterval)
        group.nextSenderID = UInt32(clamping: try number(records.value(of: "\(prefix)/sender-id")))
        for (index, member) in entry.members.enumerated() where clients[member.client]?.isRevoked == false {
            group.members[member.client] = MemberState(index: UInt32(index), role: member.role)
            group.names[UInt32(index)] = member.client
        }
        group.data = newDataSAs(for: entry, transaction: group.transaction, activateAt: now, now: now)
        groups[entry.id] = group
        outputs.append(.persist(keyRecords(of: group)))
        outputs.append(.keysChanged(group: entry.id))
        log(
            .info, "group.created",
            ["group": entry.name, "epoch": "\(rekeySA.epoch)", "members": "\(group.members.count)"])
    }

    // MARK: Keys

    private static func share(of lifetime: Duration) -> Duration { lifetime * rekeyAtPercent / 100 }

    private func newRekeySA(for entry: GroupEntry, epoch: UInt32) -> RekeySA {
        RekeySA(
            spi: RekeySPI(high: random.next(), low: random.next()), source: configuration.address.address,
            control: entry.control, epoch: epoch,
            lifetimeSeconds: UInt32(clamping: entry.kekLifetime.components.seconds),
            signatureAlgorithm: configuration.signingKey.algorithm, verifyingKey: configuration.signingKey.publicKey,
            kek: Secret(random: random, count: 32))
    }

    private func seal(with rekeySA: RekeySA, for group: UInt32) throws(FMKEError) -> PushSealer {
        try PushSealer(
            group: group, rekeySA: rekeySA, signingKey: configuration.signingKey, limits: configuration.limits)
    }

    private func newDataSAs(
        for entry: GroupEntry, transaction: UInt64, activateAt: Instant, now: Instant
    ) -> [ServerDataSA] {
        var made: [ServerDataSA] = []
        for flow in entry.flows {
            let spi = freshSPI(besides: made.map(\.sa.spi))
            let sa = DataSA(
                spi: spi, selector: flow, suite: entry.suite, direction: .symmetric,
                lifetimeSeconds: UInt32(clamping: entry.dataLifetime.components.seconds),
                lifetimeKilobytes: entry.dataVolume.map { UInt32(clamping: max($0 / 1_024, 1)) },
                cipherKey: Secret(random: random, count: entry.suite.cipherKeySize),
                authenticationKey: entry.suite.isAEAD
                    ? nil : Secret(random: random, count: entry.suite.authenticationKeySize))
            made.append(
                ServerDataSA(
                    sa: sa, transaction: transaction, createdAt: now, activateAt: activateAt,
                    expiresAt: now + entry.dataLifetime))
        }
        return made
    }

    /// 256 and above (RFC 4303 2.1), not in use in any group.
    private func freshSPI(besides others: [UInt32]) -> UInt32 {
        while true {
            let spi = UInt32(truncatingIfNeeded: random.next())
            guard spi >= 256, !others.contains(spi),
                !groups.values.contains(where: { $0.data.contains { $0.sa.spi == spi } })
            else { continue }
            return spi
        }
    }

    /// What a restart must know: numbers, and the keys themselves (sealed by the store).
    private func keyRecords(of group: GroupState) -> [Record] {
        func bytes(_ build: (inout OctetWriter) -> Void) -> Secret {
            var writer = OctetWriter()
            build(&writer)
            return Secret(writer.bytes)
        }
        let prefix = "group/\(group.entry.id)"
        var records = [
            Record("\(prefix)/epoch", bytes { $0.u64(UInt64(group.rekeySA.epoch) + 1) }),
            Record("\(prefix)/transaction", bytes { $0.u64(group.transaction + 1) }),
            Record(
                "\(prefix)/rekey-sa",
                bytes {
                    $0.u64(group.rekeySA.spi.high)
                    $0.u64(group.rekeySA.spi.low)
                    $0.append(group.rekeySA.kek.revealed())
                }),
        ]
        for item in group.data where item.transaction == group.transaction {
            let keys = item.sa.cipherKey.revealed() + (item.sa.authenticationKey?.revealed() ?? [])
            records.append(Record("\(prefix)/sa/\(spiText(item.sa.spi))", Secret(keys)))
        }
        return records
    }

    // MARK: Transactions

    /// Makes new keys for a group and begins to deliver them.
    /// - Returns: the transaction's number.
    func startTransaction(
        group id: UInt32, newKEK: Bool, reason: RekeyReason, now: Instant
    ) throws(CommandError) -> UInt64 {
        guard var group = groups[id] else { throw .unknownGroup("\(id)") }
        let transaction = group.transaction + 1
        let oldChannel = group.channel
        let activateAt = now + group.entry.rollover.activateAfter
        // A removed sender must not be heard much longer. Otherwise the old SAs stay until every sender has confirmed
        // the new ones: one that missed them goes on with what it has, and its receivers must be able to open that.
        let removeAt = reason == .revocation ? activateAt + group.entry.rollover.keepOld : .distantFuture
        let made = newDataSAs(for: group.entry, transaction: transaction, activateAt: activateAt, now: now)
        var nextRekeySA: RekeySA?
        if newKEK {
            let rekeySA = newRekeySA(for: group.entry, epoch: group.rekeySA.epoch + 1)
            guard let channel = try? seal(with: rekeySA, for: id) else {
                throw .cryptography
            }
            nextRekeySA = rekeySA
            group.channel = channel
            group.kekExpiresAt = now + group.entry.kekLifetime
            group.kekRekeyAt = now + Self.share(of: group.entry.kekLifetime)
        }
        let body = try updateBody(group, made: made, rekeySA: nextRekeySA, reason: reason)
        if let nextRekeySA { group.rekeySA = nextRekeySA }
        let tooOld = Set(group.data.map(\.transaction)).sorted().dropLast(Self.generationsKept - 1)
        for index in group.data.indices {
            let isTooOld = tooOld.contains(group.data[index].transaction)
            let end = isTooOld ? activateAt + group.entry.rollover.keepOld : removeAt
            guard end < group.data[index].removeAt ?? .distantFuture else { continue }
            group.data[index].removeAt = end
        }
        group.data += made
        group.transaction = transaction
        if group.renewal?.reason != .revocation || reason == .revocation { group.renewal = nil }
        group.dataRekeyAt = now + Self.share(of: group.entry.dataLifetime)
        group.beaconPause = .seconds(1)
        group.beaconAt = now + group.entry.push.roundTrip + group.beaconPause
        open(
            transaction, in: &group, body: body, channel: reason == .revocation ? group.channel : oldChannel,
            reason: reason, activateAt: activateAt, removeAt: removeAt, now: now)
        groups[id] = group
        outputs.append(.persist(keyRecords(of: group)))
        outputs.append(.keysChanged(group: id))
        log(
            .info, "rekey.started",
            [
                "group": group.entry.name, "transaction": "\(transaction)", "reason": reason.rawValue,
                "epoch": "\(group.rekeySA.epoch)", "spis": made.map { spiText($0.sa.spi) }.joined(separator: ","),
            ])
        return transaction
    }

    /// The plain body of the PUSH; empty when the keys must not travel under the old KEK.
    private func updateBody(
        _ group: GroupState, made: [ServerDataSA], rekeySA: RekeySA?, reason: RekeyReason
    ) throws(CommandError) -> [UInt8] {
        // Flat revocation: the removed member knows the old KEK, so the others are served one by one.
        guard reason != .revocation else { return [] }
        // A member that missed an earlier transaction gets its SAs with this one, as far as they fit: senders go on
        // with them until this one is activated.
        let most = configuration.limits.dataAssociationsPerGroup
        let everybodyHas = group.members.values.filter(\.holdsKeys).map(\.confirmed).min() ?? .max
        var carried = group.data.filter { $0.transaction > everybodyHas && $0.removeAt == nil }
            .suffix(max(most - made.count, 0)).map(\.sa)
        let limit = PushEnvelope.bodySizeLimit(configuration.signingKey.algorithm, limits: configuration.limits)
        while true {
            // What is replaced goes without saying (a member lets go of all earlier transactions' SAs); it is said for
            // those who read the exchange.
            let replaced = group.data.map(\.sa.spi).filter { spi in !carried.contains { $0.spi == spi } }.suffix(most)
            let update = KeyUpdate(rekeySA: rekeySA, dataSAs: carried + made.map(\.sa), replaced: Array(replaced))
            let body: [UInt8]
            do throws(FMKEError) {
                body = try update.body(limits: configuration.limits)
            } catch {
                throw error == .tooLong || error == .limit ? .tooLarge(group: group.entry.name) : .cryptography
            }
            if body.count <= limit { return body }
            guard !carried.isEmpty else { throw .tooLarge(group: group.entry.name) }
            carried.removeFirst()
        }
    }

    private func open(
        _ transaction: UInt64, in group: inout GroupState, body: [UInt8], channel: PushSealer, reason: RekeyReason,
        activateAt: Instant, removeAt: Instant, now: Instant
    ) {
        var reachable: Set<UInt32> = []
        var unreachable: [UInt32] = []
        var absent: [String] = []
        for (name, member) in group.members {
            if clients[name]?.association != nil {
                reachable.insert(member.index)
            } else if member.holdsKeys {
                unreachable.append(member.index)
            } else {
                absent.append(name)
            }
        }
        var sender = PushSender(
            group: group.entry.id, epoch: channel.rekeySA.epoch, transaction: transaction, body: body,
            members: reachable.union(unreachable), policy: group.entry.push, activateAt: activateAt,
            deactivateAt: removeAt, now: now)
        for member in unreachable { sender.giveUp(member, reason: .unreachable) }
        group.open[transaction] = OpenTransaction(
            sender: sender, channel: channel, epoch: group.rekeySA.epoch, reason: reason, absent: absent.sorted(),
            commitAtPercent: reason == .revocation ? 100 : group.entry.rollover.commitAtPercent)
    }

    // MARK: Time

    /// Does what is due in every group, and takes the outputs of every transaction.
    func advanceGroups(to now: Instant) {
        for id in groups.keys.sorted() {
            schedule(id, now: now)
            for transaction in groups[id]?.open.keys.sorted() ?? [] {
                drive(transaction, of: id, now: now)
            }
            retire(id, now: now)
            beacon(id, now: now)
            forget(id, now: now)
        }
        drainEndpoint(now: now)
    }

    func nextDeadline(of group: GroupState) -> Instant {
        var waits: [Instant] = []
        for transaction in group.open.values { if let due = transaction.sender.due { waits.append(due) } }
        return group.nextDeadline(senderWaits: waits)
    }

    /// Starts the transaction that is due, if one is.
    func schedule(_ id: UInt32, now: Instant) {
        guard let group = groups[id] else { return }
        let kekIsDue = group.kekRekeyAt <= now
        let renewal = group.renewal.flatMap { $0.at <= now ? $0.reason : nil }
        guard kekIsDue || renewal != nil || group.dataRekeyAt <= now else { return }
        do {
            _ = try startTransaction(
                group: id, newKEK: kekIsDue || renewal == .revocation, reason: renewal ?? .scheduled, now: now)
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
                guard groups[id]?.sendersMove(to: transaction) ?? now <= now else { return }
                finish(held, open, group: id, now: now)
                return
            }
            let action = open.sender.poll(now: now)
            groups[id]?.open[transaction] = open
            switch action {
            case .multicast(let header, let body):
                multicast(header, body: body, channel: open.channel, group: id)
            case .unicast(let members):
                for member in members { repair(member, of: id, now: now) }
            case .probe(let members):
                for member in members { probe(member, of: id, now: now) }
            case .ended(let verdict):
                // The proof that a client is out: no sender uses keys that it knows. COMMIT makes them move earlier,
                // but it is not acknowledged.
                if open.reason == .revocation, groups[id]?.sendersMove(to: transaction) ?? now > now {
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
            !open.sender.confirmed.isEmpty
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

    private func finish(_ verdict: PushVerdict, _ open: OpenTransaction, group id: UInt32, now: Instant) {
        guard let group = groups[id] else { return }
        let report = VerdictReport(
            group: group.entry.name, transaction: verdict.transaction, reason: open.reason, epoch: open.epoch,
            verdict: verdict.isComplete ? "confirmed" : "unconfirmed",
            confirmed: verdict.confirmed.map { .init(client: group.memberName($0.key), seconds: $0.value.inSeconds) }
                .sorted { ($0.seconds, $0.client) < ($1.seconds, $1.client) },
            unconfirmed: verdict.unconfirmed.map { .init(client: group.memberName($0.key), reason: $0.value.rawValue) }
                .sorted { $0.client < $1.client },
            absent: open.absent, seconds: (now - open.sender.startedAt).inSeconds, rounds: verdict.rounds,
            datagrams: verdict.datagrams, negativeAcknowledgements: verdict.negativeAcknowledgements,
            unicasts: verdict.unicasts)
        groups[id]?.lastVerdict = report
        groups[id]?.open[verdict.transaction] = nil
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
        outputs.append(.ended(report))
    }

    private func multicast(_ header: TransactionHeader, body: [UInt8], channel: PushSealer, group id: UInt32) {
        guard var group = groups[id] else { return }
        let (sequence, reservation) = group.sequence.take()
        groups[id] = group
        if let reservation { outputs.append(record("group/\(id)/sequence", number: reservation)) }
        do {
            var header = header
            header.epoch = channel.rekeySA.epoch
            // Of a block of one datagram the parity is its repetition.
            let body = header.kind == .parity ? try Shard.make(body, size: body.count + Shard.lengthSize) : body
            let bytes = try channel.seal(header, body: body, sequence: sequence)
            outputs.append(
                .transmit(Datagram(local: configuration.address, remote: group.entry.control, bytes: bytes)))
            log(
                .debug, "push.sent",
                [
                    "group": group.entry.name, "kind": "\(header.kind)", "transaction": "\(header.transaction)",
                    "sequence": "\(sequence)", "round": "\(header.feedback.round)", "octets": "\(bytes.count)",
                ])
        } catch {
            log(.error, "push.failed", ["group": group.entry.name, "reason": "\(error)"])
        }
    }

    private func repair(_ member: UInt32, of id: UInt32, now: Instant) {
        guard let name = groups[id]?.names[member], groups[id]?.members[name] != nil else { return }
        if clients[name]?.association != nil {
            sendProfile(to: name, now: now)
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
        // This comes with every datagram, so the members are looked at only while something waits for them.
        let isWaiting = group.data.contains { $0.transaction < group.transaction && $0.removeAt == nil }
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
            feedback: FeedbackRequest(mode: .none), activateInMilliseconds: .max,
            deactivateInMilliseconds: end)
        multicast(header, body: [], channel: group.channel, group: group.entry.id)
    }

    /// Names the newest transaction to members that heard nothing of it, ever more rarely.
    private func beacon(_ id: UInt32, now: Instant) {
        guard let group = groups[id], group.beaconAt <= now else { return }
        let pause = min(group.beaconPause * 2, group.entry.push.beaconInterval)
        groups[id]?.beaconPause = pause
        groups[id]?.beaconAt = now + pause
        let wait = UInt16(clamping: group.entry.push.roundTrip.wholeMilliseconds)
        let header = TransactionHeader(
            kind: .beacon, group: id, epoch: group.rekeySA.epoch, transaction: group.transaction,
            feedback: FeedbackRequest(mode: .none, nackWaitMilliseconds: wait), activateInMilliseconds: 0,
            deactivateInMilliseconds: 0)
        multicast(header, body: [], channel: group.channel, group: id)
    }

    /// Drops data SAs that are over.
    private func forget(_ id: UInt32, now: Instant) {
        guard let group = groups[id] else { return }
        let live = group.live(now: now)
        if live.count != group.data.count { groups[id]?.data = live }
    }
}
