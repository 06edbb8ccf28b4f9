// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import Cryptography
internal import ESP
internal import FMKE

// A VPN at one of its ends. What it sends with, and until when, the GCKS says by profiles (docs/FMKE.md 7.8):
//
//     named, not to be used --> named, to be used --> named, ends in ... --> gone
//          addInbound, addOutbound     activateOutbound          removeInbound, removeOutbound

/// One SA of a VPN, in one direction, in its life at a member.
struct MemberVPNSA {
    let sa: DataSA
    let key: SAKey
    let expiresAt: Instant
    /// Where a profile named it last.
    var rank: VPNRank
    /// When this end sends with it; nil when it does, for the other direction, and until a profile says so.
    var activateAt: Instant?
    var isActive = false
    /// When it is gone, for one that is being replaced.
    var removeAt: Instant?
    /// The data plane refused it.
    var hasFailed = false

    var isOutbound: Bool { sa.direction == .sender }
    var endsAt: Instant { min(expiresAt, removeAt ?? expiresAt) }
}

/// A place in a profile: parts have consecutive sequences, and may come in any order.
struct VPNRank: Comparable {
    let sequence: UInt64
    let position: Int

    static func < (a: VPNRank, b: VPNRank) -> Bool { (a.sequence, a.position) < (b.sequence, b.position) }
}

/// One VPN as a member knows it.
struct MemberVPN {
    let id: UInt32
    var name: String
    var transaction: UInt64
    var peer: VPNSection.Peer?
    /// Oldest first, as profiles name them.
    var sas: [MemberVPNSA] = []
    /// SAs that have gone: to take one in again would start its numbers and its replay window anew.
    private(set) var retired: [SAKey] = []
    /// When to ask for the profile; and when that was done last.
    var askAt: Instant?
    var lastAskedAt: Instant?
    /// The SA, by SPI, that the next report says to replace because it nears a limit.
    var worn: UInt32?

    func sends(_ selector: TrafficSelector) -> Bool {
        sas.contains { $0.isOutbound && $0.sa.selector.overlaps(selector) }
    }

    private static let retiredLimit = 64

    mutating func retire(_ key: SAKey) {
        retired.append(key)
        if retired.count > Self.retiredLimit { retired.removeFirst() }
    }

    /// When a profile is asked for because nothing newer came: shortly before the SAs in use end.
    var refreshAt: Instant? {
        guard let newest = sas.filter({ $0.removeAt == nil }).max(by: { $0.expiresAt < $1.expiresAt }) else {
            return nil
        }
        let due = newest.expiresAt - .seconds(Int64(newest.sa.lifetimeSeconds)) / 10
        guard let lastAskedAt else { return due }
        return max(due, lastAskedAt + .seconds(30))
    }

    func nextDeadline() -> Instant? {
        var deadlines = sas.flatMap { [$0.activateAt, $0.endsAt] }.compactMap { $0 }
        if let askAt { deadlines.append(askAt) }
        if let refreshAt { deadlines.append(refreshAt) }
        return deadlines.min()
    }
}

extension GroupMember {
    /// SAs of one VPN kept at a time: eight generations that follow one another while an end is away.
    private var vpnAssociationsMost: Int { configuration.limits.flowsPerVPN * 16 }
    /// How long SAs that a profile no longer names go on receiving: what was sent before is still on its way.
    private static let vpnGrace: Duration = .seconds(5)

    // MARK: The profile

