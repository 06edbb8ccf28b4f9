// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import Cryptography
internal import FMKE
internal import KeyTree
internal import ReliablePush
internal import Store

/// Groups: their keys, and the transactions that change them.
extension KeyServer {
    /// When the scheduled change of a key comes: at this share of its life, in percent.
    private static let rekeyAtPercent = 80
    /// Transactions whose data SAs may live at a time; what is older goes even if a sender still has nothing newer.
    private static let generationsKept = 3

    /// - Parameters:
    ///   - present: members that are registered: they are in its tree from the start.
    ///   - numbers: what it goes on behind, where that is not in the store.
    func makeGroup(
        _ entry: GroupEntry, present: Set<String> = [], numbers: (any RecordStore)? = nil, now: Instant
    ) throws {
        let records = numbers ?? records
        let prefix = "group/\(entry.id)"
        let floor = configuration.numberFloor
        guard entry.flows.count <= GroupEntry.mostFlows(with: entry.suite, limits: configuration.limits) else {
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
        for member in entry.members {
            if clients[member.client]?.isRevoked == false {
                group.admit(member.client, role: member.role)
            } else {
                group.nextIndex += 1
            }
        }
        group.data = newDataSAs(for: entry, transaction: group.transaction, activateAt: now, now: now)
        try plantTree(of: &group, present: present)
        groups[entry.id] = group
        log(
            .info, "group.created",
            ["group": entry.name, "epoch": "\(rekeySA.epoch)", "members": "\(group.members.count)"])
        auditKeys("keys.made", of: group, group.data, reason: nil)
    }

    // MARK: Keys

    static func share(of lifetime: Duration) -> Duration { lifetime * rekeyAtPercent / 100 }

    func newRekeySA(for entry: GroupEntry, epoch: UInt32) -> RekeySA {
        RekeySA(
            spi: RekeySPI(high: random.next(), low: random.next()), source: configuration.address.address,
            control: entry.control, epoch: epoch,
            lifetimeSeconds: UInt32(clamping: entry.kekLifetime.components.seconds),
            signatureAlgorithm: configuration.signingKey.algorithm, verifyingKey: configuration.signingKey.publicKey,
            kek: Secret(random: random, count: 32))
    }

    func seal(with rekeySA: RekeySA, for group: UInt32) throws(FMKEError) -> PushSealer {
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

    /// 256 and above (RFC 4303 2.1), not in use in any group or VPN.
    func freshSPI(besides others: [UInt32]) -> UInt32 {
        while true {
            let spi = UInt32(truncatingIfNeeded: random.next())
            if isFree(spi, besides: others) { return spi }
        }
    }

    func isFree(_ spi: UInt32, besides others: [UInt32]) -> Bool {
        spi >= 256 && !others.contains(spi)
            && !groups.values.contains { $0.data.contains { $0.sa.spi == spi } }
            && !vpns.values.contains { $0.generations.contains { $0.sas.contains { $0.sa.spi == spi } } }
    }

    // MARK: Transactions

    /// Makes new keys for a group and begins to deliver them.
    /// - Returns: the transaction's number.
    func startTransaction(
        group id: UInt32, newKEK: Bool, reason: RekeyReason, now: Instant
    ) throws(CommandError) -> UInt64 {
        guard var group = groups[id] else { throw .unknownGroup("\(id)") }
        try renewKeys(of: &group, newKEK: newKEK, reason: reason, now: now)
        groups[id] = group
        announceStart(of: group)
        return group.transaction
    }

    /// Begins a transaction of a group that is not put back yet. Nothing has changed when this throws.
    /// - Parameter byUnicast: every member gets its profile, whatever could go by multicast.
    func renewKeys(
        of group: inout GroupState, newKEK: Bool, reason: RekeyReason, byUnicast: Bool = false, now: Instant
    ) throws(CommandError) {
        let id = group.entry.id
        if let hold { throw .heldBack(hold.reason) }
        if let name = group.ahead.keys.min() { throw .heldBack(Self.aheadReason(name, of: group.entry.name)) }
        // A revocation that could not be started waits for its next try, and the removed member knows the KEK until
        // then: what comes before does its work.
        let isRevoking = group.renewal?.reason == .revocation
        let (newKEK, reason) = isRevoking ? (true, .revocation) : (newKEK, reason)
        let transaction = group.transaction + 1
        let oldChannel = group.channel
        let activateAt = now + group.entry.rollover.activateAfter
        // A removed sender must not be heard much longer. Otherwise the old SAs stay until every sender has confirmed
        // the new ones: one that missed them goes on with what it has, and its receivers must be able to open that.
        let removeAt = reason == .revocation ? activateAt + group.entry.rollover.keepOld : .distantFuture
        var made = newDataSAs(for: group.entry, transaction: transaction, activateAt: activateAt, now: now)
        var nextRekeySA: RekeySA?
        // What changes the tree changes the KEK: whoever came or went shall not share one with the others.
        if newKEK || group.tree?.hasChanges == true {
            let rekeySA = newRekeySA(for: group.entry, epoch: group.rekeySA.epoch + 1)
            guard let channel = try? seal(with: rekeySA, for: id) else {
                throw .cryptography
            }
            nextRekeySA = rekeySA
            group.channel = channel
            group.kekExpiresAt = now + group.entry.kekLifetime
            group.kekRekeyAt = now + Self.share(of: group.entry.kekLifetime)
        }
        var delivery = Delivery()
        if !byUnicast || group.tree?.hasChanges == true {
            delivery = try self.delivery(
                of: transaction, in: &group, made: made.map(\.sa), rekeySA: nextRekeySA, reason: reason, now: now)
        }
        if byUnicast { (delivery.parts, delivery.isMasked) = ([], false) }
        if let derived = delivery.derived {
            (nextRekeySA, group.channel) = (derived.rekeySA, derived.channel)
            for (index, sa) in derived.dataSAs.enumerated() { made[index].sa = sa }
        }
        if byUnicast { (delivery.parts, delivery.isMasked) = ([], false) }
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
        if reason == .revocation { group.lastRevocation = transaction }
        group.renewal = nil
        group.dataRekeyAt = now + Self.share(of: group.entry.dataLifetime)
        group.beaconPause = .seconds(1)
        group.beaconAt = now + group.entry.push.roundTrip + group.beaconPause
        // What goes by unicast alone has no use for the old KEK: its COMMIT and its profiles come with the new one.
        open(
            transaction, in: &group, delivery, channel: delivery.parts.isEmpty ? group.channel : oldChannel,
            reason: reason, activateAt: activateAt, removeAt: removeAt, now: now)
    }

    /// Tells what began.
    func announceStart(of group: GroupState) {
        let made = group.data.filter { $0.transaction == group.transaction }
        log(
            .info, "rekey.started",
            [
                "group": group.entry.name, "transaction": "\(group.transaction)",
                "reason": group.open[group.transaction]?.reason.rawValue ?? "",
                "epoch": "\(group.rekeySA.epoch)", "spis": made.map { spiText($0.sa.spi) }.joined(separator: ","),
            ])
        let open = group.open[group.transaction]
        auditKeys(
            "rekey.started", of: group, made, reason: open?.reason, isMulticast: open?.sender.isMulticast == true)
    }

    /// Gives the group's newest keys to its members one by one: as a transaction, whose verdict says who has them.
    func deliverByUnicast(_ id: UInt32, reason: RekeyReason, now: Instant) {
        guard var group = groups[id] else { return }
        open(
            group.transaction, in: &group, Delivery(), channel: group.channel, reason: reason, activateAt: now,
            removeAt: .distantFuture, now: now)
        groups[id] = group
        log(
            .info, "rekey.started",
            [
                "group": group.entry.name, "transaction": "\(group.transaction)", "reason": reason.rawValue,
                "epoch": "\(group.rekeySA.epoch)", "spis": group.data.map { spiText($0.sa.spi) }.joined(separator: ","),
            ])
        auditKeys("rekey.started", of: group, group.data, reason: reason)
    }

    private func open(
        _ transaction: UInt64, in group: inout GroupState, _ delivery: Delivery, channel: PushSealer,
        reason: RekeyReason, activateAt: Instant, removeAt: Instant, now: Instant
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
            group: group.entry.id, epoch: channel.rekeySA.epoch, transaction: transaction, parts: delivery.parts,
            members: reachable.union(unreachable), policy: group.entry.push, experience: group.newestExperience,
            activateAt: activateAt, deactivateAt: removeAt, now: now)
        for member in unreachable { sender.giveUp(member, reason: .unreachable) }
        group.open[transaction] = OpenTransaction(
            sender: sender, channel: channel, epoch: group.rekeySA.epoch, reason: reason,
            isMasked: delivery.isMasked, absent: absent.sorted(), membersBelow: group.nextIndex,
            unsavedDelivery: DeliveryRecord(
                rekeySA: channel.rekeySA, absent: absent.compactMap { group.members[$0]?.index },
                parts: delivery.parts),
            commitAtPercent: reason == .revocation ? 100 : group.entry.rollover.commitAtPercent)
    }
}
