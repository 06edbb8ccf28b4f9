// SPDX-License-Identifier: Apache-2.0

public import Basics
public import Cryptography
public import ESP
public import IKEv1
internal import FMKE
internal import ISAKMP
internal import ReliablePush

// GroupMember owns the client: registration with the GCKS (phase 1, again and again), its profile (phase 2), the
// groups' control channels (phase 3), the life of every SA it holds, and what it reports back. It is sans-I/O: the
// daemon, the simulator and the tests drive the same engine.
//
//      idle --start--> connecting --established--> registered --reauthentication, overlapping--> registered
//                        ^   | no answer, refused       | peer dead or gone
//                        |   v                          v
//                        +- waiting (back-off) <--------+      SAs stay until they end

/// The client engine.
///
/// The rule for callers: after each mutation, drain `poll()` until it gives `.wait`, and do what it says in that order.
public final class GroupMember {
    /// What the client is told once.
    public struct Configuration: Sendable {
        public var name: String
        /// Our end of every unicast; the address is also the outer source of our ESP.
        public var local: SocketAddress
        public var gcks: SocketAddress
        /// The name the GCKS must give itself; nil accepts any that knows the key.
        public var gcksIdentity: String?
        public var preSharedKey: Secret
        public var suites: [Phase1Suite]
        public var phase1Lifetime: Duration = .seconds(8 * 3_600)
        public var natTraversalPort: UInt16 = 4500
        public var deadPeerInterval: Duration? = .seconds(30)
        /// Wait after a failed registration: the first, doubling up to the longest.
        public var retryFirst: Duration = .seconds(1)
        public var retryMost: Duration = .seconds(60)
        public var allowsKeyExport = false
        public var limits = Limits()

        public init(
            name: String, local: SocketAddress, gcks: SocketAddress, preSharedKey: Secret, suites: [Phase1Suite]
        ) {
            self.name = name
            self.local = local
            self.gcks = gcks
            self.preSharedKey = preSharedKey
            self.suites = suites
        }
    }

    enum Connection {
        case idle
        case connecting
        case registered(AssociationID)
        case waiting(until: Instant)
    }

    let configuration: Configuration
    let random: any RandomSource
    let endpoint: Phase1Endpoint
    var connection = Connection.idle
    var failures = 0
    var groups: [UInt32: MemberGroup] = [:]
    var vpns: [UInt32: MemberVPN] = [:]
    /// Highest CONFIGURE acted on, and the generation being collected.
    var configureSequence: UInt64 = 0
    var generation: ProfileGeneration?
    var reportCount: UInt64 = 0
    /// What the answers to dead peer detection say.
    private var announced: (association: AssociationID, installed: [UInt32: UInt64])?
    /// How often a profile was asked for since the last one came.
    var unansweredAsks = 0
    /// Until when the first profile under the present ISAKMP SA must be here; nil when it is.
    var profileDueAt: Instant?
    /// When to ask for the profile only to be heard of; nil where dead peer detection does that.
    var callAt: Instant?
    var drops = DropCounters()
    var lastFailure: String?
    var firstDatagramAt: Instant?
    var readyAfter: Duration?
    var pending: [Pending] = []
    var taken = 0
    var endpointWait: Instant?

    /// An output, or an answer or a report whose content is decided when its turn comes.
    enum Pending {
        case ready(MemberOutput)
        case status(asking: Set<UInt32>, at: Instant)
        case configureAnswer(ConfigureAnswer, messageID: UInt32, association: AssociationID, at: Instant)
    }

    public init(_ configuration: Configuration, random: any RandomSource) {
        self.configuration = configuration
        self.random = random
        var phase1 = Phase1Configuration(identity: .name(configuration.name), isResponder: false)
        phase1.natTraversalPort = configuration.natTraversalPort
        phase1.deadPeerInterval = configuration.deadPeerInterval
        phase1.allowsKeyExport = configuration.allowsKeyExport
        phase1.limits = configuration.limits
        endpoint = Phase1Endpoint(
            configuration: phase1, credentials: OnePeer(credential: Self.credential(configuration), configuration.gcks),
            random: random)
    }

    private static func credential(_ configuration: Configuration) -> PeerCredential {
        PeerCredential(
            name: "gcks", preSharedKey: configuration.preSharedKey,
            expectedIdentity: configuration.gcksIdentity.map { .name($0) }, suites: configuration.suites,
            lifetime: configuration.phase1Lifetime)
    }

    // MARK: Inputs

    /// Begins to register.
    public func start(now: Instant) {
        guard case .idle = connection else { return }
        connect(now: now)
        drainEndpoint(now: now)
    }

