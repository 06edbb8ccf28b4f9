// SPDX-License-Identifier: Apache-2.0
import Basics
import Cryptography
import FMKE
import ISAKMP
import Testing

/// The LKH packet and the masks of the keys beside it (docs/FMKE.md 4.4).
@Suite struct TreePacketTests {
    private let groupKey = Secret(Golden.counting(from: 0xc0, 32))

    private func configure(_ section: GroupSection) -> Configure {
        Configure(sequence: 1, generation: 1, part: 0, partCount: 1, groups: [section])
    }

    /// KD of a profile whose member has two keys of a tree, made by hand from the document.
    private static let download = fields(
        """
        0002                         ; packets = 2
        0000                         ; reserved
        03                           ; tree type = 3 (LKH)
        00                           ; tree wrap = 0
        0049                         ; tree length = 73
        10                           ; tree spi-size = 16
        a0a1a2a3a4a5a6a7a8a9aaabacadaeaf ; tree spi
        0001 0030                    ; LKH_DOWNLOAD_ARRAY (attribute 1), 48 octets:
        02 01 0000                   ; degree 2, height 1
        00000003                     ; slot = 3
        0000000000000005             ; transaction = 5
        202122232425262728292a2b2c2d2e2f
        303132333435363738393a3b3c3d3e3f
        02                           ; packet 0 type = 2
        00                           ; packet 0 wrap = 0
        """)

    /// KD of a PUSH that changes the tree: the masks are from another HKDF (Python's cryptography).
    private static let update = fields(
        """
        0004                         ; packets = 4
        0000                         ; reserved
        03                           ; tree type = 3 (LKH)
        00                           ; tree wrap = 0
        0031                         ; tree length = 49
        10                           ; tree spi-size = 16
        a0a1a2a3a4a5a6a7a8a9aaabacadaeaf ; tree spi
        0002 0018                    ; LKH_UPDATE_ARRAY (attribute 2), 24 octets:
        e0e1e2e3e4e5e6e7e8e9eaebecedeeeff0f1f2f3f4f5f6f7
        02                           ; packet 0 type = 2
        01                           ; packet 0 wrap = 1
        0069                         ; packet 0 length = 105
        10                           ; packet 0 spi-size = 16
        a0a1a2a3a4a5a6a7a8a9aaabacadaeaf ; packet 0 spi
        ; key (attribute 1), masked:
        0001 0020 1a02f6ccbba5e797bac571c13a75cffd37244ffa10f3627d86b7d5ec2dd1baed
        ; verifying-key (attribute 2), in the clear:
        0002 002c 302a300506032b6570032100d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a
        01                           ; packet 1 type = 1
        01                           ; packet 1 wrap = 1
        0031                         ; packet 1 length = 49
        04                           ; packet 1 spi-size = 4
        00001002                     ; packet 1 spi = 00001002
        ; key (attribute 1), masked:
        0001 0024 19df8ac6752bb13a72413b660ad5478521a5db91847a0fca6c22423ebcf8396d660e00aa
        01                           ; packet 2 type = 1
        01                           ; packet 2 wrap = 1
        0041                         ; packet 2 length = 65
        04                           ; packet 2 spi-size = 4
        00002001                     ; packet 2 spi = 00002001
        0001 0010 9b9cc3418cc7ab842fe9ba16925fbed3 ; key (attribute 1), masked
        ; integrity-key (attribute 2), masked:
        0002 0020 f56119f736a52e0b6efd29df3288b3d52c3eedf4d32e95f9ed461f13e24a0ca3
        """)

    @Test func aProfileHasThePathInFrontOfTheOtherKeys() throws {
        let tree: [UInt8] = [2, 1, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 5] + Golden.counting(from: 0x20, 32)
        let section = GroupSection(
            group: 10, name: "news",
            membership: Membership(memberIndex: 3, senderID: 1, sequence: 41, transaction: 5),
            rekeySA: Golden.rekeySA(TestKeys.p256), dataSAs: [], treeKeys: Secret(tree))
        let payloads = try configure(section).payloads()
        #expect(Array(payloads[3].body.prefix(Self.download.count)) == Self.download)
        #expect(try Configure(payloads: payloads) == configure(section))
    }

    @Test func keysBesideAChangeOfTheTreeAreUnderTheirMasks() throws {
        var cbc = Golden.dataSAOverIPv6
        (cbc.activateInMilliseconds, cbc.deactivateInMilliseconds) = (0, nil)
        let clear = KeyUpdate(
            rekeySA: Golden.rekeySA(TestKeys.ed25519), dataSAs: [Golden.dataSA(spi: 0x1002), cbc], replaced: [0x1001],
            treeSlice: Golden.counting(from: 0xe0, 24))
        let masked = clear.masked(groupKey: groupKey, group: 10, transaction: 6)
        let body = try masked.body()
        #expect(Array(body.suffix(Self.update.count)) == Self.update)
        let read = try KeyUpdate(body: body)
        #expect(read == masked && read.areKeysMasked)
        #expect(read.unmasked(groupKey: groupKey, group: 10, transaction: 6) == clear)
        for other in [
            read.unmasked(groupKey: Secret(Golden.counting(from: 0xc1, 32)), group: 10, transaction: 6),
            read.unmasked(groupKey: groupKey, group: 11, transaction: 6),
            read.unmasked(groupKey: groupKey, group: 10, transaction: 7),
        ] {
            #expect(other.rekeySA?.kek != clear.rekeySA?.kek)
            #expect(other.dataSAs.map(\.cipherKey) != clear.dataSAs.map(\.cipherKey))
            #expect(other.dataSAs[1].authenticationKey != clear.dataSAs[1].authenticationKey)
            #expect(other.rekeySA?.verifyingKey == clear.rekeySA?.verifyingKey)
        }
    }

