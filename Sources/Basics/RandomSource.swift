// SPDX-License-Identifier: Apache-2.0

/// Where an engine's random octets come from. The daemons inject the operating system's generator, the tests and the
/// simulator `SeededRandom`, so that a seed replays a whole run.
public protocol RandomSource: AnyObject {
    /// The next 64 random bits.
    func next() -> UInt64
    /// `count` random octets, fit for keys when the source is.
    func bytes(_ count: Int) -> [UInt8]
}

extension RandomSource {
    /// A number in `0..<bound`, without bias. `bound` must be positive.
    public func number(below bound: UInt64) -> UInt64 {
        precondition(bound > 0, "an empty range has no random member")
        // Lemire's method: the high half of a product, with the few biased low halves drawn again.
        while true {
            let (high, low) = next().multipliedFullWidth(by: bound)
            if low >= bound || low >= (0 &- bound) % bound { return high }
        }
    }

    /// A uniformly distributed duration in `0..<limit` (zero for a limit that is not positive).
    public func duration(below limit: Duration) -> Duration {
        let nanoseconds = limit.wholeNanoseconds
        return nanoseconds > 0 ? .nanoseconds(Int64(number(below: UInt64(nanoseconds)))) : .zero
    }

    /// A number in `0..<1`.
    public func unit() -> Double { Double(next() >> 11) * 0x1p-53 }
}

/// xoshiro256** seeded through SplitMix64: fast, repeatable, and *not* for keys of a real deployment.
public final class SeededRandom: RandomSource {
    private var state: (UInt64, UInt64, UInt64, UInt64)

    public init(seed: UInt64) {
        var mixer = seed
        func mixed() -> UInt64 {
            mixer &+= 0x9e37_79b9_7f4a_7c15
            var z = mixer
            z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
            z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
            return z ^ (z >> 31)
        }
        state = (mixed(), mixed(), mixed(), mixed())
    }

    public func next() -> UInt64 {
        func rotated(_ x: UInt64, by k: UInt64) -> UInt64 { (x << k) | (x >> (64 - k)) }
        let result = rotated(state.1 &* 5, by: 7) &* 9
        let t = state.1 << 17
        state.2 ^= state.0
        state.3 ^= state.1
        state.1 ^= state.2
        state.0 ^= state.3
        state.2 ^= t
        state.3 = rotated(state.3, by: 45)
        return result
    }

    public func bytes(_ count: Int) -> [UInt8] {
        var result: [UInt8] = []
        result.reserveCapacity(count + 7)
        while result.count < count {
            var word = next()
            for _ in 0..<8 {
                result.append(UInt8(truncatingIfNeeded: word))
                word >>= 8
            }
        }
        result.removeLast(result.count - count)
        return result
    }
}
