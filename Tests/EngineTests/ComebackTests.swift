// SPDX-License-Identifier: Apache-2.0
import Basics
import ESP
import GroupMember
import KeyServer
import Testing

/// Senders that lost their memory and come back: what they send must be heard, and no vector may be used again.
@Suite struct ComebackTests {
    enum Way: CaseIterable {
        /// The process dies, and another one starts at once.
        case killed
        /// It says goodbye first.
        case shutDown
        /// It starts again when the GCKS has given it up.
        case givenUp
    }

    private func leave(_ world: World, _ way: Way) throws {
        switch way {
        case .killed: break
        case .shutDown:
            try world.client("hub").engine.shutDown(now: world.now)
            world.drain("hub")
            world.run(.seconds(2))
        case .givenUp:
            world.interceptor = { datagram, to in to == "hub" || datagram.local.address == World.address(0) }
            world.run(.seconds(400))
            world.interceptor = { _, _ in false }
        }
    }

    private func activated(_ client: World.Client, after count: Int) -> [SAKey] {
        client.changes.dropFirst(count).compactMap {
            if case .activateOutbound(let key) = $0.change { key } else { nil }
        }
    }

    /// Receivers of a group with one sender have one replay window: under the same keys it would begin behind it.
    @Test(arguments: Way.allCases) func theOnlySenderStartsUnderNewKeys(way: Way) throws {
        let world = try World()
        try world.bringUp()
        world.run(.seconds(10))
        let hub = try world.client("hub")
        let used = Set(hub.outbound.keys)
        try #require(!used.isEmpty && hub.active != nil)
        try leave(world, way)
        let count = hub.changes.count
        try world.restart("hub")
        #expect(world.run(.seconds(60)) { hub.active != nil }, "it sends again")
        #expect(used.isDisjoint(with: activated(hub, after: count)), "never under an SA of its former life")
        let active = try #require(hub.active)
        for name in ["site1", "site2"] { #expect(try world.client(name).inbound[active] != nil) }
    }

    /// With several senders each has its own window, by its id: one that comes back gets another, and is heard at once.
    @Test(arguments: [Way.killed, .shutDown]) func oneOfSeveralSendersIsHeardAtOnce(way: Way) throws {
        var options = World.Options()
        options.adjust = { $0.members = $0.members.map { ($0.client, .both) } }
        let world = try World(options)
        try world.bringUp()
        world.run(.seconds(10))
        let hub = try world.client("hub")
        let before = hub.outbound
        let others = try ["site1", "site2"].compactMap { try world.client($0).outbound.values.first?.senderID }
        try leave(world, way)
        try world.restart("hub")
        #expect(world.run(.seconds(5)) { hub.active != nil })
        let (active, ids) = (try #require(hub.active), Set(before.values.map(\.senderID) + others))
        let now = try #require(hub.outbound[active])
        #expect(before[active] != nil, "by the SA that the others hold")
        #expect(ids.count == 3 && !ids.contains(now.senderID) && !now.hasOneSender)
    }
}
