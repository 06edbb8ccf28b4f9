// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import ESP
internal import FMKE
internal import KeyTree
internal import ReliablePush

/// A data SA in its life at a member.
struct MemberSA {
    let sa: DataSA
    let key: SAKey
    /// The transaction that brought it.
    let transaction: UInt64
    let expiresAt: Instant
    /// When senders move to it, as far as was said when it came.
    let dueAt: Instant
    /// When this member, if it is a sender, moves to it; nil once it has.
    var activateAt: Instant?
    var isActive = false
    /// When it is gone, for one that is being replaced.
    var removeAt: Instant?
    /// The data plane refused it.
    var hasFailed = false

    var endsAt: Instant { min(expiresAt, removeAt ?? expiresAt) }

    /// Of one transaction the later one in the list is the newer.
    func isNewer(than other: MemberSA, isLater: Bool) -> Bool {
        transaction == other.transaction ? isLater : transaction > other.transaction
    }
}

/// A rekey SA that this member can open PUSHes of.
struct MemberChannel {
    let rekeySA: RekeySA
    let opener: PushOpener
    let expiresAt: Instant

    init(_ rekeySA: RekeySA, of group: UInt32, now: Instant) throws(FMKEError) {
        self.rekeySA = rekeySA
        opener = try PushOpener(group: group, rekeySA: rekeySA)
        expiresAt = now + .seconds(Int64(rekeySA.lifetimeSeconds))
    }
}

/// The parts of a profile that came so far.
struct ProfileGeneration {
    /// What the parts say of one VPN.
    struct VPN {
        var spis: Set<UInt32> = []
        var keepsOthers = false
    }

    let number: UInt32
    /// The sequence of part 0: the parts are numbered one after the other.
    let firstSequence: UInt64
    var parts: Set<UInt16> = []
    var groups: Set<UInt32> = []
    var vpns: [UInt32: VPN] = [:]

    mutating func take(_ section: VPNSection) {
        vpns[section.vpn, default: VPN()].spis.formUnion(section.dataSAs.map(\.spi))
        if section.keepsOthers { vpns[section.vpn]?.keepsOthers = true }
    }

    init(_ message: Configure) {
        number = message.generation
        firstSequence = message.sequence &- UInt64(message.part)
    }

    /// Is it one of the parts, overtaken by a later one?
    func lacks(_ message: Configure) -> Bool {
        message.generation == number && message.sequence &- UInt64(message.part) == firstSequence
            && !parts.contains(message.part)
    }
}

/// One group as a member knows it.
struct MemberGroup {
    let id: UInt32
    var name: String
    var membership: Membership
    var maySend: Bool
    var mayReceive: Bool
    var channel: MemberChannel
    /// The channel before the last change of KEK, for repetitions that are still on their way; and until when.
    var previous: (channel: MemberChannel, until: Instant)?
    /// The KEKs before that. What comes under them is late, and no sign of having missed anything.
    private(set) var formerKEKs: [RekeySPI] = []
    var receiver: PushReceiver
    /// Our path in the group's key tree; nil where the group has none.
    var tree: KeyTreeMember?
    var window: SequenceWindow
    /// Oldest first, as far as the messages say.
    var sas: [MemberSA] = []
    /// What the group's data SAs hand down to their successors, by what they protect.
    private(set) var flows: [TrafficSelector: Flow] = [:]
    /// SAs that have gone, the latest last. A profile that was long on its way may name them; to take one in again
    /// would start its sequence numbers and replay windows anew.
    private(set) var retired: [SAKey] = []
    /// When to ask for the profile, after a sign that we missed something the control channel cannot repair.
    var askAt: Instant?
    var lastAskedAt: Instant?
    /// How often an unknown KEK made us ask without a new one coming of it.
    var vainAsks = 0
    /// The SA, by SPI, that the next report says to replace because it nears a limit.
    var worn: UInt32?

    func channel(for spi: RekeySPI, now: Instant) -> MemberChannel? {
        if channel.rekeySA.spi == spi { return channel.expiresAt > now ? channel : nil }
        guard let previous, previous.channel.rekeySA.spi == spi, previous.until > now else { return nil }
        return previous.channel
    }

    /// The newest transaction of which every SA is in the data plane.
    var installed: UInt64 {
        // Nobody says of which transaction an SA is that came along with another one. So nothing new counts until all
        // of them work, also those that are being replaced, since senders may be using them still.
        sas.contains(where: \.hasFailed) ? min(lastInstalled, receiver.complete) : receiver.complete
    }
    /// As of the last time that the data plane had refused nothing.
    var lastInstalled: UInt64 = 0

    /// A profile names all flows of the group, a PUSH those that change.
    mutating func learnFlows(of sas: [DataSA], isProfile: Bool) {
        if isProfile { flows = [:] }
        for sa in sas { flows[sa.selector] = sa.flow }
    }

    private static let formerKEKsMost = Limits().formerKEKs

    /// To be called when `channel` is replaced.
    mutating func rememberKEK() {
        formerKEKs.append(channel.rekeySA.spi)
        if formerKEKs.count > Self.formerKEKsMost { formerKEKs.removeFirst() }
    }

    /// More than a profile can name of what a member has let go of lately.
    private static let retiredLimit = Limits().retiredAssociations

    mutating func retire(_ key: SAKey) {
        retired.append(key)
        if retired.count > Self.retiredLimit { retired.removeFirst() }
    }

    /// For a STATUS: what is used for sending, else what is newest for receiving.
    var activeSPIs: [UInt32] {
        if maySend { return sas.filter(\.isActive).map(\.key.spi) }
        guard let newest = sas.map(\.transaction).max() else { return [] }
        return sas.filter { $0.transaction == newest }.map(\.key.spi)
    }

    /// The next instant at which something of this group is due, the receiver's answers apart.
    func nextDeadline() -> Instant? {
        var next = askAt
        func consider(_ instant: Instant?) {
            guard let instant else { return }
            next = min(next ?? instant, instant)
        }
        for sa in sas {
            consider(sa.activateAt)
            consider(sa.endsAt)
        }
        consider(previous?.until)
        consider(refreshAt)
        return next
    }

    /// When a profile is asked for because nothing newer came: shortly before the KEK or the newest data SAs end.
    var refreshAt: Instant? {
        let newest = sas.filter { $0.removeAt == nil }.map(\.expiresAt).max()
        let end = min(channel.expiresAt, newest ?? channel.expiresAt)
        let life = Duration.seconds(Int64(sas.map(\.sa.lifetimeSeconds).max() ?? channel.rekeySA.lifetimeSeconds))
        let due = end - life / 10
        guard let lastAskedAt else { return due }
        return max(due, lastAskedAt + .seconds(30))
    }
}
