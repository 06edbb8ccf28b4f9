// SPDX-License-Identifier: Apache-2.0
import Basics
import Cryptography
import IKEv1
import ISAKMP
import Testing

@Suite struct AssociationTests {
    // tests: RFC 3706 5.5
    @Test func aSilentPeerIsAskedAndAnswers() throws {
        let pair = Pair { configuration, side in
            configuration.deadPeerInterval = side == .server ? .seconds(30) : nil
        }
        try #require(pair.connect() != nil)
        pair.forget()
        pair.run(.seconds(3_000))
        #expect(pair.ends(.server).isEmpty && pair.ends(.client).isEmpty)
        // Each answer counts as a sign of life, so there is one question per interval.
        #expect((95...100).contains(pair.transmitted(.server).count))
        #expect(pair.transmitted(.client).count == pair.transmitted(.server).count)
        #expect(pair.drops(.server).isEmpty && pair.drops(.client).isEmpty)
    }

    /// On demand, where nobody asks by himself.
    @Test func aPeerCanBeAskedAtOnce() throws {
        let pair = Pair { configuration, _ in configuration.deadPeerInterval = nil }
        let id = try #require(pair.connect()).client.id
        func alive() -> Int { pair.events(.server).count { if case .alive = $0 { true } else { false } } }
        pair.server.probe(id, now: pair.now)
        pair.drain()
        pair.run(.seconds(1))
        #expect(alive() == 1)
        // Something else from the client comes first: that is an answer too, and the late one is no news.
        pair.tap = { side, datagram in
            guard side == .client, header(datagram)?.exchange == .informational else { return [datagram] }
            _ = try? pair.client.send(.status, [RawPayload(.report, [1])], on: id, now: pair.now)
            return []
        }
        pair.server.probe(id, now: pair.now)
        pair.drain()
        pair.run(.seconds(1))
        #expect(alive() == 2 && pair.requests(.server).count == 1)
        pair.link.loss = 1
        pair.server.probe(id, now: pair.now)
        pair.drain()
        pair.run(.seconds(100))
        #expect(pair.ends(.server) == [.deadPeer])
        #expect(pair.drops(.server).isEmpty && alive() == 2)
    }

