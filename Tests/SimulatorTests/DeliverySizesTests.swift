// SPDX-License-Identifier: Apache-2.0
import Basics
import Cryptography
import FMKE
import ReliablePush
import Simulator
import Testing

/// The octets that a delivery run counts are those that the FMKE codec makes. The sizes of CONFIGURE, its answer and
/// STATUS are checked by FMKETests ("sizes of the document"): 476, 108 and 124.
@Suite struct DeliverySizesTests {
    private static func header(_ kind: TransactionHeader.Kind, index: UInt8 = 0) -> TransactionHeader {
        TransactionHeader(
            kind: kind, group: 1, epoch: 1, transaction: 1, index: index, dataCount: 1, datagramCount: 2,
            feedback: FeedbackRequest(mode: .none), activateInMilliseconds: 0, deactivateInMilliseconds: 0)
    }

    @Test func pushes() throws {
        let key = try SigningKey.generate(.ecdsaP256)
        let rekeySA = RekeySA(
            spi: RekeySPI(high: 1, low: 2), source: try #require(IPAddress("192.0.2.1")),
            control: SocketAddress(try #require(IPAddress("239.1.1.1")), 848), epoch: 1,
            lifetimeSeconds: 3_600, signatureAlgorithm: .ecdsaP256, verifyingKey: key.publicKey,
            kek: Secret([UInt8](repeating: 1, count: 32)))
        let sealer = try PushSealer(group: 1, rekeySA: rekeySA, signingKey: key)
        func size(_ header: TransactionHeader, _ body: [UInt8], _ sequence: UInt64) throws -> Int {
            try sealer.seal(header, body: body, sequence: sequence).count + DeliverySizes.network
        }
        let body = try KeyUpdate(rekeySA: nil, dataSAs: [], replaced: [0x1001, 0x1002]).body()
        let shard = try Shard.make(body, size: body.count + Shard.lengthSize)
        #expect(try size(Self.header(.beacon), [], 1) == DeliverySizes.multicast(body: 0, isParity: false))
        #expect(
            try size(Self.header(.data), body, 2) == DeliverySizes.multicast(body: body.count, isParity: false))
        #expect(
            try size(Self.header(.parity, index: 1), shard, 3)
                == DeliverySizes.multicast(body: shard.count, isParity: true))
        #expect(PushEnvelope.bodySizeLimit(.ecdsaP256) == DeliverySizes.bodyLimit)
    }

    @Test func answers() {
        #expect(DeliverySizes.status == 124 + 28)
        #expect(DeliverySizes.status(missing: 1) == DeliverySizes.status)
        #expect(PushPolicy().answerOctets == DeliverySizes.status)
        #expect(DeliverySizes.profile == 476 + 28 && DeliverySizes.profileAnswer == 108 + 28)
    }
}
