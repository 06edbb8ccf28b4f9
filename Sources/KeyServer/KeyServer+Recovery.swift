// SPDX-License-Identifier: Apache-2.0

public import Basics
internal import Cryptography
internal import FMKE
internal import IKEv1
internal import ReliablePush
internal import Store

/// A member that has newer keys than we ever made: our state is old, or the member lies. Its group gets no new keys
/// until an operator decides, by `recover` or by revoking that member.
extension KeyServer {
    /// Beyond these a report leaves no room for numbers above it.
    private static let epochMost = UInt32.max - 1 << 16
    private static let transactionMost = UInt64.max - 1 << 32

    /// May nothing that holds keys of this group leave?
    func isHeld(_ id: UInt32) -> Bool { hold != nil || groups[id]?.ahead.isEmpty == false }

    static func aheadReason(_ name: String, of group: String) -> String {
        """
        client \(name) has newer keys of group \(group) than this state knows; it is old ('gcks recover'), or the \
        client lies ('gcks revoke \(name)')
        """
    }

    /// Is this client in a group that gets no keys now?
    func isWaiting(_ name: String) -> Bool {
        hold != nil || groups.values.contains { !$0.ahead.isEmpty && $0.members[name] != nil }
    }

    func noteReportFromTheFuture(_ report: GroupReport, from name: String, now: Instant) {
        guard let group = groups[report.group] else { return }
        logAndAudit(
            .error, "status.from-the-future", by: name,
            [
                "client": name, "group": group.entry.name, "epoch": "\(report.epoch)",
                "transaction": "\(report.complete)", "ours": "\(group.transaction)",
                "remedy": "is the state file old? gcks recover; else revoke this client",
            ], now: now)
        if group.ahead.isEmpty { groups[report.group]?.aheadSince = now }
        let known = group.ahead[name]
        groups[report.group]?.ahead[name] = Report(
            epoch: max(report.epoch, known?.epoch ?? 0), transaction: max(report.complete, known?.transaction ?? 0))
    }

    /// What a revoked client said counts no more.
    func forgetReport(of name: String, in id: UInt32, now: Instant) {
        guard groups[id]?.ahead.removeValue(forKey: name) != nil, groups[id]?.ahead.isEmpty == true else { return }
        if hold == nil, let since = groups[id]?.aheadSince { goOn(id, since: since, now: now) }
        groups[id]?.aheadSince = nil
        releaseProfiles(now: now)
    }

    /// Nor what somebody said who is in the group no more.
    func forgetReportsOfOthers(now: Instant) {
        for id in groups.keys.sorted() {
            for name in groups[id]?.ahead.keys.sorted() ?? [] where groups[id]?.members[name] == nil {
                forgetReport(of: name, in: id, now: now)
            }
        }
    }

    func releaseProfiles(now: Instant) {
        let names = heldProfiles.filter { !isWaiting($0) }.sorted()
        heldProfiles.subtract(names)
        for name in names { sendProfile(to: name, now: now) }
    }

    /// Jumps forward: every group of which a member has newer keys than we know gets new keys with numbers above all
    /// that was reported. ISAKMP SAs that an earlier run made end, for nobody knows which message ids it used.
    /// - Returns: the transactions that give the new keys, by group name.
    public func recover(now: Instant) throws(CommandError) -> [String: UInt64] {
        let start = outputs.count
        defer { save(before: start) }
        if let hold { throw .heldBack(hold.reason) }
        let behind = groups.filter { !$0.value.ahead.isEmpty }.keys.sorted()
        guard !behind.isEmpty else { throw .nothingToRecover }
        for id in behind {
            for (name, report) in groups[id]?.ahead ?? [:]
            where report.epoch > Self.epochMost || report.transaction > Self.transactionMost {
                throw .heldBack("what client \(name) reports cannot be; revoke it first")
            }
        }
        endRestoredAssociations(now: now)
        var transactions: [String: UInt64] = [:]
        for id in behind {
            guard let group = groups[id] else { continue }
            endTransactions(of: id, now: now)
            do {
                try makeGroup(group.entry, numbers: numbers(above: group, now: now), now: now)
            } catch {
                throw .cryptography
            }
            serve(id, reason: .recovered, now: now)
            transactions[group.entry.name] = groups[id]?.transaction
            log(
                .warning, "state.recovered",
                ["group": group.entry.name, "transaction": "\(groups[id]?.transaction ?? 0)"])
        }
        releaseProfiles(now: now)
        drainEndpoint(now: now)
        advanceGroups(to: now)
        return transactions
    }

    private func endRestoredAssociations(now: Instant) {
        for (association, name) in owners.sorted(by: { $0.value < $1.value })
        where endpoint.info(association).map({ $0.establishedAt < startedAt }) ?? true {
            owners[association] = nil
            clients[name]?.association = nil
            clients[name]?.pending = [:]
            unsaved.insert(name)
            endpoint.close(association, now: now)
        }
        // Profiles of the lost run, too, had numbers that we do not know.
        for name in clients.keys {
            let first = max(clients[name]?.sequence.reserved ?? 0, clock.microseconds(now))
            clients[name]?.sequence = NumberBlock(first: first)
        }
    }

    /// Each with its verdict: who has not confirmed will not.
    private func endTransactions(of id: UInt32, now: Instant) {
        for transaction in groups[id]?.open.keys.sorted() ?? [] {
            guard var open = groups[id]?.open[transaction] else { continue }
            for member in groups[id]?.names.keys.sorted() ?? [] { open.sender.giveUp(member, reason: .unreachable) }
            if let held = open.heldVerdict {
                finish(held, open, group: id, now: now)
            } else if case .ended(let verdict) = open.sender.poll(now: now) {
                finish(verdict, open, group: id, now: now)
            }
        }
    }

    /// What the new group goes on behind.
    private func numbers(above group: GroupState, now: Instant) -> MemoryStore {
        let store = MemoryStore()
        let prefix = "group/\(group.entry.id)"
        let clock = clock.microseconds(now)
        func put(_ name: String, _ number: UInt64) {
            var writer = OctetWriter(capacity: 8)
            writer.u64(number)
            store.apply([.put(Record("\(prefix)/\(name)", Secret(writer.bytes)))])
        }
        let epoch = max(group.rekeySA.epoch, group.ahead.values.map(\.epoch).max() ?? 0)
        let transaction = max(group.transaction, group.ahead.values.map(\.transaction).max() ?? 0)
        put("epoch", max(UInt64(epoch) + 1, min(clock / 1_000_000, UInt64(Self.epochMost))))
        put("transaction", max(transaction + 1, clock))
        put("sequence", max(group.sequence.reserved, clock))
        put("sender-id", UInt64(group.nextSenderID))
        return store
    }
}

/// What a member says that it has.
struct Report {
    var epoch: UInt32
    var transaction: UInt64
}
