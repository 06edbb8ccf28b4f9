// SPDX-License-Identifier: Apache-2.0
import Basics
import Cryptography
import FMKE
import Foundation
import ISAKMP

/// Signing keys of published test vectors, so that no key of ours stands in the tree.
enum TestKeys {
    /// RFC 8032 7.1, test 1.
    static let ed25519 = key(
        prefix: "302e020100300506032b657004220420",
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    /// RFC 6979 A.2.5.
    static let p256 = key(
        prefix: "3041020100301306072a8648ce3d020106082a8648ce3d030107042730250201010420",
        "c9afa9d845ba75166b5c215767b1d6934e50c3db36e89b127b8a622b120f6721")
    static let rsa = try! SigningKey.generate(.rsa2048)

    static func key(_ algorithm: SignatureAlgorithm) -> SigningKey {
        switch algorithm {
        case .ed25519: ed25519
        case .ecdsaP256: p256
        case .rsa2048: rsa
        }
    }

    /// PKCS #8 in PEM around a raw private key.
    private static func key(prefix: String, _ hex: String) -> SigningKey {
        let der = Data(octets(hexadecimal: prefix)! + octets(hexadecimal: hex)!)
        let label = "PRIVATE KEY"
        let pem = "-----BEGIN \(label)-----\n\(der.base64EncodedString())\n-----END \(label)-----\n"
        return try! SigningKey(pem: Array(pem.utf8))
    }
}

/// Random valid values, all from one seed.
struct Samples {
    let random: SeededRandom

    init(seed: UInt64) { random = SeededRandom(seed: seed) }

    func number(_ range: ClosedRange<UInt64>) -> UInt64 {
        range.lowerBound + random.number(below: range.upperBound - range.lowerBound + 1)
    }
    func chance() -> Bool { random.number(below: 2) == 0 }
    func pick<Value>(_ values: [Value]) -> Value { values[Int(random.number(below: UInt64(values.count)))] }
    func u16() -> UInt16 { UInt16(truncatingIfNeeded: random.next()) }
    func u32() -> UInt32 { UInt32(truncatingIfNeeded: random.next()) }
    func spi() -> UInt32 { max(256, u32()) }
    func lifetime() -> UInt32 { max(1, u32()) }

    func address(isV4: Bool) -> IPAddress { isV4 ? .v4(u32()) : .v6(random.next(), random.next()) }

    func prefix(isV4: Bool) -> IPPrefix {
        let length = Int(random.number(below: isV4 ? 33 : 129))
        var octets = address(isV4: isV4).octets
        for bit in length..<(octets.count * 8) { octets[bit / 8] &= ~(0x80 >> UInt8(bit % 8)) }
        return IPPrefix(address: IPAddress(octets: octets)!, length: length)!
    }

    func selector() -> TrafficSelector {
        let isV4 = chance()
        return TrafficSelector(
            source: prefix(isV4: isV4), destination: prefix(isV4: isV4), ipProtocol: pick([0, 17, 6, 255]),
            sourcePort: chance() ? 0 : u16(), destinationPort: chance() ? 0 : u16())
    }

    func dataSA(withTimes: Bool) -> DataSA {
        let suite = pick(ESPSuite.allCases)
        var sa = DataSA(
            spi: spi(), selector: selector(), suite: suite, direction: pick([.sender, .receiver, .symmetric]),
            lifetimeSeconds: lifetime(), lifetimeKilobytes: chance() ? nil : lifetime(),
            cipherKey: Secret(random: random, count: suite.cipherKeySize),
            authenticationKey: suite.isAEAD ? nil : Secret(random: random, count: suite.authenticationKeySize))
        if withTimes {
            sa.activateInMilliseconds = pick([0, 1, 2_000, .max])
            sa.deactivateInMilliseconds = pick([nil, 0, 7_000, .max])
        }
        return sa
    }

