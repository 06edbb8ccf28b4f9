// SPDX-License-Identifier: Apache-2.0

public import Basics
public import FMKE
internal import ErasureCode

/// The receiving half of a group's transactions at one member: collects datagrams, mends lost ones from parity, and
/// decides when to answer.
///
/// The rule for callers: after each mutation, drain `poll(now:)` until it gives `.wait`.
public struct PushReceiver: Sendable {
    public enum Action: Sendable, Equatable {
        /// Report the group's state now: an ACK when nothing is missing, else a NACK.
        case report
        case wait(until: Instant?)
    }

    /// What a datagram brought.
    public enum Outcome: Sendable, Equatable {
        /// Plain bodies to look at, in order: the caller installs the one that concerns it and calls `completed`.
        case bodies(transaction: UInt64, [[UInt8]])
        /// Nothing new: a repetition, a BEACON, or parity that does not mend anything yet.
        case nothing
        /// The transaction is older than the newest complete one.
        case stale
        /// Switch to the SAs of the header's transaction, and let go of earlier ones, at the header's times.
        case commit(TransactionHeader)
    }

    /// This member's number: its slot, and what tells it which block is its.
    public private(set) var memberIndex: UInt32
    /// The newest transaction whose keys are installed.
    public private(set) var complete: UInt64
    /// The newest transaction heard of.
    public private(set) var newest: UInt64
    /// Own randomness: how long to wait needs no better one, and a million members have no room for it.
    private var random: UInt64
    /// When to answer because a slot was given, and when to say that something is missing; `.distantFuture`: never.
    private var reportAt = Instant.distantFuture
    private var nackAt = Instant.distantFuture
    /// The newest transaction that asked us for an answer, and its round: the same round is answered once.
    private var asked: UInt64 = 0
    private var askedRound: UInt8 = 0
    /// The round of the newest transaction for which it is decided whether and when to ask for what is missing.
    private var decidedRound: UInt8?
    private var nackCount: UInt8 = 0
    /// We said that something is missing, and no slot of ours is to come: say so when it is there.
    private var owesAnswer = false
    /// `reportAt` is of that answer: nothing is to be said if something is still missing then.
    private var isOwed = false
    /// k of the newest transaction's blocks as far as we know.
    private var blockSize: UInt8 = 1
    /// What came of blocks of several datagrams.
    private var blocks: [Block] = []

    /// Transactions collected at a time; an older one gives way.
    private static let blocksMost = Limits().openTransactions

    private struct Block: Sendable {
        let transaction: UInt64
        let number: UInt16
        let dataCount: UInt8
        /// Bodies of data datagrams and shards of parity datagrams by index, until all are there.
        var shards: [(index: UInt8, octets: [UInt8])] = []
        var isWhole = false

        var needed: UInt8 { isWhole ? 1 : UInt8(clamping: max(Int(dataCount) - shards.count, 1)) }
    }

    public init(memberIndex: UInt32, complete: UInt64, random: any RandomSource) {
        self.init(memberIndex: memberIndex, complete: complete, seed: random.next())
    }

    /// - Parameter seed: of the random waits.
    public init(memberIndex: UInt32, complete: UInt64, seed: UInt64) {
        self.memberIndex = memberIndex
        self.complete = complete
        newest = complete
        random = seed
    }

    /// What is still needed of the newest transaction, for a NACK: of our block as many datagrams as make it whole, or,
    /// when nothing of it was heard, as many as a block has (the GCKS knows which block is ours).
    public var missing: [GroupReport.Missing] {
        guard newest > complete else { return [] }
        let own = blocks.filter { $0.transaction == newest }
        guard !own.isEmpty else {
            return [GroupReport.Missing(transaction: newest, block: 0, needed: blockSize)]
        }
        return own.map { GroupReport.Missing(transaction: newest, block: $0.number, needed: $0.needed) }
    }

    // MARK: Inputs

