// SPDX-License-Identifier: Apache-2.0
import Basics
import Cryptography
import KeyServer
import Store
import Testing

/// A key server that starts again with the records of its last run.
@Suite struct RestoreTests {
    /// Main Mode messages so far, of anybody.
    private func registrations(_ world: World) -> Int { world.events("gcks.connecting").count }

    @Test(arguments: [RevocationMethod.flat, .lkh])
    func aRestartOfTheServerMakesNobodyRegisterAgain(_ method: RevocationMethod) throws {
        let world = try World(World.Options(adjust: { $0.revocation = method }))
        try world.bringUp()
        world.run(.seconds(10))
        let before = registrations(world)
        let group = world.server.snapshot(now: world.now).groups[0]
        let (sending, profiles) = (try world.client("hub").active, world.events("configure.sent").count)
        for _ in 0..<3 {
            try world.restartServer()
            let states = world.server.snapshot(now: world.now).clients.map(\.state)
            #expect(states == ["registered", "registered", "registered"])
            // Longer than dead peer detection takes to find out on either side.
            world.run(.seconds(200))
            let after = world.server.snapshot(now: world.now)
            #expect(after.state == "ok", "\(after.alarms)")
            #expect(after.groups[0].members == group.members && after.groups[0].transaction == group.transaction)
            #expect(after.groups[0].epoch == group.epoch)
        }
        #expect(world.events("configure.sent").count == profiles, "nobody is told anything")
        #expect(try world.client("hub").active == sending)
        #expect(registrations(world) == before, "\(world.events("gcks.connecting").count)")
        #expect(world.events("gcks.lost").isEmpty && world.events("client.gone").isEmpty)
        let next = try world.rekey(kek: true)
        #expect(world.run(.seconds(20)) { world.verdict(next)?.verdict == "confirmed" })
        let active = try #require(world.client("hub").active)
        #expect(try world.client("site1").inbound[active] != nil && world.client("site2").inbound[active] != nil)
    }

    /// Between any two outputs of the server: before and behind each record and each datagram of a registration.
    @Test func aClientThatIsRegisteringGetsThroughWhereverTheServerDies() throws {
        var points = 0
        for stop in 0..<40 {
            let world = try World(World.Options(names: ["hub", "site1"]))
            world.serverDiesAfter = stop
            world.start()
            guard world.run(.seconds(20), until: { world.isServerDown }) else { break }
            points += 1
            try world.restartServer()
            let isUp = world.run(.seconds(300)) {
                world.server.snapshot(now: world.now).groups[0].members.allSatisfy(\.isCurrent)
            }
            #expect(isUp, "the server died after \(stop) outputs")
        }
        print("killed at \(points) points of a registration")
        #expect(points >= 15)
    }

    @Test func aRevokedOrChangedClientIsNotRestored() throws {
        let world = try World()
        try world.bringUp()
        _ = try world.server.revoke(client: "site2", now: world.now)
        world.drainServer()
        world.run(.seconds(5))
        try world.restartServer { configuration in
            let key = Secret(Array("another pre-shared key, 32 octets".utf8))
            for index in configuration.inventory.clients.indices
            where configuration.inventory.clients[index].name == "site1" {
                configuration.inventory.clients[index].preSharedKey = key
            }
        }
        let clients = world.server.snapshot(now: world.now).clients
        let states = Dictionary(uniqueKeysWithValues: clients.map { ($0.name, $0.state) })
        #expect(states == ["hub": "registered", "site1": "absent", "site2": "revoked"])
    }

    /// What the old port would send nobody opens.
    @Test func onAnotherPortNobodyIsRestored() throws {
        let world = try World()
        try world.bringUp()
        try world.restartServer { $0.address.port = 850 }
        #expect(world.server.snapshot(now: world.now).clients.allSatisfy { $0.state == "absent" })
    }

    @Test func aDamagedRecordIsNamed() throws {
        let world = try World()
        try world.bringUp()
        let good = try #require(world.store.value(of: "client/hub/state"))
        for count in [0, 1, 9, good.count - 1] {
            world.store.put([Record("client/hub/state", good[0..<count])])
            #expect(throws: UnreadableRecord(name: "client/hub/state")) { try world.restartServer() }
        }
        world.store.put([Record("client/hub/state", Secret([2] + good.revealed().dropFirst()))])
        #expect(throws: UnreadableRecord(name: "client/hub/state")) { try world.restartServer() }
        world.store.put([Record("client/hub/state", good)])
        try world.restartServer()
    }

    /// An ISAKMP SA ends when it would have ended, by the clock that both runs know.
    @Test func anExpiredSAIsNotRestored() throws {
        let world = try World(World.Options(adjustServer: { $0.phase1Lifetime = .seconds(600) }))
        try world.bringUp()
        world.interceptor = { _, _ in true }
        let next = world.now + .seconds(700)
        try world.restartServer { $0.numberFloor = UInt64(next.nanoseconds / 1_000) }
        #expect(world.server.snapshot(now: world.now).clients.allSatisfy { $0.state == "absent" })
    }
}
