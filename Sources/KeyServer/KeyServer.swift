// SPDX-License-Identifier: Apache-2.0

public import Basics
public import Cryptography
public import IKEv1
public import Store
internal import Audit
internal import FMKE
internal import ISAKMP
internal import ReliablePush

// KeyServer owns the GCKS: who may have which keys (the inventory), every client's profile and its delivery (phase 2),
// every group's keys, their life and their delivery (phase 3), revocation, and the record of who confirmed what. It is
// sans-I/O: the daemon, the simulator and the tests drive the same engine.
//
//      datagrams, commands, time                                    transmit, persist, log, ended
//                 |                                                              ^
//                 v                                                              |
//     Phase1Endpoint --established--> profile (CONFIGURE) --ACK--> member holds keys, confirmed
//                 |                                                              ^
//                 +--STATUS-----------------> PushSender of each open transaction-+--> PUSH, BEACON, COMMIT

/// The GCKS engine.
///
/// The rule for callers: after each mutation, drain `poll()` until it gives `.wait`, and do what it says in that order.
public final class KeyServer {
    /// What the server is told once.
    public struct Configuration: Sendable {
        /// The name in messages 6, as clients expect it.
        public var identity: String
        /// Our end of every unicast and the source of every multicast.
        public var address: SocketAddress
        public var natTraversalPort: UInt16 = 4500
        public var signingKey: SigningKey
        public var inventory: Inventory
        /// Lifetime of ISAKMP SAs.
        public var phase1Lifetime: Duration = .seconds(8 * 3_600)
        public var deadPeerInterval: Duration? = .seconds(30)
        /// Microseconds since 1970 when the server starts. Nothing numbered restarts below this, which keeps sequences
        /// going up even where no record survived; and the times of records count from there.
        public var numberFloor: UInt64
        public var allowsKeyExport = false
        public var limits = Limits()

        public init(
            identity: String, address: SocketAddress, signingKey: SigningKey, inventory: Inventory, numberFloor: UInt64
        ) {
            self.identity = identity
            self.address = address
            self.signingKey = signingKey
            self.inventory = inventory
            self.numberFloor = numberFloor
        }
    }

    let configuration: Configuration
    /// What the operator wants now; `configuration` has what it was at the start.
    public internal(set) var inventory: Inventory
    /// Read at the start and for clients and groups that come later; written by the driver alone.
    let records: any RecordStore
    let random: any RandomSource
    let endpoint: Phase1Endpoint
    let directory: ClientDirectory
    let startedAt: Instant
    var clients: [String: ClientState] = [:]
    /// Whose ISAKMP SA it is, for the present one of each client.
    var owners: [AssociationID: String] = [:]
    var groups: [UInt32: GroupState] = [:]
    var vpns: [UInt32: VPNState] = [:]
    /// By client, the VPNs that it is an end of.
    var vpnsOf: [String: [UInt32]] = [:]
    /// When something is due in a VPN, at the earliest.
    var vpnAlarm: Instant?
    /// Clients whose VPNs have changed since their last profile.
    var unprofiled: Set<String> = []
    var outputs: [ServerOutput] = []
    var taken = 0
    var endpointWait: Instant?
    var drops = DropCounters()
    var limiter = LogLimiter()
    /// Between our instants and the times of records.
    let clock: RecordClock
    /// Clients whose record is to be written at the end of this input, and what else is.
    var unsaved: Set<String> = []
    /// Clients that are still to get the profile which a change of the inventory gave them, the order in which they do,
    /// and when the next ones do.
    var dueProfiles: Set<String> = []
    var profileQueue: ArraySlice<String> = []
    var profilesAt = Instant.zero
    /// Why nothing that holds keys may leave, and since when; nil as long as it may.
    var hold: Hold?
    /// Clients whose profile waits for that.
    var heldProfiles: Set<String> = []
    var unsavedChanges: [RecordChange] = []
    /// How often all outputs were taken.
    var drains: UInt64 = 0
    /// The present input is time: no datagram of anybody makes us tidy up.
    var isAdvancing = false

