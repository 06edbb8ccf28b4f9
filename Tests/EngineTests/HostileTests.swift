// SPDX-License-Identifier: Apache-2.0
import Basics
import Cryptography
import ESP
import FMKE
import GroupMember
import IKEv1
import ISAKMP
import KeyServer
import Store
import Testing

/// What a member that has its keys and obeys no rule can do to the server and to the others.
@Suite struct HostileMemberTests {
    private func report(
        _ number: UInt64, complete: UInt64, group: UInt32 = 7, missing: [GroupReport.Missing] = [],
        wantsProfile: Bool = false, wantsRekey: Bool = false
    ) -> Status {
        Status(
            report: number,
            groups: [
                GroupReport(
                    group: group, epoch: 1, complete: complete, sequence: 0, missing: missing,
                    wantsProfile: wantsProfile, wantsRekey: wantsRekey)
            ])
    }

    @Test func madeUpTransactionsLeaveNoTrace() throws {
        let world = try HostileMembers()
        world.mallory.acknowledges = false
        world.register(world.mallory)
        let (lines, records) = (world.log.count, world.records)
        for number in UInt64(1)...500 { try world.send(report(number, complete: number), from: world.mallory) }
        #expect(world.log.count == lines && world.records == records)
        try world.send(report(501, complete: .max), from: world.mallory)
        #expect(world.group.members.first { $0.client == "bob" }?.confirmedTransaction == 0)
        #expect(world.group.members.first { $0.client == "mallory" }?.confirmedTransaction == 0)
    }

