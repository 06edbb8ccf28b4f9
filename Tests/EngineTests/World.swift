// SPDX-License-Identifier: Apache-2.0
import Audit
import Basics
import Cryptography
import ESP
import FMKE
import GroupMember
import IKEv1
import KeyServer
import LinkModel
import Store
import Testing

/// A whole deployment in one process and in virtual time: the real server and real clients on a broadcast link.
///
/// It obeys the engines' one rule: after each input, drain the outputs, in their order.
final class World {
    static let gcksAddress = IPAddress.v4(10, 0, 0, 10)
    static let control = SocketAddress(.v4(239, 255, 0, 1), 848)
    static let group: UInt32 = 7
    static let flow = TrafficSelector(
        source: IPPrefix(address: .v4(192, 168, 1, 0), length: 24) ?? .allV4,
        destination: IPPrefix(host: .v4(239, 1, 1, 1)))

    /// One station: what it sends goes through its uplink and everybody else's downlink.
    final class Client {
        let name: String
        let address: IPAddress
        var engine: GroupMember
        let terminal: TerminalID
        var joined: Set<SocketAddress> = []
        /// What the data plane was told to do, in order.
        var changes: [(at: Instant, change: SAChange)] = []
        var inbound: [SAKey: SAParameters] = [:]
        var outbound: [SAKey: SAParameters] = [:]
        var active: SAKey?
        /// What sends for each flow of a VPN.
        var activeOf: [TrafficSelector: SAKey] = [:]
        /// Behind address translation: its own address, and what the translator adds to its ports.
        var inside: IPAddress?
        var portShift: UInt16 = 0
        var refusesSAs = false
        var isDeaf = false
        var isUp = true

        init(name: String, address: IPAddress, engine: GroupMember, terminal: TerminalID) {
            (self.name, self.address, self.engine, self.terminal) = (name, address, engine, terminal)
        }
    }

    var now = Instant.zero + .seconds(1)
    let medium: BroadcastMedium
    private(set) var server: KeyServer
    private let serverConfiguration: KeyServer.Configuration
    private var serverRuns: UInt64 = 0
    /// The server dies before its next output but so many; nil: not planned.
    var serverDiesAfter: Int?
    private(set) var isServerDown = false
    let serverTerminal: TerminalID
    private(set) var store = MemoryStore()
    /// Every record that the server wanted stored, in order.
    private(set) var records: [Record] = []
    private(set) var clients: [String: Client] = [:]
    /// Of VPNs: an end that sends with what the other cannot open.
    private(set) var vpnFaults: [String] = []
    private(set) var verdicts: [VerdictReport] = []
    private(set) var log: [(at: Instant, who: String, event: LogEvent)] = []
    private(set) var audit: [(at: Instant, event: AuditEvent)] = []
    /// Why the audit cannot be written.
    private(set) var auditFailure: String?
    private var waitingEvents: [AuditEvent] = []
    private var isAuditFailureKnown = false
    /// The last datagram.
    private var wasDropped = false
    /// What left without a line that tells of it.
    private(set) var untold: [String] = []
    private var configures: Set<[UInt8]> = []
    private var toldClients: Set<String> = []
    private var toldTransactions: Set<String> = []
    /// Every datagram put on the link.
    private(set) var sent: [(at: Instant, datagram: Datagram)] = []
    /// Drops what it says yes to, on its way to a station: (datagram, receiver's name).
    var interceptor: (Datagram, String) -> Bool = { _, _ in false }
    private var serverWait: Instant?
    private var spins = 0
    private var clientWaits: [String: Instant?] = [:]
    private let seed: UInt64
    private let adjustClient: (inout GroupMember.Configuration) -> Void
    private var psk: [String: Secret]
    private let links: (up: LinkParameters, down: LinkParameters)
    let signatureAlgorithm: SignatureAlgorithm
    let verifyingKey: [UInt8]

