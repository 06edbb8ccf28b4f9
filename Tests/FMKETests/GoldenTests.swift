// SPDX-License-Identifier: Apache-2.0
import Basics
import Cryptography
import FMKE
import ISAKMP
import Testing

@Suite struct GoldenTests {
    private func chain(_ payloads: [RawPayload]) -> [UInt8] { PayloadChain.encode(payloads).octets }

    private func payloads(_ first: PayloadType, _ octets: [UInt8]) throws -> [RawPayload] {
        try PayloadChain.parse(first: first, octets[...], limit: 64, allowPadding: false)
    }

    // GCKS -> client: CONFIGURE { HDR*, HASH, PROFILE, (MEMBERSHIP, SA, KD)* }
    @Test func configure() throws {
        #expect(chain(try Golden.configure.payloads()) == GoldenOctets.configure)
        #expect(try Configure(payloads: payloads(.profile, GoldenOctets.configure)) == Golden.configure)
    }

    // client -> GCKS: answer { HDR*, HASH, ACK/NACK }
    @Test func answer() throws {
        #expect(chain(try Golden.answer.payloads()) == GoldenOctets.answer)
        #expect(try ConfigureAnswer(payloads: payloads(.acknowledgement, GoldenOctets.answer)) == Golden.answer)
        #expect(!Golden.answer.isAcknowledgement)
    }

    // client -> GCKS: STATUS { HDR*, HASH, REPORT }
    @Test func status() throws {
        #expect(chain(try Golden.status.payloads()) == GoldenOctets.status)
        #expect(try Status(payloads: payloads(.report, GoldenOctets.status)) == Golden.status)
    }

    // GCKS -> group: PUSH { HDR, sequence, { TRANSACTION, [SA, D, KD | PARITY], SIG } }
    @Test func push() throws {
        let rekeySA = Golden.rekeySA(TestKeys.ed25519)
        let sealer = try PushSealer(group: 10, rekeySA: rekeySA, signingKey: TestKeys.ed25519)
        let opener = try PushOpener(group: 10, rekeySA: rekeySA)
        let plain = [
            GoldenOctets.pushData, GoldenOctets.pushParity, GoldenOctets.beacon, GoldenOctets.commit,
        ]
        for (push, expected) in zip(try Golden.pushes(), plain) {
            let datagram = try sealer.seal(push.header, body: push.body, sequence: push.sequence)
            #expect(try Forge.open(datagram, group: 10, rekeySA: rekeySA) == expected)
            if push.header.kind == .data { #expect(Array(datagram[..<36]) == GoldenOctets.pushPrefix) }
            if push.header.kind == .beacon { #expect(datagram == GoldenOctets.sealedBeacon) }
            let opened = try opener.open(datagram)
            #expect(opened.header == push.header && opened.body == push.body && opened.sequence == push.sequence)
        }
    }

    @Test func pushSignedWithP256() throws {
        let opener = try PushOpener(group: 10, rekeySA: Golden.rekeySA(TestKeys.p256))
        let push = try opener.open(GoldenOctets.sealedP256)
        let expected = try Golden.pushes()[0]
        #expect(push.sequence == expected.sequence && push.header == expected.header)
        #expect(try KeyUpdate(body: push.body) == Golden.update)
    }

    /// A unicast message with a 28-octet header, HASH of SHA2-256 (36), and padding to AES's block.
    private func message(_ payloads: Int) -> Int { 28 + (36 + payloads + 15) / 16 * 16 }

    /// The sizes that docs/FMKE.md section 9 states, in octets of UDP payload.
    @Test func sizesOfTheDocument() throws {
        let rekeySA = Golden.rekeySA(TestKeys.p256)
        let sealer = try PushSealer(group: 10, rekeySA: rekeySA, signingKey: TestKeys.p256)
        let sizes = try Golden.pushes().map {
            try sealer.seal($0.header, body: $0.body, sequence: $0.sequence).count
        }
        #expect(sizes == [336, 343, 188, 188])
        var larger = Golden.update
        larger.rekeySA = rekeySA
        #expect(try larger.body().count == Golden.update.body().count + 221, "a new KEK")
        larger = Golden.update
        larger.dataSAs.append(Golden.dataSA(spi: 0x1003))
        larger.replaced.append(0x1000)
        #expect(try larger.body().count == Golden.update.body().count + 112, "one more data SA")

        var one = Golden.configure
        one.groups[0].dataSAs.removeLast()
        let payloads = chain(try one.payloads()).count
        #expect(payloads == 410)
        #expect(message(payloads) == 476)
        var answer = Golden.answer
        answer.items.removeLast()
        #expect(message(chain(try answer.payloads()).count) == 108)
        var status = Golden.status
        status.groups.removeLast()
        #expect(message(chain(try status.payloads()).count) == 124)
        #expect(try one.encodedSize == 525)
        #expect(PushEnvelope.bodySizeLimit(.ecdsaP256) == 1_206)
        #expect(PushEnvelope.bodySizeLimit(.ed25519) == 1_206)
        #expect(PushEnvelope.bodySizeLimit(.rsa2048) == 1_014)
    }
}
