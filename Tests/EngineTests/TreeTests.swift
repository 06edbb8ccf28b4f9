// SPDX-License-Identifier: Apache-2.0
import Basics
import Cryptography
import ESP
import FMKE
import GroupMember
import KeyTree
import LinkModel
import Store
import Testing

@testable import KeyServer

/// The key tree through the real engines: one multicast takes a member out and brings the others new keys.
@Suite struct TreeTests {
    static let sites = ["hub", "site1", "site2", "site3", "site4", "site5"]

    static func options(
        _ names: [String] = sites, loss: Double = 0, seed: UInt64 = 1, backwardSecrecy: Bool = false
    ) -> World.Options {
        var options = World.Options()
        options.names = names
        options.loss = loss
        options.seed = seed
        options.adjust = {
            $0.revocation = .lkh
            $0.backwardSecrecy = backwardSecrecy
        }
        return options
    }

    // GCKS -> group: PUSH { LKH update, masked KEK and TEK } under the old KEK
    // each other member -> GCKS: STATUS
    @Test(arguments: [false, true]) func onePushTakesAMemberOut(backwardSecrecy: Bool) throws {
        let world = try World(Self.options(backwardSecrecy: backwardSecrecy))
        try world.bringUp()
        world.run(.seconds(20))
        let before = world.sent.count
        let profiles = world.events("configure.sent").count
        let transaction = try world.revoke("site3")
        #expect(world.run(.seconds(10)) { world.verdict(transaction) != nil })
        let verdict = try #require(world.verdict(transaction))
        #expect(verdict.verdict == "confirmed" && verdict.unicasts == 0 && verdict.rounds == 1)
        #expect(verdict.confirmed.map(\.client).sorted() == ["hub", "site1", "site2", "site4", "site5"])
        #expect(world.events("configure.sent").count == profiles, "nobody needed a profile")
        let pushes = world.sent[before...].filter {
            $0.datagram.remote == World.control && $0.datagram.bytes.count > 200
        }
        #expect(pushes.count == 2, "one datagram and its copy")
        let active = try #require(world.client("hub").active)
        for name in ["site1", "site2", "site4", "site5"] {
            #expect(try world.client(name).inbound[active] != nil)
        }
        #expect(try world.client("site3").inbound[active] == nil)
        #expect(
            world.events("tree.cannot-follow", at: "site3").contains {
                $0.event.fields.contains { $0.value == "removed" }
            })
    }

    @Test func oneAfterTheOtherAndTheNextRekeyStillReachEverybodyLeft() throws {
        let world = try World(Self.options())
        try world.bringUp()
        for name in ["site5", "site1", "site3"] {
            let transaction = try world.revoke(name)
            #expect(world.run(.seconds(10)) { world.verdict(transaction) != nil })
            #expect(world.verdict(transaction)?.verdict == "confirmed" && world.verdict(transaction)?.unicasts == 0)
        }
        let transaction = try world.rekey(kek: true)
        #expect(world.run(.seconds(10)) { world.verdict(transaction) != nil })
        let verdict = try #require(world.verdict(transaction))
        #expect(verdict.confirmed.map(\.client).sorted() == ["hub", "site2", "site4"] && verdict.unicasts == 0)
    }

    @Test(arguments: [Duration.zero, .milliseconds(10), .milliseconds(300), .milliseconds(900)])
    func twoRevocationsRightOneAfterTheOtherEndConfirmed(pause: Duration) throws {
        let world = try World(Self.options())
        try world.bringUp()
        let first = try world.revoke("site3")
        if pause > .zero { world.run(pause) }
        let second = try world.revoke("site2")
        #expect(world.run(.seconds(60)) { world.verdict(first) != nil && world.verdict(second) != nil })
        #expect(world.verdict(second)?.verdict == "confirmed")
        #expect(world.verdict(second)?.confirmed.map(\.client).sorted() == ["hub", "site1", "site4", "site5"])
        #expect(world.verdict(first)?.unconfirmed.allSatisfy { $0.client == "site2" && $0.reason == "revoked" } == true)
        let active = try #require(world.client("hub").active)
        for name in ["site1", "site4", "site5"] { #expect(try world.client(name).inbound[active] != nil) }
        for name in ["site2", "site3"] { #expect(try world.client(name).inbound[active] == nil) }
    }

    @Test(arguments: [false, true]) func aRevocationDuringAScheduledRekeyEndsConfirmed(kek: Bool) throws {
        for pause in [Duration.milliseconds(1), .milliseconds(200), .milliseconds(600)] {
            let world = try World(Self.options())
            try world.bringUp()
            let rekey = try world.rekey(kek: kek)
            world.run(pause)
            let transaction = try world.revoke("site3")
            #expect(world.run(.seconds(60)) { world.verdict(transaction) != nil && world.verdict(rekey) != nil })
            #expect(world.verdict(transaction)?.verdict == "confirmed")
            let active = try #require(world.client("hub").active)
            #expect(try world.client("site1").inbound[active] != nil && world.client("site3").inbound[active] == nil)
        }
    }

    @Test func whoMissesThePushIsRepairedByMulticastAndThenByUnicast() throws {
        let world = try World(Self.options())
        try world.bringUp()
        var lost = 0
        world.interceptor = { datagram, name in
            guard name == "site1", datagram.local.address.isMulticast, lost < 2 else { return false }
            lost += 1
            return true
        }
        let first = try world.revoke("site3")
        #expect(world.run(.seconds(30)) { world.verdict(first) != nil })
        #expect(world.verdict(first)?.verdict == "confirmed")
        #expect(world.verdict(first)?.rounds == 2 && world.verdict(first)?.unicasts == 0)
        world.interceptor = { datagram, name in name == "site1" && datagram.local.address.isMulticast }
        let second = try world.revoke("site2")
        #expect(world.run(.seconds(30)) { world.verdict(second) != nil })
        #expect(world.verdict(second)?.verdict == "confirmed" && world.verdict(second)?.unicasts == 1)
        world.interceptor = { _, _ in false }
        // With the keys of its profile it follows the next one by multicast again.
        let third = try world.revoke("site4")
        #expect(world.run(.seconds(30)) { world.verdict(third) != nil })
        #expect(world.verdict(third)?.verdict == "confirmed" && world.verdict(third)?.unicasts == 0)
    }

    @Test func whoSleptThroughThreeEvictionsComesBackByUnicast() throws {
        let world = try World(Self.options())
        try world.bringUp()
        try world.client("site1").isDeaf = true
        for name in ["site2", "site3", "site4"] {
            let transaction = try world.revoke(name)
            #expect(world.run(.seconds(60)) { world.verdict(transaction) != nil })
            #expect(world.verdict(transaction)?.unconfirmed.map(\.client) == ["site1"])
        }
        try world.client("site1").isDeaf = false
        #expect(
            world.run(.seconds(300)) { world.server.snapshot(now: world.now).groups[0].members.allSatisfy(\.isCurrent) }
        )
        let transaction = try world.revoke("site5")
        #expect(world.run(.seconds(10)) { world.verdict(transaction) != nil })
        #expect(world.verdict(transaction)?.verdict == "confirmed" && world.verdict(transaction)?.unicasts == 0)
    }

    @Test(arguments: [UInt64](1...10)) func underLossAndReorderingEverybodyFollows(seed: UInt64) throws {
        var options = Self.options(loss: seed % 3 == 0 ? 0 : 0.2, seed: seed)
        options.reorder = 0.3
        let world = try World(options)
        try world.bringUp()
        var transactions: [UInt64] = []
        for name in ["site4", "site2", "site5"] {
            transactions.append(try world.revoke(name))
            world.run(.milliseconds(700))
            transactions.append(try world.rekey(kek: seed % 2 == 0))
            world.run(.milliseconds(400))
        }
        #expect(world.run(.seconds(120)) { transactions.allSatisfy { world.verdict($0) != nil } })
        #expect(
            world.run(.seconds(300)) { world.server.snapshot(now: world.now).groups[0].members.allSatisfy(\.isCurrent) }
        )
        world.run(.seconds(10))
        let active = try #require(world.client("hub").active)
        for name in ["site1", "site3"] { #expect(try world.client(name).inbound[active] != nil) }
        for name in ["site2", "site4", "site5"] { #expect(try world.client(name).inbound[active] == nil) }
    }

    /// Where the change does not fit one datagram, each member takes the one with its slots. One leave always fits
    /// where a profile does, so many go at once.
    @Test func aChangeInSeveralDatagramsReachesEverybody() throws {
        var options = Self.options(["hub"] + (1...79).map { "site\($0)" })
        options.adjustServer = { $0.limits.datagramOctetsSent = 720 }
        let world = try World(options)
        try world.bringUp()
        for number in stride(from: 4, through: 76, by: 4) {
            let member = world.server.groups[World.group]?.members.removeValue(forKey: "site\(number)")
            #expect(world.server.takeOutOfTree(try #require(member), of: World.group))
        }
        let transaction = try world.server.startTransaction(
            group: World.group, newKEK: true, reason: .revocation, now: world.now)
        world.server.advance(to: world.now)
        world.drainServer()
        #expect(world.run(.seconds(60)) { world.verdict(transaction) != nil })
        #expect(world.server.snapshot(now: world.now).groups[0].tree?.updateDatagrams == 2)
        let verdict = try #require(world.verdict(transaction))
        #expect(verdict.verdict == "confirmed" && verdict.confirmed.count == 61 && verdict.unicasts == 0)
        let active = try #require(world.client("hub").active)
        for number in 1...79 {
            let hasIt = try world.client("site\(number)").inbound[active] != nil
            #expect(hasIt != number.isMultiple(of: 4))
        }
    }

    @Test func theOnlyMemberAndOneThatNeverCameEndAllTheSame() throws {
        let world = try World(Self.options(["hub", "site1"]))
        world.start("hub")
        #expect(world.run(.seconds(60)) { world.allRegistered(["hub"]) })
        world.run(.seconds(10))
        // It never had a key: what it does not know needs no mask.
        let never = try world.revoke("site1")
        #expect(world.run(.seconds(30)) { world.verdict(never) != nil })
        #expect(world.verdict(never)?.confirmed.map(\.client) == ["hub"])
        #expect(world.verdict(never)?.unicasts == 0)
        let last = try world.revoke("hub")
        #expect(world.run(.seconds(30)) { world.verdict(last) != nil })
        #expect(world.verdict(last)?.confirmed.isEmpty == true && world.verdict(last)?.unconfirmed.isEmpty == true)
    }

    @Test func aMemberThatRegistersInTheMiddleOfARevocationIsNotLost() throws {
        for pause in [Duration.milliseconds(1), .milliseconds(260), .milliseconds(700), .milliseconds(1_200)] {
            let world = try World(Self.options())
            try world.bringUp()
            try world.restart("site1")
            world.run(pause)
            let transaction = try world.revoke("site3")
            #expect(world.run(.seconds(60)) { world.verdict(transaction) != nil })
            #expect(
                world.run(.seconds(60)) {
                    world.server.snapshot(now: world.now).groups[0].members.allSatisfy(\.isCurrent)
                })
            let active = try #require(world.client("hub").active)
            #expect(try world.client("site1").inbound[active] != nil && world.client("site3").inbound[active] == nil)
            let next = try world.revoke("site4")
            #expect(world.run(.seconds(10)) { world.verdict(next) != nil })
            #expect(world.verdict(next)?.verdict == "confirmed" && world.verdict(next)?.unicasts == 0)
        }
    }

    @Test func whatChangedInTheTreeIsStoredBeforeItIsSentAndMakesTheTreeAgain() throws {
        let world = try World(Self.options())
        try world.bringUp()
        let transaction = try world.revoke("site3")
        world.run(.seconds(5))
        let tree = try world.storedTree()
        #expect(tree.transaction == transaction && tree.memberCount == 5 && !tree.isMember(3))
        // The clients' keys are those of the store.
        try tree.leave(4)
        #expect(try tree.commit(transaction: transaction + 1).update != nil)
    }
}

