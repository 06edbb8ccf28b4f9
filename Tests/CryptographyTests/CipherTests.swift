// SPDX-License-Identifier: Apache-2.0
import Basics
import Cryptography
import Testing

struct CBCVector: Sendable {
    let algorithm: CBCAlgorithm
    let key, iv, plain, cipher: String
}

private let cbcVectors = [
    // tests: RFC 3602 4, cases 1 to 4
    CBCVector(
        algorithm: .aes128, key: "06a9214036b8a15b512e03d534120006", iv: "3dafba429d9eb430b422da802c9fac41",
        plain: "53696e676c6520626c6f636b206d7367", cipher: "e353779c1079aeb82708942dbe77181a"),
    CBCVector(
        algorithm: .aes128, key: "c286696d887c9aa0611bbb3e2025a45a", iv: "562e17996d093d28ddb3ba695a2e6f58",
        plain: "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
        cipher: "d296cd94c2cccf8a3a863028b5e1dc0a7586602d253cfff91b8266bea6d61ab1"),
    CBCVector(
        algorithm: .aes128, key: "6c3ea0477630ce21a2ce334aa746c2cd", iv: "c782dc4c098c66cbd9cd27d825682c81",
        plain:
            "5468697320697320612034382d62797465206d657373616765202865786163746c7920332041455320626c6f636b7329",
        cipher:
            "d0a02b3836451753d493665d33f0e8862dea54cdb293abc7506939276772f8d5021c19216bad525c8579695d83ba2684"),
    CBCVector(
        algorithm: .aes128, key: "56e47a38c5598974bc46903dba290349", iv: "8ce82eefbea0da3c44699ed7db51b7d9",
        plain: """
            a0a1a2a3a4a5a6a7a8a9aaabacadaeafb0b1b2b3b4b5b6b7b8b9babbbcbdbebf
            c0c1c2c3c4c5c6c7c8c9cacbcccdcecfd0d1d2d3d4d5d6d7d8d9dadbdcdddedf
            """,
        cipher: """
            c30e32ffedc0774e6aff6af0869f71aa0f3af07a9a31a9c684db207eb0ef8e4e
            35907aa632c3ffdf868bb7b29d3d46ad83ce9f9a102ee99d49a53e87f4c3da55
            """),
    // NIST SP 800-38A F.2.3 and F.2.5, first two blocks
    CBCVector(
        algorithm: .aes192, key: "8e73b0f7da0e6452c810f32b809079e562f8ead2522c6b7b",
        iv: "000102030405060708090a0b0c0d0e0f",
        plain: "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51",
        cipher: "4f021db243bc633d7178183a9fa071e8b4d9ada9ad7dedf4e5e738763f69145a"),
    CBCVector(
        algorithm: .aes256, key: "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4",
        iv: "000102030405060708090a0b0c0d0e0f",
        plain: "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51",
        cipher: "f58c4c04d6e5f1ba779eabfb5f7bfbd69cfc4e967edb808d679f777bc6702c7d"),
    // FIPS 81, appendix C ("Now is the time for all ")
    CBCVector(
        algorithm: .des, key: "0123456789abcdef", iv: "1234567890abcdef",
        plain: "4e6f77206973207468652074696d6520666f7220616c6c20",
        cipher: "e5c7cdde872bf27c43e934008c389c0f683788499a7c05f6"),
    // The three-key CBC case that OpenSSL's own evptests use
    CBCVector(
        algorithm: .tripleDES, key: "0123456789abcdeff1e0d3c2b5a49786fedcba9876543210", iv: "fedcba9876543210",
        plain: "37363534333231204e6f77206973207468652074696d6520666f722000000000",
        cipher: "3fe301c962ac01d02213763c1cbd4cdc799657c064ecf5d41c673812cfde9675"),
    // Schneier's Blowfish vectors, CBC with a 128-bit key
    CBCVector(
        algorithm: .blowfish(keyBits: 128), key: "0123456789abcdeff0e1d2c3b4a59687", iv: "fedcba9876543210",
        plain: "37363534333231204e6f77206973207468652074696d6520666f722000000000",
        cipher: "6b77b4d63006dee605b156e27403979358deb9e7154616d959f1652bd5ff92cc"),
]

@Suite struct CBCTests {
    @Test(arguments: cbcVectors)
    func publishedCases(vector: CBCVector) throws {
        let key = Secret(hex(vector.key))
        let iv = hex(vector.iv)
        let sealed = try vector.algorithm.encrypt(hex(vector.plain), key: key, iv: iv)
        #expect(sealed == hex(vector.cipher))
        #expect(try vector.algorithm.decrypt(sealed, key: key, iv: iv) == hex(vector.plain))
        #expect(try vector.algorithm.encrypt([], key: key, iv: iv) == [])
    }

