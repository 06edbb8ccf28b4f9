// SPDX-License-Identifier: Apache-2.0
import Basics
import Cryptography
import ESP
import FMKE
import KeyServer
import Store
import Testing

@testable import Simulator

/// Keys that follow from the tree's group key (docs/FMKE.md 4.6), through the real engines.
@Suite struct SuccessionTests {
    /// Inbound keys of a member, by SPI.
    private func keys(_ name: String, _ world: World) throws -> [UInt32: [Secret?]] {
        let inbound = try world.client(name).inbound
        return Dictionary(
            uniqueKeysWithValues: inbound.map { ($0.key.spi, [$0.value.cipherKey, $0.value.authenticationKey]) })
    }

    /// The keys that the server stored, by SPI.
    private func stored(_ world: World) -> [UInt32: Secret] {
        var result: [UInt32: Secret] = [:]
        for record in world.records where record.name.hasPrefix("group/7/sa/0x") {
            guard let sa = record.read(DataSARecord.self)?.sa else { continue }
            result[sa.spi] = Secret(sa.keyOctets)
        }
        return result
    }

    private func expectTheSameKeys(
        _ names: [String], _ world: World, without removed: [String], _ location: SourceLocation = #_sourceLocation
    ) throws {
        let stored = stored(world)
        let active = try #require(world.client("hub").active).spi
        let first = try keys(try #require(names.first), world)
        let newest = try #require(first[active], sourceLocation: location)
        let octets = newest.compactMap { $0?.revealed() }.joined()
        #expect(stored[active]?.revealed() == Array(octets), "as the records say", sourceLocation: location)
        for name in names { #expect(try keys(name, world)[active] == newest, "\(name)", sourceLocation: location) }
        for name in removed { #expect(try keys(name, world)[active] == nil, "\(name)", sourceLocation: location) }
    }

    /// Octets of the group's data and parity datagrams.
    private func pushes(_ world: World, from start: Int) -> [Int] {
        world.sent[start...].filter { $0.datagram.remote == World.control && $0.datagram.bytes.count > 200 }
            .map(\.datagram.bytes.count)
    }

    // 36 in the clear, TRANSACTION 68, SUCCESSION 20 and the slice (20, codes, two keys), SIG 68, tag 16
    @Test(arguments: [ESPSuite.aes128gcm, .aes256gcm, .aes128sha256])
    func aLeaveBringsAllKeysInTheOctetsOfTheTreeAlone(suite: ESPSuite) throws {
        var options = TreeTests.options()
        options.suite = suite
        let world = try World(options)
        try world.bringUp()
        world.run(.seconds(10))
        let start = world.sent.count
        let transaction = try world.revoke("site3")
        #expect(world.run(.seconds(10)) { world.verdict(transaction) != nil })
        #expect(world.verdict(transaction)?.verdict == "confirmed" && world.verdict(transaction)?.unicasts == 0)
        let sizes = pushes(world, from: start)
        let content = 20 + 20 + 1 + 32
        #expect(sizes == [188 + content, 188 + 4 + 2 + 1 + content], "the datagram and its repetition")
        world.run(.seconds(5))
        try expectTheSameKeys(["site1", "site2", "site4", "site5"], world, without: ["site3"])
    }

    @Test(arguments: [Duration.zero, .milliseconds(300), .seconds(10)])
    func twoEvictionsInARowGiveEverybodyTheSameKeys(pause: Duration) throws {
        let world = try World(TreeTests.options())
        try world.bringUp()
        world.run(.seconds(10))
        let first = try world.revoke("site3")
        if pause > .zero { world.run(pause) }
        let second = try world.revoke("site2")
        #expect(world.run(.seconds(60)) { world.verdict(first) != nil && world.verdict(second) != nil })
        world.run(.seconds(5))
        try expectTheSameKeys(["site1", "site4", "site5"], world, without: ["site2", "site3"])
    }

    /// Data keys made for all, and an eviction before they have arrived: who missed them derives all the same.
    @Test(arguments: [false, true], [Duration.milliseconds(1), .milliseconds(200), .milliseconds(600)])
    func anEvictionThatCrossesAScheduledRekeyGivesEverybodyTheSameKeys(kek: Bool, pause: Duration) throws {
        for seed in 1...4 as ClosedRange<UInt64> {
            let world = try World(TreeTests.options(loss: 0.3, seed: seed))
            try world.bringUp()
            world.run(.seconds(10))
            let rekey = try world.rekey(kek: kek)
            world.run(pause)
            let eviction = try world.revoke("site3")
            world.run(pause)
            let last = try world.rekey(kek: false)
            #expect(
                world.run(.seconds(120)) { [rekey, eviction, last].allSatisfy { world.verdict($0) != nil } })
            #expect(
                world.run(.seconds(300)) {
                    world.server.snapshot(now: world.now).groups[0].members.allSatisfy(\.isCurrent)
                })
            world.run(.seconds(5))
            try expectTheSameKeys(["site1", "site2", "site4", "site5"], world, without: ["site3"])
        }
    }

    /// Nobody multicasts to it: it is told by CONFIGURE what the others derive.
    @Test func whoMissesItOrComesBackIsToldTheSameKeys() throws {
        let world = try World(TreeTests.options())
        try world.bringUp()
        world.run(.seconds(10))
        world.interceptor = { datagram, name in name == "site1" && datagram.local.address.isMulticast }
        let transaction = try world.revoke("site3")
        #expect(world.run(.seconds(60)) { world.verdict(transaction) != nil })
        #expect(world.verdict(transaction)?.unicasts == 1)
        world.interceptor = { _, _ in false }
        try world.restart("site2")
        #expect(world.run(.seconds(60)) { world.allRegistered(["site2"]) })
        world.run(.seconds(5))
        try expectTheSameKeys(["site1", "site2", "site4", "site5"], world, without: ["site3"])
        // And they go on from there.
        let next = try world.revoke("site4")
        #expect(world.run(.seconds(10)) { world.verdict(next) != nil })
        #expect(world.verdict(next)?.verdict == "confirmed" && world.verdict(next)?.unicasts == 0)
        world.run(.seconds(5))
        try expectTheSameKeys(["site1", "site2", "site5"], world, without: ["site3", "site4"])
    }

    /// A newcomer is told what those before it derived, and derives the next ones with them.
    @Test(arguments: [false, true]) func aNewcomerGoesOnWithTheOthers(backwardSecrecy: Bool) throws {
        let world = try World(TreeTests.options(backwardSecrecy: backwardSecrecy))
        world.start("hub", "site1", "site2", "site3")
        #expect(world.run(.seconds(60)) { world.allRegistered(["hub", "site1", "site2", "site3"]) })
        world.run(.seconds(30))
        let transaction = try world.revoke("site3")
        #expect(world.run(.seconds(10)) { world.verdict(transaction) != nil })
        world.start("site4")
        #expect(world.run(.seconds(60)) { world.allRegistered(["site4"]) })
        world.run(.seconds(10))
        try expectTheSameKeys(["site1", "site2", "site4"], world, without: ["site3"])
        let next = try world.revoke("site2")
        #expect(world.run(.seconds(10)) { world.verdict(next) != nil })
        #expect(world.verdict(next)?.unicasts == 0)
        world.run(.seconds(5))
        try expectTheSameKeys(["site1", "site4"], world, without: ["site2", "site3"])
    }
}
