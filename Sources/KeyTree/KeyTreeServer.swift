// SPDX-License-Identifier: Apache-2.0

public import Basics
public import Cryptography

/// The key server's half of one group's tree: who sits where, and every key.
///
/// `join` and `leave` only note what is to happen; `commit` does it all at once, as one transaction. A key takes 16
/// octets; the nodes of a level lie one behind the other, and there is no object per node.
public final class KeyTreeServer {
    public let parameters: KeyTreeParameters
    /// The transaction that the keys belong to: 0 at first, then that of the last change.
    public internal(set) var transaction: UInt64 = 0
    /// Levels above the leaves.
    public internal(set) var height = 1
    /// Members, newcomers included, without those about to leave.
    public internal(set) var memberCount = 0

    let shape: Shape
    let prf: BlockPRF
    let random: any RandomSource
    /// The keys, by level and place.
    var keys: [KeyTable] { didSet { stack = KeyStack(keys) } }
    /// The same, for the work on a path.
    private(set) var stack: KeyStack
    /// Which children of a node have members below them, by level and place; nothing for the leaves.
    var present: [[ChildMask]]
    /// Slots that were ever used: all below this number.
    var used = 0
    /// What there is room for.
    private var extended = 0
    /// What `fetchPath` read: without a use of it, the reading would be left out.
    private var fetched = ChildMask(0)
    /// Slots below `used` without a member, and those about to lose theirs: the lowest is taken first. Some are taken
    /// already, by `join(at:)`: who takes one from here looks.
    var free = SlotQueue()
    /// The height that members know of.
    var announcedHeight = 1
    var leaving = SlotSet()
    var joining = SlotSet()

    /// Plants a tree without members. `records` then gives what to store.
    ///
    /// Throws `malformed` for a degree outside of 2...16.
    public init(
        parameters: KeyTreeParameters = KeyTreeParameters(), random: any RandomSource
    ) throws(KeyTreeError) {
        guard let shape = Shape(degree: parameters.degree) else { throw .malformed }
        self.parameters = parameters
        self.shape = shape
        self.random = random
        do { prf = try BlockPRF() } catch { throw .failed }
        let tables = [KeyTable(count: 0), KeyTable(count: 1)]
        (keys, stack) = (tables, KeyStack(tables))
        present = [[], [0]]
        keys[1].draw(at: 0, random: random)
    }

    /// The same tree in memory of its own, with what was noted and not committed yet: what one of them does, the other
    /// knows nothing of.
    ///
    /// Throws `failed` when libcrypto does not work.
    public func copy() throws(KeyTreeError) -> KeyTreeServer {
        let copy = try KeyTreeServer(parameters: parameters, random: random)
        (copy.transaction, copy.height, copy.memberCount) = (transaction, height, memberCount)
        copy.keys = keys.map { $0.extended(to: $0.count) }
        (copy.present, copy.used, copy.extended) = (present, used, extended)
        (copy.free, copy.leaving, copy.joining) = (free, leaving, joining)
        copy.announcedHeight = announcedHeight
        return copy
    }

    /// Slots that the tree has room for before it grows.
    public var capacity: Int { shape.spans[height] }

    /// Octets of memory taken by keys.
    public var keyOctets: Int { keys.reduce(0) { $0 + $1.count * KeyTable.keySize } }

    /// The key of the whole group, 32 octets: the KEK of the transaction's PUSHes, or what it is derived from.
    public var groupKey: Secret {
        KeyTree.groupKey(prf: prf, root: keys[height], at: 0, id: NodeID(level: height, index: 0))
    }

    /// Whether somebody sits in a slot, about to leave or not; a newcomer does from its `commit` on.
    public func isMember(_ slot: UInt32) -> Bool {
        let slot = Int(slot)
        guard slot < used else { return false }
        let parent = slot / shape.degree
        guard parent < present[1].count else { return false }
        return present[1][parent].contains(child: slot % shape.degree)
    }

    /// Takes in a member: its slot, the lowest that is free. Its keys exist from the next `commit` on.
    ///
    /// Throws `full`.
    public func join() throws(KeyTreeError) -> UInt32 {
        while let lowest = free.takeLowest() {
            guard isFree(Int(lowest)) else { continue }
            note(Int(lowest))
            return lowest
        }
        if used == capacity { try grow() }
        used += 1
        note(used - 1)
        return UInt32(used - 1)
    }

    /// Takes in a member at a slot of the caller's choosing, for callers that number their members themselves.
    ///
    /// Throws `taken`, or `full` for a slot that no tree of this degree has.
    public func join(at slot: UInt32) throws(KeyTreeError) {
        let place = Int(slot)
        guard place < Shape.slotLimit else { throw .full }
        try reserve(slots: place + 1)
        if place >= used {
            for skipped in used..<place { free.insert(UInt32(skipped)) }
            used = place + 1
        } else {
            guard isFree(place) else { throw .taken }
        }
        note(place)
    }

    /// Lets the tree grow now to have so many slots. Members must be told of a tree that grows; before there are any,
    /// it costs nothing. Throws `full`.
    public func reserve(slots: Int) throws(KeyTreeError) { while capacity < slots { try grow() } }

    /// Whether somebody is about to get this slot at the next `commit`.
    public func isNewcomer(_ slot: UInt32) -> Bool { joining.contains(Int(slot)) }

    /// Whether anything was noted that the next `commit` will do.
    public var hasChanges: Bool { !joining.isEmpty || !leaving.isEmpty }

    private func isFree(_ slot: Int) -> Bool {
        !joining.contains(slot) && (!isMember(UInt32(slot)) || leaving.contains(slot))
    }

    private func note(_ slot: Int) {
        joining.insert(slot)
        memberCount += 1
    }

