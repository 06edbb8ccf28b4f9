// SPDX-License-Identifier: Apache-2.0

internal import Audit
internal import Basics
internal import Cryptography
internal import FMKE
internal import IKEv1
internal import Store

/// VPNs: their SAs, and the steps of each change (docs/FMKE.md 7.8). Everything goes by the ends' profiles.
extension KeyServer {
    /// When the scheduled change comes: at this share of an SA's life, in percent.
    private static let vpnRekeyAtPercent = 80
    /// Within which both ends must have confirmed a change before its verdict names them. Two requests in a row, each
    /// repeated to the end, take less.
    static let vpnVerdictTime: Duration = .seconds(90)
    /// At least this long between changes that an end can cause as often as it likes, beside the time to keep the old.
    private static let vpnPause: Duration = .seconds(10)
    /// How much sooner an SA ends at the end that sends with it, at most.
    private static let vpnMargin: Duration = .seconds(10)

    // MARK: Start

    func makeVPNs(_ records: any RecordStore, now: Instant) throws {
        for entry in configuration.inventory.vpns {
            vpns[entry.id] = try restoredVPN(entry, records: records, now: now)
        }
        try forgetFormerVPNs(records)
        indexVPNs()
        for id in vpns.keys.sorted() {
            guard let vpn = vpns[id] else { continue }
            // What an interrupted step said, and who has confirmed it, only the ends can tell.
            if vpn.phase != .settled || !vpn.changes.isEmpty { unprofiled.formUnion(vpn.entry.ends) }
            drive(vpn: id, now: now)
        }
    }

    // MARK: Profiles

    /// All VPNs of a client that may be, so that it keeps what it has of one whose other end is away.
    func vpnSections(for name: String, now: Instant) -> [VPNSection] {
        (vpnsOf[name] ?? []).sorted().compactMap { id in
            guard let vpn = vpns[id], let end = vpn.entry.end(name), isAllowed(vpn) else { return nil }
            let generations = vpn.generations.filter { $0.endsAt > now && !$0.lostBy.contains(end) }
            return VPNSection(
                vpn: id, name: vpn.entry.name, transaction: vpn.transaction,
                keepsOthers: vpn.keepsOthers(at: end) || generations.isEmpty,
                peer: generations.last.map {
                    VPNSection.Peer(address: $0.path.addresses[1 - end], isEncapsulated: $0.path.isEncapsulated)
                }, dataSAs: generations.flatMap { Self.described($0, for: end, now: now) })
        }
    }

    private static func described(_ generation: VPNGeneration, for end: Int, now: Instant) -> [DataSA] {
        // Who sends lets go first, whatever messages took on their way.
        let margin = min((generation.expiresAt - generation.createdAt) / 10, vpnMargin)
        return generation.sas.map { item in
            var sa = item.sa
            sa.direction = item.from == end ? .sender : .receiver
            let life = generation.expiresAt - now - (item.from == end ? margin : .zero)
            sa.lifetimeSeconds = UInt32(clamping: max(Int64(life.inSeconds.rounded(.up)), 1))
            sa.activateInMilliseconds = item.from == end && !generation.isActive ? .max : 0
            sa.deactivateInMilliseconds = generation.removeAt.map {
                UInt32(clamping: max(($0 - now).wholeMilliseconds, 0))
            }
            return sa
        }
    }

    /// To be called with each profile that is sent.
    func vpnsSent(to name: String, messages: [UInt32]) -> VPNPending? {
        unprofiled.remove(name)
        let ids = vpnsOf[name] ?? []
        guard !ids.isEmpty else { return nil }
        for id in ids {
            for index in vpns[id]?.changes.indices ?? 0..<0 { vpns[id]?.changes[index].unicasts += 1 }
        }
        return VPNPending(
            outstanding: Set(messages),
            marks: Dictionary(ids.compactMap { id in vpns[id].map { (id, $0.mark) } }) { first, _ in first })
    }

    /// Sends the profiles that are due: to one client the next when it has answered the one before, so that the steps
    /// of many VPNs go together. A revocation does not wait.
    func sendVPNProfiles(atOnce isUrgent: Bool = false, now: Instant) {
        for name in unprofiled.sorted() {
            guard clients[name]?.association != nil else {
                unprofiled.remove(name)
                continue
            }
            if isUrgent || clients[name]?.pending.isEmpty == true { sendProfile(to: name, now: now) }
        }
    }

