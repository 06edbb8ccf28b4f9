// SPDX-License-Identifier: Apache-2.0
import Basics
import Cryptography
import ESP
import FMKE
import GroupMember
import ISAKMP
import KeyServer
import LinkModel
import Testing

/// Phase 3 through the real engines.
@Suite struct RekeyTests {
    @Test func everybodyConfirmsWithinThreeSeconds() throws {
        let world = try World()
        try world.bringUp()
        let transaction = try world.rekey()
        #expect(world.run(.seconds(3)) { world.verdict(transaction) != nil })
        let verdict = try #require(world.verdict(transaction))
        #expect(
            verdict.verdict == "confirmed" && verdict.confirmed.map(\.client).sorted() == ["hub", "site1", "site2"])
        #expect(verdict.unicasts == 0 && verdict.rounds == 1)
    }

    @Test(arguments: [UInt64](1...20)) func lossDelaysButLosesNobody(seed: UInt64) throws {
        var options = World.Options()
        options.loss = 0.15
        options.seed = seed
        let world = try World(options)
        try world.bringUp()
        for _ in 0..<3 {
            let transaction = try world.rekey()
            #expect(world.run(.seconds(60)) { world.verdict(transaction) != nil })
            #expect(world.verdict(transaction)?.verdict == "confirmed")
        }
    }

    @Test(arguments: [UInt64](1...20)) func underAwfulLossEveryoneIsConfirmedOrNamedAndFollowsLater(seed: UInt64) throws
    {
        var options = World.Options()
        options.loss = 0.4
        options.seed = seed
        let world = try World(options)
        try world.bringUp()
        let transaction = try world.rekey()
        #expect(world.run(.seconds(60)) { world.verdict(transaction) != nil })
        let verdict = try #require(world.verdict(transaction))
        let named = Set(verdict.confirmed.map(\.client) + verdict.unconfirmed.map(\.client))
        #expect(named == ["hub", "site1", "site2"])
        let isCurrent = world.run(.seconds(600)) {
            world.server.snapshot(now: world.now).groups[0].members.allSatisfy(\.isCurrent)
        }
        #expect(isCurrent, "who was named got there later all the same")
    }

    @Test func sendersMoveAtTheActivationTimeAndReceiversKeepBoth() throws {
        let world = try World()
        try world.bringUp()
        world.run(.seconds(2))
        let hub = try world.client("hub")
        let site = try world.client("site1")
        let old = try #require(hub.active)
        let start = world.now
        try world.rekey()
        #expect(world.run(.seconds(5)) { hub.active != old })
        let elapsed = world.now - start
        #expect(elapsed >= .milliseconds(2_000) && elapsed < .milliseconds(2_500), "activation took \(elapsed)")
        let new = try #require(hub.active)
        #expect(site.inbound[old] != nil && site.inbound[new] != nil)
        world.run(.seconds(10))
        #expect(site.inbound[old] == nil && site.inbound[new] != nil && hub.outbound[old] == nil)
    }

    @Test func theKEKChangesWithoutLosingAnybody() throws {
        let world = try World()
        try world.bringUp()
        let epoch = world.server.snapshot(now: world.now).groups[0].epoch
        let transaction = try world.rekey(kek: true)
        #expect(world.run(.seconds(3)) { world.verdict(transaction) != nil })
        #expect(world.server.snapshot(now: world.now).groups[0].epoch == epoch + 1)
        // The next one goes out under the new KEK.
        let next = try world.rekey()
        #expect(world.run(.seconds(3)) { world.verdict(next) != nil })
        #expect(world.verdict(next)?.verdict == "confirmed" && world.verdict(next)?.unicasts == 0)
    }

    @Test func aMemberThatMissesEveryPushIsRepairedByUnicast() throws {
        let world = try World()
        try world.bringUp()
        world.interceptor = { datagram, name in
            name == "site2" && datagram.local.address.isMulticast
        }
        let transaction = try world.rekey()
        #expect(world.run(.seconds(30)) { world.verdict(transaction) != nil })
        let verdict = try #require(world.verdict(transaction))
        #expect(verdict.verdict == "confirmed" && verdict.unicasts == 1 && verdict.rounds == 3)
    }

    @Test func nothingComesUnderANewKEKWhileItIsStillRepaired() throws {
        let world = try World()
        try world.bringUp()
        let start = world.now
        // The first round is lost for one; the sender has confirmed long before the repair.
        world.interceptor = { datagram, name in
            name == "site2" && datagram.local.address.isMulticast && world.now < start + .milliseconds(600)
        }
        let transaction = try world.rekey(kek: true)
        #expect(world.run(.seconds(10)) { world.verdict(transaction) != nil })
        let verdict = try #require(world.verdict(transaction))
        #expect(verdict.verdict == "confirmed" && verdict.unicasts == 0)
        // A sign of a KEK that it does not know would have made it ask for its profile.
        let unknown = world.events("datagram.dropped", at: "site2").filter {
            $0.event.fields.contains { $0.value == "unknownKEK" }
        }
        #expect(unknown.isEmpty)
        // What the change replaced goes all the same.
        #expect(world.run(.seconds(20)) { world.clients.values.allSatisfy { $0.inbound.count <= 1 } })
    }

    @Test func aMemberThatMissesAKEKChangeAsksForItsProfile() throws {
        let world = try World()
        try world.bringUp()
        var deaf = true
        world.interceptor = { datagram, name in
            // Neither the PUSHes nor the CONFIGUREs of this change get through.
            name == "site2" && deaf
        }
        let transaction = try world.rekey(kek: true)
        #expect(world.run(.seconds(30)) { world.verdict(transaction) != nil })
        #expect(world.verdict(transaction)?.unconfirmed.map(\.client) == ["site2"])
        deaf = false
        let next = try world.rekey()
        #expect(world.run(.seconds(60)) { world.verdict(next) != nil })
        #expect(world.verdict(next)?.verdict == "confirmed")
    }

    @Test func aSilentMemberIsNamed() throws {
        let world = try World()
        try world.bringUp()
        try world.client("site1").isDeaf = true
        let transaction = try world.rekey()
        #expect(world.run(.seconds(60)) { world.verdict(transaction) != nil })
        let verdict = try #require(world.verdict(transaction))
        #expect(verdict.verdict == "unconfirmed")
        #expect(verdict.unconfirmed == [VerdictReport.Missing(client: "site1", reason: "silent")])
        #expect(world.server.snapshot(now: world.now).alarms.contains { $0.contains("site1") })
    }

    @Test func scheduledRekeysKeepTheKeysFresh() throws {
        var options = World.Options()
        options.adjust = {
            $0.dataLifetime = .seconds(100)
            $0.kekLifetime = .seconds(350)
        }
        let world = try World(options)
        try world.bringUp()
        let end = world.now + .seconds(1_000)
        while world.now < end {
            world.run(.seconds(1))
            #expect(try world.client("hub").active != nil)
            let active = try #require(world.client("hub").active)
            #expect(try world.client("site1").inbound[active] != nil && world.client("site2").inbound[active] != nil)
        }
        #expect(world.verdicts.count >= 12 && world.verdicts.allSatisfy { $0.verdict == "confirmed" })
        #expect(world.events("sa.removed").allSatisfy { !$0.event.fields.contains { $0.value == "expired" } })
    }

    @Test func rekeysInQuickSuccessionLoseNobody() throws {
        var options = World.Options()
        options.loss = 0.1
        options.seed = 5
        let world = try World(options)
        try world.bringUp()
        let (hub, site) = (try world.client("hub"), try world.client("site1"))
        var transactions: [UInt64] = []
        for _ in 0..<30 {
            transactions.append(try world.rekey())
            world.run(.seconds(1))
            let active = try #require(hub.active)
            #expect(site.inbound[active] != nil, "what the sender uses, the receiver holds")
        }
        world.run(.seconds(60))
        #expect(transactions.allSatisfy { world.verdict($0)?.verdict == "confirmed" })
        #expect(site.inbound.count == 1 && hub.outbound.count == 1, "nothing piles up")
    }

    @Test func aWornSABringsNewKeys() throws {
        let world = try World()
        try world.bringUp()
        world.run(.seconds(10))
        let hub = try world.client("hub")
        let worn = try #require(hub.active)
        for _ in 0..<3 {
            hub.engine.wearsOut(worn, now: world.now)
            world.drain("hub")
            world.run(.milliseconds(300))
        }
        world.run(.seconds(10))
        #expect(world.verdicts.map(\.reason) == [.volume], "asked three times, rekeyed once")
        #expect(hub.active != worn && hub.active != nil)
    }

    @Test func aSenderThatMissesARekeyIsHeardAllTheSame() throws {
        let world = try World()
        try world.bringUp()
        world.run(.seconds(3))
        let (hub, site) = (try world.client("hub"), try world.client("site1"))
        let old = try #require(hub.active)
        hub.isDeaf = true
        let transaction = try world.rekey()
        for _ in 0..<120 {
            world.run(.seconds(1))
            let active = try #require(hub.active)
            #expect(site.inbound[active] != nil, "what the sender uses, the receivers hold")
        }
        #expect(world.verdict(transaction)?.unconfirmed.map(\.client) == ["hub"])
        hub.isDeaf = false
        #expect(world.run(.seconds(200)) { hub.active != old && site.inbound[old] == nil })
        let active = try #require(hub.active)
        #expect(site.inbound[active] != nil && site.inbound.count == 1)
    }

    @Test func commitMovesSendersEarly() throws {
        var options = World.Options()
        options.adjust = {
            $0.rollover.activateAfter = .seconds(30)
            $0.rollover.commitAtPercent = 100
        }
        let world = try World(options)
        try world.bringUp()
        world.run(.seconds(40))
        let old = try world.client("hub").active
        let start = world.now
        try world.rekey()
        #expect(world.run(.seconds(10)) { (try? world.client("hub").active) != old })
        #expect(world.now - start < .seconds(3), "took \(world.now - start)")
    }

    @Test func sequencesNeverGoBackAcrossARestartOfTheServer() throws {
        let world = try World()
        try world.bringUp()
        try world.rekey(kek: true)
        world.run(.seconds(5))
        let used = world.sent.filter { $0.datagram.remote == World.control }
            .compactMap { PushEnvelope.peek($0.datagram.bytes)?.sequence }
        #expect(used == used.sorted() && Set(used).count == used.count)
        // A new server with the records of the old one.
        let inventory = Inventory(
            clients: [],
            groups: [
                GroupEntry(
                    name: "news", id: World.group, control: World.control,
                    flows: [
                        TrafficSelector(source: .allV4, destination: IPPrefix(host: .v4(239, 1, 1, 1)))
                    ], suite: .aes128gcm, members: [])
            ])
        let configuration = KeyServer.Configuration(
            identity: "gcks.example", address: SocketAddress(World.gcksAddress, 848),
            signingKey: try SigningKey.generate(.ed25519), inventory: inventory, numberFloor: 0)
        let next = try KeyServer(configuration, records: world.store, random: SeededRandom(seed: 99), now: world.now)
        var pushes: [UInt64] = []
        _ = try next.rekey(group: "news", includingKEK: false, now: world.now)
        next.advance(to: world.now + .seconds(100))
        while true {
            let output = next.poll()
            if case .transmit(let datagram) = output, let peek = PushEnvelope.peek(datagram.bytes) {
                pushes.append(peek.sequence)
            }
            if case .wait = output { break }
        }
        #expect(!pushes.isEmpty && pushes.allSatisfy { $0 > used.max() ?? 0 })
        let before = world.server.snapshot(now: world.now).groups[0]
        let after = next.snapshot(now: world.now).groups[0]
        #expect(after.epoch > before.epoch && after.transaction > before.transaction)
    }

    /// The sender has confirmed newer keys, so the SA in use already has an end; a member that missed it needs it
    /// still.
    @Test func aPUSHCarriesWhatIsInUseUpToItsEnd() throws {
        let world = try World(World.Options(adjust: { $0.rollover.activateAfter = .seconds(10) }))
        try world.bringUp()
        let (hub, site1) = (try world.client("hub"), try world.client("site1"))
        site1.isDeaf = true
        world.interceptor = { datagram, to in to == "site1" && datagram.bytes[18] == ExchangeType.configure.rawValue }
        let first = hub.active
        try world.rekey()
        world.run(.seconds(2))
        try world.rekey()
        #expect(world.run(.seconds(15)) { hub.active != first })
        site1.isDeaf = false
        try world.rekey()
        world.run(.milliseconds(600))
        let active = try #require(hub.active)
        #expect(hub.outbound.count > 2 && site1.inbound[active] != nil)
    }
}