    /// Who claims to have newer keys than there are stops its group, and no longer than until it is revoked.
    @Test(arguments: [2_000_000, UInt64.max], [false, true])
    func keysFromTheFutureStopAGroupUntilTheMemberIsRevoked(claim: UInt64, isOpen: Bool) throws {
        let world = try HostileMembers()
        world.register(world.mallory)
        world.register(world.bob)
        var open: UInt64?
        if isOpen {
            open = try world.keyServer.rekey(group: "news", includingKEK: false, now: world.now)
            world.drainServer()
        }
        try world.send(report(1, complete: claim), from: world.mallory)
        let (profiles, pushes) = (world.bob.profiles.count, world.pushes.count)
        #expect(throws: CommandError.self) {
            try world.keyServer.rekey(group: "news", includingKEK: true, now: world.now)
        }
        #expect(world.run(.seconds(4 * 3_600)) < 20_000, "rekeys come due, and nothing spins")
        // BEACONs go on, but for those of rounds that stand still.
        #expect(world.bob.profiles.count == profiles && (isOpen || world.pushes.count > pushes))
        let status = world.keyServer.snapshot(now: world.now)
        #expect(status.state == "degraded" && status.alarms.contains { $0.contains("gcks revoke mallory") })
        if claim == .max {
            #expect(throws: CommandError.heldBack("what client mallory reports cannot be; revoke it first")) {
                try world.keyServer.recover(now: world.now)
            }
        }
        _ = try world.keyServer.revoke(client: "mallory", now: world.now)
        world.drainServer()
        world.run(.seconds(60))
        #expect(world.bob.profiles.count > profiles)
        #expect(world.verdicts.last { $0.reason == .revocation }?.verdict == "confirmed")
        if let open { #expect(world.verdicts.contains { $0.transaction == open }) }
        #expect(!world.keyServer.snapshot(now: world.now).alarms.contains { $0.contains("newer keys") })
    }

    @Test func aMemberDoesNotConfirmForAnother() throws {
        let world = try HostileMembers()
        world.register(world.mallory)
        world.register(world.bob)
        world.bob.acknowledges = false
        let transaction = try world.keyServer.rekey(group: "news", includingKEK: false, now: world.now)
        world.drainServer()
        for number in UInt64(1)...50 { try world.send(report(number, complete: transaction), from: world.mallory) }
        #expect(world.group.members.first { $0.client == "bob" }?.isCurrent == false)
        world.run(.seconds(60))
        #expect(world.verdicts.last?.unconfirmed.map(\.client) == ["bob"])
    }

    @Test func aFloodOfReportsMakesFewLines() throws {
        let world = try HostileMembers()
        world.register(world.mallory)
        let lines = world.log.count
        for number in UInt64(1)...2_000 { try world.send(report(number, complete: .max), from: world.mallory) }
        #expect(world.log.count - lines <= 25, "\(world.log.count - lines) lines of 2,000 reports")
    }

    @Test func aFloodOfRequestsGetsOneProfileASecond() throws {
        let world = try HostileMembers()
        world.register(world.mallory)
        let before = world.mallory.profiles.count
        let complete = world.group.transaction
        for number in UInt64(1)...1_000 {
            world.run(.milliseconds(10))
            try world.send(
                report(
                    number, complete: complete,
                    missing: [GroupReport.Missing(transaction: .max, block: 9, needed: 255)], wantsProfile: true),
                from: world.mallory)
        }
        #expect(world.mallory.profiles.count - before <= 11)
    }

    @Test func aSenderThatKeepsComingBackDoesNotRollTheGroupOverAndOver() throws {
        let world = try HostileMembers()
        world.register(world.bob)
        world.register(world.mallory)
        let first = world.group.transaction
        for _ in 0..<100 {
            world.restart(world.mallory)
            world.run(.milliseconds(200))
        }
        #expect(world.group.transaction > first, "its counters may be gone, so the keys change")
        #expect(world.group.transaction - first <= 5, "\(world.group.transaction - first) in 20 seconds")
        #expect(world.keyServer.snapshot(now: world.now).sas.count <= 3)
        #expect(world.lines("client.authenticated") < 60)
    }

    @Test func aSenderThatKeepsAskingForNewKeysDoesNotEither() throws {
        let world = try HostileMembers()
        world.register(world.bob)
        world.register(world.mallory)
        world.run(.seconds(10))
        let first = world.group.transaction
        for number in UInt64(1)...600 {
            world.run(.milliseconds(100))
            try world.send(
                report(number, complete: world.group.transaction, wantsRekey: true), from: world.mallory)
        }
        #expect((1...9).contains(world.group.transaction - first), "\(world.group.transaction - first) in a minute")
    }

    @Test func senderIDsAreNeverGivenTwice() throws {
        // All but one are spent.
        var writer = OctetWriter()
        writer.u64(65_535)
        let world = try HostileMembers(records: [Record("group/7/sender-id", Secret(writer.bytes))])
        world.register(world.bob)
        #expect(world.bob.profiles.last?.groups.first?.membership.senderID == 65_535)
        world.register(world.mallory)
        #expect(world.mallory.profiles.last?.groups.isEmpty == true, "a sender without an id gets no key")
        world.restart(world.bob)
        #expect(world.bob.profiles.last?.groups.isEmpty == true)
        #expect(world.lines("group.sender-ids-exhausted") == 2)
    }

    @Test func afterItsRevocationNothingOfAnOpenTransactionIsSentUnderAKEKItKnows() throws {
        let world = try HostileMembers()
        world.register(world.mallory)
        world.register(world.bob)
        world.run(.seconds(1))
        let rekeySA = try #require(world.mallory.profiles.last?.groups.first?.rekeySA)
        // Nobody answers, so the multicast is repeated.
        world.bob.acknowledges = false
        let open = try world.keyServer.rekey(group: "news", includingKEK: false, now: world.now)
        world.drainServer()
        let at = world.now + .milliseconds(50)
        world.run(.milliseconds(50))
        let locked = try world.keyServer.revoke(client: "mallory", now: world.now)
        world.drainServer()
        world.run(.seconds(30))
        let known = world.pushes.filter { $0.at >= at && PushEnvelope.peek($0.bytes)?.spi == rekeySA.spi }
        #expect(known.isEmpty, "\(known.count) PUSHes under the old KEK after the revocation")
        #expect(world.verdicts.first { $0.transaction == open }?.verdict != nil, "its end is reported all the same")
        #expect(world.verdicts.first { $0.transaction == locked["news"] }?.unconfirmed.map(\.client) == ["bob"])
    }

    @Test func aRevokedMemberIsNotHeardAnyMore() throws {
        let world = try HostileMembers()
        world.register(world.mallory)
        world.register(world.bob)
        let profiles = world.mallory.profiles.count
        let old = world.mallory.endpoint.associations.map(\.id)
        _ = try world.keyServer.revoke(client: "mallory", now: world.now)
        world.drainServer()
        #expect(!old.isEmpty && world.mallory.endpoint.associations.isEmpty, "its SA is deleted")
        for _ in 0..<5 {
            world.register(world.mallory)
            world.run(.seconds(20))
        }
        #expect(world.mallory.profiles.count == profiles)
    }

    @Test func aRevocationInTheMiddleOfARegistrationWins() throws {
        let world = try HostileMembers()
        world.register(world.bob)
        let server = world.keyServer
        // Main Mode by hand up to message 5, which arrives after the revocation.
        let mallory = world.mallory
        _ = mallory.endpoint.initiate(
            mallory.credential, from: mallory.address, to: HostileMembers.server, now: world.now)
        var last: [UInt8] = []
        for _ in 0..<3 {
            last = []
            while let output = mallory.endpoint.poll() { if case .transmit(let out) = output { last = out.bytes } }
            guard last.count > 19, last[19] & 1 == 0 else { break }
            server.receive(
                Datagram(local: HostileMembers.server, remote: mallory.address, bytes: last), now: world.now)
            var answer: [UInt8] = []
            loop: while true {
                switch server.poll() {
                case .transmit(let out): if out.remote == mallory.address { answer = out.bytes }
                case .wait: break loop
                default: break
                }
            }
            mallory.endpoint.receive(
                Datagram(local: mallory.address, remote: HostileMembers.server, bytes: answer), now: world.now)
        }
        try #require(last.count > 19 && last[19] & 1 == 1, "message 5 is ready")
        _ = try server.revoke(client: "mallory", now: world.now)
        world.drainServer()
        world.inject(last, from: mallory.address)
        #expect(mallory.profiles.isEmpty && world.lines("client.refused") == 1)
    }

    @Test func madeUpOpeningsMakeFewLines() throws {
        let world = try HostileMembers()
        // A proposal that nobody takes, with a fresh cookie each time, in the name of a client.
        let mallory = world.mallory
        let stranger = Phase1Endpoint(
            configuration: Phase1Configuration(identity: .name("x"), isResponder: false),
            credentials: Anyone(), random: SeededRandom(seed: 9))
        var suite = mallory.credential
        suite.suites = [try #require(Phase1Suite("aes128-sha1-modp1024"))]
        for number in 0..<3_000 {
            let remote = SocketAddress(HostileMembers.server.address, UInt16(1_000 + number))
            _ = stranger.initiate(suite, from: mallory.address, to: remote, now: world.now)
        }
        while let output = stranger.poll() {
            if case .transmit(let out) = output { world.inject(out.bytes, from: mallory.address) }
        }
        #expect((1...30).contains(world.log.count { $0.level >= .warning }))
        let omitted = world.keyServer.snapshot(now: world.now)
        #expect(omitted.clients.allSatisfy { $0.state == "absent" })
    }

    @Test func aProfileIsNotRepeatedOnceANewerOneSaysItAll() throws {
        let world = try HostileMembers()
        world.register(world.mallory)
        world.mallory.acknowledges = false
        let complete = world.group.transaction
        for number in UInt64(1)...100 {
            world.run(.milliseconds(1_100))
            try world.send(report(number, complete: complete, wantsProfile: true), from: world.mallory)
            #expect(world.keyServer.snapshot(now: world.now).clients.allSatisfy { $0.pendingConfigures <= 1 })
        }
        #expect(world.lines("configure.failed") == 0)
    }

    @Test func aClockThatJumpsHoursNeitherSpinsNorLeavesOldKeys() throws {
        let world = try HostileMembers()
        world.register(world.mallory)
        world.register(world.bob)
        world.run(.seconds(5))
        let before = Set(world.keyServer.snapshot(now: world.now).sas.map(\.spi))
        world.now = world.now + .seconds(200_000)
        world.keyServer.advance(to: world.now)
        world.drainServer()
        #expect(world.run(.seconds(60)) < 1_000)
        let after = Set(world.keyServer.snapshot(now: world.now).sas.map(\.spi))
        #expect(!after.isEmpty && after.isDisjoint(with: before))
    }

    private final class Anyone: CredentialSource {
        func credential(for address: IPAddress) -> PeerCredential? { nil }
    }
}

