// SPDX-License-Identifier: Apache-2.0
import Basics
import Cryptography
import FMKE
import ISAKMP
import Testing

let allKinds: [TransactionHeader.Kind] = [.data, .parity, .beacon, .commit]

/// Both sides of one group's control channel.
struct Channel {
    let group: UInt32
    let rekeySA: RekeySA
    let sealer: PushSealer
    let opener: PushOpener

    init(_ samples: Samples, _ algorithm: SignatureAlgorithm = .ecdsaP256, limits: Limits = Limits()) throws {
        group = samples.u32()
        rekeySA = samples.rekeySA(algorithm)
        let key = TestKeys.key(algorithm)
        sealer = try PushSealer(group: group, rekeySA: rekeySA, signingKey: key, limits: limits)
        opener = try PushOpener(group: group, rekeySA: rekeySA, limits: limits)
    }

    func header(_ samples: Samples, _ kind: TransactionHeader.Kind) -> TransactionHeader {
        samples.header(kind, group: group, epoch: rekeySA.epoch)
    }
}

@Suite struct PushTests {
    // GCKS -> group: PUSH { HDR, sequence, { TRANSACTION, [SA, D, KD | D | PARITY], SIG } }
    @Test(arguments: SignatureAlgorithm.allCases, allKinds)
    func whatIsSealedOpens(algorithm: SignatureAlgorithm, kind: TransactionHeader.Kind) throws {
        for seed in 1...20 as ClosedRange<UInt64> {
            let samples = Samples(seed: seed)
            let channel = try Channel(samples, algorithm)
            let header = channel.header(samples, kind)
            let body = try samples.body(kind)
            let sequence = max(1, samples.random.next())
            let datagram = try channel.sealer.seal(header, body: body, sequence: sequence)
            #expect(datagram.count <= Limits().datagramOctetsSent)
            let peeked = try #require(PushEnvelope.peek(datagram))
            #expect(peeked.spi == channel.rekeySA.spi && peeked.sequence == sequence)
            let push = try channel.opener.open(datagram)
            #expect(push == Push(spi: channel.rekeySA.spi, sequence: sequence, header: header, body: body))
        }
    }

