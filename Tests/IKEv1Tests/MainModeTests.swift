// SPDX-License-Identifier: Apache-2.0
import Basics
import Cryptography
import IKEv1
import ISAKMP
import Testing

@Suite struct MainModeTests {
    @Test func sixMessagesEstablishBothSides() throws {
        let pair = Pair()
        let attempt = try #require(pair.initiate())
        pair.run(.seconds(1))
        let (client, server) = (try #require(pair.clientEstablished.first), try #require(pair.serverEstablished.first))
        #expect(attempt.responderCookie == 0 && attempt.initiatorCookie == client.id.initiatorCookie)
        #expect(client.id == server.id)
        #expect(client.peerName == "gcks" && client.peerIdentity == .name("gcks") && client.isInitiator)
        #expect(server.peerName == "site1" && server.peerIdentity == .name("site1") && !server.isInitiator)
        #expect(client.suite == server.suite && client.suite == Phase1Suite("aes128-sha256-x25519"))
        #expect(server.isInitialContact && !client.isInitialContact)
        #expect(!client.isBehindNAT && !server.isBehindNAT)
        #expect(client.roundTrip == .milliseconds(20) && server.roundTrip == .milliseconds(20))
        #expect(client.expiresAt == client.establishedAt + .seconds(3_600))
        #expect(pair.transmitted(.client).count == 3 && pair.transmitted(.server).count == 3)
        let exchanges = (pair.transmitted(.client) + pair.transmitted(.server)).compactMap { header($0)?.exchange }
        #expect(exchanges == [ExchangeType](repeating: .mainMode, count: 6))
        #expect(pair.client.info(client.id)?.id == client.id && pair.server.associations.count == 1)
    }

    /// What the engine sends on `.established` must leave behind message 6.
    @Test func messageSixLeavesBeforeTheEvent() throws {
        let pair = Pair()
        try #require(pair.connect() != nil)
        let outputs = pair.outputs(.server)
        let event = try #require(outputs.firstIndex { if case .event(.established) = $0 { true } else { false } })
        guard event > 0, case .transmit(let datagram) = outputs[event - 1] else {
            Issue.record("no datagram before the event")
            return
        }
        #expect(header(datagram)?.flags == Header.encryptionFlag)
    }

    @Test func pollGivesWaitOnceAndThenNothing() {
        let pair = Pair()
        #expect(pair.client.poll() == nil)
        pair.client.advance(to: pair.now)
        guard case .wait(until: nil) = pair.client.poll() else {
            Issue.record("nothing to wait for in a fresh endpoint")
            return
        }
        #expect(pair.client.poll() == nil)
    }

    static let ciphers = ["aes128", "aes192", "aes256", "3des", "des", "blowfish128", "blowfish192", "blowfish256"]
    static let hashes = ["md5", "sha1", "sha256", "sha384", "sha512"]
    static let groups = [
        "modp768", "modp1024", "modp1536", "modp2048", "modp3072", "modp4096", "ecp256", "ecp384", "ecp521", "x25519",
    ]

    /// Every combination of cipher, hash and group comes up.
    // tests: RFC 2409 5 and appendix B
    @Test(arguments: groups)
    func everySuiteComesUp(group: String) throws {
        for cipher in Self.ciphers {
            for hash in Self.hashes {
                let suite = try #require(Phase1Suite("\(cipher)-\(hash)-\(group)"))
                let infos = Pair(suites: [suite]).connect(within: .seconds(5))
                #expect(infos?.client.suite == suite && infos?.server.suite == suite, "\(suite)")
            }
        }
    }

    /// The initiator's order counts; what the responder does not allow is passed over.
    @Test func theInitiatorsFirstAcceptableSuiteIsChosen() throws {
        let offered = try ["aes256-sha512-ecp384", "aes128-sha1-x25519", "aes256-sha256-x25519"].map {
            try #require(Phase1Suite($0))
        }
        let pair = Pair(suites: [offered[2], offered[1]])
        let credential = Pair.credential("gcks", identity: .name("gcks"), suites: offered)
        _ = pair.client.initiate(
            credential, from: SocketAddress(Pair.clientAddress, 848), to: SocketAddress(Pair.serverAddress, 848),
            now: pair.now)
        pair.drain()
        pair.run(.seconds(1))
        #expect(pair.serverEstablished.first?.suite == offered[1])
        #expect(pair.clientEstablished.first?.suite == offered[1])
    }

    /// The shorter of both lifetimes holds on both sides: the initiator's travels, the responder's bounds its own end.
    @Test func lifetimesAreBounded() throws {
        let pair = Pair(lifetime: .seconds(600))
        let credential = Pair.credential(
            "gcks", identity: nil, suites: pair.clientCredential.suites, lifetime: .seconds(300))
        _ = pair.client.initiate(
            credential, from: SocketAddress(Pair.clientAddress, 848), to: SocketAddress(Pair.serverAddress, 848),
            now: pair.now)
        pair.drain()
        pair.run(.seconds(1))
        let server = try #require(pair.serverEstablished.first)
        #expect(server.expiresAt - server.establishedAt == .seconds(300))
    }

    @Test(arguments: 1...40)
    func comesUpOverALossyLink(seed: UInt64) throws {
        // with more patience than usual, since each way loses a quarter
        let pair = Pair(seed: seed) { configuration, _ in configuration.limits.requestTransmissions = 16 }
        pair.link = Link(delay: .milliseconds(300), jitter: .milliseconds(400), loss: 0.25, duplication: 0.3)
        let infos = try #require(pair.connect(within: .seconds(600)))
        #expect(infos.client.id == infos.server.id)
        // and it works
        pair.answer = { _, _, _, payloads in payloads.reversed() }
        let payloads = [RawPayload(.report, [1, 2, 3]), RawPayload(.nonce, [UInt8](repeating: 7, count: 50))]
        for _ in 0..<5 {
            _ = try pair.client.request(.status, payloads, on: infos.client.id, now: pair.now)
            _ = try pair.server.request(.configure, payloads, on: infos.client.id, now: pair.now)
        }
        pair.drain()
        pair.run(.seconds(200)) { pair.answers(.client).count + pair.answers(.server).count == 10 }
        #expect(
            pair.answers(.client) + pair.answers(.server) == [[RawPayload]](repeating: payloads.reversed(), count: 10))
        #expect(pair.requests(.client).count == 5 && pair.requests(.server).count == 5, "each delivered once")
    }

