// SPDX-License-Identifier: Apache-2.0
import Basics
import Cryptography
import ESP
import FMKE
import IKEv1
import Store
import Testing

@testable import KeyServer

/// The operator changes the inventory while everything runs.
@Suite struct ApplyTests {
    static let methods: [(RevocationMethod, Bool)] = [(.flat, false), (.lkh, false), (.lkh, true)]

    private func world(_ method: (RevocationMethod, Bool) = (.flat, false), names: [String]? = nil) throws -> World {
        var options = World.Options(names: names ?? ["hub", "site1", "site2", "site3"])
        options.adjust = { ($0.revocation, $0.backwardSecrecy) = method }
        let world = try World(options)
        try world.bringUp()
        world.run(.seconds(20))
        return world
    }

    /// Everybody in the group holds what its sender uses.
    private func expectShared(_ world: World, by names: [String], _ place: SourceLocation = #_sourceLocation) throws {
        let active = try #require(world.client("hub").active, sourceLocation: place)
        for name in names {
            #expect(try world.client(name).inbound[active] != nil, "\(name)", sourceLocation: place)
        }
        let group = try #require(world.server.snapshot(now: world.now).groups.first { $0.name == "news" })
        let behind = group.members.filter { names.contains($0.client) && !$0.isCurrent }.map(\.client)
        #expect(behind == [], sourceLocation: place)
    }

    // MARK: Clients

    @Test(arguments: methods) func oneMoreClientCostsTheOthersNothing(_ method: (RevocationMethod, Bool)) throws {
        let world = try world(method)
        let entry = world.addStation("site4")
        world.start("site4")
        world.run(.seconds(5))
        #expect(world.events("gcks.authenticated", at: "site4").isEmpty)
        let before = (world.events("configure.sent").count, world.events("gcks.connecting").count)
        let report = try world.apply {
            $0.clients.append(entry)
            $0.groups[0].members.append(("site4", .receiver))
        }
        #expect(report.changes.map(\.name) == ["site4", "site4"] && report.rekeys.isEmpty && report.profiles.isEmpty)
        #expect(report.multicastOctets == 0 && report.unicastOctets == 0)
        #expect(world.run(.seconds(120)) { !(world.clients["site4"]?.inbound.isEmpty ?? true) })
        world.run(.seconds(20))
        try expectShared(world, by: ["site1", "site2", "site3", "site4"])
        #expect(world.server.groups[World.group]?.members["site4"]?.index == 4)
        let others = world.events("configure.sent").dropFirst(before.0).filter { event in
            event.event.fields.contains { $0.name == "client" && $0.value != "site4" }
        }
        #expect(others.isEmpty)
        #expect(world.events("gcks.connecting").dropFirst(before.1).allSatisfy { _ in true })
        #expect(world.verdicts.allSatisfy { $0.reason == .joined || $0.verdict == "confirmed" })
        // It follows what comes.
        let next = try world.rekey(kek: true)
        #expect(world.run(.seconds(20)) { world.verdict(next)?.verdict == "confirmed" })
        #expect(world.verdict(next)?.confirmed.count == 5)
    }

    @Test(arguments: methods) func aRemovedClientIsOutAndMayComeBack(_ method: (RevocationMethod, Bool)) throws {
        let world = try world(method)
        let entry = try #require(world.server.inventory.clients.first { $0.name == "site2" })
        let report = try world.apply { inventory in
            inventory.clients.removeAll { $0.name == "site2" }
            inventory.groups[0].members.removeAll { $0.client == "site2" }
        }
        #expect(report.disconnected == ["site2"] && report.rekeys.map(\.reason) == [.revocation])
        let transaction = try #require(report.transactions["news"])
        #expect(world.run(.seconds(30)) { world.verdict(transaction) != nil })
        let verdict = try #require(world.verdict(transaction))
        #expect(
            verdict.verdict == "confirmed" && verdict.confirmed.map(\.client).sorted() == ["hub", "site1", "site3"])
        #expect((verdict.unicasts == 0) == (method.0 == .lkh))
        world.run(.seconds(60))
        try expectShared(world, by: ["site1", "site3"])
        let active = try #require(world.client("hub").active)
        #expect(try world.client("site2").inbound[active] == nil)
        #expect(world.server.snapshot(now: world.now).clients.map(\.name) == ["hub", "site1", "site3"])
        #expect(world.store.value(of: "client/site2/state") == nil)
        #expect(world.store.value(of: "client/site2/sequence") != nil)

