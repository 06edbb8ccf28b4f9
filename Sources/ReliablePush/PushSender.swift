// SPDX-License-Identifier: Apache-2.0

public import Basics
public import FMKE

// One transaction at the GCKS (docs/RELIABILITY.md):
//
//     start -> sending(round 0) -> collecting --all confirmed---------------------------------> ended
//                    ^                |  |
//                    |  NACKs: repair |  | silence, and every answering slot over
//                    |  few: a poll   |  |
//                    +----------------+  +--mode all---------------> unicasting -> probing ---> ended: the rest
//                    ^                |                                  ^  ^         |         is named
//                    |                +--modes census and none: waiting--+  +---------+
//                    +---late NACKs------------ for what members send anyway     once more, for those that answered
//
// A transaction that must not go over the old control channel (flat revocation) starts in `unicasting`.

/// The sending half of one transaction.
///
/// The rule for callers: after each mutation, drain `poll(now:)` until it gives `.wait`.
public struct PushSender: Sendable {
    public enum Action: Sendable {
        /// Multicast this, as it is; the header's remaining times are right for now.
        case multicast(TransactionHeader, body: [UInt8])
        /// Send these members their profile by unicast: a few at a time, paced to the control channel's rate.
        case unicast([UInt32])
        /// Ask these members whether they live.
        case probe([UInt32])
        /// The end; nothing comes after it.
        case ended(PushVerdict)
        case wait(until: Instant?)
    }

    enum State: Sendable {
        case sending
        /// Also the wait for what members send anyway, when `confirmBy` is set.
        case collecting
        /// `isAsked`: everybody was sent something, the time for answers runs.
        case unicasting(isAsked: Bool)
        case probing(isAsked: Bool)
        case ending
        case ended
    }
    /// What goes out in a round: a datagram of a block, or a BEACON.
    enum Planned: Sendable {
        case datagram(block: Int, index: UInt8)
        case poll(asks: Bool)
    }

    /// What is known of a transaction that an earlier process began.
    public struct Resumption: Sendable {
        public var startedAt: Instant
        /// Members count rounds by their numbers, so this is none that the last process came to: a member answers the
        /// same one once.
        public var firstRound: UInt8
        /// Who has confirmed, and when after the start; who will not any more.
        public var confirmed: [(member: UInt32, after: Duration)] = []
        public var failed: [(member: UInt32, reason: UnconfirmedReason)] = []

        public init(startedAt: Instant, firstRound: UInt8) {
            self.startedAt = startedAt
            self.firstRound = firstRound
        }
    }

    public let group: UInt32
    public let epoch: UInt32
    public let transaction: UInt64
    /// When senders move to the new SAs, and when the replaced ones are gone.
    public private(set) var activateAt: Instant
    public private(set) var deactivateAt: Instant
    public let startedAt: Instant
    /// Nothing of it goes by multicast, or no more does.
    public private(set) var isByUnicast: Bool
    let policy: PushPolicy
    let learned: PushExperience
    var members: MemberTable
    var blocks: [PushBlock]
    var state: State

    // The present round.
    var round: UInt8 = 0
    var plan: [Planned] = []
    var planned = 0
    var gap: Duration = .zero
    var pollGap: Duration = .zero
    var sendAt: Instant
    /// When answers begin, as all datagrams of the round say.
    var answerAt: Instant
    /// The slots that this round asks to answer in; 0: it does not ask.
    var slots: UInt32 = 0
    /// The probability with which a member that lacks something says so, and within which time.
    var share = 1.0
    var nackWait: Duration = .zero
    /// When all NACKs of this round are here.
    var nackBy: Instant
    /// Who asked in this round (positions), and when the first did.
    var nackers: [Int] = []
    var firstNACKAt: Instant

