// SPDX-License-Identifier: Apache-2.0

import Basics
import Cryptography
import KeyTree
import Store

/// First octet: what the rest is.
enum TreeTarget {
    private static let parameters = KeyTreeParameters(degree: 3)
    /// A tree of 20 members, one of whom left.
    private static let scene: (keys: [UInt8], slices: [[UInt8]]) = Fixture.made {
        let server = try KeyTreeServer(parameters: parameters, random: SeededRandom(seed: 5))
        for _ in 0..<20 { _ = try server.join() }
        _ = try server.commit(transaction: 4)
        let keys = try server.memberKeys(7).octets
        try server.leave(2)
        _ = try server.join()
        guard let update = try server.commit(transaction: 5).update else { return (keys, []) }
        return (keys, try update.slices(limit: 160).map(\.octets) + [update.whole().octets])
    }

    /// What a profile and a PUSH carry of it.
    static var memberKeys: [UInt8] { scene.keys }
    static var slice: [UInt8] { scene.slices.last ?? [] }

    static func run(_ octets: [UInt8]) {
        guard let kind = octets.first else { return }
        let rest = Array(octets.dropFirst())
        switch kind & 3 {
        case 0:
            guard let slice = try? UpdateSlice(octets: rest, transaction: 5) else { return }
            _ = try? slice.changes()
            let member = Fixture.made { try KeyTreeMember(MemberKeys(octets: scene.keys)) }
            let before = member.groupKey
            do {
                let outcome = try member.apply(slice)
                demand(outcome == .applied || member.groupKey == before, "a key changes by an update alone")
            } catch {
                demand(member.groupKey == before && member.transaction == 4, "what is refused changes nothing")
            }
        case 1:
            guard let keys = try? MemberKeys(octets: rest) else { return }
            demand(keys.octets == rest, "a member's keys have one encoding")
            _ = try? KeyTreeMember(keys).groupKey
        default:
            guard let record = try? TreeRecord(octets: rest) else { return }
            demand(record.octets == rest, "a tree's record has one encoding")
        }
    }

    static let seeds: [[UInt8]] =
        scene.slices.map { [0] + $0 } + [[1] + scene.keys]
        + [[2] + TreeRecord(parameters: parameters, transaction: 9, height: 3).octets]

    // MARK: Sealed records

    private static let seal = RecordSeal(masterKey: Fixture.masterKey, storeID: Fixture.counting(from: 9, 16))

    static func record(_ octets: [UInt8]) {
        guard let value = try? seal.open(octets, name: "group/1/epoch", revision: 3) else { return }
        demand(value == Secret([1, 2, 3]), "no other record opens")
    }

    static let recordSeeds: [[UInt8]] = [
        Fixture.made {
            try seal.seal(Secret([1, 2, 3]), name: "group/1/epoch", revision: 3, random: SeededRandom(seed: 1))
        }
    ]
}
