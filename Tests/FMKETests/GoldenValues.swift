// SPDX-License-Identifier: Apache-2.0
import Basics
import Cryptography
import FMKE
import Foundation

/// The values behind the octets of `GoldenTests`: one message of each kind, with documentation addresses.
enum Golden {
    static func counting(from first: UInt8, _ count: Int) -> [UInt8] { (0..<count).map { first &+ UInt8($0) } }

    static func rekeySA(_ key: SigningKey) -> RekeySA {
        RekeySA(
            spi: RekeySPI(high: 0xa0a1_a2a3_a4a5_a6a7, low: 0xa8a9_aaab_acad_aeaf), source: .v4(192, 0, 2, 1),
            control: SocketAddress(.v4(239, 192, 0, 1), 848), epoch: 3, lifetimeSeconds: 86_400,
            signatureAlgorithm: key.algorithm, verifyingKey: key.publicKey, kek: Secret(counting(from: 0, 32)))
    }

    /// AES-256-GCM over IPv4: a stream to one group and port.
    static func dataSA(spi: UInt32) -> DataSA {
        DataSA(
            spi: spi,
            selector: TrafficSelector(
                source: IPPrefix("198.51.100.0/24")!, destination: IPPrefix(host: .v4(239, 1, 1, 1)), ipProtocol: 17,
                destinationPort: 5_004),
            suite: .aes256gcm, direction: .symmetric, lifetimeSeconds: 3_600,
            cipherKey: Secret(counting(from: 0x40, 36)), authenticationKey: nil)
    }

    /// AES-128-CBC with HMAC-SHA2-256 over IPv6, with every attribute there is.
    static let dataSAOverIPv6: DataSA = {
        var sa = DataSA(
            spi: 0x2001,
            selector: TrafficSelector(
                source: IPPrefix("2001:db8::/32")!, destination: IPPrefix(host: IPAddress("ff15::1")!)),
            suite: .aes128sha256, direction: .receiver, lifetimeSeconds: 3_600, lifetimeKilobytes: 1_048_576,
            cipherKey: Secret(counting(from: 0x70, 16)), authenticationKey: Secret(counting(from: 0x80, 32)))
        sa.activateInMilliseconds = 2_000
        sa.deactivateInMilliseconds = 7_000
        return sa
    }()

    static let configure = Configure(
        sequence: 7, generation: 2, part: 0, partCount: 1,
        groups: [
            GroupSection(
                group: 10, name: "news",
                membership: Membership(memberIndex: 3, senderID: 1, sequence: 41, transaction: 5),
                rekeySA: rekeySA(TestKeys.p256), dataSAs: [dataSA(spi: 0x1001), dataSAOverIPv6])
        ])

    static let answer = ConfigureAnswer(
        sequence: 7,
        items: [
            .init(group: 10, spi: 0, code: .installed), .init(group: 10, spi: 0x1001, code: .known),
            .init(group: 10, spi: 0x2001, code: .conflict),
        ])

    static let status = Status(
        report: 12,
        groups: [
            GroupReport(group: 10, epoch: 3, complete: 5, sequence: 41, activeSPIs: [0x1001]),
            GroupReport(
                group: 11, epoch: 1, complete: 8, sequence: 99,
                missing: [.init(transaction: 9, block: 0, needed: 2)], wantsProfile: true),
        ])

    static let update = KeyUpdate(rekeySA: nil, dataSAs: [dataSA(spi: 0x1002)], replaced: [0x1001])

    static func header(_ kind: TransactionHeader.Kind, index: UInt8 = 0) -> TransactionHeader {
        TransactionHeader(
            kind: kind, group: 10, epoch: 3, transaction: 6, index: index, dataCount: 1, datagramCount: 2,
            memberFirst: 0, memberLast: 99,
            feedback: FeedbackRequest(
                mode: kind == .beacon ? .none : .all, round: 0, answerInMilliseconds: 250,
                slotMicroseconds: kind == .beacon ? 0 : 20_500, slots: kind == .beacon ? 0 : 100,
                nackWaitMilliseconds: 1_200, nackShare: kind == .beacon ? 999 : .max),
            activateInMilliseconds: kind == .commit ? 500 : 2_000, deactivateInMilliseconds: 7_000)
    }

    /// Sequence, header and body of one PUSH of each kind.
    static func pushes() throws -> [(sequence: UInt64, header: TransactionHeader, body: [UInt8])] {
        let body = try update.body()
        return [
            (42, header(.data), body),
            (43, header(.parity, index: 1), try Shard.make(body, size: body.count + Shard.lengthSize)),
            (44, header(.beacon), []),
            (45, header(.commit), []),
        ]
    }
}
