// SPDX-License-Identifier: Apache-2.0

import Basics

/// One self-standing part of an update: what the members of some slots need, as octets (docs/KEYTREE.md 4).
public struct UpdateSlice: Sendable, Hashable {
    /// The change of keys that this belongs to. It is not among the octets: the signed message around them says it.
    public let transaction: UInt64
    public let firstSlot: UInt32
    public let lastSlot: UInt32
    public let octets: [UInt8]

    init(transaction: UInt64, firstSlot: UInt32, lastSlot: UInt32, octets: [UInt8]) {
        self.transaction = transaction
        self.firstSlot = firstSlot
        self.lastSlot = lastSlot
        self.octets = octets
    }

    /// Takes the octets of a message. Throws `malformed`, for the header at once and for the rest here too.
    public init(octets: [UInt8], transaction: UInt64) throws(KeyTreeError) {
        var reader = try SliceReader(octets)
        guard UInt64(reader.header.distance) <= transaction else { throw .malformed }
        try reader.walk { _ in }
        self.init(
            transaction: transaction, firstSlot: UInt32(reader.header.first), lastSlot: UInt32(reader.header.last),
            octets: octets)
    }

    /// What it says, spelled out: for tools and tests. Throws `malformed`.
    public func changes() throws(KeyTreeError) -> [NodeChange] {
        var reader = try SliceReader(octets)
        var visits: [SliceVisit] = []
        try reader.walk { visits.append($0) }
        return visits.map { visit in
            var wrapped: [NodeChange.Wrapped] = []
            var rest = visit.wrapped
            var position = visit.firstKey
            while rest != 0 {
                let child = NodeID(level: visit.level - 1, index: visit.firstChild(reader.header.shape) + rest.lowest)
                wrapped.append(NodeChange.Wrapped(child: child, text: Array(reader.wrappedKey(position))))
                position += 1
                rest &= rest - 1
            }
            let source = visit.node.isReplaced ? visit.node.source(origin: reader.header.origin) : nil
            return NodeChange(
                node: NodeID(level: visit.level, index: Int(visit.node.index)), isReplaced: visit.node.isReplaced,
                source: source.map {
                    NodeID(level: visit.level - 1, index: visit.firstChild(reader.header.shape) + $0)
                }, wrapped: wrapped)
        }
    }
}

/// What becomes of one node.
public struct NodeChange: Sendable, Hashable {
    /// Its new key for the holders of a child's key.
    public struct Wrapped: Sendable, Hashable {
        public var child: NodeID
        public var text: [UInt8]
    }
    public var node: NodeID
    /// A new key; otherwise the old one steps forward.
    public var isReplaced: Bool
    /// The child that a new key is derived from; nil for a fresh one.
    public var source: NodeID?
    public var wrapped: [Wrapped]
}

/// The first 20 octets of a slice.
struct SliceHeader {
    static let size = 20
    static let checkSize = 4

    var wrapping: KeyWrapping
    var origin: KeyOrigin
    var hasSteps: Bool
    var isRootReplaced: Bool
    var shape: Shape
    var height: Int
    var distance: UInt32
    var first: Int
    var last: Int
    var check: [UInt8]

    var octets: [UInt8] {
        var writer = OctetWriter(capacity: Self.size)
        writer.u8(wrapping.rawValue | (hasSteps ? 2 : 0) | (origin == .fresh ? 4 : 0) | (isRootReplaced ? 8 : 0))
        writer.u8(UInt8(truncatingIfNeeded: shape.degree))
        writer.u8(UInt8(truncatingIfNeeded: height))
        writer.u8(0)
        writer.u32(distance)
        writer.u32(UInt32(truncatingIfNeeded: first))
        writer.u32(UInt32(truncatingIfNeeded: last))
        writer.append(check)
        return writer.bytes
    }

    init(
        wrapping: KeyWrapping, origin: KeyOrigin, hasSteps: Bool, isRootReplaced: Bool, shape: Shape, height: Int,
        distance: UInt32, first: Int, last: Int, check: [UInt8]
    ) {
        self.wrapping = wrapping
        self.origin = origin
        self.hasSteps = hasSteps
        self.isRootReplaced = isRootReplaced
        self.shape = shape
        self.height = height
        self.distance = distance
        self.first = first
        self.last = last
        self.check = check
    }

    init(reading reader: inout OctetReader) throws(KeyTreeError) {
        do {
            let flags = try reader.u8()
            let degree = Int(try reader.u8())
            let height = Int(try reader.u8())
            let reserved = try reader.u8()
            let distance = try reader.u32()
            let first = Int(try reader.u32())
            let last = Int(try reader.u32())
            let check = try reader.bytes(Self.checkSize)
            guard flags & 0xf0 == 0, reserved == 0, distance > 0, let wrapping = KeyWrapping(rawValue: flags & 1),
                let shape = Shape(degree: degree), (1...shape.heightLimit).contains(height), first <= last,
                last < shape.spans[height],
                // The root either is replaced or steps forward; otherwise there would be no update.
                flags & 0b1010 != 0
            else { throw KeyTreeError.malformed }
            self.init(
                wrapping: wrapping, origin: flags & 4 == 0 ? .child : .fresh, hasSteps: flags & 2 != 0,
                isRootReplaced: flags & 8 != 0, shape: shape, height: height, distance: distance, first: first,
                last: last, check: check)
        } catch { throw .malformed }
    }
}

/// One changed node as the reader comes by.
struct SliceVisit {
    var level: Int
    var node: ChangedNode
    /// The children in the slice's range that the new key is wrapped for, and the number of the first of these keys.
    var wrapped: ChildMask
    var firstKey: Int