    /// A datagram from one of our UDP sockets.
    public func receive(_ datagram: Datagram, now: Instant) {
        if isPush(datagram) {
            receivePush(datagram, now: now)
        } else {
            endpoint.receive(datagram, now: now)
            drainEndpoint(now: now)
        }
        advanceGroups(to: now)
    }

    /// Time has passed.
    public func advance(to now: Instant) {
        endpoint.advance(to: now)
        drainEndpoint(now: now)
        if case .waiting(let until) = connection, until <= now {
            connect(now: now)
            drainEndpoint(now: now)
        }
        if let profileDueAt, profileDueAt <= now { giveUpOnGCKS(now: now) }
        advanceGroups(to: now)
    }

    /// The data plane could not do a `.data` change for this SA.
    public func dataPlaneFailed(_ key: SAKey, now: Instant) {
        for id in groups.keys.sorted() {
            guard let index = groups[id]?.sas.firstIndex(where: { $0.key == key }) else { continue }
            groups[id]?.sas[index].hasFailed = true
            retryFailed(id, now: now)
            log(.error, "sa.failed", ["group": groups[id]?.name ?? "", "spi": spiText(key.spi)])
        }
        vpnFailed(key, now: now)
        for index in pending.indices.dropFirst(taken) {
            guard case .configureAnswer(var answer, let messageID, let association, let at) = pending[index] else {
                continue
            }
            for item in answer.items.indices where answer.items[item].spi == key.spi {
                answer.items[item].code = .failed
            }
            pending[index] = .configureAnswer(answer, messageID: messageID, association: association, at: at)
        }
    }

    /// The data plane has used most of an outbound SA's volume or sequence numbers: the GCKS is asked for new keys. To
    /// be repeated as long as it is so.
    public func wearsOut(_ key: SAKey, now: Instant) {
        for (id, group) in groups.sorted(by: { $0.key < $1.key }) {
            let isInUse = group.sas.contains { $0.key == key && $0.isActive && $0.removeAt == nil }
            guard isInUse else { continue }
            groups[id]?.worn = key.spi
            report(asking: [], now: now)
        }
        vpnWearsOut(key, now: now)
    }

    /// Says goodbye to the GCKS and takes every SA out of the data plane.
    public func shutDown(now: Instant) {
        if case .registered(let id) = connection { endpoint.close(id, now: now) }
        connection = .idle
        (profileDueAt, callAt) = (nil, nil)
        drainEndpoint(now: now)
        for id in groups.keys.sorted() { leave(id, why: "shutdown") }
        for id in vpns.keys.sorted() { leaveVPN(id, why: "shutdown") }
        output(.data(.removeAll))
    }

    // MARK: Outputs

    /// The next thing to do; `.wait` when there is nothing more.
    public func poll() -> MemberOutput {
        while taken < pending.count {
            let next = pending[taken]
            taken += 1
            switch next {
            case .ready(let output): return output
            case .status(let asking, let at): sendStatus(asking: asking, now: at)
            case .configureAnswer(let answer, let messageID, let association, let at):
                send(answer, messageID: messageID, association: association, now: at)
            }
        }
        pending.removeAll(keepingCapacity: true)
        taken = 0
        for id in groups.keys where groups[id]?.sas.contains(where: \.hasFailed) == false {
            let complete = groups[id]?.receiver.complete ?? 0
            groups[id]?.lastInstalled = complete
        }
        announce()
        var next = endpointWait
        func consider(_ instant: Instant?) {
            guard let instant else { return }
            next = min(next ?? instant, instant)
        }
        if case .waiting(let until) = connection { consider(until) }
        consider(profileDueAt)
        consider(callAt)
        for group in groups.values {
            consider(group.nextDeadline())
            consider(group.receiver.due)
        }
        for vpn in vpns.values { consider(vpn.nextDeadline()) }
        return .wait(until: next)
    }

    /// For Wireshark's ISAKMP key table: initiator cookie and cipher key, when key export is allowed.
    public func exportableKey(_ id: AssociationID) -> (cookie: UInt64, key: Secret)? { endpoint.exportableKey(id) }

    /// Lets the answers to dead peer detection say what is installed: here the data plane has done all it was told. A
    /// peer that has sent a profile is a GCKS and understands it.
    private func announce() {
        guard case .registered(let association) = connection, !groups.isEmpty else { return }
        let installed = groups.mapValues(\.installed)
        guard announced?.association != association || announced?.installed != installed else { return }
        announced = (association, installed)
        endpoint.setAnnex([ReportDigest(installed).payload], on: association)
    }

    // MARK: Registration