    /// What the engine above puts behind an answer arrives with it. With AES and any of the SHA-2 hashes twelve octets
    /// fit the padding that the answer has anyway.
    @Test(arguments: ["aes128-sha256-x25519", "aes256-sha384-ecp256", "aes256-sha512-ecp256"], [false, true])
    func anAnswerCarriesAnAnnexForNothing(suite: String, isCarrying: Bool) throws {
        let pair = Pair(suites: [try #require(Phase1Suite(suite))]) { configuration, side in
            configuration.deadPeerInterval = side == .server ? .seconds(30) : nil
        }
        let id = try #require(pair.connect()).client.id
        let annex = RawPayload(.digest, [1, 2, 3, 4, 5, 6, 7, 8])
        if isCarrying { pair.client.setAnnex([annex], on: id) }
        pair.forget()
        pair.run(.seconds(100))
        let carried = pair.events(.server).compactMap { event -> [RawPayload]? in
            if case .annex(let info, let payloads) = event, info.id == id { payloads } else { nil }
        }
        #expect(carried == [[RawPayload]](repeating: [annex], count: isCarrying ? 3 : 0))
        let asked = Set(pair.transmitted(.server).map(\.bytes.count))
        #expect(Set(pair.transmitted(.client).map(\.bytes.count)) == asked)
    }

    @Test func bothSidesAsk() throws {
        let pair = Pair()
        try #require(pair.connect() != nil)
        pair.run(.seconds(3_000))
        #expect(pair.ends(.server).isEmpty && pair.ends(.client).isEmpty)
    }

    @Test func aDeadPeerIsNoticed() throws {
        let pair = Pair { configuration, side in
            if side == .client { configuration.deadPeerInterval = nil }
        }
        try #require(pair.connect() != nil)
        pair.forget()
        pair.link.loss = 1
        pair.run(.seconds(120))
        #expect(pair.ends(.server) == [.deadPeer])
        #expect(pair.transmitted(.server).count == Limits().requestTransmissions)
        #expect(pair.server.associations.isEmpty)
    }

    /// A few lost questions or answers are no death.
    @Test func aLossyLinkKillsNobody() throws {
        let pair = Pair(seed: 4)
        try #require(pair.connect() != nil)
        pair.link = Link(delay: .milliseconds(300), jitter: .milliseconds(100), loss: 0.15, duplication: 0.1)
        pair.run(.seconds(3_000))
        #expect(pair.ends(.server).isEmpty && pair.ends(.client).isEmpty)
    }

    // tests: RFC 2408 3.15
    @Test(arguments: [Side.client, .server])
    func closingTellsThePeer(side: Side) throws {
        let pair = Pair()
        let id = try #require(pair.connect()).client.id
        (side == .client ? pair.client : pair.server).close(id, now: pair.now)
        pair.drain()
        pair.run(.seconds(1))
        #expect(pair.ends(side) == [.weDeleted])
        #expect(pair.ends(side == .client ? .server : .client) == [.peerDeleted])
        #expect(pair.client.associations.isEmpty && pair.server.associations.isEmpty)
        #expect(pair.client.info(id) == nil)
        pair.forget()
        pair.run(.seconds(5_000))
        #expect(pair.outputs(.client).isEmpty && pair.outputs(.server).isEmpty, "no timer is left")
    }

    @Test func anAttemptCanBeGivenUp() throws {
        let pair = Pair()
        pair.link.loss = 1
        let attempt = try #require(pair.initiate())
        pair.client.close(attempt, now: pair.now)
        pair.drain()
        pair.run(.seconds(300))
        #expect(pair.transmitted(.client).count == 1 && pair.failures(.client).isEmpty)
        #expect(pair.initiate() != nil)
    }

    @Test func theInitiatorAuthenticatesAnewInTime() throws {
        let pair = Pair(lifetime: .seconds(1_000))
        let first = try #require(pair.connect()).client
        var dueAt: Instant?
        pair.run(.seconds(900)) {
            dueAt =
                pair.events(.client).contains { if case .reauthenticationDue = $0 { true } else { false } }
                ? pair.now : nil
            return dueAt != nil
        }
        let passed = try #require(dueAt) - first.establishedAt
        #expect(passed >= .seconds(700) && passed <= .seconds(800))
        #expect(pair.initiate() != nil)
        pair.run(.seconds(5))
        #expect(pair.client.associations.count == 2 && pair.server.associations.count == 2, "old and new overlap")
        #expect(pair.serverEstablished.last?.isInitialContact == false)
        // Both work until the old one's time is over.
        pair.answer = { _, _, _, payloads in payloads }
        for info in pair.client.associations {
            _ = try pair.client.request(.status, [RawPayload(.report, [1])], on: info.id, now: pair.now)
        }
        pair.drain()
        pair.run(.seconds(1))
        #expect(pair.answers(.client).count == 2)
        pair.run(first.expiresAt - pair.now + .seconds(1))
        #expect(pair.client.associations.map(\.id) == [pair.clientEstablished[1].id])
        #expect(pair.server.associations.map(\.id) == [pair.clientEstablished[1].id])
        #expect(Set(pair.ends(.client) + pair.ends(.server)).isSubset(of: [.expired, .peerDeleted]))
    }

    @Test func theLifetimeEndsOnBothSides() throws {
        let pair = Pair(lifetime: .seconds(100))
        try #require(pair.connect() != nil)
        pair.run(.seconds(101))
        #expect(pair.client.associations.isEmpty && pair.server.associations.isEmpty)
        #expect(Set(pair.ends(.client) + pair.ends(.server)).contains(.expired))
    }

    /// More SAs of one peer than the limit: the oldest goes, and the peer is told.
    @Test func theOldestOfAPeerIsReplaced() throws {
        let pair = Pair()
        for _ in 0..<5 {
            pair.initiate()
            pair.run(.seconds(1))
        }
        #expect(pair.clientEstablished.count == 5)
        #expect(pair.server.associations.count == 3 && pair.client.associations.count == 3)
        #expect(Set(pair.server.associations.map(\.id)) == Set(pair.clientEstablished.suffix(3).map(\.id)))
    }

    /// A client that lost its memory says INITIAL-CONTACT, and the server forgets what it knew of it.
    // tests: RFC 2407 4.6.3.3
    @Test func initialContactEndsOlderAssociations() throws {
        let pair = Pair()
        try #require(pair.connect() != nil)
        let reborn = Phase1Endpoint(
            configuration: Phase1Configuration(identity: .name("site1"), isResponder: false),
            credentials: OneCredential(nil), random: SeededRandom(seed: 99))
        _ = reborn.initiate(
            pair.clientCredential, from: SocketAddress(Pair.clientAddress, 848),
            to: SocketAddress(Pair.serverAddress, 848), now: pair.now)
        for _ in 0..<4 {
            while let output = reborn.poll() {
                if case .transmit(let datagram) = output { pair.deliver(datagram, to: .server) }
            }
            guard let answer = pair.transmitted(.server).last else { break }
            reborn.receive(Datagram(local: answer.remote, remote: answer.local, bytes: answer.bytes), now: pair.now)
        }
        #expect(reborn.associations.count == 1)
        #expect(pair.ends(.server) == [.replaced])
        #expect(pair.server.associations.map(\.id) == reborn.associations.map(\.id))
    }

    @Test func clearAndForgedInformationalMessagesDoNothing() throws {
        let pair = Pair()
        let id = try #require(pair.connect()).client.id
        pair.forget()
        var spi = OctetWriter()
        spi.u64(id.initiatorCookie)
        spi.u64(id.responderCookie)
        let delete = DeletePayload(spis: [spi.bytes]).body()
        for flags in [0, 1] as [UInt8] {
            let (first, octets) = PayloadChain.encode([
                RawPayload(.hash, [UInt8](repeating: 0, count: 32)), RawPayload(.delete, delete),
            ])
            let rest = octets + [UInt8](repeating: 0, count: 16 - octets.count % 16)
            var writer = OctetWriter()
            Header(
                initiatorCookie: id.initiatorCookie, responderCookie: id.responderCookie, nextPayload: first,
                exchange: .informational, flags: flags, messageID: 77, length: UInt32(Header.size + rest.count)
            ).write(to: &writer)
            writer.append(rest)
            pair.deliver(
                Datagram(
                    local: SocketAddress(Pair.clientAddress, 848), remote: SocketAddress(Pair.serverAddress, 848),
                    bytes: writer.bytes), to: .server)
        }
        #expect(pair.drops(.server) == [.unencrypted, .notAuthentic])
        #expect(pair.server.associations.count == 1)
    }
}

@Suite struct NATTests {
    /// The client's address and ports as the world sees them.
    private func translate(_ pair: Pair, offset: @escaping () -> UInt16) {
        let outside = IPAddress.v4(192, 0, 2, 1)
        pair.translate = { side, datagram in
            var datagram = datagram
            if side == .server {
                datagram.remote = SocketAddress(outside, datagram.remote.port &+ offset())
            } else {
                // What does not match the present mapping is not let in.
                guard datagram.local.address == outside, [848, 4500].contains(datagram.local.port &- offset()) else {
                    return nil
                }
                datagram.local = SocketAddress(Pair.clientAddress, datagram.local.port &- offset())
            }
            return datagram
        }
    }

