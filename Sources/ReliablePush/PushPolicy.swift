// SPDX-License-Identifier: Apache-2.0

// ReliablePush owns the reliability of phase 3: one transaction's life at the GCKS (`PushSender`: blocks and parity,
// answering slots, repair rounds, unicast, probes, a verdict for every member), at a member (`PushReceiver`: collecting
// datagrams, mending lost ones, answering in its slot, asking for what is missing), and what a group's transactions
// teach the next one (`PushExperience`). It sees no key and opens no socket.

/// How members answer.
public enum FeedbackPolicy: Sendable, Hashable {
    /// Every member confirms each transaction in a slot of its own.
    case all
    /// Of so many classes of members another one confirms each transaction in slots, so that after as many transactions
    /// each member was asked. The others confirm by what they send anyway; who lacks something says so.
    case census(UInt16)
    /// No member is asked; who lacks something says so.
    case none
}

/// How a transaction is delivered and confirmed.
public struct PushPolicy: Sendable, Hashable {
    /// Transmissions of a block of one datagram to begin with, spread evenly over `spread` so that one burst of loss
    /// does not take them all.
    public var copies = 2
    public var spread: Duration = .milliseconds(200)
    /// Data and parity over data, to begin with, of blocks of several datagrams.
    public var proactive = 1.2
    /// Learn the amount of parity and copies from what members lacked.
    public var adapts = true
    /// Data datagrams of a block at most, up to 128.
    public var blockSize = 100
    public var feedback = FeedbackPolicy.all
    /// NACKs wanted from one round at most.
    public var nackTarget = 20
    /// Ask at once as large a share of those who lack something as experience says. That saves those few a round trip,
    /// and floods the return channel when an outage left everybody without; without it the first question of a
    /// transaction goes to no more than the return channel carries in a round trip.
    public var trustsExperience = false
    /// Modes census and none: how long after the start members may take to confirm by what they send anyway.
    public var confirmWithin: Duration = .seconds(120)
    /// Multicast repair rounds before unicast.
    public var repairRounds = 2
    /// Budget of the control channel, in bits per second.
    public var controlRate: UInt64 = 128_000
    /// Budget of all answers together on the way back, in bits per second: it sizes the answering slots.
    public var returnRate: UInt64 = 64_000
    /// A round trip over the satellite: the wait behind every round.
    public var roundTrip: Duration = .milliseconds(600)
    /// This many members or fewer that lack something are repaired by unicast instead of by another multicast round.
    public var unicastBelow = 0
    /// Longest wait between two BEACONs.
    public var beaconInterval: Duration = .seconds(60)

    public init() {}

    /// What one STATUS that reports one group costs on the return channel, IP and UDP included: 28 and 124 octets.
    public var answerOctets = 152

    /// One answering slot: what one answer takes on the return channel, in microseconds, at least 1.
    public var slotMicroseconds: UInt32 {
        let (product, overflow) = UInt64(max(answerOctets, 1)).multipliedReportingOverflow(by: 8_000_000)
        return overflow ? .max : UInt32(clamping: max(product / max(returnRate, 1), 1))
    }
    /// The same as a duration.
    public var slot: Duration { .microseconds(Int64(slotMicroseconds)) }

    /// What a datagram of this many octets occupies on the control channel, IP and UDP headers included.
    public func serialisation(of octets: Int) -> Duration {
        .nanoseconds(Int64(clamping: UInt64(octets + 28) * 8_000_000_000 / max(controlRate, 1)))
    }

    /// How long answers, once asked for, may be on their way beyond their slot: half a slot of queueing and a fixed
    /// allowance for scheduling at both ends.
    static let guardTime: Duration = .milliseconds(150)
}
