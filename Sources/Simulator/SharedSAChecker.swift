// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import ESP
internal import FMKE
internal import KeyServer
internal import Store

/// (f) What a sender uses is held by each receiver that is up and has confirmed the transaction which made it, or a
/// later one, to a GCKS with the present store and in its present life. A sender never moves back; and after the
/// verdict on a revocation no sender that confirmed it uses an older SA.
///
/// A sender that missed a change goes on with what it has, and its receivers keep that for it, with exactly these
/// exceptions, each of which the protocol's document states (docs/FMKE.md 7.4):
///
/// - A revocation ends what it replaces at a fixed time, whoever has confirmed: the removed member knows those keys,
///   and as they are the group's own it could send under them in anybody's name. So does the third transaction in a
///   row. A sender that has not confirmed that transaction is cut off from then on; one that has must have moved.
/// - Changes that follow one another so fast that the SAs in use and to come do not fit a message: the GCKS leaves some
///   out and says so. It may do so only while three generations live, and a sender shares an SA again when it uses the
///   newest one, at the latest an activation delay after it has confirmed that.
/// - A sender that the verdict on its newest transaction named, until it confirms it.
/// - A sender that confirmed late has the time to move that its profile takes.
/// - An SA whose lifetime ended: the GCKS was away for too long.
/// - With backward secrecy, SAs of transactions before the one that took the receiver in.
/// - A sender that was taken out and in again, until it uses what was made since: what it has is of its former time.
/// - A member that may receive of late, until its profile has told it so.
/// - A flow that the operator took out ends within the roll-over, as does what a member sends that may not any more.
final class SharedSAChecker: Checker {
    let name = "f: senders and receivers share an SA"
    /// A sender's activation counts from receipt: what may lie between the server's instant and that.
    static let activationTolerance: Duration = .seconds(3)
    /// Of the clocks, between a time that the server names and the same at a member.
    static let clockTolerance: Duration = .milliseconds(50)

    private struct Start {
        var at: Instant
        var reason: RekeyReason?
    }
    private let directory: Directory
    private var transactions: [UInt32: (group: Int, transaction: UInt64)] = [:]
    private var newest: [Int: UInt64] = [:]
    private var started: [Int: [UInt64: Start]] = [:]
    /// The newest transaction at each time that a message had no room for all.
    private var crowded: [Int: Set<UInt64>] = [:]
    /// SAs whose lifetime ended somewhere: the GCKS was away for too long.
    private var expired: Set<String> = []
    /// The newest transaction of which a verdict said that this member has not confirmed it.
    private var named: [Int: [Int: UInt64]] = [:]
    /// Until when a member that confirmed late is not blamed.
    private var excused: [Int: [Int: Instant]] = [:]
    /// By member and group: the transaction that took it in, with backward secrecy. It is told nothing older.
    private var since: [Int: [Int: UInt64]] = [:]
    /// By member and group: the newest transaction when the operator took it in again.
    private var returned: [Int: [Int: UInt64]] = [:]
    /// By member and group: what it confirmed in its present life.
    private var confirmed: [Int: [Int: UInt64]] = [:]
    /// The same, each with its time, oldest first.
    private var confirmations: [Int: [Int: [(transaction: UInt64, at: Instant)]]] = [:]
    /// What each member sent in its present life. A message that an earlier life sent may come later still and confirm
    /// what is gone: nobody can know.
    private var sent: [Int: Set<UInt64>] = [:]
    /// By member and flow: the transaction it sends with.
    private var sending: [Int: [String: UInt64]] = [:]
    private var isChanged = false
    private(set) var looks = 0
    private var dates: [Instant] = []
    private var lockedOut: [(at: Instant, group: Int, transaction: UInt64, verdictAt: Instant)] = []

    /// By group: who may receive by the operator's file; and by member the groups in which it may of late, and does not
    /// know it yet.
    private var receivers: [Set<Int>]
    private var unaware: [Int: Set<Int>] = [:]

    init(_ directory: Directory) {
        self.directory = directory
        receivers = Self.receivers(directory)
    }

    private static func receivers(_ directory: Directory) -> [Set<Int>] {
        directory.roles.map { Set($0.filter(\.value.mayReceive).keys) }
    }

