// SPDX-License-Identifier: Apache-2.0

public import Basics
public import Cryptography

// FMKE owns the messages of phases 2 and 3: CONFIGURE, its ACK and NACK, PUSH (data, parity, BEACON, COMMIT) and
// STATUS: how they are built, sealed, opened and verified. docs/FMKE.md describes every octet. It keeps no state.

/// The 16-octet SPI of a rekey SA, the cookie pair in the header of each PUSH (RFC 6407 4.1). A KEK's name.
public struct RekeySPI: Hashable, Sendable {
    public var high: UInt64
    public var low: UInt64

    public init(high: UInt64, low: UInt64) {
        self.high = high
        self.low = low
    }
}

/// Who of a group may send with a data SA (GDOI's SA_DIRECTION, RFC 6407 5.5.1.1).
public enum SADirection: UInt16, Sendable, Hashable {
    case sender = 1
    case receiver = 2
    case symmetric = 3
}

/// A data SA with its keys: GDOI's SAT (RFC 6407 5.5) and its TEK key packet (5.6.1) together.
public struct DataSA: Sendable, Equatable {
    public var spi: UInt32
    public var selector: TrafficSelector
    public var suite: ESPSuite
    public var direction: SADirection
    /// How long from now the SA may be used, in seconds.
    public var lifetimeSeconds: UInt32
    /// How much it may protect, in units of 1,024 octets; nil for no limit of volume.
    public var lifetimeKilobytes: UInt32?
    /// Sequence numbers of 64 bits (RFC 4303 2.2.1). In a VPN only.
    public var extendedSequence = false
    /// In how long a sender moves to it, in milliseconds; 0: now. Carried per SA in CONFIGURE, and as one value for
    /// the transaction in the header of a PUSH (there this field is 0). In a VPN .max: not
    /// before a later profile says so.
    public var activateInMilliseconds: UInt32 = 0
    /// In how long it is gone, for an SA that is being replaced, in milliseconds; nil: at the end of its lifetime.
    public var deactivateInMilliseconds: UInt32?
    /// `suite.cipherKeySize` octets.
    public var cipherKey: Secret
    /// `suite.authenticationKeySize` octets; nil with an AEAD.
    public var authenticationKey: Secret?

    public init(
        spi: UInt32, selector: TrafficSelector, suite: ESPSuite, direction: SADirection, lifetimeSeconds: UInt32,
        lifetimeKilobytes: UInt32? = nil, cipherKey: Secret, authenticationKey: Secret?
    ) {
        self.spi = spi
        self.selector = selector
        self.suite = suite
        self.direction = direction
        self.lifetimeSeconds = lifetimeSeconds
        self.lifetimeKilobytes = lifetimeKilobytes
        self.cipherKey = cipherKey
        self.authenticationKey = authenticationKey
    }
}

/// A group's control channel: GDOI's SAK (RFC 6407 5.3) and its KEK key packet (5.6.2) together.
public struct RekeySA: Sendable, Equatable {
    public var spi: RekeySPI
    /// The GCKS, source of every PUSH.
    public var source: IPAddress
    /// The multicast group and UDP port of the control channel.
    public var control: SocketAddress
    /// Counts the KEKs of the group; never goes back.
    public var epoch: UInt32
    public var lifetimeSeconds: UInt32
    public var signatureAlgorithm: SignatureAlgorithm
    /// The GCKS's public key, DER SubjectPublicKeyInfo.
    public var verifyingKey: [UInt8]
    /// 32 octets.
    public var kek: Secret

    public init(
        spi: RekeySPI, source: IPAddress, control: SocketAddress, epoch: UInt32, lifetimeSeconds: UInt32,
        signatureAlgorithm: SignatureAlgorithm, verifyingKey: [UInt8], kek: Secret
    ) {
        self.spi = spi
        self.source = source
        self.control = control
        self.epoch = epoch
        self.lifetimeSeconds = lifetimeSeconds
        self.signatureAlgorithm = signatureAlgorithm
        self.verifyingKey = verifyingKey
        self.kek = kek
    }
}

/// What a member is told of itself in a group (FMKE's MEMBERSHIP payload).
public struct Membership: Sendable, Hashable {
    /// Its number in the group: the slot it answers in, its leaf in the key tree.
    public var memberIndex: UInt32
    /// Its number as a sender, first two octets of its GCM IVs (RFC 6054); nil for one that may not send.
    public var senderID: UInt16?
    /// One member of the group sends and no other ever does, as long as this profile stands.
    public var hasOneSender: Bool
    /// The highest PUSH sequence the GCKS had used when it wrote this: older ones are replays.
    public var sequence: UInt64
    /// The newest transaction this profile contains.
    public var transaction: UInt64

