// SPDX-License-Identifier: Apache-2.0

import Basics
import Foundation
import FuzzTargets
import Testing

/// What the fuzzer has found so far, and some thousand changes of it, run through every reader. A reader that traps
/// ends the whole test run: that is the point.
@Suite struct ReplayTests {
    /// `fuzz/corpus` of this package.
    private static let corpus = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .deletingLastPathComponent().appendingPathComponent("fuzz/corpus")

    private func inputs(_ target: FuzzTarget) throws -> [[UInt8]] {
        let folder = Self.corpus.appendingPathComponent(target.rawValue)
        let files = try FileManager.default.contentsOfDirectory(at: folder, includingPropertiesForKeys: nil)
        return try target.seeds
            + files.sorted { $0.path < $1.path }.map { try [UInt8](Data(contentsOf: $0)) }
    }

    @Test(arguments: FuzzTarget.allCases) func theCorpusDoesNoHarm(_ target: FuzzTarget) throws {
        let inputs = try inputs(target)
        #expect(inputs.count > target.seeds.count, "fuzz/corpus/\(target.rawValue) is empty")
        for input in inputs { target.run(input) }
        target.run([])
    }

    @Test(arguments: FuzzTarget.allCases) func changedInputsDoNoHarm(_ target: FuzzTarget) throws {
        let random = SeededRandom(seed: 42)
        let inputs = try inputs(target)
        let count = target == .phase1 || target == .settings ? 60 : 800
        for _ in 0..<count {
            var input = inputs[Int(random.number(below: UInt64(inputs.count)))]
            for _ in 0...random.number(below: 3) { change(&input, random) }
            target.run(input)
        }
    }

    /// Flips, sets, cuts, repeats or inserts.
    private func change(_ input: inout [UInt8], _ random: SeededRandom) {
        guard !input.isEmpty else { return input.append(UInt8(random.number(below: 256))) }
        let place = Int(random.number(below: UInt64(input.count)))
        switch random.number(below: 6) {
        case 0: input[place] ^= 1 << UInt8(random.number(below: 8))
        case 1: input[place] = [0, 1, 0x7f, 0x80, 0xff][Int(random.number(below: 5))]
        case 2: input.removeLast(input.count - place)
        case 3: input += input[place...]
        case 4: input.insert(UInt8(random.number(below: 256)), at: place)
        default: input.remove(at: place)
        }
    }
}