    func observe(_ observation: Observation, in simulation: Simulation) {
        switch observation {
        case .serverPersisted(let record): learn(record, simulation.now)
        case .storeLost:
            (confirmed, started, crowded) = ([:], [:], [:])
            confirmations = [:]
        case .memberStarted(let member), .memberStopped(let member):
            (confirmed[member], sending[member], sent[member]) = ([:], [:], [])
            confirmations[member] = [:]
        case .memberSent(let member, let bytes): sent[member, default: []].insert(EventHash.of(bytes))
        case .dataRefused(let member, _): confirmed[member] = [:]
        case .left(let member, let group):
            confirmed[member]?[group] = nil
            confirmations[member]?[group] = nil
            named[member]?[group] = nil
        case .groupsChanged:
            let now = Self.receivers(directory)
            for group in now.indices {
                for member in now[group].subtracting(receivers[group]) { unaware[member, default: []].insert(group) }
            }
            receivers = now
        case .memberLogged(let member, let event) where event.name == "configure.received":
            let told = event["groups"]?.split(separator: ",").compactMap { directory.index(name: String($0)) } ?? []
            unaware[member]?.subtract(told)
        case .returned(let member, let group): returned[member, default: [:]][group] = newest[group]
        case .serverLogged(let event) where event.name == "keys.confirmed":
            guard let member = event["client"].flatMap(Directory.member),
                let group = event["group"].flatMap({ directory.index(name: $0) }),
                let transaction = event["transaction"].flatMap(UInt64.init),
                simulation.members[member].engine != nil, let delivered = simulation.delivered,
                sent[member]?.contains(EventHash.of(delivered.bytes)) == true
            else { return }
            excuse(member, group, transaction, simulation)
            confirmed[member, default: [:]][group] = transaction
            confirmations[member, default: [:]][group, default: []].append((transaction, simulation.now))
            isChanged = true
        case .serverLogged(let event) where event.name == "configure.crowded" || event.name == "rekey.crowded":
            crowd(event, simulation)
        case .memberLogged(_, let event) where event.name == "sa.removed" && event["reason"] == "expired":
            if let spi = event["spi"] { expired.insert(spi) }
        case .dataChanged(let member, let change):
            if case .activateOutbound(let key) = change { activated(key, member, simulation) }
            isChanged = true
        case .ended(let report):
            guard let group = directory.index(name: report.group) else { return }
            for missing in report.unconfirmed {
                guard let member = Directory.member(missing.client) else { continue }
                named[member, default: [:]][group] = report.transaction
            }
            guard report.reason == .revocation, report.verdict == "confirmed" else { return }
            let at = simulation.now + Self.activationTolerance
            lockedOut.append((at, group, report.transaction, simulation.now))
            simulation.queue.schedule(.check, at: at)
        case .stepDone:
            if let first = dates.first, first < simulation.now {
                dates.removeFirst()
                isChanged = true
            }
            if isChanged, simulation.scenario.checksEverything { checkAll(simulation) }
            isChanged = false
            while let first = lockedOut.first, first.at <= simulation.now {
                lockedOut.removeFirst()
                checkLockedOut(first.group, first.transaction, first.verdictAt, simulation)
            }
        default: break
        }
    }

    private func learn(_ record: Record, _ now: Instant) {
        let path = record.path
        guard path.count >= 3, path[0] == "group", let group = directory.index(id: path[1]) else { return }
        if path[2] == "transaction", let number = record.number {
            newest[group] = number - 1
            if started[group]?[number - 1] == nil { started[group, default: [:]][number - 1] = Start(at: now) }
        }
        if path[2] == "open", path.count == 4, let number = UInt64(path[3]), let open = record.read(OpenRecord.self) {
            let at = started[group]?[number]?.at ?? now
            started[group, default: [:]][number] = Start(at: at, reason: open.reason)
        }
        if path[2] == "member", path.count == 4, let member = Directory.member(path[3]),
            let first = record.read(MemberRecord.self)?.since, first > 0
        {
            since[member, default: [:]][group] = first
        }
        if path[2] == "sa", let made = record.read(DataSARecord.self) {
            transactions[made.sa.spi] = (group, made.transaction)
        }
    }

    /// A sender that confirms after the planned activation, of this transaction or one that it missed, has a few round
    /// trips to move; then it is looked at again.
    private func excuse(_ member: Int, _ group: Int, _ transaction: UInt64, _ simulation: Simulation) {
        let policy = directory.policies[group]
        let last = confirmed[member]?[group] ?? 0
        let isLate = started[group]?.contains { number, start in
            number > last && number <= transaction && simulation.now > start.at + policy.activateAfter
        }
        guard isLate == true else { return }
        let until = simulation.now + policy.activateAfter + policy.roundTrip * 4 + .seconds(2)
        excused[member, default: [:]][group] = until
        dates.append(until)
        simulation.queue.schedule(.check, at: until + .milliseconds(1))
    }

    private func activated(_ key: SAKey, _ member: Int, _ simulation: Simulation) {
        guard let parameters = simulation.members[member].outbound[key], let made = transactions[key.spi] else {
            return
        }
        let flow = MemberStation.flow(parameters)
        let last = sending[member]?[flow] ?? 0
        sending[member, default: [:]][flow] = made.transaction
        if made.transaction < last {
            simulation.violate(
                name, "m\(member) moves from transaction \(last) back to \(made.transaction) on \(flow)")
        }
    }

