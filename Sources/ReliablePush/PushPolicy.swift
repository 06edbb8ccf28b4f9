// SPDX-License-Identifier: Apache-2.0

// ReliablePush owns the reliability of phase 3: one transaction's life at the GCKS (`PushSender`: copies, answering
// slots, repair rounds, unicast, probes, a verdict for every member) and at a member (`PushReceiver`: collecting
// datagrams, answering in its slot, asking for what is missing). It sees no key and opens no socket.

/// How a transaction is delivered and confirmed.
public struct PushPolicy: Sendable, Hashable {
    /// Copies of each datagram in the first transmission, spread evenly over `spread` so that one burst of loss does
    /// not take them all.
    public var copies = 2
    public var spread: Duration = .milliseconds(200)
    /// Multicast repair rounds before unicast.
    public var repairRounds = 2
    /// Budget of the control channel, in bits per second.
    public var controlRate: UInt64 = 128_000
    /// Budget of all answers together on the way back, in bits per second: it sizes the answering slots.
    public var returnRate: UInt64 = 64_000
    /// A round trip over the satellite: the wait behind every round.
    public var roundTrip: Duration = .milliseconds(600)
    /// This many unconfirmed members or fewer are repaired by unicast at once instead of by another multicast round.
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

/// Why a member is not confirmed.
public enum UnconfirmedReason: String, Sendable, Hashable, Codable {
    /// It answered neither multicast nor unicast nor the probe.
    case silent
    /// It is alive, it said so, but did not confirm the keys.
    case refused
    /// Its ISAKMP SA ended; it holds keys of the group and cannot be reached.
    case unreachable
    /// It lost its authorisation while the transaction ran.
    case revoked
}

/// The end of a transaction: every member confirmed or named.
public struct PushVerdict: Sendable, Hashable {
    public var group: UInt32
    public var transaction: UInt64
    /// When each member's confirmation came, after the start.
    public var confirmed: [UInt32: Duration]
    public var unconfirmed: [UInt32: UnconfirmedReason]
    /// From the start to the verdict.
    public var duration: Duration
    /// Multicast rounds, the first transmission included.
    public var rounds: Int
    public var datagrams: Int
    public var negativeAcknowledgements: Int
    /// Members that were repaired by unicast.
    public var unicasts: Int

    public var isComplete: Bool { unconfirmed.isEmpty }
}
