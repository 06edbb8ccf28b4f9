// SPDX-License-Identifier: Apache-2.0

internal import Audit
internal import Basics
internal import Commands
internal import Control
internal import Cryptography
internal import DesiredState
internal import EventLoop
internal import Foundation
internal import IKEv1
internal import KeyServer
internal import Logging
internal import SQLiteStore
internal import Settings
internal import Store

/// The GCKS on an event loop: sockets, timer, control interface. It decides nothing: the engine does.
final class ServerDaemon {
    /// Those of the start, but for what the inventory is read with.
    var settings: ServerSettings
    let loop: EventLoop
    let logger: Logger
    private let keyLog: KeyLog?
    private let store: any RecordStore
    /// nil: nothing is written down.
    private let trail: AuditTrail?
    /// Events of ours, for the audit's next lines.
    private var events: [AuditEvent] = []
    let server: KeyServer
    let history: RevisionHistory
    /// To be stored with the next round of outputs.
    var unrecorded: [RecordChange] = []
    private var timer: LoopTimer?
    /// When the audit file is tried again.
    private var auditTimer: LoopTimer?
    private static let auditRetry: Duration = .seconds(2)
    private var sockets: [UInt16: UDPSocket] = [:]
    private var control: ControlServer?
    private var unsent = LogLimiter()
    /// Who waits for the verdict of which transactions.
    private var waiting: [Waiter] = []
    /// Why nothing more is sent.
    private var failure: StateFailure?

    /// A command that began transactions.
    struct Waiter {
        let reply: ControlReply
        /// Transactions still to end, by group name.
        var open: [String: UInt64]
        var reports: [VerdictReport] = []
        /// The revoked client; nil for others.
        var client: String?
        /// What was applied; nil for others.
        var applied: Applied?

        func answer(verdict: String) {
            let outcome = Outcome(self, verdict: verdict)
            if let applied { reply.send(AppliedOutcome(applied, outcome)) } else { reply.send(outcome) }
        }
    }

    init(_ settings: ServerSettings, keyLog: KeyLog?, logger: Logger) throws {
        self.settings = settings
        self.keyLog = keyLog
        self.logger = logger
        loop = try EventLoop()
        store = try Self.openStore(settings.state)
        history = try RevisionHistory(store)
        let start = Self.desired(settings, history, logger)
        unrecorded = start.changes
        var configuration = KeyServer.Configuration(
            identity: settings.identity, address: SocketAddress(settings.listenAddress, settings.port),
            signingKey: settings.signingKey, inventory: start.inventory,
            numberFloor: Self.microseconds)
        configuration.natTraversalPort = settings.natPort
        configuration.phase1Lifetime = settings.phase1Lifetime
        configuration.deadPeerInterval = settings.deadPeerInterval
        configuration.allowsKeyExport = keyLog != nil
        if let path = settings.auditFile, let key = settings.state?.masterKey {
            trail = try AuditTrail(path: path, masterKey: key, store: store, logger: logger)
        } else {
            trail = nil
        }
        server = try KeyServer(configuration, records: store, random: SystemRandom(), now: loop.now)
    }

    /// Since 1970.
    static var microseconds: UInt64 { UInt64(max(Date().timeIntervalSince1970, 0) * 1_000_000) }

    private static func openStore(_ state: StateSettings?) throws -> any RecordStore {
        guard let state else { return MemoryStore() }
        do {
            return try SQLiteStore(path: state.file, masterKey: state.masterKey, random: SystemRandom())
        } catch {
            throw StateFailure(file: state.file, reason: error)
        }
    }

