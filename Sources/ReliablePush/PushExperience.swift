// SPDX-License-Identifier: Apache-2.0

/// What earlier transactions of a group taught: the loss that explains how many members lacked something after the
/// first transmission. The GCKS keeps one value per group.
///
/// One number serves blocks of every size. With loss p, of N members that each need one of k data datagrams, h more
/// datagrams leave lambda = N p P(Bin(k + h - 1, 1 - p) < k) without theirs. Each transaction says how many it left in
/// truth, or how many of a share said so; lambda follows it, fast upwards and slowly downwards, and p is what gives
/// this lambda. The next one sends of blocks of several datagrams the smallest h that leaves about one member, and of a
/// single datagram as many copies as are hardly ever too many.
public struct PushExperience: Sendable, Hashable {
    /// The loss, once there is something to tell it from.
    public private(set) var loss: Double?
    /// Transactions that taught something.
    public private(set) var transactions = 0

    public init() {}

    /// The loss that is reckoned with: what lies outside says more of an outage than of a channel.
    private static let lossRange = 1e-6...0.6
    /// Transactions that one transaction is weighed against on the way down.
    private static let inertia = 7.0
    /// So many of those who asked may be expected to miss the repair: another round costs more than one datagram more.
    private static let repairTolerance = 0.1
    /// Copies of one datagram, and parity of a block beyond three times its data, at most.
    private static let extraMost = 12

    /// Copies that nobody needed, as a share of those that somebody needed, that may be expected: a copy less would
    /// have to be sent later, after round trips that find out. The larger the group, the more of those, since the more
    /// carefully it is asked: so much for each doubling.
    private static let waste = 0.0045

    /// Below so many members not even one or two may be expected to miss the first transmission.
    private static let smallGroup = 96.0

    /// So many members may be expected to miss the first transmission: one or two of many, none of a few.
    static func tolerance(members: Int) -> Double { min(1.5, Double(members) / 64) }

    /// How many datagrams beyond the k data datagrams of a block the first transmission sends.
    func extra(dataCount k: Int, members: Int, policy: PushPolicy) -> Int {
        guard policy.adapts, let loss else { return Self.initialExtra(dataCount: k, policy: policy) }
        return Self.extra(dataCount: k, members: Double(members), loss: loss)
    }

    private static func extra(dataCount k: Int, members: Double, loss: Double) -> Int {
        let tolerated = extra(
            dataCount: k, atLeast: 0, most: most(k), tolerance: tolerance(members: Int(members))
        ) { missing(dataCount: k, extra: $0, members: members, loss: loss) }
        guard k == 1 else { return tolerated }
        let copies = copies(losers: members, members: members, loss: loss)
        // One transaction of a few members tells nothing of the loss, and one of them is many.
        return members < smallGroup ? max(copies - 1, tolerated) : copies - 1
    }

    /// The most copies of one datagram of which few are in vain. With lambda(c) = R p^c of R members expected to lack c
    /// copies, copy c + 1 is in vain with the probability exp(-lambda(c)), and so many are needed as the sum over c of
    /// 1 - exp(-lambda(c)).
    ///
    /// - Parameter losers: R, of a group of `members`.
    static func copies(losers: Double, members: Double, loss: Double) -> Int {
        var inVain: [Double] = []
        var (needed, lacking) = (0.0, losers)
        while lacking > 1e-9 || inVain.count <= extraMost {
            inVain.append(none(of: lacking))
            needed += 1 - none(of: lacking)
            lacking *= loss
        }
        let doublings = Int.bitWidth - Int(min(max(members, 1), 1e9)).leadingZeroBitCount
        let allowed = waste * Double(doublings) * needed
        var (count, wasted) = (1, inVain[1])
        while count < extraMost, wasted <= allowed {
            count += 1
            wasted += inVain[count]
        }
        return count
    }

    /// How many are expected to lack it, now that so many of a share of them said so: one answer of a hundredth does
    /// not prove that there are a hundred.
    static func lacking(heard: Double, share: Double, expected: Double) -> Double {
        isSurprise(heard: heard, share: share, expected: expected)
            ? heard / share : (inertia * expected + heard) / (inertia + share)
    }

    /// Each of these is one chance of a thousand, if what is expected is right. A single answer never is one, however
    /// small the share: that would count as thousands of losers, and the copies after it for many transactions.
    private static func isSurprise(heard: Double, share: Double, expected: Double) -> Bool {
        let mean = expected * share
        return heard >= 3 + 3 * mean || heard >= 2 && mean < 0.04
    }