    @Test(arguments: allKinds) func everyTruncationIsRefused(kind: TransactionHeader.Kind) throws {
        let samples = Samples(seed: 21)
        let channel = try Channel(samples)
        let datagram = try channel.sealer.seal(channel.header(samples, kind), body: samples.body(kind), sequence: 5)
        for count in 0..<datagram.count { #expect(refusal(channel, Array(datagram[..<count])) == .malformed) }
        #expect(refusal(channel, datagram + [0]) == .malformed)
    }

    @Test(arguments: allKinds) func everyBitFlipIsRefused(kind: TransactionHeader.Kind) throws {
        let samples = Samples(seed: 22)
        let channel = try Channel(samples, .ed25519)
        let datagram = try channel.sealer.seal(channel.header(samples, kind), body: samples.body(kind), sequence: 5)
        for bit in 0..<(datagram.count * 8) {
            var flipped = datagram
            flipped[bit / 8] ^= 1 << UInt8(bit % 8)
            let error = refusal(channel, flipped)
            #expect(error == .notAuthentic || error == .malformed, "bit \(bit)")
        }
    }

    @Test func theSequenceGoesUpOrNothingIsSealed() throws {
        let samples = Samples(seed: 23)
        let channel = try Channel(samples)
        let header = channel.header(samples, .beacon)
        #expect(throws: FMKEError.limit) { try channel.sealer.seal(header, body: [], sequence: 0) }
        _ = try channel.sealer.seal(header, body: [], sequence: 7)
        for sequence in [0, 6, 7] as [UInt64] {
            #expect(throws: FMKEError.limit) { try channel.sealer.seal(header, body: [], sequence: sequence) }
        }
        _ = try channel.sealer.seal(header, body: [], sequence: .max)
    }

    @Test func headersThatContradictThemselvesAreNotSealed() throws {
        let samples = Samples(seed: 24)
        let channel = try Channel(samples)
        let body = try samples.body(.data)
        var sequence: UInt64 = 0
        func refusal(
            _ kind: TransactionHeader.Kind = .data, body: [UInt8]? = nil, _ change: (inout TransactionHeader) -> Void
        ) throws -> FMKEError? {
            var header = channel.header(samples, kind)
            change(&header)
            sequence += 1
            let content = try body ?? samples.body(kind)
            return #expect(throws: FMKEError.self) {
                try channel.sealer.seal(header, body: content, sequence: sequence)
            }
        }
        #expect(try refusal { $0.group ^= 1 } == .malformed)
        #expect(try refusal { $0.epoch ^= 1 } == .malformed)
        #expect(try refusal { $0.block = $0.blockCount } == .malformed)
        #expect(try refusal { $0.blockCount = 4_097 } == .limit)
        #expect(try refusal { $0.dataCount = 0 } == .malformed)
        #expect(try refusal { $0.datagramCount = $0.dataCount - 1 } == .malformed)
        #expect(try refusal { $0.index = $0.dataCount } == .malformed)
        #expect(try refusal(.parity) { $0.index = $0.dataCount - 1 } == .malformed)
        #expect(try refusal(.parity) { $0.index = $0.datagramCount } == .malformed)
        #expect(try refusal(.beacon) { $0.index = 1 } == .malformed)
        #expect(try refusal(.commit) { ($0.block, $0.blockCount) = (1, 2) } == .malformed)
        #expect(try refusal { ($0.memberFirst, $0.memberLast) = (2, 1) } == .malformed)
        #expect(try refusal { $0.feedback.modulus = 0 } == .malformed)
        let census = FeedbackRequest(mode: .census, slotMicroseconds: 9, slots: 1, modulus: 3, residue: 3)
        #expect(try refusal { $0.feedback = census } == .malformed)
        for mode in [.all, .census] as [FeedbackRequest.Mode] {
            #expect(try refusal { $0.feedback = FeedbackRequest(mode: mode, slots: 0) } == .malformed)
            let endless = FeedbackRequest(mode: mode, slotMicroseconds: 1_000_000, slots: 5_000_000)
            #expect(try refusal { $0.feedback = endless } == .malformed)
        }
        #expect(try refusal { $0.feedback = FeedbackRequest(mode: .all, slots: 9, modulus: 2) } == .malformed)
        #expect(try refusal { $0.feedback = FeedbackRequest(mode: .none, modulus: 2) } == .malformed)
        #expect(try refusal { $0.feedback = FeedbackRequest(mode: .none, slots: 1) } == .malformed)
        #expect(try refusal { $0.feedback = FeedbackRequest(mode: .none, slotMicroseconds: 1) } == .malformed)
        #expect(try refusal(.beacon, body: body) { _ in } == .malformed)
        #expect(try refusal(.data, body: []) { _ in } == .malformed)
        #expect(try refusal(.parity, body: []) { _ in } == .malformed)
        #expect(try refusal(.data, body: [9, 0, 0, 0, 4]) { _ in } == .unsupported, "a SIG as content")
    }