    /// The GCKS repeats a profile until it is acknowledged or the client is gone. So one that sends none for so long
    /// does not know us any more.
    private static let profileWait: Duration = .seconds(120)

    func output(_ output: MemberOutput) { pending.append(.ready(output)) }

    func log(_ level: LogEvent.Level, _ name: String, _ fields: KeyValuePairs<String, String> = [:]) {
        output(.log(LogEvent(level, name, fields)))
    }

    private func connect(now: Instant) {
        if firstDatagramAt == nil { firstDatagramAt = now }
        connection = .connecting
        log(.info, "gcks.connecting", ["gcks": "\(configuration.gcks)", "attempt": "\(failures + 1)"])
        _ = endpoint.initiate(
            Self.credential(configuration), from: configuration.local, to: configuration.gcks, now: now)
    }

    func drainEndpoint(now: Instant) {
        while let next = endpoint.poll() {
            switch next {
            case .transmit(let datagram): output(.transmit(datagram))
            case .event(let event): handle(event, now: now)
            case .wait(let instant):
                endpointWait = instant
                return
            }
        }
    }

    private func handle(_ event: Phase1Event, now: Instant) {
        switch event {
        case .established(let info): established(info, now: now)
        case .failed(_, _, let reason): attemptFailed(reason, now: now)
        case .ended(let info, let reason): ended(info, reason: reason, now: now)
        case .reauthenticationDue:
            log(.info, "gcks.reauthenticating")
            _ = endpoint.initiate(
                Self.credential(configuration), from: configuration.local, to: configuration.gcks, now: now)
        case .request(let info, let exchange, let messageID, let payloads):
            guard exchange == .configure, case .registered(let id) = connection, id == info.id else {
                drop("unsupportedExchange", from: info.remote)
                return
            }
            receiveConfigure(payloads, messageID: messageID, association: info.id, now: now)
        case .answer, .unanswered, .alive, .annex: break
        case .moved(let info, _): log(.info, "gcks.moved", ["to": "\(info.remote)"])
        case .dropped(let reason, let from): drop(reason.rawValue, from: from)
        }
    }

    private func established(_ info: AssociationInfo, now: Instant) {
        if case .registered(let old) = connection, old != info.id { endpoint.close(old, now: now) }
        connection = .registered(info.id)
        failures = 0
        reportCount = 0
        unansweredAsks = 0
        profileDueAt = now + Self.profileWait
        callAt = info.hasDeadPeerDetection ? nil : now + Self.callInterval
        lastFailure = nil
        output(.associationUp(info.id))
        log(
            .info, "gcks.authenticated",
            [
                "gcks": "\(info.remote)", "suite": "\(info.suite)",
                "rtt_ms": info.roundTrip.map { "\($0.wholeMilliseconds)" } ?? "unknown",
            ])
    }

    private func attemptFailed(_ reason: Phase1Failure, now: Instant) {
        lastFailure = "\(reason)"
        log(.warning, "gcks.refused", ["gcks": "\(configuration.gcks)", "reason": "\(reason)"])
        // A failed re-authentication leaves the old SA in use until it ends.
        guard case .connecting = connection else { return }
        waitAndRetry(now: now)
    }

    private func ended(_ info: AssociationInfo, reason: AssociationEnd, now: Instant) {
        guard case .registered(let id) = connection, id == info.id else { return }
        (profileDueAt, callAt) = (nil, nil)
        lastFailure = reason.explanation
        log(
            reason == .weDeleted ? .info : .warning, "gcks.lost",
            ["gcks": "\(info.remote)", "reason": reason.explanation, "groups_kept": "\(groups.count)"])
        waitAndRetry(now: now)
    }

    private func waitAndRetry(now: Instant) {
        let pause = min(configuration.retryFirst * (1 << min(failures, 16)), configuration.retryMost)
        failures += 1
        // Half of it at random, so that a restarted GCKS does not meet all its clients at once.
        connection = .waiting(until: now + pause / 2 + random.duration(below: pause / 2))
    }

    func drop(_ reason: String, from: SocketAddress) {
        guard let count = drops.count(reason) else { return }
        log(.warning, "datagram.dropped", ["reason": reason, "from": "\(from)", "count": "\(count)"])
    }
}

/// Knows the GCKS and nobody else.
private struct OnePeer: CredentialSource {
    let credential: PeerCredential
    let address: IPAddress

    init(credential: PeerCredential, _ gcks: SocketAddress) {
        self.credential = credential
        address = gcks.address
    }

    func credential(for address: IPAddress) -> PeerCredential? { address == self.address ? credential : nil }
}
