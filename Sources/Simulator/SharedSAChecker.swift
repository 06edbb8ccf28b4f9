// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import ESP
internal import KeyServer
internal import Store

/// (f) What a sender uses is held by each receiver that is up and has confirmed that transaction or a later one, unless
/// the sender itself is behind the receiver; a sender never moves back; and after the verdict on a revocation no sender
/// that confirmed it uses an older SA.
final class SharedSAChecker: Checker {
    let name = "f: senders and receivers share an SA"
    /// A sender's activation counts from receipt: what may lie between the server's instant and that.
    static let activationTolerance: Duration = .seconds(3)

    private let directory: Directory
    private var transactions: [UInt32: (group: Int, transaction: UInt64)] = [:]
    private var newest: [Int: UInt64] = [:]
    private var startedAt: [Int: [UInt64: Instant]] = [:]
    /// SAs whose lifetime ended somewhere: the GCKS was away for too long.
    private var expired: Set<String> = []
    /// The newest transaction of which a verdict said that this member has not confirmed it.
    private var named: [Int: [Int: UInt64]] = [:]
    /// Until when a member that confirmed late is not blamed.
    private var excused: [Int: [Int: Instant]] = [:]
    /// By member and group: what it confirmed in its present life.
    private var confirmed: [Int: [Int: UInt64]] = [:]
    /// By member and flow: the transaction it sends with.
    private var sending: [Int: [String: UInt64]] = [:]
    private var isChanged = false
    private var looks: [Instant] = []
    private var lockedOut: [(at: Instant, group: Int, transaction: UInt64)] = []

    init(_ directory: Directory) { self.directory = directory }

    func observe(_ observation: Observation, in simulation: Simulation) {
        switch observation {
        case .serverPersisted(let record): learn(record, simulation.now)
        case .serverStarted: confirmed = [:]
        case .memberStarted(let member): (confirmed[member], sending[member]) = ([:], [:])
        case .memberStopped(let member): (confirmed[member], sending[member]) = ([:], [:])
        case .dataRefused(let member, _): confirmed[member] = [:]
        case .serverLogged(let event) where event.name == "keys.confirmed":
            guard let member = event["client"].flatMap(Directory.member),
                let group = event["group"].flatMap({ directory.index(name: $0) }),
                let transaction = event["transaction"].flatMap(UInt64.init),
                simulation.members[member].engine != nil
            else { return }
            excuse(member, group, transaction, simulation)
            confirmed[member, default: [:]][group] = transaction
            isChanged = true
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
            lockedOut.append((at, group, report.transaction))
            simulation.queue.schedule(.check, at: at)
        case .stepDone:
            if let first = looks.first, first < simulation.now {
                looks.removeFirst()
                isChanged = true
            }
            if isChanged, simulation.scenario.checksEverything { checkAll(simulation) }
            isChanged = false
            while let first = lockedOut.first, first.at <= simulation.now {
                lockedOut.removeFirst()
                checkLockedOut(first.group, first.transaction, simulation)
            }
        default: break
        }
    }

    private func learn(_ record: Record, _ now: Instant) {
        let path = record.path
        guard path.count >= 3, path[0] == "group", let group = directory.index(id: path[1]) else { return }
        if path[2] == "transaction", let number = record.number {
            newest[group] = number - 1
            startedAt[group, default: [:]][number - 1] = now
        }
        if path[2] == "sa", path.count == 4, let spi = UInt32(path[3].dropFirst(2), radix: 16) {
            transactions[spi] = (group, newest[group] ?? 0)
        }
    }

    /// A sender that confirms after the planned activation, of this transaction or one that it missed, has a few round
    /// trips to move; then it is looked at again.
    private func excuse(_ member: Int, _ group: Int, _ transaction: UInt64, _ simulation: Simulation) {
        let policy = directory.policies[group]
        let last = confirmed[member]?[group] ?? 0
        let isLate = startedAt[group]?.contains { number, start in
            number > last && number <= transaction && simulation.now > start + policy.activateAfter
        }
        guard isLate == true else { return }
        let until = simulation.now + policy.activateAfter + policy.roundTrip * 4 + .seconds(2)
        excused[member, default: [:]][group] = until
        looks.append(until)
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
                    excused[sender.number]?[made.group].map({ $0 < simulation.now }) ?? true
                else { continue }
                let sent = confirmed[sender.number]?[made.group] ?? 0
                guard sent >= named[sender.number]?[made.group] ?? 0 else { continue }
                for receiver in simulation.members
                where receiver.number != sender.number && receiver.engine != nil && !receiver.isRevoked {
                    guard directory.roles[made.group][receiver.number]?.mayReceive == true,
                        let received = confirmed[receiver.number]?[made.group], received >= made.transaction,
                        received >= named[receiver.number]?[made.group] ?? 0, sent >= received,
                        receiver.inbound[key] == nil, !isCrowded(made.group, made.transaction)
                    else { continue }
                    return simulation.violate(
                        name,
                        "\(sender.name) sends \(flow) with SA \(spiText(key.spi)) of transaction \(made.transaction), "
                            + "which \(receiver.name) (confirmed \(received)) does not hold")
                }
            }
        }
    }

    /// Did so many transactions follow before this one's activation that no message has room for all their SAs? Then a
    /// member that missed this one may get the later ones without it.
    private func isCrowded(_ group: Int, _ transaction: UInt64) -> Bool {
        guard let start = startedAt[group]?[transaction] else { return false }
        let policy = directory.policies[group]
        let end = start + policy.activateAfter + .seconds(2)
        let followers = startedAt[group]?.filter { $0.key > transaction && $0.value < end }.count ?? 0
        return (followers + 2) * policy.flows > 6
    }

    private func checkLockedOut(_ group: Int, _ transaction: UInt64, _ simulation: Simulation) {
        for sender in simulation.members where sender.engine != nil && !sender.isRevoked {
            guard confirmed[sender.number]?[group] ?? 0 >= transaction else { continue }
            for (flow, key) in sender.active.sorted(by: { $0.key < $1.key }) {
                guard let made = transactions[key.spi], made.group == group, made.transaction < transaction else {
                    continue
                }
                simulation.violate(
                    name,
                    "after the verdict on revocation \(transaction), \(sender.name) sends \(flow) with an SA of "
                        + "\(made.transaction)")
            }
        }
    }
}
