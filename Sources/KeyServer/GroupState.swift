// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import Cryptography
internal import FMKE
internal import IKEv1
internal import KeyTree
internal import ReliablePush

/// What the server knows of one member of one group.
struct MemberState {
    /// Its number in the group; never given to another member.
    let index: UInt32
    var role: MemberRole
    /// The sender id of its newest registration (RFC 6054); nil for a receiver. A member that comes back gets a new
    /// one (RFC 6407 3.5.1): its IV counter may have started again.
    var senderID: UInt16?
    /// It was sent keys that may still be valid.
    var holdsKeys = false
    /// The newest transaction it confirmed, and when.
    var confirmed: UInt64 = 0
    var confirmedAt: Instant?
    /// The transaction that took it in, in a group with backward secrecy: it is told nothing older.
    var since: UInt64 = 0
    /// The first transaction whose SAs it may send with: of older ones receivers expect another sender alone.
    var sendsSince: UInt64 = 0
    /// A sender uses the SAs of that transaction at this instant at the latest, even if every COMMIT gets lost.
    var movesBy: Instant?
}

/// A data SA in its life at the server.
struct ServerDataSA {
    var sa: DataSA
    /// The transaction that made it.
    let transaction: UInt64
    let createdAt: Instant
    /// When senders move to it.
    var activateAt: Instant
    /// When it is gone, for one that was replaced and that no sender uses any more.
    var removeAt: Instant?
    let expiresAt: Instant

    /// As a profile describes it now; nil when it is over.
    func described(now: Instant, for role: MemberRole) -> DataSA? {
        guard expiresAt > now, removeAt.map({ $0 > now }) ?? true else { return nil }
        var copy = sa
        copy.lifetimeSeconds = UInt32(clamping: max(Int64((expiresAt - now).inSeconds.rounded(.up)), 1))
        copy.activateInMilliseconds = UInt32(clamping: max((activateAt - now).wholeMilliseconds, 0))
        copy.deactivateInMilliseconds = removeAt.map { UInt32(clamping: ($0 - now).wholeMilliseconds) }
        copy.direction = role == .sender ? .sender : role == .receiver ? .receiver : .symmetric
        return copy
    }
}

/// A transaction under way.
struct OpenTransaction {
    var sender: PushSender
    /// That of the KEK which the members have when it starts.
    let channel: PushSealer
    /// The epoch it leads to.
    let epoch: UInt32
    let reason: RekeyReason
    /// Its keys are masked under the group key of the tree: it may go on under a KEK that a removed member knows.
    let isMasked: Bool
    /// What its datagrams took, UDP payload.
    var multicastOctets = 0
    /// Members that hold no keys of the group and are not waited for.
    let absent: [String]
    /// The first index that has no part in it.
    let membersBelow: UInt32
    /// What is stored of it and never changes, until it is.
    var unsavedDelivery: DeliveryRecord?
    /// COMMITs still to send, and when the next is due.
    var commitsLeft = 0
    var commitAt: Instant?
    var isCommitted = false
    /// A verdict that waits for the activation: a revocation is over when all senders have moved.
    var heldVerdict: PushVerdict?
    /// COMMIT as soon as this share has confirmed, in percent.
    let commitAtPercent: Double?
}

/// Tells the members by COMMIT when the SAs that a transaction replaced are gone.
struct Retirement {
    let transaction: UInt64
    let removeAt: Instant
    var copiesLeft: Int
    var nextAt: Instant
}

/// The members of a group by name. It notes whose record is to be written.
struct MemberList: Sequence {
    private var states: [String: MemberState] = [:]
    private(set) var unsaved: Set<String> = []

    subscript(name: String) -> MemberState? {
        get { states[name] }
        _modify {
            unsaved.insert(name)
            yield &states[name]
        }
    }

    mutating func removeValue(forKey name: String) -> MemberState? {
        unsaved.insert(name)
        return states.removeValue(forKey: name)
    }

    /// Takes one up as it is stored.
    mutating func restore(_ member: MemberState, name: String) { states[name] = member }

    mutating func saved() { unsaved.removeAll(keepingCapacity: unsaved.count < 1_024) }

    func makeIterator() -> Dictionary<String, MemberState>.Iterator { states.makeIterator() }
    var keys: Dictionary<String, MemberState>.Keys { states.keys }
    var values: Dictionary<String, MemberState>.Values { states.values }
    var count: Int { states.count }
}