    /// Serves until SIGINT or SIGTERM.
    func run() throws {
        // First: it knows whether another daemon is running.
        control = try ControlServer(
            loop: loop, path: settings.controlSocket, limits: Limits(),
            largeBodies: ["/v1/apply": Limits().inventoryOctets]
        ) { [unowned self] request, reply in handle(request, reply) }
        let family = AddressFamily(settings.listenAddress)
        for port in Set([settings.port, settings.natPort]).sorted() {
            let socket = try UDPSocket(loop: loop, port: port, family: family) { [unowned self] in receive($0) }
            try socket.setMulticast(interface: settings.satelliteInterface, ttl: 16, loop: true)
            sockets[port] = socket
        }
        timer = loop.makeTimer { [unowned self] in
            server.advance(to: loop.now)
            pump()
        }
        Hardening.keep([], logger)
        auditTimer = loop.makeTimer { [unowned self] in pump() }
        for signal in [SIGINT, SIGTERM] {
            loop.onSignal(signal) { [unowned self] in
                logger.info("gcks.stopping")
                events.append(AuditEvent("gcks.stopping", ["signal": "\(signal)"]))
                pump()
                loop.stop()
            }
        }
        try noteRestore()
        events.append(
            AuditEvent(
                "gcks.started",
                [
                    "identity": settings.identity, "address": "\(settings.listenAddress)", "port": "\(settings.port)",
                    "pid": "\(getpid())", "uid": "\(getuid())", "configuration": settings.digest,
                ]))
        loop.onSignal(SIGHUP) { [unowned self] in reload() }
        logger.info(
            "gcks.started",
            metadata: [
                "address": "\(settings.listenAddress)", "port": "\(settings.port)",
                "clients": "\(server.inventory.clients.count)", "groups": "\(server.inventory.groups.count)",
                "interface": "\(settings.satelliteInterface)", "revision": "\(history.newest)",
            ])
        if settings.state == nil {
            logger.warning(
                "state.in-memory", metadata: ["remedy": "set state-file and master-key-file"])
        }
        pump()
        try loop.run()
        control?.close()
        if let failure { throw failure }
    }

    /// The first start after `gcks restore` says so.
    private func noteRestore() throws {
        guard let note = try store.value(of: RestoredState.note) else { return }
        let time = String(decoding: note.revealed(), as: UTF8.self)  // a time, no key
        logger.warning("state.restored", metadata: ["at": "\(time)"])
        events.append(AuditEvent("state.restored", ["at": time]))
        unrecorded.append(.remove(RestoredState.note))
    }

    // MARK: The engine

    private func receive(_ datagrams: [Datagram]) {
        for datagram in datagrams { server.receive(datagram, now: loop.now) }
        pump()
    }

    /// Does what the engine wants. Lines of the audit and records are on the disk before the sends that depend on
    /// them: all of this round go first, the records in one transaction.
    func pump() {
        // What becomes of the audit makes the engine want more.
        for _ in 0..<3 {
            guard failure == nil else { return }
            var outputs: [ServerOutput] = []
            var changes = unrecorded
            unrecorded = []
            var wake: Instant?
            collecting: while true {
                switch server.poll() {
                case .persist(let some): changes += some
                case .audit(let event): events.append(event)
                case .wait(let until):
                    wake = until
                    break collecting
                case let output: outputs.append(output)
                }
            }
            let wasFailing = trail?.failure
            if let trail { changes += trail.write(events) }
            events = []
            do {
                try store.apply(changes)
            } catch {
                return fail(error)
            }
            let isAuditing = trail?.failure == nil
            for output in outputs where isAuditing || !output.letsKeysGo { perform(output) }
            timer?.set(wake)
            auditTimer?.set(isAuditing ? nil : loop.now + Self.auditRetry)
            guard trail?.failure != wasFailing else { return }
            server.setAuditing(failure: trail?.failure, now: loop.now)
        }
    }

    private func perform(_ output: ServerOutput) {
        switch output {
        case .transmit(let datagram): send(datagram)
        case .log(let event): logger.report(event)
        case .ended(let report): settle(report)
        case .associationUp(let id):
            guard let keyLog, let (cookie, key) = server.exportableKey(id) else { return }
            keyLog.writePhase1(cookie: cookie, key: key)
        case .persist, .audit, .wait: break  // taken by `pump`
        }
    }

