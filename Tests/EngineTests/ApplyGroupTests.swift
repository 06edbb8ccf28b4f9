// SPDX-License-Identifier: Apache-2.0
import Basics
import Cryptography
import ESP
import FMKE
import GroupMember
import ISAKMP
import KeyTree
import ReliablePush
import Store
import Testing

@testable import KeyServer

/// The operator changes groups while everything runs: what they are, and how their keys are handed out.
@Suite struct ApplyGroupTests {
    private func world(
        _ method: (RevocationMethod, Bool) = (.flat, false), _ adjust: @escaping (inout GroupEntry) -> Void = { _ in }
    ) throws -> World {
        var options = World.Options(names: ["hub", "site1", "site2", "site3"])
        options.adjust = {
            ($0.revocation, $0.backwardSecrecy) = method
            adjust(&$0)
        }
        let world = try World(options)
        try world.bringUp()
        world.run(.seconds(20))
        return world
    }

    private func radio(_ members: [(client: String, role: MemberRole)]) -> GroupEntry {
        GroupEntry(
            name: "radio", id: 8, control: SocketAddress(.v4(239, 255, 0, 2), 848),
            flows: [TrafficSelector(source: World.flow.source, destination: IPPrefix(host: .v4(239, 1, 2, 1)))],
            suite: .aes256gcm, members: members)
    }

    private func confirmed(_ world: World, _ report: ApplyReport, within limit: Duration = .seconds(30)) -> Bool {
        world.run(limit) { report.transactions.values.allSatisfy { world.verdict($0)?.verdict == "confirmed" } }
    }

    // MARK: Groups come and go

