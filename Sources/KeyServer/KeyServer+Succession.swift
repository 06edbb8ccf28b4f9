// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import Cryptography
internal import FMKE
internal import KeyTree

/// The keys of a transaction that follow from the group key of its tree, and what the members must be told to compute
/// them (docs/FMKE.md 4.6).
struct DerivedKeys {
    let rekeySA: RekeySA
    let channel: PushSealer
    /// In the order of the flows that they take the place of drawn ones for.
    let dataSAs: [DataSA]
    let succession: Succession
}

extension KeyServer {
    /// The keys that take the place of the drawn ones; nil where these differ from what they replace in more than keys,
    /// SPIs and times, so that they must be told as they are.
    func derivedKeys(
        _ update: Update, _ tree: KeyTreeServer, of group: GroupState, made: [DataSA], rekeySA: RekeySA?
    ) -> DerivedKeys? {
        guard let drawn = rekeySA, let first = made.first,
            made.allSatisfy({ $0.lifetimeSeconds == first.lifetimeSeconds })
        else { return nil }
        // What members hold of each flow, whatever they missed: its newest SA and those before it hand down the same.
        let flows = made.map(\.flow)
        guard Set(group.data.map(\.sa.flow)) == Set(flows) else { return nil }
        let keys = SuccessorKeys(
            groupKey: tree.groupKey, group: group.entry.id, transaction: update.transaction, predecessor: group.rekeySA)
        guard let next = try? keys.rekeySA(lifetimeSeconds: drawn.lifetimeSeconds), next.isLike(drawn),
            let channel = try? seal(with: next, for: group.entry.id)
        else { return nil }
        for attempt in UInt8.min...UInt8.max {
            var sas: [DataSA] = []
            for flow in flows {
                let sa = try? keys.dataSA(of: flow, attempt: attempt, lifetimeSeconds: first.lifetimeSeconds)
                guard let sa, isFree(sa.spi, besides: sas.map(\.spi)) else { break }
                sas.append(sa)
            }
            guard sas.count == flows.count else { continue }
            let succession = Succession(
                attempt: attempt, flows: flows, rekeyLifetimeSeconds: drawn.lifetimeSeconds,
                dataLifetimeSeconds: first.lifetimeSeconds)
            return DerivedKeys(rekeySA: next, channel: channel, dataSAs: sas, succession: succession)
        }
        return nil
    }
}

extension RekeySA {
    /// But for SPI and KEK.
    fileprivate func isLike(_ other: RekeySA) -> Bool {
        var same = other
        (same.spi, same.kek) = (spi, kek)
        return same == self
    }
}
