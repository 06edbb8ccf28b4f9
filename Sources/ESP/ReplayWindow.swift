// SPDX-License-Identifier: Apache-2.0

/// Which of one sender's sequence numbers were already seen (RFC 4303 3.4.3, 32-bit numbers).
///
/// A ring of 64-bit words, so that moving the window clears a word now and then instead of shifting every bit
/// (the method of RFC 6479). `isFresh` before the packet is verified, `accept` after it.
public struct ReplayWindow: Sendable {
    /// In packets.
    public let size: Int
    /// The highest number that was accepted; 0 before the first.
    public private(set) var highest: UInt32 = 0
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
    public func isFresh(_ sequence: UInt32) -> Bool {
        guard sequence != 0 else { return false }
        if sequence > highest { return true }
        guard Int(highest - sequence) < size else { return false }
        return words[slot(sequence)] & bit(sequence) == 0
    }

    /// Remembers a number whose packet was verified.
    public mutating func accept(_ sequence: UInt32) {
        precondition(isFresh(sequence), "a number is accepted only once")
        if sequence > highest {
            let distance = min(Int(sequence >> 6) - Int(highest >> 6), words.count)
            if distance > 0 {
                for step in 1...distance { words[(Int(highest >> 6) + step) & (words.count - 1)] = 0 }
            }
            highest = sequence
        }
        words[slot(sequence)] |= bit(sequence)
    }

    private func slot(_ sequence: UInt32) -> Int { Int(sequence >> 6) & (words.count - 1) }
    private func bit(_ sequence: UInt32) -> UInt64 { 1 << UInt64(sequence & 63) }
}