/// What a GCKS, or a network that holds its messages back, can do to a member.
@Suite struct HostileServerTests {
    @Test func aProfileHeldBackDoesNotBringOldSAsBack() throws {
        let world = try HostileServer()
        try world.configure(10, [world.section(transaction: 1, [world.dataSA(1)])])
        world.run(.seconds(1))
        #expect(world.active == world.key(1))
        // A second profile of the same keys is held back, new keys come by PUSH, the old ones go.
        world.isHeld = true
        try world.configure(11, [world.section(transaction: 1, [world.dataSA(1)])])
        world.isHeld = false
        try world.push(2, [world.dataSA(2)])
        world.run(.seconds(60))
        #expect(world.active == world.key(2) && world.outbound[world.key(1)] == nil)
        world.release()
        world.run(.seconds(5))
        #expect(world.answers.map(\.sequence).contains(11), "it is answered")
        #expect(world.active == world.key(2) && world.outbound[world.key(1)] == nil)
    }

    @Test func aProfileThatIsLongOnItsWayDoesNotEither() throws {
        let world = try HostileServer()
        try world.configure(10, [world.section(transaction: 1, [world.dataSA(1)])])
        world.run(.seconds(1))
        try world.push(2, [world.dataSA(2)])
        world.run(.seconds(3))
        // Written while the old SA was still kept, read when it is gone.
        world.isHeld = true
        try world.configure(
            11, [world.section(transaction: 2, [world.dataSA(1, deactivateIn: 4_000), world.dataSA(2)])])
        world.isHeld = false
        world.run(.seconds(10))
        world.release()
        world.run(.seconds(20))
        #expect(world.active == world.key(2), "the SA in use stays in use")
        #expect(world.outbound.count == 1)
    }