    func rekeySA(_ algorithm: SignatureAlgorithm? = nil) -> RekeySA {
        let algorithm = algorithm ?? pick([.ecdsaP256, .ed25519])
        let isV4 = chance()
        return RekeySA(
            spi: RekeySPI(high: random.next(), low: random.next()), source: address(isV4: isV4),
            control: SocketAddress(address(isV4: isV4), max(1, u16())), epoch: u32(), lifetimeSeconds: lifetime(),
            signatureAlgorithm: algorithm, verifyingKey: TestKeys.key(algorithm).publicKey,
            kek: Secret(random: random, count: 32))
    }

    func section() -> GroupSection {
        let group = u32()
        return GroupSection(
            group: group, name: pick(["", "news", "Straße 7 ☂", String(repeating: "n", count: 64)]),
            membership: Membership(
                memberIndex: u32(), senderID: chance() ? nil : u16(), hasOneSender: group.isMultiple(of: 2),
                sequence: random.next(),
                transaction: random.next()),
            rekeySA: rekeySA(), dataSAs: (0..<random.number(below: 4)).map { _ in dataSA(withTimes: true) })
    }

    func vpnSection() -> VPNSection {
        let isEncapsulated = chance()
        let address = pick([IPAddress.v4(192, 0, 2, UInt8(number(1...254))), .v6(0x2001_0db8 << 32, random.next())])
        let isAlone = number(0...3) == 0
        return VPNSection(
            vpn: u32(), name: pick(["", "hub-site1", "Straße 7 ☂"]), transaction: random.next(),
            keepsOthers: isAlone || chance(),
            peer: isAlone
                ? nil
                : .init(
                    address: SocketAddress(address, isEncapsulated ? max(1, u16()) : 0),
                    isEncapsulated: isEncapsulated),
            dataSAs: isAlone ? [] : (0..<number(1...4)).map { _ in vpnSA() })
    }

    func vpnSA() -> DataSA {
        var sa = dataSA(withTimes: true)
        sa.direction = pick([.sender, .receiver])
        if sa.direction == .receiver { sa.activateInMilliseconds = 0 }
        sa.extendedSequence = chance()
        return sa
    }

    func configure() -> Configure {
        let partCount = max(1, u16())
        return Configure(
            sequence: random.next(), generation: u32(), part: UInt16(random.number(below: UInt64(partCount))),
            partCount: partCount, groups: (0..<random.number(below: 3)).map { _ in section() },
            vpns: (0..<random.number(below: 3)).map { _ in vpnSection() })
    }

    func answer() -> ConfigureAnswer {
        ConfigureAnswer(
            sequence: random.next(),
            items: (0..<random.number(below: 20)).map { _ in
                .init(
                    group: u32(), spi: chance() ? 0 : spi(),
                    code: pick([.installed, .known, .unsupported, .conflict, .limit, .failed]))
            })
    }

    func status() -> Status {
        Status(
            report: random.next(),
            groups: (0..<random.number(below: 5)).map { _ in
                GroupReport(
                    group: u32(), epoch: u32(), complete: random.next(), sequence: random.next(),
                    missing: (0..<random.number(below: 4)).map { _ in
                        .init(
                            transaction: random.next(), block: UInt16(random.number(below: 4_096)),
                            needed: UInt8(number(1...255)))
                    },
                    activeSPIs: (0..<random.number(below: 4)).map { _ in spi() }, wantsProfile: chance(),
                    wantsRekey: chance())
            })
    }

    func feedback() -> FeedbackRequest {
        let mode: FeedbackRequest.Mode = pick([.none, .all, .census])
        let modulus = mode == .census ? UInt16(number(1...64)) : 1
        let slots = mode == .none ? 0 : max(1, u32())
        let longest = UInt64(UInt32.max) * 1_000 / UInt64(max(slots, 1))
        return FeedbackRequest(
            mode: mode, round: UInt8(number(0...255)), answerInMilliseconds: u32(),
            slotMicroseconds: mode == .none ? 0 : UInt32(number(0...min(longest, UInt64(UInt32.max)))), slots: slots,
            modulus: modulus, residue: UInt16(random.number(below: UInt64(modulus))), nackWaitMilliseconds: u16(),
            nackShare: u16())
    }

