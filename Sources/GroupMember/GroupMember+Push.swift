// SPDX-License-Identifier: Apache-2.0

public import Basics
internal import Cryptography
internal import ESP
internal import FMKE
internal import IKEv1
internal import ISAKMP
internal import KeyTree
internal import ReliablePush
internal import Store

/// Phase 3: the groups' control channels, and STATUS.
extension GroupMember {
    /// Least time between two requests for a profile that an unauthenticated sign (an unknown KEK) provoked; it
    /// doubles, so often at most, while no new KEK comes of it: one made-up datagram is heard by every member at once.
    private static let askInterval: Duration = .seconds(10)
    private static let askDoublings = 4
    /// How long repetitions under the KEK before a change are still heard: longer than any repair takes.
    private static let channelKept: Duration = .seconds(60)

    /// Where dead peer detection was not agreed, a client that has all its keys would not find out that the GCKS has
    /// forgotten it, nor the GCKS where an address translator has moved it to. So it asks for its profile so often.
    static let callInterval: Duration = .seconds(60)
    /// From a refusal by the data plane to the next try.
    static let refusedInterval: Duration = .seconds(30)
    /// So many requests for a profile without any.
    private static let asksAtMost = 4

    /// Does the exchange octet of the header say PUSH? On the port of NAT traversal, where the marker stands in front
    /// of the header, that octet is one of a cookie, and PUSHes do not come there.
    func isPush(_ datagram: Datagram) -> Bool {
        datagram.local.port != configuration.natTraversalPort && datagram.bytes.count > 18
            && datagram.bytes[18] == ExchangeType.push.rawValue
    }

    func receivePush(_ datagram: Datagram, now: Instant) {
        guard datagram.bytes.count <= configuration.limits.datagramOctets,
            let (spi, sequence) = PushEnvelope.peek(datagram.bytes)
        else {
            drop("malformed", from: datagram.remote)
            return
        }
        guard let (id, channel) = channel(for: spi, now: now) else {
            unknownKEK(spi, datagram, now: now)
            return
        }
        // Before the costly part: whatever was accepted once, or is too old, is not looked at again.
        guard groups[id]?.window.isFresh(sequence) == true else {
            drop("duplicate", from: datagram.remote)
            return
        }
        let push: Push
        do throws(FMKEError) {
            push = try channel.opener.open(datagram.bytes)
        } catch {
            drop(error == .notAuthentic ? "notAuthentic" : "malformed", from: datagram.remote)
            return
        }
        groups[id]?.window.accept(push.sequence)
        output(.persist([Record("group/\(id)/accepted", number: push.sequence)]))
        accept(push, under: channel, in: id, now: now)
    }

    private func channel(for spi: RekeySPI, now: Instant) -> (UInt32, MemberChannel)? {
        for (id, group) in groups {
            if let channel = group.channel(for: spi, now: now) { return (id, channel) }
        }
        return nil
    }

    /// A PUSH under a KEK that we do not hold, on the control channel of a group of ours: perhaps we missed a change.
    /// It is no proof, so all it does is make us ask, rarely.
    private func unknownKEK(_ spi: RekeySPI, _ datagram: Datagram, now: Instant) {
        guard !groups.values.contains(where: { $0.formerKEKs.contains(spi) }) else {
            drop("formerKEK", from: datagram.remote)
            return
        }
        drop("unknownKEK", from: datagram.remote)
        for id in groups.keys.sorted() {
            guard let group = groups[id], group.channel.rekeySA.control == datagram.local, group.askAt == nil else {
                continue
            }
            let pause = Self.askInterval * (1 << min(max(group.vainAsks - 1, 0), Self.askDoublings))
            let earliest = group.lastAskedAt.map { $0 + pause } ?? now
            groups[id]?.askAt = max(now, earliest) + random.duration(below: .seconds(1))
            groups[id]?.vainAsks += 1
        }
    }