    @Test func nobodyAnswers() throws {
        let pair = Pair()
        pair.link.loss = 1
        pair.initiate()
        #expect(pair.initiate() == nil, "one attempt at a time per address")
        pair.run(.seconds(200))
        #expect(pair.failures(.client) == [.noAnswer])
        let sent = pair.transmitted(.client)
        #expect(sent.count == Limits().requestTransmissions)
        #expect(Set(sent.map(\.bytes)).count == 1, "retransmitted octets are identical")
        #expect(pair.initiate() != nil)
    }

    /// A responder that loses its answers never repeats them on its own.
    @Test func theResponderOnlyAnswers() throws {
        let pair = Pair()
        pair.tap = { side, datagram in side == .server ? [] : [datagram] }
        pair.initiate()
        pair.run(.seconds(20))
        let answers = pair.transmitted(.server)
        #expect(answers.count == pair.transmitted(.client).count)
        #expect(Set(answers.map(\.bytes)).count == 1, "a repeated message 1 gets the same octets")
    }

    /// Message 6 is lost: the repeated message 5 gets it again, and what overtook it is not lost.
    @Test func messageSixIsRepeatedOnRequest() throws {
        let pair = Pair()
        var lost = 0
        pair.tap = { side, datagram in
            guard side == .server, let header = header(datagram), header.flags == 1, header.messageID == 0, lost < 2
            else { return [datagram] }
            lost += 1
            return []
        }
        pair.initiate()
        pair.run(.seconds(1)) { pair.serverEstablished.count == 1 }
        let id = try #require(pair.serverEstablished.first?.id)
        _ = try pair.server.send(.configure, [RawPayload(.profile, [1])], on: id, now: pair.now)
        pair.drain()
        pair.run(.seconds(10))
        #expect(pair.clientEstablished.count == 1 && pair.serverEstablished.count == 1 && lost == 2)
        #expect(pair.requests(.client) == [[RawPayload(.profile, [1])]])
    }

    /// A translator on the way has given the client another port meanwhile.
    @Test func messageSixGoesToWhereMessageFiveCameFrom() throws {
        let pair = Pair()
        var isMoved = false
        pair.tap = { side, datagram in
            guard side == .server, let header = header(datagram), header.flags == 1, header.messageID == 0, !isMoved
            else { return [datagram] }
            isMoved = true
            return []
        }
        pair.translate = { side, datagram in
            guard isMoved else { return datagram }
            var datagram = datagram
            if side == .server {
                datagram.remote.port = 5_555
            } else if datagram.local.port == 5_555 {
                datagram.local.port = 848
            } else {
                return nil
            }
            return datagram
        }
        pair.initiate()
        pair.run(.seconds(10))
        #expect(isMoved && pair.clientEstablished.count == 1 && pair.serverEstablished.count == 1)
    }

    @Test func keysAreExportedOnlyWhereAllowed() throws {
        let closed = Pair()
        let id = try #require(closed.connect()).client.id
        #expect(closed.client.exportableKey(id) == nil)
        let open = Pair(configure: { configuration, _ in configuration.allowsKeyExport = true })
        let other = try #require(open.connect()).client.id
        let key = try #require(open.client.exportableKey(other))
        #expect(key.cookie == other.initiatorCookie && key.key.count == 16)
        #expect(open.server.exportableKey(other)?.key == key.key)
    }
}