/// One group at the server.
struct GroupState {
    var entry: GroupEntry
    var members = MemberList()
    /// The index that the next new member gets: none is given twice.
    var nextIndex: UInt32 = 0
    /// The newest transaction at the time when the group last had several senders.
    var severalSendersUpTo: UInt64?
    /// Who has, or had, each index: a verdict names a member also when it was taken out meanwhile.
    var names: [UInt32: String] = [:]
    /// Who was taken out: its index, and the last transaction that it had a part in.
    var gone: [String: MemberRecord] = [:]
    var rekeySA: RekeySA
    /// That of the current KEK.
    var channel: PushSealer
    var kekExpiresAt: Instant
    /// Oldest first.
    var data: [ServerDataSA] = []
    /// Who knows which keys of the tree: a member's index is its slot. nil with flat revocation.
    var tree: KeyTreeServer?
    /// The last change of the tree that members were told by multicast.
    var treeUpdate: (transaction: UInt64, octets: Int, datagrams: Int)?
    /// Members that a transaction took in and that have no profile of it yet.
    var newcomers: [String] = []
    /// The newest transaction, and the first one: all in between exist.
    var transaction: UInt64
    let firstTransaction: UInt64
    /// The newest transaction that took a member out: what is older has a fixed end, and nobody is to get it any more.
    var lastRevocation: UInt64 = 0
    var sequence: NumberBlock
    var nextSenderID: UInt32 = 1
    var open: [UInt64: OpenTransaction] = [:]
    /// What the newest transaction that ended, or that a newer one followed, taught of the channel; and its number.
    var experience = PushExperience()
    var experiencedUpTo: UInt64 = 0
    var retirement: Retirement?
    var lastVerdict: VerdictReport?
    var dataRekeyAt: Instant
    var kekRekeyAt: Instant
    var beaconAt: Instant
    var beaconPause: Duration = .seconds(1)
    /// New keys that a member made necessary and that wait for their turn; and when the last such ones were made.
    var renewal: (at: Instant, reason: RekeyReason)?
    var renewedAt: Instant?
    /// Members that report newer keys than ours, and since when somebody does: no keys of the group are given out.
    var ahead: [String: Report] = [:]
    var aheadSince: Instant?
    /// Transactions that began and ended with the present input.
    var unsavedEnded: [UInt64: OpenTransaction] = [:]
    /// What is in the store of it, beside members and tree.
    var stored = StoredGroup()

    /// That, with what the newest transaction under way has taught so far.
    var newestExperience: PushExperience {
        guard let newest = open.keys.max(), newest > experiencedUpTo else { return experience }
        return open[newest]?.sender.experience ?? experience
    }

    /// Transactions may end in another order than they began in.
    mutating func learn(from sender: PushSender) {
        guard sender.transaction > experiencedUpTo else { return }
        experiencedUpTo = sender.transaction
        experience = sender.experience
    }

    /// What a BEACON or a COMMIT outside the rounds of a transaction asks: those that lack something, at first so few
    /// of them that even if all did they would not fill the return channel, then, the more BEACONs there were, all.
    var question: FeedbackRequest {
        let push = entry.push
        let doublings =
            UInt64(max(beaconPause.components.seconds, 1)).bitWidth - 1
            - UInt64(max(beaconPause.components.seconds, 1)).leadingZeroBitCount
        var share = Double(max(push.nackTarget, 1)) / Double(max(members.count, 1))
        for _ in 0..<doublings where share < 1 { share *= 8 }
        let wait = max(push.roundTrip, push.slot * min(push.nackTarget, members.count))
        return FeedbackRequest(
            mode: .none, round: .max, nackWaitMilliseconds: UInt16(clamping: wait.wholeMilliseconds),
            nackShare: share >= 1 ? .max : UInt16(share * 65_535))
    }

    func memberName(_ index: UInt32) -> String { names[index] ?? "member \(index)" }

    /// Its index stays its own.
    mutating func takeOut(_ name: String) -> MemberState? {
        guard let removed = members.removeValue(forKey: name) else { return nil }
        var record = removed.record
        record.until = transaction
        gone[name] = record
        return removed
    }

    /// A member that was taken out is waited for no more.
    mutating func giveUp(on member: MemberState, heldKeys: Bool, now: Instant) {
        for key in open.keys.sorted() {
            open[key]?.sender.giveUp(member.index, reason: .revoked)
            // What comes for the revocation brings its keys along; a repair would go under a KEK that it knows.
            guard heldKeys, open[key]?.isMasked == false else { continue }
            open[key]?.sender.leaveMulticast(now: now)
        }
    }

