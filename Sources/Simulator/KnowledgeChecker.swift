// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import Cryptography
internal import FMKE
internal import KeyServer
internal import Store

/// (d) A revoked member that recorded everything on the link and kept all it ever knew opens no PUSH sent after its
/// revocation and learns no data SA made after it. At the end of a run its attempt is made, with the real ciphers.
final class KnowledgeChecker: Checker {
    let name = "d: what a revoked member knows"

    private struct KEK {
        var group: Int
        var epoch: UInt32
        var key: Secret
    }
    private struct Recording {
        var at: Instant
        var spi: RekeySPI
        var bytes: [UInt8]
    }
    private let directory: Directory
    private var keks: [RekeySPI: KEK] = [:]
    private var current: [Int: RekeySPI] = [:]
    private var epochs: [Int: UInt32] = [:]
    private var madeAt: [UInt32: Instant] = [:]
    /// KEKs that were sent to a member in its profiles.
    private var told: [Int: Set<RekeySPI>] = [:]
    private var revokedAt: [Int: Instant] = [:]
    private var recording: [Recording] = []

    init(_ directory: Directory) { self.directory = directory }

    func observe(_ observation: Observation, in simulation: Simulation) {
        switch observation {
        case .serverPersisted(let record): learn(record, simulation)
        case .pushSent(let spi, _, let bytes):
            recording.append(Recording(at: simulation.now, spi: spi, bytes: bytes))
        case .revoked(let member): revokedAt[member] = simulation.now
        case .serverLogged(let event) where event.name == "configure.sent":
            guard let member = event["client"].flatMap(Directory.member) else { return }
            // What was sent just before the command, in the same step, is no profile of afterwards.
            if let at = revokedAt[member], simulation.now > at {
                return simulation.violate(name, "m\(member) was sent a profile after its revocation")
            }
            for (group, spi) in current where directory.roles[group][member] != nil {
                told[member, default: []].insert(spi)
            }
        default: break
        }
    }

    private func learn(_ record: Record, _ simulation: Simulation) {
        let path = record.path
        guard path.count >= 3, path[0] == "group", let group = directory.index(id: path[1]) else { return }
        switch path[2] {
        case "epoch": epochs[group] = record.number.map { UInt32(truncatingIfNeeded: $0 - 1) }
        case "rekey-sa":
            var reader = OctetReader(record.value.revealed())
            guard let high = try? reader.u64(), let low = try? reader.u64(), let epoch = epochs[group] else { return }
            let spi = RekeySPI(high: high, low: low)
            keks[spi] = KEK(group: group, epoch: epoch, key: Secret(reader.remainder()))
            current[group] = spi
        case "sa" where path.count == 4:
            guard let spi = UInt32(path[3].dropFirst(2), radix: 16) else { return }
            if madeAt[spi] == nil { madeAt[spi] = simulation.now }
        default: break
        }
    }

    func finish(_ simulation: Simulation) {
        for (member, at) in revokedAt.sorted(by: { $0.key < $1.key }) {
            var known = told[member] ?? []
            var openers: [RekeySPI: PushOpener] = [:]
            for push in recording {
                guard known.contains(push.spi), let opener = openers[push.spi] ?? opener(push.spi, simulation) else {
                    continue
                }
                openers[push.spi] = opener
                guard let opened = try? opener.open(push.bytes) else { continue }
                if push.at > at {
                    return simulation.violate(
                        name,
                        "m\(member), revoked at \((at - .zero).secondsText), opens a PUSH (\(opened.header.kind), "
                            + "transaction \(opened.header.transaction)) sent at \((push.at - .zero).secondsText)")
                }
                guard let update = update(in: opened) else { continue }
                if let rekeySA = update.rekeySA { known.insert(rekeySA.spi) }
                for sa in update.dataSAs where madeAt[sa.spi].map({ $0 > at }) ?? false {
                    return simulation.violate(
                        name, "m\(member) learns SA \(spiText(sa.spi)), made after its revocation")
                }
            }
        }
    }

    private func update(in push: Push) -> KeyUpdate? {
        switch push.header.kind {
        case .data: try? KeyUpdate(body: push.body)
        case .parity: (try? Shard.body(from: push.body)).flatMap { try? KeyUpdate(body: $0) }
        case .beacon, .commit: nil
        }
    }

    private func opener(_ spi: RekeySPI, _ simulation: Simulation) -> PushOpener? {
        guard let kek = keks[spi] else { return nil }
        let rekeySA = rekeySA(spi, kek, verifyingKey: simulation.signingKey.publicKey)
        return try? PushOpener(group: Directory.groupID(kek.group), rekeySA: rekeySA)
    }

    private func rekeySA(_ spi: RekeySPI, _ kek: KEK, verifyingKey: [UInt8]) -> RekeySA {
        RekeySA(
            spi: spi, source: ServerStation.address, control: directory.policies[kek.group].control, epoch: kek.epoch,
            lifetimeSeconds: 1, signatureAlgorithm: .ed25519, verifyingKey: verifyingKey, kek: kek.key)
    }

    /// The current one of a group, with another signer's key in it: what a forging member works with.
    func rekeySA(ofGroup group: Int, verifyingKey: [UInt8]) -> RekeySA? {
        guard let spi = current[group], let kek = keks[spi] else { return nil }
        return rekeySA(spi, kek, verifyingKey: verifyingKey)
    }
}
