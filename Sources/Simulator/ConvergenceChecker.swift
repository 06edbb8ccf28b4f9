// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import ESP
internal import GroupMember
internal import IKEv1
internal import KeyServer
internal import Store

/// (a) Every transaction ends in a verdict that names every member, also where the GCKS dies and comes back with its
/// store; and when the faults have stopped, everybody who is
/// up and authorised has the current keys within a bounded time. It also ends the run: once all have settled, each
/// group is rekeyed once more, which must reach everybody. An ISAKMP SA whose renewal the faults spoilt may end of age
/// in that very moment, and its member is named with reason; then it is tried once more, and must work.
final class ConvergenceChecker: Checker {
    let name = "a: verdicts and current keys"
    /// From start to verdict: copies, answers, three repair rounds over 2 kbit/s, two unicasts, two probes, activation.
    /// And four rounds of answering slots.
    private let verdictTime: Duration

    private struct Pending {
        /// Or when the server went on with it.
        var startedAt: Instant
        var members: Set<String>
    }
    private enum Phase { case faults, settling, lastRekey, settlingAgain }

    private let directory: Directory
    private var pending: [String: [UInt64: Pending]] = [:]
    /// Verdicts that were said, by the run of the server that said them. One that dies then may not know it.
    private var said: [String: [UInt64: (members: Set<String>, run: UInt64)]] = [:]
    private var phase = Phase.faults
    private var deadline = Instant.distantFuture
    private var nextCheck = Instant.distantFuture
    /// The last rekey of each group; 0 before it has a number.
    private var lastRekeys: [String: UInt64] = [:]
    /// Members whose ISAKMP SA ended of age after the faults, and whether that has excused a rekey.
    private var aged: Set<String> = []
    private var isExcused = false
    private(set) var looks = 0

    init(_ directory: Directory) {
        self.directory = directory
        let windows = zip(directory.policies, directory.roles).map { policy, roles in
            policy.slot * roles.count * 4
        }
        verdictTime = .seconds(180) + (windows.max() ?? .zero)
    }

    func observe(_ observation: Observation, in simulation: Simulation) {
        switch observation {
        case .serverLogged(let event) where event.name == "rekey.started": started(event, simulation)
        case .ended(let report): ended(report, simulation)
        case .serverLogged(let event) where event.name == "client.gone" && phase == .lastRekey:
            if event["reason"] == AssociationEnd.expired.explanation, let name = event["client"] { aged.insert(name) }
        case .memberLogged(let member, let event) where event.name == "gcks.lost" && phase == .lastRekey:
            if event["reason"] == AssociationEnd.expired.explanation { aged.insert("m\(member)") }
        case .serverPersisted(let record): recorded(record, simulation)
        case .storeLost: (pending, said) = ([:], [:])
        case .serverStarted: goOn(simulation)
        case .faultsEnded:
            phase = .settling
            deadline = simulation.now + simulation.scenario.settleTime
            check(again: .seconds(5), simulation)
        case .stepDone:
            if simulation.now >= nextCheck { settle(simulation) }
        default: break
        }
    }

    private func started(_ event: LogEvent, _ simulation: Simulation) {
        guard let group = event["group"], directory.index(name: group) != nil,
            let transaction = event["transaction"].flatMap(UInt64.init)
        else { return }
        simulation.transactions += 1
        if lastRekeys[group] == 0 { lastRekeys[group] = transaction }
        if pending[group]?[transaction] == nil {
            simulation.violate(name, "transaction \(transaction) of \(group) starts without a record")
        }
    }

    /// A transaction is under way when the store says so: whatever becomes of this server.
    private func recorded(_ record: Record, _ simulation: Simulation) {
        let path = record.path
        guard path.count == 4, path[0] == "group", path[2] == "open", let index = directory.index(id: path[1]),
            let transaction = UInt64(path[3])
        else { return }
        let group = directory.groupNames[index]
        guard pending[group]?[transaction] == nil, said[group]?[transaction] == nil else { return }
        let out = Set(simulation.members.filter(\.isRevoked).map(\.number)).union(simulation.server.removed)
        let members = Set(directory.roles[index].keys.filter { !out.contains($0) }.map { "m\($0)" })
        pending[group, default: [:]][transaction] = Pending(startedAt: simulation.now, members: members)
        // A look at the end of its time, whatever else happens.
        simulation.queue.schedule(.check, at: simulation.now + verdictTime + simulation.audit.longest + .seconds(1))
    }

    private func goOn(_ simulation: Simulation) {
        guard !pending.values.allSatisfy(\.isEmpty) else { return }
        for (group, transactions) in pending {
            for transaction in transactions.keys { pending[group]?[transaction]?.startedAt = simulation.now }
        }
        simulation.queue.schedule(.check, at: simulation.now + verdictTime + .seconds(1))
    }

