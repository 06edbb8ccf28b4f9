// SPDX-License-Identifier: Apache-2.0
import Basics
import Cryptography
import FMKE
import ISAKMP
import Testing

/// Readers meet 100,000 inputs each: noise, and good messages with octets overwritten, inserted and cut. A reader may
/// throw what it declares, never trap, and whatever it accepts it would write the same way.
@Suite struct RandomInputTests {
    private static let count = 100_000

    private func mangled(_ octets: [UInt8], _ random: SeededRandom) -> [UInt8] {
        var result = octets
        for _ in 0...random.number(below: 4) {
            let position = Int(random.number(below: UInt64(result.count + 1)))
            let octet =
                random.number(below: 3) == 0
                ? [0, 1, 0x7f, 0x80, 0xff][Int(random.number(below: 5))]
                : UInt8(truncatingIfNeeded: random.next())
            switch random.number(below: 6) {
            case 0: result.removeLast(result.count - position)
            case 1: result.insert(octet, at: position)
            case 2 where position < result.count: result.remove(at: position)
            default: if position < result.count { result[position] = octet }
            }
        }
        return result
    }

    private func noise(_ random: SeededRandom) -> [UInt8] { random.bytes(Int(random.number(below: 200))) }

    @Test func configure() throws {
        let samples = Samples(seed: 51)
        let random = samples.random
        var roomy = Limits()
        roomy.datagramOctetsSent = 4_000
        let seeds = try (0..<32).map { _ in
            try Configure(
                sequence: 1, generation: 2, part: 0, partCount: 1, groups: [samples.section(), samples.section()]
            ).payloads(limits: roomy)
        }
        for round in 0..<Self.count {
            var payloads = samples.pick(seeds)
            let position = Int(random.number(below: UInt64(payloads.count)))
            payloads[position].body =
                round % 8 == 0 ? noise(random) : mangled(payloads[position].body, random)
            if case .success(let value) = outcome({ () throws(FMKEError) in try Configure(payloads: payloads) }) {
                #expect(try value.payloads(limits: roomy) == payloads)
            }
        }
    }

    @Test func configureAsAChain() throws {
        let samples = Samples(seed: 52)
        let random = samples.random
        let seeds = try (0..<32).map { _ in
            try PayloadChain.encode(
                Configure(sequence: 1, generation: 2, part: 0, partCount: 1, groups: [samples.section()]).payloads())
        }
        for _ in 0..<Self.count {
            let chain = mangled(samples.pick(seeds).octets, random)
            guard
                let payloads = try? PayloadChain.parse(
                    first: .profile, chain[...], limit: 64, allowPadding: random.next() & 1 == 0)
            else { continue }
            _ = try? Configure(payloads: payloads)
        }
    }

    @Test func answersAndReports() throws {
        let samples = Samples(seed: 53)
        let random = samples.random
        let answers = try (0..<16).map { _ in try samples.answer().payloads()[0].body }
        let reports = try (0..<16).map { _ in try samples.status().payloads()[0].body }
        for round in 0..<Self.count {
            let answer = [
                RawPayload(.acknowledgement, round % 4 == 0 ? noise(random) : mangled(samples.pick(answers), random))
            ]
            if case .success(let value) = outcome({ () throws(FMKEError) in try ConfigureAnswer(payloads: answer) }) {
                #expect(try value.payloads() == answer)
            }
            let report = [RawPayload(.report, round % 4 == 0 ? noise(random) : mangled(samples.pick(reports), random))]
            if case .success(let value) = outcome({ () throws(FMKEError) in try Status(payloads: report) }) {
                #expect(try value.payloads() == report)
            }
        }
    }

    @Test func keyUpdatesAndShards() throws {
        let samples = Samples(seed: 54)
        let random = samples.random
        let bodies = try (0..<32).map { _ in try samples.keyUpdate().body() }
        for round in 0..<Self.count {
            let body = round % 8 == 0 ? noise(random) : mangled(samples.pick(bodies), random)
            if case .success(let value) = outcome({ () throws(FMKEError) in try KeyUpdate(body: body) }) {
                #expect(try value.body() == body)
            }
            let shard = mangled([0, 3, 1, 2, 3, 0, 0], random)
            if case .success(let value) = outcome({ () throws(FMKEError) in try Shard.body(from: shard) }) {
                #expect(try Shard.make(value, size: shard.count) == shard)
            }
        }
    }

    @Test func pushes() throws {
        let samples = Samples(seed: 55)
        let random = samples.random
        let channel = try Channel(samples, .ed25519)
        let datagrams = try allKinds.enumerated().map {
            try channel.sealer.seal(
                channel.header(samples, $1), body: samples.body($1), sequence: UInt64($0) + 1)
        }
        for round in 0..<Self.count {
            let datagram = round % 8 == 0 ? noise(random) : mangled(samples.pick(datagrams), random)
            if case .success(let push) = outcome({ () throws(FMKEError) in try channel.opener.open(datagram) }) {
                #expect(datagrams.contains(datagram), "accepted \(push.sequence)")
            }
        }
    }

    /// What a hostile key server could send: authentic messages with mangled content, through the whole opener.
    @Test func signedPushesWithMangledContent() throws {
        let samples = Samples(seed: 56)
        let forge = try Forge(samples)
        let bodies = try (0..<16).map { _ in
            let transaction = RawPayload(.transaction, try forge.transactionBody(samples, .data))
            let content = try forge.payloads(of: samples.keyUpdate().body())
            return PayloadChain.encode([transaction] + content + [RawPayload(.signature, [])]).octets.dropLast(4)
        }
        for _ in 0..<(Self.count / 10) {
            let datagram = try forge.datagram(plain: mangled(Array(samples.pick(bodies)), samples.random), sequence: 1)
            if case .success(let push) = outcome({ () throws(FMKEError) in try forge.opener.open(datagram) }) {
                _ = try? KeyUpdate(body: push.body)
            }
        }
    }
}
