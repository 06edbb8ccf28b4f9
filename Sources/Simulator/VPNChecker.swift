// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import ESP
internal import KeyServer

/// (f) for VPNs: whenever an end sends with an SA, the other end, if it is up and authorised, holds it; every change
/// ends in a verdict in time; and when the faults are over, both ends of each VPN send with an SA for each of its
/// flows, and one more change reaches both.
///
/// An end's SA may be missing at the other one in exactly these cases:
///
/// - The other end started anew after the SA was made: what it had is gone with its memory.
/// - The SA's lifetime has ended: the GCKS was away for too long.
/// - The other end's data plane refused it after all (it said that it works again, and refused again).
/// - An end was out of the operator's file since it was made, and the VPN with it: one end loses it before the other.
final class VPNChecker: Checker {
    let name = "f: the ends of a VPN share their SAs"
    /// Both requests of a change, each repeated to the end, and some more.
    private static let verdictTime: Duration = .seconds(100)

    private let vpns: [VPNEntry]
    private let names: Set<String>
    /// When an SA was first seen anywhere.
    private var born: [UInt32: Instant] = [:]
    private var expired: Set<String> = []
    private var refused: [Int: Set<UInt32>] = [:]
    private var lifeBegan: [Int: Instant] = [:]
    private var open: [String: [UInt64: Instant]] = [:]
    private var isChanged = false
    /// VPNs that are not in the operator's file, and since when others are again.
    private var out: Set<String> = []
    private var backAt: [String: Instant] = [:]
    private(set) var looks = 0

    init(_ scenario: Scenario) {
        vpns = Directory.vpns(scenario)
        names = Set(vpns.map(\.name))
    }

    func observe(_ observation: Observation, in simulation: Simulation) {
        guard !vpns.isEmpty else { return }
        switch observation {
        case .memberStarted(let member):
            (lifeBegan[member], refused[member]) = (simulation.now, [])
            isChanged = true
        case .memberStopped: isChanged = true
        case .groupsChanged:
            let now = Set(vpns.filter { $0.ends.contains { simulation.directory.isAbsent($0) } }.map(\.name))
            for name in out.subtracting(now) { backAt[name] = simulation.now }
            out = now
        case .dataRefused(let member, let key): refused[member, default: []].insert(key.spi)
        case .memberLogged(_, let event) where event.name == "sa.removed" && event["reason"] == "expired":
            if let spi = event["spi"] { expired.insert(spi) }
        case .dataChanged(_, let change):
            switch change {
            case .addInbound(let parameters), .addOutbound(let parameters):
                if born[parameters.key.spi] == nil { born[parameters.key.spi] = simulation.now }
            default: break
            }
            isChanged = true
        case .serverLogged(let event) where event.name == "vpn.rekey-started":
            guard let vpn = event["vpn"], let transaction = event["transaction"].flatMap(UInt64.init) else { return }
            open[vpn, default: [:]][transaction] = simulation.now
            simulation.queue.schedule(.check, at: simulation.now + Self.verdictTime + .seconds(1))
        case .serverStopped: open = [:]
        case .ended(let report) where report.isVPN: ended(report, simulation)
        case .stepDone:
            overdue(simulation)
            if isChanged { checkAll(simulation) }
            isChanged = false
        default: break
        }
    }

    private func ended(_ report: VerdictReport, _ simulation: Simulation) {
        looks += 1
        open[report.group]?[report.transaction] = nil
        let named = (report.confirmed.map(\.client) + report.unconfirmed.map(\.client)).sorted()
        let ends = vpns.first { $0.name == report.group }?.ends.sorted() ?? []
        let isRight = report.reason == .revocation ? named.count == 1 && ends.contains(named[0]) : named == ends
        guard isRight, report.absent.isEmpty else {
            return simulation.violate(
                name, "the verdict on \(report.transaction) of \(report.group) names \(named), its ends are \(ends)")
        }
    }

    private func overdue(_ simulation: Simulation) {
        for (vpn, transactions) in open.sorted(by: { $0.key < $1.key }) {
            for (transaction, at) in transactions.sorted(by: { $0.key < $1.key })
            where simulation.now - at > Self.verdictTime {
                return simulation.violate(name, "no verdict on transaction \(transaction) of \(vpn)")
            }
        }
    }

    private func checkAll(_ simulation: Simulation) {
        for sender in simulation.members where sender.engine != nil && !sender.isRevoked {
            for (flow, key) in sender.active.sorted(by: { $0.key < $1.key }) {
                guard let parameters = sender.outbound[key], names.contains(parameters.name),
                    !expired.contains(spiText(key.spi)),
                    let peer = peer(of: sender, parameters.name, simulation), peer.engine != nil, !peer.isRevoked,
                    refused[peer.number]?.contains(key.spi) != true
                else { continue }
                looks += 1
                guard let madeAt = born[key.spi], madeAt >= lifeBegan[peer.number] ?? .zero,
                    !out.contains(parameters.name), backAt[parameters.name].map({ madeAt > $0 }) ?? true,
                    !peer.inbound.keys.contains(where: { $0.spi == key.spi })
                else { continue }
                return simulation.violate(
                    name, "\(sender.name) sends \(flow) with SA \(spiText(key.spi)), which \(peer.name) does not hold")
            }
        }
    }

    private func peer(of station: MemberStation, _ vpn: String, _ simulation: Simulation) -> MemberStation? {
        let other = vpns.first { $0.name == vpn }?.ends.first { $0 != station.name }
        return other.flatMap(Directory.member).map { simulation.members[$0] }
    }

    /// In words, when the faults are over: what is missing.
    static func whatIsMissing(_ simulation: Simulation) -> [String] {
        var missing: [String] = []
        for vpn in Directory.vpns(simulation.scenario) {
            let ends = vpn.ends.compactMap(Directory.member).map { simulation.members[$0] }
            let isDead = ends.contains { $0.isRevoked || simulation.server.removed.contains($0.number) }
            for (end, selectors) in zip(ends, [vpn.flows, vpn.flows.map(\.mirrored)]) where !end.isRevoked {
                let active = end.active.values.compactMap { end.outbound[$0] }.filter { $0.name == vpn.name }
                if isDead, !active.isEmpty { missing.append("\(end.name) still sends by \(vpn.name)") }
                if isDead, end.inbound.values.contains(where: { $0.name == vpn.name }) {
                    missing.append("\(end.name) still receives by \(vpn.name)")
                }
                if !isDead, Set(active.map(\.selector)) != Set(selectors) {
                    missing.append("\(end.name) does not send by \(vpn.name)")
                }
            }
            let state = simulation.server.engine?.snapshot(now: simulation.now).vpns.first { $0.name == vpn.name }
            // The last step has no verdict, but takes its time on a slow link.
            let pending = simulation.server.engine?.snapshot(now: simulation.now).clients.filter {
                vpn.ends.contains($0.name) && $0.pendingConfigures > 0
            }
            if !isDead, let name = pending?.first?.name { missing.append("\(name) has not answered its profile") }
            if !isDead, state?.openTransactions.isEmpty != true { missing.append("\(vpn.name) is being changed") }
        }
        return missing
    }
}
