// SPDX-License-Identifier: Apache-2.0
import Basics
import ESP
import Testing

@testable import KeyServer

/// A revocation whose transaction could not be started is tried again after a while. Until then the removed member
/// knows the KEK.
@Suite struct UnfinishedRevocationTests {
    /// What `revoke` leaves behind when it fails.
    private func world(_ method: RevocationMethod) throws -> World {
        var options = World.Options()
        options.names = ["hub", "site1", "site2", "site3"]
        options.adjust = { $0.revocation = method }
        let world = try World(options)
        try world.bringUp()
        world.run(.seconds(10))
        let member = world.server.groups[World.group]?.members.removeValue(forKey: "site3")
        #expect(world.server.takeOutOfTree(try #require(member), of: World.group))
        world.server.groups[World.group]?.renewal = (world.now + KeyServer.retryPause, .revocation)
        return world
    }

    /// How many SAs the removed member was ever given.
    private func takenIn(_ world: World) throws -> Int {
        try world.client("site3").changes.count { change in
            guard case .addInbound = change.change else { return false }
            return true
        }
    }

    private func expectSite3IsOut(_ world: World, _ location: SourceLocation = #_sourceLocation) throws {
        #expect(world.run(.seconds(60)) { world.verdicts.last?.reason == .revocation }, sourceLocation: location)
        #expect(world.verdicts.last?.verdict == "confirmed", sourceLocation: location)
        world.run(.seconds(5))
        let active = try #require(world.client("hub").active, sourceLocation: location)
        for name in ["site1", "site2"] {
            #expect(try world.client(name).inbound[active] != nil, sourceLocation: location)
        }
        #expect(try world.client("site3").inbound[active] == nil, sourceLocation: location)
    }

    @Test(arguments: RevocationMethod.allCases) func aCommandInBetweenDoesItsWork(method: RevocationMethod) throws {
        let world = try world(method)
        let taken = try takenIn(world)
        world.run(.seconds(2))
        let transaction = try world.rekey()
        #expect(world.run(.seconds(60)) { world.verdict(transaction) != nil })
        #expect(world.verdict(transaction)?.reason == .revocation)
        try expectSite3IsOut(world)
        #expect(try takenIn(world) == taken, "nothing new came to it meanwhile")
    }

    @Test(arguments: RevocationMethod.allCases) func soDoesAScheduledRekey(method: RevocationMethod) throws {
        let world = try world(method)
        let taken = try takenIn(world)
        world.server.groups[World.group]?.dataRekeyAt = world.now + .seconds(1)
        world.server.advance(to: world.now)
        world.drainServer()
        try expectSite3IsOut(world)
        #expect(try takenIn(world) == taken, "nothing new came to it meanwhile")
    }

    @Test(arguments: RevocationMethod.allCases) func elseTheNextTryDoesIt(method: RevocationMethod) throws {
        let world = try world(method)
        world.server.advance(to: world.now)
        world.drainServer()
        try expectSite3IsOut(world)
    }
}