    @Test func legacyCiphersLeaveTheDefaultOnesUsable() throws {
        _ = try CBCAlgorithm.des.encrypt([UInt8](repeating: 0, count: 8), key: Secret(1...8), iv: Array(0..<8))
        let first = cbcVectors[0]
        #expect(
            try CBCAlgorithm.aes128.encrypt(hex(first.plain), key: Secret(hex(first.key)), iv: hex(first.iv))
                == hex(first.cipher))
        #expect(HashAlgorithm.md5.digest([]).count == 16)
        _ = try SigningKey.generate(.ecdsaP256)
    }

    @Test(arguments: [CBCAlgorithm.aes128, .aes192, .aes256, .tripleDES, .des, .blowfish(keyBits: 448)])
    func malformedCallsAreRefused(algorithm: CBCAlgorithm) throws {
        let key = Secret((0..<algorithm.keySize).map { UInt8($0) })
        let iv = [UInt8](repeating: 7, count: algorithm.blockSize)
        let block = [UInt8](repeating: 1, count: algorithm.blockSize)
        #expect(try algorithm.decrypt(algorithm.encrypt(block, key: key, iv: iv), key: key, iv: iv) == block)
        #expect(throws: CryptographyError.notAuthentic) { try algorithm.decrypt(block + [0], key: key, iv: iv) }
        #expect(throws: CryptographyError.failed) { try algorithm.encrypt(block, key: key, iv: iv + [0]) }
        #expect(throws: CryptographyError.failed) { try algorithm.encrypt(block, key: key, iv: []) }
        for size in [0, 1, 7, algorithm.keySize - 1, algorithm.keySize + 1, 100] where size != algorithm.keySize {
            let wrong = Secret([UInt8](repeating: 1, count: size))
            #expect(throws: CryptographyError.malformedKey) { try algorithm.encrypt(block, key: wrong, iv: iv) }
        }
    }

    // tests: RFC 2451 2.2 - other Blowfish key lengths give other results
    @Test func blowfishTakesKeysOfManyLengths() throws {
        let block = [UInt8](repeating: 0, count: 8)
        var results = Set<[UInt8]>()
        for bits in stride(from: 40, through: 448, by: 8) {
            let algorithm = CBCAlgorithm.blowfish(keyBits: bits)
            // A key that repeats itself would be the same key to Blowfish at every multiple of its length.
            let key = Secret((0..<bits / 8).map { UInt8(truncatingIfNeeded: $0 * 7 + 1) })
            results.insert(try algorithm.encrypt(block, key: key, iv: block))
        }
        #expect(results.count == (448 - 40) / 8 + 1)
    }

    // tests: RFC 2409 appendix A - weak and semi-weak DES keys, with and without their parity bits
    @Test func weakKeysAreKnown() {
        for text in [
            "0101010101010101", "fefefefefefefefe", "e0fee0fef1fef1fe", "01fe01fe01fe01fe", "0000000000000000",
        ] {
            #expect(CBCAlgorithm.des.isWeak(Secret(hex(text))), "\(text)")
        }
        #expect(!CBCAlgorithm.des.isWeak(Secret(hex("0123456789abcdef"))))
        #expect(CBCAlgorithm.des.isWeak(Secret(hex("0123"))), "no DES key at all")
        let a = "0123456789abcdef"
        let b = "fedcba9876543210"
        #expect(CBCAlgorithm.tripleDES.isWeak(Secret(hex(a + a + b))))
        #expect(CBCAlgorithm.tripleDES.isWeak(Secret(hex(b + a + a))))
        #expect(!CBCAlgorithm.tripleDES.isWeak(Secret(hex(a + b + a))))
        #expect(!CBCAlgorithm.aes128.isWeak(Secret([UInt8](repeating: 0, count: 16))))
    }
}

@Suite struct GCMTests {
    // tests: NIST SP 800-38D by the test cases 4 and 16 of the GCM submission (AAD, text not a multiple of the block)
    private static let plain = hex(
        """
        d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525
        b16aedf5aa0de657ba637b39
        """)
    private static let aad = hex("feedfacedeadbeeffeedfacedeadbeefabaddad2")
    private static let nonce = hex("cafebabefacedbaddecaf888")

