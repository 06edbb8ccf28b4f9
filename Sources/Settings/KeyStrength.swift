// SPDX-License-Identifier: Apache-2.0

/// An upper estimate of the entropy of a pre-shared key, from its octets alone.
///
/// Main Mode lets an active attacker try guesses offline (CVE-2018-5389), so a key that people can think of is no key.
/// The estimate is generous: what it refuses is weak, what it passes may still be ("the first line of a song").
enum KeyStrength {
    /// Below this a key needs `legacy: true`.
    static let bitsAtLeast = 128.0
    static let octetsAtLeast = 16

    /// Bits of entropy at most.
    static func bits(_ octets: [UInt8]) -> Double {
        let kind = Kind(octets)
        let fresh = octets.indices.count { !isRepetition(octets, $0, length: kind.repetition) }
        if kind.isText, let words = wordLetters(octets) {
            // About two bits per letter of a word, whoever chose it; five for what stands between words.
            return min(Double(fresh) * kind.bitsPerOctet, Double(words) * 2 + Double(octets.count - words) * 5)
        }
        return Double(fresh) * kind.bitsPerOctet
    }

    /// The alphabet a key is written in, and how long a repeated piece must be before it cannot be chance.
    private struct Kind {
        var bitsPerOctet: Double
        var repetition: Int
        var isText: Bool

        init(_ octets: [UInt8]) {
            let lower = octets.contains { (0x61...0x7a).contains($0) }
            let upper = octets.contains { (0x41...0x5a).contains($0) }
            let digits = octets.contains { (0x30...0x39).contains($0) }
            if !octets.allSatisfy({ (0x20...0x7e).contains($0) }) {
                self.init(bitsPerOctet: 8, repetition: 3, isText: false)
            } else if octets.allSatisfy(Self.isHexadecimal), !(lower && upper) {
                self.init(bitsPerOctet: lower || upper ? 4 : 3.32, repetition: 6, isText: false)
            } else if octets.allSatisfy(Self.isBase64), upper && lower || digits {
                self.init(bitsPerOctet: upper && lower ? 6 : 5, repetition: 4, isText: true)
            } else {
                self.init(bitsPerOctet: upper && lower ? 6.5 : 5.9, repetition: 4, isText: true)
            }
        }

        private init(bitsPerOctet: Double, repetition: Int, isText: Bool) {
            self.bitsPerOctet = bitsPerOctet
            self.repetition = repetition
            self.isText = isText
        }

        private static func isHexadecimal(_ octet: UInt8) -> Bool {
            switch octet {
            case 0x30...0x39, 0x41...0x46, 0x61...0x66: true
            default: false
            }
        }

        private static func isBase64(_ octet: UInt8) -> Bool {
            switch octet {
            case 0x30...0x39, 0x41...0x5a, 0x61...0x7a: true
            default: "+/-_=".utf8.contains(octet)
            }
        }
    }

    /// Is the octet at `index` the end of a piece of this length that has been there before (`abcabc`), or of a run
    /// with even steps (`aaaa`, `1234`)?
    private static func isRepetition(_ octets: [UInt8], _ index: Int, length: Int) -> Bool {
        guard index >= length - 1 else { return false }
        let piece = octets[(index - length + 1)...index]
        let step = Int(octets[index]) - Int(octets[index - 1])
        if abs(step) <= 1, zip(piece, piece.dropFirst()).allSatisfy({ Int($1) - Int($0) == step }) { return true }
        for start in 0..<(index - length + 1) where octets[start..<(start + length)].elementsEqual(piece) {
            return true
        }
        return false
    }

    /// How many letters stand in runs of four and more of one case (the first may be a capital), when these are
    /// three quarters of the key: then it is made of words. nil otherwise.
    private static func wordLetters(_ octets: [UInt8]) -> Int? {
        var total = 0
        var run = 0
        var isLower: Bool?
        func close() { if run >= 4 { total += run } }
        for octet in octets {
            let lower = (0x61...0x7a).contains(octet)
            guard lower || (0x41...0x5a).contains(octet) else {
                close()
                (run, isLower) = (0, nil)
                continue
            }
            if isLower == lower || run == 1 && lower {
                run += 1
            } else {
                close()
                run = 1
            }
            isLower = lower
        }
        close()
        return total * 4 >= octets.count * 3 ? total : nil
    }
}
