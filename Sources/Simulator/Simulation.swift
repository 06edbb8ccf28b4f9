// SPDX-License-Identifier: Apache-2.0

// Simulator owns the trial of the engines: the real GCKS and any number of real members in one process and in virtual
// time, links and faults between them that all follow from one seed, and checkers that watch what must always hold.
//
//     Scenario(seed) -> Simulation: EventQueue -> engines -> outputs -> Network -> EventQueue
//                                        ^                      |
//                                     faults                    +-> Observation -> checkers -> Outcome

internal import Basics
internal import Cryptography
internal import ESP
internal import FMKE
internal import GroupMember
internal import IKEv1
internal import KeyServer
internal import LinkModel
internal import Store

/// One run.
public final class Simulation {
    let scenario: Scenario
    var now = Instant.zero + .seconds(1)
    var queue = EventQueue()
    let network: Network
    let server = ServerStation()
    let members: [MemberStation]
    let faultRandom: SeededRandom
    let signingKey: SigningKey
    var openFaults: [Int: FaultEnd] = [:]
    var faultCount = 0
    var faultsAreOver = false
    var hash = EventHash()
    var violations: [Violation] = []
    var isOver = false
    var transactions = 0
    var verdicts = 0
    /// The datagram that the server or a member is being given now.
    var delivered: Datagram?
    /// Datagrams that were on the link, for the adversary: the last ones.
    var recorded: [Datagram] = []
    private var checkers: [any Checker] = []
    private var recent: [(at: Instant, who: String, event: LogEvent)] = []
    private var recentStart = 0
    private let epochMicroseconds: UInt64 = 1_700_000_000_000_000
    /// As the server's, as long as its clock is not set back.
    var recordClock: RecordClock { RecordClock(microseconds: epochMicroseconds, now: .zero) }
    private var datagrams = 0
    let knowledge: KnowledgeChecker
    /// The operator's file, as it is now.
    let directory: Directory
    let applyRandom: SeededRandom
    var kinds: Set<String> = []
    /// When the key server's clock was set back, by so much.
    var setBack: UInt64 = 0
    var audit = AuditState()

    public init(_ scenario: Scenario) throws {
        self.scenario = scenario
        let seed = scenario.seed
        network = Network(seed: seed)
        faultRandom = SeededRandom(seed: Self.derive(seed, "faults"))
        signingKey = try SigningKey.seeded(SeededRandom(seed: Self.derive(seed, "signing key")))
        let clocks = SeededRandom(seed: Self.derive(seed, "clocks"))
        members = (0..<scenario.members).map { number in
            let drift = scenario.drifts.indices.contains(number) ? scenario.drifts[number] : 0
            let offset = Int64(clocks.number(below: 1_000_000_000_000))
            return MemberStation(number: number, clock: DriftingClock(offset: offset, millionths: drift))
        }
        var faultless = scenario.uplink
        faultless.loss = .none
        network.add(ServerStation.address, uplink: faultless, downlink: scenario.downlink)
        for member in members { network.add(member.address, uplink: scenario.uplink, downlink: scenario.downlink) }
        for number in scenario.translated {
            let inside = IPAddress.v4(
                192, 168, UInt8(truncatingIfNeeded: number >> 8), UInt8(truncatingIfNeeded: number))
            network.update(number + 1) { $0.translation = Network.Translation(inside: inside, firstPort: 20_000) }
        }
        let directory = Directory(scenario)
        self.directory = directory
        applyRandom = SeededRandom(seed: Self.derive(seed, "applies"))
        knowledge = KnowledgeChecker(directory)
        checkers = [
            ConvergenceChecker(directory), AcceptanceChecker(directory), NumberChecker(directory), knowledge,
            FeedbackChecker(directory), SharedSAChecker(directory), VPNChecker(scenario), RestartChecker(directory),
        ]
    }

