// SPDX-License-Identifier: Apache-2.0
import Basics
import Cryptography
import ESP
import FMKE
import GroupMember
import IKEv1
import ISAKMP
import KeyServer
import Testing

/// Phases 1 and 2 through the real engines.
@Suite struct RegistrationTests {
    @Test func aClientHoldsItsSAsWithin3Point1RoundTrips() throws {
        let world = try World()
        let start = world.now
        world.start()
        #expect(world.run(.seconds(10)) { world.allRegistered() })
        // HDR,SA ->  <- HDR,SA  HDR,KE,Ni ->  <- HDR,KE,Nr  HDR*,ID,HASH ->  <- HDR*,ID,HASH and CONFIGURE right behind
        let roundTrips = (world.now - start) / .milliseconds(500)
        #expect(roundTrips <= 3.1, "took \(roundTrips) round trips")
    }

    @Test func eachClientGetsWhatItsRoleAllows() throws {
        let world = try World()
        try world.bringUp()
        world.run(.seconds(2))
        let hub = try world.client("hub")
        let site = try world.client("site1")
        #expect(hub.outbound.count == 1 && hub.inbound.isEmpty && hub.active != nil)
        #expect(site.inbound.count == 1 && site.outbound.isEmpty && site.active == nil)
        let sent = try #require(hub.outbound.values.first)
        let received = try #require(site.inbound.values.first)
        #expect(sent.cipherKey == received.cipherKey && sent.key == received.key)
        #expect(sent.key.destination == .v4(239, 1, 1, 1), "the outer destination is the group itself")
        #expect(sent.source == hub.address && sent.senderID != 0)
        #expect(site.joined == [World.control])
    }

    @Test(arguments: [UInt64](1...8)) func registrationSurvivesHeavyLoss(seed: UInt64) throws {
        var options = World.Options()
        options.loss = 0.2
        options.seed = seed
        let world = try World(options)
        try world.bringUp()
        #expect(world.allRegistered())
    }

    @Test func aWrongKeyIsSaidPlainlyOnBothSides() throws {
        let world = try World()
        try world.restart("site1", key: Secret(Array("not the key that the server knows".utf8)))
        world.start("hub")
        world.run(.seconds(30))
        let atServer = world.events("phase1.failed", at: "gcks").flatMap(\.event.fields).map(\.value)
        let atClient = world.events("gcks.refused", at: "site1").flatMap(\.event.fields).map(\.value)
        #expect(atServer.contains { $0.contains("pre-shared keys are not the same") })
        #expect(atClient.contains { $0.contains("pre-shared keys are not the same") || $0.contains("not answer") })
        #expect(try world.client("site1").inbound.isEmpty)
        #expect(try world.client("hub").outbound.count == 1, "others are not touched")
    }

    @Test func anUnreachableServerLeavesTheKeysInUse() throws {
        let world = try World()
        try world.bringUp()
        let before = try world.client("site1").inbound.keys
        world.interceptor = { _, _ in true }
        world.run(.seconds(300))
        #expect(try world.client("site1").inbound.keys == before)
        #expect(try world.client("site1").engine.snapshot(now: world.now).state == "degraded")
        #expect(world.server.snapshot(now: world.now).state == "degraded")
        #expect(!world.events("gcks.lost", at: "site1").isEmpty)
        world.interceptor = { _, _ in false }
        world.run(.seconds(180))
        #expect(try world.client("site1").engine.snapshot(now: world.now).state == "registered")
    }

    @Test func expiredKeysAreGone() throws {
        var options = World.Options()
        options.adjust = { $0.dataLifetime = .seconds(200) }
        let world = try World(options)
        try world.bringUp()
        world.interceptor = { _, _ in true }
        world.run(.seconds(260))
        #expect(try world.client("site1").inbound.isEmpty && world.client("hub").outbound.isEmpty)
        #expect(try world.client("hub").active == nil)
    }

    @Test func aRefusedSAIsNamedInTheAnswer() throws {
        let world = try World()
        try world.client("site1").refusesSAs = true
        world.start()
        world.run(.seconds(20))
        #expect(!world.events("configure.refused", at: "gcks").isEmpty)
        let members = world.server.snapshot(now: world.now).groups[0].members
        #expect(members.first { $0.client == "site1" }?.isCurrent == false)
        #expect(members.first { $0.client == "site2" }?.isCurrent == true)
    }