    struct Options {
        var names = ["hub", "site1", "site2"]
        var oneWay: Duration = .milliseconds(250)
        var loss = 0.0
        /// So many of the datagrams come late, behind later ones.
        var reorder = 0.0
        var seed: UInt64 = 1
        var suite = ESPSuite.aes128gcm
        var adjust: (inout GroupEntry) -> Void = { _ in }
        var vpns: [VPNEntry] = []
        /// Clients behind address translation.
        var translated: Set<String> = []
        var adjustServer: (inout KeyServer.Configuration) -> Void = { _ in }
        var adjustClient: (inout GroupMember.Configuration) -> Void = { _ in }
        var signature = SignatureAlgorithm.ecdsaP256
    }

    init(_ options: Options = Options()) throws {
        seed = options.seed
        let signingKey = try SigningKey.generate(options.signature)
        (signatureAlgorithm, verifyingKey) = (options.signature, signingKey.publicKey)
        adjustClient = options.adjustClient
        medium = BroadcastMedium(seed: options.seed)
        var link = LinkParameters()
        link.loss = .independent(options.loss)
        link.reorder = options.reorder
        link.reorderDelay = .milliseconds(400)
        var up = link
        up.delay = options.oneWay
        up.loss = .none
        links = (up, link)
        let psk = Dictionary(
            uniqueKeysWithValues: options.names.map { ($0, Secret(Array("pre-shared key of \($0), 32 octets".utf8))) })
        self.psk = psk
        let entries = options.names.enumerated().map { index, name in
            ClientEntry(
                name: name, address: Self.address(index), preSharedKey: psk[name] ?? Secret([]), suites: [.standard])
        }
        var group = GroupEntry(
            name: "news", id: Self.group, control: Self.control, flows: [Self.flow], suite: options.suite,
            members: options.names.enumerated().map { ($1, $0 == 0 ? .sender : .receiver) })
        options.adjust(&group)
        var configuration = KeyServer.Configuration(
            identity: "gcks.example", address: SocketAddress(Self.gcksAddress, 848),
            signingKey: signingKey,
            inventory: Inventory(clients: entries, groups: [group], vpns: options.vpns), numberFloor: 1_000_000)
        options.adjustServer(&configuration)
        serverConfiguration = configuration
        server = try KeyServer(configuration, records: store, random: SeededRandom(seed: options.seed), now: now)
        serverTerminal = medium.addTerminal("gcks", uplink: up, downlink: link)
        for (index, name) in options.names.enumerated() {
            let terminal = medium.addTerminal(name, uplink: up, downlink: link)
            let inside: IPAddress? = options.translated.contains(name) ? .v4(192, 168, 99, UInt8(index + 1)) : nil
            let client = Client(
                name: name, address: Self.address(index),
                engine: makeEngine(name, inside ?? Self.address(index), run: 0), terminal: terminal)
            if let inside { (client.inside, client.portShift) = (inside, 10_000) }
            clients[name] = client
        }
        drainServer()
    }

    static func address(_ index: Int) -> IPAddress { .v4(10, 0, 0, UInt8(index + 20)) }

