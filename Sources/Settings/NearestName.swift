// SPDX-License-Identifier: Apache-2.0

/// What the operator probably meant.
enum NearestName {
    /// The candidate that differs least from `name`, when it differs little enough to be a slip of the fingers.
    static func find(_ name: String, among candidates: some Sequence<String>) -> String? {
        let limit = max(2, name.count / 3)
        var best: (name: String, distance: Int)?
        for candidate in candidates {
            let distance = distance(name.lowercased(), candidate.lowercased(), limit: limit)
            if distance <= limit, distance < candidate.count, distance < best?.distance ?? .max {
                best = (candidate, distance)
            }
        }
        return best?.name
    }

    /// How many characters to add, remove, replace or swap with their neighbour; above `limit` all counts the same.
    static func distance(_ left: String, _ right: String, limit: Int) -> Int {
        let a = Array(left)
        let b = Array(right)
        guard abs(a.count - b.count) <= limit else { return limit + 1 }
        var before: [Int] = []
        var previous = Array(0...b.count)
        for i in a.indices {
            var row = [i + 1]
            for j in b.indices {
                var cost = min(previous[j + 1] + 1, row[j] + 1, previous[j] + (a[i] == b[j] ? 0 : 1))
                if i > 0, j > 0, a[i] == b[j - 1], a[i - 1] == b[j] { cost = min(cost, before[j - 1] + 1) }
                row.append(cost)
            }
            before = previous
            previous = row
        }
        return previous[b.count]
    }
}
