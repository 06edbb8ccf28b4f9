// SPDX-License-Identifier: Apache-2.0

public import Basics
public import FMKE

// One transaction at the GCKS:
//
//     start -> transmitting(0) -> collecting(0) --all confirmed------------------------------> ended
//                    ^                 |
//                    |  repairRounds   | some are not
//              transmitting(r) <-------+
//                                      | rounds used up, or few are left
//                                      v
//                                  unicasting ----> probing ----> ended: the rest is named
//                                        ^             |
//                                        +-- once more-+ for those that answered the probe
//
// A transaction that must not go over the old control channel (flat revocation) starts in `unicasting`.

/// The sending half of one transaction.
///
/// The rule for callers: after each mutation, drain `poll(now:)` until it gives `.wait`.
public struct PushSender: Sendable {
    public enum Action: Sendable {
        /// Multicast this; the header's remaining times are right for now.
        case multicast(TransactionHeader, body: [UInt8])
        /// Send these members their profile by unicast.
        case unicast([UInt32])
        /// Ask these members whether they live.
        case probe([UInt32])
        /// The end; nothing comes after it.
        case ended(PushVerdict)
        case wait(until: Instant?)
    }

    private enum State: Sendable {
        case transmitting(round: UInt8, copiesLeft: Int, next: Instant)
        case collecting(round: UInt8, until: Instant)
        case unicasting(asked: Bool, until: Instant)
        case probing(asked: Bool, until: Instant)
        case ending
        case ended
    }

    public let group: UInt32
    public let epoch: UInt32
    public let transaction: UInt64
    /// When senders move to the new SAs, and when the replaced ones are gone.
    public private(set) var activateAt: Instant
    public let deactivateAt: Instant
    public let startedAt: Instant
    public private(set) var unconfirmed: Set<UInt32>
    public private(set) var confirmed: [UInt32: Duration] = [:]
    public private(set) var failed: [UInt32: UnconfirmedReason] = [:]
    private let body: [UInt8]
    private let policy: PushPolicy
    private var state: State
    private var rounds = 0
    private var datagrams = 0
    private var negativeAcknowledgements = 0
    private var unicasts = 0
    private var unicastRounds = 0
    /// Members that were heard since the last question, without having confirmed.
    private var alive: Set<UInt32> = []

    /// - Parameters:
    ///   - body: the encoded key update; empty for a transaction that goes by unicast alone.
    ///   - members: the indices to confirm.
    public init(
        group: UInt32, epoch: UInt32, transaction: UInt64, body: [UInt8], members: Set<UInt32>, policy: PushPolicy,
        activateAt: Instant, deactivateAt: Instant, now: Instant
    ) {
        self.group = group
        self.epoch = epoch
        self.transaction = transaction
        self.body = body
        self.policy = policy
        self.activateAt = activateAt
        self.deactivateAt = deactivateAt
        startedAt = now
        unconfirmed = members
        if members.isEmpty {
            state = .ending
        } else if body.isEmpty {
            state = .unicasting(asked: false, until: now)
        } else {
            state = .transmitting(round: 0, copiesLeft: max(policy.copies, 1), next: now)
        }
    }

    public var isEnded: Bool { if case .ended = state { true } else { false } }
    /// Of those that were to confirm, in percent; 100 when there were none.
    public var confirmedPercent: Double {
        let all = confirmed.count + unconfirmed.count + failed.count
        return all == 0 ? 100 : 100 * Double(confirmed.count) / Double(all)
    }

    /// When `poll` has something to do next; nil when it is over.
    public var due: Instant? {
        switch state {
        case .transmitting(_, _, let next): next
        case .collecting(_, let until): until
        case .unicasting(let asked, let until), .probing(let asked, let until): asked ? until : startedAt
        case .ending: startedAt
        case .ended: nil
        }
    }

    // MARK: Inputs

    /// A member has these keys installed: a STATUS or the ACK of a CONFIGURE said so. Late ones count too.
    public mutating func confirm(_ member: UInt32, now: Instant) {
        guard unconfirmed.remove(member) != nil || failed.removeValue(forKey: member) != nil else { return }
        confirmed[member] = now - startedAt
        if unconfirmed.isEmpty, !isEnded { state = .ending }
    }

    /// A member says that it lacks something of this transaction.
    public mutating func negativeAcknowledgement(from member: UInt32, now: Instant) {
        guard unconfirmed.contains(member) else { return }
        negativeAcknowledgements += 1
        alive.insert(member)
        // The answer to a NACK need not wait for the slowest answering slot: gather a moment, then repair.
        if case .collecting(let round, let until) = state {
            state = .collecting(round: round, until: min(until, now + PushPolicy.guardTime))
        }
    }

    /// A member lives, whatever it holds (the answer to a probe).
    public mutating func heard(from member: UInt32) { if unconfirmed.contains(member) { alive.insert(member) } }

    /// A member will not confirm any more; it is named with this reason.
    public mutating func giveUp(_ member: UInt32, reason: UnconfirmedReason) {
        guard unconfirmed.remove(member) != nil else { return }
        failed[member] = reason
        if unconfirmed.isEmpty, !isEnded { state = .ending }
    }

    /// Nothing more may go by multicast: who has the channel's KEK lost its authorisation. Whoever has not confirmed
    /// gets the keys by a unicast that the caller sends now.
    public mutating func leaveMulticast(now: Instant) {
        switch state {
        case .transmitting, .collecting: state = .unicasting(asked: true, until: now + policy.roundTrip * 10)
        case .unicasting, .probing, .ending, .ended: break
        }
    }

