// SPDX-License-Identifier: Apache-2.0
import Basics
import Cryptography
import Testing

struct MACVector: Sendable {
    let hash: HashAlgorithm
    let key, data, code: String
}

// tests: RFC 2202 2 and 3, RFC 4231 4
private let macVectors = [
    MACVector(
        hash: .md5, key: String(repeating: "0b", count: 16), data: "4869205468657265",
        code: "9294727a3638bb1c13f48ef8158bfc9d"),
    MACVector(
        hash: .md5, key: "4a656665", data: "7768617420646f2079612077616e7420666f72206e6f7468696e673f",
        code: "750c783e6ab0b503eaa86e310a5db738"),
    MACVector(
        hash: .md5, key: String(repeating: "aa", count: 16), data: String(repeating: "dd", count: 50),
        code: "56be34521d144c88dbb8c733f0e8b3f6"),
    MACVector(
        hash: .sha1, key: String(repeating: "0b", count: 20), data: "4869205468657265",
        code: "b617318655057264e28bc0b6fb378c8ef146be00"),
    MACVector(
        hash: .sha1, key: "4a656665", data: "7768617420646f2079612077616e7420666f72206e6f7468696e673f",
        code: "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"),
    MACVector(
        hash: .sha1, key: String(repeating: "aa", count: 80),
        data:
            "54657374205573696e67204c6172676572205468616e20426c6f636b2d53697a"
            + "65204b6579202d2048617368204b6579204669727374",
        code: "aa4ae5e15272d00e95705637ce8a3b55ed402112"),
    MACVector(
        hash: .sha256, key: String(repeating: "0b", count: 20), data: "4869205468657265",
        code: "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
    MACVector(
        hash: .sha256, key: "4a656665", data: "7768617420646f2079612077616e7420666f72206e6f7468696e673f",
        code: "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
    MACVector(
        hash: .sha256, key: String(repeating: "aa", count: 20), data: String(repeating: "dd", count: 50),
        code: "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"),
    MACVector(
        hash: .sha256, key: String(repeating: "aa", count: 131),
        data:
            "54657374205573696e67204c6172676572205468616e20426c6f636b2d53697a"
            + "65204b6579202d2048617368204b6579204669727374",
        code: "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"),
    MACVector(
        hash: .sha384, key: "4a656665", data: "7768617420646f2079612077616e7420666f72206e6f7468696e673f",
        code: "af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e8e2240ca5e69e2c78b3239ecfab21649"),
    MACVector(
        hash: .sha512, key: "4a656665", data: "7768617420646f2079612077616e7420666f72206e6f7468696e673f",
        code:
            "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea250554"
            + "9758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737"
    ),
]

@Suite struct HashTests {
    // tests: RFC 1321 A.5, FIPS 180-4 ("abc")
    @Test(arguments: [
        (HashAlgorithm.md5, "900150983cd24fb0d6963f7d28e17f72"),
        (.sha1, "a9993e364706816aba3e25717850c26c9cd0d89d"),
        (.sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        (
            .sha384,
            "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7"
        ),
        (
            .sha512,
            "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a"
                + "2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f"
        ),
    ])
    func digestOfThreeLetters(hash: HashAlgorithm, digest: String) {
        #expect(hexadecimal(hash.digest([0x61, 0x62, 0x63])) == digest)
        #expect(hexadecimal(hash.digest([0x61], [], [0x62, 0x63])) == digest, "parts are one message")
        #expect(hash.digest().count == hash.digestSize)
    }

    @Test(arguments: macVectors)
    func authenticationCodes(vector: MACVector) throws {
        let key = Secret(hex(vector.key))
        let data = hex(vector.data)
        #expect(hexadecimal(HMAC.code(vector.hash, key: key, data)) == vector.code)
        let middle = data.count / 2
        let head = [UInt8](data[..<middle])
        let tail = [UInt8](data[middle...])
        #expect(hexadecimal(HMAC.code(vector.hash, key: key, head, tail)) == vector.code)
        let mixed = HMAC.secret(vector.hash, key: key, parts: [.octets(head), .secret(Secret(tail))])
        #expect(mixed == Secret(hex(vector.code)))
        #expect(HMAC.secret(vector.hash, key: key, head, tail) == mixed)
    }

    @Test func anEmptyKeyIsAKey() {
        // As in Python: hmac.new(b"", b"", "sha256")
        let code = HMAC.code(.sha256, key: Secret([]), [])
        #expect(hexadecimal(code) == "b613679a0814d9ec772f95d778c35fc5ff1697c493715653c6c712144292c5ad")
    }

    // tests: RFC 2404 5, RFC 4868 2.1 - truncated codes over a part of a packet, one context for many packets
    @Test func oneContextServesManyPackets() throws {
        let context = MACContext(hash: .sha1, key: Secret(hex(String(repeating: "0b", count: 20))))
        for _ in 0..<3 {
            var packet: [UInt8] = [0xff] + hex("4869205468657265") + [UInt8](repeating: 0, count: 13)
            var span = packet.mutableSpan
            try context.append(to: &span, over: 1..<9, count: 12)
            #expect(context.isValid(in: &span, over: 1..<9, count: 12))
            #expect(!context.isValid(in: &span, over: 0..<9, count: 12))
            #expect(!context.isValid(in: &span, over: 1..<22, count: 12), "no room for a code behind it")
            let code = span.withUnsafeBufferPointer { [UInt8]($0[9..<21]) }
            #expect(hexadecimal(code) == "b617318655057264e28bc0b6", "RFC 2202 3 case 1, the first 96 bits")
            #expect(packet.last == 0 && packet.first == 0xff)
            #expect(throws: CryptographyError.failed) {
                var packet = [UInt8](repeating: 0, count: 20)
                var span = packet.mutableSpan
                try context.append(to: &span, over: 1..<9, count: 12)
            }
        }
    }

    // tests: RFC 5869 A.1 to A.3
    @Test func keyDerivation() {
        let first = HKDF.derive(
            .sha256, key: Secret(hex(String(repeating: "0b", count: 22))), salt: hex("000102030405060708090a0b0c"),
            info: hex("f0f1f2f3f4f5f6f7f8f9"), count: 42)
        #expect(
            first
                == Secret(hex("3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865")))
        let second = HKDF.derive(
            .sha256, key: Secret(0..<0x50), salt: [UInt8](0x60..<0xb0), info: [UInt8](0xb0...0xff), count: 82)
        #expect(
            second
                == Secret(
                    hex(
                        """
                        b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09
                        da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87
                        """)))
        let third = HKDF.derive(
            .sha256, key: Secret(hex(String(repeating: "0b", count: 22))), salt: [], info: [], count: 42)
        #expect(
            third
                == Secret(hex("8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8")))
    }
}