    // tests: RFC 3947 4, RFC 3948 2.2 and 2.3
    @Test func theExchangeMovesToTheNATPort() throws {
        let pair = Pair()
        translate(pair) { 10_000 }
        let infos = try #require(pair.connect())
        #expect(infos.client.isBehindNAT && infos.server.isBehindNAT)
        #expect(infos.client.local.port == 4500 && infos.client.remote.port == 4500)
        #expect(infos.server.local.port == 4500 && infos.server.remote == SocketAddress(.v4(192, 0, 2, 1), 14_500))
        let ports = pair.transmitted(.client).map(\.local.port)
        #expect(ports == [848, 848, 4500])
        let last = try #require(pair.transmitted(.client).last)
        #expect(last.bytes.prefix(4) == [0, 0, 0, 0])
        pair.forget()
        pair.run(.seconds(100))
        let keepAlives = pair.transmitted(.client).filter { $0.bytes == [0xff] }
        #expect(keepAlives.count == 5, "every 20 s, from the side behind the translator")
        #expect(!pair.transmitted(.server).contains { $0.bytes == [0xff] })
        #expect(pair.drops(.server).isEmpty && pair.drops(.client).isEmpty)
    }

    /// The mapping changes: the server follows, but only an authentic message that is new.
    @Test func anAuthenticMessageMovesThePeer() throws {
        let pair = Pair { configuration, _ in configuration.deadPeerInterval = nil }
        var offset: UInt16 = 10_000
        translate(pair) { offset }
        let id = try #require(pair.connect()).client.id
        pair.answer = { _, _, _, payloads in payloads }
        _ = try pair.client.request(.status, [RawPayload(.report, [1])], on: id, now: pair.now)
        pair.drain()
        pair.run(.seconds(1))
        let old = try #require(pair.transmitted(.client).last)
        offset = 20_000
        pair.forget()
        // a repetition and garbage move nothing
        pair.deliver(old, to: .server)
        var garbage = old
        garbage.bytes[garbage.bytes.count - 1] ^= 1
        garbage.bytes[27] ^= 1
        pair.deliver(garbage, to: .server)
        #expect(pair.server.info(id)?.remote.port == 14_500)
        #expect(pair.drops(.server) == [.duplicate, .notAuthentic])
        _ = try pair.client.request(.status, [RawPayload(.report, [2])], on: id, now: pair.now)
        pair.drain()
        pair.run(.seconds(1))
        #expect(pair.server.info(id)?.remote.port == 24_500)
        let moves = pair.events(.server).compactMap {
            if case .moved(let info, let from) = $0 { (info, from) } else { nil }
        }
        #expect(moves.count == 1 && moves.first?.0.remote.port == 24_500 && moves.first?.1.port == 14_500)
        #expect(pair.answers(.client).count == 1)
    }

