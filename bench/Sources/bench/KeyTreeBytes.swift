// SPDX-License-Identifier: Apache-2.0
import Basics
import KeyTree

/// How many keys and octets a change of members costs on the link.
enum KeyTreeBytes {
    /// Octets of a datagram around an update: IPv4 and UDP 28; the PUSH of docs/FMKE.md with an ECDSA signature 188
    /// (36 in clear, TRANSACTION 68, SIG 68, tag 16); KD payload, its count, and the head of its packet 16.
    static let envelope = 232

    static func leave() throws -> Report {
        var report = Report(
            note: "one leave from N members, the worst of 300 random ones; octets of the one datagram, \(envelope) of "
                + "envelope included")
        for size in [1_000, 4_096, 10_000, 100_000, 1_000_000, 10_000_000] {
            let group = try Group(size)
            var (keys, octets, peer) = (0, 0, 0)
            for _ in 0..<300 {
                let slot = UInt32(group.random.number(below: UInt64(size)))
                try group.server.leave(slot)
                guard let update = try group.commit().update else { continue }
                keys = max(keys, update.wrappedKeyCount)
                octets = max(octets, try update.whole().octets.count + envelope)
                _ = try group.server.join()
                _ = try group.commit()
            }
            // Levels of a full tree of degree 4, each with 4 wrapped keys but the lowest, which lost one.
            var leaves = 1
            var plainKeys = -1
            while leaves < size {
                leaves *= PlainLKH.degree
                plainKeys += PlainLKH.degree
            }
            peer = plainKeys * PlainLKH.keyOctets + envelope
            let limit = ceilLog2(size)
            report.lines.append(
                Line(
                    workload: "N=\(size), keys", figure: "\(keys)", peer: "log2 N = \(limit)",
                    ratio: decimal(Double(keys) / Double(limit)), target: "<= log2 N + 1", isMet: keys <= limit + 1))
            report.lines.append(
                Line(
                    workload: "N=\(size), octets", figure: "\(octets)", peer: "LKH4+KW at most \(peer)",
                    ratio: decimal(Double(octets) / Double(peer)),
                    target: size > 1_000_000 ? "" : "<= 576, one datagram",
                    isMet: size > 1_000_000 ? nil : octets <= 576))
        }
        return report
    }

    static func batch() throws -> Report {
        var report = Report(
            note:
                "L random leaves (and J joins) at once; octets of the update in one piece, and cut into "
                + "self-standing datagrams of 1,150")
        let cases: [(size: Int, leaves: Int, joins: Int, runs: Int, limit: Double?)] = [
            (4_096, 1_024, 0, 20, 0.30), (4_096, 1_024, 1_024, 20, nil), (100_000, 1_000, 0, 3, nil),
            (100_000, 25_000, 0, 3, 0.30), (1_000_000, 10_000, 0, 1, nil), (1_000_000, 250_000, 0, 1, 0.30),
        ]
        for workload in cases {
            var (keys, whole, cut, datagrams, plainKeys) = (0, 0, 0, 0, 0)
            for run in 0..<workload.runs {
                let group = try Group(workload.size, seed: UInt64(run))
                let left = group.randomSlots(workload.leaves)
                for slot in left { try group.server.leave(UInt32(slot)) }
                for _ in 0..<workload.joins { _ = try group.server.join() }
                guard let update = try group.commit().update else { continue }
                keys += update.wrappedKeyCount
                whole += try update.whole().octets.count
                let slices = try update.slices(limit: 1_150)
                cut += slices.reduce(0) { $0 + $1.octets.count }
                datagrams += slices.count
                let present = (0..<UInt32(workload.size)).map { group.server.isMember($0) }
                plainKeys += PlainLKH.wrappedKeys(present: present, changed: left)
            }
            let plain = plainKeys * PlainLKH.keyOctets
            let name = "N=\(workload.size) L=\(workload.leaves) J=\(workload.joins)"
            let ratio = Double(whole) / Double(plain)
            report.lines.append(
                Line(
                    workload: name, figure: "\(whole / workload.runs) (\(keys / workload.runs) keys)",
                    peer: "LKH4+KW \(plain / workload.runs) (\(plainKeys / workload.runs) keys)",
                    ratio: decimal(ratio, 3), target: workload.limit.map { "<= \(decimal($0))" } ?? "",
                    isMet: workload.limit.map { ratio <= $0 }))
            report.lines.append(
                Line(
                    workload: "  in \(datagrams / workload.runs) datagrams", figure: "\(cut / workload.runs)",
                    peer: "the same, not cut", ratio: decimal(Double(cut) / Double(plain), 3), target: ""))
        }
        return report
    }
}

/// A tree with so many members, all slots taken.
final class Group {
    let random: SeededRandom
    let server: KeyTreeServer
    let size: Int
    private var transaction: UInt64 = 0

    init(_ size: Int, seed: UInt64 = 1) throws {
        self.size = size
        random = SeededRandom(seed: seed)
        server = try KeyTreeServer(random: random)
        for _ in 0..<size { _ = try server.join() }
        _ = try commit()
    }

    func commit() throws -> Commit {
        transaction += 1
        return try server.commit(transaction: transaction)
    }

    /// Different slots, in random order.
    func randomSlots(_ count: Int) -> [Int] {
        var slots = Array(0..<size)
        for place in 0..<count {
            slots.swapAt(place, place + Int(random.number(below: UInt64(size - place))))
        }
        return Array(slots.prefix(count))
    }
}

/// The exponent of the least power of two that is not below a number.
func ceilLog2(_ number: Int) -> Int { number <= 1 ? 0 : Int.bitWidth - (number - 1).leadingZeroBitCount }