    /// Moves the activation to an earlier instant and gives the COMMIT that says so.
    public mutating func commit(activateAt instant: Instant, now: Instant) -> TransactionHeader {
        activateAt = min(activateAt, instant)
        var header = header(kind: .commit, round: 0, now: now)
        header.feedback = FeedbackRequest(mode: .none)
        return header
    }

    // MARK: Outputs

    /// What to do now. Call until it gives `.wait` or `.ended`.
    public mutating func poll(now: Instant) -> Action {
        switch state {
        case .transmitting(let round, let copiesLeft, let next):
            guard next <= now else { return .wait(until: next) }
            return transmit(round: round, copiesLeft: copiesLeft, now: now)
        case .collecting(let round, let until):
            guard until <= now else { return .wait(until: until) }
            let isLastRound = Int(round) >= policy.repairRounds || unconfirmed.count <= policy.unicastBelow
            state =
                isLastRound
                ? .unicasting(asked: false, until: now) : .transmitting(round: round + 1, copiesLeft: 1, next: now)
            return poll(now: now)
        case .unicasting(let asked, let until):
            guard asked else {
                unicasts += unconfirmed.count
                unicastRounds += 1
                // Time for the profile to be repeated a few times.
                state = .unicasting(asked: true, until: now + policy.roundTrip * 10)
                return .unicast(unconfirmed.sorted())
            }
            guard until <= now else { return .wait(until: until) }
            alive = []
            state = .probing(asked: false, until: now)
            return poll(now: now)
        case .probing(let asked, let until):
            guard asked else {
                state = .probing(asked: true, until: now + policy.roundTrip * 5)
                return .probe(unconfirmed.sorted())
            }
            guard until <= now else { return .wait(until: until) }
            for member in unconfirmed where !alive.contains(member) || unicastRounds > 1 {
                failed[member] = alive.contains(member) ? .refused : .silent
            }
            unconfirmed.subtract(failed.keys)
            state = unconfirmed.isEmpty ? .ending : .unicasting(asked: false, until: now)
            return poll(now: now)
        case .ending:
            state = .ended
            return .ended(verdict(now: now))
        case .ended:
            return .wait(until: nil)
        }
    }

    private mutating func transmit(round: UInt8, copiesLeft: Int, now: Instant) -> Action {
        let copy = max(policy.copies, 1) - copiesLeft
        let isRepetition = round > 0 || copy > 0
        var header = header(kind: isRepetition ? .parity : .data, round: round, now: now)
        header.datagramCount = UInt8(clamping: max(policy.copies, 1) + policy.repairRounds)
        header.index = isRepetition ? UInt8(clamping: round > 0 ? max(policy.copies, 1) - 1 + Int(round) : copy) : 0
        datagrams += 1
        if copy == 0 || round > 0 { rounds += 1 }
        // At 1,400 octets per datagram the pace of the channel is also the least distance of two copies.
        let gap =
            policy.copies > 1 ? policy.spread / (policy.copies - 1) : .zero
        let pace = policy.serialisation(of: body.count + Self.overheadOctets)
        if copiesLeft > 1 {
            state = .transmitting(round: round, copiesLeft: copiesLeft - 1, next: now + max(gap, pace))
        } else {
            state = .collecting(
                round: round, until: now + pace + policy.roundTrip + window + PushPolicy.guardTime)
        }
        return .multicast(header, body: body)
    }

    /// Header, transaction payload, signature and tag of a PUSH, rounded up.
    private static let overheadOctets = 220

    /// From the first to the last answering slot.
    private var window: Duration {
        policy.slot * Int(slots)
    }

    private var range: ClosedRange<UInt32> { (unconfirmed.min() ?? 0)...(unconfirmed.max() ?? .max) }
    private var slots: UInt32 {
        let range = range
        return (range.upperBound - range.lowerBound).addingReportingOverflow(1).partialValue
    }

    private func header(kind: TransactionHeader.Kind, round: UInt8, now: Instant) -> TransactionHeader {
        let feedback = FeedbackRequest(
            mode: .all, round: round, slotMicroseconds: policy.slotMicroseconds, slots: max(slots, 1),
            nackWaitMilliseconds: UInt16(clamping: policy.roundTrip.wholeMilliseconds / 2))
        // The first transmission serves everybody, a repair only those that are still unconfirmed (who else hears it
        // has nothing to answer).
        return TransactionHeader(
            kind: kind, group: group, epoch: epoch, transaction: transaction, memberFirst: range.lowerBound,
            memberLast: range.upperBound, feedback: feedback,
            activateInMilliseconds: Self.milliseconds(until: activateAt, from: now),
            deactivateInMilliseconds: Self.milliseconds(until: deactivateAt, from: now))
    }

    static func milliseconds(until instant: Instant, from now: Instant) -> UInt32 {
        UInt32(clamping: max((instant - now).wholeMilliseconds, 0))
    }

    private func verdict(now: Instant) -> PushVerdict {
        PushVerdict(
            group: group, transaction: transaction, confirmed: confirmed, unconfirmed: failed,
            duration: now - startedAt, rounds: rounds, datagrams: datagrams,
            negativeAcknowledgements: negativeAcknowledgements, unicasts: unicasts)
    }
}