    private func accept(_ push: Push, under channel: MemberChannel, in id: UInt32, now: Instant) {
        let header = push.header
        guard let outcome = groups[id]?.receiver.receive(header, body: push.body, now: now) else { return }
        switch outcome {
        case .bodies(let transaction, let bodies):
            // Of several, the one with our part of the key tree brings it all.
            for body in bodies where groups[id]?.receiver.complete ?? 0 < transaction {
                install(body, of: transaction, header, under: channel, in: id, now: now)
            }
        case .commit(let header): commit(header, in: id, now: now)
        case .nothing, .stale: break
        }
    }

    private func install(
        _ body: [UInt8], of transaction: UInt64, _ header: TransactionHeader, under channel: MemberChannel,
        in id: UInt32, now: Instant
    ) {
        let update: KeyUpdate
        do {
            let sealed = try KeyUpdate(body: body, limits: configuration.limits)
            guard let clear = try follow(sealed, transaction, under: channel, in: id, now) else { return }
            update = clear
        } catch {
            log(.error, "push.malformed", ["group": groups[id]?.name ?? "", "reason": "\(error)"])
            return
        }
        if let rekeySA = update.rekeySA { change(to: rekeySA, in: id, now: now) }
        groups[id]?.learnFlows(of: update.dataSAs, isProfile: false)
        var isWhole = true
        for (position, item) in Self.origins(of: update.dataSAs, in: transaction).enumerated() {
            let next = newerHeld(than: position, of: update.dataSAs, in: id)
            let code = install(
                item.sa, in: id, transaction: min(item.transaction, next?.transaction ?? .max), before: next?.key,
                activateIn: .milliseconds(Int64(header.activateInMilliseconds)), removeIn: nil, now: now)
            if !code.isGood { isWhole = false }
        }
        letGo(header, in: id, now: now)
        guard isWhole else {
            log(.error, "push.incomplete", ["group": groups[id]?.name ?? "", "transaction": "\(transaction)"])
            return
        }
        groups[id]?.receiver.completed(transaction)
        log(
            .info, "push.installed",
            [
                "group": groups[id]?.name ?? "", "transaction": "\(transaction)",
                "spis": update.dataSAs.map { spiText($0.spi) }.joined(separator: ","),
                "kek": update.rekeySA == nil ? "same" : "new",
            ])
    }

    /// Where the key tree changes: takes our part of it, and with the new group key the masks off the keys; or computes
    /// them from it.
    /// - Parameter channel: of the transaction's datagrams.
    /// - Returns: the update in the clear; nil when it is of no use to us. Then nothing has changed.
    private func follow(
        _ update: KeyUpdate, _ transaction: UInt64, under channel: MemberChannel, in id: UInt32, _ now: Instant
    ) throws -> KeyUpdate? {
        guard let octets = update.treeSlice else { return update }
        let slice = try UpdateSlice(octets: octets, transaction: transaction)
        var outcome: String
        do {
            switch try groups[id]?.tree?.apply(slice) {
            case .applied: outcome = ""
            // By an earlier copy that the data plane refused a part of; a later one's keys give another group key.
            case .known: outcome = groups[id]?.tree?.transaction == transaction ? "" : "overtaken"
            case .notConcerned: return nil
            case .removed: outcome = "removed"
            case nil: outcome = "no tree"
            }
        } catch KeyTreeError.missed, KeyTreeError.diverged {
            outcome = "missed"
        }
        if outcome.isEmpty, let group = groups[id], let groupKey = group.tree?.groupKey {
            guard update.succession != nil else {
                return update.unmasked(groupKey: groupKey, group: id, transaction: transaction)
            }
            do throws(FMKEError) {
                return try update.completed(
                    flows: Array(group.flows.values), predecessor: channel.rekeySA, groupKey: groupKey, group: id,
                    transaction: transaction)
            } catch {
                guard error == .unsupported else { throw error }
                outcome = "other flows"
            }
        }
        // Only a profile can help. This one is no made-up sign, so the wait need not grow.
        log(
            .warning, "tree.cannot-follow",
            ["group": groups[id]?.name ?? "", "transaction": "\(transaction)", "reason": outcome])
        if groups[id]?.askAt == nil {
            let earliest = groups[id]?.lastAskedAt.map { $0 + Self.askInterval } ?? now
            groups[id]?.askAt = max(now, earliest) + random.duration(below: .seconds(1))
        }
        return nil
    }

