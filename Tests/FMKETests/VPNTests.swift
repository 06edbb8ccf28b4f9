// SPDX-License-Identifier: Apache-2.0
import Basics
import Cryptography
import FMKE
import ISAKMP
import Testing

/// Sections of VPNs that are good, and bad in one way each.
struct VPNForge {
    let good: Configure
    private let samples = Samples(seed: 600)

    init() {
        let samples = Samples(seed: 601)
        var inbound = samples.vpnSA()
        inbound.direction = .receiver
        inbound.activateInMilliseconds = 0
        var outbound = samples.vpnSA()
        (outbound.direction, outbound.extendedSequence) = (.sender, true)
        good = Configure(
            sequence: 1, generation: 1, part: 0, partCount: 1, groups: [],
            vpns: [
                VPNSection(
                    vpn: 5, name: "v", transaction: 9, keepsOthers: false,
                    peer: .init(address: SocketAddress(.v4(192, 0, 2, 1), 4_500), isEncapsulated: true),
                    dataSAs: [inbound, outbound]),
                VPNSection(vpn: 6, name: "w", transaction: 9, keepsOthers: true, peer: nil, dataSAs: []),
            ])
    }

    /// By what is wrong, or "good".
    var chains: [(what: String, chain: [UInt8])] {
        get throws {
            let payloads = try good.payloads()
            var list: [(String, [UInt8])] = [("good", PayloadChain.encode(payloads).octets)]
            func add(_ what: String, _ change: (inout [RawPayload]) -> Void) {
                var copy = payloads
                change(&copy)
                list.append((what, PayloadChain.encode(copy).octets))
            }
            add("flag 4") { $0[1].body[5] |= 4 }
            add("encapsulated without a port") { ($0[1].body[15], $0[1].body[16]) = (0, 0) }
            add("a port without encapsulation") { $0[1].body[5] &= ~1 }
            add("a multicast peer") { $0[1].body[18] = 239 }
            add("a subnet as the peer") { $0[1].body[14] = 4 }
            add("a peer without SAs") { $0.removeSubrange(2...3) }
            add("SAs without a peer") { $0.insert($0[4], at: 2) }
            add("no SAs and nothing to keep") { $0[4].body[5] = 0 }
            add("one id twice") { $0[4].body[3] = 5 }
            add("KD in front of SA") { $0.swapAt(2, 3) }
            add("a name with an octet more") { $0[1].body.append(65) }
            add("a group's SA behind it") { payloads in
                var group = Samples(seed: 602).section()
                group.treeKeys = nil
                let other = Configure(sequence: 1, generation: 1, part: 0, partCount: 1, groups: [group])
                if let more = try? other.payloads() { payloads += more.dropFirst() }
            }
            return list
        }
    }
}

@Suite struct VPNSectionTests {
    @Test func badSectionsAreRefused() throws {
        for (what, chain) in try VPNForge().chains {
            let payloads = try PayloadChain.parse(first: .profile, chain[...], limit: 64, allowPadding: false)
            #expect(((try? Configure(payloads: payloads)) != nil) == (what == "good"), "\(what)")
        }
    }

    @Test func valuesThatNoMessageMayCarry() throws {
        let good = VPNForge().good
        func refuse(_ change: (inout VPNSection) -> Void) {
            var bad = good
            change(&bad.vpns[0])
            #expect(throws: FMKEError.malformed) { try bad.payloads() }
        }
        refuse { $0.dataSAs[0].direction = .symmetric }
        refuse { $0.dataSAs[0].activateInMilliseconds = 1 }
        refuse { $0.dataSAs[1].spi = $0.dataSAs[0].spi }
        refuse { $0.peer = nil }
        refuse { $0.dataSAs = [] }
        refuse { $0.vpn = 6 }
        refuse { $0.name = "a\nb" }
        refuse { $0.peer?.address.port = 0 }
        var group = Samples(seed: 603).section()
        group.dataSAs = [Samples(seed: 604).dataSA(withTimes: true)]
        group.dataSAs[0].extendedSequence = true
        #expect(throws: FMKEError.malformed) {
            try Configure(sequence: 1, generation: 1, part: 0, partCount: 1, groups: [group]).payloads()
        }
    }

    /// RFC 4304: attribute 11 belongs into a VPN; address preservation tells the two apart as well.
    @Test func aVPNsSAIsNoGroupsSA() throws {
        let samples = Samples(seed: 605)
        var section = samples.section()
        var sa = samples.vpnSA()
        (sa.extendedSequence, sa.direction) = (false, .sender)
        section.dataSAs = [sa]
        let group = try Configure(sequence: 1, generation: 1, part: 0, partCount: 1, groups: [section]).payloads()
        var vpn = VPNForge().good
        vpn.vpns[0].dataSAs = [sa]
        let tunnel = try vpn.payloads()
        var mixed = tunnel
        // Without the SAK and its key packet it could be a VPN's, but for the attribute.
        mixed[2] = group[2]
        #expect(throws: FMKEError.self) { try Configure(payloads: mixed) }
        var other = group
        other[2] = tunnel[2]
        #expect(throws: FMKEError.self) { try Configure(payloads: other) }
    }

    @Test func aVPNIsCutWhereItDoesNotFit() throws {
        let samples = Samples(seed: 606)
        var vpn = VPNForge().good.vpns[0]
        vpn.dataSAs = (0..<23).map { _ in samples.vpnSA() }
        let parts = try Configure.split(
            sequence: 10, generation: 3, groups: (0..<3).map { _ in samples.section() },
            vpns: [vpn, VPNForge().good.vpns[1]])
        #expect(parts.flatMap(\.vpns).filter { $0.vpn == 5 }.flatMap(\.dataSAs) == vpn.dataSAs)
        #expect(parts.flatMap(\.vpns).map(\.vpn).last == 6)
        #expect(parts.count > 3 && parts.flatMap(\.groups).count == 3)
        for part in parts {
            #expect(try part.encodedSize <= Limits().datagramOctetsSent)
            #expect(try Configure(payloads: part.payloads()) == part)
        }
    }

    /// docs/FMKE.md 9.
    @Test func sizesOfTheDocument() throws {
        func sa(_ spi: UInt32, _ direction: SADirection) throws -> DataSA {
            let (here, there) = (
                try #require(IPPrefix("192.168.1.0/24")), try #require(IPPrefix("192.168.2.0/24"))
            )
            var sa = DataSA(
                spi: spi,
                selector: TrafficSelector(
                    source: direction == .sender ? here : there, destination: direction == .sender ? there : here),
                suite: .aes256gcm, direction: direction, lifetimeSeconds: 3_600,
                cipherKey: Secret(Array(repeating: 7, count: 36)), authenticationKey: nil)
            sa.extendedSequence = true
            return sa
        }
        func size(_ sas: [DataSA]) throws -> Int {
            let message = Configure(
                sequence: 1, generation: 1, part: 0, partCount: 1, groups: [],
                vpns: [
                    VPNSection(
                        vpn: 5, name: "hub-site1", transaction: 9, keepsOthers: true,
                        peer: .init(address: SocketAddress(.v4(192, 0, 2, 1), 0), isEncapsulated: false), dataSAs: sas)
                ])
            let payloads = try message.payloads().reduce(0) { $0 + 4 + $1.body.count }
            return 28 + (36 + payloads + 15) / 16 * 16
        }
        let two = [try sa(0x1001, .sender), try sa(0x1002, .receiver)]
        var four = [try sa(0x1003, .sender), try sa(0x1004, .receiver)]
        four[0].activateInMilliseconds = .max
        #expect(try [size(two), size(two + four)] == [380, 620])
    }
}