    @Test(arguments: ApplyTests.methods) func aGroupComesGoesAndComesBack(_ method: (RevocationMethod, Bool)) throws {
        let world = try world()
        var entry = radio([("site1", .sender), ("site2", .receiver), ("hub", .both)])
        (entry.revocation, entry.backwardSecrecy) = method
        let before = try #require(world.client("hub").active)
        var report = try world.apply { $0.groups.append(entry) }
        #expect(report.rekeys.map(\.group) == ["radio"] && report.rekeys[0].unicasts == 3 && report.profiles.count == 3)
        #expect(confirmed(world, report))
        world.run(.seconds(10))
        let active = try #require(world.client("site1").active)
        for name in ["site2", "hub"] { #expect(world.client(name, holds: active)) }
        #expect(try world.client("site3").inbound[active] == nil)
        #expect(world.client("site3", holds: before), "the other group goes on")
        let next = try world.server.rekey(group: "radio", includingKEK: true, now: world.now)
        world.drainServer()
        #expect(world.run(.seconds(30)) { world.verdict(next)?.verdict == "confirmed" })
        let numbers = (world.server.groups[8]?.rekeySA.epoch ?? 0, world.server.groups[8]?.transaction ?? 0)

        let open = try world.server.rekey(group: "radio", includingKEK: true, now: world.now)
        world.drainServer()
        report = try world.apply { $0.groups.removeAll { $0.id == 8 } }
        #expect(report.rekeys.isEmpty && report.profiles == ["hub", "site1", "site2"])
        #expect(world.verdict(open)?.unconfirmed.map(\.reason) == ["revoked", "revoked", "revoked"])
        world.run(.seconds(10))
        for name in ["hub", "site1", "site2"] {
            let client = try world.client(name)
            #expect(!client.inbound.keys.contains { $0.destination == .v4(239, 1, 2, 1) })
            #expect(!client.outbound.keys.contains { $0.destination == .v4(239, 1, 2, 1) })
            #expect(client.joined == [World.control])
        }
        let left = world.store.records(under: "group/8/").map(\.name)
        #expect(left.sorted() == ["epoch", "sender-id", "sequence", "transaction"].map { "group/8/\($0)" })

        report = try world.apply { $0.groups.append(entry) }
        #expect(confirmed(world, report))
        let again = try #require(world.server.groups[8])
        #expect(again.rekeySA.epoch > numbers.0 && again.transaction > numbers.1 + 1)
        world.run(.seconds(10))
        #expect(try world.client("site1").active != active)
    }

    // MARK: What a group is

    @Test(arguments: ApplyTests.methods) func otherFlowsComeByRollOver(_ method: (RevocationMethod, Bool)) throws {
        let world = try world(method)
        let old = try #require(world.client("hub").active)
        let report = try world.apply { $0.groups[0].flows = [ApplyTests.otherFlow, World.flow] }
        #expect(report.rekeys.map(\.causes) == [["flows"]] && report.rekeys[0].datagrams > 0)
        #expect(report.rekeys[0].reason == .applied && report.profiles.isEmpty)
        #expect(confirmed(world, report))
        #expect(world.client("site1", holds: old), "what senders may use still is kept")
        world.run(.seconds(20))
        for name in ["site1", "site2", "site3"] {
            let destinations = try world.client(name).inbound.keys.map(\.destination)
            #expect(Set(destinations) == [.v4(239, 1, 1, 1), .v4(239, 1, 1, 2)] && destinations.count == 2)
        }
        let less = try world.apply { $0.groups[0].flows = [ApplyTests.otherFlow] }
        #expect(confirmed(world, less))
        world.run(.seconds(20))
        #expect(try world.client("site1").inbound.keys.map(\.destination) == [.v4(239, 1, 1, 2)])
        #expect(try world.client("hub").outbound.keys.map(\.destination) == [.v4(239, 1, 1, 2)])
        let next = try world.rekey(kek: true)
        #expect(world.run(.seconds(20)) { world.verdict(next)?.verdict == "confirmed" })
    }

    @Test(arguments: ApplyTests.methods) func anotherSuiteComesByRollOver(_ method: (RevocationMethod, Bool)) throws {
        let world = try world(method)
        let report = try world.apply { $0.groups[0].suite = .aes256sha256 }
        #expect(report.rekeys.map(\.causes) == [["suite"]])
        #expect(confirmed(world, report))
        world.run(.seconds(20))
        let active = try #require(world.client("hub").active)
        #expect(try world.client("hub").outbound[active]?.suite == .aes256sha256)
        for name in ["site1", "site2", "site3"] {
            #expect(try world.client(name).inbound.values.map(\.suite) == [.aes256sha256])
        }
    }

    @Test(arguments: ApplyTests.methods) func theControlChannelMoves(_ method: (RevocationMethod, Bool)) throws {
        let world = try world(method)
        let other = SocketAddress(.v4(239, 255, 0, 77), 848)
        try world.client("site3").isUp = false
        let report = try world.apply { $0.groups[0].control = other }
        #expect(report.rekeys.map(\.causes) == [["control"]])
        let transaction = try #require(report.transactions["news"])
        // One is away for a while: it is named, and finds the new channel all the same.
        #expect(world.run(.seconds(120)) { world.verdict(transaction) != nil })
        #expect(world.verdict(transaction)?.unconfirmed.map(\.client) == ["site3"])
        for name in ["hub", "site1", "site2"] { #expect(try world.client(name).joined == [other]) }
        try world.client("site3").isUp = true
        #expect(world.run(.seconds(300)) { world.client("site3", holds: world.clients["hub"]?.active) })
        #expect(try world.client("site3").joined == [other])
        let next = try world.rekey(kek: true)
        #expect(world.run(.seconds(30)) { world.verdict(next)?.confirmed.count == 4 })
        #expect(world.verdict(next)?.unicasts == 0)
    }

    @Test func lifetimesTimesAndPolicyNeedNoKeys() throws {
        let world = try world()
        let before = world.server.snapshot(now: world.now).groups[0]
        let sent = world.sent.count
        let report = try world.apply { inventory in
            inventory.groups[0].dataLifetime = .seconds(600)
            inventory.groups[0].kekLifetime = .seconds(1_200)
            inventory.groups[0].rollover.keepOld = .seconds(9)
            inventory.groups[0].push.copies = 3
        }
        #expect(report.rekeys.isEmpty && report.profiles.isEmpty && report.multicastOctets == 0)
        #expect(report.changes.map(\.details) == [["lifetime", "rollover", "push"]])
        #expect(world.sent.count == sent)
        let after = world.server.snapshot(now: world.now).groups[0]
        #expect(after.transaction == before.transaction && after.epoch == before.epoch)
        #expect(after.nextDataRekeySeconds < 480 && after.nextKEKRekeySeconds < 960)
        let next = try world.rekey()
        #expect(world.run(.seconds(20)) { world.verdict(next)?.datagrams == 3 }, "three copies")
        #expect(world.run(.seconds(500)) { world.verdicts.last?.reason == .scheduled })

        // Longer ones begin with the next keys, and none that is given out gets older than it was told.
        let longer = try world.apply { $0.groups[0].dataLifetime = .seconds(7_200) }
        #expect(longer.rekeys.isEmpty)
        #expect(world.server.snapshot(now: world.now).groups[0].nextDataRekeySeconds < 480)
        // Much shorter ones are over already.
        world.run(.seconds(100))
        let shorter = try world.apply { $0.groups[0].dataLifetime = .seconds(60) }
        #expect(shorter.rekeys.map(\.reason) == [.scheduled] && shorter.rekeys[0].causes == ["lifetime"])
        #expect(confirmed(world, shorter))
    }

    @Test func theWayToTakeMembersOutChanges() throws {
        let world = try world()
        for method in [(RevocationMethod.lkh, false), (.lkh, true), (.flat, false), (.lkh, true), (.lkh, false)] {
            let report = try world.apply { ($0.groups[0].revocation, $0.groups[0].backwardSecrecy) = method }
            #expect(report.rekeys.map(\.causes) == [["revocation"]] && report.rekeys[0].unicasts == 4)
            #expect(confirmed(world, report))
            world.run(.seconds(20))
            let tree = world.server.snapshot(now: world.now).groups[0].tree
            #expect((tree != nil) == (method.0 == .lkh) && tree?.backwardSecrecy ?? false == method.1)
            let next = try world.rekey(kek: true)
            #expect(world.run(.seconds(20)) { world.verdict(next)?.verdict == "confirmed" })
        }
        let transaction = try world.revoke("site2")
        #expect(world.run(.seconds(20)) { world.verdict(transaction)?.verdict == "confirmed" })
        #expect(world.verdict(transaction)?.unicasts == 0, "the tree that was planted works")
        #expect(try world.storedTree().memberCount == 3)
    }

    @Test func aGroupIsRenamedWithoutNewKeys() throws {
        let world = try world()
        let report = try world.apply { $0.groups[0].name = "headlines" }
        #expect(report.rekeys.isEmpty && report.profiles.count == 4)
        world.run(.seconds(10))
        #expect(try world.client("site1").engine.snapshot(now: world.now).groups.map(\.name) == ["headlines"])
        #expect(throws: CommandError.unknownGroup("news")) { try world.rekey() }
    }

    // MARK: In the middle of things

    @Test(arguments: ApplyTests.methods, [0, 1, 300, 700, 2_500])
    func aChangeComesInTheMiddleOfATransaction(_ method: (RevocationMethod, Bool), milliseconds: Int64) throws {
        let world = try world(method)
        world.interceptor = { $0.remote.address == World.gcksAddress && $1 == "site3" && $0.local == World.control }
        let first = try world.rekey(kek: true)
        world.run(.milliseconds(milliseconds))
        let report = try world.apply { inventory in
            inventory.clients.removeAll { $0.name == "site2" }
            inventory.groups[0].members.removeAll { $0.client == "site2" }
            inventory.groups[0].suite = .aes256gcm
            inventory.groups[0].control = SocketAddress(.v4(239, 255, 0, 9), 848)
        }
        #expect(report.rekeys.count == 1)
        let second = try #require(report.transactions["news"])
        #expect(second == first + 1)
        world.interceptor = { _, _ in false }
        #expect(world.run(.seconds(120)) { world.verdict(first) != nil && world.verdict(second) != nil })
        #expect(world.verdict(second)?.verdict == "confirmed")
        world.run(.seconds(60))
        let active = try #require(world.client("hub").active)
        for name in ["site1", "site3"] { #expect(world.client(name, holds: active)) }
        #expect(!world.client("site2", holds: active))
        #expect(world.server.snapshot(now: world.now).groups[0].members.allSatisfy { $0.isCurrent })
    }

    @Test(arguments: ApplyTests.methods) func membersThatAreDownAreNamedAndCatchUp(_ method: (RevocationMethod, Bool))
        throws
    {
        let world = try world(method)
        try world.client("site1").isUp = false
        world.run(.seconds(300))
        let report = try world.apply { inventory in
            inventory.groups[0].members.removeAll { $0.client == "site2" }
            inventory.groups[0].flows = [ApplyTests.otherFlow]
        }
        let transaction = try #require(report.transactions["news"])
        #expect(world.run(.seconds(120)) { world.verdict(transaction) != nil })
        #expect(world.verdict(transaction)?.unconfirmed.map(\.client) == ["site1"])
        try world.client("site1").isUp = true
        #expect(world.run(.seconds(600)) { world.client("site1", holds: world.clients["hub"]?.active) })
    }

    /// A flow that goes with an eviction has no successor to move to: the verdict waits until it is gone.
    @Test(arguments: ApplyTests.methods) func nothingIsSentToWhomTheVerdictSaysIsOut(
        _ method: (RevocationMethod, Bool)
    ) throws {
        let world = try world(method) { $0.flows = [World.flow, ApplyTests.otherFlow] }
        let report = try world.apply { inventory in
            inventory.groups[0].members.removeAll { $0.client == "site2" }
            inventory.groups[0].flows = [World.flow]
        }
        let transaction = try #require(report.transactions["news"])
        #expect(world.run(.seconds(60)) { world.verdict(transaction)?.verdict == "confirmed" })
        world.run(.seconds(1))
        let left = try world.client("hub").outbound.keys.filter { $0.destination == .v4(239, 1, 1, 2) }
        #expect(left.isEmpty)
    }

    // MARK: Refused, planned, foretold

    @Test func aBadInventoryChangesNothing() throws {
        let world = try world((.lkh, false))
        let before = world.server.snapshot(now: world.now)
        let (sent, stored) = (world.sent.count, world.store.records(under: "").count)
        let bad: [(inout Inventory) -> Void] = [
            { $0.groups[0].members.append(("nobody", .receiver)) },
            { $0.groups[0].members.append(("site1", .sender)) },
            { $0.clients.append($0.clients[0]) },
            { $0.clients[1].address = $0.clients[0].address },
            { $0.clients.removeLast() },
            { $0.groups.append($0.groups[0]) },
            { $0.groups[0].flows = [] },
            {
                $0.groups[0].flows += (2...9).map { number in
                    TrafficSelector(source: World.flow.source, destination: IPPrefix(host: .v4(239, 1, 1, number)))
                }
            },
            { inventory in
                // The first group is changed before the second turns out to be bad.
                inventory.groups[0].members.removeLast()
                var other = radio([("site1", .sender)])
                other.flows = []
                inventory.groups.append(other)
            },
        ]
        for change in bad {
            #expect(throws: CommandError.self) { try world.apply(change) }
            if case .wait = world.server.poll() {} else { Issue.record("something is to be done") }
        }
        let after = world.server.snapshot(now: world.now)
        #expect(after.groups.map(\.transaction) == before.groups.map(\.transaction))
        #expect(after.clients.map(\.state) == before.clients.map(\.state) && after.groups[0].members.count == 4)
        #expect(world.sent.count == sent)
        #expect(world.store.records(under: "").count == stored)
        let next = try world.revoke("site2")
        #expect(world.run(.seconds(20)) { world.verdict(next)?.verdict == "confirmed" })
    }

    @Test(arguments: ApplyTests.methods) func aPlanSaysWhatApplyDoesAndDoesNothing(_ method: (RevocationMethod, Bool))
        throws
    {
        let world = try world(method)
        var next = world.server.inventory
        next.clients.removeAll { $0.name == "site2" }
        next.groups[0].members.removeAll { $0.client == "site2" }
        next.groups.append(radio([("site1", .both), ("hub", .receiver)]))
        let plan = try world.server.plan(next, now: world.now)
        if case .wait = world.server.poll() {} else { Issue.record("a plan wants something done") }
        #expect(world.server.groups[8] == nil && world.server.groups[World.group]?.members.count == 4)
        #expect(world.server.groups[World.group]?.tree?.hasChanges != true)
        #expect(plan.rekeys.map(\.group) == ["news", "radio"] && plan.disconnected == ["site2"])
        #expect(try world.server.apply(next, now: world.now) == plan)
        world.drainServer()
        #expect(confirmed(world, plan))
        // Nothing differs any more.
        let sent = world.sent.count
        let empty = try world.server.apply(next, now: world.now)
        #expect(empty == ApplyReport() && empty.isEmpty)
        world.drainServer()
        #expect(world.sent.count == sent)
    }

    /// Octets are foretold as they are sent where nothing is lost.
    @Test(arguments: ApplyTests.methods) func whatIsForetoldIsSent(_ method: (RevocationMethod, Bool)) throws {
        let changes: [(inout Inventory) -> Void] = [
            { $0.groups[0].flows = [ApplyTests.otherFlow] },
            { $0.groups[0].control.port = 849 },
            { $0.groups[0].members.removeAll { $0.client == "site2" } },
            { $0.groups.append(radio([("site1", .both), ("hub", .receiver)])) },
            { $0.groups[0].members[1].role = .both },
            {
                $0.groups[0].members.removeAll { $0.client == "site3" }
                $0.groups[0].suite = .aes128sha1
                $0.groups[0].name = "headlines"
            },
        ]
        for (number, change) in changes.enumerated() {
            let world = try world(method) { $0.push.adapts = false }
            let sent = world.sent.count
            let report = try world.apply(change)
            #expect(world.run(.seconds(60)) { report.transactions.values.allSatisfy { world.verdict($0) != nil } })
            world.run(.seconds(5))
            let multicast = report.transactions.values.compactMap { world.verdict($0)?.multicastOctets }.reduce(0, +)
            #expect(report.multicastOctets == multicast, "change \(number)")
            let profiles = world.sent[sent...].map(\.datagram).filter {
                $0.local.address == World.gcksAddress && !$0.remote.address.isMulticast && $0.bytes.count > 18
                    && $0.bytes[18] == ExchangeType.configure.rawValue
            }
            let unicast = profiles.reduce(0) { $0 + $1.bytes.count }
            #expect(report.unicastOctets == unicast, "change \(number): \(profiles.count) profiles")
            #expect(profiles.count == report.profiles.count, "change \(number)")
        }
    }

    // MARK: The store

    /// One `.persist`, in front of all that is sent, with what the caller wants stored beside it.
    @Test(arguments: ApplyTests.methods) func allRecordsComeFirstAndTogether(_ method: (RevocationMethod, Bool)) throws
    {
        let world = try world(method)
        var next = world.server.inventory
        next.clients.removeAll { $0.name == "site2" }
        next.groups[0].members.removeAll { $0.client == "site2" }
        next.groups.append(radio([("site1", .both), ("hub", .receiver)]))
        _ = try world.server.apply(next, recording: [.put(Record("desired/current", Secret([7])))], now: world.now)
        var outputs: [ServerOutput] = []
        while true {
            let output = world.server.poll()
            if case .wait = output { break }
            outputs.append(output)
        }
        guard case .persist(let changes) = outputs.first else { throw StoreError.corrupt }
        #expect(!outputs.dropFirst().contains { if case .persist = $0 { true } else { false } })
        #expect(changes.contains(.put(Record("desired/current", Secret([7])))))
        #expect(changes.contains(.remove("client/site2/state")))
        let names = changes.compactMap { if case .put(let record) = $0 { record.name } else { nil } }
        for name in ["group/7/transaction", "group/7/rekey-sa", "group/8/transaction", "group/8/rekey-sa"] {
            #expect(names.contains(name))
        }
        #expect(outputs.contains { if case .transmit = $0 { true } else { false } })
    }

    /// The server dies between any two outputs of an apply; what is stored then is all of it or nothing.
    @Test func aServerThatDiesInAnApplyComesBackWithAllOfItOrNothing() throws {
        var points = 0
        for stop in 0..<60 {
            let world = try world((.lkh, false))
            var next = world.server.inventory
            next.clients.removeAll { $0.name == "site2" }
            next.groups[0].members.removeAll { $0.client == "site2" }
            world.serverDiesAfter = stop
            _ = try world.server.apply(
                next, recording: [.put(Record("desired/current", Secret([7])))], now: world.now)
            world.drainServer()
            guard world.isServerDown || !world.run(.seconds(10), until: { world.isServerDown }) else { break }
            guard world.isServerDown else { break }
            points += 1
            let isStored = world.store.value(of: "desired/current") != nil
            #expect(isStored == (stop > 0))
            try world.restartServer { if isStored { $0.inventory = next } }
            #expect(
                world.run(.seconds(300)) {
                    world.server.snapshot(now: world.now).groups[0].members.allSatisfy(\.isCurrent)
                })
            world.run(.seconds(20))
            let active = try #require(world.client("hub").active)
            #expect(world.client("site2", holds: active) != isStored)
            for name in ["site1", "site3"] { #expect(world.client(name, holds: active)) }
        }
        #expect(points >= 5, "\(points)")
    }
}