    func header(_ kind: TransactionHeader.Kind, group: UInt32, epoch: UInt32) -> TransactionHeader {
        let blockCount = UInt16(number(1...4_096))
        let dataCount = UInt8(number(1...200))
        let datagramCount = UInt8(number(UInt64(dataCount) + 1...255))
        let first = u32()
        var header = TransactionHeader(
            kind: kind, group: group, epoch: epoch, transaction: random.next(), blockCount: blockCount,
            dataCount: dataCount, datagramCount: datagramCount, memberFirst: first,
            memberLast: UInt32(number(UInt64(first)...UInt64(UInt32.max))), feedback: feedback(),
            activateInMilliseconds: u32(), deactivateInMilliseconds: u32())
        switch kind {
        case .data: header.index = UInt8(random.number(below: UInt64(dataCount)))
        case .parity: header.index = UInt8(number(UInt64(dataCount)...UInt64(datagramCount) - 1))
        case .beacon, .commit: break
        }
        if kind == .data || kind == .parity { header.block = UInt16(random.number(below: UInt64(blockCount))) }
        return header
    }

    func keyUpdate() -> KeyUpdate {
        switch random.number(below: 6) {
        case 5:
            succession().masked(groupKey: Secret(random.bytes(32)), group: u32(), transaction: random.next())
        case 4: treeUpdate().masked(groupKey: Secret(random.bytes(32)), group: u32(), transaction: random.next())
        case 0: KeyUpdate(rekeySA: nil, dataSAs: [], replaced: [spi(), spi()])
        case 1: KeyUpdate(rekeySA: rekeySA(), dataSAs: [], replaced: [])
        case 2: KeyUpdate(rekeySA: nil, dataSAs: [dataSA(withTimes: false)], replaced: [spi()])
        default:
            KeyUpdate(
                rekeySA: rekeySA(), dataSAs: [dataSA(withTimes: false), dataSA(withTimes: false)],
                replaced: [spi(), spi(), spi()])
        }
    }

    /// With the keys in the clear.
    func treeUpdate() -> KeyUpdate {
        KeyUpdate(
            rekeySA: rekeySA(), dataSAs: (0..<random.number(below: 3)).map { _ in dataSA(withTimes: false) },
            replaced: chance() ? [] : [spi()], treeSlice: random.bytes(Int(number(1...200))))
    }

    /// With what is carried along in the clear.
    func succession() -> KeyUpdate {
        let flows = (0..<number(1...3)).map { _ in dataSA(withTimes: false).flow }
        return KeyUpdate(
            rekeySA: nil, dataSAs: (0..<random.number(below: 3)).map { _ in dataSA(withTimes: false) }, replaced: [],
            treeSlice: random.bytes(Int(number(1...200))),
            succession: Succession(
                attempt: UInt8(number(0...255)), flows: flows, rekeyLifetimeSeconds: UInt32(number(1...1 << 32 - 1)),
                dataLifetimeSeconds: UInt32(number(1...1 << 32 - 1))))
    }

    func body(_ kind: TransactionHeader.Kind) throws -> [UInt8] {
        switch kind {
        case .data: try keyUpdate().body()
        case .parity: random.bytes(Int(number(1...900)))
        case .beacon, .commit: []
        }
    }
}

/// Hexadecimal octets, one field a line, with a comment behind `;`.
func fields(_ text: String) -> [UInt8] {
    let lines = text.split(separator: "\n").map { $0.prefix { $0 != ";" } }
    return octets(hexadecimal: lines.joined())!
}

/// What a reader made of some octets: nothing and why, or a value.
func outcome<Value>(_ read: () throws(FMKEError) -> Value) -> Result<Value, FMKEError> {
    do { return .success(try read()) } catch { return .failure(error) }
}
