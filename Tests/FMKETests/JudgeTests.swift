// SPDX-License-Identifier: Apache-2.0
import Basics
import Cryptography
import FMKE
import ISAKMP
import Testing

/// A second implementation reads what ours writes, and the other way round.
@Suite struct JudgeTests {
    init() throws {
        try #require(Judge.isAvailable, "install the Debian packages python3 and python3-cryptography")
    }

    @Test func theJudgeOpensOurPushes() throws {
        var requests: [[String: String]] = []
        var expected: [(Push, KeyUpdate?)] = []
        for seed in 100..<140 as Range<UInt64> {
            let samples = Samples(seed: seed)
            let channel = try Channel(samples, samples.pick(SignatureAlgorithm.allCases))
            for (number, kind) in allKinds.enumerated() {
                let header = channel.header(samples, kind)
                let update = kind == .data ? samples.keyUpdate() : nil
                let body = try update?.body() ?? samples.body(kind)
                let sequence = UInt64(number) + samples.number(1...1 << 60) * 4
                let sealer = try PushSealer(
                    group: channel.group, rekeySA: channel.rekeySA,
                    signingKey: TestKeys.key(channel.rekeySA.signatureAlgorithm))
                let datagram = try sealer.seal(header, body: body, sequence: sequence)
                requests.append(Judge.open(datagram, group: channel.group, channel.rekeySA))
                expected.append(
                    (Push(spi: channel.rekeySA.spi, sequence: sequence, header: header, body: body), update))
            }
        }
        for (fields, (push, update)) in zip(try Judge.ask(requests), expected) {
            #expect(fields["refused"] == nil)
            let wanted = expectation(push).merging(update.map(expectation) ?? [:]) { $1 }
            for (path, value) in wanted { #expect(fields[path] == value, "\(path)") }
        }
    }

    @Test func theJudgeTakesTheMasksOff() throws {
        var requests: [[String: String]] = []
        var expected: [KeyUpdate] = []
        for seed in 400..<430 as Range<UInt64> {
            let samples = Samples(seed: seed)
            let channel = try Channel(samples, .ecdsaP256)
            let header = channel.header(samples, .data)
            let (clear, groupKey) = (samples.treeUpdate(), Secret(samples.random.bytes(32)))
            let body = try clear.masked(groupKey: groupKey, group: channel.group, transaction: header.transaction)
                .body()
            let datagram = try channel.sealer.seal(header, body: body, sequence: 9)
            var request = Judge.open(datagram, group: channel.group, channel.rekeySA)
            request["group-key"] = hexadecimal(groupKey.revealed())
            requests.append(request)
            expected.append(clear)
        }
        for (fields, clear) in zip(try Judge.ask(requests), expected) {
            #expect(fields["refused"] == nil)
            #expect(fields["kd.0.packet.0.key.clear"] == clear.rekeySA.map { hexadecimal($0.kek.revealed()) })
            for (index, sa) in clear.dataSAs.enumerated() {
                let path = "kd.0.packet.\(index + 1)."
                let key = hexadecimal(sa.cipherKey.revealed())
                #expect(fields[path + "key.clear"] == (key.isEmpty ? nil : key))
                #expect(
                    fields[path + "integrity-key.clear"] == sa.authenticationKey.map { hexadecimal($0.revealed()) })
            }
        }
    }

