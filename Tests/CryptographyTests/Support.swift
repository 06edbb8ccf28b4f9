// SPDX-License-Identifier: Apache-2.0
import Basics
import Cryptography

/// Octets of a vector typed in as data.
func hex(_ text: String) -> [UInt8] {
    guard let result = octets(hexadecimal: text) else { fatalError("a vector has a typing error: \(text)") }
    return result
}

/// Hands out the octets of a vector instead of random ones, again and again.
final class FixedRandom: RandomSource {
    private let supply: [UInt8]
    init(_ supply: [UInt8]) { self.supply = supply }
    func next() -> UInt64 { supply.prefix(8).reduce(0) { $0 << 8 | UInt64($1) } }
    func bytes(_ count: Int) -> [UInt8] { (0..<count).map { supply[$0 % supply.count] } }
}