    /// One VPN of a profile, or a part of one. Idempotent.
    func apply(_ section: VPNSection, in message: Configure, now: Instant) -> [ConfigureAnswer.Item] {
        let (id, sequence) = (section.vpn, message.sequence)
        let first = sequence &- UInt64(message.part)
        guard vpns[id] != nil || groups.count + vpns.count < configuration.limits.groupsPerProfile, groups[id] == nil
        else { return [ConfigureAnswer.Item(group: id, spi: 0, code: .limit)] }
        if vpns[id] == nil {
            vpns[id] = MemberVPN(id: id, name: section.name, transaction: section.transaction)
            log(.info, "vpn.joined", ["vpn": section.name])
        }
        vpns[id]?.name = section.name
        vpns[id]?.transaction = section.transaction
        if let peer = section.peer { vpns[id]?.peer = peer }
        vpns[id]?.askAt = nil
        var items = [ConfigureAnswer.Item(group: id, spi: 0, code: .installed)]
        // An SA that we missed stands in front of those that are named behind it.
        for (position, sa) in section.dataSAs.enumerated() {
            let index = vpns[id]?.sas.firstIndex { $0.sa.spi == sa.spi && $0.sa.direction == sa.direction }
            if let index { vpns[id]?.sas[index].rank = VPNRank(sequence: sequence, position: position) }
        }
        for (position, sa) in section.dataSAs.enumerated() {
            guard let peer = section.peer else { break }
            let rank = VPNRank(sequence: sequence, position: position)
            let code = install(sa, of: id, peer: peer, rank: rank, since: first, now: now)
            items.append(ConfigureAnswer.Item(group: id, spi: sa.spi, code: code))
        }
        ageVPN(id, now: now)
        return items
    }

    private func install(
        _ sa: DataSA, of id: UInt32, peer: VPNSection.Peer, rank: VPNRank, since first: UInt64, now: Instant
    ) -> ConfigureAnswer.Code {
        guard let vpn = vpns[id] else { return .failed }
        let isOutbound = sa.direction == .sender
        let activateAt: Instant? =
            isOutbound && sa.activateInMilliseconds < .max
            ? now + .milliseconds(Int64(sa.activateInMilliseconds)) : nil
        let removeAt = sa.deactivateInMilliseconds.map { now + .milliseconds(Int64($0)) }
        if let index = vpn.sas.firstIndex(where: { $0.sa.spi == sa.spi && $0.isOutbound == isOutbound }) {
            if vpn.sas[index].hasFailed {
                // Another try, as if it were new.
                vpns[id]?.sas.remove(at: index)
            } else {
                if !vpn.sas[index].isActive, let activateAt {
                    vpns[id]?.sas[index].activateAt = min(vpn.sas[index].activateAt ?? activateAt, activateAt)
                }
                if let removeAt { vpns[id]?.sas[index].removeAt = min(vpn.sas[index].removeAt ?? removeAt, removeAt) }
                return .known
            }
        }
        let key = SAKey(
            spi: sa.spi, destination: isOutbound ? peer.address.address : configuration.local.address)
        guard !vpn.retired.contains(key) else { return .known }
        if vpns[id]?.sas.count ?? 0 >= vpnAssociationsMost {
            // Of those that the profile has not named so far, the latest is the likeliest never to have been used.
            let others = vpn.sas.filter { $0.rank.sequence < first && !$0.isActive }
            guard let least = others.max(by: { $0.rank < $1.rank }) else { return .limit }
            removeVPN(id, "limit") { $0.key == least.key }
        }
        guard !isTaken(sa, by: id) else { return .conflict }
        let held = vpns[id]?.sas ?? []
        vpns[id]?.sas.insert(
            MemberVPNSA(
                sa: sa, key: key, expiresAt: now + .seconds(Int64(sa.lifetimeSeconds)), rank: rank,
                activateAt: activateAt, removeAt: removeAt), at: held.firstIndex { $0.rank > rank } ?? held.endIndex)
        let parameters = parameters(sa, key, vpn.name, peer)
        output(.data(isOutbound ? .addOutbound(parameters) : .addInbound(parameters)))
        log(
            .info, "sa.installed",
            [
                "vpn": vpn.name, "spi": spiText(sa.spi), "suite": sa.suite.rawValue, "flow": "\(sa.selector)",
                "direction": isOutbound ? "out" : "in", "peer": "\(peer.address.address)",
            ])
        return .installed
    }

