// SPDX-License-Identifier: Apache-2.0

public import Basics

/// A loss model at work: a value of a few octets, so that a simulator can keep one per member.
public struct LossProcess: Sendable, Hashable {
    public var model: LossModel
    /// In the bad state of the Gilbert-Elliott model?
    public private(set) var isBad = false

    public init(_ model: LossModel) { self.model = model }

    /// Decides about the next frame: nil when it gets through.
    public mutating func next(_ random: any RandomSource) -> LossCause? {
        switch model {
        case .independent(let probability):
            return random.happens(probability) ? .loss : nil
        case .gilbertElliott(let toBad, let toGood, let goodLoss, let badLoss):
            if random.happens(isBad ? toGood : toBad) { isBad.toggle() }
            guard random.happens(isBad ? badLoss : goodLoss) else { return nil }
            return isBad ? .burst : .loss
        }
    }
}

extension RandomSource {
    /// True with this probability. What is certain costs no random bits.
    func happens(_ probability: Double) -> Bool {
        probability > 0 && (probability >= 1 || unit() < probability)
    }
}