    /// Lets go of a member, or of a newcomer that has no keys yet. Throws `noMember`.
    public func leave(_ slot: UInt32) throws(KeyTreeError) {
        let place = Int(slot)
        if joining.contains(place) {
            joining.remove(place)
        } else {
            if leaving.isEmpty { fetchPath(above: place) }
            guard isMember(slot), !leaving.contains(place) else { throw .noMember }
            leaving.insert(place)
        }
        free.insert(slot)
        memberCount -= 1
    }

    /// Of a large tree most of a path is far away in memory. All of it begins to come at once, before the work on it
    /// waits for one level after the other.
    private func fetchPath(above slot: Int) {
        guard slot < used, slot < extended else { return }
        stack.prefetch(above: slot, degree: shape.degree)
        var (index, all) = (slot, ChildMask(0))
        for level in 1...height {
            index /= shape.degree
            all |= present[level][index]
        }
        fetched = all
    }

    /// What a member gets by unicast: every key on its path, as of `transaction`.
    ///
    /// Throws `noMember`, also for a newcomer before its `commit` and for a member about to leave.
    public func memberKeys(_ slot: UInt32) throws(KeyTreeError) -> MemberKeys {
        guard isMember(slot), !joining.contains(Int(slot)), !leaving.contains(Int(slot)) else { throw .noMember }
        let path = KeyTable(count: height + 1)
        for level in 0...height {
            path.copy(from: keys[level], at: shape.index(above: Int(slot), level: level), to: level)
        }
        return MemberKeys(slot: slot, degree: shape.degree, transaction: transaction, path: path)
    }

    /// Puts a new root above the old one. Its key comes with the next `commit`, which announces the height.
    private func grow() throws(KeyTreeError) {
        guard height < shape.heightLimit else { throw .full }
        let hasMembers = present[height][0] != 0
        height += 1
        keys.append(KeyTable(count: 1))
        present.append([hasMembers ? ChildMask.child(0) : 0])
    }

    /// Makes room for at least so many keys of a level; a table grows by a quarter at least.
    func makeRoom(level: Int, count: Int) {
        let present = keys[level].count
        if count > present { keys[level] = keys[level].extended(to: max(count, present + present / 4)) }
    }

    /// Makes room for every slot that is used.
    func extend() {
        guard used > extended else { return }
        extended = used
        for level in 0...height {
            let count = (used + shape.spans[level] - 1) / shape.spans[level]
            makeRoom(level: level, count: count)
            if level > 0, present[level].count < count {
                present[level].append(contentsOf: repeatElement(0, count: count - present[level].count))
            }
        }
    }
}

/// A set of slots: a bit each, and a list of what was put in, so that a few among millions are found at once.
struct SlotSet {
    private var words: [UInt64] = []
    private var list: [UInt32] = []

    /// Those in the set, without what was put in twice or taken out again.
    private var count = 0

    var isEmpty: Bool { count == 0 }

    func contains(_ slot: Int) -> Bool { slot >> 6 < words.count && words[slot >> 6] >> UInt64(slot & 63) & 1 == 1 }

    mutating func insert(_ slot: Int) {
        if slot >> 6 >= words.count {
            words.append(contentsOf: repeatElement(0, count: slot >> 6 + 1 - words.count))
        }
        if words[slot >> 6] >> UInt64(slot & 63) & 1 == 0 { count += 1 }
        words[slot >> 6] |= 1 << UInt64(slot & 63)
        list.append(UInt32(truncatingIfNeeded: slot))
    }

    mutating func remove(_ slot: Int) {
        guard contains(slot) else { return }
        count -= 1
        words[slot >> 6] &= ~(1 << UInt64(slot & 63))
    }

    func overlaps(_ other: SlotSet) -> Bool {
        !isEmpty && !other.isEmpty && list.contains { contains(Int($0)) && other.contains(Int($0)) }
    }

    /// All of them in ascending order; the set is empty afterwards.
    mutating func takeAll() -> [UInt32] {
        defer {
            list.removeAll(keepingCapacity: list.count < 1_024)
            count = 0
        }
        var slots: [UInt32] = []
        if list.count > words.count / 16 {
            slots.reserveCapacity(list.count)
            for index in words.indices {
                var word = words[index]
                words[index] = 0
                while word != 0 {
                    slots.append(UInt32(truncatingIfNeeded: index << 6 + word.trailingZeroBitCount))
                    word &= word - 1
                }
            }
            return slots
        }
        // Taken out on first sight: what was removed, or put in twice, does not come up again.
        for slot in list.sorted() where contains(Int(slot)) {
            remove(Int(slot))
            slots.append(slot)
        }
        return slots
    }
}

/// Free slots, the lowest first: a binary heap in an array.
struct SlotQueue {
    private var heap: [UInt32] = []

    var count: Int { heap.count }

    /// From slots in ascending order, which already are a heap.
    init(ascending slots: [UInt32] = []) { heap = slots }

    mutating func insert(_ slot: UInt32) {
        var place = heap.count
        heap.append(slot)
        while place > 0, heap[(place - 1) / 2] > slot {
            heap[place] = heap[(place - 1) / 2]
            place = (place - 1) / 2
        }
        heap[place] = slot
    }

    mutating func takeLowest() -> UInt32? {
        guard let lowest = heap.first, let last = heap.popLast() else { return nil }
        guard !heap.isEmpty else { return lowest }
        var place = 0
        while true {
            var child = 2 * place + 1
            guard child < heap.count else { break }
            if child + 1 < heap.count, heap[child + 1] < heap[child] { child += 1 }
            guard heap[child] < last else { break }
            heap[place] = heap[child]
            place = child
        }
        heap[place] = last
        return lowest
    }
}