    /// One member sends, and with each SA that lives no other ever did.
    var hasOneSender: Bool {
        entry.members.count { $0.role.maySend } == 1
            && !data.contains { $0.transaction <= severalSendersUpTo ?? 0 }
    }

    /// Gives a new member its number.
    mutating func admit(_ name: String, role: MemberRole) {
        members[name] = MemberState(index: nextIndex, role: role)
        names[nextIndex] = name
        gone[name] = nil
        nextIndex += 1
    }

    /// The newest transaction whose keys every sender confirmed: what earlier ones brought is used no more.
    var confirmedBySenders: UInt64 {
        members.values.filter { $0.role.maySend && $0.holdsKeys }.map(\.confirmed).min() ?? transaction
    }

    /// When the last of the senders that confirmed this transaction, or a later one, has moved to its SAs.
    func sendersMove(to transaction: UInt64) -> Instant {
        members.values.filter { $0.role.maySend && $0.confirmed >= transaction }.compactMap(\.movesBy).max()
            ?? Instant(nanoseconds: .min)
    }

    /// When nobody sends any more with what a revocation replaced: senders have moved, and what they cannot move from,
    /// because its flow has gone as well, is gone.
    func revocationIsOver(_ transaction: UInt64) -> Instant {
        let flows = Set(data.filter { $0.transaction == transaction }.map(\.sa.selector))
        let left = data.filter { $0.transaction < transaction && !flows.contains($0.sa.selector) }
        return left.map { $0.removeAt ?? $0.expiresAt }.reduce(sendersMove(to: transaction)) { max($0, $1) }
    }

    /// When a sender moves that was sent these SAs at that instant and has them by now: its times count from receipt.
    func movesBy(_ transaction: UInt64, sentAt: Instant, now: Instant) -> Instant {
        let made = data.filter { $0.transaction == transaction }.map(\.createdAt).max() ?? now
        return max(now, made + entry.rollover.activateAfter + (now - sentAt))
    }

    /// Is a change of the KEK on its way by multicast, so that members may still get it there?
    var isRepairingKEK: Bool {
        open.values.contains { $0.channel.rekeySA.spi != rekeySA.spi && $0.sender.isInRounds }
    }

    /// Data SAs that are not over.
    func live(now: Instant) -> [ServerDataSA] {
        data.filter { $0.expiresAt > now && ($0.removeAt.map { $0 > now } ?? true) }
    }

    /// The next instant at which something of this group is due.
    /// - Parameter isHeld: nothing is given out, so nothing is forgotten.
    func nextDeadline(senderWaits: [Instant], isHeld: Bool) -> Instant {
        var next = min(dataRekeyAt, kekRekeyAt, beaconAt)
        for wait in senderWaits { next = min(next, wait) }
        if let renewal { next = min(next, renewal.at) }
        for transaction in open.values {
            if let commitAt = transaction.commitAt { next = min(next, commitAt) }
            if transaction.heldVerdict != nil { next = min(next, revocationIsOver(transaction.sender.transaction)) }
        }
        if let retirement { next = min(next, retirement.nextAt) }
        if !isHeld { for sa in data { next = min(next, sa.removeAt ?? sa.expiresAt) } }
        return next
    }
}

/// What the server knows of one client.
struct ClientState {
    let name: String
    /// The declared address; nil for a client of a range.
    var address: IPAddress?
    var isRevoked = false
    var association: AssociationID?
    var lastHeard: Instant?
    /// Profile messages: sequence and generation.
    var sequence: NumberBlock
    var generation: UInt32 = 0
    /// CONFIGUREs under way by message id: what their acknowledgement will confirm.
    var pending: [UInt32: PendingConfigure] = [:]
    /// The highest STATUS counter seen under the present ISAKMP SA.
    var lastReport: UInt64 = 0
    var lastProfileAt: Instant?
    var vpnPending: VPNPending?
    /// Whether its record says that a profile is under way.
    var isStoredAsOwed = false
    /// It ever completed phase 1.
    var wasRegistered = false
}

struct PendingConfigure {
    let association: AssociationID
    let sequence: UInt64
    let generation: UInt32
    let sentAt: Instant
    /// Newest transaction in it, by group.
    let transactions: [UInt32: UInt64]
}
