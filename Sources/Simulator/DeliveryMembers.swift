// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import FMKE
internal import ReliablePush

/// All members of a delivery run, as columns: one loop brings a datagram to all of them.
struct DeliveryMembers {
    static let never = Int64.max

    var receivers: [PushReceiver] = []
    let isDeaf: [Bool]

    // Of the transaction under way.
    /// Neither deaf nor absent.
    private(set) var takesPart: [Bool] = []
    /// Loses all that the first round sends.
    private var losesFirstRound: [Bool] = []
    /// The part that serves each member.
    private var partOf: [UInt32] = []
    private(set) var servedAt: [Int64] = []
    private(set) var servedCount = 0
    var isConfirmed: [Bool] = []
    /// When each member has an entry in the queue.
    var wakesAt: [Int64] = []

    init(count: Int, isDeaf: [Bool], random: inout LoopRandom) {
        self.isDeaf = isDeaf
        receivers.reserveCapacity(count)
        for member in 0..<count {
            receivers.append(PushReceiver(memberIndex: UInt32(member), complete: 0, seed: random.next()))
        }
    }

    var count: Int { receivers.count }

    mutating func begin(_ parts: [DeliveryPart], without absent: [Int], losing: [Int]) {
        takesPart = isDeaf.map { !$0 }
        for member in absent { takesPart[member] = false }
        losesFirstRound = []
        if !losing.isEmpty {
            losesFirstRound = Array(repeating: false, count: count)
            for member in losing { losesFirstRound[member] = true }
        }
        partOf = Array(repeating: 0, count: count)
        for (number, part) in parts.enumerated() where Int(part.members.lowerBound) < count {
            for member in Int(part.members.lowerBound)...min(Int(part.members.upperBound), count - 1) {
                partOf[member] = UInt32(truncatingIfNeeded: number)
            }
        }
        servedAt = Array(repeating: Self.never, count: count)
        servedCount = 0
        wakesAt = servedAt
        isConfirmed = Array(repeating: false, count: count)
    }

    /// A multicast that the source did not lose comes down. Gives how many members it served.
    mutating func reach(
        _ header: TransactionHeader, _ body: [UInt8], now: Instant, field: inout LossField, queue: inout DeliveryQueue
    ) -> Int {
        let isScripted = !losesFirstRound.isEmpty && header.feedback.round == 0 && header.kind != .beacon
        var served = 0
        for member in receivers.indices {
            guard !field.loses(member), takesPart[member] else { continue }
            if isScripted, losesFirstRound[member] { continue }
            let outcome = receivers[member].receive(header, body: body, now: now)
            if case .bodies(_, let bodies) = outcome, servedAt[member] == Self.never,
                bodies.contains(where: { Self.number(of: $0) == partOf[member] })
            {
                serve(member, header.transaction, now: now)
                served += 1
            }
            schedule(member, &queue)
        }
        return served
    }

    mutating func serve(_ member: Int, _ transaction: UInt64, now: Instant) {
        receivers[member].completed(transaction)
        servedAt[member] = now.nanoseconds
        servedCount += 1
    }

    func isServed(_ member: UInt32) -> Bool { servedAt[Int(member)] != Self.never }

    @inline(__always) mutating func schedule(_ member: Int, _ queue: inout DeliveryQueue) {
        guard let due = receivers[member].due, due.nanoseconds < wakesAt[member] else { return }
        wakesAt[member] = due.nanoseconds
        queue.schedule(.member(UInt32(truncatingIfNeeded: member)), at: due)
    }

    /// A body that says which part it is, filled up with zeros.
    static func body(_ number: Int, octets: Int) -> [UInt8] {
        let number = UInt32(truncatingIfNeeded: number)
        return (0..<max(octets, 4)).map { $0 < 4 ? UInt8(truncatingIfNeeded: number >> UInt32(8 * $0)) : 0 }
    }

    @inline(__always) private static func number(of body: [UInt8]) -> UInt32 {
        guard body.count >= 4 else { return .max }
        return UInt32(body[0]) | UInt32(body[1]) << 8 | UInt32(body[2]) << 16 | UInt32(body[3]) << 24
    }
}
