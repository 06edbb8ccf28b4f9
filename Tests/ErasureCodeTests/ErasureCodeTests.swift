// SPDX-License-Identifier: Apache-2.0
import Basics
import ErasureCode
import Testing

/// GF(2^8) modulo 0x11d by shifting and adding, written from docs/FMKE.md 6.6 alone.
private enum Naive {
    static func times(_ a: UInt8, _ b: UInt8) -> UInt8 {
        var (a, b, sum) = (Int(a), Int(b), 0)
        while b > 0 {
            if b & 1 == 1 { sum ^= a }
            a <<= 1
            if a & 0x100 != 0 { a ^= 0x11d }
            b >>= 1
        }
        return UInt8(sum)
    }

    static func inverse(_ a: UInt8) -> UInt8 { (1...255).first { times(a, $0) == 1 }! }

    static func parity(_ index: Int, of data: [[UInt8]]) -> [UInt8] {
        var result = [UInt8](repeating: 0, count: data[0].count)
        for (column, shard) in data.enumerated() {
            let coefficient = data.count == 1 ? 1 : inverse(UInt8(index ^ column))
            for (position, octet) in shard.enumerated() { result[position] ^= times(coefficient, octet) }
        }
        return result
    }
}

@Suite struct ErasureCodeTests {
    private func data(_ count: Int, length: Int, seed: UInt64) -> [[UInt8]] {
        let random = SeededRandom(seed: seed)
        return (0..<count).map { _ in random.bytes(length) }
    }

    @Test(arguments: [1, 2, 3, 10, 77, 128, 200, 254])
    func parityIsThatOfTheDocument(count: Int) throws {
        let code = try ErasureCode(dataCount: count)
        let data = data(count, length: 37, seed: UInt64(count))
        for index in Set([count, (count + 254) / 2, 254]) {
            #expect(try code.parity(index, of: data) == Naive.parity(index, of: data))
        }
    }

    @Test(arguments: 1...5, 1...5)
    func everyPatternOfLossIsMended(count: Int, spare: Int) throws {
        let code = try ErasureCode(dataCount: count)
        let data = data(count, length: 65, seed: 7)
        let all = try (0..<count + spare).map { index in
            (index: index, octets: index < count ? data[index] : try code.parity(index, of: data))
        }
        for pattern in 0..<(1 << (count + spare)) where pattern.nonzeroBitCount == count {
            let kept = all.filter { pattern >> $0.index & 1 == 1 }
            #expect(try code.decode(kept) == data, "pattern \(pattern)")
            #expect(try code.decode(kept.reversed()) == data, "pattern \(pattern) backwards")
        }
    }

    @Test(arguments: [(10, 1), (50, 1_216), (100, 700), (128, 1_400), (200, 33), (254, 16)])
    func randomLossIsMended(count: Int, length: Int) throws {
        let code = try ErasureCode(dataCount: count)
        let data = data(count, length: length, seed: 3)
        let shards = try ErasureCode.Shards(data)
        let random = SeededRandom(seed: UInt64(count))
        for _ in 0..<8 {
            var indices = Array(0..<255)
            for position in 0..<count {
                indices.swapAt(position, position + Int(random.number(below: UInt64(255 - position))))
            }
            let kept = try indices.prefix(count).map { index in
                (index: index, octets: index < count ? data[index] : try shards.parity(index, by: code))
            }
            #expect(try code.decode(kept) == data)
        }
    }

    @Test func badSizesAreErrors() throws {
        for count in [-1, 0, 255, 256, .max] {
            #expect(throws: ErasureCodeError.count) { try ErasureCode(dataCount: count) }
        }
        let code = try ErasureCode(dataCount: 2)
        #expect(throws: ErasureCodeError.count) { try code.parity(2, of: []) }
        #expect(throws: ErasureCodeError.count) { try code.parity(2, of: [[1]]) }
        #expect(throws: ErasureCodeError.length) { try code.parity(2, of: [[1], [1, 2]]) }
        #expect(throws: ErasureCodeError.length) { try code.parity(2, of: [[], []]) }
        for index in [-1, 0, 1, 255, .max] {
            #expect(throws: ErasureCodeError.index) { try code.parity(index, of: [[1], [2]]) }
        }
        #expect(throws: ErasureCodeError.count) { try code.decode([]) }
        #expect(throws: ErasureCodeError.count) { try code.decode([(index: 0, octets: [1])]) }
        #expect(throws: ErasureCodeError.length) { try code.decode([(index: 0, octets: [1]), (index: 3, octets: [])]) }
        #expect(throws: ErasureCodeError.length) { try code.decode([(index: 0, octets: []), (index: 3, octets: [])]) }
        #expect(throws: ErasureCodeError.index) { try code.decode([(index: 3, octets: [1]), (index: 3, octets: [1])]) }
        for index in [-1, 255, .max] {
            #expect(throws: ErasureCodeError.index) {
                try code.decode([(index: 0, octets: [1]), (index: index, octets: [1])])
            }
        }
    }
}