    @Test func theJudgeComputesTheKeysThatDoNotTravel() throws {
        var requests: [[String: String]] = []
        var expected: [KeyUpdate] = []
        for seed in 430..<450 as Range<UInt64> {
            let samples = Samples(seed: seed)
            let channel = try Channel(samples, .ecdsaP256)
            let header = channel.header(samples, .data)
            let groupKey = Secret(samples.random.bytes(32))
            var clear = samples.succession()
            let flow = samples.dataSA(withTimes: false).flow
            clear.succession = Succession(
                attempt: UInt8(samples.number(0...255)), flows: [flow], rekeyLifetimeSeconds: 5, dataLifetimeSeconds: 6)
            let masked = clear.masked(groupKey: groupKey, group: channel.group, transaction: header.transaction)
            let datagram = try channel.sealer.seal(header, body: masked.body(), sequence: 9)
            var request = Judge.open(datagram, group: channel.group, channel.rekeySA)
            request["group-key"] = hexadecimal(groupKey.revealed())
            request["flow"] = hexadecimal(flowOctets(flow))
            requests.append(request)
            expected.append(
                try masked.completed(
                    flows: [flow], predecessor: channel.rekeySA, groupKey: groupKey, group: channel.group,
                    transaction: header.transaction))
        }
        for (fields, update) in zip(try Judge.ask(requests), expected) {
            #expect(fields["refused"] == nil)
            let next = try #require(update.rekeySA)
            #expect(fields["next.kek"] == hexadecimal(next.kek.revealed()))
            #expect(fields["next.spi"] == hexadecimal(Forge.spi(next.spi)))
            let own = try #require(update.dataSAs.last)
            #expect(fields["next.sa.spi"] == hexadecimal(Forge.u32(own.spi)))
            let key = hexadecimal(own.cipherKey.revealed())
            #expect(fields["next.sa.key"] == (key.isEmpty ? nil : key))
            #expect(fields["next.sa.integrity-key"] == own.authenticationKey.map { hexadecimal($0.revealed()) })
            for (index, sa) in update.dataSAs.dropLast().enumerated() {
                let carried = hexadecimal(sa.cipherKey.revealed())
                #expect(fields["kd.0.packet.\(index).key.clear"] == (carried.isEmpty ? nil : carried))
            }
        }
    }

    /// A flow's octets, written from the document.
    private func flowOctets(_ flow: Flow) -> [UInt8] {
        func id(_ prefix: IPPrefix, _ port: UInt16) -> [UInt8] {
            let data = prefix.isHost ? prefix.address.octets : prefix.address.octets + prefix.mask
            let type: UInt8 = (prefix.isHost ? 1 : 4) + (prefix.address.isV4 ? 0 : prefix.isHost ? 4 : 2)
            return [type, UInt8(port >> 8), UInt8(port & 255), UInt8(data.count)] + data
        }
        let name = flow.suite.rawValue
        let ciphers: [(String, UInt8, UInt16)] = [
            ("aes128-gcm8", 18, 128), ("aes256-gcm8", 18, 256), ("aes128-gcm12", 19, 128), ("aes256-gcm12", 19, 256),
            ("aes128-gcm", 20, 128), ("aes256-gcm", 20, 256), ("chacha20", 249, 0), ("aes128", 12, 128),
            ("aes192", 12, 192), ("aes256", 12, 256), ("3des", 3, 0), ("des", 2, 0), ("blowfish", 7, 128),
            ("null", 11, 0),
        ]
        let hashes: [(String, UInt8)] = [("-md5", 1), ("-sha1", 2), ("-sha256", 5), ("-sha384", 6), ("-sha512", 7)]
        let (_, transform, bits) = ciphers.first { name.hasPrefix($0.0) } ?? ("", 0, 0)
        let authentication = hashes.first { name.hasSuffix($0.0) }?.1 ?? 0
        return [flow.selector.ipProtocol] + id(flow.selector.source, flow.selector.sourcePort)
            + id(flow.selector.destination, flow.selector.destinationPort) + [transform, 0, authentication]
            + [UInt8(bits >> 8), UInt8(bits & 255)] + Forge.u32(flow.lifetimeKilobytes ?? 0)
    }