    // The transaction.
    /// When all answers in slots are here; nil when no slot is to come.
    var slotsBy: Instant?
    /// The slots that run, for those who let theirs pass; nil when none run or it does not pay.
    var passing: PassingSlots?
    /// Nobody lacks anything any more, as far as we know.
    var isNACKOver = false
    /// Modes census and none: how long members may take to confirm by what they send anyway.
    var confirmBy: Instant?
    /// So many may lack something at most, as far as answers and silence prove (three standard deviations).
    var lackMost = 0.0
    /// How many lacked something after the first transmission.
    var losers: Double?
    /// Of whom so large a share was asked.
    var losersShare = 1.0
    var lackedCount = 0
    var repairs = 0
    var confirmRounds = 0
    /// Members that are served by unicast while the rounds go on.
    var direct: [Int] = []
    var directAt: Instant
    /// Between the polls of the wait.
    var pollPause: Duration = .seconds(1)
    /// How far unicast or probing is; when its next step, or the next poll of the wait, is due.
    var cursor = 0
    var stepAt: Instant
    var unicastRounds = 0
    var rounds = 0
    var datagrams = 0
    var polls = 0
    var negativeAcknowledgements = 0
    var unicasts = 0

    /// - Parameters:
    ///   - parts: the data datagrams; none for a transaction that goes by unicast alone. A member that no part serves
    ///     gets its keys by unicast.
    ///   - members: the indices to confirm.
    ///   - experience: that of the group's last transaction.
    ///   - taken: what an earlier process had got to, of a transaction that goes on.
    public init(
        group: UInt32, epoch: UInt32, transaction: UInt64, parts: [PushPart], members: some Sequence<UInt32>,
        policy: PushPolicy, experience: PushExperience = PushExperience(), activateAt: Instant, deactivateAt: Instant,
        resuming taken: Resumption? = nil, now: Instant
    ) {
        self.group = group
        self.epoch = epoch
        self.transaction = transaction
        self.policy = policy
        self.activateAt = activateAt
        self.deactivateAt = deactivateAt
        learned = experience
        startedAt = taken?.startedAt ?? now
        (sendAt, answerAt, nackBy, firstNACKAt, directAt, stepAt) = (now, now, now, now, now, now)
        self.members = MemberTable(members)
        blocks = PushBlock.blocks(of: parts, size: policy.blockSize)
        isByUnicast = blocks.isEmpty
        round = taken?.firstRound ?? 0
        for (member, duration) in taken?.confirmed ?? [] {
            guard let position = self.members.position(of: member) else { continue }
            self.members.confirm(position, milliseconds: UInt32(clamping: duration.wholeMilliseconds))
        }
        for (member, reason) in taken?.failed ?? [] {
            if let position = self.members.position(of: member) { self.members.fail(position, reason) }
        }
        if self.members.unconfirmedCount == 0 {
            state = .ending
        } else if blocks.isEmpty {
            state = .unicasting(isAsked: false)
            unicastRounds = 1
        } else {
            state = .sending
            begin(now: now)
        }
    }

    public var isEnded: Bool { if case .ended = state { true } else { false } }
    public var confirmedCount: Int { members.confirmedCount }
    public var unconfirmedCount: Int { members.unconfirmedCount }
    /// Of those that were to confirm, in percent; 100 when there were none.
    public var confirmedPercent: Double {
        let all = members.confirmedCount + members.unconfirmedCount + members.failedCount
        return all == 0 ? 100 : 100 * Double(members.confirmedCount) / Double(all)
    }

    /// Is this member still to confirm?
    public func isUnconfirmed(_ member: UInt32) -> Bool {
        members.position(of: member).map { members.isUnconfirmed($0) } ?? false
    }

    /// What this transaction taught, on top of what was known when it began: for the next one.
    public var experience: PushExperience {
        var result = learned
        guard let losers, let block = blocks.max(by: { $0.dataCount < $1.dataCount }) else {
            return result
        }
        // If nobody answered at all, the silence of those who lack something proves nothing.
        if policy.feedback == .all, members.confirmedCount == 0, lackedCount == 0 { return result }
        result.learn(
            losers: losers, share: losersShare, dataCount: block.dataCount, extra: block.extra, members: members.count)
        return result
    }

    // MARK: Inputs

    /// A member has these keys installed: a STATUS or the ACK of a CONFIGURE said so. Late ones count too.
    public mutating func confirm(_ member: UInt32, now: Instant) {
        guard let position = members.position(of: member) else { return }
        switch members.fate(position) {
        case .none, .confirmed: return
        case .unconfirmed, .silent, .refused, .unreachable, .revoked: break
        }
        members.confirm(position, milliseconds: UInt32(clamping: (now - startedAt).wholeMilliseconds))
        endIfAllAreThere()
    }

