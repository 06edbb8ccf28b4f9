// SPDX-License-Identifier: Apache-2.0

import Basics
import Cryptography

/// The changed nodes of a transaction and the wrapped keys, by level, in ascending order within a level.
struct UpdatePlan {
    let wrapping: KeyWrapping
    private(set) var nodes: [ChangedNode] = []
    /// Whether any key steps forward: the codes of children are longer then.
    private(set) var hasSteps = false
    /// Where the nodes of a level begin, and behind the root's level where they end.
    private(set) var starts: [Int]
    /// The children that keys are wrapped for: `targets[targetStarts[level]...]` for the nodes of that level.
    private(set) var targets: [UInt32] = []
    private(set) var targetStarts: [Int]
    /// The wrapped keys in the order of `targets`, `width` octets each, with room behind them.
    private(set) var text: [UInt8] = []
    /// On each level there is one node at most, and none below one without.
    var isPath = false

    init(wrapping: KeyWrapping, levels: Int) {
        self.wrapping = wrapping
        starts = Array(repeating: 0, count: levels + 1)
        targetStarts = starts
    }

    /// Octets of one wrapped key.
    var width: Int { wrapping.width }

    mutating func reserve(nodes count: Int) {
        nodes.reserveCapacity(count)
        targets.reserveCapacity(count)
        text = [UInt8](repeating: 0, count: count * width)
    }

    mutating func append(_ node: ChangedNode) {
        nodes.append(node)
        if !node.isReplaced { hasSteps = true }
    }

    mutating func begin(level: Int) {
        starts[level] = nodes.count
        targetStarts[level] = targets.count
    }

    /// Adds the new key of a node, wrapped by a mask for one child.
    @inline(__always)
    mutating func mask(_ stack: KeyStack, _ node: NodeID, for child: Int, _ label: PRFBlock, prf: BlockPRF) {
        let offset = makeRoom()
        targets.append(UInt32(truncatingIfNeeded: child))
        prf.mask(in: stack, node.level, node.index, with: node.level - 1, child, label, into: &text, at: offset)
    }

    /// - Returns: where the next wrapped key goes.
    @inline(__always)
    private mutating func makeRoom() -> Int {
        let offset = targets.count * width
        if offset + width > text.count {
            text.append(contentsOf: repeatElement(0, count: max(1_024, text.count / 2)))
        }
        return offset
    }

    /// Adds a new key, wrapped for one child.
    @inline(__always)
    mutating func wrap(
        _ keys: KeyTable, at index: Int, with children: KeyTable, _ child: Int, _ label: PRFBlock, prf: BlockPRF
    ) throws(KeyTreeError) {
        let offset = makeRoom()
        targets.append(UInt32(truncatingIfNeeded: child))
        switch wrapping {
        case .mask:
            prf.mask(keys, at: index, with: children, at: child, label, into: &text, at: offset)
        case .aesKeyWrap:
            do {
                let wrapped = try AESKeyWrap.wrap(
                    keys[index], under: prf.secret(with: children, at: child, label))
                text.replaceSubrange(offset..<offset + width, with: wrapped)
            } catch { throw .failed }
        }
    }

    /// The position of the first node of a level at or behind a place.
    func firstNode(_ level: Int, from index: Int) -> Int {
        var (low, high) = (starts[level], starts[level + 1])
        while low < high {
            let middle = (low + high) / 2
            if Int(nodes[middle].index) < index { low = middle + 1 } else { high = middle }
        }
        return low
    }

    /// The position of the first wrapped key, among those of the nodes of a level, for a child at or behind a place.
    func firstTarget(_ level: Int, from index: Int) -> Int {
        var (low, high) = (targetStarts[level], targetStarts[level + 1])
        while low < high {
            let middle = (low + high) / 2
            if Int(targets[middle]) < index { low = middle + 1 } else { high = middle }
        }
        return low
    }
}

extension KeyWrapping {
    /// Octets of a wrapped key.
    var width: Int {
        switch self {
        case .mask: KeyTable.keySize
        case .aesKeyWrap: KeyTable.keySize + AESKeyWrap.overhead
        }
    }
}

