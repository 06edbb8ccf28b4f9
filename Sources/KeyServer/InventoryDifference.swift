// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import Cryptography
internal import IKEv1

/// What differs between two entries of one group. Pure; what follows from it is the caller's matter.
struct EntryDifference: Equatable {
    struct Member: Hashable {
        let name: String
        let role: MemberRole
    }
    struct RoleChange: Hashable {
        let name: String
        let from: MemberRole
        let to: MemberRole
    }

    /// In the order of the new entry.
    var added: [Member] = []
    /// Sorted.
    var removed: [String] = []
    /// In the order of the new entry.
    var roles: [RoleChange] = []
    var isRenamed = false
    var isControlChanged = false
    var areFlowsChanged = false
    var isSuiteChanged = false
    /// How members are taken out and in: revocation, or backward secrecy.
    var isMethodChanged = false
    var areLifetimesChanged = false
    var isRolloverChanged = false
    var isPushChanged = false

    /// Their order does not count, neither that of members nor that of flows.
    init(from old: GroupEntry, to new: GroupEntry) {
        let before = Dictionary(old.members.map { ($0.client, $0.role) }) { first, _ in first }
        let after = Set(new.members.map(\.client))
        for (client, role) in new.members {
            guard let former = before[client] else {
                added.append(Member(name: client, role: role))
                continue
            }
            if former != role { roles.append(RoleChange(name: client, from: former, to: role)) }
        }
        removed = before.keys.filter { !after.contains($0) }.sorted()
        isRenamed = old.name != new.name
        isControlChanged = old.control != new.control
        areFlowsChanged = Set(old.flows) != Set(new.flows)
        isSuiteChanged = old.suite != new.suite
        isMethodChanged = old.revocation != new.revocation || old.backwardSecrecy != new.backwardSecrecy
        areLifetimesChanged =
            old.dataLifetime != new.dataLifetime || old.kekLifetime != new.kekLifetime
            || old.dataVolume != new.dataVolume
        isRolloverChanged = old.rollover != new.rollover
        isPushChanged = old.push != new.push
    }

    var isEmpty: Bool { added.isEmpty && removed.isEmpty && roles.isEmpty && details.isEmpty }

    /// What changed beside the members, by the words of the configuration file.
    var details: [String] {
        [
            (isRenamed, "name"), (isControlChanged, "control"), (areFlowsChanged, "flows"), (isSuiteChanged, "suite"),
            (isMethodChanged, "revocation"), (areLifetimesChanged, "lifetime"), (isRolloverChanged, "rollover"),
            (isPushChanged, "push"),
        ].filter(\.0).map(\.1)
    }
}

/// What a client proves itself with and from where.
struct ClientTerms: Equatable {
    var address: IPAddress?
    var range: String?
    var addresses: IPPrefix?
    var preSharedKey: Secret
    var suites: [Phase1Suite]

    /// What is not the same, by the words of the configuration file.
    func details(since old: ClientTerms) -> [String] {
        [
            (address != old.address, "address"), (range != old.range, "range"),
            (addresses != old.addresses && range == old.range, "addresses"),
            (preSharedKey != old.preSharedKey, "key"), (suites != old.suites, "suites"),
        ].filter(\.0).map(\.1)
    }
}

/// What differs between two inventories. Pure.
struct InventoryDifference {
    /// Sorted by name.
    var addedClients: [String] = []
    var removedClients: [String] = []
    var changedClients: [(name: String, details: [String])] = []
    /// In the order of the new inventory.
    var addedGroups: [GroupEntry] = []
    /// In the order of the old one.
    var removedGroups: [GroupEntry] = []
    /// In the order of the new one; groups are the same by their id.
    var changedGroups: [(entry: GroupEntry, difference: EntryDifference)] = []

    /// The same of VPNs, each with its details.
    var addedVPNs: [VPNEntry] = []
    var removedVPNs: [VPNEntry] = []
    var changedVPNs: [(entry: VPNEntry, details: [String])] = []

    init(from old: Inventory, to new: Inventory) {
        let (before, after) = (old.terms, new.terms)
        addedClients = after.keys.filter { before[$0] == nil }.sorted()
        removedClients = before.keys.filter { after[$0] == nil }.sorted()
        for name in after.keys.sorted() {
            guard let former = before[name], let present = after[name], former != present else { continue }
            changedClients.append((name, present.details(since: former)))
        }
        let entries = Dictionary(old.groups.map { ($0.id, $0) }) { first, _ in first }
        let ids = Set(new.groups.map(\.id))
        removedGroups = old.groups.filter { !ids.contains($0.id) }
        for entry in new.groups {
            guard let former = entries[entry.id] else {
                addedGroups.append(entry)
                continue
            }
            let difference = EntryDifference(from: former, to: entry)
            if !difference.isEmpty { changedGroups.append((entry, difference)) }
        }
        compare(old.vpns, new.vpns)
    }

