// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import Cryptography
internal import FMKE
internal import KeyTree
internal import ReliablePush
internal import Store

/// How the keys of a transaction get to the members.
struct Delivery {
    /// None: every member gets its profile by unicast.
    var parts: [PushPart] = []
    var isMasked = false
    /// The new keys, where they follow from the tree's group key: they take the place of those that were drawn.
    var derived: DerivedKeys?
}

/// What a transaction tells the members, and by which way (docs/FMKE.md 7.6).
extension KeyServer {
    /// Takes in and out who waits for it. Nothing of the group has changed when this throws.
    func delivery(
        of transaction: UInt64, in group: inout GroupState, made: [DataSA], rekeySA: RekeySA?, reason: RekeyReason,
        now: Instant
    ) throws(CommandError) -> Delivery {
        guard let tree = group.tree, tree.hasChanges else {
            // Flat revocation: the removed member knows the old KEK, so the others are served one by one. With a tree
            // that does not change, it never had any keys.
            if group.tree == nil, reason == .revocation { return Delivery() }
            let missed = missed(by: group, now: now).map(\.sa)
            return try inTheClear(group, missed: missed, made: made, rekeySA: rekeySA)
        }
        let missed = missed(by: group, now: now)
        // Keys wrapped by a mask cannot fail to be, and the number is new: nothing else makes a commit throw.
        guard let change = try? tree.commit(transaction: transaction) else { throw .cryptography }
        var delivery = Delivery()
        unsavedChanges += treeChanges(change.changed, tree, group.entry.id)
        for slot in change.joined {
            guard let name = group.names[slot], group.members[name] != nil else { continue }
            group.members[name]?.since = transaction
            group.newcomers.append(name)
            log(
                .info, "tree.joined",
                ["group": group.entry.name, "client": name, "transaction": "\(transaction)"])
        }
        // When nobody is left who was there before, unicast reaches all there are.
        guard let update = change.update else { return delivery }
        delivery.derived = derivedKeys(update, tree, of: group, made: made, rekeySA: rekeySA)
        // Who lacks what came with the change of the tree before this one cannot follow this one either.
        let useful = missed.filter { $0.transaction > update.previous }.map(\.sa)
        if let derived = delivery.derived {
            delivery.parts = masked(
                update, tree, group, missed: useful, made: derived.dataSAs, succession: derived.succession)
        } else {
            delivery.parts = masked(update, tree, group, missed: useful, made: made, rekeySA: rekeySA)
        }
        delivery.isMasked = !delivery.parts.isEmpty
        if delivery.isMasked {
            let octets = delivery.parts.reduce(0) { $0 + $1.body.count }
            group.treeUpdate = (transaction, octets, delivery.parts.count)
        }
        return delivery
    }

    // MARK: Bodies

    private var bodyLimit: Int {
        PushEnvelope.bodySizeLimit(configuration.signingKey.algorithm, limits: configuration.limits)
    }

    /// Under the old KEK alone, whose holders all may have the new keys.
    private func inTheClear(
        _ group: GroupState, missed: [DataSA], made: [DataSA], rekeySA: RekeySA?
    ) throws(CommandError) -> Delivery {
        var carried = missed.suffix(max(configuration.limits.dataAssociationsPerGroup - made.count, 0))
        while true {
            let body: [UInt8]
            do throws(FMKEError) {
                body = try content(group, Array(carried), made, rekeySA).body(limits: configuration.limits)
            } catch {
                throw error == .tooLong || error == .limit ? .tooLarge(group: group.entry.name) : .cryptography
            }
            if body.count <= bodyLimit {
                sayCrowded(group, group.transaction + 1, missed, carried)
                return Delivery(parts: [PushPart(body: body, members: 0...group.nextIndex)])
            }
            guard !carried.isEmpty else { throw .tooLarge(group: group.entry.name) }
            carried.removeFirst()
        }
    }