    func firstChild(_ shape: Shape) -> Int { Int(node.index) * shape.degree }
}

/// Reads a slice, from the root down. Every step takes bits from what is there, so nothing that an attacker writes
/// makes it work longer than the octets last.
struct SliceReader {
    let header: SliceHeader
    private let rest: ArraySlice<UInt8>
    private var codes: BitReader
    private var keyCount = 0

    init(_ octets: [UInt8]) throws(KeyTreeError) {
        var reader = OctetReader(octets)
        header = try SliceHeader(reading: &reader)
        rest = reader.rest
        codes = BitReader(reader.rest)
    }

    /// Calls for every changed node above the slice's slots, parents first, children in order. Throws `malformed`, then
    /// nothing of what was called for counts.
    mutating func walk(_ body: (SliceVisit) -> Void) throws(KeyTreeError) {
        codes = BitReader(rest)
        keyCount = 0
        try visit(level: header.height, index: 0, isReplaced: header.isRootReplaced, body)
        try codes.finish()
        guard codes.octets.count == keyCount * header.wrapping.width else { throw .malformed }
    }

    /// A wrapped key, after `walk` found that there are so many.
    func wrappedKey(_ position: Int) -> ArraySlice<UInt8> {
        codes.octets.dropFirst(position * header.wrapping.width).prefix(header.wrapping.width)
    }

    private mutating func visit(
        level: Int, index: Int, isReplaced: Bool, _ body: (SliceVisit) -> Void
    ) throws(KeyTreeError) {
        let shape = header.shape
        let node = try ChangedNode(
            index: index, isReplaced: isReplaced, degree: shape.degree, level: level, hasSteps: header.hasSteps,
            reading: &codes)
        let base = index * shape.degree
        let span = shape.spans[level - 1]
        let range = (header.first / span - base)...(header.last / span - base)
        let wrapped = node.wrapped(origin: header.origin).within(range)
        body(SliceVisit(level: level, node: node, wrapped: wrapped, firstKey: keyCount))
        keyCount += wrapped.nonzeroBitCount
        guard level > 1 else { return }
        var visited = (node.replaced | node.stepped).within(range)
        while visited != 0 {
            let child = visited.lowest
            visited &= visited - 1
            try visit(level: level - 1, index: base + child, isReplaced: node.replaced.contains(child: child), body)
        }
    }
}

extension ChangedNode {
    /// Writes a code for each child.
    func write(degree: Int, level: Int, hasSteps: Bool, to codes: inout BitWriter) {
        for child in 0..<degree {
            let isListening = listeners.contains(child: child)
            if !isReplaced {
                if level > 1 { codes.bit(isListening && stepped.contains(child: child)) }
            } else if level == 1 {
                codes.bit(!isListening)
            } else if isListening && replaced.contains(child: child) {
                codes.bit(false)
            } else {
                codes.bit(true)
                let isUnchanged = isListening && !stepped.contains(child: child)
                codes.bit(!isUnchanged)
                if !isUnchanged && hasSteps { codes.bit(!isListening) }
            }
        }
    }

    /// Reads what `write` wrote. Of a stepped node's children only those that step as well are told: the others are
    /// taken for listeners, which nothing depends on.
    init(
        index: Int, isReplaced: Bool, degree: Int, level: Int, hasSteps: Bool, reading codes: inout BitReader
    ) throws(KeyTreeError) {
        var (listeners, replaced, stepped) = (ChildMask(0), ChildMask(0), ChildMask(0))
        for child in 0..<degree {
            let bit = ChildMask.child(child)
            if !isReplaced {
                listeners |= bit
                if level > 1, try codes.bit() { stepped |= bit }
            } else if level == 1 {
                if try !codes.bit() { listeners |= bit }
            } else if try !codes.bit() {
                listeners |= bit
                replaced |= bit
            } else if try !codes.bit() {
                listeners |= bit
            } else if hasSteps, try !codes.bit() {
                listeners |= bit
                stepped |= bit
            }
        }
        // A key is replaced for somebody who is still there.
        guard listeners != 0 else { throw .malformed }
        self.init(
            index: UInt32(truncatingIfNeeded: index), isReplaced: isReplaced, listeners: listeners, replaced: replaced,
            stepped: stepped)
    }
}

/// Bits, the most significant of each octet first.
struct BitWriter {
    private var whole: [UInt8] = []
    private var current: UInt8 = 0
    private var used = 0

    /// All bits so far, filled up with zeros.
    var octets: [UInt8] { used == 0 ? whole : whole + [current << UInt8(8 - used)] }

    mutating func reserve(octets count: Int) { whole.reserveCapacity(count) }

    @inline(__always)
    mutating func bit(_ value: Bool) {
        current = current << 1 | (value ? 1 : 0)
        used += 1
        guard used == 8 else { return }
        whole.append(current)
        (current, used) = (0, 0)
    }
}

struct BitReader {
    /// What no bit was taken from yet.
    private(set) var octets: ArraySlice<UInt8>
    private var current: UInt8 = 0
    private var left = 0

    init(_ octets: ArraySlice<UInt8>) { self.octets = octets }

    mutating func bit() throws(KeyTreeError) -> Bool {
        if left == 0 {
            guard let next = octets.popFirst() else { throw .malformed }
            current = next
            left = 8
        }
        left -= 1
        return current >> UInt8(left) & 1 == 1
    }

    /// The rest of the last octet, which must be zero.
    mutating func finish() throws(KeyTreeError) {
        guard current & (1 << UInt8(left) &- 1) == 0 else { throw .malformed }
        left = 0
    }
}
