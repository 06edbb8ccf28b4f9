// SPDX-License-Identifier: Apache-2.0
import Audit
import Basics
import Cryptography
import ESP
import KeyServer
import Testing

/// What the engine says for the audit, in which order, and what it does while nothing can be written.
@Suite struct AuditTests {
    private func lines(_ world: World, _ name: String) -> [AuditEvent] {
        world.audit.map(\.event).filter { $0.name == name }
    }

    private func field(_ event: AuditEvent, _ name: String) -> String {
        event.fields.first { $0.name == name }?.value ?? ""
    }

    /// No datagram that may hold keys left before the line that tells of them.
    private func expectEveryKeyIsTold(_ world: World) throws {
        #expect(world.untold == [])
        // And by what clients have: each SA of each client stands in a line about it, or in one about all.
        for (name, client) in world.clients {
            for case .addInbound(let parameters) in client.changes.map(\.change) {
                let spi = spiText(parameters.key.spi)
                let isTold = world.audit.contains { _, event in
                    field(event, "spis").split(separator: ",").contains(spi[...])
                        && (event.name == "keys.sent" ? field(event, "client") == name : event.name == "rekey.started")
                }
                #expect(isTold, "\(name) has \(spi)")
            }
        }
    }

    @Test(arguments: [RevocationMethod.flat, .lkh])
    func noKeyLeavesBeforeItsLineInAWholeRun(_ method: RevocationMethod) throws {
        let world = try World(World.Options(loss: 0.2, seed: 3, adjust: { $0.revocation = method }))
        try world.bringUp()
        for kek in [false, true, false] {
            let transaction = try world.rekey(kek: kek)
            #expect(world.run(.seconds(120)) { world.verdict(transaction) != nil })
        }
        try world.restart("site1")
        world.run(.seconds(60))
        _ = try world.server.revoke(client: "site2", now: world.now)
        world.drainServer()
        world.run(.seconds(120))
        try world.restartServer()
        world.run(.seconds(120))
        try expectEveryKeyIsTold(world)
        #expect(lines(world, "client.authenticated").count >= 4)
        #expect(lines(world, "client.revoked").map { field($0, "client") } == ["site2"])
        #expect(lines(world, "rekey.ended").count == world.verdicts.count)
        let reasons = lines(world, "rekey.started").map { field($0, "reason") }
        #expect(reasons.contains("commanded") && reasons.contains("revocation"))
    }

    @Test func aChangeOfTheInventoryIsTold() throws {
        let world = try World()
        try world.bringUp()
        _ = try world.apply { $0.groups[0].members.removeAll { $0.client == "site2" } }
        world.run(.seconds(30))
        let changes = lines(world, "inventory.changed")
        #expect(changes.map { field($0, "kind") } == ["member"])
        #expect(changes.map { field($0, "action") } == ["removed"])
        #expect(changes.map { field($0, "name") } == ["site2"] && changes.map { field($0, "group") } == ["news"])
        try expectEveryKeyIsTold(world)
    }

    @Test func whoIsRefusedIsTold() throws {
        let world = try World()
        try world.bringUp()
        try world.restart("site1", key: .init(Array("some other key that is no good".utf8)))
        world.run(.seconds(30))
        #expect(lines(world, "phase1.failed").contains { field($0, "peer") == "site1" })
    }

