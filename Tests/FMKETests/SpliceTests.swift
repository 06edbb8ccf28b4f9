// SPDX-License-Identifier: Apache-2.0
import Basics
import Cryptography
import FMKE
import ISAKMP
import Testing

/// Makes PUSHes by the text of docs/FMKE.md 6, apart from the product's code, with any part of it changed.
struct Forge {
    var group: UInt32
    var rekeySA: RekeySA
    var signingKey: SigningKey
    let opener: PushOpener

    init(_ samples: Samples, _ algorithm: SignatureAlgorithm = .ed25519) throws {
        group = samples.u32()
        rekeySA = samples.rekeySA(algorithm)
        signingKey = TestKeys.key(algorithm)
        opener = try PushOpener(group: group, rekeySA: rekeySA)
    }

    struct Context {
        var label = "FMKE PUSH v1\0"
        var group: UInt32
        var spi: RekeySPI
        var epoch: UInt32
        var sequence: UInt64
    }

    func transactionBody(_ samples: Samples, _ kind: TransactionHeader.Kind) throws -> [UInt8] {
        let header = samples.header(kind, group: group, epoch: rekeySA.epoch)
        let sealer = try PushSealer(group: group, rekeySA: rekeySA, signingKey: signingKey)
        let plain = try Self.open(
            sealer.seal(header, body: samples.body(kind), sequence: 1), group: group, rekeySA: rekeySA)
        return Array(plain[4..<68])
    }

    func payloads(of body: [UInt8]) throws -> [RawPayload] {
        try PayloadChain.parse(
            first: PayloadType(rawValue: body[0]), body.dropFirst(), limit: 8, allowPadding: false)
    }

    /// `plain` is the chain up to SIG, SIG's own header and signature excluded.
    func datagram(
        plain: [UInt8], sequence: UInt64, sign change: (inout Context) -> Void = { _ in },
        signer: SigningKey? = nil, signedHeader: [UInt8]? = nil
    ) throws -> [UInt8] {
        var context = Context(group: group, spi: rekeySA.spi, epoch: rekeySA.epoch, sequence: sequence)
        change(&context)
        let size = (signer ?? signingKey).algorithm.signatureSize
        let header = Self.header(rekeySA.spi, length: 36 + plain.count + 4 + size + 16)
        let signed =
            Array(context.label.utf8) + Self.u32(context.group) + Self.spi(context.spi) + Self.u32(context.epoch)
            + Self.u64(context.sequence) + (signedHeader ?? header) + plain
        let signature = try (signer ?? signingKey).sign(signed)
        return try Self.seal(
            plain + [0, 0, UInt8((4 + size) >> 8), UInt8((4 + size) & 0xff)] + signature, header: header,
            sequence: sequence, group: group, rekeySA: rekeySA)
    }

    static func header(_ spi: RekeySPI, length: Int) -> [UInt8] {
        Self.spi(spi) + [136, 0x10, 241, 0x01, 0, 0, 0, 0] + u32(UInt32(length))
    }

    static func seal(
        _ plain: [UInt8], header: [UInt8], sequence: UInt64, group: UInt32, rekeySA: RekeySA
    ) throws -> [UInt8] {
        let keys = keys(group, rekeySA)
        let prefix = header + u64(sequence)
        return try prefix + AESGCM.seal(plain, key: keys.key, nonce: keys.salt + u64(sequence), aad: prefix)
    }

    static func open(_ datagram: [UInt8], group: UInt32, rekeySA: RekeySA) throws -> [UInt8] {
        let keys = keys(group, rekeySA)
        let prefix = Array(datagram[..<36])
        return try AESGCM.open(
            Array(datagram[36...]), key: keys.key, nonce: keys.salt + prefix[28...], aad: prefix)
    }

    static func keys(_ group: UInt32, _ rekeySA: RekeySA) -> (key: Secret, salt: [UInt8]) {
        let info = Array("FMKE PUSH v1".utf8) + spi(rekeySA.spi) + u32(group) + u32(rekeySA.epoch)
        let material = HKDF.derive(.sha256, key: rekeySA.kek, salt: [], info: info, count: 36)
        return (material[0..<32], material[32..<36].revealed())
    }