    /// Takes in an authentic, not replayed PUSH.
    /// - Parameter body: the plain body of data, the shard of parity; not looked at for others.
    public mutating func receive(_ header: TransactionHeader, body: [UInt8], now: Instant) -> Outcome {
        if header.transaction > newest {
            newest = header.transaction
            nackCount = 0
            nackAt = .distantFuture
            decidedRound = nil
            blockSize = header.dataCount
        }
        scheduleAnswer(header, now: now)
        scheduleNACK(header, now: now)
        switch header.kind {
        case .commit: return .commit(header)
        case .beacon: return .nothing
        case .data, .parity:
            guard header.transaction >= complete else { return .stale }
            guard header.transaction > complete else { return .nothing }
            let bodies = collect(header, body: body)
            guard !bodies.isEmpty else { return .nothing }
            if owesAnswer, !isOwed {
                isOwed = reportAt == .distantFuture
                let wait = Duration.milliseconds(Int64(header.feedback.nackWaitMilliseconds))
                reportAt = min(reportAt, now + duration(below: wait))
            }
            return .bodies(transaction: header.transaction, bodies)
        }
    }

    /// The keys of this transaction are installed (from `receive` or from a CONFIGURE).
    public mutating func completed(_ transaction: UInt64) {
        complete = max(complete, transaction)
        newest = max(newest, complete)
        if !blocks.isEmpty { blocks.removeAll { $0.transaction <= transaction } }
        guard newest <= complete else { return }
        owesAnswer = false
        nackCount = 0
        nackAt = .distantFuture
    }

    /// The member is told a new index and what it holds (CONFIGURE).
    public mutating func reset(memberIndex: UInt32, complete: UInt64) {
        self.memberIndex = memberIndex
        completed(complete)
    }

    // MARK: Outputs

    /// When `poll` has something to do next.
    public var due: Instant? {
        let next = min(reportAt, nackAt)
        return next == .distantFuture ? nil : next
    }

    public mutating func poll(now: Instant) -> Action {
        guard min(reportAt, nackAt) <= now else { return .wait(until: due) }
        let isOwed = isOwed && nackAt > now
        if reportAt <= now { (reportAt, self.isOwed) = (.distantFuture, false) }
        guard newest > complete else {
            nackAt = .distantFuture
            return .report
        }
        // What came was not what this member lacks.
        guard !isOwed else { return .wait(until: due) }
        // Whoever asks for something says when it has come; before a slot of its own it need not.
        if reportAt == .distantFuture { owesAnswer = true }
        // What was asked for may get lost as well: ask again, ever more slowly.
        nackCount = min(nackCount + 1, 5)
        let pause = Duration.seconds(2) * (1 << Int(nackCount))
        nackAt = now + pause + duration(below: pause / 2)
        return .report
    }

    // MARK: Datagrams

    /// The bodies that this datagram gives. Key packing puts all that a member needs into one body of its block, so a
    /// body is handed on as soon as it is there; of a block that lacks some, parity gives the others.
    private mutating func collect(_ header: TransactionHeader, body: [UInt8]) -> [[UInt8]] {
        let known = blocks.firstIndex { $0.transaction == header.transaction && $0.number == header.block }
        // A repair names only those who have not confirmed; whoever knows its block makes use of it all the same.
        let isOurs = header.memberFirst <= memberIndex && memberIndex <= header.memberLast
        guard isOurs || header.blockCount == 1 || known != nil else { return [] }
        if header.dataCount == 1 {
            if header.kind == .data { return [body] }
            return (try? Shard.body(from: body)).map { [$0] } ?? []
        }
        let position = known ?? open(header)
        guard blocks[position].dataCount == header.dataCount else { return [] }
        let isNew = !blocks[position].isWhole && !blocks[position].shards.contains { $0.index == header.index }
        if isNew { blocks[position].shards.append((header.index, body)) }
        let mended = isNew ? mend(position) : []
        return (header.kind == .data ? [body] : []) + mended
    }

