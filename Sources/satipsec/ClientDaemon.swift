// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import Commands
internal import Control
internal import Cryptography
internal import DataPlane
internal import ESP
internal import EventLoop
internal import Foundation
internal import GroupMember
internal import Logging
internal import Settings

/// The client on an event loop: sockets, data plane, timer, control interface. It decides nothing: the engine does.
final class ClientDaemon {
    private let settings: ClientSettings
    private let loop: EventLoop
    private let logger: Logger
    private let keyLog: KeyLog?
    private let member: GroupMember
    private let local: SocketAddress
    private let dataPlane: DataPlaneConfiguration
    /// There from the start of `run()` on.
    private var startedBackend: (any SABackend)?
    private var timer: LoopTimer?
    private var wearTimer: LoopTimer?
    private var guardTimer: LoopTimer?
    private var sockets: [UInt16: UDPSocket] = [:]
    private var control: ControlServer?
    private var unsent = LogLimiter()
    /// When the GCKS was last told of an SA that it nears its limits.
    private var wornSaidAt: [SAKey: Instant] = [:]

    init(_ settings: ClientSettings, keyLog: KeyLog?, logger: Logger) throws {
        self.settings = settings
        self.keyLog = keyLog
        self.logger = logger
        loop = try EventLoop()
        let family = AddressFamily(settings.gcks.address)
        let address =
            try settings.address ?? Interfaces.address(of: settings.satelliteInterface, family: family)
        local = SocketAddress(address, settings.gcks.port)
        var configuration = GroupMember.Configuration(
            name: settings.name, local: local, gcks: SocketAddress(settings.gcks.address, settings.gcks.port),
            preSharedKey: settings.preSharedKey, suites: settings.phase1.suites)
        configuration.gcksIdentity = settings.gcks.identity
        configuration.natTraversalPort = settings.gcks.natPort
        configuration.phase1Lifetime = settings.phase1.lifetime
        configuration.deadPeerInterval = settings.phase1.deadPeerInterval
        configuration.retryFirst = settings.retry.first
        configuration.retryMost = settings.retry.most
        configuration.allowsKeyExport = keyLog != nil
        member = GroupMember(configuration, random: SystemRandom())
        var dataPlane = DataPlaneConfiguration(
            satelliteInterface: settings.satelliteInterface, terrestrialInterface: settings.terrestrialInterface,
            tunnelInterface: settings.tunnelInterface, satelliteAddress: address,
            linkMTU: settings.linkMTU,
            requiresGuard: settings.failClosedGuard == .required)
        dataPlane.rules = settings.policy
        dataPlane.outerDSCP = settings.outerDSCP
        dataPlane.outerDF =
            switch settings.outerDF {
            case .copy: .copy
            case .set: .set
            case .clear: .clear
            }
        dataPlane.keyExchangePorts = [settings.gcks.port, settings.gcks.natPort]
        dataPlane.path = settings.packetPath == .portable ? .portable : .automatic
        self.dataPlane = dataPlane
    }

    private var backend: any SABackend {
        guard let startedBackend else { preconditionFailure("the data plane is asked only while the daemon runs") }
        return startedBackend
    }

    /// Runs until SIGINT or SIGTERM.
    func run() throws {
        // First: it knows whether another daemon is running.
        control = try ControlServer(loop: loop, path: settings.controlSocket, limits: Limits()) {
            [unowned self] request, reply in handle(request, reply)
        }
        startedBackend = try makeBackend()
        defer { backend.stop() }
        try openSocket(settings.gcks.port)
        try openSocket(settings.gcks.natPort)
        if let socket = sockets[settings.gcks.natPort] { try backend.share(socket) }
        Hardening.keep([.networkAdministration, .rawSockets], logger)
        timer = loop.makeTimer { [unowned self] in
            member.advance(to: loop.now)
            pump()
        }
        for signal in [SIGINT, SIGTERM] {
            loop.onSignal(signal) { [unowned self] in
                logger.info("satipsec.stopping")
                member.shutDown(now: loop.now)
                pump()
                loop.stop()
            }
        }
        watchWear()
        if settings.failClosedGuard == .required { watchGuard() }
        logger.info(
            "satipsec.started",
            metadata: [
                "name": "\(settings.name)", "address": "\(local)", "gcks": "\(settings.gcks.address)",
                "satellite": "\(settings.satelliteInterface)", "terrestrial": "\(settings.terrestrialInterface)",
                "guard": "\(settings.failClosedGuard.rawValue)", "data_plane": "\(settings.dataPlane.rawValue)",
            ])
        member.start(now: loop.now)
        pump()
        try loop.run()
        control?.close()
    }

    private func makeBackend() throws -> any SABackend {
        let interface: KernelBackend.Interface
        switch settings.dataPlane {
        case .userspace:
            return try UserspaceBackend(configuration: dataPlane, loop: loop, random: SystemRandom()) {
                [unowned self] in logger.report($0)
            }
        case .xfrm: interface = .xfrm
        case .pfkey: interface = .pfkey
        }
        let backend = try KernelBackend(interface, configuration: dataPlane, loop: loop)
        backend.onExpiry = { [unowned self] key, isHard in
            logger.warning("sa.limit", metadata: ["spi": "\(spiText(key.spi))", "reached": "\(isHard)"])
            member.wearsOut(key, now: loop.now)
            pump()
        }
        return backend
    }