    public init(
        memberIndex: UInt32, senderID: UInt16?, hasOneSender: Bool = false, sequence: UInt64, transaction: UInt64
    ) {
        self.memberIndex = memberIndex
        self.senderID = senderID
        self.hasOneSender = hasOneSender
        self.sequence = sequence
        self.transaction = transaction
    }
}

/// All that a client gets for one group.
public struct GroupSection: Sendable, Equatable {
    public var group: UInt32
    /// For logs and status; up to 64 octets of UTF-8.
    public var name: String
    public var membership: Membership
    public var rekeySA: RekeySA
    /// Oldest first.
    public var dataSAs: [DataSA]
    /// The member's path in the group's key tree (docs/KEYTREE.md 5); nil for a group without one.
    public var treeKeys: Secret?

    public init(
        group: UInt32, name: String, membership: Membership, rekeySA: RekeySA, dataSAs: [DataSA],
        treeKeys: Secret? = nil
    ) {
        self.group = group
        self.name = name
        self.membership = membership
        self.rekeySA = rekeySA
        self.dataSAs = dataSAs
        self.treeKeys = treeKeys
    }
}

/// What a client gets for one VPN, a tunnel to one other client: FMKE's VPN payload with its SAs, or some of them (a
/// VPN may be cut between messages).
public struct VPNSection: Sendable, Equatable {
    /// The other end.
    public struct Peer: Sendable, Hashable {
        /// As the GCKS sees it; the port is 0 unless the packets go in UDP.
        public var address: SocketAddress
        /// ESP in UDP (RFC 3948).
        public var isEncapsulated: Bool

        public init(address: SocketAddress, isEncapsulated: Bool) {
            self.address = address
            self.isEncapsulated = isEncapsulated
        }
    }
    /// In the same number space as groups.
    public var vpn: UInt32
    /// For logs and status; up to 64 octets of UTF-8.
    public var name: String
    /// The newest generation of SAs.
    public var transaction: UInt64
    /// SAs of this VPN that the profile does not name stay as they are.
    public var keepsOthers: Bool
    /// nil when there are no SAs, which only a section that keeps others may say.
    public var peer: Peer?
    /// Oldest first; each is for one direction.
    public var dataSAs: [DataSA]

    public init(
        vpn: UInt32, name: String, transaction: UInt64, keepsOthers: Bool, peer: Peer?, dataSAs: [DataSA]
    ) {
        self.vpn = vpn
        self.name = name
        self.transaction = transaction
        self.keepsOthers = keepsOthers
        self.peer = peer
        self.dataSAs = dataSAs
    }
}

/// Phase 2: one message of a client's profile.
public struct Configure: Sendable, Equatable {
    /// Per client, never goes back; a client acts on each once.
    public var sequence: UInt64
    /// Number of the profile; what is in no message of the newest complete generation is gone.
    public var generation: UInt32
    /// Position of this message in its generation, 0-based, and how many there are; the last one is the end mark.
    public var part: UInt16
    public var partCount: UInt16
    public var groups: [GroupSection]
    /// Behind the groups.
    public var vpns: [VPNSection]

    public init(
        sequence: UInt64, generation: UInt32, part: UInt16, partCount: UInt16, groups: [GroupSection],
        vpns: [VPNSection] = []
    ) {
        self.sequence = sequence
        self.generation = generation
        self.part = part
        self.partCount = partCount
        self.groups = groups
        self.vpns = vpns
    }
}

/// The answer to a CONFIGURE: what became of each SA in it. An ACK when all are installed, otherwise a NACK.
public struct ConfigureAnswer: Sendable, Hashable {
    public enum Code: UInt8, Sendable, Hashable {
        case installed = 0
        /// Already there, unchanged.
        case known = 1
        /// The algorithm is not available here.
        case unsupported = 2
        /// Overlaps another SA or a local policy.
        case conflict = 3
        /// No room left.
        case limit = 4
        /// The data plane refused it.
        case failed = 5

        public var isGood: Bool { rawValue <= 1 }
    }
    /// One data SA's fate; SPI 0 stands for the group's rekey SA, or for a VPN as a whole.
    public struct Item: Sendable, Hashable {
        /// Or VPN: both have their ids from one number space.
        public var group: UInt32
        public var spi: UInt32
        public var code: Code
        public init(group: UInt32, spi: UInt32, code: Code) {
            self.group = group
            self.spi = spi
            self.code = code
        }
    }
    /// Of the CONFIGURE that is answered.
    public var sequence: UInt64
    public var items: [Item]
    public var isAcknowledgement: Bool { items.allSatisfy(\.code.isGood) }

