// SPDX-License-Identifier: Apache-2.0
import Basics
import Cryptography
import FMKE
import ISAKMP
import Testing

@Suite struct ConfigureTests {
    @Test(arguments: 1...200) func aRandomMessageSurvivesTheWire(seed: UInt64) throws {
        let configure = Samples(seed: seed).configure()
        var roomy = Limits()
        roomy.datagramOctetsSent = 4_000
        #expect(try Configure(payloads: configure.payloads(limits: roomy)) == configure)
    }

    @Test(arguments: SignatureAlgorithm.allCases) func everySignatureAlgorithm(_ algorithm: SignatureAlgorithm) throws {
        var section = Samples(seed: 3).section()
        section.rekeySA = Samples(seed: 4).rekeySA(algorithm)
        let configure = Configure(sequence: 1, generation: 1, part: 0, partCount: 1, groups: [section])
        #expect(try Configure(payloads: configure.payloads()) == configure)
    }

    @Test(arguments: ESPSuite.allCases) func everySuite(_ suite: ESPSuite) throws {
        var section = Samples(seed: 5).section()
        let keys = SeededRandom(seed: 1)
        let selector = TrafficSelector(source: .allV4, destination: IPPrefix(host: .v4(239, 1, 1, 1)))
        section.dataSAs = [
            DataSA(
                spi: 256, selector: selector, suite: suite, direction: .symmetric, lifetimeSeconds: 1,
                cipherKey: Secret(random: keys, count: suite.cipherKeySize),
                authenticationKey: suite.isAEAD ? nil : Secret(random: keys, count: suite.authenticationKeySize))
        ]
        let configure = Configure(sequence: 1, generation: 1, part: 0, partCount: 1, groups: [section])
        #expect(try Configure(payloads: configure.payloads()) == configure)
        for size in [0, 1, max(suite.cipherKeySize, 1) - 1, suite.cipherKeySize + 1] where size != suite.cipherKeySize {
            var wrong = configure
            wrong.groups[0].dataSAs[0].cipherKey = Secret(random: keys, count: size)
            #expect(throws: FMKEError.malformed) { try wrong.payloads() }
        }
        var wrong = configure
        wrong.groups[0].dataSAs[0].authenticationKey = Secret(random: keys, count: 1)
        #expect(throws: FMKEError.malformed) { try wrong.payloads() }
    }