/// Taking a member out, and the hostile network.
@Suite struct RevocationTests {
    @Test func aRevokedMemberGetsNoNewKeyAndTheOthersMove() throws {
        let world = try World()
        try world.bringUp()
        world.run(.seconds(2))
        let site2 = try world.client("site2")
        let transactions = try world.server.revoke(client: "site2", now: world.now)
        world.drainServer()
        let transaction = try #require(transactions["news"])
        #expect(world.run(.seconds(10)) { world.verdict(transaction) != nil })
        let verdict = try #require(world.verdict(transaction))
        #expect(verdict.verdict == "confirmed" && verdict.confirmed.map(\.client).sorted() == ["hub", "site1"])
        let active = try #require(world.client("hub").active)
        #expect(try world.client("site1").inbound[active] != nil && site2.inbound[active] == nil)
        // Not the next keys either, whatever it tries.
        try world.rekey()
        try world.restart("site2")
        world.run(.seconds(60))
        #expect(site2.inbound.isEmpty)
        #expect(world.server.snapshot(now: world.now).clients.first { $0.name == "site2" }?.state == "revoked")
        #expect(throws: CommandError.alreadyRevoked("site2")) {
            try world.server.revoke(client: "site2", now: world.now)
        }
    }

    /// A rekey's SA that is still to be activated must not take the place of the revocation's: the revoked member has
    /// it.
    @Test(arguments: [Duration.milliseconds(100), .milliseconds(600), .milliseconds(1_500)])
    func aRevocationSoonAfterARekeyIsNotUndoneByIt(pause: Duration) throws {
        let world = try World()
        try world.bringUp()
        world.run(.seconds(5))
        try world.rekey()
        world.run(pause)
        let transactions = try world.server.revoke(client: "site2", now: world.now)
        world.drainServer()
        let transaction = try #require(transactions["news"])
        #expect(world.run(.seconds(10)) { world.verdict(transaction) != nil })
        let (hub, site2) = (try world.client("hub"), try world.client("site2"))
        for _ in 0..<40 {
            world.run(.milliseconds(250))
            let active = try #require(hub.active)
            #expect(site2.inbound[active] == nil, "the hub sends under a key of the revoked member at \(world.now)")
        }
    }

    @Test func nothingSentAfterARevocationOpensUnderTheOldKEK() throws {
        let world = try World()
        try world.bringUp()
        let oldSPI = Set(
            world.sent.filter { $0.datagram.remote == World.control }
                .compactMap { PushEnvelope.peek($0.datagram.bytes)?.spi })
        try world.rekey()
        world.run(.seconds(2))
        let knownSPI = oldSPI.union(
            world.sent.filter { $0.datagram.remote == World.control }
                .compactMap { PushEnvelope.peek($0.datagram.bytes)?.spi })
        let at = world.now
        _ = try world.server.revoke(client: "site2", now: world.now)
        world.drainServer()
        world.run(.seconds(30))
        let later = world.sent.filter { $0.at >= at && $0.datagram.remote == World.control }
            .compactMap { PushEnvelope.peek($0.datagram.bytes)?.spi }
        #expect(!later.isEmpty && later.allSatisfy { !knownSPI.contains($0) })
    }

    /// Old, the revocation's and newer SAs of three flows are nine, and a message has room for eight.
    @Test func onNoFlowDoesASenderStayWithWhatARevokedMemberKnows() throws {
        let world = try World(
            World.Options(adjust: { group in
                group.flows = (1...3).map {
                    TrafficSelector(source: .allV4, destination: IPPrefix(host: .v4(239, 1, 1, $0)))
                }
                group.rollover.activateAfter = .seconds(20)
                group.rollover.keepOld = .seconds(2)
            }))
        try world.bringUp()
        let hub = try world.client("hub")
        let old = Set(hub.outbound.keys)
        hub.isDeaf = true
        let revokedAt = world.now
        _ = try world.server.revoke(client: "site2", now: world.now)
        world.drainServer()
        world.run(.seconds(6))
        try world.rekey(kek: true)
        let hasProfile = world.run(.seconds(10)) {
            world.events("configure.crowded", at: "gcks").contains { $0.event.fields.contains { $0.value == "hub" } }
        }
        #expect(hasProfile)
        hub.isDeaf = false
        world.run(revokedAt + .seconds(24) - world.now)
        var active: [TrafficSelector: SAKey] = [:]
        for (_, change) in hub.changes {
            if case .activateOutbound(let key) = change, let parameters = hub.outbound[key] {
                active[parameters.selector] = key
            }
        }
        #expect(active.count == 3 && old.isDisjoint(with: active.values))
        let site1 = try world.client("site1")
        #expect(active.values.allSatisfy { site1.inbound[$0] != nil })
    }

    @Test func unknownNamesAreErrorsThatSayWhatToDo() throws {
        let world = try World()
        #expect(throws: CommandError.unknownGroup("nws")) {
            try world.server.rekey(group: "nws", includingKEK: false, now: world.now)
        }
        #expect("\(CommandError.unknownGroup("nws"))".contains("gcks groups"))
        #expect(throws: CommandError.unknownClient("x")) { try world.server.revoke(client: "x", now: world.now) }
    }

    @Test(arguments: [UInt64](1...4)) func replayedReorderedAndCorruptedDatagramsChangeNothing(seed: UInt64) throws {
        let world = try World()
        try world.bringUp()
        world.run(.seconds(3))
        let recorded = world.sent.map(\.datagram)
        let random = SeededRandom(seed: seed)
        let before = try state(of: world)
        for _ in 0..<400 {
            var datagram = recorded[Int(random.number(below: UInt64(recorded.count)))]
            if random.unit() < 0.7, !datagram.bytes.isEmpty {
                let index = Int(random.number(below: UInt64(datagram.bytes.count)))
                datagram.bytes[index] ^= 1 << UInt8(random.number(below: 8))
            }
            if random.unit() < 0.3 {
                datagram.bytes = Array(datagram.bytes.prefix(Int(random.number(below: 300))))
            }
            for terminal in world.medium.terminalIDs {
                world.inject(
                    Datagram(local: datagram.remote, remote: datagram.local, bytes: datagram.bytes), at: terminal)
            }
        }
        world.run(.seconds(20))
        #expect(try state(of: world) == before)
        let transaction = try world.rekey()
        #expect(world.run(.seconds(10)) { world.verdict(transaction) != nil })
        #expect(world.verdict(transaction)?.verdict == "confirmed", "the real ones still work")
    }

    private func state(of world: World) throws -> [String] {
        try world.clients.keys.sorted().map { name in
            let client = try world.client(name)
            let keys = client.inbound.keys.map(\.spi).sorted() + client.outbound.keys.map(\.spi).sorted()
            return "\(name) \(keys) \(client.active?.spi ?? 0) \(client.engine.snapshot(now: world.now).state)"
        }
    }
}