    private mutating func open(_ header: TransactionHeader) -> Int {
        if blocks.count >= Self.blocksMost,
            let oldest = blocks.indices.min(by: { blocks[$0].transaction < blocks[$1].transaction })
        {
            blocks.remove(at: oldest)
        }
        blocks.append(Block(transaction: header.transaction, number: header.block, dataCount: header.dataCount))
        return blocks.count - 1
    }

    /// The lost bodies of a block of which k datagrams are there; none before that. What the GCKS made wrong is thrown
    /// away whole.
    private mutating func mend(_ position: Int) -> [[UInt8]] {
        let block = blocks[position]
        let (shards, count) = (block.shards, Int(block.dataCount))
        guard shards.count >= count else { return [] }
        let size = shards.filter { $0.index >= block.dataCount }.map(\.octets.count).max() ?? 0
        blocks[position].shards = []
        blocks[position].isWhole = true
        guard size > 0 else { return [] }
        do {
            let code = try ErasureCode(dataCount: count)
            let all = try shards.map { index, octets in
                (index: Int(index), octets: index < block.dataCount ? try Shard.make(octets, size: size) : octets)
            }
            let data = try code.decode(all)
            var lost = [Bool](repeating: true, count: count)
            for shard in shards where shard.index < block.dataCount { lost[Int(shard.index)] = false }
            return try data.indices.filter { lost[$0] }.map { try Shard.body(from: data[$0]) }
        } catch {
            blocks[position].isWhole = false
            return []
        }
    }

    // MARK: Answers

    /// A report in our own slot, whatever there is to report; nothing if the GCKS does not ask us. One answer to a
    /// newer transaction answers for the older ones.
    private mutating func scheduleAnswer(_ header: TransactionHeader, now: Instant) {
        let feedback = header.feedback
        guard feedback.mode != .none, header.memberFirst <= memberIndex, memberIndex <= header.memberLast,
            header.transaction >= asked, header.transaction > asked || feedback.round != askedRound
        else { return }
        let modulus = feedback.mode == .census ? UInt32(max(feedback.modulus, 1)) : 1
        guard modulus == 1 || memberIndex % modulus == UInt32(feedback.residue) else { return }
        let slot = memberIndex / modulus % max(feedback.slots, 1)
        let due =
            now + .milliseconds(Int64(feedback.answerInMilliseconds))
            + .microseconds(Int64(clamping: UInt64(slot) * UInt64(feedback.slotMicroseconds)))
        // A later round replaces the slots of an earlier one.
        reportAt = header.transaction == asked ? due : min(reportAt, due)
        (asked, askedRound) = (header.transaction, feedback.round)
        (owesAnswer, isOwed) = (false, false)
    }

    /// Whether and when to say that something is missing: decided once per round, by the share that the GCKS names. A
    /// later round takes back what an earlier one began.
    private mutating func scheduleNACK(_ header: TransactionHeader, now: Instant) {
        guard header.transaction == newest, newest > complete else { return }
        let round = header.feedback.round
        // Of BEACONs and COMMITs outside the rounds each is a new question.
        let isPoll = round == .max && nackAt == .distantFuture
        guard decidedRound != round || isPoll else { return }
        decidedRound = round
        guard UInt16(truncatingIfNeeded: next() >> 32) <= header.feedback.nackShare else {
            nackAt = .distantFuture
            return
        }
        let wait = Duration.milliseconds(Int64(header.feedback.nackWaitMilliseconds))
        nackAt = now + .milliseconds(Int64(header.feedback.answerInMilliseconds)) + duration(below: wait)
        // Our slot comes first: one report is enough.
        if reportAt <= nackAt { nackAt = .distantFuture }
    }

    /// SplitMix64.
    private mutating func next() -> UInt64 {
        random &+= 0x9e37_79b9_7f4a_7c15
        var z = random
        z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
        return z ^ (z >> 31)
    }

    private mutating func duration(below limit: Duration) -> Duration {
        let nanoseconds = UInt64(clamping: limit.wholeNanoseconds)
        return .nanoseconds(Int64(next().multipliedFullWidth(by: nanoseconds).high))
    }
}