    /// Values that the writer refuses, so that no reader needs to meet them.
    @Test func impossibleValuesAreNotWritten() throws {
        let samples = Samples(seed: 9)
        var good = samples.configure()
        (good.groups, good.vpns) = ([samples.section(), samples.section()], [])
        good.groups[0].dataSAs = [samples.dataSA(withTimes: true), samples.dataSA(withTimes: true)]
        _ = try good.payloads()
        func refusal(_ change: (inout Configure) -> Void) -> FMKEError? {
            var bad = good
            change(&bad)
            return #expect(throws: FMKEError.self) { try bad.payloads() }
        }
        #expect(refusal { $0.part = $0.partCount } == .malformed)
        #expect(refusal { $0.groups[1].group = $0.groups[0].group } == .malformed)
        #expect(refusal { $0.groups[1].rekeySA.spi = $0.groups[0].rekeySA.spi } == .malformed)
        #expect(refusal { $0.groups[0].dataSAs[0].spi = 255 } == .malformed)
        #expect(refusal { $0.groups[0].dataSAs[0].spi = 0 } == .malformed)
        #expect(refusal { $0.groups[0].dataSAs[1].spi = $0.groups[0].dataSAs[0].spi } == .malformed)
        #expect(refusal { $0.groups[0].dataSAs[0].lifetimeSeconds = 0 } == .malformed)
        #expect(refusal { $0.groups[0].dataSAs[0].lifetimeKilobytes = 0 } == .malformed)
        #expect(
            refusal {
                $0.groups[0].dataSAs[0].selector = TrafficSelector(source: .allV4, destination: .allV6)
            } == .malformed)
        #expect(refusal { $0.groups[0].rekeySA.kek = Secret([UInt8](repeating: 1, count: 31)) } == .malformed)
        #expect(refusal { $0.groups[0].rekeySA.verifyingKey = [] } == .malformed)
        #expect(refusal { $0.groups[0].rekeySA.control.port = 0 } == .malformed)
        #expect(refusal { $0.groups[0].rekeySA.lifetimeSeconds = 0 } == .malformed)
        #expect(
            refusal {
                $0.groups[0].rekeySA.source = .anyV4
                $0.groups[0].rekeySA.control.address = .anyV6
            } == .malformed)
        #expect(refusal { $0.groups[0].name = String(repeating: "n", count: 65) } == .malformed)
        #expect(refusal { $0.groups[0].name = "two\nlines" } == .malformed)
        #expect(
            refusal { $0.groups[0].dataSAs = (0..<9).map { _ in samples.dataSA(withTimes: true) } } == .limit)
        #expect(refusal { $0.groups = (0..<40).map { _ in samples.section() } } == .limit, "payloads per message")
        #expect(refusal { $0.groups = (0..<12).map { _ in samples.section() } } == .tooLong)
    }

    /// One value has one encoding: what differs in a bit is refused or is another value.
    @Test(arguments: 1...6) func noBitIsIgnored(seed: UInt64) throws {
        let samples = Samples(seed: seed)
        var configure = samples.configure()
        configure.groups = [samples.section()]
        configure.groups[0].dataSAs = [samples.dataSA(withTimes: true)]
        var vpn = samples.vpnSection()
        if vpn.peer != nil { vpn.dataSAs = [samples.vpnSA()] }
        configure.vpns = [vpn]
        let payloads = try configure.payloads()
        for (position, payload) in payloads.enumerated() {
            for bit in 0..<(payload.body.count * 8) {
                var flipped = payloads
                flipped[position].body[bit / 8] ^= 1 << UInt8(bit % 8)
                guard case .success(let value) = outcome({ () throws(FMKEError) in try Configure(payloads: flipped) })
                else { continue }
                #expect(value != configure, "payload \(position), bit \(bit)")
                #expect(try value.payloads() == flipped, "payload \(position), bit \(bit)")
            }
        }
    }

    @Test(arguments: 1...6) func everyTruncationAndEveryTailIsRefused(seed: UInt64) throws {
        let samples = Samples(seed: seed)
        var configure = samples.configure()
        (configure.groups, configure.vpns) = ([samples.section(), samples.section()], [])
        for index in configure.groups.indices { configure.groups[index].dataSAs = [samples.dataSA(withTimes: true)] }
        let payloads = try configure.payloads()
        for count in 0..<payloads.count where count % 3 != 1 {
            #expect(throws: FMKEError.malformed) { try Configure(payloads: Array(payloads[..<count])) }
        }
        for (position, payload) in payloads.enumerated() {
            for count in 0..<payload.body.count {
                var cut = payloads
                cut[position].body = Array(payload.body[..<count])
                #expect(throws: FMKEError.self) { try Configure(payloads: cut) }
            }
            var longer = payloads
            longer[position].body.append(0)
            #expect(throws: FMKEError.self) { try Configure(payloads: longer) }
        }
    }

    @Test func foreignAndMisplacedPayloadsAreRefused() throws {
        let samples = Samples(seed: 12)
        let configure = Configure(
            sequence: 1, generation: 1, part: 0, partCount: 1, groups: [samples.section(), samples.section()])
        let good = try configure.payloads()
        func refusal(_ change: (inout [RawPayload]) -> Void) -> FMKEError? {
            var bad = good
            change(&bad)
            return #expect(throws: FMKEError.self) { try Configure(payloads: bad) }
        }
        #expect(refusal { $0.append(RawPayload(PayloadType(rawValue: 200), [])) } == .unsupported)
        #expect(refusal { $0.append(RawPayload(.notification, [])) } == .unsupported)
        #expect(refusal { $0.insert(RawPayload(.vendorID, [1]), at: 1) } == .unsupported)
        #expect(refusal { $0.swapAt(2, 3) } == .malformed)
        #expect(refusal { $0.append($0[0]) } == .malformed)
        #expect(refusal { $0 += $0[1...3] } == .malformed, "a group listed twice")
        #expect(refusal { $0.removeFirst() } == .malformed)
        #expect(refusal { $0 = [] } == .malformed)
        #expect(refusal { $0 += Array(repeating: RawPayload(.membership, []), count: 64) } == .limit)
    }
}