    @Test func withoutAuditNoKeyLeavesAndNothingIsLostByIt() throws {
        let world = try World()
        try world.bringUp()
        world.run(.seconds(10))
        let before = world.server.snapshot(now: world.now).groups[0].transaction
        world.failAudit("the disk is full")
        let failedAt = world.now
        // The first try is what the file is found out with: its keys exist and go nowhere.
        let transaction = try world.rekey()
        #expect(throws: CommandError.heldBack("the disk is full")) { try world.rekey() }
        let start = world.sent.count
        world.run(.seconds(300))
        let letGo = world.sent[start...].filter { ServerOutput.transmit($0.datagram).letsKeysGo }
        #expect(letGo.allSatisfy { $0.datagram.remote.address.isMulticast })
        let data = world.events("push.sent").filter { $0.at > failedAt }.compactMap { line in
            line.event.fields.first { $0.name == "kind" && ($0.value == "data" || $0.value == "parity") }
        }
        #expect(data.isEmpty, "BEACONs and COMMITs alone go on")
        let held = world.server.snapshot(now: world.now)
        #expect(held.state == "degraded" && held.alarms.contains { $0.contains("the disk is full") })
        #expect(held.clients.allSatisfy { $0.state == "registered" }, "dead peer detection goes on")
        #expect(world.verdict(transaction) == nil && world.events("client.gone").isEmpty)
        #expect(try world.client("hub").active != nil)
        world.mendAudit()
        #expect(world.run(.seconds(60)) { world.verdict(transaction) != nil })
        #expect(world.verdict(transaction)?.verdict == "confirmed")
        try expectEveryKeyIsTold(world)
        let after = world.server.snapshot(now: world.now)
        #expect(after.state == "ok" && after.groups[0].transaction >= before + 1, "\(after.alarms)")
        let active = try #require(world.client("hub").active)
        #expect(try world.client("site1").inbound[active] != nil && world.client("site2").inbound[active] != nil)
    }

    /// In the middle: after each of the first outputs of a rekey, flat and by the tree.
    @Test(arguments: [RevocationMethod.flat, .lkh], [false, true])
    func aTransactionThatIsInterruptedEndsInItsVerdict(_ method: RevocationMethod, isRevocation: Bool) throws {
        for delay in [0, 100, 260, 500, 700, 1_500, 2_500, 6_000] {
            let world = try World(
                World.Options(names: ["hub", "site1", "site2", "site3"], seed: 5, adjust: { $0.revocation = method }))
            try world.bringUp()
            world.run(.seconds(10))
            var transaction: UInt64
            if isRevocation {
                transaction = try #require(try world.server.revoke(client: "site3", now: world.now)["news"])
                world.drainServer()
            } else {
                transaction = try world.rekey(kek: true)
            }
            world.run(.milliseconds(Int64(delay)))
            world.failAudit("the disk is full", atOnce: true)
            world.run(.seconds(90))
            world.mendAudit()
            #expect(
                world.run(.seconds(120)) { world.verdict(transaction)?.verdict == "confirmed" },
                "after \(delay) ms: \(String(describing: world.verdict(transaction)))")
            try expectEveryKeyIsTold(world)
            let rest = world.clients.keys.filter { !isRevocation || $0 != "site3" }
            #expect(
                world.run(.seconds(60)) {
                    world.server.snapshot(now: world.now).groups[0].members.allSatisfy(\.isCurrent)
                }, "after \(delay) ms")
            let active = try #require(world.client("hub").active)
            for name in rest where name != "hub" {
                #expect(try world.client(name).inbound[active] != nil, "\(name) after \(delay) ms")
            }
        }
    }

    @Test func aRevocationWithoutAuditTakesAuthorisationAtOnceAndKeysLater() throws {
        let world = try World()
        try world.bringUp()
        world.failAudit("the disk is full", atOnce: true)
        #expect(throws: CommandError.heldBack("the disk is full")) {
            try world.server.revoke(client: "site2", now: world.now)
        }
        world.drainServer()
        world.run(.seconds(100))
        #expect(world.server.snapshot(now: world.now).clients.first { $0.name == "site2" }?.state == "revoked")
        #expect(world.verdicts.allSatisfy { $0.reason != .revocation })
        world.mendAudit()
        #expect(world.run(.seconds(60)) { world.verdicts.contains { $0.reason == .revocation } })
        #expect(world.verdicts.last { $0.reason == .revocation }?.verdict == "confirmed")
        try expectEveryKeyIsTold(world)
    }

    /// A client that comes while nothing can be written registers, and gets its keys when it can.
    @Test func whoRegistersMeanwhileGetsItsKeysLater() throws {
        let world = try World()
        world.failAudit("the disk is full", atOnce: true)
        world.start()
        world.run(.seconds(60))
        #expect(world.server.snapshot(now: world.now).clients.allSatisfy { $0.state == "registered" })
        #expect(!world.allRegistered() && world.clients.values.allSatisfy { $0.inbound.isEmpty })
        world.mendAudit()
        #expect(world.run(.seconds(60)) { world.allRegistered() })
        try expectEveryKeyIsTold(world)
    }
}
