// SPDX-License-Identifier: Apache-2.0

internal import Basics
public import ReliablePush

/// The group, its links and the sender's policy in a delivery run. The control channel has the policy's `controlRate`,
/// the return channel its `returnRate`.
public struct DeliveryScenario: Sendable {
    public var members = 1_000
    public var policy = PushPolicy()
    /// From the GCKS to the satellite: what is lost there is lost for all.
    public var sourceLoss = DeliveryLoss.independent(0)
    /// From the satellite to the members.
    public var classes = [MemberClass(share: 1, loss: .independent(0))]
    /// One way, either way.
    public var delay: Duration = .milliseconds(300)
    /// Of an answer, by itself.
    public var returnLoss = 0.0
    /// Octets of answers that may wait for the return channel.
    public var returnQueue = 1_000_000
    /// The share of members that hear and say nothing.
    public var deaf = 0.0
    /// Instead of the losses: this many members, others each time, lose all that the first round sends, and nothing
    /// else is lost. A list: one number for each transaction, its last one for all that follow.
    public var losers: [Int]?
    /// How often the dead peer detection that goes on anyway asks each member; its answers confirm (docs/FMKE.md 5). It
    /// has a part of the return channel of its own. nil: answers confirm nothing.
    public var keepAlive: Duration?

    public init() {}

    /// The published experiment: a share `alpha` of the members loses 20 %, the others 2 %, the source 1 %.
    public mutating func usePublishedLoss(alpha: Double = 0.2, inBursts: Bool = false) {
        func loss(_ share: Double) -> DeliveryLoss { inBursts ? .published(share) : .independent(share) }
        classes = [MemberClass(share: alpha, loss: loss(0.2)), MemberClass(share: 1 - alpha, loss: loss(0.02))]
        sourceLoss = loss(0.01)
    }
}

/// One data datagram of a transaction, without its contents.
public struct DeliveryPart: Sendable, Hashable {
    /// Of the plain body.
    public var octets: Int
    /// Whose keys are inside.
    public var members: ClosedRange<UInt32>

    public init(octets: Int, members: ClosedRange<UInt32>) {
        self.octets = octets
        self.members = members
    }
}

/// What became of one transaction. Times are seconds from its start.
public struct DeliveryResult: Sendable, Hashable {
    /// That take part and hear anything at all.
    public internal(set) var members = 0
    public internal(set) var deaf = 0
    /// Members that had their keys, by the round that brought them; those served by unicast alone.
    public internal(set) var servedByRound: [Int] = []
    public internal(set) var servedByUnicast = 0
    /// Multicast rounds with data or parity in them.
    public internal(set) var rounds = 0
    /// Multicast data and parity, and BEACONs (polls of a transaction among them).
    public internal(set) var transmissions = 0
    public internal(set) var transmissionOctets = 0
    public internal(set) var beacons = 0
    public internal(set) var beaconOctets = 0
    /// BEACONs that went out when nobody that hears anything lacked anything any more.
    public internal(set) var idleBeacons = 0
    /// Profiles and probes, repetitions included.
    public internal(set) var unicasts = 0
    public internal(set) var unicastOctets = 0
    public internal(set) var nacks = 0
    /// Of them, before the first repair was sent.
    public internal(set) var firstNacks = 0
    public internal(set) var acks = 0
    /// All that came up, lost ones included.
    public internal(set) var feedbackOctets = 0
    /// The longest that an answer waited for the return channel, and answers that found its queue full.
    public internal(set) var longestWait = 0.0
    public internal(set) var droppedAnswers = 0
    /// Until the first NACK was at the GCKS; nil: none came.
    public internal(set) var firstNackAt: Double?
    /// Until the last member that hears anything had its keys; nil: some never had.
    public internal(set) var lastServedAt: Double?
    public internal(set) var medianServedAt = 0.0
    public internal(set) var confirmed = 0
    /// By an answer that went anyway.
    public internal(set) var confirmedByKeepAlive = 0
    /// Members that are not confirmed at the verdict.
    public internal(set) var named = 0
    /// Until the last confirmation, and the verdict.
    public internal(set) var lastConfirmedAt = 0.0
    public internal(set) var verdictAt = 0.0

    /// Of those that hear anything: had their keys after the first round.
    public var servedInRoundOne: Double {
        members == 0 ? 1 : Double(servedByRound.first ?? 0) / Double(members)
    }
    public var wireOctets: Int { transmissionOctets + beaconOctets + unicastOctets }
    /// Is everybody confirmed or named?
    public var isAccounted: Bool { confirmed + named == members + deaf }
}