@Suite struct SplitTests {
    private func sections(_ count: Int) -> [GroupSection] {
        let samples = Samples(seed: 77)
        return (0..<count).map { _ in samples.section() }
    }

    @Test(arguments: [0, 1, 2, 5, 40, 60]) func partsHoldEverythingInOrderAndFit(count: Int) throws {
        let groups = sections(count)
        let parts = try Configure.split(sequence: 100, generation: 7, groups: groups)
        #expect(parts.flatMap(\.groups) == groups)
        #expect(parts.map(\.sequence) == (0..<parts.count).map { 100 + UInt64($0) })
        #expect(parts.map(\.part) == (0..<parts.count).map { UInt16($0) })
        #expect(parts.allSatisfy { $0.partCount == parts.count && $0.generation == 7 })
        for part in parts {
            #expect(try part.encodedSize <= Limits().datagramOctetsSent)
            #expect(try Configure(payloads: part.payloads()) == part)
        }
    }

    @Test func theBoundaryIsExact() throws {
        let groups = sections(2)
        let both = Configure(sequence: 0, generation: 0, part: 0, partCount: 1, groups: groups)
        var limits = Limits()
        limits.datagramOctetsSent = try both.encodedSize
        #expect(try Configure.split(sequence: 0, generation: 0, groups: groups, limits: limits).count == 1)
        #expect(try both.payloads(limits: limits).count == 7)
        limits.datagramOctetsSent -= 1
        #expect(try Configure.split(sequence: 0, generation: 0, groups: groups, limits: limits).count == 2)
        #expect(throws: FMKEError.tooLong) { try both.payloads(limits: limits) }

        let one = Configure(sequence: 0, generation: 0, part: 0, partCount: 1, groups: [groups[0]])
        limits.datagramOctetsSent = try one.encodedSize
        #expect(try Configure.split(sequence: 0, generation: 0, groups: [groups[0]], limits: limits).count == 1)
        limits.datagramOctetsSent -= 1
        #expect(throws: FMKEError.tooLong) {
            try Configure.split(sequence: 0, generation: 0, groups: [groups[0]], limits: limits)
        }
    }

    @Test func limitsAreKept() throws {
        #expect(throws: FMKEError.limit) { try Configure.split(sequence: 0, generation: 0, groups: sections(257)) }
        let groups = sections(5)
        #expect(throws: FMKEError.malformed) {
            try Configure.split(sequence: 0, generation: 0, groups: groups + [groups[2]])
        }
        #expect(throws: FMKEError.limit) { try Configure.split(sequence: .max, generation: 0, groups: groups) }
        var limits = Limits()
        limits.datagramOctetsSent = 60_000
        let parts = try Configure.split(sequence: 0, generation: 0, groups: sections(50), limits: limits)
        #expect(parts.map(\.groups.count) == [20, 20, 10], "64 payloads per message, HASH among them")
    }
}

@Suite struct AnswerTests {
    @Test(arguments: 1...100) func aRandomAnswerSurvivesTheWire(seed: UInt64) throws {
        let answer = Samples(seed: seed).answer()
        #expect(try ConfigureAnswer(payloads: answer.payloads()) == answer)
    }

    @Test func noBitIsIgnoredAndNoCutAccepted() throws {
        let answer = Samples(seed: 8).answer()
        let payloads = try answer.payloads()
        let body = try #require(payloads.first).body
        for bit in 0..<(body.count * 8) {
            var flipped = body
            flipped[bit / 8] ^= 1 << UInt8(bit % 8)
            let read = outcome { () throws(FMKEError) in
                try ConfigureAnswer(payloads: [RawPayload(.acknowledgement, flipped)])
            }
            if case .success(let value) = read {
                #expect(value != answer)
                #expect(try value.payloads().first?.body == flipped)
            }
        }
        for count in 0..<body.count {
            #expect(throws: FMKEError.self) {
                try ConfigureAnswer(payloads: [RawPayload(.acknowledgement, Array(body[..<count]))])
            }
        }
        #expect(throws: FMKEError.malformed) {
            try ConfigureAnswer(payloads: [RawPayload(.acknowledgement, body + [0])])
        }
        #expect(throws: FMKEError.malformed) { try ConfigureAnswer(payloads: [RawPayload(.report, body)]) }
        #expect(throws: FMKEError.malformed) { try ConfigureAnswer(payloads: payloads + payloads) }
    }

    @Test func contradictionsAreRefused() {
        let item = ConfigureAnswer.Item(group: 1, spi: 0, code: .installed)
        #expect(throws: FMKEError.malformed) { try ConfigureAnswer(sequence: 1, items: [item, item]).payloads() }
        #expect(throws: FMKEError.malformed) {
            try ConfigureAnswer(sequence: 1, items: [.init(group: 1, spi: 255, code: .failed)]).payloads()
        }
        let many = (0..<120).map { ConfigureAnswer.Item(group: 1, spi: 256 + $0, code: .known) }
        #expect(throws: FMKEError.tooLong) { try ConfigureAnswer(sequence: 1, items: many).payloads() }
    }
}

