// SPDX-License-Identifier: Apache-2.0
import Basics
import Cryptography
import ESP
import KeyServer
import Store
import Testing

/// A key server whose state is older than what its members have.
@Suite struct RecoveryTests {
    /// A world that ran on after a copy of its store was made: rekeys with new KEKs, and a client restarted.
    private func worldAndBackup(_ method: RevocationMethod) throws -> (world: World, backup: MemoryStore, floor: UInt64)
    {
        let world = try World(World.Options(seed: 9, adjust: { $0.revocation = method }))
        try world.bringUp()
        world.run(.seconds(10))
        let backup = MemoryStore(copying: world.store)
        // What the first run began with: a clock that stood still.
        let floor: UInt64 = 1_000_000
        for _ in 0..<4 {
            let transaction = try world.rekey(kek: true)
            #expect(world.run(.seconds(60)) { world.verdict(transaction) != nil })
        }
        try world.restart("site1")
        world.run(.seconds(20))
        return (world, backup, floor)
    }

    private func number(_ store: MemoryStore, _ name: String) throws -> UInt64 {
        try #require(store.value(of: name)).revealed().reduce(0) { $0 << 8 | UInt64($1) }
    }

    /// Every vector and number that clients see: none of them comes twice.
    private func expectNothingRepeats(_ world: World) {
        var seen: Set<[UInt8]> = []
        for (_, datagram) in world.sent where datagram.remote == World.control {
            // Header and SPI of the KEK, then the sequence: a PUSH is known by them.
            let key = Array(datagram.bytes.prefix(36))
            #expect(seen.insert(key).inserted, "a sequence of a KEK came twice")
        }
    }

    /// Put back as `gcks restore` does, with a clock that is right and with one that was set back.
    @Test(arguments: [RevocationMethod.flat, .lkh], [false, true])
    func aRestoredBackupRepeatsNothing(_ method: RevocationMethod, clockIsBack: Bool) throws {
        let (world, backup, floor) = try worldAndBackup(method)
        let lost = world.store
        let now = clockIsBack ? floor : UInt64(world.now.nanoseconds / 1_000)
        let records = backup.records(under: "")
        backup.apply(try RestoredState.changes(of: records, revoked: ["site2"], microseconds: now))
        for name in ["epoch", "transaction", "sequence"] {
            #expect(try number(backup, "group/7/\(name)") > number(lost, "group/7/\(name)"), "\(name)")
        }
        for name in ["hub", "site1"] {
            #expect(try number(backup, "client/\(name)/sequence") > number(lost, "client/\(name)/sequence"))
            #expect(backup.value(of: "client/\(name)/state") == nil, "no ISAKMP SA is taken up")
        }
        let kept = backup.records(under: "group/").map { $0.name.split(separator: "/")[2] }
        #expect(Set(kept).isSubset(of: ["epoch", "transaction", "sequence", "sender-id", "confirmed"]), "\(kept)")
        try world.restartServer(with: backup) { $0.numberFloor = now }
        let states = world.server.snapshot(now: world.now).clients.map { "\($0.name) \($0.state)" }
        #expect(states == ["hub absent", "site1 absent", "site2 revoked"])
        // Dead peer detection finds out, and everybody comes again.
        let isUp = world.run(.seconds(600)) {
            world.server.snapshot(now: world.now).groups[0].members.allSatisfy(\.isCurrent)
        }
        #expect(isUp)
        #expect(world.events("status.from-the-future").isEmpty)
        let transaction = try world.rekey(kek: true)
        #expect(world.run(.seconds(60)) { world.verdict(transaction)?.verdict == "confirmed" })
        expectNothingRepeats(world)
    }

    @Test func aRecordThatIsNoNumberIsNamed() {
        #expect(throws: UnreadableRecord(name: "group/7/epoch")) {
            try RestoredState.changes(of: [Record("group/7/epoch", Secret([1]))], revoked: [], microseconds: 1)
        }
    }

    @Test func whatABackupMayNotBringBackGoesAway() throws {
        let names = [
            "client/a/state", "client/a/revoked", "group/7/rekey-sa", "group/7/tree/node/00", "group/7/confirmed/a",
            "vpn/1/state", "audit/head", "audit/pending/1", "desired/3", "desired/current", "group/7/state",
        ].shuffled()
        let changes = try RestoredState.changes(
            of: names.map { Record($0, Secret([1])) }, revoked: ["b"], microseconds: 5)
        let gone = changes.compactMap { if case .remove(let name) = $0 { name } else { nil } }
        #expect(
            Set(gone) == [
                "client/a/state", "group/7/rekey-sa", "group/7/tree/node/00", "vpn/1/state", "audit/pending/1",
                "group/7/state",
            ])
        let made = changes.compactMap { if case .put(let record) = $0 { record.name } else { nil } }
        #expect(
            Set(made) == ["client/a/sequence", "group/7/sequence", "client/b/revoked"], "numbers that were not counted")
        #expect(changes.last == .put(Record("client/b/revoked", Secret([1]))))
        #expect(RestoredState.revoked(in: names.map { Record($0, Secret([1])) }) == ["a"])
    }

    /// Put back by hand, and the clock with it: members have newer keys than the server knows.
    @Test(arguments: [RevocationMethod.flat, .lkh])
    func anOldStateIsNoticedAndRecovered(_ method: RevocationMethod) throws {
        let (world, backup, floor) = try worldAndBackup(method)
        try world.restartServer(with: backup) { $0.numberFloor = floor }
        #expect(world.run(.seconds(600)) { !world.events("status.from-the-future").isEmpty })
        let old = world.server.snapshot(now: world.now)
        #expect(old.state == "degraded" && old.alarms.contains { $0.contains("gcks recover") }, "\(old.alarms)")
        let sent = world.sent.count
        #expect(throws: CommandError.self) { try world.rekey() }
        world.run(.seconds(100))
        let letGo = world.sent[sent...].filter { ServerOutput.transmit($0.datagram).letsKeysGo }
        #expect(letGo.allSatisfy { $0.datagram.remote.address.isMulticast }, "no profile leaves")
        let transactions = try world.server.recover(now: world.now)
        world.drainServer()
        #expect(transactions.keys.sorted() == ["news"])
        let isUp = world.run(.seconds(900)) {
            let status = world.server.snapshot(now: world.now)
            return status.state == "ok" && status.groups[0].members.allSatisfy(\.isCurrent)
        }
        #expect(isUp, "\(world.server.snapshot(now: world.now).alarms)")
        let now = world.server.snapshot(now: world.now).groups[0]
        #expect(now.transaction > old.groups[0].transaction && now.epoch > old.groups[0].epoch)
        let newest = world.verdicts.map(\.transaction).max() ?? 0
        #expect(now.transaction >= newest)
        #expect(throws: CommandError.nothingToRecover) { try world.server.recover(now: world.now) }
        let transaction = try world.rekey(kek: true)
        #expect(world.run(.seconds(60)) { world.verdict(transaction)?.verdict == "confirmed" })
        let active = try #require(world.client("hub").active)
        #expect(try world.client("site1").inbound[active] != nil && world.client("site2").inbound[active] != nil)
        #expect(world.untold == [])
    }
}