    /// What cannot be recorded must not be sent: the daemon ends, and clients go on with the keys that they have.
    private func fail(_ error: StoreError) {
        let failure = StateFailure(file: settings.state?.file ?? "", reason: error)
        self.failure = failure
        logger.critical("state.failed", metadata: ["file": "\(failure.file)", "reason": "\(error)"])
        loop.stop()
    }

    private func send(_ datagram: Datagram) {
        guard let socket = sockets[datagram.local.port] ?? sockets[settings.port] else { return }
        do {
            try socket.send(datagram)
        } catch {
            // Whom we answer may have been made up, and a link may be down for long.
            guard let omitted = unsent.admit("unsent", now: loop.now) else { return }
            logger.warning(
                "datagram.unsent",
                metadata: ["to": "\(datagram.remote)", "reason": "\(error)", "omitted": "\(omitted)"])
        }
    }

    // MARK: The operator

    private func handle(_ request: ControlRequest, _ reply: ControlReply) {
        if handleDesired(request, reply) { return }
        var snapshot = server.snapshot(now: loop.now)
        snapshot.audit = trail.map {
            ServerSnapshot.Audit(
                file: settings.auditFile ?? "", number: $0.written.number, waiting: $0.waiting, failure: $0.failure)
        }
        switch (request.method, request.path) {
        case ("GET", "/v1/status"): reply.send(snapshot)
        case ("GET", "/v1/groups"): reply.send(snapshot.groups)
        case ("GET", "/v1/clients"): reply.send(snapshot.clients)
        case ("GET", "/v1/vpns"): reply.send(snapshot.vpns)
        case ("GET", "/v1/sas"): reply.send(snapshot.sas)
        case ("POST", "/v1/rekey"): rekey(request, reply)
        case ("POST", "/v1/revoke"): revoke(request, reply)
        case ("POST", "/v1/recover"): recover(request, reply)
        case ("POST", "/v1/backup"): backup(request, reply)
        case ("GET", "/v1/audit"): auditHead(reply)
        case ("POST", "/v1/audit/rotate"): rotateAudit(request, reply)
        default: reply.send(status: 404, error: "there is no \(request.method) \(request.path)")
        }
    }

    private struct RekeyRequest: Decodable {
        var group: String
        var kek: Bool?
        var wait: Bool?
    }

    private struct RevokeRequest: Decodable {
        var client: String
        var wait: Bool?
    }

