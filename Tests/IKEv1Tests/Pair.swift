// SPDX-License-Identifier: Apache-2.0
import Basics
import Cryptography
import IKEv1
import ISAKMP

/// The same credential for everybody.
final class OneCredential: CredentialSource {
    var credential: PeerCredential?
    init(_ credential: PeerCredential?) { self.credential = credential }
    func credential(for address: IPAddress) -> PeerCredential? { credential }
}

enum Side { case client, server }

/// What the link does to datagrams, each with a probability.
struct Link {
    var delay: Duration = .milliseconds(10)
    var jitter: Duration = .zero
    var loss = 0.0
    var duplication = 0.0
}

/// Two endpoints, a link between them and a clock of their own: a whole exchange, replayed by its seed.
final class Pair {
    static let clientAddress = IPAddress.v4(10, 1, 0, 1)
    static let serverAddress = IPAddress.v4(10, 1, 0, 2)
    static let preSharedKey = Secret([UInt8]("a pre-shared key for tests only".utf8))

    let client: Phase1Endpoint
    let server: Phase1Endpoint
    var now = Instant(nanoseconds: 1_000_000_000)
    var link = Link()
    let random: SeededRandom
    /// Every output but `.wait`, in order.
    private(set) var clientOutputs: [Phase1Output] = []
    private(set) var serverOutputs: [Phase1Output] = []
    /// What travels: when it arrives, a number to keep order, where to.
    private var inFlight: [(at: Instant, number: Int, to: Side, datagram: Datagram)] = []
    private var sent = 0
    private var deadlines: (client: Instant?, server: Instant?) = (nil, nil)
    /// Sees each datagram before the link does; what it returns travels.
    var tap: (Side, Datagram) -> [Datagram] = { _, datagram in [datagram] }
    /// Rewrites the addresses of what arrives, as a translator does; nil drops it.
    var translate: (Side, Datagram) -> Datagram? = { _, datagram in datagram }
    /// What the server does with a request.
    var answer: ((AssociationInfo, ExchangeType, UInt32, [RawPayload]) -> [RawPayload]?)?

    let clientCredential: PeerCredential

    static func credential(
        _ name: String, key: Secret = preSharedKey, identity: Identity?, suites: [Phase1Suite] = [.standard],
        lifetime: Duration = .seconds(3_600)
    ) -> PeerCredential {
        PeerCredential(name: name, preSharedKey: key, expectedIdentity: identity, suites: suites, lifetime: lifetime)
    }

    init(
        seed: UInt64 = 1, suites: [Phase1Suite] = [Phase1Suite("aes128-sha256-x25519") ?? .standard],
        clientKey: Secret = preSharedKey, serverKey: Secret = preSharedKey, lifetime: Duration = .seconds(3_600),
        clientExpects: Identity? = .name("gcks"), serverExpects: Identity? = .name("site1"),
        configure: (inout Phase1Configuration, Side) -> Void = { _, _ in }
    ) {
        var clientSide = Phase1Configuration(identity: .name("site1"), isResponder: false)
        var serverSide = Phase1Configuration(identity: .name("gcks"), isResponder: true)
        configure(&clientSide, .client)
        configure(&serverSide, .server)
        clientCredential = Self.credential(
            "gcks", key: clientKey, identity: clientExpects, suites: suites, lifetime: lifetime)
        let known = OneCredential(
            Self.credential("site1", key: serverKey, identity: serverExpects, suites: suites, lifetime: lifetime))
        client = Phase1Endpoint(
            configuration: clientSide, credentials: OneCredential(nil), random: SeededRandom(seed: seed &* 3))
        server = Phase1Endpoint(
            configuration: serverSide, credentials: known, random: SeededRandom(seed: seed &* 5 &+ 1))
        random = SeededRandom(seed: seed)
    }

    // MARK: Driving

    @discardableResult
    func initiate() -> AssociationID? {
        let id = client.initiate(
            clientCredential, from: SocketAddress(Self.clientAddress, 848), to: SocketAddress(Self.serverAddress, 848),
            now: now)
        drain()
        return id
    }

    /// Empties both endpoints onto the link.
    func drain() {
        while let output = client.poll() { take(output, from: .client) }
        while let output = server.poll() { take(output, from: .server) }
    }