/// Newcomers under backward secrecy.
@Suite struct BackwardSecrecyTests {
    @Test func aNewcomerHasNoSAFromBeforeAndOpensNoOlderPush() throws {
        let world = try World(TreeTests.options(backwardSecrecy: true))
        world.start("hub", "site1", "site2")
        #expect(world.run(.seconds(60)) { world.allRegistered(["hub", "site1", "site2"]) })
        world.run(.seconds(30))
        try world.rekey()
        world.run(.seconds(20))
        let older = try #require(world.client("hub").active)
        let epoch = world.server.snapshot(now: world.now).groups[0].epoch
        let profiles = world.events("configure.sent").count { $0.event.fields.contains { $0.value == "site1" } }
        world.start("site4")
        let site4 = try world.client("site4")
        #expect(world.run(.seconds(20)) { !site4.inbound.isEmpty })
        #expect(!site4.changes.contains { if case .addInbound(let sa) = $0.change { sa.key == older } else { false } })
        #expect(world.server.snapshot(now: world.now).groups[0].epoch == epoch + 1)
        #expect(world.run(.seconds(30)) { world.verdicts.last?.reason == .joined })
        let verdict = try #require(world.verdicts.last { $0.reason == .joined })
        #expect(verdict.verdict == "confirmed" && verdict.unicasts == 0, "the step went by multicast")
        #expect(verdict.confirmed.map(\.client).sorted() == ["hub", "site1", "site2", "site4"])
        #expect(
            world.events("configure.sent").count { $0.event.fields.contains { $0.value == "site1" } } == profiles)
        world.run(.seconds(5))
        let active = try #require(world.client("hub").active)
        #expect(active != older && site4.inbound[active] != nil)
    }

    @Test func newcomersOfATimeComeInTogether() throws {
        let world = try World(TreeTests.options(backwardSecrecy: true))
        try world.bringUp()
        world.run(.seconds(20))
        #expect((1...3).contains(world.verdicts.count), "\(world.verdicts.count) transactions for six newcomers")
        #expect(world.verdicts.allSatisfy { $0.reason == .joined && $0.verdict == "confirmed" })
        let active = try #require(world.client("hub").active)
        for name in TreeTests.sites.dropFirst() { #expect(try world.client(name).inbound[active] != nil) }
    }

    @Test func aNewcomerThatGoesAgainIsNotTakenIn() throws {
        let world = try World(TreeTests.options(backwardSecrecy: true))
        world.start("hub", "site1")
        #expect(world.run(.seconds(60)) { world.allRegistered(["hub", "site1"]) })
        world.run(.seconds(1))
        let transaction = world.server.snapshot(now: world.now).groups[0].transaction
        try world.client("site2").engine.start(now: world.now)
        world.drain("site2")
        world.run(.seconds(2))
        // Registered and waiting for its turn, it says goodbye.
        try world.client("site2").engine.shutDown(now: world.now)
        world.drain("site2")
        world.run(.seconds(60))
        #expect(world.server.snapshot(now: world.now).groups[0].transaction <= transaction + 1)
        #expect(
            world.server.snapshot(now: world.now).groups[0].members.allSatisfy { $0.client != "site2" || !$0.holdsKeys }
        )
        try world.restart("site2")
        #expect(world.run(.seconds(60)) { world.allRegistered(["site2"]) })
    }
}

extension World {
    func revoke(_ name: String) throws -> UInt64 {
        let transactions = try server.revoke(client: name, now: now)
        drainServer()
        return try #require(transactions["news"])
    }

    /// The group's key tree as the store has it.
    func storedTree() throws -> KeyTreeServer {
        let prefix = "group/\(World.group)/tree"
        let record = try TreeRecord(octets: try #require(store.value(of: prefix)).revealed())
        let nodes = try store.records(under: "\(prefix)/node/").compactMap { record -> NodeRecord? in
            let id = try #require(UInt32(record.name.suffix(8), radix: 16))
            var reader = OctetReader(record.value.revealed())
            let version = try reader.u64()
            return NodeRecord(id: NodeID(rawValue: id), version: version, key: Secret(reader.remainder()))
        }
        return try KeyTreeServer(record, nodes: nodes, random: SeededRandom(seed: 1))
    }
}
