// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import Cryptography
internal import Store

/// VPNs that come, go and change while the server runs, and between its runs.
extension KeyServer {
    func applyVPNs(_ difference: InventoryDifference, now: Instant) {
        let kept = vpns.values.map(\.entry.id)
        for entry in difference.removedVPNs {
            guard let vpn = vpns.removeValue(forKey: entry.id) else { continue }
            for change in vpn.changes { finish(change, of: vpn, now: now) }
            outputs.append(.persist([.remove(Self.recordName(ofVPN: entry.id))]))
            unprofiled.formUnion(vpn.entry.ends)
            log(.warning, "vpn.removed", ["vpn": entry.name])
        }
        for (entry, _) in difference.changedVPNs {
            guard let vpn = vpns[entry.id] else { continue }
            vpns[entry.id]?.entry = entry
            guard entry.ends != vpn.entry.ends else { continue }
            // Other ends: nothing of what was is theirs.
            for change in vpn.changes { finish(change, of: vpn, now: now) }
            vpns[entry.id] = VPNState(entry: entry, transaction: vpn.transaction)
            unprofiled.formUnion(vpn.entry.ends)
            store(vpn: entry.id)
        }
        for entry in difference.addedVPNs {
            let first = max(clock.microseconds(now), configuration.numberFloor)
            vpns[entry.id] = VPNState(entry: entry, transaction: first)
            log(.info, "vpn.added", ["vpn": entry.name])
        }
        indexVPNs()
        if Set(kept) != Set(vpns.keys) { storeVPNList() }
        for id in vpns.keys.sorted() { drive(vpn: id, now: now) }
    }

    func indexVPNs() {
        vpnsOf = [:]
        for vpn in vpns.values.sorted(by: { $0.entry.id < $1.entry.id }) {
            for name in vpn.entry.ends { vpnsOf[name, default: []].append(vpn.entry.id) }
        }
    }

    /// Drops the records of VPNs that an earlier run had and this one has not: their ends lose the SAs, and if such a
    /// VPN came back with them, their counters would start anew.
    func forgetFormerVPNs(_ records: any RecordStore) throws {
        let value = try records.value(of: Self.vpnListName)?.revealed() ?? []
        var reader = OctetReader(value)
        var former: Set<UInt32> = []
        do {
            while !reader.isEmpty { former.insert(try reader.u32()) }
        } catch {
            throw UnreadableRecord(name: Self.vpnListName)
        }
        let gone = former.subtracting(vpns.keys).sorted()
        if !gone.isEmpty { outputs.append(.persist(gone.map { .remove(Self.recordName(ofVPN: $0)) })) }
        if former != Set(vpns.keys) { storeVPNList() }
    }

    private func storeVPNList() {
        var writer = OctetWriter()
        for id in vpns.keys.sorted() { writer.u32(id) }
        outputs.append(.persist([.put(Record(Self.vpnListName, Secret(writer.bytes)))]))
    }

    private static let vpnListName = "vpns"

    static func recordName(ofVPN id: UInt32) -> String { "vpn/\(id)/state" }
}

extension VPNEntry {
    /// What is not the same, by the words of the configuration file.
    func details(since old: VPNEntry) -> [String] {
        [
            (name != old.name, "name"), (ends != old.ends, "ends"), (flows != old.flows, "flows"),
            (suite != old.suite, "suite"), (extendedSequence != old.extendedSequence, "extended-sequence"),
            (lifetime != old.lifetime || volume != old.volume, "lifetime"), (keepOld != old.keepOld, "rollover"),
        ].filter(\.0).map(\.1)
    }
}