@Suite struct RandomTests {
    @Test func systemRandomnessIsNotRepeated() {
        let random = SystemRandom()
        #expect(random.bytes(0).isEmpty)
        #expect(random.bytes(32).count == 32)
        #expect(random.bytes(32) != random.bytes(32))
        let words = Set((0..<1_000).map { _ in random.next() })
        #expect(words.count == 1_000, "no word twice, also over the end of the pool")
        #expect(!words.contains(0))
    }
}

@Suite struct SecretTests {
    @Test func secretsDoNotPrintThemselves() {
        let secret = Secret([0xde, 0xad, 0xbe, 0xef])
        var dumped = ""
        dump(secret, to: &dumped)
        for text in ["\(secret)", String(reflecting: secret), dumped, "\([secret])"] {
            #expect(!text.contains("222") && !text.lowercased().contains("dead"))
        }
        #expect(secret == Secret([0xde, 0xad, 0xbe, 0xef]) && secret != Secret([0xde, 0xad, 0xbe]))
        #expect(secret[1..<3] == Secret([0xad, 0xbe]))
        #expect(Secret([]) == Secret([]))
    }

    @Test func constantTimeComparison() {
        #expect(constantTimeEqual([], []) && constantTimeEqual([1, 2], [1, 2]))
        #expect(!constantTimeEqual([1, 2], [1, 3]) && !constantTimeEqual([1], [1, 2]))
    }
}
