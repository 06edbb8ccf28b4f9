// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import Cryptography
internal import ESP
internal import FMKE
internal import GroupMember
internal import KeyServer
internal import LinkModel

/// How to undo a fault.
enum FaultEnd {
    case hears(Int)
    case speaks(Int)
    case joins
    case classArrives(TrafficClass)
    case accepts(Int)
    case links
}

/// Faults and the operator: what happens, and when, follows from the seed.
extension Simulation {
    func injectFault() {
        guard !faultsAreOver else { return }
        faultCount += 1
        let random = faultRandom
        let pause = scenario.faultPause / 2 + random.duration(below: scenario.faultPause)
        queue.schedule(.fault, at: now + pause)
        let member = members[Int(random.number(below: UInt64(members.count)))]
        switch random.number(below: 20) {
        case 0...4: command(random)
        case 5: revokeSomebody(member, random)
        case 6, 7: crash(member, random)
        case 8: crashServer(random)
        case 9:
            network.update(member.terminal) { $0.isDeaf = true }
            last(.hears(member.number), "sim.deaf", member.name, random)
        case 10:
            network.update(member.terminal) { $0.isMute = true }
            last(.speaks(member.number), "sim.mute", member.name, random)
        case 11:
            for number in members.indices {
                let part = random.happens(0.5) ? 1 : 0
                network.update(number + 1) { $0.part = part }
            }
            last(.joins, "sim.partition", "", random)
        case 12, 13:
            guard let kind = random.pick(TrafficClass.allCases) else { return }
            network.classLoss[kind] = random.happens(0.3) ? 1 : random.unit()
            last(.classArrives(kind), "sim.class-loss", "\(kind) \(network.classLoss[kind] ?? 0)", random)
        case 14:
            member.refusesSAs = scenario.refusesSAs
            last(.accepts(member.number), "sim.refuses-sas", member.name, random)
        case 15: wearOut(member)
        case 16: badWeather(random)
        default: attack(member, random)
        }
    }

    func say(_ name: String, _ text: String) {
        kinds.insert(name)
        note("sim", LogEvent(.warning, name, ["what": text]))
    }

    private func last(_ end: FaultEnd, _ name: String, _ text: String, _ random: SeededRandom) {
        say(name, text)
        openFaults[faultCount] = end
        let length = random.happens(0.5) ? Duration.seconds(5) : .seconds(60)
        queue.schedule(.endFault(faultCount), at: now + random.duration(below: length))
    }

    func endFault(_ number: Int) {
        guard let end = openFaults.removeValue(forKey: number) else { return }
        switch end {
        case .hears(let member): network.update(member + 1) { $0.isDeaf = false }
        case .speaks(let member): network.update(member + 1) { $0.isMute = false }
        case .joins: for member in members { network.update(member.terminal) { $0.part = 0 } }
        case .classArrives(let kind): network.classLoss[kind] = nil
        case .accepts(let member): members[member].refusesSAs = false
        case .links: setLinks(scenario.downlink, up: scenario.uplink)
        }
        say("sim.fault-ended", "\(end)")
    }

    /// Everything works again, but for the residual loss.
    func endFaults() {
        faultsAreOver = true
        for number in openFaults.keys.sorted() { endFault(number) }
        var (down, up) = (scenario.downlink, scenario.uplink)
        down.loss = .independent(scenario.residualLoss)
        (down.corrupt, up.loss) = (0, .none)
        setLinks(down, up: up)
        for member in members {
            member.outputsLeft = nil
            if member.engine == nil { start(member) }
        }
        server.outputsLeft = nil
        startServer(keepingRecords: true)
        bringBack()
        say("sim.faults-end", "")
        observe(.faultsEnded)
    }

    private func setLinks(_ down: LinkParameters, up: LinkParameters) {
        for (index, terminal) in network.terminals.enumerated() {
            terminal.downlink.parameters = down
            if index > 0 { terminal.uplink.parameters = up }
        }
    }

    // MARK: One of each kind

    /// These come beside the other faults, from a source of their own.
    func scheduleRebindings(from start: Instant) {
        let random = SeededRandom(seed: Self.derive(scenario.seed, "rebindings"))
        for number in scenario.translated {
            var at = start + random.duration(below: .seconds(60))
            while at < start + scenario.faultTime {
                queue.schedule(.rebind(number), at: at)
                at = at + .seconds(10) + random.duration(below: .seconds(100))
            }
        }
    }

    func rebind(_ number: Int) {
        say("sim.rebinding", members[number].name)
        network.update(number + 1) { $0.translation?.rebind() }
    }

    /// So do these.
    func scheduleVPNRekeys(from start: Instant) {
        let random = SeededRandom(seed: Self.derive(scenario.seed, "VPN rekeys"))
        for number in scenario.vpns.indices {
            var at = start + random.duration(below: .seconds(60))
            while at < start + scenario.faultTime {
                queue.schedule(.rekeyVPN(number), at: at)
                at = at + random.duration(below: .seconds(100))
            }
        }
    }

    func rekeyVPN(_ number: Int) {
        let ends = scenario.vpns[number].ends
        guard
            !ends.contains(where: {
                members[$0].isRevoked || server.removed.contains($0) || directory.absent.contains($0)
            })
        else { return }
        rekey("v\(number)", includingKEK: false)
    }

    private func command(_ random: SeededRandom) {
        guard let name = random.pick(scenario.groups.indices.map { "g\($0)" }) else { return }
        let includesKEK = random.happens(0.4)
        let times = random.happens(0.2) ? 3 : 1
        for _ in 0..<times where server.engine != nil { rekey(name, includingKEK: includesKEK) }
    }