    /// A member says that it lacks so many datagrams of its block. Of which block it is, its index says: one that heard
    /// nothing does not know.
    public mutating func negativeAcknowledgement(from member: UInt32, needed: UInt8, block: UInt16, now: Instant) {
        guard let position = members.position(of: member), members.isUnconfirmed(position) else { return }
        negativeAcknowledgements += 1
        members.note(.alive, position)
        if !members.has(.lacked, position) {
            members.note(.lacked, position)
            lackedCount += 1
        }
        // While a round is being sent NACKs are about what it brings.
        guard case .collecting = state, !members.has(.asking, position), let own = self.block(of: member) else {
            return
        }
        members.note(.asking, position)
        if nackers.isEmpty { firstNACKAt = now }
        nackers.append(position)
        blocks[own].asking += 1
        blocks[own].needed = max(blocks[own].needed, min(max(Int(needed), 1), blocks[own].dataCount))
        if let part = blocks[own].part(of: member) { blocks[own].askedParts.insert(part) }
    }

    /// A member lives, whatever it holds (the answer to a probe).
    public mutating func heard(from member: UInt32) {
        guard let position = members.position(of: member), members.isUnconfirmed(position) else { return }
        members.note(.alive, position)
    }

    /// A member will not confirm any more; it is named with this reason.
    public mutating func giveUp(_ member: UInt32, reason: UnconfirmedReason) {
        guard let position = members.position(of: member), members.isUnconfirmed(position) else { return }
        members.fail(position, reason)
        endIfAllAreThere()
    }

    private mutating func endIfAllAreThere() {
        guard members.unconfirmedCount == 0, !isEnded else { return }
        // Everybody has it: what nobody asked for by now was not lost.
        if case .collecting = state, losers == nil { losers = Double(lackedCount) }
        state = .ending
    }

    /// Nothing more may go by multicast: who has the channel's KEK lost its authorisation. Whoever has not confirmed
    /// gets the keys by a unicast that the caller sends now.
    public mutating func leaveMulticast(now: Instant) {
        isByUnicast = true
        switch state {
        case .sending, .collecting:
            state = .unicasting(isAsked: true)
            unicastRounds = 1
            stepAt =
                now + policy.serialisation(of: Self.profileOctets) * members.unconfirmedCount
                + policy.roundTrip * Self.profileRoundTrips
        case .unicasting, .probing, .ending, .ended: break
        }
    }

    /// Moves the activation to an earlier instant and gives the COMMIT that says so.
    public mutating func commit(activateAt instant: Instant, now: Instant) -> TransactionHeader {
        activateAt = min(activateAt, instant)
        return header(.commit, feedback: FeedbackRequest(mode: .none, round: .max, nackShare: wireShare), now: now)
    }

    /// Does it go by multicast at all, or by unicast alone?
    public var isMulticast: Bool { !blocks.isEmpty }

    /// Are there multicasts to come that ask who lacks something? A BEACON of others would only disturb.
    public var isInRounds: Bool {
        switch state {
        case .sending: true
        case .collecting: !isNACKOver || policy.feedback != .all
        case .unicasting, .probing, .ending, .ended: false
        }
    }

    /// A BEACON that names this transaction, outside its rounds.
    public func beacon(feedback: FeedbackRequest, now: Instant) -> TransactionHeader {
        header(.beacon, feedback: feedback, now: now)
    }

    // MARK: Outputs

    /// When `poll` has something to do next; nil when it is over.
    public var due: Instant? {
        switch state {
        case .sending: sendAt
        case .collecting: collectingDue
        case .unicasting, .probing: stepAt
        case .ending: startedAt
        case .ended: nil
        }
    }

    /// What to do now. Call until it gives `.wait` or `.ended`.
    public mutating func poll(now: Instant) -> Action {
        while let due, due <= now {
            switch state {
            case .sending: if let action = send(now: now) { return action }
            case .collecting: if let action = collect(now: now) { return action }
            case .unicasting(let isAsked): if let action = unicast(isAsked: isAsked, now: now) { return action }
            case .probing(let isAsked): if let action = probe(isAsked: isAsked, now: now) { return action }
            case .ending:
                state = .ended
                return .ended(verdict(now: now))
            case .ended: break
            }
        }
        return .wait(until: due)
    }

    // MARK: Unicast, probes, the end

