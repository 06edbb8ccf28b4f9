// SPDX-License-Identifier: Apache-2.0
import Basics
import Cryptography
import IKEv1
import ISAKMP
import Testing

/// A responder under a flood of messages that anybody can make up.
@Suite struct FloodTests {
    private static let suites = [Phase1Suite("aes128-sha256-x25519") ?? .standard]

    /// Message 1 of somebody at the client's address, as the server sees it, and what makes more of it.
    private struct Flood {
        let server: Phase1Endpoint
        let random = SeededRandom(seed: 3)
        let genuine: Datagram
        var (received, answered, drops) = (0, 0, 0)

        init(_ server: Phase1Endpoint, like genuine: Datagram) {
            (self.server, self.genuine) = (server, genuine)
        }

        /// Each with an initiator cookie of its own; every other one with an unknown payload behind it.
        mutating func run(_ count: Int, now: Instant) {
            for number in 0..<count {
                var bytes = genuine.bytes
                bytes.replaceSubrange(0..<8, with: random.bytes(8))
                if number % 2 == 1 { bytes = withAnotherVendor(bytes) }
                received += bytes.count
                server.receive(Datagram(local: genuine.local, remote: genuine.remote, bytes: bytes), now: now)
                while let output = server.poll() {
                    switch output {
                    case .transmit(let datagram): answered += datagram.bytes.count
                    case .event(.dropped): drops += 1
                    case .event, .wait: break
                    }
                }
            }
        }

        private func withAnotherVendor(_ octets: [UInt8]) -> [UInt8] {
            var (octets, at, last) = (octets, 28, 28)
            while at + 4 <= octets.count {
                last = at
                guard octets[at] != 0 else { break }
                at += Int(octets[at + 2]) << 8 | Int(octets[at + 3])
            }
            octets[last] = 13
            octets += [0, 0, 0, 20] + random.bytes(16)
            octets[26] = UInt8(octets.count >> 8)
            octets[27] = UInt8(octets.count & 0xff)
            return octets
        }
    }

    /// Between any two messages of a client come thousands that somebody makes up in its name.
    @Test(arguments: [true, false]) func aFloodInAClientsNameHoldsNobodyUp(hasRegistered: Bool) throws {
        // Where the client's offer is another one than expected, it is known from its last registration.
        let pair = Pair(suites: Self.suites) { configuration, _ in configuration.deadPeerInterval = nil }
        var flood: Flood?
        if hasRegistered {
            let info = try #require(pair.connect())
            pair.client.close(info.client.id, now: pair.now)
            pair.drain()
            pair.run(.seconds(1))
        }
        pair.tap = { side, datagram in
            if side == .server, flood == nil { return [datagram] }
            if side == .client, datagram.bytes[18] == 2 {
                var next =
                    flood
                    ?? Flood(
                        pair.server,
                        like: Datagram(
                            local: datagram.remote, remote: datagram.local, bytes: datagram.bytes))
                next.run(2_000, now: pair.now)
                flood = next
            }
            return [datagram]
        }
        #expect(pair.connect(within: .seconds(5)) != nil)
        let result = try #require(flood)
        #expect(result.answered <= result.received && result.received > 0)
    }

    /// A message 3 counts only from where, and soon after, its message 1 came.
    @Test func theCookieIsOfOneAddressPortAndTime() throws {
        for (change, isFine) in [(0, true), (1, false), (2, false), (3, false), (4, false)] {
            let pair = Pair(suites: Self.suites) { configuration, _ in configuration.deadPeerInterval = nil }
            var third: Datagram?
            pair.tap = { side, datagram in
                guard side == .client, datagram.bytes[8..<16] != [0, 0, 0, 0, 0, 0, 0, 0] else { return [datagram] }
                third = Datagram(local: datagram.remote, remote: datagram.local, bytes: datagram.bytes)
                return []
            }
            pair.initiate()
            pair.run(.milliseconds(100)) { third != nil }
            var datagram = try #require(third)
            var now = pair.now
            switch change {
            case 1: datagram.remote.address = .v4(10, 1, 0, 9)
            case 2: datagram.remote.port = 849
            case 3: datagram.local.port = 500
            case 4: now = now + .seconds(65)
            default: break
            }
            pair.server.receive(datagram, now: now)
            var answers = 0
            while let output = pair.server.poll() { if case .transmit = output { answers += 1 } }
            #expect((answers == 1) == isFine, "change \(change)")
        }
    }

