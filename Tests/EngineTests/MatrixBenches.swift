// SPDX-License-Identifier: Apache-2.0
import Basics
import Cryptography
import ESP
import ErasureCode
import FMKE
import GroupMember
import IKEv1
import ISAKMP
import KeyServer
import ReliablePush
import Store
import Testing

/// What the engine under test did because of one datagram.
struct Reaction {
    var transmitted: [Datagram] = []
    /// What no unauthenticated datagram may bring about: records, changes of the data plane, joins, verdicts.
    var deeds: [String] = []
}

/// One engine under test and its peer, driven message by message. Each step of the script brings about one message to
/// the engine; the same seed gives the same octets again.
protocol MatrixBench: AnyObject {
    /// Names of the steps' messages, in order.
    static var script: [String] { get }
    /// Situations beside those on the way through the script: so many steps, then something else that happens.
    static var twists: [(name: String, after: Int)] { get }
    /// So many steps are gone on with after a message that came too early.
    static var reordered: Int { get }
    /// Messages that are a lie before their time.
    static var neverEarly: Set<String> { get }
    init(keys: UInt8, seed: UInt64) throws
    /// Brings about the message of a step, and gives it before it is delivered.
    func produce(_ step: Int) throws -> Datagram
    func twist(_ name: String) throws
    /// Hands a datagram to the engine, and its answers to nobody.
    func inject(_ datagram: Datagram) -> Reaction
    /// Hands a datagram to the engine, and its answers to the peer.
    func deliver(_ datagram: Datagram)
    /// Time that was never before.
    func tick()
    /// All that the engine has sent.
    var sent: [Datagram] { get }
    func digest(without extra: Set<String>) -> [String]
    /// May a message before message 5 or 6, which nothing can authenticate, have an effect on an attempt under way?
    func isOpen(to message: String) -> Bool
    /// What must hold after the script up to and without its last step.
    var isFine: Bool { get }
}

/// One credential for everybody.
private final class OneKey: CredentialSource {
    let credential: PeerCredential
    init(_ credential: PeerCredential) { self.credential = credential }
    func credential(for address: IPAddress) -> PeerCredential? { credential }
}

private func preSharedKey(_ keys: UInt8) -> Secret { Secret(Array("a pre-shared key number \(keys), 32 octets".utf8)) }

// MARK: -

/// A client, and a GCKS whose messages are made here, one at a time.
final class ClientBench: MatrixBench {
    static let script = [
        "message 2", "message 4", "message 6", "CONFIGURE", "R-U-THERE", "R-U-THERE-ACK", "PUSH data",
        "PUSH data, one of two", "PUSH parity", "BEACON", "COMMIT", "PUSH with a new KEK", "CONFIGURE again",
        "message 2 of the next SA", "message 4 of the next SA", "message 6 of the next SA", "Delete",
    ]
    static let reordered = 16
    static let neverEarly: Set<String> = []
    static let twists: [(name: String, after: Int)] = [("restarted, and registered again", 12)]
    private static let gcks = SocketAddress(.v4(10, 0, 0, 10), 848)
    private static let local = SocketAddress(.v4(10, 0, 0, 20), 848)
    private static let control = SocketAddress(.v4(239, 255, 0, 1), 848)

    private(set) var now = Instant.zero + .seconds(1)
    private var member: GroupMember
    private let peer: Phase1Endpoint
    private let keys: UInt8
    private let seed: UInt64
    private var association: AssociationID?
    private var arriving: [Datagram] = []
    private(set) var sent: [Datagram] = []
    private var wait: Instant?
    private var isConnecting = false
    private var sequence: UInt64 = 100
    private let signingKey: SigningKey
    /// The keys of Ed25519 are drawn by the library: once for all benches of a kind.
    private static let signingKeys = [0, 1].map { _ in try? SigningKey.generate(.ed25519) }

    init(keys: UInt8, seed: UInt64) throws {
        (self.keys, self.seed) = (keys, seed)
        signingKey = try #require(Self.signingKeys[Int(keys)])
        member = Self.member(keys, seed: seed)
        let credential = PeerCredential(
            name: "site1", preSharedKey: preSharedKey(keys), expectedIdentity: nil, suites: [.standard],
            lifetime: .seconds(600))
        var configuration = Phase1Configuration(identity: .name("gcks"), isResponder: true)
        configuration.deadPeerInterval = .seconds(500)
        peer = Phase1Endpoint(
            configuration: configuration, credentials: OneKey(credential), random: SeededRandom(seed: seed + 1))
    }

