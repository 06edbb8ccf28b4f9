// SPDX-License-Identifier: Apache-2.0
import Basics
import ESP
import Testing

/// What a window means, without any cleverness: a set of numbers.
private struct NaiveWindow {
    let size: Int
    var highest: UInt64 = 0
    var seen: Set<UInt64> = []

    func isFresh(_ sequence: UInt64) -> Bool {
        sequence != 0 && !seen.contains(sequence) && (sequence > highest || highest - sequence < UInt64(size))
    }

    mutating func accept(_ sequence: UInt64) {
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
            let origin: UInt64 = [0, 0xffff_ffff - 20_000, .max - 20_000][round % 3]
            for _ in 0..<4_000 {
                let centre = max(model.highest, origin)
                let sequence: UInt64
                switch random.number(below: 10) {
                case 0: sequence = random.next() >> 32
                case 1: sequence = centre &+ UInt64(random.number(below: UInt64(size) * 3))
                case 2...5: sequence = centre &- UInt64(random.number(below: UInt64(size) + 10))
                default: sequence = centre &+ UInt64(random.number(below: 4))
                }
                if sequence > centre, sequence - centre > UInt64(size) * 4, random.number(below: 50) != 0 { continue }
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

    // tests: RFC 4303 A2.2 - a naive reading: the number with this lower half that is in the window, or the next one
    // after it
    @Test func extendedNumbersAreFound() {
        let random = SeededRandom(seed: 9)
        for size in [64, 1_024, 4_096] {
            for _ in 0..<3_000 {
                var window = ReplayWindow(size: size)
                let top = random.next() >> (random.number(below: 64)) & 0x7fff_ffff_ffff_ffff
                if top > 0 { window.accept(top) }
                let offset = random.number(below: UInt64(size) * 4)
                let low: UInt32
                switch random.number(below: 3) {
                case 0: low = UInt32(truncatingIfNeeded: random.next())
                case 1: low = UInt32(truncatingIfNeeded: top &+ offset)
                default: low = UInt32(truncatingIfNeeded: top &- offset)
                }
                let bottom = Int64(top) - Int64(size) + 1
                let begin = Int64(low) + (bottom >> 32) << 32
                let number = begin >= bottom ? begin : begin + 1 << 32
                #expect(window.extended(low: low) == UInt64(exactly: number), "\(top) \(low) \(size)")
            }
        }
    }

    @Test func theUpperHalfGoesOn() {
        var window = ReplayWindow(size: 64)
        window.accept(0xffff_fff0)
        #expect(window.extended(low: 5) == 0x1_0000_0005 && window.extended(low: 0xffff_ffff) == 0xffff_ffff)
        window.accept(0x1_0000_0005)
        #expect(window.extended(low: 0xffff_fff5) == 0xffff_fff5 && window.isFresh(0xffff_fff5))
        #expect(window.extended(low: 0xffff_fff0).map { window.isFresh($0) } == false, "seen before")
        #expect(ReplayWindow(size: 64).extended(low: 1) == 1)
        #expect(ReplayWindow(size: 64).extended(low: .max) == nil, "from before the first packet")
        window.accept(.max)
        #expect(window.extended(low: 5) == nil, "there is no number after the last")
    }
}
