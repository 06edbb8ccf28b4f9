// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import FMKE
internal import IKEv1
internal import KeyServer
internal import Store

/// (g) A start of the GCKS with a live store costs nobody anything: every client whose ISAKMP SA the store has, and has
/// not ended of age, is registered at once; every data SA that lives is there, no group falls back to an earlier
/// transaction or epoch, or begins anew; no client is locked out that nobody revoked, and where there are no other
/// faults none loses its ISAKMP SA. That transactions under way get their verdict is (a)'s, that senders are heard all
/// the time (f)'s.
final class RestartChecker: Checker {
    let name = "g: restarts"
    /// So many transactions may be due in the instant of a start.
    private static let dueMost: UInt64 = 2

    private let directory: Directory
    /// By client, until when its ISAKMP SA lasts; by group, its data SAs and until when each lives.
    private var registered: [String: Instant] = [:]
    private var sas: [Int: [String: Instant]] = [:]
    private var epochs: [Int: UInt64] = [:]
    private var transactions: [Int: UInt64] = [:]
    private var revoked: Set<Int> = []
    private(set) var looks = 0

    init(_ directory: Directory) { self.directory = directory }

    func observe(_ observation: Observation, in simulation: Simulation) {
        switch observation {
        case .serverPersisted(let record): learn(record, simulation)
        case .serverForgot(let name): forget(name.split(separator: "/"))
        case .storeLost: (registered, sas, epochs, transactions) = ([:], [:], [:], [:])
        case .serverStarted: check(simulation)
        case .revoked(let member): revoked.insert(member)
        case .memberLogged(let member, let event) where event.name == "gcks.lost":
            guard !revoked.contains(member), !simulation.server.removed.contains(member) else { return }
            guard simulation.scenario.script.isEmpty else {
                return simulation.violate(name, "m\(member) has to register anew: \(event["reason"] ?? "")")
            }
            guard event["reason"] == AssociationEnd.peerDeleted.explanation, isLockedOut(member, simulation)
            else { return }
            simulation.violate(name, "the GCKS ends the ISAKMP SA of m\(member)")
        default: break
        }
    }

    private func learn(_ record: Record, _ simulation: Simulation) {
        let path = record.path
        let clock = simulation.recordClock
        if path.count == 3, path[0] == "client", path[2] == "state" {
            let state = try? ClientRecord(name: record.name, octets: record.value, clock)
            registered[String(path[1])] = state?.association?.expiresAt
        }
        guard path.count >= 3, path[0] == "group", let group = directory.index(id: path[1]) else { return }
        switch path[2] {
        case "epoch": epochs[group] = record.number
        case "transaction": transactions[group] = record.number
        case "sa":
            guard let sa = try? DataSARecord(name: record.name, octets: record.value, clock) else { return }
            sas[group, default: [:]][spiText(sa.sa.spi)] = min(sa.expiresAt, sa.removeAt ?? sa.expiresAt)
        default: break
        }
    }

    private func forget(_ path: [Substring]) {
        if path.count == 3, path[0] == "client", path[2] == "state" { registered[String(path[1])] = nil }
        guard path.count == 4, path[0] == "group", let group = directory.index(id: path[1]) else { return }
        if path[2] == "sa" { sas[group]?[String(path[3])] = nil }
    }

    /// One whose ISAKMP SA was replaced, or that did not answer, is told so as well.
    private func isLockedOut(_ member: Int, _ simulation: Simulation) -> Bool {
        let clients = simulation.server.engine?.snapshot(now: simulation.now).clients
        return clients?.contains { $0.name == "m\(member)" && $0.state == "revoked" } ?? false
    }

    private func check(_ simulation: Simulation) {
        guard let snapshot = simulation.server.engine?.snapshot(now: simulation.now) else { return }
        for client in snapshot.clients where client.state == "absent" {
            guard let end = registered[client.name], end > simulation.now + SharedSAChecker.clockTolerance else {
                continue
            }
            return simulation.violate(name, "\(client.name) is not registered after a restart of the GCKS")
        }
        looks += registered.count
        for group in snapshot.groups {
            guard let index = directory.index(name: group.name) else { continue }
            let present = Set(snapshot.sas.filter { $0.group == group.name }.map(\.spi))
            for (spi, end) in sas[index] ?? [:] {
                guard end > simulation.now + SharedSAChecker.clockTolerance, !present.contains(spi) else { continue }
                return simulation.violate(name, "SA \(spi) of \(group.name) is lost by a restart of the GCKS")
            }
            looks += present.count
            guard UInt64(group.epoch) + 1 >= epochs[index] ?? 0, group.transaction + 1 >= transactions[index] ?? 0
            else {
                return simulation.violate(name, "\(group.name) falls back to \(group.transaction)")
            }
            guard group.transaction <= transactions[index].map({ $0 + Self.dueMost }) ?? .max else {
                return simulation.violate(name, "\(group.name) begins anew with \(group.transaction)")
            }
        }
    }
}
