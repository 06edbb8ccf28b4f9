// SPDX-License-Identifier: Apache-2.0
import Basics
import Cryptography
import FMKE
import ISAKMP
import Testing

/// Keys that follow from the group key and do not travel (docs/FMKE.md 4.6).
@Suite struct SuccessionTests {
    private let groupKey = Secret(Golden.counting(from: 0xc0, 32))
    private let predecessor = Golden.rekeySA(TestKeys.ed25519)
    private let flows = [Golden.dataSA(spi: 0x1001).flow, Golden.dataSAOverIPv6.flow]
    private let slice = Golden.counting(from: 0xe0, 24)

    private func succession(attempt: UInt8 = 2) -> Succession {
        Succession(attempt: attempt, flows: flows, rekeyLifetimeSeconds: 86_400, dataLifetimeSeconds: 3_600)
    }

    /// As it is read from a datagram.
    private func update(_ carried: [DataSA] = [], attempt: UInt8 = 2) throws -> KeyUpdate {
        let update = KeyUpdate(
            rekeySA: nil, dataSAs: carried, replaced: [], treeSlice: slice, succession: succession(attempt: attempt))
        return try KeyUpdate(body: update.masked(groupKey: groupKey, group: 10, transaction: 6).body())
    }

    private func completed(
        _ update: KeyUpdate, flows: [Flow]? = nil, predecessor: RekeySA? = nil, groupKey: Secret? = nil,
        group: UInt32 = 10, transaction: UInt64 = 6
    ) throws(FMKEError) -> KeyUpdate {
        try update.completed(
            flows: flows ?? self.flows, predecessor: predecessor ?? self.predecessor,
            groupKey: groupKey ?? self.groupKey, group: group, transaction: transaction)
    }

    /// From Python's `hmac` and `hashlib` alone: RFC 5869's extract with 32 zeros as salt, and expand, over the info
    /// that the document gives; the flow's octets written out by hand.
    ///
    ///     prk = hmac(zeros(32), c0c1...df);  t1 = hmac(prk, info | 01);  t2 = hmac(prk, t1 | info | 02)
    @Test func keysFollowAsTheDocumentSays() throws {
        let update = try completed(try update())
        var rekeySA = predecessor
        rekeySA.spi = RekeySPI(high: 0x16d7_bbab_d7ff_5052, low: 0xc311_3140_acda_232e)
        rekeySA.epoch = 4
        rekeySA.kek = Secret(fields("8b8f89cde2cc4b45087c1007ba68c0a080dbf2a834a2a4d89a2cfab263c14c15"))
        #expect(update.rekeySA == rekeySA)
        var gcm = Golden.dataSA(spi: 0xb50f_0d4d)
        gcm.cipherKey = Secret(fields("cd758080cba2039808ce26086b3865ef47e774043540a19a8a5a5d9ffc30386620280428"))
        var cbc = Golden.dataSAOverIPv6
        (cbc.spi, cbc.direction, cbc.activateInMilliseconds, cbc.deactivateInMilliseconds) =
            (0xcdae_e8c8, .symmetric, 0, nil)
        cbc.cipherKey = Secret(fields("f239834907a4a18a3a4abf6b492a7cca"))
        cbc.authenticationKey = Secret(fields("ecf83eec6e6a8fbfbb6a7e6bd09ae3034514f62c04b87a80ec683ac284f1dd46"))
        #expect(update.dataSAs == [cbc, gcm], "in the order of their flows' octets")
        #expect(try completed(try self.update(), flows: flows.reversed()) == update)
    }

    @Test func thePayloadHasTheOctetsOfTheDocument() throws {
        let body = try update().body()
        let expected = fields(
            """
            8c                           ; first payload = 140
            00 00 002c                   ; next = 0, length = 44
            02                           ; attempt = 2
            00                           ; reserved
            0002                         ; flows = 2
            00015180                     ; lifetime of the rekey SA = 86400
            00000e10                     ; lifetime of the data SAs = 3600
            3e40242e                     ; check of the flows, from the same script
            e0e1e2e3e4e5e6e7e8e9eaebecedeeeff0f1f2f3f4f5f6f7
            """)
        #expect(body == expected)
        #expect(try KeyUpdate(body: body) == update())
    }

    @Test func whatIsCarriedAlongIsMaskedAndStandsInFront() throws {
        let earlier = Golden.dataSA(spi: 0x1002)
        let read = try update([earlier])
        #expect(read.dataSAs[0].cipherKey != earlier.cipherKey)
        let body = try read.body()
        #expect(try KeyUpdate(body: body) == read)
        let update = try completed(read)
        #expect(update.dataSAs.count == 3 && update.dataSAs[0] == earlier)
        #expect(!update.areKeysMasked && update.rekeySA?.epoch == 4)
    }