    /// What we send has one SA only; what comes names its SA itself.
    private func isTaken(_ sa: DataSA, by id: UInt32) -> Bool {
        guard sa.direction == .sender else { return false }
        let isOthers = vpns.contains { $0.key != id && $0.value.sends(sa.selector) }
        return isOthers || groups.values.contains { $0.sas.contains { $0.sa.selector.overlaps(sa.selector) } }
    }

    private func parameters(_ sa: DataSA, _ key: SAKey, _ name: String, _ peer: VPNSection.Peer) -> SAParameters {
        let isOutbound = sa.direction == .sender
        var parameters = SAParameters(
            key: key, selector: sa.selector, suite: sa.suite, cipherKey: sa.cipherKey,
            authenticationKey: sa.authenticationKey, source: isOutbound ? configuration.local.address : nil,
            senderID: 0, octetLimit: isOutbound ? sa.lifetimeKilobytes.map { UInt64($0) * 1_024 } : nil, name: name,
            hasOneSender: true, lifetime: .seconds(Int64(sa.lifetimeSeconds)))
        parameters.extendedSequence = sa.extendedSequence
        if peer.isEncapsulated {
            parameters.encapsulation = UDPEncapsulation(
                localPort: configuration.natTraversalPort, remote: peer.address)
        }
        return parameters
    }

    /// A profile is complete. What it names no more of a VPN goes a little later, unless it says to keep that; and a
    /// VPN that it does not name at all goes at once.
    func keepVPNs(named: [UInt32: ProfileGeneration.VPN], now: Instant) {
        for id in vpns.keys.sorted() {
            guard let named = named[id] else {
                leaveVPN(id, why: "not in the profile")
                continue
            }
            guard !named.keepsOthers else { continue }
            for index in vpns[id]?.sas.indices ?? 0..<0 {
                guard let held = vpns[id]?.sas[index], !named.spis.contains(held.sa.spi) else { continue }
                vpns[id]?.sas[index].removeAt = min(held.removeAt ?? .distantFuture, now + Self.vpnGrace)
            }
        }
    }

    // MARK: Time

    /// Sends with what its time has come for, and takes out what is over.
    func ageVPN(_ id: UInt32, now: Instant) {
        guard let vpn = vpns[id] else { return }
        // Of each flow the newest one that is due.
        for index in vpn.sas.indices.reversed() {
            guard let sa = vpns[id]?.sas[index], let due = sa.activateAt, due <= now, sa.endsAt > now else { continue }
            vpns[id]?.sas[index].activateAt = nil
            let others = vpn.sas.indices.filter {
                $0 != index && vpn.sas[$0].isOutbound && vpn.sas[$0].sa.selector == sa.sa.selector
            }
            let isOvertaken = others.contains { $0 > index && vpns[id]?.sas[$0].isActive == true }
            guard !isOvertaken, !sa.hasFailed else { continue }
            output(.data(.activateOutbound(sa.key)))
            vpns[id]?.sas[index].isActive = true
            for other in others { vpns[id]?.sas[other].isActive = false }
            log(.info, "sa.activated", ["vpn": vpn.name, "spi": spiText(sa.key.spi)])
        }
        removeVPN(id, "expired") { $0.expiresAt <= now }
        removeVPN(id, "replaced") { $0.endsAt <= now }
    }

    private func removeVPN(_ id: UInt32, _ reason: String, _ isOver: (MemberVPNSA) -> Bool) {
        guard let vpn = vpns[id] else { return }
        for sa in vpn.sas where isOver(sa) {
            output(.data(sa.isOutbound ? .removeOutbound(sa.key) : .removeInbound(sa.key)))
            vpns[id]?.retire(sa.key)
            log(
                reason == "replaced" ? .info : .warning, "sa.removed",
                ["vpn": vpn.name, "spi": spiText(sa.key.spi), "reason": reason])
        }
        vpns[id]?.sas.removeAll(where: isOver)
    }

    /// Drops a VPN and everything of it.
    func leaveVPN(_ id: UInt32, why: String) {
        removeVPN(id, why) { _ in true }
        guard let vpn = vpns.removeValue(forKey: id) else { return }
        log(.warning, "vpn.left", ["vpn": vpn.name, "reason": why])
    }

