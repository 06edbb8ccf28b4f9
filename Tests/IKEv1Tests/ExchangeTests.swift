// SPDX-License-Identifier: Apache-2.0
import Basics
import Cryptography
import IKEv1
import ISAKMP
import Testing

@Suite struct ExchangeTests {
    private let payloads = [RawPayload(.profile, [1, 2, 3, 4]), RawPayload(.keyDownload, [UInt8](0..<100))]

    private func connected(
        _ suite: String = "aes128-sha256-x25519", configure: (inout Phase1Configuration, Side) -> Void = { _, _ in }
    ) throws -> (Pair, AssociationID) {
        let pair = Pair(suites: [try #require(Phase1Suite(suite))]) { configuration, side in
            configuration.deadPeerInterval = nil
            configure(&configuration, side)
        }
        let id = try #require(pair.connect()).client.id
        pair.forget()
        return (pair, id)
    }

    // GCKS -> client: HDR*, HASH, payloads
    // client -> GCKS: HDR*, HASH, payloads
    @Test(arguments: ["aes128-sha256-x25519", "3des-md5-ecp256", "aes256-sha512-x25519", "blowfish128-sha1-x25519"])
    func requestsAreAnsweredInBothDirections(suite: String) throws {
        let (pair, id) = try connected(suite)
        pair.answer = { _, _, _, payloads in payloads + [RawPayload(.acknowledgement, [9])] }
        let first = try pair.server.request(.configure, payloads, on: id, now: pair.now)
        let second = try pair.client.request(.status, [], on: id, now: pair.now)
        #expect(first != 0 && second != 0 && first >> 31 == 1 && second >> 31 == 0)
        pair.drain()
        pair.run(.seconds(1))
        #expect(pair.requests(.client) == [payloads] && pair.requests(.server) == [[]])
        #expect(pair.answers(.server) == [payloads + [RawPayload(.acknowledgement, [9])]])
        #expect(pair.answers(.client) == [[RawPayload(.acknowledgement, [9])]])
        pair.run(.seconds(100))
        #expect(pair.transmitted(.server).count == 2 && pair.transmitted(.client).count == 2)
        for datagram in pair.transmitted(.server) + pair.transmitted(.client) {
            #expect(header(datagram)?.flags == 1 && datagram.bytes[17] == 0x10)
        }
    }

    @Test func oneWayMessagesGoOnce() throws {
        let (pair, id) = try connected()
        _ = try pair.client.send(.status, payloads, on: id, now: pair.now)
        pair.drain()
        pair.run(.seconds(100))
        #expect(pair.requests(.server) == [payloads])
        #expect(pair.transmitted(.client).count == 1 && pair.transmitted(.server).isEmpty)
    }

    /// The answer is lost: the repeated request gets the same octets, and the engine above hears of it once.
    @Test func aRepeatedRequestIsAnsweredFromMemory() throws {
        let (pair, id) = try connected()
        pair.answer = { _, _, _, payloads in payloads }
        var lost = 0
        pair.tap = { side, datagram in
            guard side == .client, lost < 3 else { return [datagram] }
            lost += 1
            return []
        }
        _ = try pair.server.request(.configure, payloads, on: id, now: pair.now)
        pair.drain()
        pair.run(.seconds(60))
        #expect(pair.requests(.client).count == 1 && pair.answers(.server) == [payloads])
        #expect(pair.transmitted(.client).count == 4 && Set(pair.transmitted(.client)).count == 1)
        #expect(pair.transmitted(.server).count == 4 && Set(pair.transmitted(.server)).count == 1)
    }

    /// The time-out follows the round trip: 1.5 times it and 200 ms, doubling.
    @Test func timeoutsFollowTheRoundTrip() throws {
        for (delay, first) in [(10, 500), (300, 1_100)] {
            let pair = Pair { configuration, _ in configuration.deadPeerInterval = nil }
            pair.link.delay = .milliseconds(delay)
            let id = try #require(pair.connect()).client.id
            pair.link.loss = 1
            pair.forget()
            var sendTimes: [Instant] = []
            pair.tap = { _, datagram in
                sendTimes.append(pair.now)
                return [datagram]
            }
            _ = try pair.client.request(.status, payloads, on: id, now: pair.now)
            pair.drain()
            pair.run(.seconds(200))
            let gaps = zip(sendTimes.dropFirst(), sendTimes).map { ($0 - $1).wholeMilliseconds }
            #expect(gaps == [1, 2, 4, 8, 8].map { Int64($0 * first) })
            let unanswered = pair.events(.client).filter { if case .unanswered = $0 { true } else { false } }
            #expect(unanswered.count == 1)
            #expect(pair.client.info(id) != nil, "what follows from that is for the engine above to say")
        }
    }

    @Test func useErrorsNameTheFault() throws {
        let (pair, id) = try connected()
        let nobody = AssociationID(initiatorCookie: 1, responderCookie: 2)
        #expect(throws: Phase1UseError.unknownAssociation) {
            try pair.client.request(.status, [], on: nobody, now: pair.now)
        }
        for exchange in [ExchangeType.push, .informational, .mainMode, ExchangeType(rawValue: 239)] {
            #expect(throws: Phase1UseError.unsupportedExchange) {
                try pair.client.send(exchange, [], on: id, now: pair.now)
            }
        }
        #expect(throws: Phase1UseError.unknownMessage) {
            try pair.client.respond([], to: 5, exchange: .status, on: id, now: pair.now)
        }
        let long = [RawPayload(.report, [UInt8](repeating: 0, count: Limits().datagramOctetsSent - 64))]
        #expect(throws: Phase1UseError.tooLong) { try pair.client.request(.status, long, on: id, now: pair.now) }
        pair.link.loss = 1
        for _ in 0..<Limits().exchangesPerAssociation {
            _ = try pair.client.request(.status, [], on: id, now: pair.now)
        }
        #expect(throws: Phase1UseError.tooManyExchanges) {
            try pair.client.request(.status, [], on: id, now: pair.now)
        }
        pair.drain()
    }

    /// Whatever was delivered is never delivered again, however much later it is replayed, and in the other direction
    /// not at all.
    @Test func nothingIsDeliveredTwiceOrReflected() throws {
        let (pair, id) = try connected()
        for index in 0..<200 as Range<UInt8> {
            _ = try pair.client.send(.status, [RawPayload(.report, [index])], on: id, now: pair.now)
            pair.drain()
        }
        pair.run(.seconds(1))
        #expect(pair.requests(.server).count == 200)
        let sent = pair.transmitted(.client)
        pair.forget()
        for datagram in sent {
            pair.deliver(datagram, to: .server)
            let reflected = Datagram(local: datagram.remote, remote: datagram.local, bytes: datagram.bytes)
            pair.deliver(reflected, to: .client)
        }
        #expect(pair.requests(.server).isEmpty && pair.requests(.client).isEmpty)
        #expect(pair.transmitted(.server).isEmpty && pair.transmitted(.client).isEmpty)
        #expect(Set(pair.drops(.server)) == [.duplicate] && Set(pair.drops(.client)) == [.duplicate])
    }

    /// Our own questions whether the peer lives, sent back to us, are no sign of its life.
    @Test func reflectedQuestionsAreNoSignOfLife() throws {
        let pair = Pair { configuration, side in if side == .client { configuration.deadPeerInterval = nil } }
        try #require(pair.connect() != nil)
        pair.tap = { side, datagram in
            guard side == .server else { return [] }
            pair.put(Datagram(local: datagram.remote, remote: datagram.local, bytes: datagram.bytes), from: .client)
            return []
        }
        pair.run(.seconds(120))
        #expect(pair.ends(.server) == [.deadPeer])
    }

    /// Late arrivals within the window are delivered, in whatever order they come.
    @Test func theWindowTakesReorderedMessages() throws {
        let (pair, id) = try connected()
        pair.link = Link(delay: .milliseconds(1), jitter: .milliseconds(500))
        for index in 0..<60 as Range<UInt8> {
            _ = try pair.client.send(.status, [RawPayload(.report, [index])], on: id, now: pair.now)
        }
        pair.drain()
        pair.run(.seconds(1))
        #expect(Set(pair.requests(.server)).count == 60)
        #expect(pair.requests(.server).map { $0[0].body[0] } != [UInt8](0..<60))
    }

    /// A request in flight never falls out of the peer's window: there is no room for what would push it out.
    @Test func anOldRequestHoldsTheWindow() throws {
        let (pair, id) = try connected()
        pair.tap = { _, _ in [] }
        _ = try pair.client.request(.status, payloads, on: id, now: pair.now)
        var sent = 0
        while (try? pair.client.send(.status, [], on: id, now: pair.now)) != nil { sent += 1 }
        #expect(sent == Limits().exchangesPerAssociation - 1)
        pair.tap = { _, datagram in [datagram] }
        pair.answer = { _, _, _, payloads in payloads }
        pair.drain()
        pair.run(.seconds(5))
        #expect(pair.answers(.client) == [payloads])
        #expect((try? pair.client.send(.status, [], on: id, now: pair.now)) != nil)
    }

    @Test func anAnswerUnderAnotherExchangeTypeIsRefused() throws {
        let (pair, id) = try connected()
        pair.answer = { _, _, _, payloads in payloads }
        pair.tap = { side, datagram in
            var datagram = datagram
            if side == .client { datagram.bytes[18] = 243 }
            return [datagram]
        }
        _ = try pair.server.request(.configure, payloads, on: id, now: pair.now)
        pair.drain()
        pair.run(.seconds(2))
        #expect(pair.answers(.server).isEmpty && pair.drops(.server).contains(.notAuthentic))
    }
}