    @Test(arguments: SignatureAlgorithm.allCases)
    func theLongestBodyFitsAndSoDoesItsParity(algorithm: SignatureAlgorithm) throws {
        let samples = Samples(seed: 25)
        let channel = try Channel(samples, algorithm)
        let limit = PushEnvelope.bodySizeLimit(algorithm)
        // Several SAs, cut to size by the verifying key of the new rekey SA, which may be any octets.
        func body(_ size: Int) throws -> [UInt8] {
            var update = KeyUpdate(rekeySA: samples.rekeySA(), dataSAs: [], replaced: [])
            update.rekeySA?.verifyingKey = [0]
            while try update.body().count < size - 512 { update.dataSAs.append(samples.dataSA(withTimes: false)) }
            let missing = try size - update.body().count
            update.rekeySA?.verifyingKey = [UInt8](repeating: 0, count: 1 + missing)
            return try update.body()
        }
        let longest = try body(limit)
        #expect(longest.count == limit)
        let data = try channel.sealer.seal(channel.header(samples, .data), body: longest, sequence: 1)
        let shard = try Shard.make(longest, size: longest.count + Shard.lengthSize)
        let parity = try channel.sealer.seal(channel.header(samples, .parity), body: shard, sequence: 2)
        #expect(data.count == 1_393 && parity.count == 1_400)
        let tooLong = try body(limit + 1)
        #expect(throws: FMKEError.tooLong) {
            try channel.sealer.seal(channel.header(samples, .data), body: tooLong, sequence: 3)
        }
        #expect(throws: FMKEError.tooLong) {
            try channel.sealer.seal(channel.header(samples, .parity), body: shard + [0], sequence: 3)
        }
    }

    @Test func aDatagramOverTheLimitIsNotLookedAt() throws {
        let channel = try Channel(Samples(seed: 26))
        #expect(refusal(channel, [UInt8](repeating: 0, count: 16_385)) == .tooLong)
    }

    @Test func keysThatDoNotBelongTogetherMakeNoSealerOrOpener() throws {
        let rekeySA = Samples(seed: 27).rekeySA(.ecdsaP256)
        #expect(throws: FMKEError.malformed) {
            try PushSealer(group: 1, rekeySA: rekeySA, signingKey: TestKeys.ed25519)
        }
        #expect(throws: FMKEError.malformed) {
            try PushSealer(group: 1, rekeySA: rekeySA, signingKey: SigningKey.generate(.ecdsaP256))
        }
        var other = rekeySA
        other.verifyingKey = TestKeys.ed25519.publicKey
        #expect(throws: FMKEError.malformed) { try PushOpener(group: 1, rekeySA: other) }
        other = rekeySA
        other.kek = Secret([])
        #expect(throws: FMKEError.malformed) { try PushOpener(group: 1, rekeySA: other) }
    }
}

func refusal(_ channel: Channel, _ datagram: [UInt8]) -> FMKEError? {
    if case .failure(let error) = outcome({ () throws(FMKEError) in try channel.opener.open(datagram) }) {
        return error
    }
    return nil
}

@Suite struct KeyUpdateTests {
    @Test(arguments: 1...200) func aRandomUpdateSurvivesTheWire(seed: UInt64) throws {
        let update = Samples(seed: seed).keyUpdate()
        #expect(try KeyUpdate(body: update.body()) == update)
    }

    @Test(arguments: 1...8) func noBitIsIgnoredAndNoCutAccepted(seed: UInt64) throws {
        let update = Samples(seed: seed).keyUpdate()
        let body = try update.body()
        for bit in 0..<(body.count * 8) {
            var flipped = body
            flipped[bit / 8] ^= 1 << UInt8(bit % 8)
            if case .success(let value) = outcome({ () throws(FMKEError) in try KeyUpdate(body: flipped) }) {
                #expect(value != update, "bit \(bit)")
                #expect(try value.body() == flipped, "bit \(bit)")
            }
        }
        for count in 0..<body.count {
            #expect(throws: FMKEError.self) { try KeyUpdate(body: Array(body[..<count])) }
        }
        #expect(throws: FMKEError.self) { try KeyUpdate(body: body + [0]) }
    }