    public init(sequence: UInt64, items: [Item]) {
        self.sequence = sequence
        self.items = items
    }
}

/// What a PUSH asks its readers to answer, and when (FMKE's feedback request).
public struct FeedbackRequest: Sendable, Hashable {
    public enum Mode: UInt8, Sendable, Hashable {
        /// NACK only.
        case none = 0
        /// Every member in `memberFirst...memberLast` answers in its slot.
        case all = 1
        /// Those whose index is `residue` modulo `modulus` answer.
        case census = 2
    }
    public var mode: Mode
    /// 0 for the first transmission of a transaction, counted up with each repair and each poll.
    public var round: UInt8
    /// How long after receipt slot 0 begins, and the wait of those who lack something, in milliseconds. All datagrams
    /// of a round name the same instant.
    public var answerInMilliseconds: UInt32
    /// Length of one answering slot, in microseconds; 0 in mode `none`.
    public var slotMicroseconds: UInt32
    /// Number of slots; a member answers in slot `(index / modulus) mod slots`. 0 in mode `none`.
    public var slots: UInt32
    /// 1 and 0 in all modes but `census`.
    public var modulus: UInt16
    public var residue: UInt16
    /// Upper end of the random wait before a NACK, in milliseconds.
    public var nackWaitMilliseconds: UInt16
    /// Who lacks something says so in this round when 16 random bits are not above this: the probability is
    /// (share + 1) / 65,536.
    public var nackShare: UInt16

    public init(
        mode: Mode, round: UInt8 = 0, answerInMilliseconds: UInt32 = 0, slotMicroseconds: UInt32 = 0,
        slots: UInt32 = 0, modulus: UInt16 = 1, residue: UInt16 = 0, nackWaitMilliseconds: UInt16 = 0,
        nackShare: UInt16 = .max
    ) {
        self.mode = mode
        self.round = round
        self.answerInMilliseconds = answerInMilliseconds
        self.slotMicroseconds = slotMicroseconds
        self.slots = slots
        self.modulus = modulus
        self.residue = residue
        self.nackWaitMilliseconds = nackWaitMilliseconds
        self.nackShare = nackShare
    }
}

/// FMKE's TRANSACTION payload: the first one of every PUSH.
public struct TransactionHeader: Sendable, Hashable {
    public enum Kind: UInt8, Sendable, Hashable {
        /// Keys; index < dataCount.
        case data = 1
        /// Reed-Solomon parity over the bodies of a block; index >= dataCount. Of a one-datagram block: its repetition.
        case parity = 2
        /// Names the newest transaction, no body.
        case beacon = 3
        /// Activate this transaction's SAs `activateIn` from now, no body.
        case commit = 4
    }
    public var kind: Kind
    public var group: UInt32
    public var epoch: UInt32
    /// Per group; names one change of its keys, never goes back.
    public var transaction: UInt64
    public var block: UInt16
    public var blockCount: UInt16
    /// This datagram within its block: k = dataCount, n = datagramCount.
    public var index: UInt8
    public var dataCount: UInt8
    public var datagramCount: UInt8
    /// The members whose keys are in this block; in a repair only those who may still lack them, in a BEACON those who
    /// are asked to answer.
    public var memberFirst: UInt32
    public var memberLast: UInt32
    public var feedback: FeedbackRequest
    /// How long after receipt senders move to the new SAs, in milliseconds; .max: wait for COMMIT.
    public var activateInMilliseconds: UInt32
    /// How long after receipt the replaced SAs are gone, in milliseconds; .max: at the end of their lifetime.
    public var deactivateInMilliseconds: UInt32

    public init(
        kind: Kind, group: UInt32, epoch: UInt32, transaction: UInt64, block: UInt16 = 0, blockCount: UInt16 = 1,
        index: UInt8 = 0, dataCount: UInt8 = 1, datagramCount: UInt8 = 1, memberFirst: UInt32 = 0,
        memberLast: UInt32 = .max, feedback: FeedbackRequest, activateInMilliseconds: UInt32,
        deactivateInMilliseconds: UInt32
    ) {
        self.kind = kind
        self.group = group
        self.epoch = epoch
        self.transaction = transaction
        self.block = block
        self.blockCount = blockCount
        self.index = index
        self.dataCount = dataCount
        self.datagramCount = datagramCount
        self.memberFirst = memberFirst
        self.memberLast = memberLast
        self.feedback = feedback
        self.activateInMilliseconds = activateInMilliseconds
        self.deactivateInMilliseconds = deactivateInMilliseconds
    }
}