@Suite struct StatusTests {
    @Test(arguments: 1...200) func aRandomReportSurvivesTheWire(seed: UInt64) throws {
        let status = Samples(seed: seed).status()
        #expect(try Status(payloads: status.payloads()) == status)
    }

    @Test func noBitIsIgnoredAndNoCutAccepted() throws {
        var status = Samples(seed: 5).status()
        status.groups.append(
            GroupReport(
                group: 1, epoch: 2, complete: 3, sequence: 4,
                missing: [.init(transaction: 4, block: 0, needed: 1), .init(transaction: 4, block: 1, needed: 1)],
                activeSPIs: [256, 257], wantsProfile: true))
        let body = try #require(try status.payloads().first).body
        for bit in 0..<(body.count * 8) {
            var flipped = body
            flipped[bit / 8] ^= 1 << UInt8(bit % 8)
            let read = outcome { () throws(FMKEError) in try Status(payloads: [RawPayload(.report, flipped)]) }
            if case .success(let value) = read {
                #expect(value != status)
                #expect(try value.payloads().first?.body == flipped)
            }
        }
        for count in 0..<body.count {
            #expect(throws: FMKEError.self) { try Status(payloads: [RawPayload(.report, Array(body[..<count]))]) }
        }
        #expect(throws: FMKEError.malformed) { try Status(payloads: [RawPayload(.report, body + [0])]) }
        #expect(throws: FMKEError.malformed) { try Status(payloads: [RawPayload(.acknowledgement, body)]) }
        #expect(throws: FMKEError.malformed) { try Status(payloads: []) }
    }

    @Test func contradictionsAreRefused() {
        func refusal(_ groups: [GroupReport]) -> FMKEError? {
            #expect(throws: FMKEError.self) { try Status(report: 1, groups: groups).payloads() }
        }
        let good = GroupReport(group: 1, epoch: 1, complete: 1, sequence: 1)
        #expect(refusal([good, good]) == .malformed)
        var bad = good
        bad.missing = [.init(transaction: 2, block: 1, needed: 1), .init(transaction: 2, block: 1, needed: 2)]
        #expect(refusal([bad]) == .malformed, "a block twice")
        bad.missing = [.init(transaction: 2, block: 1, needed: 0)]
        #expect(refusal([bad]) == .malformed, "nothing needed")
        bad.missing = [.init(transaction: 2, block: 4_096, needed: 1)]
        #expect(refusal([bad]) == .malformed, "no such block")
        bad = good
        bad.activeSPIs = [300, 300]
        #expect(refusal([bad]) == .malformed)
        bad.activeSPIs = [255]
        #expect(refusal([bad]) == .malformed)
        bad.activeSPIs = (256..<512).map { $0 }
        #expect(refusal([bad]) == .limit)
        let many = (0..<257).map { GroupReport(group: $0, epoch: 1, complete: 1, sequence: 1) }
        #expect(refusal(many) == .limit)
        #expect(refusal(Array(many.prefix(60))) == .tooLong)
    }

    @Test func reportsOfManyGroupsAreSplit() throws {
        let groups = (0..<256).map { GroupReport(group: $0, epoch: 1, complete: 1, sequence: 1, activeSPIs: [999]) }
        let parts = try Status.split(report: 10, groups: groups)
        #expect(parts.flatMap(\.groups) == groups)
        #expect(parts.map(\.report) == (0..<parts.count).map { 10 + UInt64($0) })
        for part in parts { #expect(try Status(payloads: part.payloads()) == part) }
        #expect(try Status.split(report: 0, groups: []) == [Status(report: 0, groups: [])])
    }
}