    /// A client has answered one message of its profile.
    /// - Parameter refused: groups and VPNs of which it refused something.
    func vpnsAnswered(by name: String, to messageID: UInt32, refused: Set<UInt32>, now: Instant) {
        guard var pending = clients[name]?.vpnPending, pending.outstanding.remove(messageID) != nil else { return }
        pending.refused.formUnion(refused.filter { pending.marks[$0] != nil })
        clients[name]?.vpnPending = pending
        guard pending.outstanding.isEmpty else { return }
        clients[name]?.vpnPending = nil
        for (id, mark) in pending.marks.sorted(by: { $0.key < $1.key }) {
            guard let end = vpns[id]?.entry.end(name) else { continue }
            if pending.refused.contains(id) {
                for index in vpns[id]?.changes.indices ?? 0..<0 { vpns[id]?.changes[index].refused.insert(name) }
            } else {
                vpns[id]?.marks[end] = mark
                confirm(mark, of: id, by: name, now: now)
            }
            drive(vpn: id, now: now)
        }
    }

    func confirm(_ mark: VPNMark, of id: UInt32, by name: String, now: Instant) {
        guard mark.phase != .installing else { return }
        for index in vpns[id]?.changes.indices ?? 0..<0 {
            guard let change = vpns[id]?.changes[index], change.transaction <= mark.transaction,
                change.members.contains(name), change.confirmed[name] == nil
            else { continue }
            vpns[id]?.changes[index].confirmed[name] = now
            vpns[id]?.changes[index].refused.remove(name)
        }
    }

    // MARK: What happens to the ends

    /// An end has a new ISAKMP SA. Perhaps it lost its memory, and its counters with it: INITIAL-CONTACT would say so,
    /// but that is not covered by message 5's hash, and a counter that starts anew breaks the cipher. So it is taken
    /// for granted.
    func vpnsRegistered(_ name: String, now: Instant) {
        clients[name]?.vpnPending = nil
        for id in vpnsOf[name] ?? [] {
            guard let end = vpns[id]?.entry.end(name) else { continue }
            vpns[id]?.marks[end] = nil
            if vpns[id]?.generations.isEmpty == false {
                for index in vpns[id]?.generations.indices ?? 0..<0 {
                    vpns[id]?.generations[index].lostBy.insert(end)
                }
                store(vpn: id)
            }
            drive(vpn: id, now: now)
        }
    }

    func vpnsGone(_ name: String, now: Instant) {
        clients[name]?.vpnPending = nil
        for id in vpnsOf[name] ?? [] { drive(vpn: id, now: now) }
    }

    func vpnsMoved(_ name: String, now: Instant) {
        for id in vpnsOf[name] ?? [] { drive(vpn: id, now: now) }
    }

    /// A client's report on one of its VPNs; false when it is about something else.
    func takeVPNReport(_ report: GroupReport, from name: String, now: Instant) -> Bool {
        guard let vpn = vpns[report.group], vpn.entry.end(name) != nil, isAllowed(vpn) else { return false }
        if report.wantsRekey, vpn.phase == .settled, vpn.renewal == nil, let newest = vpn.generations.last {
            let earliest = newest.createdAt + vpn.entry.keepOld + Self.vpnPause
            if earliest <= now {
                vpns[report.group]?.renewal = (now, .volume)
                drive(vpn: report.group, now: now)
            }
        }
        return true
    }

    // MARK: The operator

    /// New keys by command. Where an end is not there the verdict says so at once, and they come when it is.
    func rekeyVPN(_ id: UInt32, now: Instant) throws(CommandError) -> UInt64 {
        guard let vpn = vpns[id], isAllowed(vpn) else { throw .deadVPN(vpns[id]?.entry.name ?? "\(id)") }
        if let hold { throw .heldBack(hold.reason) }
        if path(of: vpn.entry) != nil {
            start(vpn: id, reason: .commanded, now: now)
        } else {
            let transaction = vpn.transaction + 1
            vpns[id]?.transaction = transaction
            vpns[id]?.renewal = (now, .commanded)
            vpns[id]?.changes.append(
                VPNChange(
                    transaction: transaction, reason: .commanded, startedAt: now, members: vpn.entry.ends))
            store(vpn: id)
            drive(vpn: id, now: now)
        }
        return vpns[id]?.transaction ?? 0
    }

