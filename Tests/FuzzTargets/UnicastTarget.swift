// SPDX-License-Identifier: Apache-2.0

import Basics
import Cryptography
import FMKE
import ISAKMP

/// Payload chains of phase 2 and of STATUS, and the body of a PUSH.
enum UnicastTarget {
    static func configure(_ octets: [UInt8]) {
        readAndWrite(.profile, octets, { try Configure(payloads: $0) }, { try $0.payloads(limits: unlimited) })
    }

    static func answer(_ octets: [UInt8]) {
        readAndWrite(
            .acknowledgement, octets, { try ConfigureAnswer(payloads: $0) }, { try $0.payloads(limits: unlimited) })
    }

    static func status(_ octets: [UInt8]) {
        readAndWrite(.report, octets, { try Status(payloads: $0) }, { try $0.payloads(limits: unlimited) })
    }

    static func digest(_ octets: [UInt8]) {
        readAndWrite(.digest, octets, { ReportDigest(payloads: $0) }, { [$0.payload] })
    }

    /// What was read can be written, and gives the same octets.
    private static func readAndWrite<Message>(
        _ first: PayloadType, _ octets: [UInt8], _ read: ([RawPayload]) throws -> Message?,
        _ write: (Message) throws -> [RawPayload]
    ) {
        guard
            let payloads = try? PayloadChain.parse(first: first, octets[...], limit: 256, allowPadding: false),
            let message = try? read(payloads)
        else { return }
        guard let written = try? write(message) else { return demand(false, "what was read can be written") }
        demand(PayloadChain.encode(written).octets == octets, "a message has one encoding")
    }

    static func update(_ octets: [UInt8]) {
        if let body = try? Shard.body(from: octets) {
            demand((try? Shard.make(body, size: octets.count)) == octets, "a shard has one encoding")
        }
        guard let update = try? KeyUpdate(body: octets) else { return }
        demand((try? update.body()) == octets, "a body has one encoding")
        guard let succession = update.succession else { return }
        let flows = streams.map(\.flow)
        let completed = try? update.completed(
            flows: flows, predecessor: rekeySA, groupKey: Fixture.masterKey, group: 10, transaction: 5)
        demand(completed == nil || succession.names(flows), "keys follow for the flows that are meant alone")
    }

    /// Reading takes more octets than we send.
    private static let unlimited: Limits = {
        var limits = Limits()
        limits.datagramOctetsSent = .max
        return limits
    }()

    // MARK: Seeds

    static let rekeySA = RekeySA(
        spi: RekeySPI(high: 0xa0a1_a2a3_a4a5_a6a7, low: 0xa8a9_aaab_acad_aeaf), source: .v4(192, 0, 2, 1),
        control: SocketAddress(.v4(239, 192, 0, 1), 848), epoch: 3, lifetimeSeconds: 86_400,
        signatureAlgorithm: .ed25519, verifyingKey: Fixture.signingKey.publicKey,
        kek: Secret(Fixture.counting(from: 0, 32)))

    private static func prefix(_ text: String) -> IPPrefix {
        guard let prefix = IPPrefix(text) else { fatalError("\(text) is a prefix") }
        return prefix
    }

    private static let streams = [
        DataSA(
            spi: 0x1001,
            selector: TrafficSelector(
                source: prefix("198.51.100.0/24"), destination: prefix("239.1.1.1/32"), ipProtocol: 17,
                destinationPort: 5_004),
            suite: .aes256gcm, direction: .symmetric, lifetimeSeconds: 3_600,
            cipherKey: Secret(Fixture.counting(from: 0x40, 36)), authenticationKey: nil),
        DataSA(
            spi: 0x2001,
            selector: TrafficSelector(source: prefix("2001:db8::/32"), destination: prefix("ff15::1/128")),
            suite: .aes128sha256, direction: .symmetric, lifetimeSeconds: 3_600, lifetimeKilobytes: 1_048_576,
            cipherKey: Secret(Fixture.counting(from: 0x70, 16)),
            authenticationKey: Secret(Fixture.counting(from: 0x80, 32))),
    ]

