// SPDX-License-Identifier: Apache-2.0

internal import ErasureCode
internal import FMKE

/// One data datagram of a transaction: its plain body and the members (by index) whose keys are inside.
public struct PushPart: Sendable, Hashable {
    public var body: [UInt8]
    public var members: ClosedRange<UInt32>

    public init(body: [UInt8], members: ClosedRange<UInt32>) {
        self.body = body
        self.members = members
    }
}

/// Data datagrams that are coded together.
struct PushBlock: Sendable {
    let number: UInt16
    let parts: [PushPart]
    /// All whom its parts serve.
    let members: ClosedRange<UInt32>
    /// Datagrams beyond the data in the first transmission.
    var extra = 0
    /// What a member of this block needs at most, of those that asked in this round; how many asked, and for which
    /// parts.
    var needed = 0
    var asking = 0
    var askedParts: Set<Int> = []
    /// The range of those that have not confirmed, as of the present round; nil when all have.
    var unconfirmed: ClosedRange<UInt32>?
    private var nextIndex = 0
    private var shards: ErasureCode.Shards?

    var dataCount: Int { parts.count }
    private static let indicesMost = ErasureCode.shardsMost

    private init(number: Int, parts: [PushPart]) {
        self.number = UInt16(clamping: number)
        self.parts = parts
        let (first, last) = (parts.map(\.members.lowerBound).min() ?? 0, parts.map(\.members.upperBound).max() ?? 0)
        members = first...last
        unconfirmed = members
    }

    /// Blocks of about equal size, at most `size` parts each, in the order of members.
    static func blocks(of parts: [PushPart], size: Int, blocksMost: Int = 4_096) -> [PushBlock] {
        guard !parts.isEmpty else { return [] }
        let ordered = parts.sorted { $0.members.lowerBound < $1.members.lowerBound }
        let size = min(max(size, 1), 128)
        let count = min((ordered.count + size - 1) / size, blocksMost)
        return (0..<count).map { number in
            let range = ordered.count * number / count..<ordered.count * (number + 1) / count
            return PushBlock(number: number, parts: Array(ordered[range]))
        }
    }

    /// The part that serves a member; nil when none does.
    func part(of member: UInt32) -> Int? {
        var position = partition(parts.count) { parts[$0].members.lowerBound <= member } - 1
        // Parts seldom overlap; the one before may reach further all the same.
        while position >= 0 {
            if parts[position].members.contains(member) { return position }
            position -= 1
        }
        return nil
    }

    /// An index that was not sent yet, as long as there are such: data first, then parity, then all again.
    mutating func takeIndex() -> UInt8 {
        defer { nextIndex = (nextIndex + 1) % Self.indicesMost }
        return UInt8(clamping: nextIndex)
    }

    /// The final body: the plain body of a data datagram, the shard of parity. nil for bodies that no shard holds.
    mutating func body(_ index: UInt8) -> [UInt8]? {
        if index < dataCount { return parts[Int(index)].body }
        if dataCount == 1 { return try? Shard.make(parts[0].body, size: parts[0].body.count + Shard.lengthSize) }
        do {
            if shards == nil {
                let size = (parts.map(\.body.count).max() ?? 0) + Shard.lengthSize
                var made: [[UInt8]] = []
                for part in parts { made.append(try Shard.make(part.body, size: size)) }
                shards = try ErasureCode.Shards(made)
            }
            return try shards?.parity(Int(index), by: ErasureCode(dataCount: dataCount))
        } catch {
            return nil
        }
    }

    mutating func forgetRequests() {
        (needed, asking) = (0, 0)
        askedParts.removeAll()
    }
}
