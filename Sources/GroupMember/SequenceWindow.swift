// SPDX-License-Identifier: Apache-2.0

/// Remembers which PUSH sequences were accepted: each at most once, late ones within a window, none at or below the
/// floor that the GCKS gave in phase 2 (docs/FMKE.md, replay protection).
struct SequenceWindow {
    static let size: UInt64 = 1_024

    /// Nothing at or below is accepted.
    private(set) var floor: UInt64
    /// The highest accepted one, or the floor.
    private(set) var highest: UInt64
    /// Bit i: `highest - i` was accepted.
    private var seen = [UInt64](repeating: 0, count: Int(size / 64))

    init(floor: UInt64) {
        self.floor = floor
        highest = floor
    }

    func isFresh(_ sequence: UInt64) -> Bool {
        guard sequence > floor else { return false }
        guard sequence <= highest else { return true }
        let age = highest - sequence
        return age < Self.size && seen[Int(age / 64)] & (1 << (age % 64)) == 0
    }

    /// Call only for an authentic message with a fresh sequence.
    mutating func accept(_ sequence: UInt64) {
        if sequence > highest {
            shift(by: sequence - highest)
            highest = sequence
        }
        let age = highest - sequence
        guard age < Self.size else { return }
        seen[Int(age / 64)] |= 1 << (age % 64)
    }

    /// What the GCKS used before it wrote a newer profile is old from now on.
    mutating func raiseFloor(to sequence: UInt64) {
        floor = max(floor, sequence)
        if floor > highest {
            shift(by: floor - highest)
            highest = floor
        }
    }

    private mutating func shift(by distance: UInt64) {
        guard distance < Self.size else {
            seen = [UInt64](repeating: 0, count: seen.count)
            return
        }
        let (words, bits) = (Int(distance / 64), distance % 64)
        for index in stride(from: seen.count - 1, through: 0, by: -1) {
            let upper = index >= words ? seen[index - words] << bits : 0
            let carry = bits > 0 && index > words ? seen[index - words - 1] >> (64 - bits) : 0
            seen[index] = upper | carry
        }
    }
}
