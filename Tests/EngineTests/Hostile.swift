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

/// One credential for everybody.
private final class Anybody: CredentialSource {
    let credential: PeerCredential
    init(_ credential: PeerCredential) { self.credential = credential }
    func credential(for address: IPAddress) -> PeerCredential? { credential }
}

/// The real server, and members that have their keys but obey no rule: whatever can be sent under an ISAKMP SA, they
/// send. Without delay and loss.
final class HostileMembers {
    static let server = SocketAddress(.v4(10, 0, 0, 10), 848)
    static let names = ["mallory", "bob"]

    final class Member {
        let endpoint: Phase1Endpoint
        let credential: PeerCredential
        let address: SocketAddress
        var association: AssociationID?
        var profiles: [Configure] = []
        var acknowledges = true

        init(_ index: Int, key: Secret) {
            let name = HostileMembers.names[index]
            address = SocketAddress(.v4(10, 0, 0, UInt8(20 + index)), 848)
            credential = PeerCredential(
                name: "gcks", preSharedKey: key, expectedIdentity: nil, suites: [.standard], lifetime: .seconds(28_800))
            endpoint = Phase1Endpoint(
                configuration: Phase1Configuration(identity: .name(name), isResponder: false),
                credentials: Anybody(credential), random: SeededRandom(seed: UInt64(index) + 77))
        }
    }

    var now = Instant.zero + .seconds(1)
    let keyServer: KeyServer
    let store = MemoryStore()
    private(set) var members: [Member] = []
    private(set) var log: [LogEvent] = []
    private(set) var records = 0
    private(set) var pushes: [(at: Instant, bytes: [UInt8])] = []
    private(set) var verdicts: [VerdictReport] = []
    private(set) var wait: Instant?

    init(adjust: (inout GroupEntry) -> Void = { _ in }, records: [Record] = []) throws {
        store.put(records)
        let keys = Self.names.map { Secret(Array("pre-shared key of \($0), 32 octets".utf8)) }
        let members = Self.names.indices.map { Member($0, key: keys[$0]) }
        self.members = members
        let flow = TrafficSelector(source: .allV4, destination: IPPrefix(host: .v4(239, 1, 1, 1)))
        var group = GroupEntry(
            name: "news", id: 7, control: SocketAddress(.v4(239, 255, 0, 1), 848), flows: [flow], suite: .aes128gcm,
            members: Self.names.map { ($0, .both) })
        adjust(&group)
        let clients = Self.names.indices.map {
            ClientEntry(
                name: Self.names[$0], address: members[$0].address.address, preSharedKey: keys[$0],
                suites: [.standard])
        }
        let configuration = KeyServer.Configuration(
            identity: "gcks.example", address: Self.server, signingKey: try SigningKey.generate(.ed25519),
            inventory: Inventory(clients: clients, groups: [group]), numberFloor: 1_000_000)
        keyServer = try KeyServer(configuration, records: store, random: SeededRandom(seed: 5), now: now)
        drainServer()
    }

    var mallory: Member { members[0] }
    var bob: Member { members[1] }
    var group: ServerSnapshot.Group { keyServer.snapshot(now: now).groups[0] }
    func lines(_ name: String) -> Int { log.count { $0.name == name } }

    func register(_ member: Member) {
        _ = member.endpoint.initiate(member.credential, from: member.address, to: Self.server, now: now)
        drain(member)
    }

    /// Forgets its ISAKMP SA, so that the next registration is an initial contact, and registers.
    func restart(_ member: Member) {
        for info in member.endpoint.associations { member.endpoint.close(info.id, now: now) }
        while member.endpoint.poll() != nil {}
        register(member)
    }

    func send(_ status: Status, from member: Member) throws {
        let id = try #require(member.association)
        _ = try member.endpoint.send(.status, try status.payloads(), on: id, now: now)
        drain(member)
    }

    func inject(_ bytes: [UInt8], from remote: SocketAddress) {
        keyServer.receive(Datagram(local: Self.server, remote: remote, bytes: bytes), now: now)
        drainServer()
    }

    /// Lets the time go on in steps at which the server is due, and counts them.
    @discardableResult
    func run(_ duration: Duration) -> Int {
        let end = now + duration
        var steps = 0
        while let wait, wait <= end, steps < 100_000 {
            now = max(now, wait)
            steps += 1
            keyServer.advance(to: now)
            drainServer()
        }
        now = end
        return steps
    }