    /// Takes the VPNs of a revoked client from their other ends.
    /// - Returns: the transactions that do it, by VPN.
    func revokeVPNs(of name: String, now: Instant) -> [String: UInt64] {
        var transactions: [String: UInt64] = [:]
        for id in vpnsOf[name] ?? [] {
            guard let vpn = vpns[id], vpn.phase != .removed else { continue }
            let peers = vpn.entry.ends.filter { $0 != name && clients[$0]?.isRevoked == false }
            let held = !vpn.generations.isEmpty
            vpns[id]?.generations = []
            vpns[id]?.phase = .removed
            vpns[id]?.renewal = nil
            vpns[id]?.transaction += 1
            // It ends the changes before it as well: there is nothing more to confirm.
            for index in vpns[id]?.changes.indices ?? 0..<0 { vpns[id]?.changes[index].refused.insert(name) }
            if held, !peers.isEmpty {
                let transaction = vpn.transaction + 1
                transactions[vpn.entry.name] = transaction
                vpns[id]?.changes.append(
                    VPNChange(transaction: transaction, reason: .revocation, startedAt: now, members: peers))
            }
            unprofiled.formUnion(peers)
            store(vpn: id)
            log(.warning, "vpn.removed", ["vpn": vpn.entry.name, "revoked": name])
        }
        sendVPNProfiles(atOnce: true, now: now)
        for id in vpnsOf[name] ?? [] { drive(vpn: id, now: now) }
        return transactions
    }

    // MARK: The steps

    /// Does what is due in VPNs, and sends the profiles that follow from it.
    func advanceVPNs(to now: Instant) {
        if let alarm = vpnAlarm, alarm <= now {
            vpnAlarm = nil
            for id in vpns.keys.sorted() { drive(vpn: id, now: now) }
        }
        if !unprofiled.isEmpty { sendVPNProfiles(now: now) }
    }

    /// Both ends are in the configuration and not revoked.
    func isAllowed(_ vpn: VPNState) -> Bool {
        vpn.phase != .removed && vpn.entry.ends.allSatisfy { clients[$0]?.isRevoked == false }
    }

    /// Where the ends are now; nil unless both are there.
    func path(of entry: VPNEntry) -> VPNPath? {
        let infos = entry.ends.compactMap { name in clients[name]?.association.flatMap { endpoint.info($0) } }
        guard infos.count == 2 else { return nil }
        let isEncapsulated = infos.contains(where: \.isBehindNAT)
        return VPNPath(
            addresses: infos.map { info in
                guard isEncapsulated else { return SocketAddress(info.remote.address, 0) }
                // An end whose exchanges never moved listens there all the same.
                let hasMoved = info.isBehindNAT || info.local.port == configuration.natTraversalPort
                return SocketAddress(
                    info.remote.address, hasMoved ? info.remote.port : configuration.natTraversalPort)
            }, isEncapsulated: isEncapsulated)
    }

    func drive(vpn id: UInt32, now: Instant) {
        forget(vpn: id, now: now)
        step(vpn: id, now: now)
        if hold == nil, let vpn = vpns[id], let due = due(vpn, now: now), due.at <= now {
            start(vpn: id, reason: due.reason, now: now)
        }
        endChanges(of: id, now: now)
        guard let vpn = vpns[id] else { return }
        var next = Instant.distantFuture
        for generation in vpn.generations { next = min(next, generation.endsAt) }
        // While keys are held back nothing new begins, and nobody is named for what it was not sent.
        if hold == nil {
            next = min(next, due(vpn, now: now)?.at ?? .distantFuture)
            for change in vpn.changes { next = min(next, change.startedAt + Self.vpnVerdictTime) }
        }
        if next < .distantFuture { vpnAlarm = min(vpnAlarm ?? next, next) }
    }

