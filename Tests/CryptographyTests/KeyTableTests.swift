// SPDX-License-Identifier: Apache-2.0
import Basics
import Cryptography
import Testing

struct KeyWrapVector: Sendable {
    let key, plain, wrapped: String
}

// RFC 3394 4.1 to 4.6
private let keyWrapVectors = [
    KeyWrapVector(
        key: "000102030405060708090A0B0C0D0E0F", plain: "00112233445566778899AABBCCDDEEFF",
        wrapped: "1FA68B0A8112B447AEF34BD8FB5A7B829D3E862371D2CFE5"),
    KeyWrapVector(
        key: "000102030405060708090A0B0C0D0E0F1011121314151617", plain: "00112233445566778899AABBCCDDEEFF",
        wrapped: "96778B25AE6CA435F92B5B97C050AED2468AB8A17AD84E5D"),
    KeyWrapVector(
        key: "000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F",
        plain: "00112233445566778899AABBCCDDEEFF", wrapped: "64E8C3F9CE0F5BA263E9777905818A2A93C8191E7D6E8AE7"),
    KeyWrapVector(
        key: "000102030405060708090A0B0C0D0E0F1011121314151617",
        plain: "00112233445566778899AABBCCDDEEFF0001020304050607",
        wrapped: "031D33264E15D33268F24EC260743EDCE1C6C7DDEE725A936BA814915C6762D2"),
    KeyWrapVector(
        key: "000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F",
        plain: "00112233445566778899AABBCCDDEEFF0001020304050607",
        wrapped: "A8F9BC1612C68B3FF6E6F4FBE30E71E4769C8B80A32CB8958CD5D17D6B254DA1"),
    KeyWrapVector(
        key: "000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F",
        plain: "00112233445566778899AABBCCDDEEFF000102030405060708090A0B0C0D0E0F",
        wrapped: "28C9F404C4B810F4CBCCB35CFB87F8263F5786E2D80ED326CBC7F0E71A99F43BFB988B9B7A02DD21"),
]

@Suite struct KeyWrapTests {
    @Test(arguments: keyWrapVectors) func wrapsAsPublished(_ vector: KeyWrapVector) throws {
        let key = Secret(hex(vector.key))
        let plain = Secret(hex(vector.plain))
        #expect(try AESKeyWrap.wrap(plain, under: key) == hex(vector.wrapped))
        #expect(try AESKeyWrap.unwrap(hex(vector.wrapped), under: key) == plain)
    }

    @Test func refusesEveryChangedBit() throws {
        let vector = keyWrapVectors[0]
        let key = Secret(hex(vector.key))
        for bit in 0..<24 * 8 {
            var text = hex(vector.wrapped)
            text[bit / 8] ^= 1 << (bit % 8)
            #expect(throws: CryptographyError.notAuthentic) { try AESKeyWrap.unwrap(text, under: key) }
        }
    }

    @Test func refusesOddSizes() {
        let key = Secret([UInt8](repeating: 1, count: 16))
        for count in [0, 1, 8, 15, 17, 23, 25, 31] {
            let octets = [UInt8](repeating: 2, count: count)
            #expect(throws: CryptographyError.notAuthentic) { try AESKeyWrap.unwrap(octets, under: key) }
            #expect(throws: CryptographyError.malformedKey) { try AESKeyWrap.wrap(Secret(octets), under: key) }
        }
        #expect(throws: CryptographyError.malformedKey) {
            try AESKeyWrap.wrap(key, under: Secret([UInt8](repeating: 1, count: 17)))
        }
    }
}

@Suite struct BlockPRFTests {
    /// FIPS 197 appendix B and C.1, NIST SP 800-38A F.1.1.
    @Test(arguments: [
        ("000102030405060708090a0b0c0d0e0f", "00112233445566778899aabbccddeeff", "69c4e0d86a7b0430d8cdb78070b4c55a"),
        ("2b7e151628aed2a6abf7158809cf4f3c", "3243f6a8885a308d313198a2e0370734", "3925841d02dc09fbdc118597196a0b32"),
        ("2b7e151628aed2a6abf7158809cf4f3c", "6bc1bee22e409f96e93d7e117393172a", "3ad77bb40d7a3660a89ecaf32466ef97"),
    ]) func isAES(_ key: String, _ block: String, _ expected: String) throws {
        let high = hex(block)[..<8].reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
        let low = hex(block)[8...].reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
        let table = KeyTable(count: 2)
        table[0] = Secret(hex(key))
        let prf = try BlockPRF()
        #expect(prf.secret(with: table, at: 0, PRFBlock(high: high, low: low)) == Secret(hex(expected)))
        prf.derive(from: table, at: 0, PRFBlock(high: high, low: low), into: table, at: 1)
        #expect(table[1] == Secret(hex(expected)))
    }

    @Test func whatIsMaskedIsUnmasked() throws {
        let random = SeededRandom(seed: 5)
        let prf = try BlockPRF()
        let table = KeyTable(count: 3)
        table.draw(at: 0, random: random)
        table.draw(at: 1, random: random)
        var text = [UInt8](repeating: 0, count: 20)
        let label = PRFBlock(high: 7, low: 9)
        prf.mask(table, at: 1, with: table, at: 0, label, into: &text, at: 3)
        #expect(text[..<3] == [0, 0, 0] && text[19] == 0)
        try prf.unmask(text[3..<19], with: table, at: 0, label, into: table, at: 2)
        #expect(table[2] == table[1])
        try prf.unmask(text[3..<19], with: table, at: 0, PRFBlock(high: 7, low: 8), into: table, at: 2)
        #expect(table[2] != table[1])
        #expect(throws: CryptographyError.notAuthentic) {
            try prf.unmask(text[3..<18], with: table, at: 0, label, into: table, at: 2)
        }
    }

    @Test func tablesKeepTheirKeysWhenTheyGrow() {
        let random = SeededRandom(seed: 6)
        var table = KeyTable(count: 0)
        var expected: [Secret] = []
        for index in 0..<100 {
            table = table.extended(to: index + 1)
            #expect(table[index] == Secret([UInt8](repeating: 0, count: 16)))
            table.draw(at: index, random: random)
            expected.append(table[index])
        }
        for index in 0..<100 { #expect(table[index] == expected[index]) }
        #expect(table.joined() == Secret(expected.flatMap { $0.revealed() }))
        table.wipe(at: 4)
        #expect(table[4] == Secret([UInt8](repeating: 0, count: 16)))
    }
}
