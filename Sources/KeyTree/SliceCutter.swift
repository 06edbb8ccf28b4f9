// SPDX-License-Identifier: Apache-2.0

/// Finds where to cut an update: behind the slots of a lowest changed node, as far to the right as the limit allows.
struct SliceCutter {
    private let update: Update
    /// Bits and wrapped keys of the slice that is being filled.
    private var bits = 0
    private var keys = 0
    /// Behind the last node and the last wrapped key, of each level, that are in that slice.
    private var nodeEnds: [Int]
    private var targetEnds: [Int]

    init(update: Update) {
        self.update = update
        nodeEnds = Array(repeating: 0, count: update.height + 1)
        targetEnds = nodeEnds
    }

    /// The slots of each slice. Throws `tooLong` when the path of one member does not fit.
    mutating func ranges(limit: Int) throws(KeyTreeError) -> [ClosedRange<Int>] {
        let capacity = update.shape.spans[update.height]
        // Fewer steps for the usual case, an update that fits at once.
        if update.content.plan.targets.count * update.content.plan.width <= limit {
            begin(at: 0)
            extend(to: capacity - 1, from: nil)
            if size <= limit { return [0...capacity - 1] }
        }
        var ranges: [ClosedRange<Int>] = []
        var first = 0
        var previous: Int?
        begin(at: 0)
        for end in BottomEnds(update: update).find(capacity: capacity) {
            extend(to: end, from: previous)
            if size > limit {
                guard let last = previous else { throw .tooLong }
                ranges.append(first...last)
                first = last + 1
                begin(at: first)
                extend(to: end, from: nil)
                guard size <= limit else { throw .tooLong }
            }
            previous = end
        }
        ranges.append(first...capacity - 1)
        return ranges
    }

    private var size: Int { SliceHeader.size + (bits + 7) / 8 + keys * update.content.plan.width }

    private mutating func begin(at slot: Int) {
        bits = 0
        keys = 0
        for level in 1...update.height {
            nodeEnds[level] = update.content.plan.firstNode(level, from: slot / update.shape.spans[level])
            targetEnds[level] = update.content.plan.firstTarget(level, from: slot / update.shape.spans[level - 1])
        }
    }

    /// Takes in all that has to do with the slots up to one. From the level on where both ends lie below the same node
    /// there is nothing more to take.
    private mutating func extend(to slot: Int, from previous: Int?) {
        var child = slot
        for level in 1...update.height {
            while targetEnds[level] < update.content.plan.targetStarts[level + 1],
                Int(update.content.plan.targets[targetEnds[level]]) <= child
            {
                targetEnds[level] += 1
                keys += 1
            }
            child /= update.shape.degree
            while nodeEnds[level] < update.content.plan.starts[level + 1],
                Int(update.content.plan.nodes[nodeEnds[level]].index) <= child
            {
                bits += update.bits(update.content.plan.nodes[nodeEnds[level]], level: level)
                nodeEnds[level] += 1
            }
            if let previous, previous / update.shape.spans[level] == child { return }
        }
    }
}

/// The last slot below each changed node that has no changed node below itself, in ascending order.
private struct BottomEnds {
    let update: Update
    private var next: [Int]
    private var ends: [Int] = []

    init(update: Update) {
        self.update = update
        next = update.content.plan.starts
    }

    /// With the last slot of all behind them: unchanged parts at the right edge may need keys, too.
    consuming func find(capacity: Int) -> [Int] {
        visit(level: update.height)
        if ends.last != capacity - 1 { ends.append(capacity - 1) }
        return ends
    }

    private mutating func visit(level: Int) {
        let node = update.content.plan.nodes[next[level]]
        next[level] += 1
        let below = level > 1 ? ((node.replaced | node.stepped) & node.listeners).nonzeroBitCount : 0
        if below == 0 { ends.append((Int(node.index) + 1) * update.shape.spans[level] - 1) }
        for _ in 0..<below { visit(level: level - 1) }
    }
}
