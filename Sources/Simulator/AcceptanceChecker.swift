// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import Cryptography
internal import FMKE
internal import KeyServer
internal import Store

/// (b) No member accepts a PUSH that the GCKS did not send, or twice, or of another group, or with a sequence at or
/// below its floor.
final class AcceptanceChecker: Checker {
    let name = "b: accepted PUSHes"

    private let directory: Directory
    private var groups: [RekeySPI: Int] = [:]
    private var sent: [Int: [UInt64: [UInt8]]] = [:]
    /// Last sequence of each group at the server.
    private var state: [Int: UInt64]
    /// What each profile of the present server said, by member, in the order of generations.
    private var profiles: [Int: [[Int: UInt64]]] = [:]
    private var floors: [Int: [Int: UInt64]] = [:]
    private var accepted: [Int: [Int: Set<UInt64>]] = [:]
    private(set) var looks = 0

    init(_ directory: Directory) {
        self.directory = directory
        state = Dictionary(uniqueKeysWithValues: directory.roles.indices.map { ($0, 0) })
    }

    func observe(_ observation: Observation, in simulation: Simulation) {
        switch observation {
        case .serverPersisted(let record): learn(record)
        case .pushSent(let spi, let sequence, let bytes):
            guard let group = groups[spi] else {
                return simulation.violate(name, "a PUSH under an SPI that no record names")
            }
            sent[group, default: [:]][sequence] = bytes
            state[group] = sequence
        case .serverStopped: profiles = [:]
        case .serverLogged(let event) where event.name == "configure.sent" || event.name == "configure.failed":
            guard let member = event["client"].flatMap(Directory.member) else { return }
            profiles[member, default: []].append(state)
        case .memberStarted(let member): (floors[member], accepted[member]) = ([:], [:])
        case .memberLogged(let member, let event) where event.name == "configure.received":
            guard let generation = event["generation"].flatMap({ Int($0) }), let names = event["groups"] else { return }
            raiseFloors(of: member, generation: generation, groups: names)
        case .memberPersisted(let member, let record): accept(record, by: member, simulation)
        default: break
        }
    }

    private func learn(_ record: Record) {
        let path = record.path
        guard path.count >= 3, path[0] == "group", let group = directory.index(id: path[1]) else { return }
        switch path[2] {
        case "rekey-sa": if let spi = record.read(RekeySARecord.self)?.rekeySA.spi { groups[spi] = group }
        // Of two changes by one input, the first one's KEK stands nowhere else.
        case "delivery": if let spi = record.read(DeliveryRecord.self)?.rekeySA.spi { groups[spi] = group }
        default: break
        }
    }

    private func raiseFloors(of member: Int, generation: Int, groups names: String) {
        guard let said = profiles[member], said.indices.contains(generation - 1) else { return }
        for name in names.split(separator: ",") {
            guard let group = directory.index(name: String(name)), let new = said[generation - 1][group] else {
                continue
            }
            let old = floors[member]?[group] ?? 0
            floors[member]?[group] = max(old, new)
        }
    }

    private func accept(_ record: Record, by member: Int, _ simulation: Simulation) {
        let path = record.path
        guard path.count == 3, path[2] == "accepted", let sequence = record.number else { return }
        looks += 1
        guard let group = directory.index(id: path[1]), directory.firstRoles[group][member] != nil else {
            return simulation.violate(name, "m\(member) accepted a PUSH of a group that is not its own")
        }
        guard let delivered = simulation.delivered, sent[group]?[sequence] == delivered.bytes else {
            return simulation.violate(name, "m\(member) accepted PUSH \(sequence), which the GCKS did not send so")
        }
        guard accepted[member, default: [:]][group, default: []].insert(sequence).inserted else {
            return simulation.violate(name, "m\(member) accepted PUSH \(sequence) twice")
        }
        if let floor = floors[member]?[group], sequence <= floor {
            simulation.violate(name, "m\(member) accepted PUSH \(sequence), its floor is \(floor)")
        }
    }
}