        try world.apply { inventory in
            inventory.clients.append(entry)
            inventory.groups[0].members.append(("site2", .receiver))
        }
        #expect(world.run(.seconds(300)) { world.client("site2", holds: world.clients["hub"]?.active) })
        #expect(world.server.groups[World.group]?.members["site2"]?.index == 4, "no index is given twice")
        let next = try world.rekey()
        #expect(world.run(.seconds(20)) { world.verdict(next)?.confirmed.count == 4 })
    }

    @Test func aClientThatNeverCameGoesWithoutNewKeys() throws {
        let world = try World(World.Options(names: ["hub", "site1", "site2"]))
        world.start("hub", "site1")
        #expect(world.run(.seconds(60)) { world.allRegistered(["hub", "site1"]) })
        let report = try world.apply { inventory in
            inventory.clients.removeAll { $0.name == "site2" }
            inventory.groups[0].members.removeAll { $0.client == "site2" }
        }
        #expect(report.rekeys.isEmpty && report.profiles.isEmpty && report.disconnected.isEmpty)
    }

    @Test func aRevokedClientThatIsTakenOutAndInAgainStaysRevoked() throws {
        let world = try world()
        let entry = try #require(world.server.inventory.clients.first { $0.name == "site2" })
        _ = try world.revoke("site2")
        world.run(.seconds(30))
        let report = try world.apply { inventory in
            inventory.clients.removeAll { $0.name == "site2" }
            inventory.groups[0].members.removeAll { $0.client == "site2" }
        }
        #expect(report.rekeys.isEmpty, "it has no keys any more")
        try world.apply { inventory in
            inventory.clients.append(entry)
            inventory.groups[0].members.append(("site2", .receiver))
        }
        world.run(.seconds(120))
        let state = world.server.snapshot(now: world.now).clients.first { $0.name == "site2" }?.state
        #expect(state == "revoked")
        #expect(!world.client("site2", holds: world.clients["hub"]?.active))
    }

    @Test func anotherKeyEndsTheISAKMPSA() throws {
        let world = try world()
        let key = Secret(Array("another pre-shared key, 32 octets".utf8))
        let report = try world.apply { inventory in
            for index in inventory.clients.indices where inventory.clients[index].name == "site1" {
                inventory.clients[index].preSharedKey = key
            }
        }
        #expect(report.disconnected == ["site1"] && report.rekeys.isEmpty)
        #expect(report.changes == [ApplyReport.Change(.client, .changed, "site1", details: ["key"])])
        world.run(.seconds(120))
        #expect(world.server.snapshot(now: world.now).clients.first { $0.name == "site1" }?.state == "absent")
        try world.restart("site1", key: key)
        #expect(world.run(.seconds(60)) { world.client("site1", holds: world.clients["hub"]?.active) })
        #expect(world.server.snapshot(now: world.now).clients.first { $0.name == "site1" }?.state == "registered")
    }

    @Test func aSuiteMoreEndsNothingAndAnotherAddressEndsTheSA() throws {
        let world = try world()
        var report = try world.apply { inventory in
            inventory.clients[1].suites = [
                Phase1Suite(encryption: .aes128, hash: .sha256, group: .curve25519), .standard,
            ]
        }
        #expect(report.disconnected.isEmpty && report.changes.map(\.details) == [["suites"]])
        report = try world.apply { inventory in
            inventory.clients[1].suites = [Phase1Suite(encryption: .aes128, hash: .sha256, group: .curve25519)]
        }
        #expect(report.disconnected == ["site1"])
        report = try world.apply { $0.clients[2].address = .v4(10, 0, 0, 99) }
        #expect(report.disconnected == ["site2"])
        world.run(.seconds(60))
        let states = world.server.snapshot(now: world.now).clients.map(\.state)
        #expect(states == ["registered", "absent", "absent", "registered"])
    }

    /// Main Mode began under the key that has just been replaced.
    @Test(arguments: [100, 300, 600, 800, 1_100, 1_300]) func anOldKeyDoesNotSlipThrough(milliseconds: Int64) throws {
        let world = try World(World.Options(names: ["hub", "site1"]))
        world.start("site1")
        world.run(.milliseconds(milliseconds))
        try world.apply { $0.clients[1].preSharedKey = Secret(Array("another pre-shared key, 32 octets".utf8)) }
        world.run(.seconds(120))
        #expect(world.server.snapshot(now: world.now).clients.first { $0.name == "site1" }?.state == "absent")
        #expect(world.server.groups[World.group]?.members["site1"]?.confirmed == 0 || milliseconds > 1_000)
    }

    // MARK: Members

    @Test(arguments: methods) func aMemberJoinsAndLeavesAndRemainsAClient(_ method: (RevocationMethod, Bool)) throws {
        let world = try World(
            World.Options(
                names: ["hub", "site1", "site2", "site3"],
                adjust: {
                    ($0.revocation, $0.backwardSecrecy) = method
                    $0.members.removeLast()
                }))
        world.start()
        #expect(world.run(.seconds(60)) { world.allRegistered(["hub", "site1", "site2"]) })
        world.run(.seconds(30))
        #expect(world.server.snapshot(now: world.now).clients.allSatisfy { $0.state == "registered" })
        var report = try world.apply { $0.groups[0].members.append(("site3", .receiver)) }
        #expect(report.profiles == ["site3"] && report.unicastOctets > 300)
        #expect(report.rekeys.map(\.reason) == (method.1 ? [.joined] : []))
        #expect(world.run(.seconds(30)) { world.client("site3", holds: world.clients["hub"]?.active) })
        world.run(.seconds(10))
        try expectShared(world, by: ["site1", "site2", "site3"])

        report = try world.apply { $0.groups[0].members.removeAll { $0.client == "site1" } }
        let transaction = try #require(report.transactions["news"])
        #expect(report.rekeys.map(\.causes) == [["eviction"]] && report.disconnected.isEmpty)
        #expect(world.run(.seconds(30)) { world.verdict(transaction)?.verdict == "confirmed" })
        world.run(.seconds(20))
        #expect(try world.client("site1").inbound.isEmpty, "its profile told it so")
        #expect(world.server.snapshot(now: world.now).clients.allSatisfy { $0.state == "registered" })
        try expectShared(world, by: ["site2", "site3"])
    }

    /// A tree that must grow for one more takes it in with a transaction that tells the others.
    @Test func theTreeGrows() throws {
        let world = try world((.lkh, false))
        for number in 4...9 {
            let entry = world.addStation("site\(number)")
            try world.apply {
                $0.clients.append(entry)
                $0.groups[0].members.append((entry.name, .receiver))
            }
            world.start(entry.name)
            #expect(world.run(.seconds(60)) { world.client(entry.name, holds: world.clients["hub"]?.active) })
            world.run(.seconds(20))
        }
        let next = try world.revoke("site2")
        #expect(world.run(.seconds(20)) { world.verdict(next)?.confirmed.count == 9 })
        #expect(world.verdict(next)?.unicasts == 0)
    }

    @Test(arguments: methods) func theSameGroupTakesOneOutAndOneInAtATime(_ method: (RevocationMethod, Bool)) throws {
        let world = try World(
            World.Options(
                names: ["hub", "site1", "site2", "site3"],
                adjust: {
                    ($0.revocation, $0.backwardSecrecy) = method
                    $0.members.removeLast()
                }))
        world.start()
        #expect(world.run(.seconds(60)) { world.allRegistered(["hub", "site1", "site2"]) })
        world.run(.seconds(30))
        let report = try world.apply {
            $0.groups[0].members[1] = ("site3", .receiver)
            $0.groups[0].flows = [Self.otherFlow]
        }
        #expect(report.rekeys.count == 1 && report.rekeys[0].reason == .revocation)
        #expect(report.rekeys[0].causes.sorted().prefix(2) == ["eviction", "flows"])
        let transaction = try #require(report.transactions["news"])
        #expect(world.run(.seconds(30)) { world.verdict(transaction)?.verdict == "confirmed" })
        world.run(.seconds(20))
        try expectShared(world, by: ["site2", "site3"])
        #expect(world.clients["hub"]?.active?.destination == Self.otherFlow.destination.address)
        #expect(try world.client("site1").inbound.isEmpty)
    }

    // MARK: Roles

    @Test(arguments: methods) func aSecondSenderSendsWithKeysOfItsOwnTime(_ method: (RevocationMethod, Bool)) throws {
        let world = try world(method)
        let old = try #require(world.client("hub").active)
        #expect(try world.client("site2").inbound[old]?.hasOneSender == true)
        let report = try world.apply { $0.groups[0].members[1].role = .both }
        #expect(report.rekeys.map(\.causes) == [["senders"]] && report.rekeys[0].unicasts == 4)
        let transaction = try #require(report.transactions["news"])
        #expect(world.run(.seconds(30)) { world.verdict(transaction)?.verdict == "confirmed" })
        world.run(.seconds(20))
        let (hub, site1) = (try world.client("hub"), try world.client("site1"))
        #expect(hub.active == site1.active && hub.active != old)
        let active = try #require(hub.active)
        #expect(site1.inbound[active] != nil && hub.outbound[active]?.senderID != site1.outbound[active]?.senderID)
        for name in ["site2", "site3"] { #expect(try world.client(name).inbound[active]?.hasOneSender == false) }
        let sentWith = site1.changes.compactMap { if case .activateOutbound(let key) = $0.change { key } else { nil } }
        #expect(!sentWith.contains(old), "receivers keep one window for it")

        // And back: what one does not send with any more is no reason to change keys.
        let back = try world.apply { $0.groups[0].members[1].role = .receiver }
        #expect(back.rekeys.isEmpty && back.profiles == ["site1"])
        world.run(.seconds(10))
        #expect(site1.outbound.isEmpty && site1.active == nil && site1.inbound[active] != nil)
        let next = try world.rekey()
        #expect(world.run(.seconds(20)) { world.verdict(next)?.verdict == "confirmed" })
        world.run(.seconds(20))
        try expectShared(world, by: ["site1", "site2", "site3"])
    }

    @Test func inAGroupOfSeveralSendersARoleCostsOneProfile() throws {
        let world = try World(
            World.Options(names: ["hub", "site1", "site2", "site3"], adjust: { $0.members[1].role = .both }))
        try world.bringUp()
        world.run(.seconds(20))
        let active = try #require(world.client("hub").active)
        let report = try world.apply { $0.groups[0].members[2].role = .both }
        #expect(report.rekeys.isEmpty && report.profiles == ["site2"])
        world.run(.seconds(5))
        #expect(try world.client("site2").active == active && world.client("site2").inbound[active] != nil)
        try world.apply { $0.groups[0].members[2].role = .sender }
        world.run(.seconds(5))
        #expect(try world.client("site2").active == active && world.client("site2").inbound.isEmpty)
    }

    /// The profile that says so is on its way for so long that newer keys overtake it.
    @Test func aRoleComesThroughWhenAPushOvertakesItsProfile() throws {
        let world = try World(
            World.Options(names: ["hub", "site1", "site2", "site3"], adjust: { $0.members[1].role = .both }))
        try world.bringUp()
        world.run(.seconds(20))
        world.interceptor = { $1 == "site2" && !$0.local.address.isMulticast }
        try world.apply { $0.groups[0].members[2].role = .both }
        let transaction = try world.rekey()
        world.run(.milliseconds(600))
        world.interceptor = { _, _ in false }
        #expect(world.run(.seconds(30)) { world.verdict(transaction)?.verdict == "confirmed" })
        world.run(.seconds(10))
        let active = try #require(world.client("hub").active)
        #expect(try world.client("site2").active == active && world.client("site2").outbound[active] != nil)
    }

    @Test func theOnlySenderChangesWithItsCounters() throws {
        let world = try world()
        let old = try #require(world.client("hub").active)
        let report = try world.apply {
            $0.groups[0].members[0].role = .receiver
            $0.groups[0].members[1].role = .sender
        }
        #expect(report.rekeys.map(\.causes) == [["senders"]])
        world.run(.seconds(30))
        let (hub, site1) = (try world.client("hub"), try world.client("site1"))
        let active = try #require(site1.active)
        #expect(active != old && hub.active == nil && hub.inbound[active] != nil && hub.outbound.isEmpty)
        #expect(try world.client("site2").inbound[active] != nil && world.client("site3").inbound[active] != nil)
    }

    static let otherFlow = TrafficSelector(
        source: World.flow.source, destination: IPPrefix(host: .v4(239, 1, 1, 2)))
}

extension World {
    /// What the operator changes, applied.
    @discardableResult
    func apply(_ change: (inout Inventory) -> Void) throws -> ApplyReport {
        var inventory = server.inventory
        change(&inventory)
        let report = try server.apply(inventory, now: now)
        drainServer()
        return report
    }

    func client(_ name: String, holds key: SAKey?) -> Bool {
        guard let key, let client = clients[name] else { return false }
        return client.inbound[key] != nil
    }
}