    /// What the GCKS had used before it wrote a profile is old, also when the profile itself was overtaken by newer
    /// keys.
    @Test func aStaleProfileRaisesTheFloorToo() throws {
        let world = try HostileServer()
        try world.configure(10, [world.section(transaction: 1, [world.dataSA(1)])])
        try world.push(2, [world.dataSA(2)])
        var late = world.section(transaction: 1, [world.dataSA(1)])
        late.membership.sequence = 1_000_000
        try world.configure(11, [late])
        try world.push(3, [world.dataSA(3)])
        #expect(world.outbound[world.key(2)] != nil && world.outbound[world.key(3)] == nil)
    }

    @Test func anSAThatIsBeingReplacedDoesNotReplaceItsSuccessor() throws {
        let world = try HostileServer()
        try world.configure(10, [world.section(transaction: 1, [world.dataSA(1)])])
        // The PUSH of transaction 2 is lost, that of 3 comes; a profile then names the SA of 2 as well.
        try world.push(3, [world.dataSA(3)])
        world.run(.seconds(3))
        #expect(world.active == world.key(3))
        try world.configure(
            11, [world.section(transaction: 3, [world.dataSA(2, deactivateIn: 3_000), world.dataSA(3)])])
        world.run(.seconds(1))
        #expect(world.active == world.key(3))
        world.run(.seconds(20))
        #expect(world.active == world.key(3))
    }

    @Test func partsOfAProfileCountInWhateverOrderTheyCome() throws {
        let world = try HostileServer()
        world.isHeld = true
        try world.configure(10, generation: 5, part: 0, of: 2, [world.section(transaction: 1, [world.dataSA(1)])])
        world.isHeld = false
        let second = world.section(group: 2, transaction: 1, [world.dataSA(1, group: 2)])
        try world.configure(11, generation: 5, part: 1, of: 2, [second])
        world.release()
        #expect(world.member.snapshot(now: world.now).groups.map(\.id) == [1, 2])
        #expect(world.answers.map(\.sequence).sorted() == [10, 11])
        // What is older than the generation stays out.
        try world.configure(9, generation: 5, part: 1, of: 2, [second])
        try world.configure(10, generation: 5, part: 0, of: 2, [])
        #expect(world.answers.count == 2)
    }

    @Test func whatTheDataPlaneRefusedIsNotConfirmed() throws {
        let world = try HostileServer()
        try world.configure(10, [world.section(transaction: 1, [world.dataSA(1)])])
        world.refuses = { $0 == world.key(2) }
        try world.push(2, [world.dataSA(2)])
        world.run(.seconds(1))
        #expect(world.reports.last?.groups.first?.complete == 1)
        world.run(.seconds(2))
        #expect(world.active != world.key(2))
        // When the data plane is well again the next profile helps.
        world.refuses = { _ in false }
        try world.configure(11, [world.section(transaction: 2, [world.dataSA(2)])])
        world.run(.seconds(1))
        #expect(world.answers.last?.isAcknowledgement == true && world.active == world.key(2))
    }

    @Test func aMessageOnTheNATPortIsNoPushWhateverItsCookies() throws {
        let member = GroupMember(
            GroupMember.Configuration(
                name: "site1", local: HostileServer.local, gcks: HostileServer.gcks,
                preSharedKey: Secret(Array("a pre-shared key for hostile tests".utf8)), suites: [.standard]),
            random: SeededRandom(seed: 3))
        let now = Instant.zero + .seconds(1)
        member.start(now: now)
        // Non-ESP marker, cookies, and an informational message; the responder's cookie has 241 at octet 18.
        var bytes = [UInt8](repeating: 0, count: 4) + [UInt8](repeating: 241, count: 16)
        bytes += [8, 0x10, 5, 1, 0, 0, 0, 1, 0, 0, 0, 60] + [UInt8](repeating: 0, count: 32)
        member.receive(
            Datagram(
                local: SocketAddress(HostileServer.local.address, 4500),
                remote: SocketAddress(HostileServer.gcks.address, 4500), bytes: bytes), now: now)
        #expect(member.snapshot(now: now).drops == ["unknownCookies": 1], "phase 1 looked at it")
    }

