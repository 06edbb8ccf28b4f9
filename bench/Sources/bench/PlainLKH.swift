// SPDX-License-Identifier: Apache-2.0

/// The peer for bytes: a logical key hierarchy of degree 4 as it is usually built. Every key on a changed path is drawn
/// anew and wrapped for each child with members by AES key wrap (24 octets), with the id of the node in front (4).
struct PlainLKH {
    static let degree = 4
    static let keyOctets = 24 + 4

    /// Wrapped keys for one batch.
    ///
    /// - Parameters:
    ///   - present: for each leaf, whether somebody sits there afterwards.
    ///   - changed: the leaves of leavers and newcomers.
    static func wrappedKeys(present: [Bool], changed: [Int]) -> Int {
        var present = present
        var changed = changed.sorted()
        var count = 0
        while present.count > 1 {
            var above = [Bool](repeating: false, count: (present.count + degree - 1) / degree)
            for place in present.indices where present[place] { above[place / degree] = true }
            var parents: [Int] = []
            for place in changed where parents.last != place / degree { parents.append(place / degree) }
            for parent in parents {
                let children = parent * degree..<min((parent + 1) * degree, present.count)
                count += children.count { present[$0] }
            }
            (present, changed) = (above, parents)
        }
        return count
    }
}