    private func checkAll(_ simulation: Simulation) {
        for sender in simulation.members where sender.engine != nil && !sender.isRevoked {
            for (flow, key) in sender.active.sorted(by: { $0.key < $1.key }) {
                guard let made = transactions[key.spi], !expired.contains(spiText(key.spi)),
                    isSender(sender.number, of: made.group, sender.outbound[key]),
                    made.transaction > returned[sender.number]?[made.group] ?? 0,
                    let sent = confirmed[sender.number]?[made.group],
                    sent >= named[sender.number]?[made.group] ?? 0,
                    excused[sender.number]?[made.group].map({ $0 < simulation.now }) ?? true
                else { continue }
                for receiver in simulation.members
                where receiver.number != sender.number && receiver.engine != nil && !receiver.isRevoked {
                    guard directory.roles[made.group][receiver.number]?.mayReceive == true,
                        let received = confirmed[receiver.number]?[made.group], received >= made.transaction,
                        received >= named[receiver.number]?[made.group] ?? 0,
                        made.transaction >= since[receiver.number]?[made.group] ?? 0,
                        unaware[receiver.number]?.contains(made.group) != true
                    else { continue }
                    looks += 1
                    guard receiver.inbound[key] == nil,
                        !isCutOff(made.group, made.transaction, from: sent, now: simulation.now),
                        !isCrowded(made.group, made.transaction, from: sender.number, sent, now: simulation.now)
                    else { continue }
                    return simulation.violate(
                        name,
                        "\(sender.name) (confirmed \(sent)) sends \(flow) with SA \(spiText(key.spi)) of transaction "
                            + "\(made.transaction), which \(receiver.name) (confirmed \(received)) does not hold")
                }
            }
        }
    }

    /// May this member send that? Who may not, and what the operator has taken out, ends within the roll-over.
    private func isSender(_ member: Int, of group: Int, _ parameters: SAParameters?) -> Bool {
        directory.roles[group][member]?.maySend == true
            && directory.policies[group].flows.contains { $0 == parameters?.selector }
    }

    /// Has the fixed end come of what a transaction made, to a sender that has not confirmed the one that set it?
    private func isCutOff(_ group: Int, _ transaction: UInt64, from sent: UInt64, now: Instant) -> Bool {
        let policy = directory.policies[group]
        return started[group]?.contains { number, start in
            number > max(transaction, sent) && (start.reason == .revocation || number >= transaction + 3)
                && now >= start.at + policy.activateAfter + policy.keepOld - Self.clockTolerance
        } ?? false
    }

    /// The GCKS says that it left out SAs.
    private func crowd(_ event: LogEvent, _ simulation: Simulation) {
        guard let group = event["group"].flatMap({ directory.index(name: $0) }), let newest = newest[group] else {
            return
        }
        let live = simulation.server.engine?.snapshot(now: simulation.now).sas.filter { $0.group == event["group"] }
        if Set(live?.map(\.transaction) ?? []).count < 3 {
            simulation.violate(name, "g\(group) is said to be crowded, with less than three generations")
        }
        crowded[group, default: []].insert(event["transaction"].flatMap(UInt64.init) ?? newest)
    }

    /// Was something of a transaction perhaps left out of a message, and is the newest one of that time not in use yet,
    /// or not known to the sender? It had its times before it confirmed, and the longest is the activation delay.
    private func isCrowded(
        _ group: Int, _ transaction: UInt64, from sender: Int, _ sent: UInt64, now: Instant
    ) -> Bool {
        let policy = directory.policies[group]
        // Who confirmed a revocation leaves what it replaced, whatever had no room.
        let mustHaveLeft = started[group]?.contains { number, start in
            number > transaction && number <= sent && start.reason == .revocation
                && now >= start.at + policy.activateAfter + policy.keepOld
        }
        guard mustHaveLeft != true else { return false }
        return crowded[group]?.contains { newest in
            guard newest > transaction, started[group]?[newest] != nil else { return false }
            let confirmation = confirmations[sender]?[group]?.first { $0.transaction >= newest }
            guard sent >= newest, let confirmation else { return true }
            return now < confirmation.at + policy.activateAfter + Self.clockTolerance
        } ?? false
    }

    private func checkLockedOut(
        _ group: Int, _ transaction: UInt64, _ verdictAt: Instant, _ simulation: Simulation
    ) {
        for sender in simulation.members where sender.engine != nil && !sender.isRevoked {
            // One that came later was named as absent, and has the time that its profile takes.
            let confirmation = confirmations[sender.number]?[group]?.first { $0.transaction >= transaction }
            guard let confirmation, confirmation.at <= verdictAt else { continue }
            for (flow, key) in sender.active.sorted(by: { $0.key < $1.key }) {
                guard let made = transactions[key.spi], made.group == group, made.transaction < transaction,
                    isSender(sender.number, of: group, sender.outbound[key])
                else { continue }
                simulation.violate(
                    name,
                    "after the verdict on revocation \(transaction), \(sender.name) sends \(flow) with an SA of "
                        + "\(made.transaction)")
            }
        }
    }
}