    /// Messages 3 cost computations: of one address so many at once, and some per second.
    @Test func computationsOfOneAddressAreRationed() throws {
        var limits = Limits()
        limits.keyAgreementsPerAddress = 4
        let server = server(limits)
        func computed(at now: Instant) throws -> Int {
            try (0..<10).count { _ in try agrees(server, .v4(10, 1, 0, 1), now: now) }
        }
        #expect(try computed(at: .zero + .seconds(1)) == 4)
        #expect(try computed(at: .zero + .seconds(3)) == 2)
        #expect(try agrees(server, .v4(10, 1, 0, 2), now: .zero + .seconds(3)), "another address has its own ration")
    }

    /// Of all addresses together, and those that were here before have a part of their own.
    @Test func computationsOfAllAreRationed() throws {
        var limits = Limits()
        limits.keyAgreementsPerSecond = 8
        let pair = Pair(suites: Self.suites) { configuration, _ in configuration.limits = limits }
        let now = Instant.zero + .seconds(1)
        let strangers = try (0..<10).count { try agrees(pair.server, .v4(10, 7, 0, UInt8($0)), now: now) }
        #expect(strangers == 4)
        // The same endpoint once one with this credential has authenticated itself.
        pair.now = .zero + .seconds(100)
        _ = try #require(pair.connect())
        let later = pair.now + .seconds(60)
        let known = try (0..<20).count { try agrees(pair.server, .v4(10, 8, 0, UInt8($0)), now: later) }
        #expect(known == 8)
    }

    /// What is made up in a member's name comes back to it: so many a second are enough.
    @Test func aMemberIsSparedWhatIsMadeUpInItsName() throws {
        let pair = Pair(suites: Self.suites) { configuration, _ in configuration.deadPeerInterval = nil }
        var first: Datagram?
        pair.tap = { side, datagram in
            if side == .client, first == nil {
                first = Datagram(local: datagram.remote, remote: datagram.local, bytes: datagram.bytes)
            }
            return [datagram]
        }
        _ = try #require(pair.connect())
        var flood = Flood(pair.server, like: try #require(first))
        flood.run(1_000, now: pair.now + .seconds(10))
        #expect(flood.drops >= 1_000 - Limits().openingsPerMember)
        #expect(flood.answered > 0)
    }

    private func server(_ limits: Limits) -> Phase1Endpoint {
        var configuration = Phase1Configuration(identity: .name("gcks"), isResponder: true)
        configuration.limits = limits
        let known = OneCredential(Pair.credential("any", identity: nil, suites: Self.suites))
        return Phase1Endpoint(configuration: configuration, credentials: known, random: SeededRandom(seed: 9))
    }

    /// Does the server answer message 3 of a client at this address?
    private func agrees(_ server: Phase1Endpoint, _ address: IPAddress, now: Instant) throws -> Bool {
        let here = SocketAddress(address, 848)
        let there = SocketAddress(Pair.serverAddress, 848)
        seeds.next += 1
        let client = Phase1Endpoint(
            configuration: Phase1Configuration(identity: .name("x"), isResponder: false),
            credentials: OneCredential(nil), random: SeededRandom(seed: seeds.next))
        _ = client.initiate(
            Pair.credential("gcks", identity: nil, suites: Self.suites), from: here, to: there, now: now)
        var answers = 0
        while let output = client.poll() {
            guard case .transmit(let datagram) = output else { continue }
            server.receive(Datagram(local: there, remote: here, bytes: datagram.bytes), now: now)
            while let output = server.poll() {
                guard case .transmit(let answer) = output else { continue }
                answers += 1
                if answers < 2 {
                    client.receive(Datagram(local: here, remote: there, bytes: answer.bytes), now: now)
                }
            }
        }
        return answers == 2
    }

    private final class Seeds { var next: UInt64 = 100 }
    private let seeds = Seeds()
}