    private func commit(_ header: TransactionHeader, in id: UInt32, now: Instant) {
        let activateAt = now + .milliseconds(Int64(header.activateInMilliseconds))
        for index in groups[id]?.sas.indices ?? 0..<0 {
            guard let held = groups[id]?.sas[index], held.transaction == header.transaction,
                let planned = held.activateAt
            else { continue }
            groups[id]?.sas[index].activateAt = min(planned, activateAt)
        }
        // Only who holds what replaces them may let go of the earlier ones.
        if groups[id]?.receiver.complete ?? 0 >= header.transaction { letGo(header, in: id, now: now) }
    }

    /// A transaction replaces whatever earlier ones brought, also what it carries again for members that missed it: at
    /// the header's time, or not before a COMMIT names one.
    private func letGo(_ header: TransactionHeader, in id: UInt32, now: Instant) {
        guard header.deactivateInMilliseconds < .max else { return }
        let removeAt = now + .milliseconds(Int64(header.deactivateInMilliseconds))
        for index in groups[id]?.sas.indices ?? 0..<0 {
            guard let held = groups[id]?.sas[index], held.transaction < header.transaction else { continue }
            groups[id]?.sas[index].removeAt = min(held.removeAt ?? .distantFuture, removeAt)
        }
    }

    private func change(to rekeySA: RekeySA, in id: UInt32, now: Instant) {
        guard var group = groups[id], rekeySA.epoch > group.channel.rekeySA.epoch else { return }
        guard let channel = try? MemberChannel(rekeySA, of: id, now: now) else {
            log(.error, "push.unsupported-kek", ["group": group.name])
            return
        }
        if channel.rekeySA.control != group.channel.rekeySA.control {
            output(.leaveControl(group.channel.rekeySA.control))
            output(.joinControl(channel.rekeySA.control))
        }
        group.rememberKEK()
        group.previous = (group.channel, min(now + Self.channelKept, group.channel.expiresAt))
        group.channel = channel
        group.vainAsks = 0
        groups[id] = group
        log(.info, "group.kek-changed", ["group": group.name, "epoch": "\(rekeySA.epoch)"])
    }

    // MARK: Time and STATUS

    /// Does what is due in every group, and reports where an answer is due.
    func advanceGroups(to now: Instant) {
        var mustReport = false
        var wanted: Set<UInt32> = []
        if let due = callAt, due <= now {
            callAt = now + Self.callInterval
            if let first = groups.keys.min() {
                groups[first]?.askAt = now
            } else if let first = vpns.keys.min() {
                vpns[first]?.askAt = now
            }
        }
        for id in groups.keys.sorted() {
            ageSAs(of: id, now: now)
            while let action = groups[id]?.receiver.poll(now: now), action == .report { mustReport = true }
            let isAsking = groups[id]?.askAt.map { $0 <= now } ?? false
            let isEnding = groups[id]?.refreshAt.map { $0 <= now } ?? false
            if isAsking || isEnding {
                groups[id]?.askAt = nil
                groups[id]?.lastAskedAt = now
                wanted.insert(id)
                if groups[id]?.sas.contains(where: \.hasFailed) == true { retryFailed(id, now: now) }
            }
        }
        wanted.formUnion(advanceVPNs(to: now))
        if !wanted.isEmpty, isAskingInVain(now: now) { return }
        if mustReport || !wanted.isEmpty { report(asking: wanted, now: now) }
    }

    /// What the data plane refused is tried again when the next profile comes: it is asked for until it works.
    func retryFailed(_ id: UInt32, now: Instant) {
        let askAt = groups[id]?.askAt ?? now + Self.refusedInterval
        groups[id]?.askAt = askAt
    }

    /// A GCKS that does not answer several requests has forgotten our ISAKMP SA. Dead peer detection would find out,
    /// but whether it is in use was agreed in messages that nothing protected. So we begin again.
    private func isAskingInVain(now: Instant) -> Bool {
        guard case .registered = connection else { return false }
        unansweredAsks += 1
        guard unansweredAsks > Self.asksAtMost else { return false }
        giveUpOnGCKS(now: now)
        return true
    }