    private mutating func compare(_ old: [VPNEntry], _ new: [VPNEntry]) {
        let before = Dictionary(old.map { ($0.id, $0) }) { first, _ in first }
        let after = Dictionary(new.map { ($0.id, $0) }) { first, _ in first }
        removedVPNs = old.filter { after[$0.id]?.ends != $0.ends }
        for entry in new {
            guard let former = before[entry.id], former.ends == entry.ends else {
                addedVPNs.append(entry)
                continue
            }
            let details = entry.details(since: former)
            if !details.isEmpty { changedVPNs.append((entry, details)) }
        }
    }

    var isEmpty: Bool {
        addedVPNs.isEmpty && removedVPNs.isEmpty && changedVPNs.isEmpty && addedClients.isEmpty
            && removedClients.isEmpty && changedClients.isEmpty && addedGroups.isEmpty
            && removedGroups.isEmpty && changedGroups.isEmpty
    }
}

extension VPNEntry {
    /// What is not the same, by the words of the configuration file.
    func details(since old: VPNEntry) -> [String] {
        [
            (name != old.name, "name"), (flows != old.flows, "flows"), (suite != old.suite, "suite"),
            (extendedSequence != old.extendedSequence, "extended-sequence"),
            (lifetime != old.lifetime || volume != old.volume, "lifetime"), (keepOld != old.keepOld, "rollover"),
        ].filter(\.0).map(\.1)
    }
}

extension Inventory {
    /// What differs in another one; nothing when it wants the same.
    public func changes(to next: Inventory) -> [ApplyReport.Change] {
        KeyServer.changes(of: InventoryDifference(from: self, to: next))
    }

    /// Of every client, declared or in a range, by name.
    var terms: [String: ClientTerms] {
        var terms: [String: ClientTerms] = [:]
        for client in clients {
            terms[client.name] = ClientTerms(
                address: client.address, preSharedKey: client.preSharedKey, suites: client.suites)
        }
        for range in ranges {
            for name in range.members where terms[name] == nil {
                terms[name] = ClientTerms(
                    range: range.name, addresses: range.addresses, preSharedKey: range.preSharedKey,
                    suites: range.suites)
            }
        }
        return terms
    }

    /// What the engine relies on, whoever made this inventory; the reader of the file says more, and where it stands.
    func check(limits: Limits) throws(CommandError) {
        var names: Set<String> = []
        for name in clients.map(\.name) + ranges.flatMap(\.members) where !names.insert(name).inserted {
            throw .badInventory("two clients are called \(name)")
        }
        guard Set(clients.map(\.address)).count == clients.count else {
            throw .badInventory("two clients have the same address")
        }
        let (ids, labels) = (groups.map(\.id) + vpns.map(\.id), groups.map(\.name) + vpns.map(\.name))
        guard Set(ids).count == ids.count, Set(labels).count == labels.count else {
            throw .badInventory("two groups or VPNs have the same name or id")
        }
        for vpn in vpns {
            guard vpn.ends.count == 2, vpn.ends[0] != vpn.ends[1], vpn.ends.allSatisfy(names.contains) else {
                throw .badInventory("VPN \(vpn.name) does not join two clients")
            }
            guard !vpn.flows.isEmpty, vpn.flows.count <= limits.flowsPerVPN else {
                throw .badInventory("VPN \(vpn.name) has no flow, or more than \(limits.flowsPerVPN)")
            }
        }
        var memberships: [String: Int] = [:]
        for vpn in vpns { for end in vpn.ends { memberships[end, default: 0] += vpn.flows.count } }
        for group in groups {
            guard !group.flows.isEmpty, group.flows.count <= GroupEntry.mostFlows(with: group.suite, limits: limits)
            else { throw .tooLarge(group: group.name) }
            guard Set(group.members.map(\.client)).count == group.members.count else {
                throw .badInventory("a client is twice in group \(group.name)")
            }
            for (client, _) in group.members {
                guard names.contains(client) else {
                    throw .badInventory("group \(group.name) has a member \(client), and no client is called so")
                }
                memberships[client, default: 0] += 1
            }
        }
        if let crowded = memberships.filter({ $0.value > limits.groupsPerProfile }).keys.min() {
            throw .badInventory("client \(crowded) is in more than \(limits.groupsPerProfile) groups")
        }
    }
}