    @Test func eachBindingGivesOtherKeys() throws {
        let first = try completed(try update())
        var elsewhere = predecessor
        elsewhere.spi.low ^= 1
        var later = predecessor
        later.epoch += 1
        let others = [
            try completed(try update(), groupKey: Secret(Golden.counting(from: 0xc1, 32))),
            try completed(try update(), group: 11), try completed(try update(), transaction: 7),
        ]
        for other in others {
            #expect(other.rekeySA?.kek != first.rekeySA?.kek && other.rekeySA?.spi != first.rekeySA?.spi)
            for (a, b) in zip(other.dataSAs, first.dataSAs) {
                #expect(a.spi != b.spi && a.cipherKey != b.cipherKey)
                #expect(a.authenticationKey == nil || a.authenticationKey != b.authenticationKey)
            }
        }
        for sealedBy in [elsewhere, later] {
            let other = try completed(try update(), predecessor: sealedBy)
            #expect(other.rekeySA?.kek != first.rekeySA?.kek && other.rekeySA?.spi != first.rekeySA?.spi)
            #expect(other.dataSAs == first.dataSAs)
        }
        let attempt = try completed(try update(attempt: 3))
        #expect(attempt.rekeySA == first.rekeySA)
        for (a, b) in zip(attempt.dataSAs, first.dataSAs) { #expect(a.spi != b.spi && a.cipherKey != b.cipherKey) }
        // Every key of a transaction is another one, and none is a mask of it.
        let masks = KeyUpdate(rekeySA: first.rekeySA, dataSAs: first.dataSAs, replaced: [], treeSlice: slice)
            .masked(groupKey: groupKey, group: 10, transaction: 6)
        let zero = [UInt8](repeating: 0, count: 32)
        #expect(masks.rekeySA?.kek.revealed() != zero)
        #expect(masks.dataSAs.allSatisfy { $0.cipherKey.revealed().prefix(16) != zero.prefix(16) })
    }

    @Test func whoKnowsOtherFlowsDerivesNothing() throws {
        let update = try update()
        var other = flows
        other[0].suite = .aes128gcm
        #expect(throws: FMKEError.unsupported) { try completed(update, flows: other) }
        other = flows
        other[0].lifetimeKilobytes = 7
        #expect(throws: FMKEError.unsupported) { try completed(update, flows: other) }
        other = flows
        other[0].selector.sourcePort = 9
        #expect(throws: FMKEError.unsupported) { try completed(update, flows: other) }
        #expect(throws: FMKEError.unsupported) { try completed(update, flows: [flows[0]]) }
        #expect(throws: FMKEError.unsupported) { try completed(update, flows: []) }
        var last = predecessor
        last.epoch = .max
        #expect(throws: FMKEError.limit) { try completed(update, predecessor: last) }
        let explicit = KeyUpdate(rekeySA: predecessor, dataSAs: [], replaced: [])
        #expect(throws: FMKEError.malformed) { try completed(explicit) }
    }

    @Test func whatIsNoSuccessionIsRefused() throws {
        let body = try update().body()
        func refusal(_ change: (inout [UInt8]) -> Void) -> FMKEError? {
            var bad = body
            change(&bad)
            return #expect(throws: FMKEError.self) { try KeyUpdate(body: bad) }
        }
        #expect(refusal { $0[6] = 1 } == .malformed, "reserved")
        #expect(refusal { $0[8] = 0 } == .malformed, "no flow")
        #expect(refusal { $0[8] = 9 } == .limit)
        #expect(refusal { $0.replaceSubrange(9..<13, with: [0, 0, 0, 0]) } == .malformed)
        #expect(refusal { $0.replaceSubrange(13..<17, with: [0, 0, 0, 0]) } == .malformed)
        #expect(
            refusal {
                $0.removeLast(24)
                $0[4] = 20
            } == .malformed, "no slice")
        // Carried keys in the clear; a rekey SA; a second slice; SPIs that go.
        let whole = try PayloadChain.parse(first: .succession, body.dropFirst(), limit: 3, allowPadding: false)
        func refusal(behind payloads: [RawPayload]) -> FMKEError? {
            let chain = PayloadChain.encode(whole + payloads)
            return #expect(throws: FMKEError.self) { try KeyUpdate(body: [chain.first.rawValue] + chain.octets) }
        }
        #expect(refusal(behind: try chain(KeyUpdate(rekeySA: nil, dataSAs: [flow()], replaced: []))) == .malformed)
        #expect(refusal(behind: try chain(KeyUpdate(rekeySA: predecessor, dataSAs: [], replaced: []))) == .malformed)
        #expect(refusal(behind: try chain(KeyUpdate(rekeySA: nil, dataSAs: [], replaced: [0x1001]))) == .malformed)
        #expect(refusal(behind: whole) == .malformed, "twice")
        let masked = KeyUpdate(rekeySA: predecessor, dataSAs: [flow()], replaced: [], treeSlice: slice)
            .masked(groupKey: groupKey, group: 10, transaction: 6)
        #expect(refusal(behind: try chain(masked)) == .malformed, "a rekey SA that travels")
    }

    private func flow() -> DataSA { Golden.dataSA(spi: 0x1002) }

    private func chain(_ update: KeyUpdate) throws -> [RawPayload] {
        let body = try update.body()
        return try PayloadChain.parse(
            first: PayloadType(rawValue: body[0]), body.dropFirst(), limit: 3, allowPadding: false)
    }
}