    static func u32(_ value: UInt32) -> [UInt8] { (0..<4).map { UInt8(value >> (24 - 8 * $0) & 0xff) } }
    static func u64(_ value: UInt64) -> [UInt8] { (0..<8).map { UInt8(value >> (56 - 8 * $0) & 0xff) } }
    static func spi(_ value: RekeySPI) -> [UInt8] { u64(value.high) + u64(value.low) }
}

/// A member knows the KEK and can seal what it likes; it must not get any of it accepted.
@Suite struct SpliceTests {
    private let samples = Samples(seed: 61)
    private let forge: Forge
    private let plain: [UInt8]

    init() throws {
        forge = try Forge(samples)
        let sealer = try PushSealer(group: forge.group, rekeySA: forge.rekeySA, signingKey: forge.signingKey)
        let header = samples.header(.data, group: forge.group, epoch: forge.rekeySA.epoch)
        let datagram = try sealer.seal(header, body: samples.body(.data), sequence: 9)
        let whole = try Forge.open(datagram, group: forge.group, rekeySA: forge.rekeySA)
        plain = whole.dropLast(68)
    }

    private func refusal(_ datagram: [UInt8], _ opener: PushOpener? = nil) -> FMKEError? {
        let opener = opener ?? forge.opener
        if case .failure(let error) = outcome({ () throws(FMKEError) in try opener.open(datagram) }) { return error }
        return nil
    }

    @Test func theForgeMakesWhatTheProductAccepts() throws {
        #expect(try forge.opener.open(forge.datagram(plain: plain, sequence: 9)).sequence == 9)
    }