/// What the members must be told of one transaction.
public struct Update {
    public let transaction: UInt64
    /// The transaction that a member must have followed before this one.
    public let previous: UInt64
    let shape: Shape
    let height: Int
    let origin: KeyOrigin
    let isRootReplaced: Bool
    var hasSteps: Bool { content.plan.hasSteps }
    let check: [UInt8]
    /// One reference to copy, not five.
    let content: Content

    final class Content: Sendable {
        let plan: UpdatePlan
        init(_ plan: UpdatePlan) { self.plan = plan }
    }

    init(
        transaction: UInt64, previous: UInt64, shape: Shape, height: Int, origin: KeyOrigin, isRootReplaced: Bool,
        check: [UInt8], plan: UpdatePlan
    ) {
        self.transaction = transaction
        self.previous = previous
        self.shape = shape
        self.height = height
        self.origin = origin
        self.isRootReplaced = isRootReplaced
        self.check = check
        content = Content(plan)
    }

    /// Keys that are wrapped, each counted once.
    public var wrappedKeyCount: Int { content.plan.targets.count }

    /// Nodes whose key changes.
    public var changedNodeCount: Int { content.plan.nodes.count }

    /// The whole update as one slice for everybody, whatever its length.
    ///
    /// Throws `tooLong` when `previous` lies 2^32 transactions back or more.
    public func whole() throws(KeyTreeError) -> UpdateSlice { try slice(first: 0, last: shape.spans[height] - 1) }

    /// The update as slices of at most `limit` octets, in ascending order, that together serve every slot once: each
    /// has all that the members in its slots need.
    ///
    /// Throws `tooLong` when the path of one member does not fit, and as `whole` does.
    public func slices(limit: Int) throws(KeyTreeError) -> [UpdateSlice] {
        var cutter = SliceCutter(update: self)
        var slices: [UpdateSlice] = []
        for range in try cutter.ranges(limit: limit) {
            slices.append(try slice(first: range.lowerBound, last: range.upperBound))
        }
        return slices
    }

    /// As few slices as the limit allows, and these of about the same length: where they are coded together, parity is
    /// as long as the longest.
    ///
    /// Throws as `slices` does.
    public func evenSlices(limit: Int) throws(KeyTreeError) -> [UpdateSlice] {
        var cutter = SliceCutter(update: self)
        var ranges = try cutter.ranges(limit: limit)
        let count = ranges.count
        // Of many slices the last, shorter one makes no difference.
        if count > 1, count <= Self.evenedMost {
            var (low, high) = (limit - limit / count, limit)
            while high - low > Self.evenness {
                let middle = (low + high) / 2
                var cutter = SliceCutter(update: self)
                if let found = try? cutter.ranges(limit: middle), found.count == count {
                    (ranges, high) = (found, middle)
                } else {
                    low = middle
                }
            }
        }
        var slices: [UpdateSlice] = []
        for range in ranges { slices.append(try slice(first: range.lowerBound, last: range.upperBound)) }
        return slices
    }
    private static let evenedMost = 128
    private static let evenness = 4

    private func slice(first: Int, last: Int) throws(KeyTreeError) -> UpdateSlice {
        guard let distance = UInt32(exactly: transaction - previous) else { throw .tooLong }
        let header = SliceHeader(
            wrapping: content.plan.wrapping, origin: origin, hasSteps: hasSteps, isRootReplaced: isRootReplaced,
            shape: shape,
            height: height, distance: distance, first: first, last: last, check: check)
        if content.plan.isPath, first == 0, last == shape.spans[height] - 1 {
            return UpdateSlice(
                transaction: transaction, firstSlot: 0, lastSlot: UInt32(last), octets: path(behind: header))
        }
        var writer = SliceWriter(update: self, first: first, last: last)
        writer.write(level: height)
        return UpdateSlice(
            transaction: transaction, firstSlot: UInt32(first), lastSlot: UInt32(last),
            octets: header.octets + writer.finish())
    }

