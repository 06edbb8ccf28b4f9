// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import Cryptography
internal import ESP
internal import FMKE
internal import KeyServer
internal import KeyTree
internal import Store

/// (d) Revoked members that recorded everything on the link, kept all they ever knew and put it together, learn no key
/// made after the revocation of the last of them. In a group with backward secrecy, a member learns no key made by
/// a transaction before the one that took it in. At the end of a run the attempts are made, with the real ciphers.
///
/// After its revocation a member may still open the outside of what changes the key tree, and of BEACONs under the same
/// KEK; a PUSH that has keys in the clear of such a message breaks the promise by itself.
final class KnowledgeChecker: Checker {
    let name = "d: what members know"

    private let directory: Directory
    private var secrets: [GroupSecrets] = []
    private var recordings: [[Recording]] = []
    /// Of all groups, the group of each KEK.
    private var groups: [RekeySPI: Int] = [:]
    /// What each member was told in its profiles, and what its data plane was given.
    private var told: [Int: [Coalition]] = [:]
    private var revokedAt: [Int: Int] = [:]
    /// By group: who was taken out of it without being revoked, and is out still.
    private var leftAt: [[Int: Int]]
    /// By member and group, in a group with backward secrecy: the transaction that took it in for the first time.
    private var since: [Int: [Int: UInt64]] = [:]
    /// By member: its number in each group.
    private var slots: [Int: [Int]] = [:]
    private var count = 0
    private(set) var looks = 0

    init(_ directory: Directory) {
        self.directory = directory
        secrets = directory.policies.map { policy in
            GroupSecrets(
                flows: policy.flows.map { Flow(selector: $0, suite: policy.suite, lifetimeKilobytes: nil) })
        }
        recordings = directory.roles.map { _ in [] }
        leftAt = directory.roles.map { _ in [:] }
    }

    func observe(_ observation: Observation, in simulation: Simulation) {
        count += 1
        switch observation {
        case .storeLost: for group in secrets.indices { secrets[group].forgetTree() }
        case .serverPersisted(let record): learn(record)
        case .serverForgot(let name):
            let path = name.split(separator: "/")
            guard path.count >= 3, path[0] == "group", let group = directory.index(id: path[1]) else { return }
            secrets[group].forget(path[2...])
        case .pushSent(let spi, _, let bytes):
            guard let group = groups[spi] else { return }
            recordings[group].append(
                Recording(
                    spi: spi, bytes: bytes, group: Directory.groupID(group),
                    rekeySA: secrets[group].keks[spi]?.rekeySA, sentAt: count))
        case .revoked(let member): revokedAt[member] = count
        case .left(let member, let group): leftAt[group][member] = count
        case .returned(let member, let group):
            // What was made in the meantime it is told now; until now it must not have found it.
            guard let at = leftAt[group].removeValue(forKey: member) else { return }
            learned(by: [(member, at)], group, simulation)
        case .groupsChanged:
            for group in secrets.indices {
                let policy = directory.policies[group]
                secrets[group].learn(
                    policy.flows.map { Flow(selector: $0, suite: policy.suite, lifetimeKilobytes: nil) })
            }
        case .serverLogged(let event) where event.name == "configure.sent":
            guard let member = event["client"].flatMap(Directory.member) else { return }
            guard revokedAt[member] == nil else { return profileAfterRevocation(of: member, event, simulation) }
            for group in directory.roles.indices where directory.roles[group][member] != nil { tell(member, group) }
        case .dataChanged(let member, .addInbound(let parameters)),
            .dataChanged(let member, .addOutbound(let parameters)):
            guard let group = secrets.indices.first(where: { secrets[$0].sas[parameters.key.spi] != nil }) else {
                return
            }
            knowledge(of: member) { $0[group].tell(sa: parameters.key.spi) }
            if let at = revokedAt[member] ?? leftAt[group][member],
                let madeAt = secrets[group].sas[parameters.key.spi]?.madeAt, madeAt > at
            {
                simulation.violate(
                    name, "m\(member) takes in SA \(spiText(parameters.key.spi)), made after its revocation")
            }
        default: break
        }
    }

    private func learn(_ record: Record) {
        let path = record.path
        guard path.count >= 3, path[0] == "group", let group = directory.index(id: path[1]) else { return }
        secrets[group].learn(path[2...], record, at: count)
        if path[2] == "rekey-sa", let spi = secrets[group].current { groups[spi] = group }
        if path[2] == "delivery", let spi = record.read(DeliveryRecord.self)?.rekeySA.spi { groups[spi] = group }
        if path[2] == "member", path.count == 4, let member = Directory.member(path[3]),
            let record = record.read(MemberRecord.self)
        {
            slots[member, default: Array(repeating: 0, count: directory.roles.count)][group] = Int(record.index)
            if record.since > 0, told[member]?[group].isIgnorant ?? true {
                since[member, default: [:]][group] = record.since
            }
        }
    }