    func client(_ name: String) throws -> Client { try #require(clients[name]) }

    /// One more station, which the server knows nothing of yet.
    /// - Returns: what the operator would write of it.
    func addStation(_ name: String) -> ClientEntry {
        let address = Self.address(clients.count)
        let key = Secret(Array("pre-shared key of \(name), 32 octets".utf8))
        psk[name] = key
        let terminal = medium.addTerminal(name, uplink: links.up, downlink: links.down)
        clients[name] = Client(
            name: name, address: address, engine: makeEngine(name, address, run: 0), terminal: terminal)
        return ClientEntry(name: name, address: address, preSharedKey: key, suites: [.standard])
    }

    private func makeEngine(_ name: String, _ address: IPAddress, run: UInt64, key: Secret? = nil) -> GroupMember {
        var configuration = GroupMember.Configuration(
            name: name, local: SocketAddress(address, 848), gcks: SocketAddress(Self.gcksAddress, 848),
            preSharedKey: key ?? psk[name] ?? Secret([]), suites: [.standard])
        configuration.gcksIdentity = "gcks.example"
        adjustClient(&configuration)
        let salt = name.utf8.reduce(run &* 7_919) { $0 &* 31 &+ UInt64($1) }
        return GroupMember(configuration, random: SeededRandom(seed: seed &+ salt))
    }

    /// The client's process dies and a new one starts; its data plane dies with it.
    func restart(_ name: String, key: Secret? = nil) throws {
        let client = try client(name)
        client.engine = makeEngine(name, client.inside ?? client.address, run: UInt64(now.nanoseconds), key: key)
        (client.inbound, client.outbound, client.active, client.joined) = ([:], [:], nil, [])
        client.activeOf = [:]
        start(name)
    }

    /// The server's process dies, and what it had to do with it; a new one starts with what is stored.
    func restartServer(
        with old: MemoryStore? = nil, _ adjust: (inout KeyServer.Configuration) -> Void = { _ in }
    ) throws {
        if let old { store = old }
        serverRuns += 1
        (isServerDown, serverDiesAfter) = (false, nil)
        var configuration = serverConfiguration
        // The virtual clock begins at 1 s, which is 1970 and 1 s.
        configuration.numberFloor = UInt64(now.nanoseconds / 1_000)
        adjust(&configuration)
        server = try KeyServer(
            configuration, records: store, random: SeededRandom(seed: seed &+ 1_000 &* serverRuns), now: now)
        drainServer()
    }

    // MARK: Driving

    func start(_ names: String...) {
        for name in names.isEmpty ? clients.keys.sorted() : names {
            clients[name]?.engine.start(now: now)
            drain(name)
        }
    }

    /// Runs until the condition holds; false when the time is up first.
    @discardableResult
    func run(_ limit: Duration, until condition: () -> Bool = { false }) -> Bool {
        let end = now + limit
        while true {
            if condition() { return true }
            var next = min(medium.next ?? .distantFuture, serverWait ?? .distantFuture)
            for (name, wait) in clientWaits where clients[name]?.isUp == true {
                next = min(next, wait ?? .distantFuture)
            }
            guard next <= end else {
                now = end
                return condition()
            }
            spins = next > now ? 0 : spins + 1
            guard spins < 10_000 else {
                Issue.record("an engine asks to be woken again and again at \(now.nanoseconds) ns: \(describeWaits())")
                return false
            }
            now = max(now, next)
            step()
        }
    }

    private func describeWaits() -> String {
        let clients = clientWaits.map { "\($0.key) \($0.value?.nanoseconds ?? -1)" }.sorted()
        let server = serverWait?.nanoseconds ?? -1
        return "gcks \(server), \(clients.joined(separator: ", ")), link \(medium.next?.nanoseconds ?? -1)"
    }

    private func step() {
        for delivery in medium.due(now) { deliver(delivery) }
        if let serverWait, serverWait <= now {
            server.advance(to: now)
            drainServer()
        }
        for (name, wait) in clientWaits.sorted(by: { $0.key < $1.key }) {
            guard let wait, wait <= now, clients[name]?.isUp == true else { continue }
            clients[name]?.engine.advance(to: now)
            drain(name)
        }
    }

    func drainServer() {
        while !isServerDown {
            let output = server.poll()
            if let left = serverDiesAfter {
                if case .wait = output {
                } else if left == 0 {
                    (isServerDown, serverWait) = (true, nil)
                    return
                } else {
                    serverDiesAfter = left - 1
                }
            }
            switch output {
            case .persist(let changes):
                store.apply(changes)
                for case .put(let record) in changes { records.append(record) }
            case .audit(let event):
                if auditFailure == nil { write(event) } else { waitingEvents.append(event) }
            case .transmit(let datagram):
                // As the daemon does: what comes with an event that could not be written goes nowhere.
                wasDropped = !waitingEvents.isEmpty && output.letsKeysGo
                guard !wasDropped else { continue }
                check(datagram)
                transmit(datagram, from: serverTerminal)
            case .log(let event):
                log.append((now, "gcks", event))
                check(event)
            case .ended(let report): verdicts.append(report)
            case .associationUp: break
            case .wait(let until):
                serverWait = until
                guard let auditFailure, !waitingEvents.isEmpty, !isAuditFailureKnown else { return }
                isAuditFailureKnown = true
                server.setAuditing(failure: auditFailure, now: now)
            }
        }
    }

    // MARK: The audit

    /// From now on nothing can be written; the server hears of it by the next event, or at once.
    func failAudit(_ reason: String, atOnce: Bool = false) {
        auditFailure = reason
        guard atOnce else { return }
        isAuditFailureKnown = true
        server.setAuditing(failure: reason, now: now)
        drainServer()
    }

    /// It can be written again, and what waits is written.
    func mendAudit() {
        auditFailure = nil
        for event in waitingEvents { write(event) }
        (waitingEvents, isAuditFailureKnown) = ([], false)
        server.setAuditing(failure: nil, now: now)
        drainServer()
    }

    private func write(_ event: AuditEvent) {
        audit.append((now, event))
        func field(_ name: String) -> String { event.fields.first { $0.name == name }?.value ?? "" }
        if ["keys.sent", "profile.empty"].contains(event.name) { toldClients.insert(field("client")) }
        if event.name == "rekey.started" { toldTransactions.insert(field("transaction")) }
    }

    /// A CONFIGURE that was not there before goes to a client of which a line was written since its last new one.
    private func check(_ datagram: Datagram) {
        guard ServerOutput.transmit(datagram).letsKeysGo, !datagram.remote.address.isMulticast,
            configures.insert(datagram.bytes).inserted,
            let name = clients.first(where: { $0.value.address == datagram.remote.address })?.key,
            !toldClients.contains(name)
        else { return }
        untold.append("CONFIGURE to \(name)")
    }

    /// The engine says of each PUSH what it was.
    private func check(_ event: LogEvent) {
        func field(_ name: String) -> String { event.fields.first { $0.name == name }?.value ?? "" }
        if event.name == "configure.acknowledged" { toldClients.remove(field("client")) }
        guard event.name == "push.sent", !wasDropped, ["data", "parity"].contains(field("kind")),
            !toldTransactions.contains(field("transaction"))
        else { return }
        untold.append("PUSH of \(field("transaction"))")
    }

    func drain(_ name: String) {
        guard let client = clients[name] else { return }
        while true {
            switch client.engine.poll() {
            case .persist: break
            case .transmit(let datagram): transmit(datagram, from: client.terminal)
            case .data(let change): apply(change, at: client)
            case .joinControl(let address): client.joined.insert(address)
            case .leaveControl(let address): client.joined.remove(address)
            case .log(let event): log.append((now, name, event))
            case .associationUp: break
            case .wait(let until):
                clientWaits[name] = .some(until)
                return
            }
        }
    }

    private func apply(_ change: SAChange, at client: Client) {
        client.changes.append((now, change))
        switch change {
        case .addInbound(let parameters):
            if client.refusesSAs { return client.engine.dataPlaneFailed(parameters.key, now: now) }
            client.inbound[parameters.key] = parameters
        case .addOutbound(let parameters):
            if client.refusesSAs { return client.engine.dataPlaneFailed(parameters.key, now: now) }
            client.outbound[parameters.key] = parameters
        case .activateOutbound(let key):
            if let selector = client.outbound[key]?.selector, !key.destination.isMulticast {
                client.activeOf[selector] = key
            } else {
                client.active = key
            }
        case .removeInbound(let key): client.inbound[key] = nil
        case .removeOutbound(let key):
            client.outbound[key] = nil
            if client.active == key { client.active = nil }
            client.activeOf = client.activeOf.filter { $0.value != key }
        case .removeAll:
            (client.inbound, client.outbound, client.active, client.activeOf) = ([:], [:], nil, [:])
        }
        checkVPNs()
    }

    /// Whatever sends is held by somebody else for receiving, unless that one is down.
    private func checkVPNs() {
        for sender in clients.values where sender.isUp {
            for key in sender.activeOf.values {
                let isHeld = clients.values.contains { other in
                    other !== sender && (!other.isUp || other.inbound.keys.contains { $0.spi == key.spi })
                }
                if !isHeld { vpnFaults.append("\(sender.name) sends with \(spiText(key.spi)) at \(now.nanoseconds)") }
            }
        }
    }

    // MARK: The link

    /// Frames are: remote address, remote port, local address, local port, octets.
    func transmit(_ datagram: Datagram, from terminal: TerminalID) {
        var datagram = datagram
        if let client = clients[medium.name(of: terminal)], client.inside != nil {
            datagram.local = SocketAddress(client.address, datagram.local.port &+ client.portShift)
        }
        sent.append((now, datagram))
        var writer = OctetWriter()
        writer.append(datagram.remote.address.octets)
        writer.u16(datagram.remote.port)
        writer.append(datagram.local.address.octets)
        writer.u16(datagram.local.port)
        writer.append(datagram.bytes)
        medium.transmit(writer.bytes, from: terminal, now: now)
    }

    private func deliver(_ delivery: MediumDelivery) {
        var reader = OctetReader(delivery.frame)
        guard let to = try? IPAddress(octets: reader.slice(4)), let toPort = try? reader.u16(),
            let from = try? IPAddress(octets: reader.slice(4)), let fromPort = try? reader.u16()
        else { return }
        let datagram = Datagram(
            local: SocketAddress(to, toPort), remote: SocketAddress(from, fromPort), bytes: reader.remainder())
        inject(datagram, at: delivery.terminal)
    }

    /// Hands a datagram to the station at a terminal if it is for it.
    func inject(_ datagram: Datagram, at terminal: TerminalID) {
        let name = medium.name(of: terminal)
        guard !interceptor(datagram, name) else { return }
        if terminal == serverTerminal {
            guard datagram.local.address == Self.gcksAddress, !isServerDown else { return }
            server.receive(datagram, now: now)
            drainServer()
        } else if let client = clients[name], client.isUp, !client.isDeaf {
            let isMine = datagram.local.address == client.address || client.joined.contains(datagram.local)
            guard isMine else { return }
            var datagram = datagram
            if let inside = client.inside, datagram.local.address == client.address {
                datagram.local = SocketAddress(inside, datagram.local.port &- client.portShift)
            }
            client.engine.receive(datagram, now: now)
            drain(name)
        }
    }

    // MARK: Looking

    func events(_ name: String, at who: String? = nil) -> [(at: Instant, event: LogEvent)] {
        log.filter { $0.event.name == name && (who == nil || $0.who == who) }.map { ($0.at, $0.event) }
    }

    /// Every client holds a data SA of the group's newest transaction.
    func allRegistered(_ names: [String]? = nil) -> Bool {
        (names ?? Array(clients.keys)).allSatisfy { name in
            clients[name].map { !$0.inbound.isEmpty || $0.active != nil } ?? false
        }
    }

    func verdict(_ transaction: UInt64) -> VerdictReport? { verdicts.first { $0.transaction == transaction } }

    /// Lets everybody register.
    func bringUp() throws {
        start()
        let isUp = run(.seconds(600)) {
            self.allRegistered()
                && self.server.snapshot(now: self.now).groups.allSatisfy { $0.members.allSatisfy(\.isCurrent) }
        }
        try #require(isUp, "everybody registers within ten minutes")
    }

    @discardableResult
    func rekey(kek: Bool = false) throws -> UInt64 {
        let transaction = try server.rekey(group: "news", includingKEK: kek, now: now)
        drainServer()
        return transaction
    }
}
