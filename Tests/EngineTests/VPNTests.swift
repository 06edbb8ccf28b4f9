// SPDX-License-Identifier: Apache-2.0
import Audit
import Basics
import Cryptography
import ESP
import GroupMember
import KeyServer
import Store
import Testing

/// Unicast VPNs: made, changed without a gap, and taken away.
@Suite struct VPNTests {
    static let there = TrafficSelector(
        source: IPPrefix(address: .v4(192, 168, 1, 0), length: 24) ?? .allV4,
        destination: IPPrefix(address: .v4(192, 168, 2, 0), length: 24) ?? .allV4)
    static let ports = TrafficSelector(
        source: IPPrefix(host: .v4(10, 0, 0, 20)), destination: IPPrefix(host: .v4(10, 0, 0, 21)), ipProtocol: 6,
        destinationPort: 443)

    private func entry(_ adjust: (inout VPNEntry) -> Void = { _ in }) -> VPNEntry {
        var entry = VPNEntry(
            name: "hub-site1", id: 1_001, ends: ["hub", "site1"], flows: [Self.there, Self.ports], suite: .aes256gcm)
        adjust(&entry)
        return entry
    }

    private func world(
        loss: Double = 0, seed: UInt64 = 1, _ adjust: (inout VPNEntry) -> Void = { _ in },
        options: (inout World.Options) -> Void = { _ in }
    ) throws -> World {
        var chosen = World.Options()
        chosen.vpns = [entry(adjust)]
        (chosen.loss, chosen.seed) = (loss, seed)
        options(&chosen)
        return try World(chosen)
    }

    private func isUp(_ world: World, _ flows: Int = 2) -> Bool {
        ["hub", "site1"].allSatisfy { world.clients[$0]?.activeOf.count == flows }
    }

    private func state(_ world: World) throws -> ServerSnapshot.VPN {
        try #require(world.server.snapshot(now: world.now).vpns.first)
    }

    private func rekey(_ world: World) throws -> UInt64 {
        let number = try world.server.rekey(group: "hub-site1", includingKEK: false, now: world.now)
        world.drainServer()
        return number
    }

    private func vpnVerdicts(_ world: World) -> [VerdictReport] { world.verdicts.filter(\.isVPN) }

    @Test func itComesChangesAndGoesByTheInventory() throws {
        let world = try world { _ in
        } options: {
            $0.vpns = []
        }
        try world.bringUp()
        let added = try world.apply { $0.vpns = [entry()] }
        #expect(added.changes.map(\.kind) == [.vpn] && added.rekeys.map(\.causes) == [["vpn"]])
        let first = try #require(added.transactions["hub-site1"])
        #expect(world.run(.seconds(30)) { world.verdict(first)?.verdict == "confirmed" && isUp(world) })
        world.run(.seconds(20))
        let changed = try world.apply { $0.vpns[0].flows.removeLast() }
        #expect(changed.changes.map(\.details) == [["flows"]])
        let second = try #require(changed.transactions["hub-site1"])
        #expect(second > first)
        #expect(world.run(.seconds(30)) { world.verdict(second)?.verdict == "confirmed" })
        world.run(.seconds(20))
        let longer = try world.apply { $0.vpns[0].lifetime = .seconds(7_200) }
        #expect(longer.rekeys.isEmpty && longer.changes.map(\.details) == [["lifetime"]])
        let gone = try world.apply { $0.vpns = [] }
        #expect(gone.profiles == ["hub", "site1"])
        world.run(.seconds(10))
        #expect(try world.client("site1").outbound.isEmpty && world.server.snapshot(now: world.now).vpns.isEmpty)
        let again = try world.apply { $0.vpns = [entry()] }
        #expect(try #require(again.transactions["hub-site1"]) > second, "its numbers go on")
        #expect(world.run(.seconds(30)) { isUp(world) })
        #expect(throws: CommandError.self) { try world.apply { $0.vpns[0].ends = ["hub", "nobody"] } }
    }

