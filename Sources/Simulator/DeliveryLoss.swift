// SPDX-License-Identifier: Apache-2.0

public import Basics
internal import Glibc

/// How a path loses datagrams in a delivery run.
public enum DeliveryLoss: Sendable, Hashable {
    /// Each datagram by itself, with this probability.
    case independent(Double)
    /// Two states in continuous time: everything is lost in the bad one, nothing in the good one. `share` of the time
    /// is bad, a bad time lasts `mean` on average, exponentially distributed. How much two datagrams share their fate
    /// follows from the time between them.
    case bursts(share: Double, mean: Duration)

    /// Zhang, Lam, Lee and Yang's model: bad times of 100 p ms on average, good ones of 100 (1 - p) ms.
    public static func published(_ share: Double) -> DeliveryLoss {
        .bursts(share: share, mean: .nanoseconds(Int64(share * 100e6)))
    }

    /// In the long run.
    public var share: Double {
        switch self {
        case .independent(let share), .bursts(let share, _): share
        }
    }

    /// The probability that a datagram is lost when the one before, this much earlier, was lost or was not.
    func probabilities(after seconds: Double) -> (afterLoss: Double, afterPass: Double) {
        switch self {
        case .independent(let share): return (share, share)
        case .bursts(let share, let mean):
            let memory = mean.inSeconds * (1 - share)
            let kept = memory > 0 ? exp(-seconds / memory) : 0
            return (share + (1 - share) * kept, share * (1 - kept))
        }
    }
}

/// Members whose paths are alike.
public struct MemberClass: Sendable, Hashable {
    /// Of all members.
    public var share: Double
    public var loss: DeliveryLoss

    public init(share: Double, loss: DeliveryLoss) {
        self.share = share
        self.loss = loss
    }
}

/// Random numbers as a value, for loops over millions of members: SplitMix64.
public struct LoopRandom: Sendable {
    private var state: UInt64

    public init(seed: UInt64) { state = seed }

    @inline(__always) public mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var z = state
        z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
        return z ^ (z >> 31)
    }

    /// In `0..<1`.
    public mutating func unit() -> Double { Double(next() >> 11) * 0x1p-53 }

    /// In `0..<bound`; the bias of 2^-64 times the bound does not matter here.
    public mutating func number(below bound: Int) -> Int { Int(next().multipliedFullWidth(by: UInt64(bound)).high) }

    /// So many different numbers below `bound`, in random order.
    public mutating func choose(_ count: Int, below bound: Int) -> [Int] {
        var all = Array(0..<bound)
        let count = min(count, bound)
        for place in 0..<count { all.swapAt(place, place + number(below: bound - place)) }
        return Array(all.prefix(count))
    }
}

/// The losses of a multicast on its way to many members: once at the source for all, then for each member by itself.
public struct LossField: Sendable {
    private let source: DeliveryLoss
    private let classes: [DeliveryLoss]
    private let classOf: [UInt8]
    private var isBad: [Bool]
    private var isSourceBad = false
    private var lastSourceAt: Instant?
    /// Of a datagram that the source did not lose.
    private var lastAt: Instant?
    /// By class, after a datagram that passed and after one that was lost: lost below this.
    private var limits: [UInt64] = []
    private var random: LoopRandom

    /// Exactly the given share of members, rounded, is in each class; who, is random. The last class takes the rest.
    public init(members: Int, source: DeliveryLoss, classes: [MemberClass], random: LoopRandom) {
        self.source = source
        self.classes = classes.isEmpty ? [.independent(0)] : classes.map(\.loss)
        self.random = random
        var classOf = [UInt8](repeating: UInt8(clamping: self.classes.count - 1), count: members)
        var start = 0
        var mixed = LoopRandom(seed: self.random.next())
        let order = classes.count > 1 ? mixed.choose(members, below: members) : []
        for (number, kind) in classes.dropLast().enumerated() {
            let end = min(start + Int((kind.share * Double(members)).rounded()), members)
            for member in order[start..<end] { classOf[member] = UInt8(clamping: number) }
            start = end
        }
        self.classOf = classOf
        isBad = Array(repeating: false, count: members)
        for member in isBad.indices {
            isBad[member] = self.random.unit() < self.classes[Int(classOf[member])].share
        }
    }

    /// A datagram sets out. False: it is lost for all, before the satellite.
    public mutating func begin(at now: Instant) -> Bool {
        let (afterSourceLoss, afterSourcePass) = source.probabilities(after: seconds(since: lastSourceAt, now))
        lastSourceAt = now
        isSourceBad = random.next() < Self.limit(isSourceBad ? afterSourceLoss : afterSourcePass)
        guard !isSourceBad else { return false }
        let gap = seconds(since: lastAt, now)
        lastAt = now
        limits.removeAll(keepingCapacity: true)
        for loss in classes {
            let (afterLoss, afterPass) = loss.probabilities(after: gap)
            limits.append(Self.limit(afterPass))
            limits.append(Self.limit(afterLoss))
        }
        return true
    }

    private func seconds(since last: Instant?, _ now: Instant) -> Double {
        last.map { (now - $0).inSeconds } ?? .infinity
    }

    /// Whether the datagram is lost for this member; once for each datagram and member.
    @inline(__always) public mutating func loses(_ member: Int) -> Bool {
        let state = isBad[member]
        let isLost = random.next() < limits[Int(classOf[member]) * 2 + (state ? 1 : 0)]
        if isLost != state { isBad[member] = isLost }
        return isLost
    }

    /// Whether a datagram for this member alone is lost: by itself, both at the source and on its own path.
    public mutating func losesUnicast(_ member: Int) -> Bool {
        let pass = (1 - source.share) * (1 - classes[Int(classOf[member])].share)
        return random.unit() >= pass
    }

    /// The share of datagrams that the member's own path loses in the long run.
    public func share(of member: Int) -> Double { classes[Int(classOf[member])].share }

    private static func limit(_ probability: Double) -> UInt64 {
        probability >= 1 ? .max : UInt64(max(probability, 0) * 0x1p64)
    }
}