    /// Time for a profile to be repeated a few times, and for a probe.
    private static let profileRoundTrips = 10
    private static let probeRoundTrips = 5
    /// Octets that one profile and one probe are reckoned with, and how many go at a time.
    static let profileOctets = 700
    private static let profilesAtOnce = 4
    private static let probeOctets = 150
    private static let probesAtOnce = 16

    mutating func beginUnicast(now: Instant) {
        state = .unicasting(isAsked: false)
        unicastRounds += 1
        (cursor, stepAt) = (0, now)
    }

    /// The next unconfirmed members, at most so many.
    private mutating func batch(_ most: Int, _ isMeant: (MemberTable, Int) -> Bool = { _, _ in true }) -> [UInt32] {
        var result: [UInt32] = []
        while cursor < members.positions.upperBound {
            if members.isUnconfirmed(cursor), isMeant(members, cursor) {
                guard result.count < most else { break }
                result.append(members.member(at: cursor))
            }
            cursor += 1
        }
        return result
    }

    private mutating func unicast(isAsked: Bool, now: Instant) -> Action? {
        guard !isAsked else {
            members.forget(.alive)
            state = .probing(isAsked: false)
            (cursor, stepAt) = (0, now)
            return nil
        }
        let isFirst = unicastRounds == 1
        let batch = batch(Self.profilesAtOnce) { !isFirst || !$0.has(.profiled, $1) }
        unicasts += batch.count
        if cursor < members.positions.upperBound {
            stepAt = now + policy.serialisation(of: Self.profileOctets) * batch.count
        } else {
            state = .unicasting(isAsked: true)
            stepAt = now + policy.roundTrip * Self.profileRoundTrips
        }
        return batch.isEmpty ? nil : .unicast(batch)
    }

    /// Members that asked, while the rounds go on.
    mutating func unicastDirectly(now: Instant) -> Action? {
        let batch = direct.prefix(Self.profilesAtOnce).filter { members.isUnconfirmed($0) }
        direct.removeFirst(min(direct.count, Self.profilesAtOnce))
        directAt = now + policy.serialisation(of: Self.profileOctets) * batch.count
        unicasts += batch.count
        for position in batch { members.note(.profiled, position) }
        return batch.isEmpty ? nil : .unicast(batch.map { members.member(at: $0) })
    }

    private mutating func probe(isAsked: Bool, now: Instant) -> Action? {
        guard isAsked else {
            let batch = batch(Self.probesAtOnce)
            if cursor < members.positions.upperBound {
                stepAt = now + policy.serialisation(of: Self.probeOctets) * batch.count
            } else {
                state = .probing(isAsked: true)
                stepAt = now + policy.roundTrip * Self.probeRoundTrips
            }
            return batch.isEmpty ? nil : .probe(batch)
        }
        for position in members.positions where members.isUnconfirmed(position) {
            let isAlive = members.has(.alive, position)
            if !isAlive || unicastRounds > 1 { members.fail(position, isAlive ? .refused : .silent) }
        }
        if members.unconfirmedCount == 0 { state = .ending } else { beginUnicast(now: now) }
        return nil
    }

    private func verdict(now: Instant) -> PushVerdict {
        PushVerdict(
            group: group, transaction: transaction, confirmed: members.confirmations(),
            unconfirmed: members.failures(), duration: now - startedAt, rounds: rounds, datagrams: datagrams,
            polls: polls, negativeAcknowledgements: negativeAcknowledgements, unicasts: unicasts)
    }
}

extension PushSender {
    /// Everything that is to come comes later by so much: nothing could be sent for that long. As long as nobody has
    /// confirmed the keys, nor do their times begin.
    public mutating func pause(for time: Duration) {
        guard time > .zero else { return }
        for path in [\PushSender.sendAt, \.answerAt, \.nackBy, \.firstNACKAt, \.directAt, \.stepAt] {
            self[keyPath: path] = self[keyPath: path] + time
        }
        slotsBy = slotsBy.map { $0 + time }
        confirmBy = confirmBy.map { $0 + time }
        if let begin = passing?.begin { passing?.begin = begin + time }
        guard confirmedCount == 0 else { return }
        activateAt = activateAt + time
        if deactivateAt != .distantFuture { deactivateAt = deactivateAt + time }
    }
}