    /// All that a profile has: the KEK, and the member's path of the tree. Its SAs come to the data plane.
    private func tell(_ member: Int, _ group: Int) {
        let path = secrets[group].height == nil ? [] : secrets[group].path(of: slots[member]?[group] ?? 0)
        // Not taken in yet.
        guard let path, let kek = secrets[group].current else { return }
        knowledge(of: member) {
            $0[group].tell(kek: kek)
            $0[group].tell(path: path)
        }
    }

    private func knowledge(of member: Int, _ change: (inout [Coalition]) -> Void) {
        change(&told[member, default: directory.roles.indices.map { Coalition(group: Directory.groupID($0)) }])
    }

    /// What was sent just before the command, in the same step, is no profile of afterwards.
    private func profileAfterRevocation(of member: Int, _ event: LogEvent, _ simulation: Simulation) {
        simulation.violate(name, "m\(member) was sent a profile after its revocation")
    }

    // MARK: The attempts

    /// Somebody tells a member the KEKs of today.
    func tellCurrent(_ member: Int) {
        for (group, secrets) in secrets.enumerated() {
            if let kek = secrets.current { knowledge(of: member) { $0[group].tell(kek: kek) } }
        }
    }

    /// Somebody tells a member the root keys of today, and nothing else.
    func tellRoot(_ member: Int) {
        for (group, secrets) in secrets.enumerated() {
            guard let root = secrets.height.map({ NodeID(level: $0, index: 0) }), let key = secrets.tree[root] else {
                continue
            }
            knowledge(of: member) { $0[group].tell(path: [(root, key)]) }
        }
    }

    /// A member of a group passes for one that its next transaction takes in.
    func passForNewcomer(_ member: Int, _ group: Int) {
        since[member, default: [:]][group] = secrets[group].transaction + 1
    }

    func finish(_ simulation: Simulation) {
        for group in directory.roles.indices {
            revoked(group, simulation)
            newcomers(group, simulation)
        }
    }

    /// The pool grows with each revocation; what is made between two of them must stay unknown to the first pool.
    private func revoked(_ group: Int, _ simulation: Simulation) {
        let out = leftAt[group].merging(revokedAt.filter { directory.firstRoles[group][$0.key] != nil }) { min($0, $1) }
        learned(
            by: out.sorted { ($0.value, $0.key) < ($1.value, $1.key) }.map { ($0.key, $0.value) }, group, simulation)
    }

    /// What those who were taken out find together, each added at its time, of what was made afterwards.
    private func learned(by ordered: [(Int, Int)], _ group: Int, _ simulation: Simulation) {
        var pool = Coalition(group: Directory.groupID(group))
        var names: [String] = []
        for (member, at) in ordered {
            if let knowledge = told[member]?[group] { pool.join(knowledge) }
            names.append("m\(member)")
            looks += 1
            pool.conclude(from: recordings[group], secrets[group])
            for push in recordings[group] where push.sentAt > at && pool.keks.contains(push.spi) {
                guard let update = push.update, update.treeSlice == nil else { continue }
                return simulation.violate(
                    name, "\(names), revoked, open a PUSH of transaction \(push.transaction) with keys in the clear")
            }
            if let found = finds(pool, group, where: { madeAt, _ in madeAt > at }) {
                return simulation.violate(name, "\(names), revoked, together find \(found), made afterwards")
            }
        }
    }

    private func newcomers(_ group: Int, _ simulation: Simulation) {
        for (member, transactions) in since.sorted(by: { $0.key < $1.key }) {
            guard let first = transactions[group], var alone = told[member]?[group] else { continue }
            looks += 1
            alone.conclude(from: recordings[group], secrets[group])
            if let found = finds(alone, group, where: { _, transaction in transaction < first }) {
                return simulation.violate(name, "m\(member), taken in by \(first), finds \(found), made before")
            }
        }
    }

    private func finds(_ coalition: Coalition, _ group: Int, where isForbidden: (Int, UInt64) -> Bool) -> String? {
        for spi in coalition.keks {
            guard let kek = secrets[group].keks[spi], isForbidden(kek.madeAt, kek.transaction) else { continue }
            return "the KEK of epoch \(kek.rekeySA.epoch) (transaction \(kek.transaction))"
        }
        for spi in coalition.sas.sorted() {
            guard let sa = secrets[group].sas[spi], isForbidden(sa.madeAt, sa.transaction) else { continue }
            return "SA \(spiText(spi)) of transaction \(sa.transaction)"
        }
        return nil
    }

    // MARK: KEKs

    /// The current one of a group, with another signer's key in it: what a forging member works with.
    func rekeySA(ofGroup group: Int, verifyingKey: [UInt8]) -> RekeySA? {
        guard let spi = secrets[group].current, var rekeySA = secrets[group].keks[spi]?.rekeySA else { return nil }
        rekeySA.verifyingKey = verifyingKey
        return rekeySA
    }
}

extension Coalition {
    /// It was never told anything.
    var isIgnorant: Bool { keks.isEmpty && sas.isEmpty }
}