    /// When new keys are due, and why; nil while an end is not there.
    func due(_ vpn: VPNState, now: Instant) -> (at: Instant, reason: RekeyReason)? {
        guard isAllowed(vpn), let path = path(of: vpn.entry) else { return nil }
        guard let newest = vpn.generations.last else { return (now, .established) }
        guard newest.lostBy.isEmpty else { return (now, .endRegistered) }
        guard newest.fits(vpn.entry) else { return (now, .changed) }
        // A longer lifetime begins with the next keys.
        let life = min(vpn.entry.lifetime, newest.expiresAt - newest.createdAt)
        var next = (at: newest.createdAt + life * Self.vpnRekeyAtPercent / 100, RekeyReason.scheduled)
        if let renewal = vpn.renewal, renewal.at < next.at { next = renewal }
        let settling = newest.createdAt + vpn.entry.keepOld + Self.vpnPause
        if newest.path != path, settling < next.at { next = (settling, .moved) }
        return next
    }

    /// Makes the next generation of SAs and tells both ends.
    private func start(vpn id: UInt32, reason: RekeyReason, now: Instant) {
        guard var vpn = vpns[id], let path = path(of: vpn.entry) else { return }
        // Nobody was told to send with one that is still being installed.
        if vpn.phase == .installing, !vpn.generations.isEmpty { vpn.generations.removeLast() }
        vpn.transaction += 1
        vpn.generations.append(generation(of: vpn, path: path, now: now))
        vpn.phase = .installing
        vpn.renewal = nil
        vpn.changes.append(
            VPNChange(transaction: vpn.transaction, reason: reason, startedAt: now, members: vpn.entry.ends))
        vpns[id] = vpn
        store(vpn: id)
        unprofiled.formUnion(vpn.entry.ends)
        log(
            .info, "vpn.rekey-started",
            [
                "vpn": vpn.entry.name, "transaction": "\(vpn.transaction)", "reason": reason.rawValue,
                "ends": vpn.entry.ends.joined(separator: ","),
                "spis": vpn.generations.last?.sas.map { spiText($0.sa.spi) }.joined(separator: ",") ?? "",
            ])
        audit(
            "vpn.rekey-started",
            [
                "vpn": vpn.entry.name, "transaction": "\(vpn.transaction)", "reason": reason.rawValue,
                "ends": vpn.entry.ends.joined(separator: ","),
                "spis": AuditEvent.list(vpn.generations.last?.sas.map { spiText($0.sa.spi) } ?? []),
            ])
    }

    /// Verdicts come later by as long as keys were held back, and what waited begins.
    func goOnWithVPNs(since: Instant, now: Instant) {
        for id in vpns.keys.sorted() {
            for index in vpns[id]?.changes.indices ?? 0..<0 {
                guard let began = vpns[id]?.changes[index].startedAt else { continue }
                vpns[id]?.changes[index].startedAt = began + (now - max(since, began))
            }
            drive(vpn: id, now: now)
        }
    }

    private func generation(of vpn: VPNState, path: VPNPath, now: Instant) -> VPNGeneration {
        let entry = vpn.entry
        var sas: [(from: Int, sa: DataSA)] = []
        for (from, selector) in entry.flows.flatMap({ [(0, $0), (1, $0.mirrored)] }) {
            var sa = DataSA(
                spi: freshSPI(besides: sas.map(\.sa.spi)), selector: selector, suite: entry.suite, direction: .sender,
                lifetimeSeconds: UInt32(clamping: entry.lifetime.components.seconds),
                lifetimeKilobytes: entry.volume.map { UInt32(clamping: max($0 / 1_024, 1)) },
                cipherKey: Secret(random: random, count: entry.suite.cipherKeySize),
                authenticationKey: entry.suite.isAEAD
                    ? nil : Secret(random: random, count: entry.suite.authenticationKeySize))
            sa.extendedSequence = entry.extendedSequence
            sas.append((from, sa))
        }
        return VPNGeneration(
            transaction: vpn.transaction, sas: sas, path: path, createdAt: now, expiresAt: now + entry.lifetime)
    }