    /// Does what is due in VPNs.
    /// - Returns: those for which the profile is to be asked for.
    func advanceVPNs(to now: Instant) -> Set<UInt32> {
        var wanted: Set<UInt32> = []
        for id in vpns.keys.sorted() {
            ageVPN(id, now: now)
            guard vpns[id]?.askAt.map({ $0 <= now }) == true || vpns[id]?.refreshAt.map({ $0 <= now }) == true else {
                continue
            }
            vpns[id]?.askAt = nil
            vpns[id]?.lastAskedAt = now
            wanted.insert(id)
            if vpns[id]?.sas.contains(where: \.hasFailed) == true {
                vpns[id]?.askAt = now + Self.refusedInterval
            }
        }
        return wanted
    }

    // MARK: The data plane

    func vpnFailed(_ key: SAKey, now: Instant) {
        for id in vpns.keys.sorted() {
            guard let index = vpns[id]?.sas.firstIndex(where: { $0.key == key }) else { continue }
            vpns[id]?.sas[index].hasFailed = true
            vpns[id]?.sas[index].isActive = false
            let askAt = vpns[id]?.askAt ?? now + Self.refusedInterval
            vpns[id]?.askAt = askAt
            log(.error, "sa.failed", ["vpn": vpns[id]?.name ?? "", "spi": spiText(key.spi)])
        }
    }

    func vpnWearsOut(_ key: SAKey, now: Instant) {
        for (id, vpn) in vpns.sorted(by: { $0.key < $1.key }) {
            guard vpn.sas.contains(where: { $0.key == key && $0.isActive && $0.removeAt == nil }) else { continue }
            vpns[id]?.worn = key.spi
            report(asking: [], now: now)
        }
    }

    // MARK: Reports

    /// For a STATUS: in the form of a group's, by the VPN's id. Of those alone that ask for something: answers in
    /// groups' slots stay as short as they are.
    func vpnReports(asking wanted: Set<UInt32>) -> [GroupReport] {
        let asking = vpns.values.filter { $0.worn != nil || wanted.contains($0.id) }
        let reports = asking.sorted { $0.id < $1.id }.map { vpn in
            GroupReport(
                group: vpn.id, epoch: 0, complete: vpn.transaction, sequence: 0,
                activeSPIs: vpn.sas.filter(\.isActive).map(\.key.spi), wantsProfile: wanted.contains(vpn.id),
                wantsRekey: vpn.worn != nil)
        }
        for id in vpns.keys { vpns[id]?.worn = nil }
        return reports
    }

    func vpnSnapshots(now: Instant) -> (vpns: [MemberSnapshot.VPN], sas: [MemberSnapshot.SA]) {
        let ordered = vpns.values.sorted { $0.name < $1.name }
        let list = ordered.map { vpn in
            let hasIn = vpn.sas.contains { !$0.isOutbound && !$0.hasFailed }
            let hasOut = vpn.sas.contains(where: \.isActive)
            return MemberSnapshot.VPN(
                name: vpn.name, id: vpn.id, peer: vpn.peer.map { "\($0.address.address)" },
                encapsulation: vpn.peer.flatMap { $0.isEncapsulated ? "\($0.address)" : nil },
                state: hasIn && hasOut ? "up" : hasIn || hasOut ? "half" : "down", transaction: vpn.transaction)
        }
        let sas = ordered.flatMap { vpn in
            vpn.sas.map { sa in
                MemberSnapshot.SA(
                    group: vpn.name, spi: spiText(sa.key.spi), flow: sa.sa.selector.description,
                    suite: sa.sa.suite.rawValue, direction: sa.isOutbound ? "out" : "in", isActive: sa.isActive,
                    transaction: vpn.transaction, expiresInSeconds: (sa.endsAt - now).inSeconds)
            }
        }
        return (list, sas)
    }
}
