// SPDX-License-Identifier: Apache-2.0

public import Basics
public import FMKE

/// The receiving half of a group's transactions at one member: collects datagrams, says when a body is complete, and
/// decides when to answer.
///
/// The rule for callers: after each mutation, drain `poll(now:)` until it gives `.wait`.
public struct PushReceiver {
    public enum Action: Sendable, Equatable {
        /// Report the group's state now: an ACK when nothing is missing, else a NACK.
        case report
        case wait(until: Instant?)
    }

    /// What a datagram brought.
    public enum Outcome: Sendable, Equatable {
        /// All that this member needs of the transaction; hand it to the key store, then call `completed`.
        case complete(transaction: UInt64, body: [UInt8])
        /// Nothing new: a repetition, a BEACON of what we have, or a part of something.
        case nothing
        /// The transaction is older than the newest complete one.
        case stale
        /// Switch to the SAs of the header's transaction, and let go of earlier ones, at the header's times.
        case commit(TransactionHeader)
    }

    /// This member's number: its slot.
    public var memberIndex: UInt32
    /// The newest transaction whose keys are installed.
    public private(set) var complete: UInt64
    /// The newest transaction heard of.
    public private(set) var newest: UInt64
    private let random: any RandomSource
    /// When to answer, and the round that is answered: the same round is answered once.
    private var reportAt: Instant?
    private var answered: (transaction: UInt64, round: UInt8)?
    private var nackCount = 0

    public init(memberIndex: UInt32, complete: UInt64, random: any RandomSource) {
        self.memberIndex = memberIndex
        self.complete = complete
        newest = complete
        self.random = random
    }

    /// What is still needed, for a NACK: one datagram of the newest transaction when nothing of it was heard.
    public var missing: [GroupReport.Missing] {
        guard newest > complete else { return [] }
        return [GroupReport.Missing(transaction: newest, block: 0, needed: 1)]
    }

    // MARK: Inputs

    /// Takes in an authentic, not replayed PUSH.
    /// - Parameter body: of a one-datagram block, the plain body, also when it came as parity.
    public mutating func receive(_ header: TransactionHeader, body: [UInt8], now: Instant) -> Outcome {
        if header.transaction > newest {
            newest = header.transaction
            nackCount = 0
        }
        switch header.kind {
        case .commit:
            if header.transaction > complete { askForMissing(header, now: now) }
            return .commit(header)
        case .beacon:
            if header.transaction > complete { askForMissing(header, now: now) }
            return .nothing
        case .data, .parity:
            guard header.transaction >= complete else { return .stale }
            if header.transaction == complete {
                scheduleAnswer(header, now: now)
                return .nothing
            }
            return collect(header, body: body, now: now)
        }
    }

    /// The caller installed the keys of this transaction (by PUSH or by CONFIGURE).
    public mutating func completed(_ transaction: UInt64) {
        complete = max(complete, transaction)
        newest = max(newest, complete)
        if newest <= complete { nackCount = 0 }
    }

    /// The member is told a new index and what it holds (CONFIGURE).
    public mutating func reset(memberIndex: UInt32, complete: UInt64) {
        self.memberIndex = memberIndex
        completed(complete)
    }

    // MARK: Outputs

    /// When `poll` has something to do next.
    public var due: Instant? { reportAt }

    public mutating func poll(now: Instant) -> Action {
        guard let reportAt, reportAt <= now else { return .wait(until: self.reportAt) }
        self.reportAt = nil
        if newest > complete {
            // What was asked for may get lost as well: ask again, ever more slowly.
            nackCount += 1
            let pause = Duration.seconds(2) * (1 << min(nackCount, 5))
            self.reportAt = now + pause + random.duration(below: pause / 2)
        }
        return .report
    }

    // MARK: Inside

    /// Key packing puts all that a member needs into one datagram, so one that serves us completes the transaction; so
    /// does a repair meant for others when it is the whole transaction.
    private mutating func collect(_ header: TransactionHeader, body: [UInt8], now: Instant) -> Outcome {
        let isWhole = header.blockCount == 1 && header.dataCount == 1
        let servesUs = header.memberFirst <= memberIndex && memberIndex <= header.memberLast
        guard isWhole || (servesUs && header.kind == .data) else { return .nothing }
        scheduleAnswer(header, now: now)
        return .complete(transaction: header.transaction, body: body)
    }

    /// An ACK in our own slot, or nothing if the GCKS does not ask us.
    private mutating func scheduleAnswer(_ header: TransactionHeader, now: Instant) {
        let feedback = header.feedback
        if let answered, answered == (header.transaction, feedback.round) { return }
        guard memberIndex >= header.memberFirst, memberIndex <= header.memberLast else { return }
        let slot: UInt32
        switch feedback.mode {
        case .none: return
        case .all: slot = memberIndex % max(feedback.slots, 1)
        case .census:
            let modulus = UInt32(max(feedback.modulus, 1))
            guard memberIndex % modulus == UInt32(feedback.residue) % modulus else { return }
            slot = memberIndex / modulus % max(feedback.slots, 1)
        }
        answered = (header.transaction, feedback.round)
        let wait = Duration.milliseconds(Int64(feedback.answerInMilliseconds))
        reportAt = now + wait + .microseconds(Int64(feedback.slotMicroseconds)) * Int(slot)
    }

    /// A NACK after a random wait, unless an answer is due sooner anyway.
    private mutating func askForMissing(_ header: TransactionHeader, now: Instant) {
        let wait = Duration.milliseconds(Int64(header.feedback.nackWaitMilliseconds))
        let due = now + random.duration(below: wait)
        if reportAt.map({ $0 > due }) ?? true { reportAt = due }
    }
}