    /// Takes up the ISAKMP SAs, the groups and the open transactions of an earlier run; a group that there was not gets
    /// its first keys.
    /// - Parameter records: what an earlier run had stored; numbers go on behind them.
    /// - Throws: `StoreError`, `UnreadableRecord`; `CommandError` when a group's keys cannot be made or do not fit a
    ///   message.
    public init(
        _ configuration: Configuration, records: any RecordStore, random: any RandomSource, now: Instant
    ) throws {
        self.configuration = configuration
        inventory = configuration.inventory
        self.records = records
        self.random = random
        startedAt = now
        clock = RecordClock(microseconds: configuration.numberFloor, now: now)
        directory = ClientDirectory(configuration.inventory, lifetime: configuration.phase1Lifetime)
        var phase1 = Phase1Configuration(identity: .name(configuration.identity), isResponder: true)
        phase1.natTraversalPort = configuration.natTraversalPort
        phase1.deadPeerInterval = configuration.deadPeerInterval
        phase1.allowsKeyExport = configuration.allowsKeyExport
        phase1.limits = configuration.limits
        endpoint = Phase1Endpoint(configuration: phase1, credentials: directory, random: random)
        let owed = try restoreClients(records.records(under: "client/"), now: now)
        let stored = try StoredGroups(records.records(under: "group/"))
        for entry in configuration.inventory.groups {
            guard try !restoreGroup(entry, stored, now: now) else { continue }
            unsavedChanges += stored.leftovers(of: entry.id).map(RecordChange.remove)
            try makeGroup(entry, now: now)
        }
        try makeVPNs(records, now: now)
        try adaptGroups(stored, now: now)
        serveRestored(owed, now: now)
        drainEndpoint(now: now)
        if !stored.isEmpty { advanceGroups(to: now) }
        save(before: 0)
    }

    /// One that has not come yet; its numbers go on behind those that it ever had.
    func newClient(_ name: String, _ address: IPAddress?) throws(StoreError) -> ClientState {
        let stored = try number(records.value(of: "client/\(name)/sequence"))
        var state = ClientState(
            name: name, address: address, sequence: NumberBlock(first: max(stored, configuration.numberFloor)))
        state.isRevoked = try records.value(of: "client/\(name)/revoked") != nil
        return state
    }

    // MARK: Inputs

    /// A datagram from one of our UDP sockets.
    public func receive(_ datagram: Datagram, now: Instant) {
        let start = outputs.count
        defer { save(before: start) }
        endpoint.receive(datagram, now: now)
        drainEndpoint(now: now)
        advanceGroups(to: now)
    }

    /// Time has passed.
    public func advance(to now: Instant) {
        let start = outputs.count
        isAdvancing = true
        defer {
            save(before: start)
            isAdvancing = false
        }
        endpoint.advance(to: now)
        drainEndpoint(now: now)
        advanceGroups(to: now)
    }

    /// Changes the data keys of a group, and its KEK too if asked, or the keys of a VPN. The verdict
    /// comes as `.ended` with this number.
    public func rekey(group name: String, includingKEK: Bool, now: Instant) throws(CommandError) -> UInt64 {
        let start = outputs.count
        defer { save(before: start) }
        if let vpn = vpns.first(where: { $0.value.entry.name == name })?.key {
            let transaction = try rekeyVPN(vpn, now: now)
            advanceGroups(to: now)
            return transaction
        }
        guard let id = groups.first(where: { $0.value.entry.name == name })?.key else {
            throw .unknownGroup(name)
        }
        let transaction = try startTransaction(group: id, newKEK: includingKEK, reason: .commanded, now: now)
        drainEndpoint(now: now)
        advanceGroups(to: now)
        return transaction
    }