    /// The same octets that `SliceWriter` gives, for one node a level and all slots.
    private func path(behind header: SliceHeader) -> [UInt8] {
        let degree = shape.degree
        var codes = BitWriter()
        codes.reserve(octets: 32)
        var level = height
        for node in content.plan.nodes.reversed() {
            node.write(degree: degree, level: level, hasSteps: content.plan.hasSteps, to: &codes)
            level -= 1
        }
        let (head, bits, text) = (header.octets, codes.octets, content.plan.text)
        let width = content.plan.width
        var octets = [UInt8](
            repeating: 0, count: head.count + bits.count + content.plan.targets.count * width)
        var place = 0
        do {
            var result = octets.mutableSpan
            Self.copy(head, head.indices, to: &result, at: &place)
            Self.copy(bits, bits.indices, to: &result, at: &place)
            // Keys stand from the lowest level up, and go out from the root down.
            level = height
            while level > 0 {
                let start = content.plan.targetStarts[level] * width
                let end = content.plan.targetStarts[level + 1] * width
                Self.copy(text, start..<end, to: &result, at: &place)
                level -= 1
            }
        }
        return octets
    }

    @inline(__always)
    private static func copy(
        _ source: [UInt8], _ range: Range<Int>, to result: inout MutableSpan<UInt8>, at place: inout Int
    ) {
        for index in range {
            result[place] = source[index]
            place += 1
        }
    }

    /// Bits that the codes of a node's children take.
    func bits(_ node: ChangedNode, level: Int) -> Int {
        guard node.isReplaced else { return level == 1 ? 0 : shape.degree }
        guard level > 1 else { return shape.degree }
        let replaced = (node.replaced & node.listeners).nonzeroBitCount
        let stepped = (node.stepped & node.listeners).nonzeroBitCount
        let listeners = node.listeners.nonzeroBitCount
        return replaced + 3 * stepped + 2 * (listeners - replaced - stepped)
            + (hasSteps ? 3 : 2) * (shape.degree - listeners)
    }
}

/// Writes the nodes that have to do with a range of slots, and their wrapped keys, from the root down.
private struct SliceWriter {
    let update: Update
    let first: Int
    let last: Int
    /// The next node and the next wrapped key of each level.
    var nodes: [Int]
    var targets: [Int]
    var codes = BitWriter()
    var text: [UInt8] = []

    init(update: Update, first: Int, last: Int) {
        self.update = update
        self.first = first
        self.last = last
        nodes = Array(repeating: 0, count: update.height + 1)
        targets = nodes
        codes.reserve(octets: 32)
        text.reserveCapacity(min(update.content.plan.targets.count * update.content.plan.width, 2_048))
        for level in 1...update.height {
            nodes[level] = update.content.plan.firstNode(level, from: first / update.shape.spans[level])
            targets[level] = update.content.plan.firstTarget(level, from: first / update.shape.spans[level - 1])
        }
    }

    mutating func write(level: Int) {
        let node = update.content.plan.nodes[nodes[level]]
        nodes[level] += 1
        node.write(degree: update.shape.degree, level: level, hasSteps: update.hasSteps, to: &codes)
        let base = Int(node.index) * update.shape.degree
        let range = (first / update.shape.spans[level - 1] - base)...(last / update.shape.spans[level - 1] - base)
        let wrapped = node.wrapped(origin: update.origin).within(range)
        let width = update.content.plan.width
        let start = targets[level] * width
        targets[level] += wrapped.nonzeroBitCount
        text.append(contentsOf: update.content.plan.text[start..<targets[level] * width])
        guard level > 1 else { return }
        var visited = ((node.replaced | node.stepped) & node.listeners).within(range)
        while visited != 0 {
            visited &= visited - 1
            write(level: level - 1)
        }
    }

    consuming func finish() -> [UInt8] { codes.octets + text }
}

extension ChildMask {
    /// The children whose number lies in a range.
    func within(_ range: ClosedRange<Int>) -> ChildMask {
        if range.lowerBound <= 0 && range.upperBound >= 15 { return self }
        guard range.upperBound >= 0, range.lowerBound <= 15 else { return 0 }
        let upper = ChildMask.max >> UInt16(15 - Swift.min(range.upperBound, 15))
        return self & upper & (ChildMask.max << UInt16(Swift.max(range.lowerBound, 0)))
    }
}