    /// Keys in the clear never go beside a change of the tree, nor masked ones without it.
    @Test func anUpdateForgottenToBeMaskedHasNoBody() throws {
        let clear = Samples(seed: 5).treeUpdate()
        #expect(throws: FMKEError.malformed) { try clear.body() }
        var bare = clear.masked(groupKey: groupKey, group: 1, transaction: 1)
        bare.treeSlice = nil
        #expect(throws: FMKEError.malformed) { try bare.body() }
        var withoutKEK = clear.masked(groupKey: groupKey, group: 1, transaction: 1)
        withoutKEK.rekeySA = nil
        #expect(throws: FMKEError.malformed) { try withoutKEK.body() }
        var empty = clear.masked(groupKey: groupKey, group: 1, transaction: 1)
        empty.treeSlice = []
        #expect(throws: FMKEError.malformed) { try empty.body() }
    }

    /// KD: number of packets 2, reserved 2, then per packet type, wrap method, length 2, SPI size, SPI, attributes.
    private func refusal(_ payloads: [RawPayload], _ change: (inout [UInt8]) -> Void) -> FMKEError? {
        var other = payloads
        change(&other[3].body)
        return #expect(throws: FMKEError.self) { try Configure(payloads: other) }
    }

    @Test func whatIsNoLKHPacketOfAProfileIsRefused() throws {
        var section = Samples(seed: 2).section()
        section.treeKeys = Secret([UInt8](1...64))
        let payloads = try configure(section).payloads()
        #expect(refusal(payloads) { $0[5] = 1 } == .malformed, "the packet of the tree is not masked")
        #expect(refusal(payloads) { $0[5] = 2 } == .unsupported)
        #expect(refusal(payloads) { $0[4] = 4 } == .unsupported)
        #expect(refusal(payloads) { $0[4] = 2 } == .malformed)
        #expect(refusal(payloads) { $0[9] ^= 1 } == .malformed, "another SPI than the rekey SA's")
        #expect(refusal(payloads) { $0[26] = 2 } == .malformed, "an update is for a PUSH")
        #expect(refusal(payloads) { $0[26] = 3 } == .unsupported)
        let size = 5 + 16 + 4 + 64
        #expect(refusal(payloads) { $0[4 + size + 1] = 1 } == .malformed, "nothing is masked in a profile")
        #expect(
            refusal(payloads) {
                $0[1] += 1
                $0.insert(contentsOf: $0[4..<4 + size], at: 4)
            } == .malformed, "two of them")
        #expect(
            refusal(payloads) {
                let packet = $0[4..<4 + size]
                $0.removeSubrange(4..<4 + size)
                $0 += packet
            } == .malformed, "behind the others")
        section.treeKeys = nil
        let without = try configure(section).payloads()
        for (offset, value, error) in [
            (4, UInt8(4), FMKEError.unsupported), (4, 0, .unsupported), (5, 1, .malformed), (5, 255, .unsupported),
        ] {
            #expect(refusal(without) { $0[offset] = value } == error)
        }
    }

    @Test func whatIsNoLKHPacketOfAPushIsRefused() throws {
        let masked = Samples(seed: 6).treeUpdate().masked(groupKey: groupKey, group: 1, transaction: 1)
        let body = try masked.body()
        let slice = try #require(masked.treeSlice)
        let kd = try #require(body.indices.first { Array(body[$0...].prefix(slice.count)) == slice }) - 25
        func refusal(_ change: (inout [UInt8]) -> Void) -> FMKEError? {
            var bad = body
            change(&bad)
            return #expect(throws: FMKEError.self) { try KeyUpdate(body: bad) }
        }
        #expect(body[kd] == 3 && body[kd + 1] == 0)
        #expect(refusal { $0[kd + 22] = 1 } == .malformed, "a download is for a profile")
        #expect(refusal { $0[kd + 1] = 1 } == .malformed)
        #expect(refusal { $0[kd + 5] ^= 1 } == .malformed)
        let next = kd + 25 + slice.count
        #expect(body[next] == 2 && body[next + 1] == 1)
        #expect(refusal { $0[next + 1] = 0 } == .malformed, "keys in the clear")
        #expect(refusal { $0[next + 1] = 2 } == .unsupported)
    }

    /// A profile at a million members fits, with the path of 21 keys and the SAs of three flows.
    @Test func theProfileOfTheMillionthMemberFits() throws {
        var section = Golden.configure.groups[0]
        section.dataSAs = (0..<3).map { Golden.dataSA(spi: 0x1001 + $0) }
        section.treeKeys = Secret([UInt8](repeating: 1, count: 352))
        let size = try configure(section).encodedSize
        #expect(size == 525 + 2 * 108 + 25 + 352, "\(size)")
        #expect(size <= Limits().datagramOctetsSent)
    }
}
