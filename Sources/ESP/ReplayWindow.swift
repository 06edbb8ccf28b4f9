// SPDX-License-Identifier: Apache-2.0

/// Which of one sender's sequence numbers were already seen (RFC 4303 3.4.3), of 32 bits or extended ones of 64.
///
/// A ring of 64-bit words, so that moving the window clears a word now and then instead of shifting every bit
/// (the method of RFC 6479). `isFresh` before the packet is verified, `accept` after it.
public struct ReplayWindow: Sendable {
    /// In packets.
    public let size: Int
    /// The highest number that was accepted; 0 before the first.
    public private(set) var highest: UInt64 = 0
    /// A power of two of words, at least one more than the window needs: the word being entered is cleared whole.
    private var words: [UInt64]

    /// - Parameter size: in packets; held to 64...4,096.
    public init(size: Int) {
        self.size = min(max(size, 64), 4_096)
        var count = 2
        while count * 64 < self.size + 64 { count *= 2 }
        words = [UInt64](repeating: 0, count: count)
    }

    /// Whether a packet with this number may still be taken. The first packet of an SA has number 1, so 0 never is.
    public func isFresh(_ sequence: UInt64) -> Bool {
        guard sequence != 0 else { return false }
        if sequence > highest { return true }
        guard highest - sequence < UInt64(size) else { return false }
        return words[slot(sequence)] & bit(sequence) == 0
    }

    /// Remembers a number whose packet was verified.
    public mutating func accept(_ sequence: UInt64) {
        precondition(isFresh(sequence), "a number is accepted only once")
        if sequence > highest {
            let distance = Int(min(sequence >> 6 - highest >> 6, UInt64(words.count)))
            if distance > 0 {
                let first = Int(truncatingIfNeeded: highest >> 6)
                for step in 1...distance { words[(first &+ step) & (words.count - 1)] = 0 }
            }
            highest = sequence
        }
        words[slot(sequence)] |= bit(sequence)
    }

    /// The extended number that a packet with this low-order half has, if it is in the window or less than 2^32
    /// packets before it (RFC 4303 A2.2); nil for one from before the first packet.
    public func extended(low: UInt32) -> UInt64? {
        let high = highest >> 32
        let top = UInt32(truncatingIfNeeded: highest)
        let bottom = top &- UInt32(size - 1)
        if top >= UInt32(size - 1) {
            // Case A: the window lies within one half.
            if low >= bottom { return high << 32 | UInt64(low) }
            return high < UInt64(UInt32.max) ? (high + 1) << 32 | UInt64(low) : nil
        }
        // Case B: it begins in the half before.
        guard low >= bottom else { return high << 32 | UInt64(low) }
        return high > 0 ? (high - 1) << 32 | UInt64(low) : nil
    }

    private func slot(_ sequence: UInt64) -> Int { Int(truncatingIfNeeded: sequence >> 6) & (words.count - 1) }
    private func bit(_ sequence: UInt64) -> UInt64 { 1 << (sequence & 63) }
}