    private static func member(_ keys: UInt8, seed: UInt64) -> GroupMember {
        var configuration = GroupMember.Configuration(
            name: "site1", local: local, gcks: gcks, preSharedKey: preSharedKey(keys), suites: [.standard])
        configuration.phase1Lifetime = .seconds(600)
        return GroupMember(configuration, random: SeededRandom(seed: seed))
    }

    // MARK: The script

    func produce(_ step: Int) throws -> Datagram {
        switch step {
        case 0:
            isConnecting = true
            member.start(now: now)
            pass(drainMember())
        case 3: try configure(10, transaction: 1, epoch: 1, 1)
        case 4: peer.probe(try #require(association), now: now)
        case 5: run(.seconds(40))
        case 6: push(.data, 2, body: try KeyUpdate(rekeySA: nil, dataSAs: [sa(2)], replaced: []).body())
        case 7: push(.data, 3, count: 2, body: try secondBody())
        case 8: push(.parity, 3, index: 2, count: 2, body: try parity())
        case 9: push(.beacon, 3, body: [])
        case 10: push(.commit, 3, body: [])
        case 11: push(.data, 4, body: try KeyUpdate(rekeySA: rekeySA(2), dataSAs: [sa(4)], replaced: []).body())
        case 12: try configure(11, transaction: 5, epoch: 2, 5)
        case 13:
            isConnecting = true
            // Until then each side asks a few times whether the other one lives.
            while true {
                run(.seconds(480))
                drainPeer()
                let first = try #require(arriving.first, "the client did not begin anew")
                if first.bytes[18] == ExchangeType.mainMode.rawValue { break }
                deliver(arriving.removeFirst())
            }
        case 16: peer.close(try #require(association), now: now)
        default: break
        }
        drainPeer()
        try #require(!arriving.isEmpty, "\(Self.script[step]) was not sent")
        return arriving.removeFirst()
    }

    func twist(_ name: String) throws {
        member = Self.member(keys, seed: seed + 7)
        isConnecting = true
        member.start(now: now)
        pass(drainMember())
        drainPeer()
        while !arriving.isEmpty { deliver(arriving.removeFirst()) }
        try configure(12, transaction: 6, epoch: 3, 6)
        drainPeer()
        while !arriving.isEmpty { deliver(arriving.removeFirst()) }
        #expect(member.snapshot(now: now).groups.first?.transaction == 6)
    }

    func rekeySA(_ epoch: UInt32) -> RekeySA {
        RekeySA(
            spi: RekeySPI(high: 1, low: UInt64(epoch)), source: Self.gcks.address, control: Self.control, epoch: epoch,
            lifetimeSeconds: 86_400, signatureAlgorithm: .ed25519, verifyingKey: signingKey.publicKey,
            kek: Secret([UInt8](repeating: UInt8(epoch) + 16 * keys + 64 * UInt8(seed & 1), count: 32)))
    }

    private func sa(_ number: UInt8) -> DataSA {
        DataSA(
            spi: 0x1000 + UInt32(number),
            selector: TrafficSelector(source: .allV4, destination: IPPrefix(host: .v4(239, 1, 1, 1))),
            suite: .aes128gcm, direction: .symmetric, lifetimeSeconds: 3_600,
            cipherKey: Secret([UInt8](repeating: number, count: 20)), authenticationKey: nil)
    }

    private func configure(_ sequence: UInt64, transaction: UInt64, epoch: UInt32, _ number: UInt8) throws {
        let section = GroupSection(
            group: 1, name: "news",
            membership: Membership(memberIndex: 0, senderID: 9, sequence: 1, transaction: transaction),
            rekeySA: rekeySA(epoch), dataSAs: [sa(number)], treeKeys: nil)
        let message = Configure(
            sequence: sequence, generation: UInt32(sequence), part: 0, partCount: 1, groups: [section])
        _ = try peer.request(.configure, try message.payloads(), on: try #require(association), now: now)
    }

    /// Of transaction 3: two data datagrams, of which the first brings what this member needs; it gets the second one,
    /// and makes the first from the parity.
    private func firstBody() throws -> [UInt8] {
        try KeyUpdate(rekeySA: nil, dataSAs: [sa(3)], replaced: []).body()
    }
    private func secondBody() throws -> [UInt8] { try firstBody() }
    private func parity() throws -> [UInt8] {
        let bodies = [try firstBody(), try secondBody()]
        let size = (bodies.map(\.count).max() ?? 0) + Shard.lengthSize
        let shards = try ErasureCode.Shards(bodies.map { try Shard.make($0, size: size) })
        return try shards.parity(2, by: ErasureCode(dataCount: 2))
    }

    private func push(
        _ kind: TransactionHeader.Kind, _ transaction: UInt64, index: UInt8 = 0, count: UInt8 = 1, body: [UInt8]
    ) {
        let epoch: UInt32 = transaction > 4 ? 2 : 1
        var header = TransactionHeader(
            kind: kind, group: 1, epoch: epoch, transaction: transaction,
            feedback: FeedbackRequest(mode: .all, slotMicroseconds: 10_000, slots: 1), activateInMilliseconds: 2_000,
            deactivateInMilliseconds: 7_000)
        (header.index, header.dataCount, header.datagramCount) = (index, count, max(count, index + 1))
        sequence += 1
        do {
            let sealer = try PushSealer(group: 1, rekeySA: rekeySA(epoch), signingKey: signingKey)
            let bytes = try sealer.seal(header, body: body, sequence: sequence)
            arriving.append(Datagram(local: Self.control, remote: Self.gcks, bytes: bytes))
        } catch {
            Issue.record("a PUSH cannot be made: \(error)")
        }
    }

    /// A PUSH that a member makes up: it has the KEK, but not the key that signs.
    func forgedPush() throws -> Datagram {
        let header = TransactionHeader(
            kind: .data, group: 1, epoch: 1, transaction: 50,
            feedback: FeedbackRequest(mode: .all, slotMicroseconds: 10_000, slots: 1), activateInMilliseconds: 0,
            deactivateInMilliseconds: 0)
        let itsKey = try #require(Self.signingKeys[1 - Int(keys)])
        var rekeySA = rekeySA(1)
        rekeySA.verifyingKey = itsKey.publicKey
        let sealer = try PushSealer(group: 1, rekeySA: rekeySA, signingKey: itsKey)
        let body = try KeyUpdate(rekeySA: nil, dataSAs: [sa(99)], replaced: []).body()
        return Datagram(
            local: Self.control, remote: Self.gcks, bytes: try sealer.seal(header, body: body, sequence: 5_000))
    }

    // MARK: Driving

    func tick() { now = now + .microseconds(1) }

    func inject(_ datagram: Datagram) -> Reaction {
        member.receive(datagram, now: now)
        return drainMember()
    }

    func deliver(_ datagram: Datagram) {
        pass(inject(datagram))
        drainPeer()
    }

    private func run(_ duration: Duration) {
        let end = now + duration
        var steps = 0
        while let wait, wait <= end, steps < 10_000, arriving.isEmpty {
            now = max(now, wait)
            steps += 1
            member.advance(to: now)
            pass(drainMember())
            drainPeer()
        }
        if arriving.isEmpty { now = end }
    }

    private func pass(_ reaction: Reaction) {
        sent += reaction.transmitted
        for datagram in reaction.transmitted {
            peer.receive(
                Datagram(local: datagram.remote, remote: datagram.local, bytes: datagram.bytes), now: now)
        }
    }

    private func drainPeer() {
        while let output = peer.poll() {
            switch output {
            case .transmit(let datagram):
                arriving.append(Datagram(local: datagram.remote, remote: datagram.local, bytes: datagram.bytes))
            case .event(.established(let info)): association = info.id
            case .event, .wait: break
            }
        }
    }

    private func drainMember() -> Reaction {
        var reaction = Reaction()
        while true {
            switch member.poll() {
            case .transmit(let datagram): reaction.transmitted.append(datagram)
            case .log: break
            case .wait(let until):
                wait = until
                return reaction
            case .associationUp:
                isConnecting = false
                reaction.deeds.append("an ISAKMP SA")
            case let other: reaction.deeds.append("\(other)")
            }
        }
    }

    func digest(without extra: Set<String>) -> [String] { StateDigest.of(member, without: extra) }

    func isOpen(to message: String) -> Bool {
        // Of its own message 1 the answer differs in the cookie only.
        isConnecting
            && (message.hasPrefix("message") || message == "notification in clear" || message == "its own, exchange 2")
    }

    var isFine: Bool {
        let snapshot = member.snapshot(now: now)
        return snapshot.state == "registered" && snapshot.groups.first?.transaction == 5
    }
}

// MARK: -

/// The GCKS, a client whose messages are made here, one at a time, and another one that has registered before.
final class ServerBench: MatrixBench {
    static let script = [
        "message 1", "message 3", "message 5", "CONFIGURE's ACK", "STATUS", "STATUS with a NACK", "STATUS of the rekey",
        "R-U-THERE", "R-U-THERE-ACK", "message 1 of the next SA", "message 3 of the next SA",
        "message 5 of the next SA", "ACK of the next SA", "STATUS that asks", "CONFIGURE's NACK", "Delete",
    ]
    /// A STATUS that asks comes to nothing where one has just been answered.
    static let reordered = 13
    /// Of a transaction that the server has not begun: it gives out no new keys until an operator has looked.
    static let neverEarly: Set<String> = ["STATUS of the rekey"]
    static let twists: [(name: String, after: Int)] = [("revoked", 9), ("restarted", 9)]
    private static let gcks = SocketAddress(.v4(10, 0, 0, 10), 848)
    private static let clients = [SocketAddress(.v4(10, 0, 0, 20), 848), SocketAddress(.v4(10, 0, 0, 21), 848)]
    private static let names = ["one", "two"]

    private(set) var now = Instant.zero + .seconds(1)
    private var server: KeyServer
    private let store = MemoryStore()
    private let configuration: KeyServer.Configuration
    private let endpoints: [Phase1Endpoint]
    private let credential: PeerCredential
    private var associations: [AssociationID?] = [nil, nil]
    private var requests: [(id: AssociationID, messageID: UInt32, profile: Configure)] = []
    private var arriving: [Datagram] = []
    private(set) var sent: [Datagram] = []
    private var wait: Instant?
    private var report: UInt64 = 0
    private let seed: UInt64
    private static let signingKey = try? SigningKey.generate(.ed25519)

    init(keys: UInt8, seed: UInt64) throws {
        self.seed = seed
        let key = preSharedKey(keys)
        let flow = TrafficSelector(source: .allV4, destination: IPPrefix(host: .v4(239, 1, 1, 1)))
        let group = GroupEntry(
            name: "news", id: 7, control: SocketAddress(.v4(239, 255, 0, 1), 848), flows: [flow], suite: .aes128gcm,
            members: Self.names.map { ($0, .both) })
        let clients = Self.names.indices.map {
            ClientEntry(
                name: Self.names[$0], address: Self.clients[$0].address, preSharedKey: key, suites: [.standard])
        }
        configuration = KeyServer.Configuration(
            identity: "gcks", address: Self.gcks, signingKey: try #require(Self.signingKey),
            inventory: Inventory(clients: clients, groups: [group]), numberFloor: 1_000_000)
        server = try KeyServer(configuration, records: store, random: SeededRandom(seed: seed), now: now)
        let credential = PeerCredential(
            name: "gcks", preSharedKey: key, expectedIdentity: nil, suites: [.standard], lifetime: .seconds(28_800))
        self.credential = credential
        endpoints = Self.names.indices.map {
            var configuration = Phase1Configuration(identity: .name(Self.names[$0]), isResponder: false)
            configuration.deadPeerInterval = .seconds(5_000)
            return Phase1Endpoint(
                configuration: configuration, credentials: OneKey(credential),
                random: SeededRandom(seed: seed + 10 + UInt64($0)))
        }
        pass(drainServer())
        initiate(1)
        while !arriving.isEmpty { deliver(arriving.removeFirst()) }
        try answer(of: 1)
        while !arriving.isEmpty { deliver(arriving.removeFirst()) }
        sent = []
    }

    // MARK: The script

    func produce(_ step: Int) throws -> Datagram {
        let transaction = server.snapshot(now: now).groups[0].transaction
        switch step {
        case 0, 9: initiate(0)
        case 3, 12: try answer(of: 0)
        case 4: try status(complete: transaction)
        case 5:
            _ = try server.rekey(group: "news", includingKEK: false, now: now)
            pass(drainServer())
            let newest = server.snapshot(now: now).groups[0].transaction
            let missing = GroupReport.Missing(transaction: newest, block: 0, needed: 1)
            try status(complete: newest - 1, missing: [missing])
        case 6: try status(complete: transaction)
        case 7: endpoints[0].probe(try #require(associations[0]), now: now)
        case 8: try untilAsked()
        case 13:
            // It was sent its profile just now, and another one not before a second has passed.
            now = now + .seconds(2)
            try status(complete: transaction, asks: true)
        case 14: try answer(of: 0, code: .conflict)
        case 15: endpoints[0].close(try #require(associations[0]), now: now)
        default: break
        }
        drainClients()
        try #require(!arriving.isEmpty, "\(Self.script[step]) was not sent")
        return arriving.removeFirst()
    }

    func twist(_ name: String) throws {
        if name == "revoked" {
            _ = try server.revoke(client: "one", now: now)
        } else {
            now = now + .seconds(1)
            var configuration = configuration
            configuration.numberFloor = UInt64(now.nanoseconds / 1_000)
            server = try KeyServer(configuration, records: store, random: SeededRandom(seed: seed + 99), now: now)
        }
        pass(drainServer())
        arriving = []
    }

    private func initiate(_ index: Int) {
        _ = endpoints[index].initiate(credential, from: Self.clients[index], to: Self.gcks, now: now)
        drainClients()
    }

    private func answer(of index: Int, code: ConfigureAnswer.Code = .installed) throws {
        let position = try #require(requests.lastIndex { $0.id == associations[index] }, "no CONFIGURE came")
        let request = requests.remove(at: position)
        let items = request.profile.groups.flatMap { section in
            section.dataSAs.map { ConfigureAnswer.Item(group: section.group, spi: $0.spi, code: code) }
        }
        let answer = ConfigureAnswer(sequence: request.profile.sequence, items: items)
        try endpoints[index].respond(
            try answer.payloads(), to: request.messageID, exchange: .configure, on: request.id, now: now)
        drainClients()
    }

    private func status(complete: UInt64, missing: [GroupReport.Missing] = [], asks: Bool = false) throws {
        report += 1
        let group = GroupReport(
            group: 7, epoch: 1, complete: complete, sequence: 1, missing: missing, activeSPIs: [], wantsProfile: asks,
            wantsRekey: false)
        _ = try endpoints[0].send(
            .status, try Status(report: report, groups: [group]).payloads(), on: try #require(associations[0]),
            now: now)
    }

    /// Lets the time go on until the server asks whether the client lives, and the answer is there.
    private func untilAsked() throws {
        let end = now + .seconds(100)
        var steps = 0
        while let wait, wait <= end, steps < 10_000 {
            now = max(now, wait)
            steps += 1
            server.advance(to: now)
            let reaction = drainServer()
            sent += reaction.transmitted
            let isAsked = reaction.transmitted.contains { $0.remote == Self.clients[0] && $0.bytes[18] == 5 }
            pass(reaction, isNoted: false)
            // Of the other client nothing is to be left over.
            let mine = arriving.filter { $0.remote == Self.clients[0] }
            for datagram in arriving where datagram.remote != Self.clients[0] { deliver(datagram) }
            arriving = mine
            if isAsked { return }
            arriving = []
        }
        Issue.record("nobody was asked")
    }

    // MARK: Driving

    func tick() { now = now + .microseconds(1) }

    func inject(_ datagram: Datagram) -> Reaction {
        server.receive(datagram, now: now)
        return drainServer()
    }

    func deliver(_ datagram: Datagram) { pass(inject(datagram)) }

    private func pass(_ reaction: Reaction, isNoted: Bool = true) {
        if isNoted { sent += reaction.transmitted }
        for datagram in reaction.transmitted {
            for index in Self.clients.indices where Self.clients[index] == datagram.remote {
                endpoints[index].receive(
                    Datagram(local: datagram.remote, remote: datagram.local, bytes: datagram.bytes), now: now)
            }
        }
        drainClients()
    }

    private func drainClients() {
        for index in endpoints.indices {
            while let output = endpoints[index].poll() {
                switch output {
                case .transmit(let datagram):
                    arriving.append(Datagram(local: datagram.remote, remote: datagram.local, bytes: datagram.bytes))
                case .event(.established(let info)): associations[index] = info.id
                case .event(.request(let info, _, let messageID, let payloads)):
                    guard let profile = try? Configure(payloads: payloads) else { continue }
                    requests.append((info.id, messageID, profile))
                case .event, .wait: break
                }
            }
        }
    }

    private func drainServer() -> Reaction {
        var reaction = Reaction()
        while true {
            switch server.poll() {
            case .transmit(let datagram): reaction.transmitted.append(datagram)
            case .log, .audit: break
            case .persist(let changes):
                store.apply(changes)
                reaction.deeds.append("a record")
            case .ended: reaction.deeds.append("a verdict")
            case .associationUp: reaction.deeds.append("an ISAKMP SA")
            case .wait(let until):
                wait = until
                return reaction
            }
        }
    }

    func digest(without extra: Set<String>) -> [String] { StateDigest.of(server, without: extra) }

    /// Everything before message 5 is in the table of half-open exchanges, which the digest leaves out anyway.
    func isOpen(to message: String) -> Bool { false }

    var isFine: Bool {
        let snapshot = server.snapshot(now: now)
        return snapshot.clients.allSatisfy { $0.state == "registered" }
    }
}