    private func rekey(_ request: ControlRequest, _ reply: ControlReply) {
        guard let order = try? JSONText.decode(RekeyRequest.self, from: request.body) else {
            return reply.send(status: 400, error: #"the body must be {"group": NAME, "kek": BOOL, "wait": BOOL}"#)
        }
        audit("operator.rekey", of: request, ["group": order.group, "kek": "\(order.kek ?? false)"])
        do {
            let transaction = try server.rekey(group: order.group, includingKEK: order.kek ?? false, now: loop.now)
            answer(Waiter(reply: reply, open: [order.group: transaction]), waits: order.wait ?? false)
        } catch {
            refuse(reply, "\(error)")
            pump()
        }
    }

    private func revoke(_ request: ControlRequest, _ reply: ControlReply) {
        guard let order = try? JSONText.decode(RevokeRequest.self, from: request.body) else {
            return reply.send(status: 400, error: #"the body must be {"client": NAME, "wait": BOOL}"#)
        }
        audit("operator.revoke", of: request, ["client": order.client])
        do {
            let transactions = try server.revoke(client: order.client, now: loop.now)
            answer(Waiter(reply: reply, open: transactions, client: order.client), waits: order.wait ?? false)
        } catch {
            refuse(reply, "\(error)")
            pump()
        }
    }

    /// The copy goes back to who asked, whose rights write the file.
    private func backup(_ request: ControlRequest, _ reply: ControlReply) {
        guard let store = store as? SQLiteStore, let key = settings.state?.masterKey else {
            return reply.send(status: 409, error: "no state-file is configured: there is nothing to copy")
        }
        do {
            let copy = try StoreBackup(of: store, microseconds: Self.microseconds)
            audit("operator.backup", of: request, ["revision": "\(copy.revision)"])
            reply.send(status: 200, octets: copy.octets(masterKey: key), type: "application/octet-stream")
        } catch {
            reply.send(status: 500, error: "the state file: \(error)")
        }
        pump()
    }

    private struct RecoverRequest: Decodable { var wait: Bool? }

    private func recover(_ request: ControlRequest, _ reply: ControlReply) {
        let order = try? JSONText.decode(RecoverRequest.self, from: request.body)
        audit("operator.recover", of: request, [:])
        do {
            let transactions = try server.recover(now: loop.now)
            answer(Waiter(reply: reply, open: transactions), waits: order?.wait ?? false)
        } catch {
            refuse(reply, "\(error)")
        }
        pump()
    }

    /// What an operator orders comes into the audit before its effects.
    private func audit(_ name: String, of request: ControlRequest, _ fields: KeyValuePairs<String, String>) {
        var event = AuditEvent(
            name, ["uid": request.peer.map { "\($0.uid)" } ?? "", "pid": request.peer.map { "\($0.pid)" } ?? ""])
        event.fields += AuditEvent(name, fields).fields
        events.append(event)
    }

    private func refuse(_ reply: ControlReply, _ reason: String) {
        events.append(AuditEvent("operator.refused", ["reason": reason]))
        reply.send(status: 409, error: reason)
    }

    /// What `gcks audit verify` checks the end of the file against.
    private struct Head: Encodable {
        var number: UInt64
        var hash: String
    }

    private func auditHead(_ reply: ControlReply) {
        guard let trail else { return reply.send(status: 409, error: "no audit-file is configured") }
        reply.send(Head(number: trail.written.number, hash: hexadecimal(trail.written.hash)))
    }

    private func rotateAudit(_ request: ControlRequest, _ reply: ControlReply) {
        guard let trail else { return reply.send(status: 409, error: "no audit-file is configured") }
        audit("operator.rotate-audit", of: request, [:])
        pump()
        do {
            let name = try trail.rotate()
            pump()
            reply.send(["before": name])
        } catch {
            refuse(reply, "\(error)")
            pump()
        }
    }

    /// What the operator is told is on the disk.
    func answer(_ waiter: Waiter, waits: Bool) {
        // The verdict may be there at once.
        if waits, !waiter.open.isEmpty { waiting.append(waiter) }
        pump()
        if let failure {
            waiter.reply.send(status: 500, error: "\(failure)")
        } else if !waits || waiter.open.isEmpty {
            waiter.answer(verdict: waiter.open.isEmpty ? "confirmed" : "started")
        }
    }

    /// What `rekey` and `revoke` answer.
    struct Outcome: Encodable {
        var client: String?
        /// By group and VPN.
        var transactions: [String: UInt64]
        /// `started`, `confirmed` or `unconfirmed`.
        var verdict: String
        /// Names of the members that are not confirmed.
        var unconfirmed: [String]
        var reports: [VerdictReport]

        init(_ waiter: Waiter, verdict: String) {
            client = waiter.client
            transactions = waiter.open.merging(waiter.reports.map { ($0.group, $0.transaction) }) { $1 }
            self.verdict = verdict
            unconfirmed = Set(waiter.reports.flatMap { $0.unconfirmed.map(\.client) }).sorted()
            reports = waiter.reports
        }
    }

    private func settle(_ report: VerdictReport) {
        for index in waiting.indices where waiting[index].open[report.group] == report.transaction {
            waiting[index].open[report.group] = nil
            waiting[index].reports.append(report)
        }
        for waiter in waiting where waiter.open.isEmpty {
            let isConfirmed = waiter.reports.allSatisfy { $0.verdict == "confirmed" }
            waiter.answer(verdict: isConfirmed ? "confirmed" : "unconfirmed")
        }
        waiting.removeAll { $0.open.isEmpty }
    }
}

/// The file of the state does not do what it must.
private struct StateFailure: Error, CustomStringConvertible {
    let file: String
    let reason: StoreError

    var description: String { "\(file): \(reason)" }
}