    /// How many datagrams a repair sends to `losers` members of which each needs `needed`.
    static func repair(needed: Int, losers: Double, loss: Double) -> Int {
        let loss = min(max(loss, lossRange.lowerBound), lossRange.upperBound)
        let extra = extra(dataCount: needed, atLeast: 0, most: most(needed), tolerance: repairTolerance) { extra in
            losers * tail(trials: needed + extra, atLeast: extra + 1, probability: loss)
        }
        return needed + extra
    }

    /// How many members are expected to lack something after the first transmission; nil without experience.
    func expected(dataCount k: Int, extra: Int, members: Int) -> Double? {
        loss.map { Self.missing(dataCount: k, extra: extra, members: Double(members), loss: $0) }
    }

    /// After the first transmission of k data datagrams a block and `extra` ones, `losers` of `members` lacked theirs.
    ///
    /// - Parameter share: of those who lacked it, so many were asked: `losers` is told from their number.
    mutating func learn(losers: Double, share: Double = 1, dataCount k: Int, extra: Int, members: Int) {
        guard members > 0 else { return }
        transactions += 1
        let count = Double(members)
        // Before there is experience the configuration is taken for it.
        let expected =
            loss.map { Self.missing(dataCount: k, extra: extra, members: count, loss: $0) }
            ?? Self.tolerance(members: members) / 2
        if losers > count * PushSender.outageShare {
            // The transmission failed as a whole, perhaps at its source. That is no loss rate; one more will do.
            var raised = loss ?? Self.loss(leaving: expected, dataCount: k, extra: extra, members: count)
            while raised < Self.lossRange.upperBound,
                Self.extra(dataCount: k, members: count, loss: raised) <= extra
            { raised *= 1.1 }
            loss = min(raised, Self.lossRange.upperBound)
            return
        }
        // A datagram more is a small part of a block: it may be sent on little evidence.
        let share = k == 1 ? share : 1
        // What was configured is no more than a guess.
        let isKnown = loss != nil || losers == 0
        let next = isKnown ? Self.lacking(heard: losers * share, share: share, expected: expected) : losers
        loss = Self.loss(leaving: next, dataCount: k, extra: extra, members: count)
    }

    /// The loss that leaves so many members without theirs.
    static func loss(leaving losers: Double, dataCount k: Int, extra: Int, members: Double) -> Double {
        var (low, high) = (lossRange.lowerBound, lossRange.upperBound)
        for _ in 0..<48 {
            let middle = (low * high).squareRoot()
            if missing(dataCount: k, extra: extra, members: members, loss: middle) < losers {
                low = middle
            } else {
                high = middle
            }
        }
        return high
    }

    // MARK: Arithmetic

    private static func most(_ k: Int) -> Int { min(k == 1 ? extraMost - 1 : 3 * k + extraMost, 254 - k) }

    private static func initialExtra(dataCount k: Int, policy: PushPolicy) -> Int {
        if k == 1 { return max(policy.copies, 1) - 1 }
        // Not one more because 1.6 - 1 is a little above 0.6.
        let wanted = (Double(k) * max(policy.proactive - 1, 0) - 1e-9).rounded(.up)
        return Int(min(wanted, Double(254 - k)))
    }

    /// The smallest number from `atLeast` on for which `missing` tolerates it.
    private static func extra(
        dataCount k: Int, atLeast: Int, most: Int, tolerance: Double, _ missing: (Int) -> Double
    ) -> Int {
        var (low, high) = (atLeast, max(most, atLeast))
        while low < high {
            let middle = (low + high) / 2
            if missing(middle) <= tolerance { high = middle } else { low = middle + 1 }
        }
        return low
    }

    /// lambda, see above. A member fails when its own datagram is lost and, of the k + h - 1 others, h or more.
    private static func missing(dataCount k: Int, extra h: Int, members: Double, loss: Double) -> Double {
        members * loss * tail(trials: k + h - 1, atLeast: h, probability: loss)
    }

    /// The probability that nobody lacks something when so many are expected to: exp(-x).
    private static func none(of expected: Double) -> Double {
        guard expected < 40 else { return 0 }
        let part = expected / 1_024
        var result = 1 - part * (1 - part / 2 * (1 - part / 3))
        for _ in 0..<10 { result *= result }
        return result
    }

    /// P(Bin(trials, probability) >= atLeast).
    private static func tail(trials: Int, atLeast: Int, probability p: Double) -> Double {
        guard atLeast > 0 else { return 1 }
        guard atLeast <= trials else { return 0 }
        var term = 1.0
        for _ in 0..<trials { term *= 1 - p }
        var sum = 0.0
        for count in 0...trials {
            if count >= atLeast { sum += term }
            term *= Double(trials - count) / Double(count + 1) * p / (1 - p)
        }
        return min(sum, 1)
    }
}
