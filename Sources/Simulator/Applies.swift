// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import Cryptography
internal import KeyServer
internal import ReliablePush

/// The operator changes the inventory in small steps, beside all faults and other commands. What it does follows from a
/// source of its own, so that a scenario without it is what it was.
extension Simulation {
    /// Between two changes, half of it at least.
    private static let applyPause: Duration = .seconds(20)

    func applyLater() {
        guard !faultsAreOver else { return }
        let random = applyRandom
        queue.schedule(.apply, at: now + Self.applyPause / 2 + random.duration(below: Self.applyPause))
        var changes: [String] = []
        for _ in 0..<(1 + random.number(below: 2)) {
            if let change = draw(random) { changes.append(change) }
        }
        guard !changes.isEmpty else { return }
        say("sim.apply", changes.joined(separator: "; "))
        applyFile()
    }

    /// When the faults are over, every client is in the file again, in all its groups.
    func bringBack() {
        guard scenario.applies else { return }
        for member in members where !member.isRevoked {
            directory.absent.remove(member.number)
            for group in directory.groupNames.indices { comeBack(member.number, group) }
        }
        say("sim.apply", "everybody is back")
        applyFile()
    }

    /// What the file says takes effect; where the server is down or dies of it, when it starts.
    private func applyFile() {
        observe(.groupsChanged)
        guard let engine = server.engine else { return }
        do {
            let inventory = directory.inventory(scenario, without: server.removed)
            let plan = try engine.plan(inventory, now: now)
            let report = try engine.apply(inventory, now: now)
            // Who has which number, before anything is told under it.
            observe(.groupsChanged)
            // Numbers and names; keys, and so trees, are drawn anew.
            if plan.changes != report.changes || plan.transactions != report.transactions
                || plan.profiles != report.profiles || plan.multicastOctets != report.multicastOctets
            {
                violate("engine", "a plan said otherwise than what was done: \(plan) \(report)")
            }
        } catch {
            violate("engine", "an inventory was refused: \(error)")
        }
        drainServer()
    }

    /// One small change of the file; nil where it cannot be.
    private func draw(_ random: SeededRandom) -> String? {
        let group = Int(random.number(below: UInt64(directory.groups.count)))
        let member = members[Int(random.number(below: UInt64(members.count)))]
        let number = member.number
        let state = directory.groups[group]
        switch random.number(below: 12) {
        case 0, 1:
            guard state.roles[number] != nil, canGo(number, group) else { return nil }
            leave(number, group)
            return "\(member.name) leaves g\(group)"
        case 2, 3:
            guard !member.isRevoked, !directory.absent.contains(number), comeBack(number, group) else { return nil }
            return "\(member.name) is in g\(group) again"
        case 4:
            guard !member.isRevoked, state.suite.namesSenders, let role = state.roles[number] else { return nil }
            if role == .receiver {
                directory.change(group) { $0.roles[number] = .both }
            } else {
                guard canGo(number, group) else { return nil }
                directory.change(group) { $0.roles[number] = .receiver }
            }
            return "\(member.name) has another role in g\(group)"
        case 5:
            let left = members.count { !$0.isRevoked && !directory.absent.contains($0.number) }
            guard !member.isRevoked, !directory.absent.contains(number), left > 2,
                directory.groups.indices.allSatisfy({ directory.roles[$0][number] == nil || canGo(number, $0) })
            else { return nil }
            for index in directory.groups.indices where directory.roles[index][number] != nil { leave(number, index) }
            directory.absent.insert(number)
            return "\(member.name) is out"
        case 6:
            guard !member.isRevoked, directory.absent.remove(number) != nil else { return nil }
            for index in directory.groups.indices { comeBack(number, index) }
            return "\(member.name) is back"
        case 7:
            let copies = 1 + Int(random.number(below: 3))
            directory.change(group) { $0.push.copies = copies }
            return "g\(group) has \(copies) copies"
        case 8:
            directory.change(group) {
                $0.dataLifetime = $0.dataLifetime > .seconds(600) ? .seconds(120) : .seconds(3_600)
            }
            return "g\(group) has another lifetime"
        case 9:
            directory.change(group, movesControl: true) { _ in }
            return "g\(group) has another control channel"
        case 10:
            let flows = 1 + Int(random.number(below: UInt64(GroupEntry.mostFlows(with: state.suite))))
            directory.change(group) { $0.flows = flows }
            return "g\(group) has \(flows) flows"
        default:
            let several = state.roles.values.count { $0.maySend } > 1
            let suites = ESPSuite.allCases.filter {
                !$0.isLegacy && ($0.namesSenders || !several) && state.flows <= GroupEntry.mostFlows(with: $0)
            }
            guard let suite = random.pick(suites) else { return nil }
            directory.change(group) { $0.suite = suite }
            return "g\(group) has \(suite)"
        }
    }

    /// Does somebody else stay who sends, and a receiver?
    private func canGo(_ number: Int, _ group: Int) -> Bool {
        let others = directory.roles[group].filter { $0.key != number && !members[$0.key].isRevoked }
        return others.count > 1 && others.values.contains(where: \.maySend)
    }

    private func leave(_ number: Int, _ group: Int) {
        directory.change(group) { $0.roles[number] = nil }
        observe(.left(number, group: group))
    }

    @discardableResult
    private func comeBack(_ number: Int, _ group: Int) -> Bool {
        guard let role = directory.firstRoles[group][number], directory.roles[group][number] == nil else {
            return false
        }
        observe(.returned(number, group: group))
        // With a suite that does not name senders there can be one.
        let isOnlySender = !directory.roles[group].values.contains(where: \.maySend)
        let canSend = directory.groups[group].suite.namesSenders || isOnlySender
        directory.change(group) { $0.roles[number] = role.maySend && !canSend ? .receiver : role }
        return true
    }
}
