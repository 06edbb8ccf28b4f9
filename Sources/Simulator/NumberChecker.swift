// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import Cryptography
internal import ESP
internal import FMKE
internal import KeyServer
internal import Store

/// (c) The numbers of the GCKS never go back, not across restarts either, so no (KEK, nonce) pair repeats; and no two
/// counters start under one (data key, sender id) pair.
final class NumberChecker: Checker {
    let name = "c: numbers and nonces"

    private struct Counter: Hashable {
        var key: [UInt8]
        var senderID: UInt16
    }
    private let directory: Directory
    private var groups: [RekeySPI: Int] = [:]
    private var keys: [[UInt8]: String] = [:]
    private var sequences: [Int: UInt64] = [:]
    /// By record name.
    private var numbers: [String: UInt64] = [:]
    private var profiles: [Int: UInt64] = [:]
    /// Which installation of an SA counts under a pair.
    private var counters: [Counter: UInt64] = [:]
    private var installations: [Int: [SAKey: UInt64]] = [:]
    private var installationCount: UInt64 = 0
    private(set) var looks = 0

    init(_ directory: Directory) { self.directory = directory }

    func observe(_ observation: Observation, in simulation: Simulation) {
        switch observation {
        case .serverPersisted(let record): check(record, simulation)
        case .pushSent(let spi, let sequence, _):
            guard let group = groups[spi] else { return }
            guard sequence > sequences[group] ?? 0 else {
                return simulation.violate(
                    name, "PUSH \(sequence) of g\(group) follows \(sequences[group] ?? 0)")
            }
            sequences[group] = sequence
        case .memberPersisted(let member, let record) where record.name == "profile/sequence":
            // Parts of one profile that come out of order leave the greatest.
            guard let number = record.number, number >= profiles[member] ?? 0 else {
                return simulation.violate(name, "m\(member) acted on a profile sequence that went back")
            }
            profiles[member] = number
        case .memberStarted(let member): installations[member] = [:]
        case .dataChanged(let member, let change): count(change, member, simulation)
        default: break
        }
    }

    private func check(_ record: Record, _ simulation: Simulation) {
        let path = record.path
        if path.count == 3, path[0] == "client", path[2] == "sequence" {
            return grows(record, strictly: true, simulation)
        }
        guard path.count >= 3, path[0] == "group", let group = directory.index(id: path[1]) else { return }
        switch path[2] {
        case "epoch": grows(record, strictly: false, simulation)
        case "transaction", "sequence": grows(record, strictly: true, simulation)
        case "rekey-sa":
            guard let rekeySA = record.read(RekeySARecord.self)?.rekeySA else { return }
            groups[rekeySA.spi] = group
            let place = "\(path[1]) \(rekeySA.spi)"
            if keys.updateValue(place, forKey: rekeySA.kek.revealed()).map({ $0 != place }) ?? false {
                simulation.violate(name, "a KEK of g\(group) was used before")
            }
        case "sa":
            guard let sa = record.read(DataSARecord.self)?.sa else { return }
            if keys.updateValue(record.name, forKey: sa.keyOctets).map({ $0 != record.name }) ?? false {
                simulation.violate(name, "a data key of g\(group) was used before")
            }
        default: break
        }
    }

    private func grows(_ record: Record, strictly: Bool, _ simulation: Simulation) {
        guard let number = record.number else { return }
        looks += 1
        let last = numbers[record.name] ?? 0
        if number < last || (strictly && number == last) {
            simulation.violate(name, "\(record.name) goes from \(last) to \(number)")
        }
        numbers[record.name] = number
    }

    private func count(_ change: SAChange, _ member: Int, _ simulation: Simulation) {
        switch change {
        case .addOutbound(let parameters):
            installationCount += 1
            installations[member, default: [:]][parameters.key] = installationCount
        case .activateOutbound(let key):
            guard let parameters = simulation.members[member].outbound[key], parameters.suite.isAEAD,
                let installation = installations[member]?[key]
            else { return }
            let counter = Counter(key: parameters.cipherKey.revealed(), senderID: parameters.senderID)
            let first = counters.updateValue(installation, forKey: counter) ?? installation
            if first != installation {
                simulation.violate(
                    name,
                    "m\(member) starts a second counter under SA \(spiText(key.spi)) and sender id "
                        + "\(parameters.senderID)")
            }
        default: break
        }
    }
}

extension DataSA {
    /// All its keys.
    var keyOctets: [UInt8] { cipherKey.revealed() + (authenticationKey?.revealed() ?? []) }
}