    func drainServer() {
        while true {
            switch keyServer.poll() {
            case .persist(let changes):
                // That a report was read is noted whatever it says.
                records += changes.count {
                    if case .put(let record) = $0 { !record.name.hasSuffix("/state") } else { true }
                }
                store.apply(changes)
            case .transmit(let datagram):
                if datagram.remote.address.isMulticast { pushes.append((now, datagram.bytes)) }
                for member in members where member.address == datagram.remote {
                    member.endpoint.receive(
                        Datagram(local: datagram.remote, remote: datagram.local, bytes: datagram.bytes), now: now)
                    drain(member)
                }
            case .audit: break
            case .log(let event): log.append(event)
            case .ended(let report): verdicts.append(report)
            case .associationUp: break
            case .wait(let until):
                wait = until
                return
            }
        }
    }

    private func drain(_ member: Member) {
        while let output = member.endpoint.poll() {
            switch output {
            case .transmit(let datagram): inject(datagram.bytes, from: datagram.local)
            case .event(.established(let info)): member.association = info.id
            case .event(.request(let info, let exchange, let messageID, let payloads)):
                guard exchange == .configure, let profile = try? Configure(payloads: payloads) else { continue }
                member.profiles.append(profile)
                guard member.acknowledges else { continue }
                let answer = ConfigureAnswer(sequence: profile.sequence, items: [])
                try? member.endpoint.respond(
                    try answer.payloads(), to: messageID, exchange: .configure, on: info.id, now: now)
            case .event, .wait: break
            }
        }
    }
}

/// A real member, and a GCKS that has its keys but obeys no rule. Without delay and loss.
final class HostileServer {
    static let gcks = SocketAddress(.v4(10, 0, 0, 10), 848)
    static let local = SocketAddress(.v4(10, 0, 0, 20), 848)
    static let control = SocketAddress(.v4(239, 255, 0, 1), 848)

    var now = Instant.zero + .seconds(1)
    let member: GroupMember
    let endpoint: Phase1Endpoint
    let signingKey: SigningKey
    private(set) var association: AssociationID?
    private(set) var answers: [ConfigureAnswer] = []
    private(set) var reports: [Status] = []
    private(set) var changes: [SAChange] = []
    private(set) var log: [LogEvent] = []
    private(set) var wait: Instant?
    private(set) var active: SAKey?
    private(set) var outbound: [SAKey: SAParameters] = [:]
    /// What the data plane does with an SA.
    var refuses: (SAKey) -> Bool = { _ in false }
    /// What is sent to the member does not reach it.
    var isHeld = false
    private(set) var held: [Datagram] = []
    private var sequence: UInt64 = 100

    init() throws {
        let key = Secret(Array("a pre-shared key for hostile tests".utf8))
        signingKey = try SigningKey.generate(.ed25519)
        member = GroupMember(
            GroupMember.Configuration(
                name: "site1", local: Self.local, gcks: Self.gcks, preSharedKey: key, suites: [.standard]),
            random: SeededRandom(seed: 3))
        endpoint = Phase1Endpoint(
            configuration: Phase1Configuration(identity: .name("gcks"), isResponder: true),
            credentials: Anybody(
                PeerCredential(
                    name: "site1", preSharedKey: key, expectedIdentity: nil, suites: [.standard],
                    lifetime: .seconds(28_800))), random: SeededRandom(seed: 4))
        member.start(now: now)
        drainMember()
    }

    func rekeySA(_ epoch: UInt32, lifetime: UInt32 = 86_400) -> RekeySA {
        RekeySA(
            spi: RekeySPI(high: 1, low: UInt64(epoch)), source: Self.gcks.address, control: Self.control, epoch: epoch,
            lifetimeSeconds: lifetime, signatureAlgorithm: .ed25519, verifyingKey: signingKey.publicKey,
            kek: Secret([UInt8](repeating: UInt8(epoch), count: 32)))
    }

    func dataSA(_ number: UInt8, group: UInt8 = 1, deactivateIn: UInt32? = nil) -> DataSA {
        var sa = DataSA(
            spi: 0x1000 + UInt32(number) + UInt32(group) << 16,
            selector: TrafficSelector(source: .allV4, destination: IPPrefix(host: .v4(239, 1, 1, group))),
            suite: .aes128gcm, direction: .symmetric, lifetimeSeconds: 3_600,
            cipherKey: Secret([UInt8](repeating: number, count: 20)), authenticationKey: nil)
        sa.deactivateInMilliseconds = deactivateIn
        return sa
    }

    func key(_ number: UInt8) -> SAKey { SAKey(spi: dataSA(number).spi, destination: .v4(239, 1, 1, 1)) }