    private func take(_ output: Phase1Output, from side: Side) {
        if case .wait(let until) = output {
            if side == .client { deadlines.client = until } else { deadlines.server = until }
            return
        }
        if side == .client { clientOutputs.append(output) } else { serverOutputs.append(output) }
        switch output {
        case .wait: break
        case .transmit(let datagram): tap(side, datagram).forEach { put($0, from: side) }
        case .event(.request(let info, let exchange, let messageID, let payloads)):
            guard let reply = answer?(info, exchange, messageID, payloads) else { break }
            let endpoint = side == .client ? client : server
            try? endpoint.respond(reply, to: messageID, exchange: exchange, on: info.id, now: now)
        case .event: break
        }
    }

    /// Puts a datagram on the link as if `side` had sent it.
    func put(_ datagram: Datagram, from side: Side) {
        guard random.unit() >= link.loss else { return }
        for _ in 0..<(random.unit() < link.duplication ? 2 : 1) {
            sent += 1
            let at = now + link.delay + random.duration(below: link.jitter)
            inFlight.append((at, sent, side == .client ? .server : .client, datagram))
        }
    }

    /// Delivers a datagram now, whatever the link.
    func deliver(_ datagram: Datagram, to side: Side) {
        let turned = Datagram(local: datagram.remote, remote: datagram.local, bytes: datagram.bytes)
        guard let translated = translate(side, turned) else { return }
        (side == .client ? client : server).receive(translated, now: now)
        drain()
    }

    /// The next arrival or deadline; false when nothing more will happen before `end`.
    private func step(until end: Instant) -> Bool {
        let arrival = inFlight.indices.min {
            (inFlight[$0].at, inFlight[$0].number) < (inFlight[$1].at, inFlight[$1].number)
        }
        let times = [arrival.map { inFlight[$0].at }, deadlines.client, deadlines.server].compactMap(\.self)
        guard let next = times.min(), next <= end else { return false }
        now = max(now, next)
        if let arrival, inFlight[arrival].at <= next {
            let item = inFlight.remove(at: arrival)
            deliver(item.datagram, to: item.to)
        } else {
            client.advance(to: now)
            server.advance(to: now)
            drain()
        }
        return true
    }

    /// Lets time pass; stops early when `isDone`.
    func run(_ duration: Duration = .seconds(120), until isDone: () -> Bool = { false }) {
        let end = now + duration
        while !isDone(), step(until: end) {}
        if !isDone() { now = end }
    }

    /// Main Mode from end to end.
    @discardableResult
    func connect(within limit: Duration = .seconds(120)) -> (client: AssociationInfo, server: AssociationInfo)? {
        initiate()
        run(limit) { clientEstablished.count > 0 && serverEstablished.count > 0 }
        guard let first = clientEstablished.last, let second = serverEstablished.last else { return nil }
        return (first, second)
    }

    // MARK: Looking back

    func forget() {
        clientOutputs.removeAll()
        serverOutputs.removeAll()
    }

    func outputs(_ side: Side) -> [Phase1Output] { side == .client ? clientOutputs : serverOutputs }

    func events(_ side: Side) -> [Phase1Event] {
        outputs(side).compactMap { if case .event(let event) = $0 { event } else { nil } }
    }

    func transmitted(_ side: Side) -> [Datagram] {
        outputs(side).compactMap { if case .transmit(let datagram) = $0 { datagram } else { nil } }
    }

    var clientEstablished: [AssociationInfo] { established(.client) }
    var serverEstablished: [AssociationInfo] { established(.server) }

    func established(_ side: Side) -> [AssociationInfo] {
        events(side).compactMap { if case .established(let info) = $0 { info } else { nil } }
    }

    func failures(_ side: Side) -> [Phase1Failure] {
        events(side).compactMap { if case .failed(_, _, let reason) = $0 { reason } else { nil } }
    }

    func ends(_ side: Side) -> [AssociationEnd] {
        events(side).compactMap { if case .ended(_, let reason) = $0 { reason } else { nil } }
    }

    func drops(_ side: Side) -> [DropReason] {
        events(side).compactMap { if case .dropped(let reason, _) = $0 { reason } else { nil } }
    }

    func requests(_ side: Side) -> [[RawPayload]] {
        events(side).compactMap { if case .request(_, _, _, let payloads) = $0 { payloads } else { nil } }
    }

    func answers(_ side: Side) -> [[RawPayload]] {
        events(side).compactMap { if case .answer(_, _, _, let payloads) = $0 { payloads } else { nil } }
    }
}

/// The header of a datagram in a test.
func header(_ datagram: Datagram) -> Header? {
    let framing = datagram.local.port == 4500 || datagram.remote.port == 4500 ? 4 : 0
    var reader = OctetReader([UInt8](datagram.bytes.dropFirst(framing)))
    return try? Header(reading: &reader)
}