    /// Mixes a name into a seed: each thing that draws has a source of its own.
    static func derive(_ seed: UInt64, _ name: String) -> UInt64 {
        var hash: UInt64 = 0xcbf2_9ce4_8422_2325 ^ (seed &* 0x9e37_79b9_7f4a_7c15)
        for octet in name.utf8 { hash = (hash ^ UInt64(octet)) &* 0x100_0000_01b3 }
        return hash
    }

    // MARK: The run

    /// Runs to the end, or to the first violation.
    public func run() -> Outcome {
        startServer(keepingRecords: true)
        let starts = SeededRandom(seed: Self.derive(scenario.seed, "starts"))
        let late = Set(scenario.script.compactMap(\.step.started))
        for member in members where !late.contains(member.number) {
            queue.schedule(.startMember(member.number), at: now + starts.duration(below: scenario.startSpread))
        }
        let faultsBegin = now + scenario.startSpread + .seconds(15)
        for (number, entry) in scenario.script.enumerated() { queue.schedule(.step(number), at: now + entry.at) }
        if scenario.faultTime > .zero, scenario.script.isEmpty { queue.schedule(.fault, at: faultsBegin) }
        scheduleRebindings(from: faultsBegin)
        scheduleAuditOutages(from: faultsBegin)
        scheduleVPNRekeys(from: faultsBegin)
        if scenario.applies, scenario.faultTime > .zero { queue.schedule(.apply, at: faultsBegin) }
        queue.schedule(.faultsEnd, at: faultsBegin + scenario.faultTime)
        if scenario.sabotage != nil { queue.schedule(.sabotage, at: faultsBegin + scenario.faultTime + .seconds(1)) }
        while !isOver, violations.isEmpty, let next = queue.pop() {
            now = max(now, next.at)
            handle(next.event)
        }
        if violations.isEmpty { for checker in checkers { checker.finish(self) } }
        return outcome()
    }

    private func handle(_ event: EventQueue.Event) {
        switch event {
        case .wakeServer:
            guard let engine = server.engine, let wakeAt = server.wakeAt, wakeAt <= now else { return }
            server.wakeAt = nil
            engine.advance(to: now)
            drainServer()
        case .wakeMember(let number):
            let member = members[number]
            guard let engine = member.engine, let wakeAt = member.wakeAt, wakeAt <= now else { return }
            member.wakeAt = nil
            engine.advance(to: member.clock.local(now))
            drain(member)
        case .up(let terminal):
            for flight in network.forward(from: terminal, now: now) {
                queue.schedule(.down(flight.terminal), at: flight.arrival)
            }
            return
        case .down(let terminal):
            for datagram in network.arrived(at: terminal, now: now) { deliver(datagram, at: terminal) }
        case .startMember(let number): start(members[number])
        case .startServer: startServer(keepingRecords: faultRandom.happens(0.6))
        case .restartServer: startServer(keepingRecords: true)
        case .step(let number): play(scenario.script[number].step)
        case .fault: injectFault()
        case .rebind(let number): rebind(number)
        case .rekeyVPN(let number): rekeyVPN(number)
        case .apply: applyLater()
        case .endFault(let number): endFault(number)
        case .faultsEnd: endFaults()
        case .sabotage: commitSabotage()
        case .check: break
        case .auditFails: auditFails()
        case .auditWorks: auditWorks()
        }
        observe(.stepDone)
    }

    // MARK: Engines

    func startServer(keepingRecords: Bool) {
        guard server.engine == nil else { return }
        if !keepingRecords {
            server.store = MemoryStore()
            server.removed = Set(members.filter(\.isRevoked).map(\.number))
            observe(.storeLost)
        }
        server.run += 1
        let microseconds = epochMicroseconds + UInt64(clamping: now.nanoseconds / 1_000) - setBack
        var configuration = KeyServer.Configuration(
            identity: "gcks.sim", address: SocketAddress(ServerStation.address, 848), signingKey: signingKey,
            inventory: directory.inventory(scenario, without: server.removed), numberFloor: microseconds)
        configuration.phase1Lifetime = scenario.phase1Lifetime
        do {
            server.engine = try KeyServer(
                configuration, records: server.store,
                random: SeededRandom(seed: Self.derive(scenario.seed, "server \(server.run)")), now: now)
        } catch {
            violate("engine", "the server does not start: \(error)")
            return
        }
        observe(.serverStarted)
        drainServer()
    }