    @Test(arguments: [["hub", "site1"], ["site1", "hub"]])
    func itIsMadeWhenBothEndsAreThere(order: [String]) throws {
        let world = try world()
        world.start(order[0])
        world.run(.seconds(20))
        #expect(try world.client(order[0]).activeOf.isEmpty)
        #expect(try state(world).state == "down")
        world.start(order[1])
        #expect(world.run(.seconds(20)) { isUp(world) })
        world.run(.seconds(10))
        #expect(world.vpnFaults == [])
        let (hub, site) = (try world.client("hub"), try world.client("site1"))
        for (one, other) in [(hub, site), (site, hub)] {
            for (selector, key) in one.activeOf {
                let out = try #require(one.outbound[key])
                let into = try #require(other.inbound[SAKey(spi: key.spi, destination: other.address)])
                #expect(key.destination == other.address && out.source == one.address)
                #expect(out.cipherKey == into.cipherKey && out.selector == selector && into.selector == selector)
                #expect(out.hasOneSender && into.hasOneSender && out.senderID == 0)
                #expect(out.extendedSequence && into.extendedSequence && out.name == "hub-site1")
                #expect(out.encapsulation == nil && into.encapsulation == nil)
            }
        }
        #expect(hub.activeOf.keys.contains(Self.ports) && site.activeOf.keys.contains(Self.ports.mirrored))
        #expect(Self.ports.mirrored.sourcePort == 443)
        let vpn = try state(world)
        #expect(vpn.state == "up" && vpn.ends.map(\.client) == ["hub", "site1"])
        #expect(vpn.lastVerdict?.verdict == "confirmed" && vpn.lastVerdict?.reason == .established)
        #expect(hub.engine.snapshot(now: world.now).vpns.map(\.state) == ["up"])
        #expect(try world.client("site2").activeOf.isEmpty)
    }

    /// What an end's data plane was told of this VPN since an instant, one letter for each kind.
    private func steps(_ world: World, _ name: String, since: Instant) throws -> String {
        try world.client(name).changes.filter { $0.at > since }.map { entry in
            switch entry.change {
            case .addInbound: "i"
            case .addOutbound: "o"
            case .activateOutbound: "a"
            case .removeInbound: "x"
            case .removeOutbound: "y"
            case .removeAll: "!"
            }
        }.joined()
    }

    /// Its keys, too, wait for the audit, and nobody is named for what it was not sent.
    @Test func withoutAuditItsKeysWait() throws {
        let world = try world()
        world.failAudit("the disk is full", atOnce: true)
        world.start()
        world.run(.seconds(300))
        #expect(!isUp(world) && vpnVerdicts(world).isEmpty)
        #expect(throws: CommandError.heldBack("the disk is full")) { try rekey(world) }
        world.mendAudit()
        #expect(world.run(.seconds(60)) { isUp(world) && vpnVerdicts(world).contains { $0.verdict == "confirmed" } })
        let ends = world.audit.map(\.event).filter { event in
            event.name == "keys.sent" && event.fields.contains { $0.name == "vpn" && $0.value == "hub-site1" }
        }.compactMap { event in event.fields.first { $0.name == "client" }?.value }
        #expect(Set(ends) == ["hub", "site1"])
        let transaction = try rekey(world)
        #expect(world.run(.seconds(60)) { vpnVerdicts(world).contains { $0.transaction == transaction } })
        #expect(world.untold == [])
    }

    @Test func aChangeIsMakeBeforeBreak() throws {
        let world = try world()
        try world.bringUp()
        #expect(world.run(.seconds(20)) { isUp(world) })
        world.run(.seconds(10))
        let start = world.now
        let old = Dictionary(
            uniqueKeysWithValues: try ["hub", "site1"].map { ($0, Set(try world.client($0).activeOf.values)) })
        let transaction = try rekey(world)
        // GCKS -> both: CONFIGURE with new SAs, not to be used yet; then their use; then the end of the old ones
        #expect(world.run(.seconds(10)) { world.verdict(transaction) != nil })
        for name in ["hub", "site1"] {
            #expect(Set(try world.client(name).activeOf.values).isDisjoint(with: old[name] ?? []))
            #expect(try world.client(name).outbound.count == 5 || name == "site1")
        }
        world.run(.seconds(10))
        #expect(world.vpnFaults == [])
        for name in ["hub", "site1"] {
            let told = try steps(world, name, since: start)
            #expect(told == (name == "hub" ? "oioiaayxyx" : "ioioaaxyxy"), "\(name)")
            #expect(try world.client(name).activeOf.count == 2)
        }
        let installed = world.events("sa.installed").filter { $0.at > start }.map(\.at).max() ?? world.now
        let activated = world.events("sa.activated").filter { $0.at > start }.map(\.at)
        #expect(activated.allSatisfy { $0 >= installed + .milliseconds(500) }, "both had acknowledged")
        let report = try #require(world.verdict(transaction))
        #expect(report.verdict == "confirmed" && report.isVPN && report.reason == .commanded)
        #expect(report.confirmed.map(\.client).sorted() == ["hub", "site1"])
    }