    private static let vpns: [VPNSection] = {
        let sas = zip(streams, [SADirection.sender, .receiver]).map { stream, direction in
            var sa = stream
            (sa.direction, sa.extendedSequence) = (direction, true)
            if direction == .sender { sa.activateInMilliseconds = .max }
            return sa
        }
        return [
            VPNSection(
                vpn: 1_001, name: "hub-site1", transaction: 12, keepsOthers: true,
                peer: .init(address: SocketAddress(.v4(192, 0, 2, 11), 4_500), isEncapsulated: true), dataSAs: sas),
            VPNSection(vpn: 1_002, name: "hub-site2", transaction: 1, keepsOthers: true, peer: nil, dataSAs: []),
        ]
    }()

    static let configureSeeds: [[UInt8]] = {
        var section = GroupSection(
            group: 10, name: "news",
            membership: Membership(memberIndex: 3, senderID: 1, sequence: 41, transaction: 5), rekeySA: rekeySA,
            dataSAs: streams)
        let flat = section
        section.treeKeys = Secret(TreeTarget.memberKeys)
        var messages = [[], [flat], [section]].map {
            Configure(sequence: 7, generation: 2, part: 0, partCount: 1, groups: $0)
        }
        messages.append(
            Configure(sequence: 8, generation: 3, part: 0, partCount: 1, groups: [flat], vpns: vpns))
        messages.append(Configure(sequence: 9, generation: 4, part: 0, partCount: 1, groups: [], vpns: vpns))
        return messages.map { message in
            PayloadChain.encode(Fixture.made { try message.payloads() }).octets
        }
    }()

    static let answerSeeds: [[UInt8]] = {
        let answer = ConfigureAnswer(
            sequence: 7,
            items: [.init(group: 10, spi: 0, code: .installed), .init(group: 10, spi: 0x1001, code: .failed)])
        return [PayloadChain.encode(Fixture.made { try answer.payloads() }).octets]
    }()

    static let digestSeeds: [[UInt8]] = [PayloadChain.encode([ReportDigest([10: 5]).payload]).octets]

    static let statusSeeds: [[UInt8]] = {
        let status = Status(
            report: 12,
            groups: [
                GroupReport(
                    group: 10, epoch: 3, complete: 5, sequence: 77,
                    missing: [.init(transaction: 6, block: 0, needed: 1)], activeSPIs: [0x1001], wantsProfile: true)
            ])
        return [PayloadChain.encode(Fixture.made { try status.payloads() }).octets]
    }()

    private static func succession(_ carried: [DataSA]) -> KeyUpdate {
        KeyUpdate(
            rekeySA: nil, dataSAs: carried, replaced: [], treeSlice: TreeTarget.slice,
            succession: Succession(
                attempt: 0, flows: streams.map(\.flow), rekeyLifetimeSeconds: 86_400, dataLifetimeSeconds: 3_600)
        )
        .masked(groupKey: Fixture.masterKey, group: 10, transaction: 5)
    }

    static let updateSeeds: [[UInt8]] = {
        let updates = [
            KeyUpdate(rekeySA: nil, dataSAs: streams, replaced: [0x3001]),
            KeyUpdate(rekeySA: rekeySA, dataSAs: [], replaced: []),
            KeyUpdate(rekeySA: nil, dataSAs: [], replaced: [0x3001, 0x3002]),
            KeyUpdate(rekeySA: rekeySA, dataSAs: [streams[0]], replaced: [0x3001], treeSlice: TreeTarget.slice)
                .masked(groupKey: Fixture.masterKey, group: 10, transaction: 5),
            succession([]), succession([streams[0]]),
        ]
        let bodies = updates.map { update in Fixture.made { try update.body() } }
        return bodies + bodies.map { body in Fixture.made { try Shard.make(body, size: body.count + 8) } }
    }()
}
