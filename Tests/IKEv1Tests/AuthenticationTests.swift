// SPDX-License-Identifier: Apache-2.0
import Basics
import Cryptography
import IKEv1
import ISAKMP
import Testing

@Suite struct AuthenticationTests {
    private func notification(_ datagram: Datagram) throws -> Notification {
        let payloads = try PayloadChain.parse(
            first: .notification, datagram.bytes[Header.size...], limit: 1, allowPadding: false)
        return try Notification(body: payloads[0].body)
    }

    /// Two different keys: message 5 is garbage to the responder, which says so once and in clear. The client takes
    /// that for a hint, tries once more, and gives up long before its patience would end.
    @Test func aWrongKeyIsReportedPlainlyOnBothSides() throws {
        let pair = Pair(clientKey: Secret([UInt8]("another key".utf8)))
        let start = pair.now
        pair.initiate()
        pair.run(.seconds(200)) { !pair.failures(.client).isEmpty }
        #expect(pair.now - start < .seconds(10))
        #expect(pair.failures(.server) == [.authenticationFailed])
        #expect(pair.failures(.client) == [.peerReports(24)])
        let notifies = pair.transmitted(.server).filter { header($0)?.exchange == .informational }
        #expect(notifies.count == 1, "at most once per exchange")
        let first = try notification(try #require(notifies.first))
        #expect(first.type == .authenticationFailed && header(notifies[0])?.flags == 0)
        #expect(pair.clientEstablished.isEmpty && pair.serverEstablished.isEmpty)
        pair.run(.seconds(60))
        #expect(pair.failures(.server).count == 1, "nothing more when the exchange expires")
    }

    /// The server alone has it wrong for one client: another exchange is not disturbed, and the mended key works.
    @Test func afterTheKeyIsMendedItWorks() throws {
        let pair = Pair(serverKey: Secret([UInt8]("another key".utf8)))
        pair.initiate()
        pair.run(.seconds(100))
        #expect(pair.failures(.client) == [.peerReports(24)])
        let mended = Pair.credential(
            "gcks", key: Secret([UInt8]("another key".utf8)), identity: .name("gcks"),
            suites: pair.clientCredential.suites)
        _ = pair.client.initiate(
            mended, from: SocketAddress(Pair.clientAddress, 848), to: SocketAddress(Pair.serverAddress, 848),
            now: pair.now)
        pair.drain()
        pair.run(.seconds(1))
        #expect(pair.clientEstablished.count == 1 && pair.serverEstablished.count == 1)
    }

    @Test func whatTheResponderDoesNotAllowIsRefusedInClear() throws {
        let pair = Pair()
        let offered = Pair.credential("gcks", identity: nil, suites: [try #require(Phase1Suite("3des-md5-modp1024"))])
        _ = pair.client.initiate(
            offered, from: SocketAddress(Pair.clientAddress, 848), to: SocketAddress(Pair.serverAddress, 848),
            now: pair.now)
        pair.drain()
        pair.run(.seconds(200))
        #expect(pair.failures(.client) == [.peerReports(14)])
        #expect(Set(pair.failures(.server)) == [.noProposalChosen])
        let answer = try #require(pair.transmitted(.server).first)
        #expect(try notification(answer).type == .noProposalChosen)
        #expect(answer.bytes.count <= pair.transmitted(.client)[0].bytes.count)
    }

    /// Anybody can forge a notification in clear: the attempt lives on when the real peer answers.
    @Test(arguments: [NotifyType.authenticationFailed, .noProposalChosen])
    func aForgedNotificationKillsNoAttempt(type: NotifyType) throws {
        let pair = Pair()
        pair.tap = { side, datagram in
            guard side == .server, let header = header(datagram), header.exchange == .mainMode else {
                return [datagram]
            }
            let forged = Notification(spi: [], type: type).body()
            let (first, octets) = PayloadChain.encode([RawPayload(.notification, forged)])
            var writer = OctetWriter()
            Header(
                initiatorCookie: header.initiatorCookie, responderCookie: header.responderCookie, nextPayload: first,
                exchange: .informational, flags: 0, messageID: 99, length: UInt32(Header.size + octets.count)
            ).write(to: &writer)
            writer.append(octets)
            var forgery = datagram
            forgery.bytes = writer.bytes
            return [forgery, forgery, datagram]
        }
        #expect(pair.connect() != nil)
        #expect(pair.failures(.client).isEmpty)
        #expect(pair.drops(.client).contains(.unencrypted))
    }

    @Test func theIdentityMustBeTheExpectedOne() {
        let server = Pair(serverExpects: .name("site2"))
        server.initiate()
        server.run(.seconds(100))
        #expect(server.failures(.server) == [.wrongIdentity] && server.failures(.client) == [.peerReports(24)])
        let client = Pair(clientExpects: .name("gcks2"))
        client.initiate()
        client.run(.seconds(100))
        #expect(client.failures(.client) == [.wrongIdentity])
        #expect(client.ends(.server) == [.peerDeleted], "the server does not stay behind with half an SA")
        let any = Pair(clientExpects: nil, serverExpects: nil)
        #expect(any.connect()?.server.peerIdentity == .name("site1"))
    }

    @Test func strangersGetNoAnswer() {
        let pair = Pair()
        let stranger = Phase1Endpoint(
            configuration: Phase1Configuration(identity: .name("gcks"), isResponder: true),
            credentials: OneCredential(nil), random: SeededRandom(seed: 1))
        pair.initiate()
        let opening = pair.transmitted(.client)[0]
        for endpoint in [stranger, pair.client] {
            endpoint.receive(
                Datagram(local: opening.remote, remote: opening.local, bytes: opening.bytes), now: pair.now)
            while let output = endpoint.poll() {
                if case .transmit = output { Issue.record("an answer") }
            }
        }
    }

    /// A public value outside the group ends nothing by itself and is named in the end.
    @Test func aBadPublicValueIsNamed() throws {
        let pair = Pair(suites: [try #require(Phase1Suite("aes128-sha1-modp1024"))])
        pair.tap = { side, datagram in
            guard side == .client, datagram.bytes[16] == PayloadType.keyExchange.rawValue else { return [datagram] }
            var bad = datagram
            for index in 32..<160 { bad.bytes[index] = index == 159 ? 1 : 0 }
            return [bad]
        }
        pair.initiate()
        pair.run(.seconds(100))
        // Once per exchange; the repetitions of message 3 begin another one when the first has expired.
        #expect((1...2).contains(pair.failures(.server).count))
        #expect(Set(pair.failures(.server)) == [.invalidPublicValue])
        #expect(pair.failures(.client) == [.noAnswer])
    }
}

@Suite struct ResponderLimitsTests {
    private let suites = [Phase1Suite("aes128-sha256-x25519") ?? .standard]

    /// A message 1 of an initiator at `address`, as the server sees it.
    /// - Parameter isKnown: it offers what the server expects, which it answers without keeping anything.
    private func opening(
        from address: IPAddress, port: UInt16 = 848, seed: UInt64, isKnown: Bool = false
    ) -> Datagram? {
        let endpoint = Phase1Endpoint(
            configuration: Phase1Configuration(identity: .name("x"), isResponder: false),
            credentials: OneCredential(nil), random: SeededRandom(seed: seed))
        _ = endpoint.initiate(
            Pair.credential("gcks", identity: nil, suites: suites, lifetime: .seconds(isKnown ? 3_600 : 3_601)),
            from: SocketAddress(address, port),
            to: SocketAddress(Pair.serverAddress, 848), now: .zero)
        while let output = endpoint.poll() {
            if case .transmit(let datagram) = output {
                return Datagram(local: datagram.remote, remote: datagram.local, bytes: datagram.bytes)
            }
        }
        return nil
    }

    private func server(_ limits: Limits, seed: UInt64 = 9) -> Phase1Endpoint {
        var configuration = Phase1Configuration(identity: .name("gcks"), isResponder: true)
        configuration.limits = limits
        let known = OneCredential(Pair.credential("any", identity: nil, suites: suites))
        return Phase1Endpoint(configuration: configuration, credentials: known, random: SeededRandom(seed: seed))
    }

    private func drained(_ endpoint: Phase1Endpoint) -> (answers: [Datagram], drops: [DropReason]) {
        var result: ([Datagram], [DropReason]) = ([], [])
        while let output = endpoint.poll() {
            switch output {
            case .transmit(let datagram): result.0.append(datagram)
            case .event(.dropped(let reason, _)): result.1.append(reason)
            case .event, .wait: break
            }
        }
        return result
    }

    @Test func oneOfAnAddressGivesWay() throws {
        var limits = Limits()
        limits.halfOpenPerAddress = 3
        let server = server(limits)
        let openings = (0..<5).compactMap { opening(from: Pair.clientAddress, seed: $0 + 1) }
        var answers: [Datagram] = []
        for (index, opening) in openings.enumerated() {
            server.receive(opening, now: .zero)
            let (sent, drops) = drained(server)
            #expect(sent.count == 1 && drops == (index < 3 ? [] : [.halfOpenLimit]))
            answers += sent
        }
        // The newest is remembered: repeated, it gets the same octets.
        server.receive(openings[4], now: .zero)
        #expect(drained(server).answers == [answers[4]])
    }

    /// Somebody makes up messages 1 in the name of a client whose offer is not known beforehand, as many as the table
    /// holds for it, while the client waits for message 2: now and then its own exchange lives.
    @Test func aFloodInTheNameOfAClientDoesNotAlwaysPushItOut() throws {
        var survived = 0
        for seed in UInt64(1)...20 {
            let server = server(Limits(), seed: seed)
            let genuine = try #require(opening(from: Pair.clientAddress, seed: 1_000))
            server.receive(genuine, now: .zero)
            let answer = drained(server).answers
            for number in 0..<UInt64(2 * Limits().halfOpenPerAddress) {
                server.receive(try #require(opening(from: Pair.clientAddress, seed: number + 1)), now: .zero)
            }
            _ = drained(server)
            server.receive(genuine, now: .zero)
            if drained(server).answers == answer { survived += 1 }
        }
        #expect((1..<20).contains(survived), "\(survived) of 20")
    }

    @Test func theOldestOfAllGivesWay() throws {
        var limits = Limits()
        limits.halfOpen = 10
        let server = server(limits)
        for index in 0..<30 {
            let datagram = try #require(opening(from: .v4(10, 9, 0, UInt8(index)), seed: UInt64(index) + 1))
            server.receive(datagram, now: .zero)
            #expect(drained(server).drops == (index < 10 ? [] : [.halfOpenLimit]))
        }
    }

    @Test func unfinishedExchangesExpire() throws {
        let server = server(Limits())
        let first = try #require(opening(from: Pair.clientAddress, seed: 1))
        server.receive(first, now: .zero)
        let answers = drained(server).answers
        server.advance(to: .zero + Limits().halfOpenLifetime)
        #expect(drained(server).drops.isEmpty)
        server.receive(first, now: .zero + .seconds(31))
        #expect(drained(server).answers != answers, "a new exchange")
    }

    /// An address that did not prove itself never gets more octets than it sent, whatever it sends.
    @Test func nothingIsAmplified() throws {
        let genuine = try #require(opening(from: Pair.clientAddress, seed: 5))
        let random = SeededRandom(seed: 17)
        var answered = 0
        for _ in 0..<5_000 {
            let server = server(Limits())
            var datagram = genuine
            for _ in 0..<random.number(below: 4) {
                datagram.bytes[Int(random.number(below: UInt64(datagram.bytes.count)))] = UInt8(
                    random.number(below: 256))
            }
            var (received, sent) = (0, 0)
            for _ in 0..<3 {
                server.receive(datagram, now: .zero)
                received += datagram.bytes.count
                sent += drained(server).answers.reduce(0) { $0 + $1.bytes.count }
                #expect(sent <= received)
            }
            server.advance(to: .zero + .seconds(25))
            #expect(drained(server).answers.isEmpty, "nothing is sent unasked")
            answered += sent > 0 ? 1 : 0
        }
        #expect(answered > 1_000)
    }
}