    /// Whatever gets lost, doubled or comes late.
    @Test(arguments: 1...12 as ClosedRange<UInt64>)
    func lossAndDisorderMakeNoGap(seed: UInt64) throws {
        let world = try world(loss: 0.3, seed: seed) { _ in
        } options: {
            $0.reorder = 0.2
        }
        world.start()
        try #require(world.run(.seconds(600)) { isUp(world) })
        for round in 0..<4 {
            let transaction = try rekey(world)
            world.run(.seconds(round == 2 ? 2 : 90)) { world.verdict(transaction) != nil }
            #expect(isUp(world), "something sends at all times")
        }
        try #require(world.run(.seconds(900)) { (try? state(world).openTransactions.isEmpty) == true })
        #expect(world.vpnFaults == [])
        #expect(isUp(world))
    }

    @Test func revocationTakesItFromTheOtherEnd() throws {
        let world = try world()
        try world.bringUp()
        world.run(.seconds(20))
        let transactions = try world.server.revoke(client: "site1", now: world.now)
        world.drainServer()
        let transaction = try #require(transactions["hub-site1"])
        #expect(world.run(.seconds(5)) { world.verdict(transaction) != nil })
        let hub = try world.client("hub")
        #expect(hub.activeOf.isEmpty && hub.inbound.allSatisfy { $0.key.destination.isMulticast })
        let report = try #require(world.verdict(transaction))
        #expect(report.verdict == "confirmed" && report.confirmed.map(\.client) == ["hub"])
        #expect(report.reason == .revocation && report.isVPN)
        #expect(try state(world).state == "revoked")
        #expect(throws: CommandError.deadVPN("hub-site1")) { try rekey(world) }
        #expect(hub.engine.snapshot(now: world.now).vpns.isEmpty)
    }

    @Test func revocationNamesAnEndThatIsNotHeard() throws {
        let world = try world()
        try world.bringUp()
        world.run(.seconds(20))
        let hub = try world.client("hub")
        world.interceptor = { datagram, to in to == "hub" || datagram.remote.address == hub.address }
        let transaction = try #require(try world.server.revoke(client: "site1", now: world.now)["hub-site1"])
        world.drainServer()
        #expect(world.run(.seconds(300)) { world.verdict(transaction) != nil })
        #expect(world.verdict(transaction)?.unconfirmed.map(\.client) == ["hub"])
    }

    /// Its counters are gone with its memory: no SA that it had is ever given to it again.
    @Test func anEndThatRestartsGetsNewSAs() throws {
        let world = try world()
        try world.bringUp()
        world.run(.seconds(20))
        let before = Set(try world.client("site1").outbound.keys)
        try world.restart("site1")
        #expect(world.run(.seconds(30)) { isUp(world) })
        world.run(.seconds(20))
        let site = try world.client("site1")
        #expect(before.isDisjoint(with: site.outbound.keys))
        #expect(vpnVerdicts(world).last?.reason == .endRegistered)
        #expect(vpnVerdicts(world).last?.verdict == "confirmed")
        let faults = world.vpnFaults.filter { !$0.hasPrefix("hub") }
        #expect(faults == [], "only the other end sends for a while with what is lost")
        let held = Set(site.inbound.keys.map(\.spi))
        #expect(try world.client("hub").activeOf.values.allSatisfy { held.contains($0.spi) })
    }