    /// Ends the ISAKMP SA that the GCKS seems to have forgotten, and begins again.
    func giveUpOnGCKS(now: Instant) {
        (unansweredAsks, profileDueAt) = (0, nil)
        guard case .registered(let association) = connection else { return }
        log(.warning, "gcks.silent", ["gcks": "\(configuration.gcks)"])
        endpoint.close(association, now: now)
        drainEndpoint(now: now)
    }

    /// Queues a STATUS behind the changes to the data plane that it reports on.
    func report(asking wanted: Set<UInt32>, now: Instant) {
        guard case .registered = connection else { return }
        pending.append(.status(asking: wanted, at: now))
    }

    func sendStatus(asking wanted: Set<UInt32>, now: Instant) {
        guard case .registered(let association) = connection else { return }
        let reports = groups.values.sorted { $0.id < $1.id }.map { group in
            GroupReport(
                group: group.id, epoch: group.channel.rekeySA.epoch, complete: group.installed,
                sequence: group.window.highest, missing: group.receiver.missing, activeSPIs: group.activeSPIs,
                wantsProfile: wanted.contains(group.id), wantsRekey: group.worn != nil)
        }
        for id in groups.keys { groups[id]?.worn = nil }
        let all = reports + vpnReports(asking: wanted)
        do {
            let messages = try Status.split(report: reportCount + 1, groups: all, limits: configuration.limits)
            reportCount += UInt64(messages.count)
            for status in messages {
                _ = try endpoint.send(
                    .status, try status.payloads(limits: configuration.limits), on: association, now: now)
            }
            let missing = reports.filter { !$0.missing.isEmpty }.map { "\($0.group)" }.joined(separator: ",")
            log(
                .debug, "status.sent",
                ["report": "\(reportCount)", "missing": missing, "asking": "\(wanted.count)"])
        } catch {
            log(.error, "status.failed", ["reason": "\(error)"])
        }
        drainEndpoint(now: now)
    }

    // MARK: Snapshot

    public func snapshot(now: Instant) -> MemberSnapshot {
        let ordered = groups.values.sorted { $0.name < $1.name }
        var info: AssociationInfo?
        if case .registered(let id) = connection { info = endpoint.info(id) }
        let vpns = vpnSnapshots(now: now)
        let holdsKeys = !groups.isEmpty || !vpns.sas.isEmpty
        return MemberSnapshot(
            name: configuration.name, state: info != nil ? "registered" : holdsKeys ? "degraded" : "connecting",
            gcks: "\(configuration.gcks)", suite: info?.suite.description,
            roundTripMilliseconds: info?.roundTrip?.wholeMilliseconds,
            registeredSeconds: info.map { (now - $0.establishedAt).inSeconds },
            registrationSeconds: readyAfter?.inSeconds, groups: ordered.map { Self.describe($0, now: now) },
            sas: ordered.flatMap { group in group.sas.map { Self.describe($0, of: group, now: now) } } + vpns.sas,
            drops: drops.counts, lastFailure: lastFailure, vpns: vpns.vpns)
    }

    private static func describe(_ group: MemberGroup, now: Instant) -> MemberSnapshot.Group {
        MemberSnapshot.Group(
            name: group.name, id: group.id,
            role: group.maySend ? (group.mayReceive ? "both" : "sender") : "receiver",
            control: "\(group.channel.rekeySA.control)", epoch: group.channel.rekeySA.epoch,
            transaction: group.receiver.complete, isCurrent: group.receiver.complete >= group.receiver.newest,
            memberIndex: group.membership.memberIndex, rekeySequence: group.window.highest,
            kekExpiresInSeconds: (group.channel.expiresAt - now).inSeconds)
    }

    private static func describe(_ sa: MemberSA, of group: MemberGroup, now: Instant) -> MemberSnapshot.SA {
        MemberSnapshot.SA(
            group: group.name, spi: spiText(sa.key.spi), flow: sa.sa.selector.description, suite: sa.sa.suite.rawValue,
            direction: group.maySend ? (group.mayReceive ? "both" : "out") : "in", isActive: sa.isActive,
            transaction: sa.transaction, expiresInSeconds: (sa.endsAt - now).inSeconds)
    }
}