    /// Takes a client's authorisation: its ISAKMP SA ends, and every group it was in gets new keys that it never sees.
    /// - Returns: the transactions that lock it out, by the names of groups and VPNs.
    public func revoke(client name: String, now: Instant) throws(CommandError) -> [String: UInt64] {
        let start = outputs.count
        defer { save(before: start) }
        guard let client = clients[name] else { throw .unknownClient(name) }
        guard !client.isRevoked else { throw .alreadyRevoked(name) }
        clients[name]?.isRevoked = true
        unsaved.insert(name)
        directory.revoke(name)
        unsavedChanges.append(.put(Record("client/\(name)/revoked", Secret([1]))))
        outputs.append(.log(LogEvent(.warning, "client.revoked", ["client": name])))
        audit("client.revoked", ["client": name])
        if let association = client.association {
            owners[association] = nil
            endpoint.close(association, now: now)
        }
        clients[name]?.association = nil
        var transactions: [String: UInt64] = [:]
        var failure: CommandError?
        for id in groups.keys.sorted() {
            guard let removed = groups[id]?.takeOut(name), let entry = groups[id]?.entry else { continue }
            let heldKeys = takeOutOfTree(removed, of: id)
            forgetReport(of: name, in: id, now: now)
            groups[id]?.giveUp(on: removed, heldKeys: heldKeys, now: now)
            do {
                transactions[entry.name] = try startTransaction(group: id, newKEK: true, reason: .revocation, now: now)
            } catch {
                failure = error
                groups[id]?.renewal = (now + Self.retryPause, .revocation)
            }
        }
        transactions.merge(revokeVPNs(of: name, now: now)) { $1 }
        drainEndpoint(now: now)
        advanceGroups(to: now)
        if let failure { throw failure }
        return transactions
    }

    // MARK: Outputs

    /// The next thing to do; `.wait` when there is nothing more, then nil-free and repeatable.
    public func poll() -> ServerOutput {
        if taken < outputs.count {
            defer { taken += 1 }
            return outputs[taken]
        }
        if taken > 0 { drains += 1 }
        outputs.removeAll(keepingCapacity: true)
        taken = 0
        var next = endpointWait
        if !dueProfiles.isEmpty { next = min(next ?? profilesAt, profilesAt) }
        for group in groups.values {
            let deadline = nextDeadline(of: group)
            next = min(next ?? deadline, deadline)
        }
        if let vpnAlarm { next = min(next ?? vpnAlarm, vpnAlarm) }
        return .wait(until: next)
    }

    /// For Wireshark's ISAKMP key table: initiator cookie and cipher key, when key export is allowed.
    public func exportableKey(_ id: AssociationID) -> (cookie: UInt64, key: Secret)? { endpoint.exportableKey(id) }

    // MARK: Inside

    /// Until what failed for a reason of our own is tried again.
    static let retryPause: Duration = .seconds(10)

    func log(_ level: LogEvent.Level, _ name: String, _ fields: KeyValuePairs<String, String> = [:]) {
        outputs.append(.log(LogEvent(level, name, fields)))
    }

    /// A line that a peer can cause as often as it likes.
    /// - Parameter peer: the name in our inventory, not one from the wire.
    func log(
        _ level: LogEvent.Level, _ name: String, by peer: String, _ fields: KeyValuePairs<String, String>, now: Instant
    ) {
        guard let omitted = limiter.admit("\(name) \(peer)", now: now) else { return }
        var event = LogEvent(level, name, fields)
        if omitted > 0 { event.fields.append(LogEvent.Field(name: "omitted", value: "\(omitted)")) }
        outputs.append(.log(event))
    }

    /// Takes the endpoint's outputs until it waits.
    func drainEndpoint(now: Instant) {
        while let output = endpoint.poll() {
            switch output {
            case .transmit(let datagram):
                let output = ServerOutput.transmit(datagram)
                // A CONFIGURE that is held back is repeated, as one that got lost.
                if hold == nil || !output.letsKeysGo { outputs.append(output) }
            case .event(let event): handle(event, now: now)
            case .wait(let instant):
                endpointWait = instant
                return
            }
        }
    }

    /// Sequence numbers are recorded as eight octets, the first one not yet reserved.
    func number(_ value: Secret?) throws(StoreError) -> UInt64 {
        guard let value else { return 1 }
        var reader = OctetReader(value.revealed())
        guard value.count == 8, let number = try? reader.u64() else { throw .corrupt }
        return number
    }
}