    /// Under the old KEK, which a removed member knows, with every key under its mask, or none where all new ones
    /// follow from the group key. No parts when a part of the update does not fit beside the keys: then unicast has to
    /// do.
    private func masked(
        _ update: Update, _ tree: KeyTreeServer, _ group: GroupState, missed: [DataSA], made: [DataSA],
        rekeySA: RekeySA? = nil, succession: Succession? = nil
    ) -> [PushPart] {
        var carried = missed.suffix(max(configuration.limits.dataAssociationsPerGroup - made.count, 0))
        func content(_ carried: ArraySlice<DataSA>) -> KeyUpdate {
            let content =
                succession.map {
                    KeyUpdate(rekeySA: nil, dataSAs: Array(carried), replaced: [], succession: $0)
                } ?? self.content(group, Array(carried), made, rekeySA)
            return content.masked(groupKey: tree.groupKey, group: group.entry.id, transaction: update.transaction)
        }
        do {
            let fewest = try slices(of: update, beside: content([])).count
            // What is carried along must not take a datagram more.
            while !carried.isEmpty {
                if let count = try? slices(of: update, beside: content(carried)).count, count <= fewest { break }
                carried = carried.dropFirst()
            }
            var content = content(carried)
            var parts: [PushPart] = []
            for slice in try slices(of: update, beside: content) {
                content.treeSlice = slice.octets
                let body = try content.body(limits: configuration.limits)
                parts.append(PushPart(body: body, members: slice.firstSlot...slice.lastSlot))
            }
            guard parts.count <= configuration.limits.blocksPerTransaction else { throw FMKEError.tooLong }
            sayCrowded(group, update.transaction, missed, carried)
            return parts
        } catch {
            log(
                .warning, "rekey.not-multicast",
                ["group": group.entry.name, "transaction": "\(update.transaction)", "reason": "\(error)"])
            return []
        }
    }

    /// The update in slices that each fit a datagram beside these keys.
    private func slices(of update: Update, beside content: KeyUpdate) throws -> [UpdateSlice] {
        var content = content
        content.treeSlice = [0]
        return try update.evenSlices(limit: bodyLimit - content.body(limits: configuration.limits).count + 1)
    }

    /// The new keys and what goes along. What is replaced goes without saying (a member lets go of all earlier
    /// transactions' SAs); it is said for those who read the exchange.
    private func content(
        _ group: GroupState, _ carried: [DataSA], _ made: [DataSA], _ rekeySA: RekeySA?
    ) -> KeyUpdate {
        let kept = Set(carried.map(\.spi))
        let replaced = group.data.map(\.sa.spi).filter { !kept.contains($0) }
            .suffix(configuration.limits.dataAssociationsPerGroup)
        return KeyUpdate(rekeySA: rekeySA, dataSAs: carried + made, replaced: Array(replaced))
    }

    /// A member that missed an earlier transaction gets its SAs with this one, as far as they fit: senders go on with
    /// them until this one is activated. But not what was made before the newest member's time, which that could read,
    /// nor what a revocation has ended.
    private func missed(by group: GroupState, now: Instant) -> [ServerDataSA] {
        let everybodyHas = group.members.values.filter(\.holdsKeys).map(\.confirmed).min() ?? .max
        let newest = max(group.members.values.map(\.since).max() ?? 0, group.lastRevocation)
        return group.data.filter { sa in
            sa.transaction > everybodyHas && sa.transaction >= newest && sa.removeAt.map { $0 > now } ?? true
        }
    }

    private func sayCrowded(
        _ group: GroupState, _ transaction: UInt64, _ missed: [DataSA], _ carried: ArraySlice<DataSA>
    ) {
        let leftOut = missed.prefix(missed.count - carried.count).map { spiText($0.spi) }
        guard !leftOut.isEmpty else { return }
        log(
            .warning, "rekey.crowded",
            [
                "group": group.entry.name, "transaction": "\(transaction)",
                "left_out": leftOut.joined(separator: ","),
            ])
    }
}
