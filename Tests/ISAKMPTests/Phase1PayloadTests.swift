// SPDX-License-Identifier: Apache-2.0
import Basics
import ISAKMP
import Testing

@Suite struct SecurityAssociationTests {
    static let offer = SecurityAssociation(proposals: [
        Proposal(
            number: 1,
            transforms: [
                Transform(
                    number: 1,
                    attributes: [
                        DataAttribute(1, .basic(7)), DataAttribute(14, .basic(256)), DataAttribute(2, .basic(4)),
                        DataAttribute(3, .basic(1)), DataAttribute(4, .basic(19)), DataAttribute(11, .basic(1)),
                        DataAttribute(12, integer: 86_400),
                    ]),
                Transform(number: 2, attributes: [DataAttribute(1, .basic(5))]),
            ])
    ])

    @Test func octetsAreThoseOfTheStandard() throws {
        let expected =
            "00000001 00000001" + "0000003c 01010002" + "03000028 01010000"
            + "80010007 800e0100 80020004 80030001 80040013 800b0001 000c0004 00015180"
            + "0000000c 02010000 80010005"
        #expect(Self.offer.body() == octets(hexadecimal: expected))
        #expect(try SecurityAssociation(body: Self.offer.body(), limit: 1) == Self.offer)
    }

    @Test func truncationsAndLimitAreRefused() {
        let body = Self.offer.body()
        for count in 0..<body.count {
            #expect(throws: ISAKMPError.malformed) { try SecurityAssociation(body: [UInt8](body[..<count]), limit: 4) }
        }
        let twice = SecurityAssociation(proposals: Self.offer.proposals + Self.offer.proposals)
        #expect(throws: ISAKMPError.tooManyPayloads) { try SecurityAssociation(body: twice.body(), limit: 1) }
    }

    @Test func everyLengthAndCountIsChecked() {
        let body = Self.offer.body()
        // proposal length, SPI size and count, transform lengths, length of the variable attribute
        for index in [10, 11, 14, 15, 18, 19, 50, 51, 58, 59] {
            for value in UInt8.min...UInt8.max where value != body[index] {
                var other = body
                other[index] = value
                #expect((try? SecurityAssociation(body: other, limit: 4)) != Self.offer)
            }
        }
    }

    @Test func foreignPayloadInsideIsRefused() {
        var body = Self.offer.body()
        body[16] = PayloadType.nonce.rawValue
        #expect(throws: ISAKMPError.malformed) { try SecurityAssociation(body: body, limit: 4) }
    }

    @Test func aProposalWithoutTransformsIsReadAsSuch() throws {
        let empty = SecurityAssociation(doi: 2, proposals: [Proposal(number: 1, spi: [1, 2, 3], transforms: [])])
        #expect(try SecurityAssociation(body: empty.body(), limit: 1) == empty)
    }
}

@Suite struct NotificationTests {
    static let cookies = [UInt8](0..<16)

    @Test func octetsAreThoseOfTheStandard() throws {
        let question = Notification(spi: Self.cookies, type: .areYouThere, data: [0, 0, 0, 9])
        #expect(
            hexadecimal(question.body()) == "00000001" + "01108d28" + "000102030405060708090a0b0c0d0e0f" + "00000009")
        #expect(try Notification(body: question.body()) == question)
        let delete = DeletePayload(spis: [Self.cookies])
        #expect(hexadecimal(delete.body()) == "00000001" + "01100001" + "000102030405060708090a0b0c0d0e0f")
        #expect(try DeletePayload(body: delete.body()) == delete)
    }

    @Test func truncationsAreRefused() {
        let delete = DeletePayload(spis: [[1, 2, 3, 4], [5, 6, 7, 8]]).body()
        for count in 0..<delete.count {
            #expect(throws: ISAKMPError.malformed) { try DeletePayload(body: [UInt8](delete[..<count])) }
        }
        let notification = Notification(spi: Self.cookies, type: .initialContact).body()
        for count in 0..<notification.count {
            #expect(throws: ISAKMPError.malformed) { try Notification(body: [UInt8](notification[..<count])) }
        }
    }

    @Test func everySizeAndCountOfADeleteIsChecked() {
        let body = DeletePayload(spis: [[1, 2, 3, 4], [5, 6, 7, 8]]).body()
        for index in 5...7 {
            for value in UInt8.min...UInt8.max where value != body[index] {
                var other = body
                other[index] = value
                let read = try? DeletePayload(body: other)
                #expect(read == nil || read?.spis.reduce(0) { $0 + $1.count } == 8)
            }
        }
    }

    @Test func onlyLowNumbersAreErrors() {
        #expect(NotifyType.noProposalChosen.isError && !NotifyType.initialContact.isError)
    }
}

@Suite struct RandomOctetsTests {
    /// No reader traps on whatever it is given, and what it accepts it writes again.
    @Test func everyReaderSurvivesRandomOctets() {
        let random = SeededRandom(seed: 2408)
        let samples = [
            SecurityAssociationTests.offer.body(), PayloadChain.encode(PayloadChainTests.payloads).octets,
            Notification(spi: NotificationTests.cookies, type: .areYouThere).body(),
            DeletePayload(spis: [NotificationTests.cookies]).body(), Identity.name("site1").body(),
        ]
        for round in 0..<100_000 {
            var octets = random.bytes(Int(random.number(below: 80)))
            if round % 2 == 0 {
                octets = samples[Int(random.number(below: UInt64(samples.count)))]
                for _ in 0...random.number(below: 3) {
                    octets[Int(random.number(below: UInt64(octets.count)))] = UInt8(truncatingIfNeeded: random.next())
                }
            }
            survive(octets)
        }
    }

    private func survive(_ octets: [UInt8]) {
        var reader = OctetReader(octets)
        _ = try? Header(reading: &reader)
        let type = PayloadType(rawValue: octets.first ?? 0)
        for padding in [false, true] {
            let payloads = try? PayloadChain.parse(first: type, octets[...], limit: 8, allowPadding: padding)
            if let payloads, !padding { #expect(PayloadChain.encode(payloads) == (type, octets)) }
        }
        if let attributes = try? DataAttribute.parse(octets[...]) {
            #expect(DataAttribute.encode(attributes) == octets)
        }
        if let offer = try? SecurityAssociation(body: octets, limit: 8) { #expect(offer.body() == octets) }
        if let value = try? Notification(body: octets) { #expect(value.body() == octets) }
        if let value = try? DeletePayload(body: octets) { #expect(value.body() == octets) }
        if let value = try? Identity(body: octets) { #expect((try? Identity(body: value.body())) == value) }
    }
}
