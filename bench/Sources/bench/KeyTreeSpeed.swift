// SPDX-License-Identifier: Apache-2.0
import Basics
import CPeer
import Cryptography
import KeyTree

/// What a change of members costs the server's processor.
enum KeyTreeSpeed {
    static func leave() throws -> Report {
        var report = Report(
            note: "one leave, committed, encoded, signed (ECDSA P-256); one core, CPU time, best of 5")
        let key = try SigningKey.generate(.ecdsaP256)
        let message = [UInt8](repeating: 7, count: 400)
        let sign = try best(of: 5, 2_000) { _ in _ = try key.sign(message) }
        var trees: [Double] = []
        for size in [8_192, 1_000_000] {
            let group = try Group(size)
            func leave() throws -> [UInt8] {
                try group.server.leave(UInt32(group.random.number(below: UInt64(size))))
                guard let update = try group.commit().update else { return [] }
                return try update.whole().octets
            }
            var tree = Double.infinity
            var signed = Double.infinity
            // Joins between the leaves, outside of the measured time, keep the size.
            for _ in 0..<5 {
                var spent = 0.0
                for _ in 0..<2_000 {
                    let start = cpuSeconds()
                    _ = try leave()
                    spent += cpuSeconds() - start
                    _ = try group.server.join()
                    _ = try group.commit()
                }
                tree = min(tree, spent / 2_000 - clockOverhead)
                spent = 0
                for _ in 0..<1_000 {
                    let start = cpuSeconds()
                    _ = try key.sign(try leave())
                    spent += cpuSeconds() - start
                    _ = try group.server.join()
                    _ = try group.commit()
                }
                signed = min(signed, spent / 1_000 - clockOverhead)
            }
            trees.append(tree)
            report.lines.append(
                Line(
                    workload: "N=\(size), tree work", figure: "\(decimal(tree * 1e6)) us", peer: cLimit(size),
                    ratio: decimal(tree / limit(size)), target: "< 10 us", isMet: tree < 10e-6))
            report.lines.append(
                Line(
                    workload: "N=\(size), signed", figure: "\(decimal(1 / signed, 0))/s",
                    peer: "signing alone \(decimal(1 / sign, 0))/s", ratio: decimal(sign / signed),
                    target: ">= 0.80", isMet: sign / signed >= 0.80))
        }
        let bare = try evpSeconds() * Double(2 * ceilLog2(1_000_000) - 1)
        report.lines.append(
            Line(
                workload: "N=1000000, of it AES by EVP", figure: "\(decimal(bare * 1e6)) us",
                peer: "all of its tree work",
                ratio: decimal(bare / trees[1]), target: ""))
        report.lines.append(
            Line(
                workload: "time(1e6) / time(8192), tree", figure: decimal(trees[1] / trees[0]), peer: "20 / 13 levels",
                ratio: decimal(trees[1] / trees[0] / (20.0 / 13)), target: ""))
        return report
    }

    static func batch() throws -> Report {
        var report = Report(note: "2^18 random leaves from 2^20 members at once; one core, CPU time, best of 3")
        let size = 1 << 20
        var (commit, cut, keys, changes, octets) = (Double.infinity, Double.infinity, 0, 0, 0)
        for run in 0..<3 {
            let group = try Group(size, seed: UInt64(run))
            octets = group.server.keyOctets
            for slot in group.randomSlots(size / 4) { try group.server.leave(UInt32(slot)) }
            var start = cpuSeconds()
            let result = try group.commit()
            let spent = cpuSeconds() - start
            guard let update = result.update else { continue }
            if spent < commit {
                (commit, keys, changes) = (spent, update.wrappedKeyCount, update.changedNodeCount)
            }
            start = cpuSeconds()
            _ = try update.slices(limit: 1_150)
            cut = min(cut, cpuSeconds() - start)
        }
        let each = commit / Double(keys) * 1e9
        report.lines.append(
            Line(
                workload: "commit, per wrapped key (\(keys))", figure: "\(decimal(each, 0)) ns",
                peer: "C with AES-NI, published 178 ns", ratio: decimal(each / 178), target: "<= 2.00",
                isMet: each <= 2 * 178))
        let bare = prfSeconds(keysCount: size) * Double(keys + changes)
        report.lines.append(
            Line(
                workload: "commit, all", figure: "\(decimal(commit * 1e3, 1)) ms",
                peer: "its \(keys + changes) AES in C, this run \(decimal(bare * 1e3, 1)) ms",
                ratio: decimal(commit / bare), target: ""))
        report.lines.append(
            Line(
                workload: "cut into datagrams", figure: "\(decimal(cut * 1e3, 1)) ms", peer: "", ratio: "", target: ""))
        let perMember = Double(octets) / Double(size)
        report.lines.append(
            Line(
                workload: "memory for keys, per member", figure: "\(decimal(perMember, 1)) octets", peer: "64",
                ratio: decimal(perMember / 64), target: "<= 1.00", isMet: perMember <= 64))
        return report
    }

    /// CPU seconds of one call, the best of some rounds.
    private static func best(of rounds: Int, _ count: Int, _ body: (Int) throws -> Void) rethrows -> Double {
        var least = Double.infinity
        for _ in 0..<rounds {
            let start = cpuSeconds()
            for index in 0..<count { try body(index) }
            least = min(least, (cpuSeconds() - start) / Double(count))
        }
        return least
    }

    /// Seconds for one AES with its key schedule through EVP, keys in the cache.
    private static func evpSeconds() throws -> Double {
        let prf = try BlockPRF()
        let keys = KeyTable(count: 64)
        return best(of: 5, 100_000) { index in
            prf.derive(
                from: keys, at: index & 63, PRFBlock(high: 1, low: UInt64(index)), into: keys, at: (index + 1) & 63)
        }
    }

    /// What reading the clock adds to each interval.
    private static let clockOverhead: Double = {
        best(of: 5, 10_000) { _ in _ = cpuSeconds() }
    }()

    /// The same for keys that stay in the processor's cache.
    private static let cachedPRFSeconds = prfSeconds(keysCount: 1_024)

    /// Seconds for one AES with its key schedule in C, keys in order in memory.
    private static func prfSeconds(keysCount: Int) -> Double {
        guard cpeer_available() != 0 else { return .nan }
        var keys = [UInt8](repeating: 1, count: 16 * keysCount)
        var least = Double.infinity
        for _ in 0..<3 { least = min(least, cpeer_prf_nanoseconds(&keys, keysCount, 2_000_000) / 2e6) }
        return least * 1e-9
    }

    /// What the AES of one leave costs in C: a derivation and a wrapped key for each level, one less.
    private static func limit(_ size: Int) -> Double {
        cachedPRFSeconds * Double(2 * ceilLog2(size) - 1)
    }

    private static func cLimit(_ size: Int) -> String { "its AES in C \(decimal(limit(size) * 1e6)) us" }
}