    /// Without a translator nobody moves.
    @Test func anotherAddressIsRefusedWithoutNAT() throws {
        let pair = Pair()
        let id = try #require(pair.connect()).client.id
        pair.forget()
        pair.translate = { _, datagram in
            var datagram = datagram
            datagram.remote.port = 999
            return datagram
        }
        _ = try pair.client.send(.status, [RawPayload(.report, [1])], on: id, now: pair.now)
        pair.drain()
        pair.run(.seconds(1))
        #expect(pair.drops(.server) == [.wrongAddress])
        #expect(pair.requests(.server).isEmpty)
    }

    /// Nor does a copy of message 5 that somebody sent to the port of NAT traversal, ahead of the message itself.
    @Test func aCopyOnTheNATPortMovesNothing() throws {
        let pair = Pair()
        pair.tap = { side, datagram in
            let isProof = side == .client && datagram.bytes.count > 28 && datagram.bytes[18...19].elementsEqual([2, 1])
            guard isProof else { return [datagram] }
            var copy = datagram
            copy.remote.port = 4_500
            copy.bytes.insert(contentsOf: [0, 0, 0, 0], at: 0)
            return [copy, datagram]
        }
        let (client, server) = try #require(pair.connect())
        #expect(pair.drops(.server) == [.wrongAddress])
        #expect(server.local.port == 848)
        pair.forget()
        _ = try pair.client.send(.status, [RawPayload(.report, [1])], on: client.id, now: pair.now)
        pair.drain()
        pair.run(.seconds(1))
        #expect(pair.requests(.server).count == 1)
    }
}