    func rekey(_ group: String, includingKEK: Bool) {
        say("sim.rekey", "\(group) \(includingKEK ? "with KEK" : "")")
        do {
            _ = try server.engine?.rekey(group: group, includingKEK: includingKEK, now: now)
        } catch {
            if isUnexpected(error) { violate("engine", "rekey of \(group) was refused: \(error)") }
        }
        drainServer()
    }

    private func revokeSomebody(_ member: MemberStation, _ random: SeededRandom) {
        let left = members.filter { !$0.isRevoked }.count
        guard !member.isRevoked, !directory.absent.contains(member.number), left > 2, left * 3 > members.count * 2,
            let engine = server.engine
        else { return }
        revoke(member, engine)
    }

    func revoke(_ member: MemberStation, _ engine: KeyServer) {
        say("sim.revoke", member.name)
        member.isRevoked = true
        observe(.revoked(member.number))
        do {
            _ = try engine.revoke(client: member.name, now: now)
        } catch {
            if isUnexpected(error) { violate("engine", "the revocation of \(member.name) was refused: \(error)") }
        }
        drainServer()
        // It did not reach the store: the operator would say it again. Here the file says it from now on.
        if server.engine == nil { server.removed.insert(member.number) }
    }

    private func crash(_ member: MemberStation, _ random: SeededRandom) {
        if member.engine != nil, random.happens(0.3) {
            member.outputsLeft = Int(random.number(below: 12))
            say("sim.crash-soon", member.name)
        } else if member.engine != nil, random.happens(0.3) {
            say("sim.shutdown", member.name)
            member.engine?.shutDown(now: member.clock.local(now))
            drain(member)
            stop(member)
        } else {
            say("sim.crash", member.name)
            stop(member)
        }
        let rest = random.happens(0.6) ? Duration.seconds(2) : .seconds(90)
        queue.schedule(.startMember(member.number), at: now + .milliseconds(100) + random.duration(below: rest))
    }

    private func crashServer(_ random: SeededRandom) {
        if random.happens(0.4) {
            server.outputsLeft = Int(random.number(below: 12))
            say("sim.server-crash-soon", "")
        } else {
            say("sim.server-crash", "")
            stopServer()
        }
        let rest = random.happens(0.6) ? Duration.seconds(5) : .seconds(60)
        queue.schedule(.startServer, at: now + .milliseconds(100) + random.duration(below: rest))
    }

    private func wearOut(_ member: MemberStation) {
        guard let key = member.active.sorted(by: { $0.key < $1.key }).first?.value else { return }
        say("sim.worn", member.name)
        member.engine?.wearsOut(key, now: member.clock.local(now))
        drain(member)
    }

    private func badWeather(_ random: SeededRandom) {
        var (down, up) = (scenario.downlink, scenario.uplink)
        down.loss = LossModel.bursts(loss: 0.2 + random.unit() * 0.5, meanBurst: 5) ?? .independent(0.5)
        down.jitter = random.duration(below: .milliseconds(800))
        down.corrupt = random.unit() * 0.2
        down.duplicate = random.unit() * 0.3
        down.reorder = random.unit() * 0.3
        up.loss = .independent(random.unit() * 0.5)
        setLinks(down, up: up)
        last(.links, "sim.bad-weather", "", random)
    }

    /// Somebody on the link repeats, bends or redirects what was sent.
    private func attack(_ member: MemberStation, _ random: SeededRandom) {
        say("sim.attack", member.name)
        if random.happens(0.3) { return forge(random, with: try? SigningKey.seeded(random)) }
        for _ in 0..<(1 + random.number(below: 8)) {
            guard var datagram = random.pick(recorded) else { return }
            if random.happens(0.6), !datagram.bytes.isEmpty {
                let index = Int(random.number(below: UInt64(datagram.bytes.count)))
                datagram.bytes[index] ^= 1 << UInt8(random.number(below: 8))
            }
            if random.happens(0.2) { datagram.bytes = Array(datagram.bytes.prefix(Int(random.number(below: 400)))) }
            var target = datagram.remote
            if random.happens(0.2) { target = random.pick(scenario.groups.indices.map(Directory.control)) ?? target }
            let terminal = random.happens(0.3) ? 0 : member.terminal
            let arriving = Datagram(local: target, remote: datagram.local, bytes: datagram.bytes)
            guard let arriving = network.inside(arriving, of: terminal) else { continue }
            deliver(arriving, at: terminal)
        }
    }

    /// A member that knows the KEK, but not the key of the GCKS, seals PUSHes of its own.
    func forge(_ random: SeededRandom, with forger: SigningKey?) {
        let group = Int(random.number(below: UInt64(scenario.groups.count)))
        guard let forger,
            let rekeySA = knowledge.rekeySA(ofGroup: group, verifyingKey: forger.publicKey),
            let sealer = try? PushSealer(group: Directory.groupID(group), rekeySA: rekeySA, signingKey: forger)
        else { return }
        say("sim.forgery", "g\(group)")
        let header = TransactionHeader(
            kind: random.happens(0.5) ? .commit : .beacon, group: Directory.groupID(group), epoch: rekeySA.epoch,
            transaction: .max / 2, feedback: FeedbackRequest(mode: .none), activateInMilliseconds: 0,
            deactivateInMilliseconds: 0)
        let sequence = UInt64.max / 2 + random.number(below: 1_000_000)
        guard let bytes = try? sealer.seal(header, body: [], sequence: sequence) else { return }
        let source = SocketAddress(ServerStation.address, 848)
        for station in members where network.terminals[station.terminal].joined.contains(rekeySA.control) {
            deliver(Datagram(local: rekeySA.control, remote: source, bytes: bytes), at: station.terminal)
        }
    }
}