    func stopServer() {
        guard server.engine != nil else { return }
        (server.engine, server.wakeAt, server.outputsLeft) = (nil, nil, nil)
        // What waits is in the store; the next run finds out by itself.
        audit.isKnown = false
        note("gcks", LogEvent(.warning, "sim.server-stopped"))
        observe(.serverStopped)
    }

    func start(_ member: MemberStation) {
        guard member.engine == nil else { return }
        member.run += 1
        var configuration = GroupMember.Configuration(
            name: member.name,
            local: SocketAddress(network.terminals[member.terminal].translation?.inside ?? member.address, 848),
            gcks: SocketAddress(ServerStation.address, 848), preSharedKey: Directory.preSharedKey(member.number),
            suites: [Directory.suite])
        configuration.gcksIdentity = "gcks.sim"
        configuration.phase1Lifetime = scenario.phase1Lifetime
        let random = SeededRandom(seed: Self.derive(scenario.seed, "\(member.name) \(member.run)"))
        let engine = GroupMember(configuration, random: random)
        member.engine = engine
        observe(.memberStarted(member.number))
        engine.start(now: member.clock.local(now))
        drain(member)
    }

    /// Its process dies, and its data plane with it.
    func stop(_ member: MemberStation) {
        guard member.engine != nil else { return }
        (member.engine, member.wakeAt, member.outputsLeft) = (nil, nil, nil)
        member.stopDataPlane()
        network.leaveAll(member.terminal)
        note(member.name, LogEvent(.warning, "sim.member-stopped"))
        observe(.memberStopped(member.number))
    }

    func deliver(_ datagram: Datagram, at terminal: Int) {
        hash.event(1, terminal, at: now)
        hash.add(datagram.bytes)
        if terminal == 0 {
            guard let engine = server.engine else { return }
            delivered = datagram
            engine.receive(datagram, now: now)
            drainServer()
            delivered = nil
        } else {
            let member = members[terminal - 1]
            guard let engine = member.engine else { return }
            delivered = datagram
            engine.receive(datagram, now: member.clock.local(now))
            drain(member)
            delivered = nil
        }
    }

    func drainServer() {
        while let engine = server.engine {
            let output = engine.poll()
            if case .wait(let until) = output {
                if tellOfAudit(engine) { continue }
                guard let until else { return }
                guard server.wakeAt.map({ until < $0 || $0 < now }) ?? true else { return }
                server.spins = until <= now ? server.spins + 1 : 0
                if server.spins > 1_000 { violate("engine", "the server asks to be woken again and again") }
                server.wakeAt = max(until, now)
                queue.schedule(.wakeServer, at: max(until, now))
                return
            }
            guard mayDo(output) else { continue }
            if let left = server.outputsLeft {
                guard left > 0 else { return stopServer() }
                server.outputsLeft = left - 1
            }
            guard scenario.script.isEmpty || !dies(at: output) else { return }
            take(output)
        }
    }

    func take(_ output: ServerOutput) {
        switch output {
        case .persist(let changes):
            server.store.apply(changes)
            for change in changes {
                switch change {
                case .put(let record): observe(.serverPersisted(record))
                case .remove(let name): observe(.serverForgot(name: name))
                }
            }
        case .transmit(let datagram):
            transmit(datagram, from: 0)
            if let (spi, sequence) = PushEnvelope.peek(datagram.bytes) {
                observe(.pushSent(spi: spi, sequence: sequence, bytes: datagram.bytes))
            }
        case .log(let event):
            note("gcks", event)
            observe(.serverLogged(event))
        case .ended(let report):
            verdicts += report.verdict == "confirmed" ? 1 : 0
            observe(.ended(report))
        case .audit, .associationUp, .wait: break
        }
    }