    @Test func aProfileWithoutDataSAsLeavesNoKeyBehind() throws {
        let world = try HostileServer()
        try world.configure(10, [world.section(transaction: 1, [world.dataSA(1)])])
        world.run(.seconds(1))
        #expect(world.active == world.key(1))
        try world.configure(11, [world.section(transaction: 1, [])])
        world.run(.seconds(3_700))
        #expect(world.outbound.isEmpty && world.active == nil, "the SA went from the data plane too")
    }

    @Test func newKeysAreUsedWhoeverNamesThem() throws {
        let world = try HostileServer()
        // Registered in the middle of a roll-over: both SAs seem to end at the same second.
        try world.configure(10, [world.section(transaction: 2, [world.dataSA(1), pending(world.dataSA(2))])])
        world.run(.seconds(1))
        #expect(world.active == world.key(1))
        world.run(.seconds(2))
        #expect(world.active == world.key(2))
    }

    private func pending(_ sa: DataSA) -> DataSA {
        var sa = sa
        sa.activateInMilliseconds = 2_000
        return sa
    }

    @Test func anOldKEKEndsWithItsLifetime() throws {
        let world = try HostileServer()
        try world.configure(10, [world.section(transaction: 1, lifetime: 20, [world.dataSA(1)])])
        world.run(.seconds(10))
        try world.push(2, next: world.rekeySA(2), [world.dataSA(2)], deactivateIn: .max)
        #expect(world.member.snapshot(now: world.now).groups.first?.epoch == 2)
        world.run(.seconds(15))
        try world.push(3, [world.dataSA(3)])
        #expect(world.member.snapshot(now: world.now).groups.first?.transaction == 2)
    }

    @Test func unknownKEKsMakeItAskEverMoreRarely() throws {
        let world = try HostileServer()
        try world.configure(10, [world.section(transaction: 1, [world.dataSA(1)])])
        world.run(.seconds(1))
        let sealer = try PushSealer(group: 1, rekeySA: world.rekeySA(99), signingKey: world.signingKey)
        let header = TransactionHeader(
            kind: .beacon, group: 1, epoch: 99, transaction: 9, feedback: FeedbackRequest(mode: .none),
            activateInMilliseconds: 0, deactivateInMilliseconds: 0)
        let bytes = try sealer.seal(header, body: [], sequence: 1_000)
        for _ in 0..<1_000 {
            world.receive(Datagram(local: HostileServer.control, remote: HostileServer.gcks, bytes: bytes))
            world.run(.seconds(1))
        }
        let asked = world.reports.count { $0.groups.contains(where: \.wantsProfile) }
        #expect((3...12).contains(asked), "asked \(asked) times in 1,000 s")
    }

    @Test func absurdTimesNeitherTrapNorSpin() throws {
        let world = try HostileServer()
        try world.configure(10, [world.section(transaction: 1, lifetime: .max, [world.dataSA(1)])])
        var sa = world.dataSA(2)
        sa.lifetimeSeconds = .max
        try world.push(.max - 1, [sa], activateIn: .max, deactivateIn: .max)
        #expect(world.run(.seconds(3_000)) < 1_000)
        var short = world.section(transaction: .max, lifetime: 1, [world.dataSA(3)])
        short.dataSAs[0].lifetimeSeconds = 1
        try world.configure(11, [short])
        #expect(world.run(.seconds(3_000)) < 1_000)
        world.now = world.now + .seconds(1 << 32)
        world.member.advance(to: world.now)
        #expect(world.run(.seconds(60)) < 1_000)
    }

    @Test func aFloodOfGroupsStopsAtTheLimit() throws {
        let world = try HostileServer()
        for number in UInt8(1)...200 {
            try world.configure(
                UInt64(number), generation: 1, part: UInt16(number), of: 1_000,
                [world.section(group: number, transaction: 1, [world.dataSA(1, group: number)])])
        }
        for transaction in UInt64(2)...100 {
            try world.push(transaction, [world.dataSA(UInt8(transaction))], deactivateIn: .max)
        }
        let snapshot = world.member.snapshot(now: world.now)
        #expect(snapshot.groups.count <= Limits().groupsPerProfile)
        #expect(snapshot.sas.count { $0.group == "group1" } <= Limits().dataAssociationsPerGroup * 4)
    }
}