    /// The next step, when both ends have confirmed the one before.
    private func step(vpn id: UInt32, now: Instant) {
        guard var vpn = vpns[id], vpn.isConfirmed, let last = vpn.generations.indices.last else { return }
        switch vpn.phase {
        case .installing:
            vpn.phase = .activating
            vpn.generations[last].isActive = true
        case .activating:
            vpn.phase = .settled
            vpn.hasUnknown = false
            let removeAt = now + vpn.entry.keepOld
            for index in vpn.generations.indices.dropLast() {
                vpn.generations[index].removeAt = min(vpn.generations[index].removeAt ?? removeAt, removeAt)
            }
            log(.info, "vpn.up", ["vpn": vpn.entry.name, "transaction": "\(vpn.transaction)"])
        case .settled, .removed: return
        }
        vpns[id] = vpn
        store(vpn: id)
        unprofiled.formUnion(vpn.entry.ends)
    }

    /// Drops SAs that are over.
    private func forget(vpn id: UInt32, now: Instant) {
        guard let vpn = vpns[id], vpn.generations.contains(where: { $0.endsAt <= now }) else { return }
        let isNewestOver = vpn.generations.last.map { $0.endsAt <= now } ?? false
        vpns[id]?.generations.removeAll { $0.endsAt <= now }
        // What is left, if anything is, was in use before.
        if isNewestOver { vpns[id]?.phase = .settled }
        store(vpn: id)
        if vpns[id]?.generations.isEmpty == true {
            log(.warning, "vpn.down", ["vpn": vpn.entry.name, "reason": "its SAs are over"])
        }
    }

    // MARK: Verdicts

    private func endChanges(of id: UInt32, now: Instant) {
        guard let vpn = vpns[id], !vpn.changes.isEmpty else { return }
        var open: [VPNChange] = []
        for change in vpn.changes {
            let missing = change.members.filter { change.confirmed[$0] == nil }
            let isTimeUp = hold == nil && change.startedAt + Self.vpnVerdictTime <= now
            let isOver =
                missing.isEmpty || !change.refused.isEmpty || isTimeUp
                || missing.contains { clients[$0]?.association == nil }
            if isOver { finish(change, of: vpn, now: now) } else { open.append(change) }
        }
        guard open.count < vpn.changes.count else { return }
        vpns[id]?.changes = open
        store(vpn: id)
    }

    func finish(_ change: VPNChange, of vpn: VPNState, now: Instant) {
        let missing = change.members.filter { change.confirmed[$0] == nil }.sorted()
        let hasSilence = change.startedAt + Self.vpnVerdictTime <= now
        let report = VerdictReport(
            group: vpn.entry.name, transaction: change.transaction, reason: change.reason, epoch: 0,
            verdict: missing.isEmpty ? "confirmed" : "unconfirmed",
            confirmed: change.confirmed.map { .init(client: $0.key, seconds: ($0.value - change.startedAt).inSeconds) }
                .sorted { ($0.seconds, $0.client) < ($1.seconds, $1.client) },
            unconfirmed: missing.map { name in
                let reason =
                    clients[name]?.isRevoked == true
                    ? "revoked"
                    : clients[name]?.association == nil
                        ? "unreachable"
                        : change.refused.contains(name) ? "refused" : hasSilence ? "silent" : "waiting"
                return .init(client: name, reason: reason)
            }, absent: [], seconds: (now - change.startedAt).inSeconds, rounds: 0, datagrams: 0, multicastOctets: 0,
            negativeAcknowledgements: 0, unicasts: change.unicasts, isVPN: true)
        vpns[vpn.entry.id]?.lastVerdict = report
        log(
            missing.isEmpty ? .info : .warning, "vpn.rekey-ended",
            [
                "vpn": report.group, "transaction": "\(report.transaction)", "reason": report.reason.rawValue,
                "verdict": report.verdict,
                "unconfirmed": report.unconfirmed.map { "\($0.client):\($0.reason)" }.joined(separator: ","),
                "seconds": (now - change.startedAt).secondsText,
            ])
        audit(
            "vpn.rekey-ended",
            [
                "vpn": report.group, "transaction": "\(report.transaction)", "reason": report.reason.rawValue,
                "verdict": report.verdict,
                "unconfirmed": report.unconfirmed.map { "\($0.client):\($0.reason)" }.joined(separator: ","),
            ])
        outputs.append(.ended(report))
    }
}