    @Test func aSignatureForAnotherContextIsRefused() throws {
        let changes: [(inout Forge.Context) -> Void] = [
            { $0.group ^= 1 }, { $0.epoch &-= 1 }, { $0.spi.high ^= 1 }, { $0.spi.low ^= 1 }, { $0.sequence += 1 },
            { $0.label = "FMKE PUSH v1" }, { $0.label = "FMKE PUSH v2\0" },
        ]
        for change in changes {
            #expect(try refusal(forge.datagram(plain: plain, sequence: 9, sign: change)) == .notAuthentic)
        }
        let otherHeader = Forge.header(forge.rekeySA.spi, length: 1)
        #expect(
            try refusal(forge.datagram(plain: plain, sequence: 9, signedHeader: otherHeader)) == .notAuthentic)
    }

    @Test func aSignatureByAnotherKeyIsRefused() throws {
        let other = try SigningKey.generate(.ed25519)
        #expect(try refusal(forge.datagram(plain: plain, sequence: 9, signer: other)) == .notAuthentic)
        #expect(try refusal(forge.datagram(plain: plain, sequence: 9, signer: TestKeys.p256)) == .notAuthentic)
    }

    @Test func emptyAndZeroSignaturesAreRefused() throws {
        for signature in [[], [UInt8](repeating: 0, count: 64), [UInt8](repeating: 0xff, count: 64)] as [[UInt8]] {
            let whole = plain + [0, 0, 0, UInt8(4 + signature.count)] + signature
            let header = Forge.header(forge.rekeySA.spi, length: 36 + whole.count + 16)
            let datagram = try Forge.seal(
                whole, header: header, sequence: 9, group: forge.group, rekeySA: forge.rekeySA)
            #expect(refusal(datagram) == .notAuthentic)
        }
    }

    /// A member decrypts a good PUSH and sends it again with a higher sequence, which a replay window would let pass.
    @Test func aRaisedSequenceIsRefused() throws {
        let good = try forge.datagram(plain: plain, sequence: 9)
        let whole = try Forge.open(good, group: forge.group, rekeySA: forge.rekeySA)
        let replayed = try Forge.seal(
            whole, header: Array(good[..<28]), sequence: 10, group: forge.group, rekeySA: forge.rekeySA)
        #expect(refusal(replayed) == .notAuthentic)
    }

    /// A member of two groups of one GCKS takes a PUSH of the first and seals it for the second.
    @Test func aPushOfAnotherGroupIsRefused() throws {
        let good = try forge.datagram(plain: plain, sequence: 9)
        let whole = try Forge.open(good, group: forge.group, rekeySA: forge.rekeySA)
        var second = forge.rekeySA
        second.spi = RekeySPI(high: 7, low: 8)
        second.kek = Secret(random: samples.random, count: 32)
        let opener = try PushOpener(group: forge.group &+ 1, rekeySA: second)
        let spliced = try Forge.seal(
            whole, header: Forge.header(second.spi, length: good.count), sequence: 9, group: opener.group,
            rekeySA: second)
        #expect(refusal(spliced, opener) == .notAuthentic)
        #expect(refusal(good, opener) == .notAuthentic, "another SPI")

        // Even if the second group's rekey SA had the first one's SPI, epoch and KEK.
        let twin = try PushOpener(group: forge.group &+ 1, rekeySA: forge.rekeySA)
        let again = try Forge.seal(
            whole, header: Array(good[..<28]), sequence: 9, group: twin.group, rekeySA: forge.rekeySA)
        #expect(refusal(again, twin) == .notAuthentic)
        #expect(refusal(good, twin) == .notAuthentic)
    }

    /// The old KEK's PUSHes are of no use under the next one, which has another epoch and SPI.
    @Test func aPushOfAnotherEpochIsRefused() throws {
        let good = try forge.datagram(plain: plain, sequence: 9)
        let whole = try Forge.open(good, group: forge.group, rekeySA: forge.rekeySA)
        var next = forge.rekeySA
        next.epoch &+= 1
        let opener = try PushOpener(group: forge.group, rekeySA: next)
        #expect(refusal(good, opener) == .notAuthentic, "another epoch gives another key")
        let spliced = try Forge.seal(
            whole, header: Array(good[..<28]), sequence: 9, group: forge.group, rekeySA: next)
        #expect(refusal(spliced, opener) == .notAuthentic)
    }

    /// Signed by the GCKS, but not what docs/FMKE.md describes.
    @Test func authenticButMalformedContentIsRefused() throws {
        let transaction = Array(plain[4..<68])
        func refusal(_ payloads: [RawPayload], next: PayloadType = .signature) throws -> FMKEError? {
            var chain = PayloadChain.encode(payloads + [RawPayload(next, [])]).octets
            chain.removeLast(4)
            return try self.refusal(forge.datagram(plain: chain, sequence: 9))
        }
        let content = try forge.payloads(of: KeyUpdate(rekeySA: nil, dataSAs: [], replaced: [300]).body())
        let first = RawPayload(.transaction, transaction)
        #expect(try refusal([first] + content) == nil)
        #expect(try refusal([first]) == .malformed, "data without a body")
        #expect(try refusal([first] + content + content) == .malformed)
        #expect(try refusal([first, first] + content) == .unsupported)
        #expect(try refusal([first] + content + [RawPayload(.vendorID, [1])]) == .unsupported)
        #expect(try refusal([first] + content, next: .none) == .malformed, "octets behind the chain")
        #expect(try refusal([first] + content, next: .hash) == .malformed)
        #expect(try refusal([first, RawPayload(.parity, [1])]) == .unsupported)
        #expect(
            try refusal([RawPayload(.transaction, transaction + [0])] + content) == .malformed, "a longer TRANSACTION")
        var other = transaction
        other[7] ^= 1
        #expect(try refusal([RawPayload(.transaction, other)] + content) == .malformed, "another group inside")
        other = transaction
        other[11] ^= 1
        #expect(try refusal([RawPayload(.transaction, other)] + content) == .malformed, "another epoch inside")
        other = transaction
        other[3] = 1
        #expect(try refusal([RawPayload(.transaction, other)] + content) == .malformed, "reserved")
        other = transaction
        other[0] = 5
        #expect(try refusal([RawPayload(.transaction, other)] + content) == .unsupported, "kind")
        other = transaction
        other[1] = 3
        #expect(try refusal([RawPayload(.transaction, other)] + content) == .unsupported, "feedback mode")
    }
}