/// The body of a transaction: what changes in the group.
public struct KeyUpdate: Sendable, Equatable {
    /// The next rekey SA, when the KEK changes.
    public var rekeySA: RekeySA?
    /// The new data SAs.
    public var dataSAs: [DataSA]
    /// SPIs of data SAs that the new ones replace (GDOI's Delete payload).
    public var replaced: [UInt32]
    /// What changes in the group's key tree (docs/KEYTREE.md 4), for a transaction that changes it; opaque here. Then
    /// there is a new KEK, and on the wire every key is masked: see `masked`.
    public var treeSlice: [UInt8]?
    /// The new KEK and data SAs follow from the new group key and do not travel: see `completed`. Then there is a
    /// slice, `rekeySA` is nil, `dataSAs` are those of earlier transactions alone, and `replaced` is empty.
    public var succession: Succession?
    /// Whether the keys in here are under their masks. Only such an update with a slice has a body.
    public internal(set) var areKeysMasked = false

    public init(
        rekeySA: RekeySA?, dataSAs: [DataSA], replaced: [UInt32], treeSlice: [UInt8]? = nil,
        succession: Succession? = nil
    ) {
        self.rekeySA = rekeySA
        self.dataSAs = dataSAs
        self.replaced = replaced
        self.treeSlice = treeSlice
        self.succession = succession
    }
}

/// An opened and verified PUSH.
public struct Push: Sendable, Equatable {
    public var spi: RekeySPI
    /// Of this datagram: 64 bits, per group, never goes back, never restarts, and the GCM nonce at the same time.
    public var sequence: UInt64
    public var header: TransactionHeader
    /// The plain body: an encoded `KeyUpdate` (data) or a parity shard; empty for BEACON and COMMIT.
    public var body: [UInt8]

    public init(spi: RekeySPI, sequence: UInt64, header: TransactionHeader, body: [UInt8]) {
        self.spi = spi
        self.sequence = sequence
        self.header = header
        self.body = body
    }
}

/// What a member reports of one group; or of a VPN, by its id: then `epoch`, `sequence` and `missing` are empty.
public struct GroupReport: Sendable, Hashable {
    /// A block of which datagrams are still needed.
    public struct Missing: Sendable, Hashable {
        public var transaction: UInt64
        public var block: UInt16
        public var needed: UInt8
        public init(transaction: UInt64, block: UInt16, needed: UInt8) {
            self.transaction = transaction
            self.block = block
            self.needed = needed
        }
    }
    public var group: UInt32
    public var epoch: UInt32
    /// The newest transaction whose keys are all installed here.
    public var complete: UInt64
    /// The highest PUSH sequence accepted.
    public var sequence: UInt64
    /// Empty in an ACK.
    public var missing: [Missing]
    /// SPIs of the data SAs in use for sending (senders) or newest for receiving (receivers).
    public var activeSPIs: [UInt32]
    /// "Send me my profile again."
    public var wantsProfile: Bool
    /// "The group needs new data keys": a volume or the sequence numbers of this sender near their end.
    public var wantsRekey: Bool

    public init(
        group: UInt32, epoch: UInt32, complete: UInt64, sequence: UInt64, missing: [Missing] = [],
        activeSPIs: [UInt32] = [], wantsProfile: Bool = false, wantsRekey: Bool = false
    ) {
        self.group = group
        self.epoch = epoch
        self.complete = complete
        self.sequence = sequence
        self.missing = missing
        self.activeSPIs = activeSPIs
        self.wantsProfile = wantsProfile
        self.wantsRekey = wantsRekey
    }
}

/// Feedback: everything a client reports, in one cumulative message that may be repeated safely.
public struct Status: Sendable, Hashable {
    /// Counts this client's reports under one ISAKMP SA: an older one arriving late, or a replay, is dropped.
    public var report: UInt64
    public var groups: [GroupReport]

    public init(report: UInt64, groups: [GroupReport]) {
        self.report = report
        self.groups = groups
    }
}

/// Why a message was refused. A failed decryption carries no detail.
public enum FMKEError: Error, Hashable, Sendable {
    /// Does not follow docs/FMKE.md.
    case malformed
    /// Well-formed, but a value is outside what this version supports.
    case unsupported
    /// The tag, hash or signature is wrong.
    case notAuthentic
    /// Longer than what we send or accept.
    case tooLong
    /// A limit of ours.
    case limit
}
