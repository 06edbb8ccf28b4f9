// SPDX-License-Identifier: Apache-2.0

/// A bound on everything a peer could make grow. Every queue, table, retry count and message size takes its limit here.
public struct Limits: Sendable, Hashable {
    /// UDP payload octets we are willing to parse.
    public var datagramOctets = 16_384
    /// UDP payload octets we send at most, so that every FMKE message fits one packet of a 1,500-octet link
    /// (1,500 - 20 IPv4 - 8 UDP, less 72 in reserve for a tunnel or IPv6 on the way).
    public var datagramOctetsSent = 1_400
    /// ISAKMP payloads in one message.
    public var payloadsPerMessage = 64
    /// Phase 1 transforms in one offer that are looked at.
    public var transformsPerOffer = 64
    /// Phase 1 exchanges under way in all, and from one address, before an unproven one gives way.
    public var halfOpen = 4_096
    public var halfOpenPerAddress = 32
    /// How long an unfinished phase 1 may take as responder.
    public var halfOpenLifetime: Duration = .seconds(30)
    /// Diffie-Hellman computations that messages 3 may cost us: of one address so many at once and a quarter of it per
    /// second; of all so many per second, half of them for peers that have authenticated themselves before.
    public var keyAgreementsPerAddress = 32
    public var keyAgreementsPerSecond = 1_000
    /// Messages 1 from the address of a peer that has an ISAKMP SA, answered per second: what is made up in its name
    /// comes back to it. It seldom needs another SA, and has time for it.
    public var openingsPerMember = 32
    /// In one phase 1 exchange: messages 2, 3 or 4 that differ from the one taken before, and messages 5 that are
    /// wrong. Each costs a computation, and the latter gives away a guess.
    public var phase1Restarts = 4
    public var wrongProofs = 8
    /// Messages under the new keys that overtook message 6, kept until it comes.
    public var earlyMessages = 8
    /// Message ids of informational exchanges remembered per ISAKMP SA.
    public var informationalMemory = 16
    /// Established ISAKMP SAs of one peer kept at a time (old and new during re-authentication, and one in reserve).
    public var associationsPerPeer = 3
    /// Exchanges remembered per ISAKMP SA, to answer a repeated request from memory.
    public var exchangesPerAssociation = 64
    /// Sends of one request before the peer counts as dead.
    public var requestTransmissions = 6
    /// Groups and VPNs in one client's profile. Each may need a message of its own, and all of them are in flight at a
    /// time: fewer than `exchangesPerAssociation`.
    public var groupsPerProfile = 60
    /// Data SAs of one group kept at a time by a member: old, current, next, and their like during a repair.
    public var dataAssociationsPerGroup = 8
    /// SAs that a member has let go of and KEKs before the last one that it still knows by name, per group.
    public var retiredAssociations = 64
    public var formerKEKs = 8
    /// Data SAs in a data plane, inbound and outbound ones together: a full profile with old, current and next SAs.
    public var dataAssociations = 2_048
    /// Flows, each with a data SA of its own, that a group may have: current and next SAs of all of them fit one
    /// CONFIGURE, and the next ones one PUSH (with the largest keys, of one flow less).
    public var flowsPerGroup = 3
    /// Flows of a VPN: with one SA in each direction, and up to four generations of them at a member.
    public var flowsPerVPN = 4
    /// Transactions a member collects at a time per group.
    public var openTransactions = 8
    /// Blocks per transaction and datagrams per block.
    public var blocksPerTransaction = 4_096
    public var datagramsPerBlock = 255
    /// Outer sources with replay state of their own per inbound SA.
    public var sendersPerAssociation = 64
    /// Datagrams taken from one socket per wake-up, so that no socket starves another.
    public var datagramsPerWakeup = 64
    /// Requests, and octets of one, that the control socket takes.
    public var controlConnections = 64
    public var controlRequestOctets = 65_536
    /// An inventory on its way to the key server: one of 100,000 clients has some 10 MiB.
    public var inventoryOctets = 32 << 20
    public var controlHeaderOctets = 8_192
    /// Lines of the log of one kind at once (then one a second), and lines about dropped packets that wait.
    public var logLinesAtOnce = 20
    public var waitingDropLines = 64
    /// ICMP messages to senders on the LAN whose packets are too big.
    public var tooBigNoticesPerSecond = 100

    public init() {}
}
