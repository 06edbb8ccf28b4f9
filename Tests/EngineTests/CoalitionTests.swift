// SPDX-License-Identifier: Apache-2.0
import Basics
import Cryptography
import ESP
import FMKE
import KeyServer
import Store
import Testing

@testable import Simulator

/// Members that were taken out put together all that they were told and a full recording of the control channel.
@Suite struct CoalitionTests {
    /// The group's secrets, from the records.
    private func secrets(of world: World) throws -> GroupSecrets {
        let flow = Flow(selector: World.flow, suite: World.Options().suite, lifetimeKilobytes: nil)
        var secrets = GroupSecrets(flows: [flow])
        for (count, record) in world.records.enumerated() {
            let path = record.name.split(separator: "/")
            if path.count > 2, path[0] == "group" { secrets.learn(path[2...], record, at: count) }
        }
        return secrets
    }

    private func recording(of world: World, _ secrets: GroupSecrets) -> [Recording] {
        world.sent.filter { $0.datagram.remote == World.control }.compactMap { _, datagram in
            PushEnvelope.peek(datagram.bytes).map { spi, _ in
                Recording(
                    spi: spi, bytes: datagram.bytes, group: World.group, rekeySA: secrets.keks[spi]?.rekeySA, sentAt: 0)
            }
        }
    }

    /// All that a profile tells the member in this slot now.
    private func told(_ slot: Int, _ world: World) throws -> Coalition {
        let secrets = try secrets(of: world)
        var coalition = Coalition(group: World.group)
        coalition.tell(kek: try #require(secrets.current))
        coalition.tell(path: try #require(secrets.path(of: slot)))
        return coalition
    }

    @Test func neitherAloneNorTogetherDoTheyLearnWhatCameAfterThem() throws {
        let world = try World(TreeTests.options())
        try world.bringUp()
        let (first, second, stays) = (try told(3, world), try told(4, world), try told(1, world))
        var ends: [Int] = []
        for name in ["site3", "site4"] {
            ends.append(world.records.count)
            let transaction = try world.revoke(name)
            #expect(world.run(.seconds(10)) { world.verdict(transaction) != nil })
            try world.rekey(kek: true)
            world.run(.seconds(10))
        }
        let third = try world.revoke("site5")
        world.run(.seconds(10))
        #expect(world.verdict(third)?.unicasts == 0)
        let secrets = try secrets(of: world)
        let recording = recording(of: world, secrets)
        func finds(_ coalition: Coalition, after end: Int) -> [String] {
            var coalition = coalition
            coalition.conclude(from: recording, secrets)
            return coalition.keks.filter { secrets.keks[$0]?.madeAt ?? 0 >= end }.map { "KEK \($0)" }
                + coalition.sas.filter { secrets.sas[$0]?.madeAt ?? 0 >= end }.map { "SA \($0)" }
        }
        #expect(finds(first, after: ends[0]) == [])
        #expect(finds(second, after: ends[1]) == [])
        var both = first
        both.join(second)
        #expect(finds(both, after: ends[1]) == [])
        // The same attempt in the hands of one who stays finds everything: six KEKs and data keys.
        #expect(finds(stays, after: ends[0]).count == 10, "two revocations and two rekeys, and the third revocation")
        // And a thief of one who stays undoes it all: the attempt would find a hole.
        both.join(stays)
        #expect(finds(both, after: ends[1]).count == 6)
    }

    /// Two at a time, by the inventory: one is no client any more, the other one is.
    @Test func whomAnInventoryTakesOutLearnsNothingMore() throws {
        let world = try World(TreeTests.options())
        try world.bringUp()
        var both = try told(3, world)
        both.join(try told(4, world))
        let stays = try told(1, world)
        let end = world.records.count
        let report = try world.apply { inventory in
            inventory.clients.removeAll { $0.name == "site3" }
            inventory.groups[0].members.removeAll { ["site3", "site4"].contains($0.client) }
            inventory.groups[0].control.port = 849
        }
        let transaction = try #require(report.transactions["news"])
        #expect(world.run(.seconds(10)) { world.verdict(transaction)?.verdict == "confirmed" })
        try world.rekey(kek: true)
        world.run(.seconds(10))
        let secrets = try secrets(of: world)
        // On both control channels.
        let recording = world.sent.filter { $0.datagram.remote.address == World.control.address }
            .compactMap { _, datagram in
                PushEnvelope.peek(datagram.bytes).map { spi, _ in
                    Recording(
                        spi: spi, bytes: datagram.bytes, group: World.group, rekeySA: secrets.keks[spi]?.rekeySA,
                        sentAt: 0)
                }
            }
        func finds(_ coalition: Coalition) -> Int {
            var coalition = coalition
            coalition.conclude(from: recording, secrets)
            return coalition.keks.count { secrets.keks[$0]?.madeAt ?? 0 >= end }
                + coalition.sas.count { secrets.sas[$0]?.madeAt ?? 0 >= end }
        }
        #expect(finds(both) == 0)
        #expect(finds(stays) == 4, "who stays finds two KEKs and two data keys")
    }

    @Test func aNewcomerUnderBackwardSecrecyLearnsNothingFromBefore() throws {
        for backwardSecrecy in [true, false] {
            let world = try World(TreeTests.options(backwardSecrecy: backwardSecrecy))
            world.start("hub", "site1", "site2", "site3")
            #expect(world.run(.seconds(60)) { world.allRegistered(["hub", "site1", "site2", "site3"]) })
            world.run(.seconds(30))
            _ = try world.revoke("site3")
            world.run(.seconds(10))
            let before = world.records.count
            world.start("site4")
            let site4 = try world.client("site4")
            #expect(world.run(.seconds(30)) { !site4.inbound.isEmpty })
            world.run(.seconds(10))
            let secrets = try secrets(of: world)
            var newcomer = try told(4, world)
            newcomer.conclude(from: recording(of: world, secrets), secrets)
            let older = newcomer.keks.filter { secrets.keks[$0]?.madeAt ?? 0 < before }
            #expect(older.isEmpty == backwardSecrecy, "without it, the KEK in use is older than the newcomer")
            var installed = newcomer.sas
            for change in site4.changes {
                if case .addInbound(let sa) = change.change { installed.insert(sa.key.spi) }
            }
            let olderSAs = installed.filter { secrets.sas[$0]?.madeAt ?? 0 < before }
            #expect(olderSAs.isEmpty == backwardSecrecy)
        }
    }
}