    func section(
        group: UInt8 = 1, transaction: UInt64, epoch: UInt32 = 1, lifetime: UInt32 = 86_400, index: UInt32 = 0,
        tree: [UInt8]? = nil, _ sas: [DataSA]
    ) -> GroupSection {
        var rekeySA = rekeySA(epoch, lifetime: lifetime)
        rekeySA.spi.high = UInt64(group)
        return GroupSection(
            group: UInt32(group), name: "group\(group)",
            membership: Membership(memberIndex: index, senderID: 9, sequence: 1, transaction: transaction),
            rekeySA: rekeySA, dataSAs: sas, treeKeys: tree.map { Secret($0) })
    }

    func configure(
        _ sequence: UInt64, generation: UInt32? = nil, part: UInt16 = 0, of parts: UInt16 = 1, _ groups: [GroupSection]
    ) throws {
        let id = try #require(association)
        let message = Configure(
            sequence: sequence, generation: generation ?? UInt32(sequence), part: part, partCount: parts,
            groups: groups)
        _ = try endpoint.request(.configure, try message.payloads(), on: id, now: now)
        drainServer()
    }

    /// A PUSH of group 1, sealed with the KEK of an epoch.
    func push(
        _ transaction: UInt64, epoch: UInt32 = 1, next: RekeySA? = nil, _ sas: [DataSA], activateIn: UInt32 = 2_000,
        deactivateIn: UInt32 = 7_000, slice: [UInt8]? = nil, groupKey: Secret? = nil
    ) throws {
        let sealer = try PushSealer(group: 1, rekeySA: rekeySA(epoch), signingKey: signingKey)
        let header = TransactionHeader(
            kind: .data, group: 1, epoch: epoch, transaction: transaction,
            feedback: FeedbackRequest(mode: .all, slotMicroseconds: 10_000, slots: 1),
            activateInMilliseconds: activateIn,
            deactivateInMilliseconds: deactivateIn)
        sequence += 1
        let update = KeyUpdate(rekeySA: next, dataSAs: sas, replaced: [], treeSlice: slice)
        let body = groupKey.map { update.masked(groupKey: $0, group: 1, transaction: transaction) } ?? update
        let bytes = try sealer.seal(header, body: body.body(), sequence: sequence)
        receive(Datagram(local: Self.control, remote: Self.gcks, bytes: bytes))
    }

    func receive(_ datagram: Datagram) {
        member.receive(datagram, now: now)
        drainMember()
    }

    /// Gives the member what was held back.
    func release() {
        isHeld = false
        let datagrams = held
        held = []
        datagrams.forEach(receive)
    }

    /// Lets the time go on in steps at which the member is due, and counts them.
    @discardableResult
    func run(_ duration: Duration) -> Int {
        let end = now + duration
        var steps = 0
        while let wait, wait <= end, steps < 100_000 {
            now = max(now, wait)
            steps += 1
            member.advance(to: now)
            drainMember()
        }
        now = end
        return steps
    }

    private func drainServer() {
        while let output = endpoint.poll() {
            switch output {
            case .transmit(let datagram):
                let arriving = Datagram(local: datagram.remote, remote: datagram.local, bytes: datagram.bytes)
                if isHeld { held.append(arriving) } else { receive(arriving) }
            case .event(.established(let info)): association = info.id
            case .event(.answer(_, _, _, let payloads)):
                if let answer = try? ConfigureAnswer(payloads: payloads) { answers.append(answer) }
            case .event(.request(_, _, _, let payloads)):
                if let status = try? Status(payloads: payloads) { reports.append(status) }
            case .event, .wait: break
            }
        }
    }

    private func drainMember() {
        while true {
            switch member.poll() {
            case .transmit(let datagram):
                endpoint.receive(
                    Datagram(local: datagram.remote, remote: datagram.local, bytes: datagram.bytes), now: now)
                drainServer()
            case .data(let change): apply(change)
            case .log(let event): log.append(event)
            case .persist, .joinControl, .leaveControl, .associationUp: break
            case .wait(let until):
                wait = until
                return
            }
        }
    }

    private func apply(_ change: SAChange) {
        changes.append(change)
        switch change {
        case .addInbound(let parameters):
            if refuses(parameters.key) { member.dataPlaneFailed(parameters.key, now: now) }
        case .addOutbound(let parameters):
            if refuses(parameters.key) { return member.dataPlaneFailed(parameters.key, now: now) }
            outbound[parameters.key] = parameters
        case .activateOutbound(let key): active = outbound[key] == nil ? active : key
        case .removeOutbound(let key):
            outbound[key] = nil
            if active == key { active = nil }
        case .removeInbound: break
        case .removeAll: (outbound, active) = ([:], nil)
        }
    }
}