    @Test func contradictionsAreRefused() throws {
        let samples = Samples(seed: 31)
        func refusal(_ update: KeyUpdate) -> FMKEError? { #expect(throws: FMKEError.self) { try update.body() } }
        #expect(refusal(KeyUpdate(rekeySA: nil, dataSAs: [], replaced: [])) == .malformed)
        let sa = samples.dataSA(withTimes: false)
        #expect(refusal(KeyUpdate(rekeySA: nil, dataSAs: [sa, sa], replaced: [])) == .malformed)
        #expect(refusal(KeyUpdate(rekeySA: nil, dataSAs: [sa], replaced: [sa.spi])) == .malformed)
        #expect(refusal(KeyUpdate(rekeySA: nil, dataSAs: [sa], replaced: [7])) == .malformed)
        #expect(refusal(KeyUpdate(rekeySA: nil, dataSAs: [], replaced: [300, 300])) == .malformed)
        #expect(refusal(KeyUpdate(rekeySA: nil, dataSAs: [], replaced: (256..<265).map { $0 })) == .limit)
        var timed = sa
        timed.activateInMilliseconds = 1
        #expect(refusal(KeyUpdate(rekeySA: nil, dataSAs: [timed], replaced: [])) == .malformed)
        timed = sa
        timed.deactivateInMilliseconds = 1
        #expect(refusal(KeyUpdate(rekeySA: nil, dataSAs: [timed], replaced: [])) == .malformed)
    }

    @Test func aLargeUpdateIsSplitIntoBodiesThatFit() throws {
        let samples = Samples(seed: 32)
        let update = KeyUpdate(
            rekeySA: samples.rekeySA(), dataSAs: (0..<40).map { _ in samples.dataSA(withTimes: false) },
            replaced: (0..<40).map { _ in samples.spi() })
        let limit = PushEnvelope.bodySizeLimit(.ecdsaP256)
        let parts = try update.split(octets: limit)
        #expect(parts.compactMap(\.rekeySA) == [try #require(update.rekeySA)] && parts[0].rekeySA != nil)
        #expect(parts.flatMap(\.dataSAs) == update.dataSAs)
        #expect(parts.flatMap(\.replaced) == update.replaced)
        for part in parts {
            let body = try part.body()
            #expect(body.count <= limit)
            #expect(try KeyUpdate(body: body) == part)
        }
        #expect(try KeyUpdate(rekeySA: nil, dataSAs: [], replaced: []).split(octets: limit).isEmpty)
        #expect(throws: FMKEError.tooLong) { try update.split(octets: 100) }
        var twice = update
        twice.replaced.append(update.dataSAs[39].spi)
        #expect(throws: FMKEError.malformed) { try twice.split(octets: limit) }
    }
}

@Suite struct ShardTests {
    @Test func aBodyComesBackFromItsShard() throws {
        let samples = Samples(seed: 41)
        for length in [0, 1, 2, 255, 256, 1_200] {
            let body = samples.random.bytes(length)
            for padding in [0, 1, 300] {
                let shard = try Shard.make(body, size: length + Shard.lengthSize + padding)
                #expect(shard.count == length + Shard.lengthSize + padding)
                #expect(try Shard.body(from: shard) == body)
            }
            #expect(throws: FMKEError.malformed) { try Shard.make(body, size: length + 1) }
        }
        #expect(throws: FMKEError.malformed) { try Shard.make([UInt8](repeating: 0, count: 65_536), size: 70_000) }
    }

    @Test func aShardThatContradictsItselfIsRefused() {
        for shard in [[], [0], [0, 1], [0, 1, 5, 1], [0xff, 0xff, 0]] as [[UInt8]] {
            #expect(throws: FMKEError.malformed) { try Shard.body(from: shard) }
        }
    }

    /// Parity of a one-datagram block is repetition: it opens, and gives the same update.
    @Test func parityOfOneDatagramRepeatsIt() throws {
        let samples = Samples(seed: 42)
        let channel = try Channel(samples)
        let update = samples.keyUpdate()
        let body = try update.body()
        var header = channel.header(samples, .parity)
        (header.dataCount, header.datagramCount, header.index) = (1, 2, 1)
        let shard = try Shard.make(body, size: body.count + Shard.lengthSize)
        let push = try channel.opener.open(channel.sealer.seal(header, body: shard, sequence: 1))
        #expect(try KeyUpdate(body: Shard.body(from: push.body)) == update)
    }
}