    @Test func theJudgeRefusesWhatWeRefuse() throws {
        let samples = Samples(seed: 150)
        let forge = try Forge(samples, .ecdsaP256)
        let channel = try PushSealer(group: forge.group, rekeySA: forge.rekeySA, signingKey: TestKeys.p256)
        let header = samples.header(.beacon, group: forge.group, epoch: forge.rekeySA.epoch)
        let good = try channel.seal(header, body: [], sequence: 3)
        let plain = Array(try Forge.open(good, group: forge.group, rekeySA: forge.rekeySA).dropLast(68))
        let bad = [
            try forge.datagram(plain: plain, sequence: 3) { $0.group ^= 1 },
            try forge.datagram(plain: plain, sequence: 3) { $0.sequence += 1 },
            try forge.datagram(plain: plain, sequence: 3) { $0.label = "FMKE PUSH v1" },
            try forge.datagram(plain: plain, sequence: 3, signer: SigningKey.generate(.ecdsaP256)),
            good.dropLast() + [good[good.count - 1] ^ 1],
        ]
        let answers = try Judge.ask(
            ([good] + bad).map { Judge.open($0, group: forge.group, forge.rekeySA) })
        #expect(answers[0]["refused"] == nil)
        for answer in answers.dropFirst() { #expect(answer["refused"] != nil) }
        for datagram in bad { #expect(throws: FMKEError.notAuthentic) { try forge.opener.open(datagram) } }
    }

    /// What a section of a VPN must not be: neither reads it.
    @Test func theJudgeRefusesTheVPNsThatWeRefuse() throws {
        let bad = try VPNForge().chains
        let answers = try Judge.ask(bad.map { ["do": "configure", "chain": hexadecimal($0.chain)] })
        for (answer, (what, chain)) in zip(answers, bad) {
            #expect((answer["refused"] == nil) == (what == "good"), "\(what)")
            let payloads = try PayloadChain.parse(first: .profile, chain[...], limit: 64, allowPadding: false)
            #expect(((try? Configure(payloads: payloads)) != nil) == (what == "good"), "\(what)")
        }
    }

    @Test func weOpenTheJudgesPushes() throws {
        var requests: [[String: String]] = []
        var expected: [(PushOpener, TransactionHeader, KeyUpdate, UInt64)] = []
        for seed in 200..<240 as Range<UInt64> {
            let samples = Samples(seed: seed)
            let forge = try Forge(samples, .ecdsaP256)
            let header = samples.header(.data, group: forge.group, epoch: forge.rekeySA.epoch)
            let update = samples.keyUpdate()
            let sequence = samples.number(1...UInt64.max)
            let ours = try PushSealer(group: forge.group, rekeySA: forge.rekeySA, signingKey: TestKeys.p256)
                .seal(header, body: update.body(), sequence: sequence)
            let transaction = try Forge.open(ours, group: forge.group, rekeySA: forge.rekeySA)[4..<68]
            requests.append([
                "do": "seal", "kek": hexadecimal(forge.rekeySA.kek.revealed()), "group": String(forge.group),
                "epoch": String(forge.rekeySA.epoch), "spi": hexadecimal(Forge.spi(forge.rekeySA.spi)),
                "sequence": String(sequence), "transaction": hexadecimal(transaction),
                "private": "c9afa9d845ba75166b5c215767b1d6934e50c3db36e89b127b8a622b120f6721",
                "body": hexadecimal(try update.body()),
            ])
            expected.append((forge.opener, header, update, sequence))
        }
        for (fields, (opener, header, update, sequence)) in zip(try Judge.ask(requests), expected) {
            let datagram = try #require(fields["datagram"].flatMap { octets(hexadecimal: $0) })
            let push = try opener.open(datagram)
            #expect(push.header == header && push.sequence == sequence)
            #expect(try KeyUpdate(body: push.body) == update)
        }
    }

    @Test func theJudgeReadsOurUnicastMessages() throws {
        var requests: [[String: String]] = []
        var expected: [[String: String]] = []
        func add(_ name: String, _ payloads: [RawPayload], _ fields: [String: String]) {
            requests.append(["do": name, "chain": hexadecimal(PayloadChain.encode(payloads).octets)])
            expected.append(fields)
        }
        var roomy = Limits()
        roomy.datagramOctetsSent = 4_000
        for seed in 300..<360 as Range<UInt64> {
            let samples = Samples(seed: seed)
            var configure = samples.configure()
            for index in configure.groups.indices where samples.chance() {
                configure.groups[index].treeKeys = Secret(samples.random.bytes(16 + 16 * Int(samples.number(2...22))))
            }
            add("configure", try configure.payloads(limits: roomy), expectation(configure))
            let (answer, status) = (samples.answer(), samples.status())
            add("answer", try answer.payloads(), expectation(answer))
            add("status", try status.payloads(), expectation(status))
        }
        for (fields, wanted) in zip(try Judge.ask(requests), expected) {
            #expect(fields["refused"] == nil)
            for (path, value) in wanted { #expect(fields[path] == value, "\(path)") }
        }
    }

    // MARK: what the judge should have found

    private func expectation(_ push: Push) -> [String: String] {
        let header = push.header
        var fields = ["header.spi": hexadecimal(Forge.spi(push.spi)), "header.sequence": String(push.sequence)]
        func set(_ name: String, _ value: some BinaryInteger) { fields["transaction.0.\(name)"] = String(value) }
        set("kind", header.kind.rawValue)
        set("group", header.group)
        set("epoch", header.epoch)
        set("id", header.transaction)
        set("block", header.block)
        set("blocks", header.blockCount)
        set("index", header.index)
        set("data", header.dataCount)
        set("datagrams", header.datagramCount)
        set("first", header.memberFirst)
        set("last", header.memberLast)
        set("mode", header.feedback.mode.rawValue)
        set("round", header.feedback.round)
        set("slot", header.feedback.slotMicroseconds)
        set("answer-in", header.feedback.answerInMilliseconds)
        set("slots", header.feedback.slots)
        set("modulus", header.feedback.modulus)
        set("residue", header.feedback.residue)
        set("nack-wait", header.feedback.nackWaitMilliseconds)
        set("nack-share", header.feedback.nackShare)
        set("activate-in", header.activateInMilliseconds)
        set("deactivate-in", header.deactivateInMilliseconds)
        if header.kind == .parity { fields["parity.0.shard"] = hexadecimal(push.body) }
        return fields
    }

    private func expectation(_ update: KeyUpdate) -> [String: String] {
        var fields = associations(update.rekeySA, update.dataSAs, 0)
        if let succession = update.succession {
            fields["succession.0.attempt"] = String(succession.attempt)
            fields["succession.0.flows"] = String(succession.flowCount)
            fields["succession.0.kek-lifetime"] = String(succession.rekeyLifetimeSeconds)
            fields["succession.0.data-lifetime"] = String(succession.dataLifetimeSeconds)
            fields["succession.0.check"] = hexadecimal(Forge.u32(succession.flowCheck))
            fields["succession.0.slice"] = update.treeSlice.map { hexadecimal($0) }
        } else {
            fields["kd.0.tree.array"] = update.treeSlice.map { hexadecimal($0) }
        }
        for (index, spi) in update.replaced.enumerated() {
            fields["delete.0.spi.\(index)"] = hexadecimal(Forge.u32(spi))
        }
        return fields
    }

    private func associations(_ rekeySA: RekeySA?, _ dataSAs: [DataSA], _ number: Int) -> [String: String] {
        var fields: [String: String] = [:]
        if let rekeySA {
            let (policy, packet) = ("sa.\(number).sak.0.", "kd.\(number).packet.0.")
            fields[policy + "spi"] = hexadecimal(Forge.spi(rekeySA.spi))
            fields[policy + "source.data"] = hexadecimal(rekeySA.source.octets)
            fields[policy + "destination.data"] = hexadecimal(rekeySA.control.address.octets)
            fields[policy + "destination.port"] = String(rekeySA.control.port)
            fields[policy + "lifetime"] = String(rekeySA.lifetimeSeconds)
            fields[policy + "signature"] = String(rekeySA.signatureAlgorithm.rawValue)
            fields[policy + "epoch"] = String(rekeySA.epoch)
            fields[packet + "key"] = hexadecimal(rekeySA.kek.revealed())
            fields[packet + "verifying-key"] = hexadecimal(rekeySA.verifyingKey)
        }
        for (index, dataSA) in dataSAs.enumerated() {
            let policy = "sa.\(number).sat.\(index)."
            let packet = "kd.\(number).packet.\(index + (rekeySA == nil ? 0 : 1))."
            fields[policy + "spi"] = hexadecimal(Forge.u32(dataSA.spi))
            fields[policy + "ip-protocol"] = String(dataSA.selector.ipProtocol)
            fields[policy + "source.port"] = String(dataSA.selector.sourcePort)
            fields[policy + "destination.port"] = String(dataSA.selector.destinationPort)
            fields[policy + "source.data"] = hexadecimal(data(dataSA.selector.source))
            fields[policy + "destination.data"] = hexadecimal(data(dataSA.selector.destination))
            fields[policy + "transform"] = String(dataSA.suite.transformID)
            fields[policy + "key-length"] = dataSA.suite.keyLength.map { String($0) }
            fields[policy + "authentication"] = dataSA.suite.authenticationID.map { String($0) }
            fields[policy + "extended-sequence"] = dataSA.extendedSequence ? "1" : nil
            fields[policy + "direction"] = String(dataSA.direction.rawValue)
            fields[policy + "seconds"] = String(dataSA.lifetimeSeconds)
            fields[policy + "kilobytes"] = dataSA.lifetimeKilobytes.map { String($0) }
            fields[policy + "activate-in"] =
                dataSA.activateInMilliseconds == 0 ? nil : String(dataSA.activateInMilliseconds)
            fields[policy + "deactivate-in"] = dataSA.deactivateInMilliseconds.map { String($0) }
            fields[packet + "key"] = dataSA.cipherKey.count == 0 ? nil : hexadecimal(dataSA.cipherKey.revealed())
            fields[packet + "integrity-key"] = dataSA.authenticationKey.map { hexadecimal($0.revealed()) }
        }
        return fields
    }

    private func data(_ prefix: IPPrefix) -> [UInt8] {
        prefix.isHost ? prefix.address.octets : prefix.address.octets + prefix.mask
    }

    private func expectation(_ configure: Configure) -> [String: String] {
        var fields = [
            "profile.0.sequence": String(configure.sequence), "profile.0.generation": String(configure.generation),
            "profile.0.part": String(configure.part), "profile.0.parts": String(configure.partCount),
        ]
        for (number, section) in configure.groups.enumerated() {
            let (path, member) = ("membership.\(number).", section.membership)
            fields[path + "group"] = String(section.group)
            fields[path + "name"] = section.name
            fields[path + "member-index"] = String(member.memberIndex)
            fields[path + "sender-id"] = String(member.senderID ?? 0)
            fields[path + "flags"] = String((member.senderID == nil ? 0 : 1) + (member.hasOneSender ? 2 : 0))
            fields[path + "sequence"] = String(member.sequence)
            fields[path + "transaction"] = String(member.transaction)
            fields.merge(associations(section.rekeySA, section.dataSAs, number)) { $1 }
            fields["kd.\(number).tree.array"] = section.treeKeys.map { hexadecimal($0.revealed()) }
        }
        var behind = configure.groups.count
        for (number, section) in configure.vpns.enumerated() {
            let path = "vpn.\(number)."
            fields[path + "vpn"] = String(section.vpn)
            fields[path + "name"] = section.name
            fields[path + "transaction"] = String(section.transaction)
            let isEncapsulated = section.peer?.isEncapsulated == true
            fields[path + "flags"] = String((isEncapsulated ? 1 : 0) + (section.keepsOthers ? 2 : 0))
            fields[path + "peer.port"] = String(section.peer?.address.port ?? 0)
            fields[path + "peer.data"] = hexadecimal(section.peer?.address.address.octets ?? [])
            guard section.peer != nil else { continue }
            fields.merge(associations(nil, section.dataSAs, behind)) { $1 }
            behind += 1
        }
        return fields
    }

    private func expectation(_ answer: ConfigureAnswer) -> [String: String] {
        var fields = ["ack.0.sequence": String(answer.sequence), "ack.0.count": String(answer.items.count)]
        for (index, item) in answer.items.enumerated() {
            fields["ack.0.item.\(index).group"] = String(item.group)
            fields["ack.0.item.\(index).spi"] = String(item.spi)
            fields["ack.0.item.\(index).code"] = String(item.code.rawValue)
        }
        return fields
    }

    private func expectation(_ status: Status) -> [String: String] {
        var fields = ["report.0.report": String(status.report), "report.0.count": String(status.groups.count)]
        for (index, group) in status.groups.enumerated() {
            let path = "report.0.group.\(index)."
            fields[path + "id"] = String(group.group)
            fields[path + "epoch"] = String(group.epoch)
            fields[path + "complete"] = String(group.complete)
            fields[path + "sequence"] = String(group.sequence)
            fields[path + "flags"] = String((group.wantsProfile ? 1 : 0) + (group.wantsRekey ? 2 : 0))
            for (number, block) in group.missing.enumerated() {
                fields["\(path)missing.\(number).transaction"] = String(block.transaction)
                fields["\(path)missing.\(number).block"] = String(block.block)
                fields["\(path)missing.\(number).needed"] = String(block.needed)
            }
            for (number, spi) in group.activeSPIs.enumerated() { fields["\(path)spi.\(number)"] = String(spi) }
        }
        return fields
    }
}
