// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import Store

/// What a change of the inventory does to VPNs: looked up while it can still be refused, done when it cannot.
struct VPNDraft {
    var removed: [VPNEntry] = []
    var changed: [VPNEntry] = []
    var added: [VPNState] = []
    /// Ends whose profile changes without new keys.
    var profiles: Set<String> = []
    var rekeys: [ApplyReport.Rekey] = []
}

extension KeyServer {
    /// Changes nothing.
    func draft(_ difference: InventoryDifference, now: Instant) throws(CommandError) -> VPNDraft {
        var draft = VPNDraft(removed: difference.removedVPNs, changed: difference.changedVPNs.map(\.entry))
        draft.profiles = Set(draft.removed.flatMap(\.ends))
        for (entry, details) in difference.changedVPNs {
            guard let vpn = vpns[entry.id] else { continue }
            let needsKeys = vpn.generations.last.map { !$0.fits(entry) } ?? true
            if needsKeys { note(entry, after: vpn.transaction, .changed, details, &draft) }
            if details.contains("name") { draft.profiles.formUnion(entry.ends) }
        }
        for entry in difference.addedVPNs {
            do {
                // Its numbers go on behind those that it ever had.
                var vpn = try restoredVPN(entry, records: records, now: now)
                if let known = vpns[entry.id] { vpn.transaction = max(vpn.transaction, known.transaction) }
                (vpn.generations, vpn.changes, vpn.phase) = ([], [], .settled)
                draft.added.append(vpn)
                note(entry, after: vpn.transaction, .established, ["vpn"], &draft)
            } catch let error as StoreError {
                throw .store(error)
            } catch {
                throw .store(.corrupt)
            }
        }
        return draft
    }

    /// A VPN gets its keys when both ends are there.
    private func note(
        _ entry: VPNEntry, after transaction: UInt64, _ reason: RekeyReason, _ causes: [String],
        _ draft: inout VPNDraft
    ) {
        guard entry.ends.allSatisfy({ clients[$0]?.isRevoked == false }), path(of: entry) != nil else { return }
        draft.rekeys.append(
            ApplyReport.Rekey(
                group: entry.name, transaction: transaction + 1, reason: reason, causes: causes, members: 2,
                datagrams: 0, multicastOctets: 0, unicasts: 2))
    }

    func apply(_ draft: VPNDraft, now: Instant) {
        for entry in draft.removed {
            guard var vpn = vpns.removeValue(forKey: entry.id) else { continue }
            for change in vpn.changes { finish(change, of: vpn, now: now) }
            // Its number stays: it may come back.
            (vpn.generations, vpn.changes, vpn.phase) = ([], [], .settled)
            if let value = vpn.octets(clock) {
                unsavedChanges.append(.put(Record(Self.recordName(ofVPN: entry.id), value)))
            }
            log(.warning, "vpn.removed", ["vpn": entry.name])
        }
        for entry in draft.changed { vpns[entry.id]?.entry = entry }
        for vpn in draft.added {
            vpns[vpn.entry.id] = vpn
            store(vpn: vpn.entry.id)
            log(.info, "vpn.added", ["vpn": vpn.entry.name, "ends": vpn.entry.ends.joined(separator: ",")])
        }
        if !draft.removed.isEmpty || !draft.added.isEmpty {
            indexVPNs()
            storeVPNList()
        }
        for id in draft.changed.map(\.id) + draft.added.map(\.entry.id) { drive(vpn: id, now: now) }
    }
}