    @Test(arguments: [
        (
            "feffe9928665731c6d6a8f9467308308",
            """
            42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e21d514b25466931c7d8f6a5aac84aa05
            1ba30b396a0aac973d58e091 5bc94fbc3221a5db94fae95ae7121a47
            """
        ),
        (
            "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308",
            """
            522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838
            c5f61e6393ba7a0abcc9f662 76fc6ece0f4e1768cddf8853bb2d551b
            """
        ),
    ])
    func publishedCases(key: String, sealed: String) throws {
        let key = Secret(hex(key))
        let result = try AESGCM.seal(Self.plain, key: key, nonce: Self.nonce, aad: Self.aad)
        #expect(result == hex(sealed))
        #expect(try AESGCM.open(result, key: key, nonce: Self.nonce, aad: Self.aad) == Self.plain)
    }

    // Test case 1: nothing at all to protect
    @Test func anEmptyMessageHasATag() throws {
        let key = Secret([UInt8](repeating: 0, count: 16))
        let nonce = [UInt8](repeating: 0, count: 12)
        let sealed = try AESGCM.seal([], key: key, nonce: nonce, aad: [])
        #expect(hexadecimal(sealed) == "58e2fccefa7e3061367f1d57a4e7455a")
        #expect(try AESGCM.open(sealed, key: key, nonce: nonce, aad: []) == [])
    }

    @Test func everyChangeIsNoticed() throws {
        let key = Secret(0..<32)
        let sealed = try AESGCM.seal(Self.plain, key: key, nonce: Self.nonce, aad: Self.aad)
        for bit in 0..<sealed.count * 8 {
            var changed = sealed
            changed[bit / 8] ^= 1 << UInt8(bit % 8)
            #expect(throws: CryptographyError.notAuthentic) {
                try AESGCM.open(changed, key: key, nonce: Self.nonce, aad: Self.aad)
            }
        }
        for size in 0..<sealed.count {
            #expect(throws: CryptographyError.notAuthentic) {
                try AESGCM.open([UInt8](sealed.prefix(size)), key: key, nonce: Self.nonce, aad: Self.aad)
            }
        }
        #expect(throws: CryptographyError.notAuthentic) {
            try AESGCM.open(sealed, key: key, nonce: Self.nonce, aad: Self.aad + [0])
        }
        #expect(throws: CryptographyError.notAuthentic) {
            try AESGCM.open(sealed, key: Secret(1...32), nonce: Self.nonce, aad: Self.aad)
        }
    }

    @Test func keysAndNoncesOfOtherSizesAreRefused() {
        for size in [0, 1, 15, 17, 24, 33] {
            #expect(throws: CryptographyError.malformedKey) {
                try AESGCM.seal([1], key: Secret([UInt8](repeating: 1, count: size)), nonce: Self.nonce, aad: [])
            }
        }
        for size in [0, 8, 11, 13, 16] {
            #expect(throws: CryptographyError.failed) {
                try AESGCM.seal([1], key: Secret(0..<16), nonce: [UInt8](repeating: 1, count: size), aad: [])
            }
        }
    }

    @Test func oneContextServesManyPackets() throws {
        let key = Secret(0..<16)
        let sealer = try AEADCipher(.aes128gcm, key: key, direction: .encrypt)
        let opener = try AEADCipher(.aes128gcm, key: key, direction: .decrypt)
        for number in 0..<20 {
            let nonce = AEADNonce(salt: 0x0102_0304, iv: UInt64(number) << 40 | 7)
            var packet = [UInt8](repeating: UInt8(number), count: 8 + 30 + 16)
            var span = packet.mutableSpan
            try sealer.seal(&span, aad: 0..<8, text: 8..<38, nonce: nonce)
            let copy = span.withUnsafeBufferPointer { [UInt8]($0) }
            var octets = OctetWriter()
            octets.u32(nonce.salt)
            octets.u64(nonce.iv)
            #expect(
                try AESGCM.open([UInt8](copy[8...]), key: key, nonce: octets.bytes, aad: [UInt8](copy[..<8]))
                    == [UInt8](repeating: UInt8(number), count: 30))
            if number % 3 == 0 {  // a forgery in between spoils nothing
                var forged = copy
                forged[20] ^= 1
                var span = forged.mutableSpan
                #expect(throws: CryptographyError.notAuthentic) {
                    try opener.open(&span, aad: 0..<8, text: 8..<38, nonce: nonce)
                }
            }
            try opener.open(&span, aad: 0..<8, text: 8..<38, nonce: nonce)
            #expect(span[8] == UInt8(number) && span[37] == UInt8(number))
            #expect(throws: CryptographyError.notAuthentic) {
                try opener.open(&span, aad: 0..<8, text: 8..<39, nonce: nonce)
            }
            #expect(throws: CryptographyError.failed) {
                try sealer.seal(&span, aad: 0..<8, text: 8..<39, nonce: nonce)
            }
        }
    }
}