    /// An end whose ISAKMP SA ended says INITIAL-CONTACT too, but its SAs are there and in use: no gap.
    @Test func anEndThatComesBackKeepsWhatItHas() throws {
        let world = try world { _ in
        } options: {
            $0.adjustClient = { $0.deadPeerInterval = .seconds(10) }
        }
        try world.bringUp()
        world.run(.seconds(20))
        let site = try world.client("site1")
        world.interceptor = { datagram, _ in
            [datagram.remote.address, datagram.local.address].contains(site.address)
        }
        #expect(world.run(.seconds(600)) { site.engine.snapshot(now: world.now).state == "degraded" })
        #expect(isUp(world), "the SAs stay")
        world.interceptor = { _, _ in false }
        let count = vpnVerdicts(world).count
        #expect(
            world.run(.seconds(200)) {
                if !isUp(world) { return true }
                return vpnVerdicts(world).count > count
            })
        world.run(.seconds(30))
        #expect(isUp(world))
        #expect(world.vpnFaults == [])
        #expect(vpnVerdicts(world).last?.verdict == "confirmed")
    }

    @Test func trafficGoesOnWithoutTheGCKSUntilTheSAsEnd() throws {
        let world = try world { $0.lifetime = .seconds(300) }
        try world.bringUp()
        world.run(.seconds(20))
        world.serverDiesAfter = 0
        world.run(.seconds(200))
        #expect(isUp(world))
        world.run(.seconds(200))
        for name in ["hub", "site1"] { #expect(try world.client(name).activeOf.isEmpty) }
        try world.restartServer()
        #expect(world.run(.seconds(900)) { isUp(world) })
        #expect(world.vpnFaults == [])
    }

    @Test(arguments: [["site1"], ["hub"], ["hub", "site1"]])
    func addressTranslationBringsUDP(translated: [String]) throws {
        let world = try world { _ in
        } options: {
            $0.translated = Set(translated)
        }
        try world.bringUp()
        world.run(.seconds(20))
        #expect(isUp(world))
        for (name, other) in [("hub", "site1"), ("site1", "hub")] {
            let (end, peer) = (try world.client(name), try world.client(other))
            let port: UInt16 = 4_500 + (translated.contains(other) ? 10_000 : 0)
            for key in end.activeOf.values {
                let parameters = try #require(end.outbound[key])
                let expected = UDPEncapsulation(localPort: 4_500, remote: SocketAddress(peer.address, port))
                #expect(parameters.encapsulation == expected)
                #expect(parameters.source == end.inside ?? end.address && key.destination == peer.address)
            }
            let inbound = end.inbound.values.filter { $0.name == "hub-site1" }
            #expect(inbound.count == 2 && inbound.allSatisfy { $0.encapsulation?.remote.port == port })
            #expect(inbound.allSatisfy { $0.key.destination == end.inside ?? end.address })
        }
        #expect(try state(world).isEncapsulated)
    }

    @Test func anEndThatMovesGetsNewSAs() throws {
        let world = try world { _ in
        } options: {
            $0.translated = ["site1"]
        }
        try world.bringUp()
        world.run(.seconds(60))
        try world.client("site1").portShift = 20_000
        let hub = try world.client("hub")
        #expect(
            world.run(.seconds(120)) {
                hub.activeOf.values.allSatisfy { hub.outbound[$0]?.encapsulation?.remote.port == 24_500 }
            })
        world.run(.seconds(20))
        #expect(isUp(world))
        #expect(world.vpnFaults == [])
        #expect(vpnVerdicts(world).last?.reason == .moved)
    }

    @Test func anEndThatRefusesIsNamed() throws {
        let world = try world()
        try world.bringUp()
        world.run(.seconds(20))
        let site = try world.client("site1")
        let before = site.activeOf
        site.refusesSAs = true
        let transaction = try rekey(world)
        #expect(world.run(.seconds(20)) { world.verdict(transaction) != nil })
        let report = try #require(world.verdict(transaction))
        #expect(report.unconfirmed.contains(.init(client: "site1", reason: "refused")))
        #expect(site.activeOf == before, "what it has goes on")
        // It works again: the change goes on by itself.
        site.refusesSAs = false
        #expect(world.run(.seconds(120)) { Set(site.activeOf.values).isDisjoint(with: before.values) })
        world.run(.seconds(10))
        #expect(isUp(world))
        #expect(world.vpnFaults == [])
        #expect(try state(world).state == "up")
    }

    @Test func aWornSAIsReplaced() throws {
        let world = try world { $0.volume = 1 << 30 }
        try world.bringUp()
        world.run(.seconds(60))
        let hub = try world.client("hub")
        let key = try #require(hub.activeOf[Self.there])
        #expect(hub.outbound[key]?.octetLimit == 1 << 30)
        for _ in 0..<5 {
            hub.engine.wearsOut(key, now: world.now)
            world.drain("hub")
            world.run(.milliseconds(100))
        }
        world.run(.seconds(10))
        #expect(hub.activeOf[Self.there] != key)
        let volume = vpnVerdicts(world).filter { $0.reason == .volume }
        #expect(volume.count == 1 && volume.first?.verdict == "confirmed")
        #expect(world.vpnFaults == [])
    }

    @Test func keysAreReplacedBeforeTheyEnd() throws {
        let world = try world { $0.lifetime = .seconds(100) }
        try world.bringUp()
        var gaps = 0
        world.run(.seconds(20))
        world.run(.seconds(600)) {
            if !isUp(world) { gaps += 1 }
            return false
        }
        #expect(gaps == 0)
        #expect(vpnVerdicts(world).filter { $0.reason == .scheduled && $0.verdict == "confirmed" }.count >= 6)
        #expect(world.vpnFaults == [])
    }

    /// By command while an end is away: the verdict says so at once, and the keys come when it is back.
    @Test func aCommandedChangeNamesAnAbsentEnd() throws {
        let world = try world()
        world.start("hub")
        world.run(.seconds(20))
        let transaction = try rekey(world)
        let report = try #require(world.verdict(transaction))
        #expect(report.unconfirmed.map { "\($0.client) \($0.reason)" } == ["hub waiting", "site1 unreachable"])
        world.start("site1")
        #expect(world.run(.seconds(20)) { isUp(world) })
    }

    /// The server dies before each of its outputs during a change: the ends go on, and the change ends in a verdict.
    @Test(arguments: 0..<14)
    func aRestartOfTheServerGoesOnWithTheChange(after outputs: Int) throws {
        let world = try world(seed: 3)
        try world.bringUp()
        world.run(.seconds(20))
        world.serverDiesAfter = outputs
        let transaction = try world.server.rekey(group: "hub-site1", includingKEK: false, now: world.now)
        world.drainServer()
        world.run(.seconds(30)) { world.isServerDown || !isUp(world) }
        #expect(isUp(world))
        try world.restartServer()
        var gaps = 0
        world.run(.seconds(60)) {
            if !isUp(world) { gaps += 1 }
            return false
        }
        #expect(gaps == 0)
        #expect(world.vpnFaults == [])
        // Before the first record nothing had happened.
        if outputs > 0 { #expect(world.verdict(transaction)?.verdict == "confirmed") }
        #expect(try state(world).openTransactions.isEmpty)
        let next = try rekey(world)
        #expect(world.run(.seconds(20)) { world.verdict(next)?.verdict == "confirmed" })
        #expect(next > transaction)
    }

    /// It comes, changes its flows without a gap, and goes, while the server runs.
    @Test func anInventoryBringsChangesAndTakesIt() throws {
        let world = try World(World.Options())
        try world.bringUp()
        var inventory = world.server.inventory
        func apply(_ vpns: [VPNEntry]) throws -> [String] {
            inventory.vpns = vpns
            let report = try world.server.apply(inventory, now: world.now)
            world.drainServer()
            return report.changes.map { "\($0.kind) \($0.action) \($0.name) \($0.details.joined(separator: ","))" }
        }
        #expect(try apply([entry()]) == ["vpn added hub-site1 hub,site1"])
        #expect(world.run(.seconds(20)) { isUp(world) })
        world.run(.seconds(10))
        #expect(try apply([entry { $0.suite = .aes128gcm }]) == ["vpn changed hub-site1 suite"])
        var gaps = 0
        world.run(.seconds(30)) {
            if !isUp(world) { gaps += 1 }
            return false
        }
        #expect(gaps == 0)
        let hub = try world.client("hub")
        #expect(hub.activeOf.values.allSatisfy { hub.outbound[$0]?.suite == .aes128gcm })
        #expect(vpnVerdicts(world).last?.reason == .changed)
        // It goes at one end first, and then at the other.
        #expect(world.vpnFaults == [])
        #expect(try apply([]) == ["vpn removed hub-site1 hub,site1"])
        world.run(.seconds(10))
        #expect(hub.activeOf.isEmpty && hub.engine.snapshot(now: world.now).vpns.isEmpty)
        // What comes later by this id has SAs of its own, and greater numbers.
        let last = try #require(vpnVerdicts(world).last?.transaction)
        let old = Set(hub.outbound.keys)
        _ = try apply([entry()])
        #expect(world.run(.seconds(20)) { isUp(world) })
        #expect(hub.activeOf.values.allSatisfy { !old.contains($0) })
        #expect(try state(world).transaction > last)
        #expect(throws: CommandError.self) { try apply([entry { $0.id = World.group }]) }
    }

    /// It is out of the file for one run of the server, and in it for the next: no SA of before comes back.
    @Test func aRunWithoutItEndsItsSAs() throws {
        let world = try world()
        try world.bringUp()
        world.run(.seconds(20))
        let old = Set(try world.client("hub").outbound.keys)
        try world.restartServer { $0.inventory.vpns = [] }
        world.run(.seconds(30))
        #expect(try world.client("hub").activeOf.isEmpty)
        try world.restartServer()
        #expect(world.run(.seconds(60)) { isUp(world) })
        #expect(try world.client("hub").activeOf.values.allSatisfy { !old.contains($0) })
    }

    @Test func aServerWithoutItsRecordsMakesNewSAs() throws {
        let world = try world()
        try world.bringUp()
        world.run(.seconds(20))
        world.store.apply(world.records.map { .remove($0.name) })
        try world.restartServer()
        world.run(.seconds(900)) { vpnVerdicts(world).count > 1 }
        world.run(.seconds(20))
        #expect(isUp(world))
        #expect(world.vpnFaults == [])
        #expect(try state(world).state == "up")
    }
}
