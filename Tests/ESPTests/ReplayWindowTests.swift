// SPDX-License-Identifier: Apache-2.0
import Basics
import ESP
import Testing

/// What a window means, without any cleverness: a set of numbers.
private struct NaiveWindow {
    let size: Int
    var highest: UInt32 = 0
    var seen: Set<UInt32> = []

    func isFresh(_ sequence: UInt32) -> Bool {
        sequence != 0 && !seen.contains(sequence) && (sequence > highest || Int(highest - sequence) < size)
    }

    mutating func accept(_ sequence: UInt32) {
        seen.insert(sequence)
        highest = max(highest, sequence)
    }
}

// tests: RFC 4303 3.4.3
@Suite struct ReplayWindowTests {
    @Test(arguments: [64, 65, 100, 127, 128, 1_000, 1_024, 4_096])
    func behavesLikeTheNaiveModel(size: Int) {
        let random = SeededRandom(seed: UInt64(size))
        for round in 0..<6 {
            var window = ReplayWindow(size: size)
            var model = NaiveWindow(size: size)
            // Some rounds near the end of the number space, where nothing may wrap.
            let origin: UInt32 = round % 2 == 0 ? 0 : .max - 20_000
            for _ in 0..<4_000 {
                let centre = max(model.highest, origin)
                let sequence: UInt32
                switch random.number(below: 10) {
                case 0: sequence = UInt32(truncatingIfNeeded: random.next())
                case 1: sequence = centre &+ UInt32(random.number(below: UInt64(size) * 3))
                case 2...5: sequence = centre &- UInt32(random.number(below: UInt64(size) + 10))
                default: sequence = centre &+ UInt32(random.number(below: 4))
                }
                if sequence > centre, sequence - centre > UInt32(size) * 4, random.number(below: 50) != 0 { continue }
                #expect(window.isFresh(sequence) == model.isFresh(sequence), "number \(sequence)")
                if model.isFresh(sequence), random.number(below: 8) != 0 {
                    window.accept(sequence)
                    model.accept(sequence)
                }
                #expect(window.highest == model.highest)
            }
        }
    }

    @Test func theEdgesOfTheWindow() {
        var window = ReplayWindow(size: 64)
        #expect(!window.isFresh(0) && window.isFresh(1) && window.isFresh(.max))
        window.accept(100)
        #expect(window.isFresh(37) && !window.isFresh(36))
        window.accept(37)
        #expect(!window.isFresh(37) && !window.isFresh(100) && window.isFresh(101))
        window.accept(.max)
        #expect(
            !window.isFresh(.max) && !window.isFresh(101) && window.isFresh(.max - 63) && !window.isFresh(.max - 64))
    }

    @Test func sizesAreHeldToTheirLimits() {
        #expect(ReplayWindow(size: 0).size == 64 && ReplayWindow(size: -1).size == 64)
        #expect(ReplayWindow(size: 1_000_000).size == 4_096)
    }
}
