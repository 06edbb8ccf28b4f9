// SPDX-License-Identifier: Apache-2.0

internal import Basics

/// The members of one transaction and what became of each: five octets a member, so that a million fit.
struct MemberTable: Sendable {
    enum Fate: UInt8 {
        /// Not of this transaction.
        case none
        case unconfirmed
        case confirmed
        case silent
        case refused
        case unreachable
        case revoked

        init(_ reason: UnconfirmedReason) {
            switch reason {
            case .silent: self = .silent
            case .refused: self = .refused
            case .unreachable: self = .unreachable
            case .revoked: self = .revoked
            }
        }
        var reason: UnconfirmedReason? {
            switch self {
            case .none, .unconfirmed, .confirmed: nil
            case .silent: .silent
            case .refused: .refused
            case .unreachable: .unreachable
            case .revoked: .revoked
            }
        }
    }
    /// Notes beside the fate.
    enum Note: UInt8 {
        /// Heard since the last question.
        case alive = 0x10
        /// Asked for something in this round.
        case asking = 0x20
        /// Asked for something in any round.
        case lacked = 0x40
        /// Was sent its profile while the rounds went on.
        case profiled = 0x80
    }

    private static let fateMask: UInt8 = 0x0f
    /// A table of all indices from the first to the last is kept unless it were mostly holes.
    private static let sparseFactor = 4

    let first: UInt32
    /// Where there are too many holes for a table: the members in order.
    private let sparse: [UInt32]
    private var states: [UInt8]
    /// When a confirmation came, in milliseconds after the start.
    private var times: [UInt32]
    private(set) var unconfirmedCount: Int
    private(set) var confirmedCount = 0
    private(set) var failedCount = 0
    let count: Int

    init(_ members: some Sequence<UInt32>) {
        var ordered = Array(members)
        if zip(ordered, ordered.dropFirst()).contains(where: { $0 >= $1 }) { ordered = Set(ordered).sorted() }
        first = ordered.first ?? 0
        let width = ordered.last.map { Int($0 - (ordered.first ?? 0)) + 1 } ?? 0
        count = ordered.count
        unconfirmedCount = ordered.count
        if width <= ordered.count * Self.sparseFactor + 64 {
            sparse = []
            states = [UInt8](repeating: Fate.none.rawValue, count: width)
            for member in ordered { states[Int(member - first)] = Fate.unconfirmed.rawValue }
        } else {
            sparse = ordered
            states = [UInt8](repeating: Fate.unconfirmed.rawValue, count: ordered.count)
        }
        times = [UInt32](repeating: 0, count: states.count)
    }

    /// Positions run from 0 to below this; some may be of nobody.
    var positions: Range<Int> { states.indices }

    func member(at position: Int) -> UInt32 {
        sparse.isEmpty ? first + UInt32(position) : sparse[position]
    }

    func position(of member: UInt32) -> Int? {
        if sparse.isEmpty {
            guard member >= first, Int(member - first) < states.count else { return nil }
            return Int(member - first)
        }
        let position = partition(sparse.count) { sparse[$0] < member }
        return position < sparse.count && sparse[position] == member ? position : nil
    }

    func fate(_ position: Int) -> Fate { Fate(rawValue: states[position] & Self.fateMask) ?? .none }
    func isUnconfirmed(_ position: Int) -> Bool {
        states[position] & Self.fateMask == Fate.unconfirmed.rawValue
    }
    func has(_ note: Note, _ position: Int) -> Bool { states[position] & note.rawValue != 0 }
    mutating func note(_ note: Note, _ position: Int) { states[position] |= note.rawValue }
    mutating func forget(_ note: Note, _ position: Int) { states[position] &= ~note.rawValue }
    mutating func forget(_ note: Note) {
        for position in states.indices { states[position] &= ~note.rawValue }
    }

    mutating func confirm(_ position: Int, milliseconds: UInt32) {
        set(.confirmed, position)
        times[position] = milliseconds
    }

    mutating func fail(_ position: Int, _ reason: UnconfirmedReason) { set(Fate(reason), position) }

    private mutating func set(_ fate: Fate, _ position: Int) {
        change(self.fate(position), by: -1)
        change(fate, by: 1)
        states[position] = states[position] & ~Self.fateMask | fate.rawValue
    }

    private mutating func change(_ fate: Fate, by difference: Int) {
        switch fate {
        case .none: break
        case .unconfirmed: unconfirmedCount += difference
        case .confirmed: confirmedCount += difference
        case .silent, .refused, .unreachable, .revoked: failedCount += difference
        }
    }

    /// The positions of the members in a range.
    func positions(in range: ClosedRange<UInt32>) -> Range<Int> {
        if sparse.isEmpty {
            let low = range.lowerBound <= first ? 0 : min(Int(range.lowerBound - first), states.count)
            let high = range.upperBound < first ? 0 : min(Int(range.upperBound - first) + 1, states.count)
            return low..<max(low, high)
        }
        let low = partition(sparse.count) { sparse[$0] < range.lowerBound }
        return low..<max(low, partition(sparse.count) { sparse[$0] <= range.upperBound })
    }

    func confirmations() -> Confirmations {
        let found = states.indices.filter { fate($0) == .confirmed }
        return Confirmations(members: found.map(member(at:)), milliseconds: found.map { times[$0] })
    }

    func failures() -> [UInt32: UnconfirmedReason] {
        var result: [UInt32: UnconfirmedReason] = [:]
        for position in states.indices {
            if let reason = fate(position).reason { result[member(at: position)] = reason }
        }
        return result
    }
}

/// How many of the first `count` numbers, in order, hold what is true up to somewhere and false from there on.
func partition(_ count: Int, _ isBelow: (Int) -> Bool) -> Int {
    var (low, high) = (0, count)
    while low < high {
        let middle = (low + high) / 2
        if isBelow(middle) { low = middle + 1 } else { high = middle }
    }
    return low
}
