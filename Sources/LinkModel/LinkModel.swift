// SPDX-License-Identifier: Apache-2.0

public import Basics

// LinkModel owns the imitation of a link: delay, jitter, a rate with a queue before it, loss that comes alone or in
// bursts, duplication, reordering and corruption (`Link`), and of a broadcast medium built from such links, a satellite
// with its terminals (`BroadcastMedium`). It is sans-I/O: it is told the time, it draws from a given random source, and
// it says when it has something to deliver. `satemu` drives it in real time, a simulator in virtual time.

/// How frames get lost on the way.
public enum LossModel: Sendable, Hashable {
    /// Each frame by itself, with this probability.
    case independent(Double)
    /// Two states with a loss probability each. Before each frame the state changes: good to bad with probability
    /// `toBad`, bad to good with `toGood`. Starts good.
    case gilbertElliott(toBad: Double, toGood: Double, goodLoss: Double, badLoss: Double)

    public static let none = LossModel.independent(0)

    /// The two-state model that loses the share `loss` of all frames in bursts of `meanBurst` frames on average:
    /// nothing is lost in the good state and everything in the bad one. nil unless `0 <= loss < 1`, `meanBurst >= 1`,
    /// and such bursts can come that often.
    public static func bursts(loss: Double, meanBurst: Double) -> LossModel? {
        guard loss >= 0, loss < 1, meanBurst >= 1 else { return nil }
        let toGood = 1 / meanBurst
        let toBad = loss * toGood / (1 - loss)
        guard toBad <= 1 else { return nil }
        return .gilbertElliott(toBad: toBad, toGood: toGood, goodLoss: 0, badLoss: 1)
    }

    /// The share of frames lost in the long run.
    public var meanLoss: Double {
        switch self {
        case .independent(let probability): return probability
        case .gilbertElliott(let toBad, let toGood, let goodLoss, let badLoss):
            guard toBad + toGood > 0 else { return goodLoss }
            return (toGood * goodLoss + toBad * badLoss) / (toBad + toGood)
        }
    }

    /// Are all probabilities within 0...1?
    public var isValid: Bool {
        switch self {
        case .independent(let probability): (0...1).contains(probability)
        case .gilbertElliott(let toBad, let toGood, let goodLoss, let badLoss):
            [toBad, toGood, goodLoss, badLoss].allSatisfy { (0...1).contains($0) }
        }
    }
}

/// One direction of a link. The default is perfect: no delay, no limit, no fault.
public struct LinkParameters: Sendable, Hashable {
    /// Propagation time of every frame.
    public var delay: Duration = .zero
    /// Each frame takes up to this much longer, evenly distributed. Frames do not overtake each other by it.
    public var jitter: Duration = .zero
    /// Bits of frame per second; nil for no limit.
    public var rateBitsPerSecond: UInt64?
    /// Octets that may wait for the rate, the part of a frame not yet sent included; what does not fit is lost (tail
    /// drop). Without meaning when there is no rate.
    public var queueOctets: UInt64 = 256_000
    public var loss = LossModel.none
    /// Probability that a frame arrives twice, the second copy right behind the first.
    public var duplicate: Double = 0
    /// Probability that a frame is held back by `reorderDelay`, so that later ones overtake it.
    public var reorder: Double = 0
    public var reorderDelay: Duration = .milliseconds(20)
    /// Probability that one bit of a frame is inverted.
    public var corrupt: Double = 0

    public init() {}

    /// Are all probabilities within 0...1, no time negative, and is a rate at least 1?
    public var isValid: Bool {
        loss.isValid && [duplicate, reorder, corrupt].allSatisfy { (0...1).contains($0) }
            && [delay, jitter, reorderDelay].allSatisfy { $0 >= .zero } && rateBitsPerSecond != 0
    }
}

/// Why the link lost a frame.
public enum LossCause: String, Sendable, Hashable, CaseIterable {
    /// The queue before the rate was full.
    case queue
    /// Independent loss, or loss in the good state.
    case loss
    /// Loss in the bad state of the Gilbert-Elliott model.
    case burst
}

/// What becomes of one frame; known as soon as it is sent.
public struct FrameFate: Sendable, Hashable {
    /// nil when it arrives.
    public var loss: LossCause?
    /// When it arrives; nil when it is lost.
    public var arrival: Instant?
    public var isCorrupted = false
    public var isDuplicated = false
    public var isReordered = false
}

/// A frame at the end of the link.
public struct LinkDelivery: Sendable, Hashable {
    public var frame: [UInt8]
    /// When it arrived, which is never later than the time it was asked for.
    public var arrival: Instant
}

/// What one link did. At any time `offered + duplicated == delivered + lost + in flight`.
public struct LinkCounters: Sendable, Hashable {
    public var offered: UInt64 = 0
    public var offeredOctets: UInt64 = 0
    /// Copies included.
    public var delivered: UInt64 = 0
    public var deliveredOctets: UInt64 = 0
    public var lostToQueue: UInt64 = 0
    public var lostAlone: UInt64 = 0
    public var lostInBurst: UInt64 = 0
    public var corrupted: UInt64 = 0
    public var duplicated: UInt64 = 0
    public var reordered: UInt64 = 0

    public init() {}

    public var lost: UInt64 { lostToQueue + lostAlone + lostInBurst }

    mutating func count(_ fate: FrameFate) {
        switch fate.loss {
        case .queue: lostToQueue += 1
        case .loss: lostAlone += 1
        case .burst: lostInBurst += 1
        case nil: break
        }
        corrupted += fate.isCorrupted ? 1 : 0
        duplicated += fate.isDuplicated ? 1 : 0
        reordered += fate.isReordered ? 1 : 0
    }
}