    /// The GCKS may have died right after phase 1. Without dead peer detection nothing else says so to a client that
    /// has no group yet, and so nothing to ask for.
    @Test func aClientThatGetsNoProfileBeginsAgain() throws {
        let world = try World(World.Options(adjustClient: { $0.deadPeerInterval = nil }))
        world.interceptor = { datagram, to in to == "site1" && datagram.bytes[18] == ExchangeType.configure.rawValue }
        world.start()
        world.run(.seconds(110))
        #expect(world.events("gcks.silent", at: "site1").isEmpty && world.events("gcks.silent", at: "hub").isEmpty)
        world.run(.seconds(30))
        #expect(world.events("gcks.silent", at: "site1").count == 1 && world.events("gcks.silent", at: "hub").isEmpty)
        world.interceptor = { _, _ in false }
        #expect(world.run(.seconds(60)) { world.allRegistered() })
    }

    /// What negotiates dead peer detection is not protected. Without it nobody would notice that the other has moved.
    @Test func aClientWithoutDeadPeerDetectionIsHeardOf() throws {
        let world = try World(World.Options(adjustClient: { if $0.name == "site1" { $0.deadPeerInterval = nil } }))
        try world.bringUp()
        world.run(.seconds(300))
        #expect((4...5).contains(world.events("status.sent", at: "site1").count))
        #expect(world.events("status.sent", at: "site2").isEmpty)
        #expect(world.events("gcks.lost").isEmpty)
    }

    /// Each attempt of a client that expects another GCKS authenticates it and ends at once: the group must not pay.
    @Test func aClientThatRefusesTheServerCausesNoRekey() throws {
        let world = try World(World.Options(adjustServer: { $0.identity = "other.example" }))
        world.start("hub")
        world.run(.seconds(60))
        #expect(world.events("client.authenticated", at: "gcks").count > 2)
        #expect(world.events("rekey.started", at: "gcks").isEmpty)
    }

    @Test func aRestartedSenderGetsANewSenderIDAndNewSAs() throws {
        let world = try World()
        try world.bringUp()
        world.run(.seconds(2))
        let first = try #require(world.client("hub").outbound.values.first)
        world.run(.seconds(5))
        try world.restart("hub")
        world.run(.seconds(20))
        let hub = try world.client("hub")
        let active = try #require(hub.active)
        #expect(active != first.key, "the old SA's counters are gone, so it is not used again")
        #expect(hub.outbound.values.allSatisfy { $0.senderID != first.senderID })
        #expect(try world.client("site1").inbound[active] != nil && world.client("site2").inbound[active] != nil)
    }

    @Test func reauthenticationInterruptsNothing() throws {
        var options = World.Options()
        options.adjustServer = { $0.phase1Lifetime = .seconds(600) }
        let world = try World(options)
        try world.bringUp()
        let changes = try world.client("site1").changes.count
        world.run(.seconds(8 * 3_600 / 10))
        // Whatever happened to the ISAKMP SA, data SAs came and went by rekeying alone.
        #expect(try world.client("site1").engine.snapshot(now: world.now).state == "registered")
        #expect(try !world.client("site1").inbound.isEmpty)
        #expect(try world.client("site1").changes.count >= changes)
    }

    @Test func anUnknownAddressGetsNothing() throws {
        let world = try World()
        let octets = [UInt8](repeating: 0xff, count: 60)
        let from = SocketAddress(.v4(10, 0, 0, 99), 848)
        let before = world.sent.count
        world.server.receive(
            Datagram(local: SocketAddress(World.gcksAddress, 848), remote: from, bytes: octets), now: world.now)
        world.drainServer()
        #expect(world.sent.count == before)
    }

    @Test func clientsOfARangeAreToldApartByName() throws {
        var options = World.Options()
        options.names = ["hub"]
        let key = Secret(Array("the key that a whole range shares".utf8))
        options.adjustServer = { configuration in
            configuration.inventory.ranges = [
                ClientRange(
                    name: "remote", addresses: IPPrefix(host: .v4(10, 0, 0, 20)), preSharedKey: key,
                    suites: [.standard], members: ["hub"])
            ]
            configuration.inventory.clients = []
        }
        let world = try World(options)
        try world.restart("hub", key: key)
        #expect(world.run(.seconds(10)) { world.allRegistered() })
        #expect(world.server.snapshot(now: world.now).clients.map(\.name) == ["hub"])
    }
}
