// SPDX-License-Identifier: Apache-2.0
import Basics
import Cryptography
import IKEv1
import ISAKMP
import Testing

/// Whatever arrives before a genuine message, nothing traps, and the genuine message still does its work.
@Suite struct MutationTests {
    /// Runs one whole exchange; before the `number`th datagram of all is delivered, its mutation is. Answers to the
    /// mutation travel like any others.
    private func exchange(_ number: Int, suite: Phase1Suite, _ mutate: @escaping (inout [UInt8]) -> Bool) -> (
        isFine: Bool, isLast: Bool
    ) {
        let pair = Pair(suites: [suite]) { configuration, _ in configuration.deadPeerInterval = nil }
        pair.answer = { _, _, _, payloads in payloads }
        var (count, isMutated, reached) = (0, true, false)
        pair.tap = { _, datagram in
            defer { count += 1 }
            guard count == number else { return [datagram] }
            reached = true
            var mutated = datagram
            isMutated = mutate(&mutated.bytes)
            return isMutated ? [mutated, datagram] : [datagram]
        }
        guard let infos = pair.connect(within: .seconds(100)) else { return (false, !isMutated) }
        let payloads = [RawPayload(.report, [UInt8](repeating: 5, count: 37))]
        let isAsked = (try? pair.client.request(.status, payloads, on: infos.client.id, now: pair.now)) != nil
        pair.drain()
        pair.run(.seconds(60)) { pair.answers(.client).count == 1 }
        let isFine = isAsked && pair.answers(.client) == [payloads] && pair.requests(.server) == [payloads]
        return (isFine && reached, !isMutated)
    }

    /// Of messages 1 to 6, a request and its answer.
    @Test(arguments: 0..<8)
    func truncatedMessages(number: Int) throws {
        let suite = try #require(Phase1Suite("aes128-sha256-x25519"))
        for length in 0..<400 {
            let (isFine, isLast) = exchange(number, suite: suite) { octets in
                guard length < octets.count else { return false }
                octets.removeLast(octets.count - length)
                return true
            }
            #expect(isFine, "datagram \(number) cut to \(length) octets")
            if isLast { return }
        }
    }

    /// Cut, with a header that gives the new length: the parsers see it.
    @Test(arguments: 0..<8)
    func truncatedMessagesWithMatchingLength(number: Int) throws {
        let suite = try #require(Phase1Suite("aes128-sha256-x25519"))
        for length in Header.size..<400 {
            let (isFine, isLast) = exchange(number, suite: suite) { octets in
                guard length < octets.count else { return false }
                octets.removeLast(octets.count - length)
                octets.replaceSubrange(24..<28, with: [0, 0, UInt8(length >> 8), UInt8(length & 0xff)])
                return true
            }
            #expect(isFine, "datagram \(number) cut to \(length) octets")
            if isLast { return }
        }
    }

    @Test(arguments: 0..<8)
    func flippedBits(number: Int) throws {
        let suite = try #require(Phase1Suite("aes128-sha256-x25519"))
        for bit in 0..<4_000 {
            let (isFine, isLast) = exchange(number, suite: suite) { octets in
                guard bit / 8 < octets.count else { return false }
                octets[bit / 8] ^= 1 << UInt8(bit % 8)
                return true
            }
            #expect(isFine, "datagram \(number), octet \(bit / 8), bit \(bit % 8)")
            if isLast { return }
        }
    }

    /// An 8-octet block cipher, whose blocks are aligned otherwise.
    @Test(arguments: [4, 5, 6, 7])
    func flippedBitsUnderTripleDES(number: Int) throws {
        let suite = try #require(Phase1Suite("3des-md5-x25519"))
        for bit in stride(from: 0, to: 4_000, by: 3) {
            let (isFine, isLast) = exchange(number, suite: suite) { octets in
                guard bit / 8 < octets.count else { return false }
                octets[bit / 8] ^= 1 << UInt8(bit % 8)
                return true
            }
            #expect(isFine, "datagram \(number), octet \(bit / 8), bit \(bit % 8)")
            if isLast { return }
        }
    }

    /// Random octets, bare and behind a plausible header, on every port and in every state.
    @Test func randomDatagrams() throws {
        let random = SeededRandom(seed: 408)
        let pair = Pair { configuration, _ in configuration.deadPeerInterval = nil }
        let id = try #require(pair.connect()).client.id
        pair.link.loss = 1
        pair.initiate()
        let exchanges: [UInt8] = [2, 4, 5, 32, 240, 241, 242]
        for round in 0..<20_000 {
            var octets = random.bytes(Int(random.number(below: 300)))
            if round % 4 != 0 {
                var writer = OctetWriter()
                let isKnown = random.next() & 1 == 0
                Header(
                    initiatorCookie: isKnown ? id.initiatorCookie : random.next(),
                    responderCookie: isKnown ? id.responderCookie : 0,
                    nextPayload: PayloadType(rawValue: UInt8(random.number(below: 24))),
                    exchange: ExchangeType(rawValue: exchanges[Int(random.number(below: 7))]),
                    flags: UInt8(random.number(below: 2)), messageID: UInt32(random.number(below: 3)),
                    length: UInt32(Header.size + octets.count)
                ).write(to: &writer)
                octets = writer.bytes + octets
            }
            let port: UInt16 = round % 3 == 0 ? 4500 : 848
            if port == 4500, round % 5 > 0 { octets = [0, 0, 0, 0] + octets }
            for side in [Side.client, .server] {
                let datagram = Datagram(
                    local: SocketAddress(side == .client ? Pair.serverAddress : Pair.clientAddress, 848),
                    remote: SocketAddress(side == .client ? Pair.clientAddress : Pair.serverAddress, port),
                    bytes: octets)
                pair.deliver(datagram, to: side)
            }
        }
        #expect(pair.client.info(id) != nil && pair.server.info(id) != nil)
        #expect(pair.requests(.client).isEmpty && pair.requests(.server).isEmpty)
    }
}