    func drain(_ member: MemberStation) {
        while let engine = member.engine {
            let output = engine.poll()
            if case .wait(let until) = output {
                guard let until else { return }
                let wake = max(member.clock.global(until), now)
                guard member.wakeAt.map({ wake < $0 || $0 < now }) ?? true else { return }
                member.spins = wake <= now ? member.spins + 1 : 0
                if member.spins > 1_000 { violate("engine", "\(member.name) asks to be woken again and again") }
                member.wakeAt = wake
                queue.schedule(.wakeMember(member.number), at: wake)
                return
            }
            if let left = member.outputsLeft {
                guard left > 0 else { return stop(member) }
                member.outputsLeft = left - 1
            }
            take(output, of: member)
        }
    }

    private func take(_ output: MemberOutput, of member: MemberStation) {
        switch output {
        case .persist(let records): for record in records { observe(.memberPersisted(member.number, record)) }
        case .transmit(let datagram):
            observe(.memberSent(member.number, bytes: datagram.bytes))
            transmit(datagram, from: member.terminal)
            if TrafficClass(datagram) == .status {
                observe(.statusSent(member.number, octets: datagram.bytes.count + 28))
            }
        case .data(let change):
            hash.event(2, member.number, at: now)
            if member.apply(change) {
                observe(.dataChanged(member.number, change))
            } else {
                refuse(change, of: member)
            }
        case .joinControl(let address): network.join(member.terminal, address)
        case .leaveControl(let address): network.leave(member.terminal, address)
        case .log(let event):
            note(member.name, event)
            observe(.memberLogged(member.number, event))
        case .associationUp, .wait: break
        }
    }

    private func refuse(_ change: SAChange, of member: MemberStation) {
        switch change {
        case .addInbound(let parameters), .addOutbound(let parameters):
            member.engine?.dataPlaneFailed(parameters.key, now: member.clock.local(now))
            observe(.dataRefused(member.number, parameters.key))
        default: break
        }
    }

    func transmit(_ datagram: Datagram, from terminal: Int) {
        hash.event(3, terminal, at: now)
        hash.add(datagram.bytes)
        datagrams += 1
        let datagram = network.outside(datagram, of: terminal)
        record(datagram)
        if let arrival = network.transmit(datagram, from: terminal, now: now) {
            queue.schedule(.up(terminal), at: arrival)
        }
    }

    private func record(_ datagram: Datagram) {
        if recorded.count < 256 {
            recorded.append(datagram)
        } else {
            recorded[datagrams % 256] = datagram
        }
    }

    // MARK: Looking

    func observe(_ observation: Observation) { for checker in checkers { checker.observe(observation, in: self) } }

    func violate(_ checker: String, _ text: String) {
        violations.append(Violation(checker: checker, at: now, text: text))
        isOver = true
    }

    func note(_ who: String, _ event: LogEvent) {
        hash.event(4, who.utf8.count, at: now)
        hash.add(event.name.utf8)
        for field in event.fields { hash.add(field.value.utf8) }
        if recent.count < 4_000 {
            recent.append((now, who, event))
        } else {
            recent[recentStart] = (now, who, event)
            recentStart = (recentStart + 1) % recent.count
        }
    }

    private func outcome() -> Outcome {
        let lines = (recent[recentStart...] + recent[..<recentStart]).map { entry in
            "\((entry.at - .zero).secondsText) \(entry.who): \(entry.event.line)"
        }
        var figures: [String: Double] = [:]
        for checker in checkers {
            if let checker = checker as? FeedbackChecker { figures["status-per-second"] = Double(checker.most) }
        }
        return Outcome(
            seed: scenario.seed, violations: violations, hash: hash.value, events: hash.events,
            virtualTime: now - .zero, transactions: transactions, verdictsConfirmed: verdicts, faults: faultCount,
            datagrams: datagrams, lastEvents: lines, kinds: kinds.union(scenario.features),
            looks: Dictionary(checkers.map { (String($0.name.prefix(1)), $0.looks) }, uniquingKeysWith: +),
            figures: figures)
    }
}