    private func openSocket(_ port: UInt16) throws {
        guard sockets[port] == nil else { return }
        sockets[port] = try UDPSocket(
            loop: loop, port: port, interface: settings.satelliteInterface, family: AddressFamily(local.address)
        ) { [unowned self] datagrams in
            for datagram in datagrams { member.receive(datagram, now: loop.now) }
            pump()
        }
    }

    /// A cipher of 64-bit blocks has 64 MiB: the 20 % that are left then last five seconds at 20 Mbit/s.
    private static let wearInterval: Duration = .seconds(1)
    private static let wornRepeat: Duration = .seconds(5)

    /// Looks from time to time whether an SA nears its limits, long before the data plane has to stop.
    private func watchWear() {
        wearTimer = loop.makeTimer { [unowned self] in
            for status in backend.snapshot() where status.isActive && status.isWorn {
                // Said again where the answer is late.
                guard loop.now >= wornSaidAt[status.key].map({ $0 + Self.wornRepeat }) ?? .zero else { continue }
                wornSaidAt[status.key] = loop.now
                member.wearsOut(status.key, now: loop.now)
            }
            pump()
            wearTimer?.set(loop.now + Self.wearInterval)
        }
        wearTimer?.set(loop.now + Self.wearInterval)
    }

    private static let guardInterval: Duration = .seconds(30)

    /// Looks from time to time whether the guard still stands: `nft flush ruleset` takes it away, too.
    private func watchGuard() {
        var isGuarded = true
        guardTimer = loop.makeTimer { [unowned self] in
            let now = backend.status().isGuarded != false
            let metadata: Logger.Metadata = ["interface": "\(settings.satelliteInterface)"]
            if isGuarded, !now { logger.error("guard.missing", metadata: metadata) }
            if !isGuarded, now { logger.info("guard.back", metadata: metadata) }
            isGuarded = now
            guardTimer?.set(loop.now + Self.guardInterval)
        }
        guardTimer?.set(loop.now + Self.guardInterval)
    }

    // MARK: The engine

    /// Does what the engine wants, in its order.
    private func pump() {
        while true {
            switch member.poll() {
            case .persist: break  // what a restart must know comes with the sealed store
            case .transmit(let datagram): send(datagram)
            case .data(let change): apply(change)
            case .joinControl(let address): join(address)
            case .leaveControl(let address):
                sockets[address.port]?.leave(address.address, interface: settings.satelliteInterface)
            case .log(let event): logger.report(event)
            case .associationUp(let id):
                guard let keyLog, let (cookie, key) = member.exportableKey(id) else { continue }
                keyLog.writePhase1(cookie: cookie, key: key)
            case .wait(let until):
                timer?.set(until)
                return
            }
        }
    }

    private func send(_ datagram: Datagram) {
        guard let socket = sockets[datagram.local.port] ?? sockets[settings.gcks.port] else { return }
        do {
            try socket.send(datagram)
        } catch {
            guard let omitted = unsent.admit("unsent", now: loop.now) else { return }
            logger.warning(
                "datagram.unsent",
                metadata: ["to": "\(datagram.remote)", "reason": "\(error)", "omitted": "\(omitted)"])
        }
    }

    private func join(_ control: SocketAddress) {
        do {
            try openSocket(control.port)
            try sockets[control.port]?.join(control.address, interface: settings.satelliteInterface)
        } catch {
            logger.error("control.unheard", metadata: ["control": "\(control)", "reason": "\(error)"])
        }
    }

    private func apply(_ change: SAChange) {
        switch change {
        case .addInbound(let parameters), .addOutbound(let parameters):
            keyLog?.writeESP(wiresharkLine(for: parameters, source: parameters.source))
        case .removeInbound(let key): logCounters(of: key, .inbound)
        case .removeOutbound(let key):
            logCounters(of: key, .outbound)
            wornSaidAt[key] = nil
        case .removeAll: wornSaidAt = [:]
        case .activateOutbound: break
        }
        do {
            try backend.apply(change)
        } catch {
            logger.error("sa.refused", metadata: ["reason": "\(error)"])
            switch change {
            case .addInbound(let parameters), .addOutbound(let parameters):
                member.dataPlaneFailed(parameters.key, now: loop.now)
            default: break
            }
        }
    }

    /// What an SA did in its life goes into the log when it goes.
    private func logCounters(of key: SAKey, _ direction: SAStatus.Direction) {
        guard let status = backend.snapshot().first(where: { $0.key == key && $0.direction == direction }) else {
            return
        }
        let drops = status.counters.drops.sorted { $0.key.rawValue < $1.key.rawValue }
        logger.info(
            "sa.counters",
            metadata: [
                "group": "\(status.name)", "spi": "\(spiText(key.spi))", "direction": "\(direction.rawValue)",
                "packets": "\(status.counters.packets)", "octets": "\(status.counters.octets)",
                "drops": "\(drops.map { "\($0.key.rawValue):\($0.value)" }.joined(separator: ","))",
            ])
    }

    // MARK: The operator

    private func handle(_ request: ControlRequest, _ reply: ControlReply) {
        let snapshot = member.snapshot(now: loop.now)
        switch (request.method, request.path) {
        case ("GET", "/v1/status"):
            let requiresGuard = settings.failClosedGuard == .required
            reply.send(StatusAnswer(snapshot, backend.status(), requiresGuard: requiresGuard))
        case ("GET", "/v1/sas"):
            let name = settings.dataPlane.rawValue
            reply.send(backend.snapshot().map { SAAnswer($0, of: snapshot, backend: name, now: loop.now) })
        default: reply.send(status: 404, error: "there is no \(request.method) \(request.path)")
        }
    }
}
