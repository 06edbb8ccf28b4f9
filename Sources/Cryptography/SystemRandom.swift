// SPDX-License-Identifier: Apache-2.0

public import Basics
internal import COpenSSL

/// The operating system's randomness by way of libcrypto's generator (RAND_bytes), fit for keys.
///
/// Ends the process when the generator fails: there is no safe way on without randomness, and no caller could repair
/// it.
public final class SystemRandom: RandomSource {
    /// Octets drawn ahead for `next`, which the data plane calls for each CBC initialisation vector.
    private var pool = [UInt8](repeating: 0, count: 512)
    private var used: Int

    public init() { used = pool.count }

    deinit { wipe(&pool) }

    public func next() -> UInt64 {
        if used == pool.count {
            Self.fill(&pool)
            used = 0
        }
        var value: UInt64 = 0
        for index in used..<used + 8 {
            value = value << 8 | UInt64(pool[index])
            pool[index] = 0
        }
        used += 8
        return value
    }

    public func bytes(_ count: Int) -> [UInt8] {
        precondition(count >= 0, "a count of octets is not negative")
        var result = [UInt8](repeating: 0, count: count)
        if count > 0 { Self.fill(&result) }
        return result
    }

    private static func fill(_ octets: inout [UInt8]) {
        let result = unsafe RAND_bytes(&octets, Int32(octets.count))
        precondition(result == 1, "the system has a working random generator")
    }
}