    private func ended(_ report: VerdictReport, _ simulation: Simulation) {
        if report.isVPN { return endedVPN(report, simulation) }
        let run = simulation.server.run
        let before = said[report.group]?[report.transaction].flatMap { $0.run < run ? $0.members : nil }
        guard let members = pending[report.group]?.removeValue(forKey: report.transaction)?.members ?? before else {
            simulation.violate(name, "a second verdict on transaction \(report.transaction) of \(report.group)")
            return
        }
        said[report.group, default: [:]][report.transaction] = (members, run)
        looks += 1
        let named = report.confirmed.map(\.client) + report.unconfirmed.map(\.client) + report.absent
        guard Set(named) == members, named.count == Set(named).count else {
            simulation.violate(
                name,
                "verdict on \(report.transaction) of \(report.group) names \(named.sorted()), "
                    + "members were \(members.sorted())")
            return
        }
        guard phase == .lastRekey, lastRekeys[report.group] == report.transaction else { return }
        lastRekeys[report.group] = nil
        guard report.verdict == "confirmed" && report.absent.isEmpty || simulation.scenario.residualLoss > 0 else {
            let names = report.unconfirmed.map(\.client) + report.absent
            if !isExcused, names.allSatisfy(aged.contains) {
                isExcused = true
                phase = .settling
                deadline = simulation.now + simulation.scenario.settleTime
                return
            }
            let missing = report.unconfirmed.map { "\($0.client) \($0.reason)" } + report.absent.map { "\($0) absent" }
            simulation.violate(name, "without faults a rekey of \(report.group) misses \(missing)")
            return
        }
        if lastRekeys.isEmpty {
            phase = .settlingAgain
            deadline = simulation.now + simulation.scenario.settleTime
            for number in simulation.scenario.vpns.indices {
                simulation.queue.schedule(.rekeyVPN(number), at: simulation.now)
            }
        }
    }

    /// Without faults the last change of a VPN reaches both ends, as that of a group reaches everybody.
    private func endedVPN(_ report: VerdictReport, _ simulation: Simulation) {
        guard phase == .settlingAgain, report.reason == .commanded, report.verdict != "confirmed",
            simulation.scenario.residualLoss == 0, !report.unconfirmed.map(\.client).contains(where: aged.contains)
        else { return }
        simulation.violate(name, "without faults a change of \(report.group) misses \(report.unconfirmed)")
    }

    private func check(again pause: Duration, _ simulation: Simulation) {
        nextCheck = simulation.now + pause
        simulation.queue.schedule(.check, at: nextCheck)
    }

    private func settle(_ simulation: Simulation) {
        check(again: .seconds(5), simulation)
        overdue(simulation)
        guard phase != .lastRekey else { return }
        let behind = whoIsBehind(simulation)
        guard behind.isEmpty else {
            guard simulation.now < deadline else {
                return simulation.violate(name, "long after the last fault: \(behind.joined(separator: "; "))")
            }
            return
        }
        guard phase == .settling else {
            simulation.isOver = true
            return
        }
        phase = .lastRekey
        lastRekeys = Dictionary(uniqueKeysWithValues: directory.groupNames.map { ($0, 0) })
        for group in directory.groupNames where simulation.violations.isEmpty {
            simulation.rekey(group, includingKEK: group == "g0")
        }
    }

    private func overdue(_ simulation: Simulation) {
        guard simulation.server.engine != nil else { return }
        for (group, transactions) in pending.sorted(by: { $0.key < $1.key }) {
            for (transaction, state) in transactions.sorted(by: { $0.key < $1.key })
            where simulation.now - state.startedAt > verdictTime + simulation.audit.longest {
                simulation.violate(name, "no verdict on transaction \(transaction) of \(group)")
                return
            }
        }
    }

    /// In words; empty when everybody has the current keys.
    private func whoIsBehind(_ simulation: Simulation) -> [String] {
        guard let engine = simulation.server.engine else { return ["the server is down"] }
        let snapshot = engine.snapshot(now: simulation.now)
        var behind: [String] = []
        for client in snapshot.clients where client.state == "absent" { behind.append("\(client.name) is absent") }
        for group in snapshot.groups {
            for member in group.members where !member.isCurrent {
                behind.append("\(member.client) has not confirmed \(group.transaction) of \(group.name)")
            }
        }
        behind += VPNChecker.whatIsMissing(simulation)
        guard behind.isEmpty else { return behind }
        let newest = Dictionary(
            snapshot.sas.map { ($0.group, $0.transaction) }, uniquingKeysWith: { max($0, $1) })
        let wanted = snapshot.sas.filter { $0.transaction == newest[$0.group] }
        for station in simulation.members
        where !station.isRevoked && !directory.absent.contains(station.number) {
            guard let engine = station.engine else {
                behind.append("\(station.name) is down")
                continue
            }
            let held = engine.snapshot(now: station.clock.local(simulation.now))
            if held.state != "registered" { behind.append("\(station.name) is \(held.state)") }
            for group in snapshot.groups {
                let own = held.groups.first { $0.name == group.name }
                guard let index = directory.index(name: group.name), let role = directory.roles[index][station.number]
                else {
                    if own != nil { behind.append("\(station.name) still has \(group.name)") }
                    continue
                }
                if own?.transaction != group.transaction || own?.epoch != group.epoch {
                    behind.append("\(station.name) has another transaction or epoch of \(group.name)")
                }
                for sa in wanted where sa.group == group.name {
                    let hasIn = station.inbound.keys.contains { spiText($0.spi) == sa.spi }
                    let hasOut = station.outbound.keys.contains { spiText($0.spi) == sa.spi }
                    if role.mayReceive && !hasIn || role.maySend && !hasOut {
                        behind.append("\(station.name) lacks SA \(sa.spi) of \(group.name)")
                    }
                }
            }
        }
        return behind
    }
}
