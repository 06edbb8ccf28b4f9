// SPDX-License-Identifier: Apache-2.0

import Cryptography

// KeyTree owns the logical key hierarchy of a group: which keys there are, which of them a join or a leave changes,
// what is wrapped for whom, and what a member computes for itself. The server's half (`KeyTreeServer`) turns the joins
// and leaves of an interval into one `Update`; the member's half (`KeyTreeMember`) turns a slice of it into the new
// group key. The octets, the labels and the reasons are in docs/KEYTREE.md.

/// What is refused, and why. No case carries a key.
public enum KeyTreeError: Error, Hashable, Sendable {
    /// Octets that are no update slice, no member keys or no record.
    case malformed
    /// An update that follows another than the member's last one: it needs its keys anew.
    case missed(transaction: UInt64)
    /// The new keys do not fit the check value: the member and the server disagree about an older key.
    case diverged
    /// A transaction number that is not above the last one.
    case stale
    /// A slot without a member, or one whose keys are not there yet.
    case noMember
    /// A slot that somebody sits in, or is about to.
    case taken
    /// The tree has as many slots as it can have.
    case full
    /// A limit on the octets of a slice that leaves no room for what one member needs.
    case tooLong
    /// libcrypto gave up.
    case failed
}

/// How a new key is wrapped under the key of a child.
public enum KeyWrapping: UInt8, Sendable, Hashable {
    /// 16 octets: the key exclusive-or a one-time sub-key. The signature around the update guards it.
    case mask = 0
    /// 24 octets: AES key wrap (RFC 3394) under a one-time sub-key.
    case aesKeyWrap = 1
}

/// Where the lowest changed key of a path comes from.
public enum KeyOrigin: UInt8, Sendable, Hashable {
    /// A PRF of a child's key that no leaver knows: nothing is sent for that child.
    case child = 0
    /// Fresh randomness, wrapped for every child: one key more per changed path.
    case fresh = 1
}

/// What is fixed when a tree is planted.
public struct KeyTreeParameters: Sendable, Hashable {
    /// Children of a node, 2 to 16.
    public var degree: Int
    public var wrapping: KeyWrapping
    public var origin: KeyOrigin
    /// Whether the keys above a newcomer step forward, so that it reads nothing from before. Without it, a newcomer
    /// learns the group key that was in use and keys that older group keys were derived from.
    public var backwardSecrecy: Bool

    public init(
        degree: Int = 2, wrapping: KeyWrapping = .mask, origin: KeyOrigin = .child, backwardSecrecy: Bool = true
    ) {
        self.degree = degree
        self.wrapping = wrapping
        self.origin = origin
        self.backwardSecrecy = backwardSecrecy
    }
}

/// A node of the tree, named the same for as long as the tree stands: its level above the leaves (5 bits) and its place
/// in that level (27 bits). Leaves are level 0, and a leaf's place is the member's slot.
public struct NodeID: Sendable, Hashable, Comparable, RawRepresentable {
    public let rawValue: UInt32

    public init(rawValue: UInt32) { self.rawValue = rawValue }

    /// `level` below 32 and `index` below 2^27; what is above is cut off.
    public init(level: Int, index: Int) {
        rawValue = UInt32(truncatingIfNeeded: level) << 27 | UInt32(truncatingIfNeeded: index) & 0x7ff_ffff
    }

    public var level: Int { Int(rawValue >> 27) }
    public var index: Int { Int(rawValue & 0x7ff_ffff) }

    public static func < (left: NodeID, right: NodeID) -> Bool { left.rawValue < right.rawValue }
}

/// The tree's arithmetic: a complete tree of some degree whose slots are numbered from 0.
struct Shape: Sendable, Hashable {
    static let degrees = 2...16
    static let slotLimit = 1 << 27

    let degree: Int
    /// Slots below a node of each level: 1, d, d^2, ... up to `slotLimit`.
    let spans: [Int]

    init?(degree: Int) {
        guard Self.degrees.contains(degree) else { return nil }
        self.degree = degree
        var spans = [1]
        while let last = spans.last, last * degree <= Self.slotLimit { spans.append(last * degree) }
        self.spans = spans
    }

    var heightLimit: Int { spans.count - 1 }

    /// The place, in its level, of the node above a slot.
    func index(above slot: Int, level: Int) -> Int { slot / spans[level] }

    /// Which child of the node at `level` is above a slot.
    func child(of level: Int, above slot: Int) -> Int { slot / spans[level - 1] % degree }
}

/// Children of a node, a bit each: at most 16.
typealias ChildMask = UInt16

extension ChildMask {
    /// The lowest child in the set.
    var lowest: Int { trailingZeroBitCount }
    func contains(child: Int) -> Bool { self >> UInt16(child) & 1 == 1 }
    static func child(_ index: Int) -> ChildMask { 1 << UInt16(index) }
}

/// What is known of a node that changes and has members below it who must follow.
struct ChangedNode: Sendable {
    var index: UInt32
    /// True: it has a new key that its leavers cannot know. False: its key stepped forward for newcomers.
    var isReplaced: Bool
    /// The children with members below that must follow.
    var listeners: ChildMask
    /// Those of them that are replaced or stepped themselves.
    var replaced: ChildMask
    var stepped: ChildMask

    /// The child that a replaced node's key is derived from: a replaced one first, so that the other children's members
    /// need one wrapped key each; nil: it is fresh.
    func source(origin: KeyOrigin) -> Int? {
        let candidates = replaced & listeners
        if candidates != 0 { return candidates.lowest }
        return origin == .fresh ? nil : listeners.lowest
    }

    /// The children that the new key is wrapped for.
    func wrapped(origin: KeyOrigin) -> ChildMask {
        guard isReplaced else { return 0 }
        return source(origin: origin).map { listeners & ~ChildMask.child($0) } ?? listeners
    }
}

/// What a key of the tree is used for. It stands in the first octet of everything a key is applied to, so no two uses
/// ever compute the same block.
enum Purpose: UInt64 {
    /// The one-time sub-key that wraps a parent's new key for this child.
    case wrap = 1
    /// The parent's new key.
    case derive = 2
    /// This node's next key, when somebody joined below it.
    case step = 3
    /// The check value over the root key.
    case check = 4
    /// The two halves of the group key.
    case groupHigh = 5
    case groupLow = 6

    /// - Parameters:
    ///   - node: the node whose key is made or carried.
    ///   - transaction: the change of keys it belongs to; 0 for the group key.
    func block(_ node: NodeID, _ transaction: UInt64) -> PRFBlock {
        PRFBlock(high: rawValue << 56 | UInt64(node.rawValue), low: transaction)
    }
}

/// The group key that stands on a root key: 32 octets, for the KEK of the group.
func groupKey(prf: BlockPRF, root keys: KeyTable, at index: Int, id: NodeID) -> Secret {
    let halves = KeyTable(count: 2)
    prf.derive(from: keys, at: index, Purpose.groupHigh.block(id, 0), into: halves, at: 0)
    prf.derive(from: keys, at: index, Purpose.groupLow.block(id, 0), into: halves, at: 1)
    return halves.joined()
}

/// The check value of a transaction: four octets that only holders of the new root key can compute.
func checkValue(prf: BlockPRF, root keys: KeyTable, at index: Int, id: NodeID, transaction: UInt64) -> [UInt8] {
    // It goes out in every update: no secret.
    prf.octets(with: keys, at: index, Purpose.check.block(id, transaction), count: SliceHeader.checkSize)
}
