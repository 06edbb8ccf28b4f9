// SPDX-License-Identifier: Apache-2.0
import Basics
import Cryptography
import Testing

/// What ESP's suites are called and which numbers they have, against the registries' own tables.
@Suite struct SuiteTests {
    /// Name, transform, key length, authentication algorithm; octets of cipher key, HMAC key, IV, ICV, alignment.
    /// From IANA's "IPSEC ESP Transform Identifiers" and "IPSEC Security Association Attributes", RFC 2403 to 2406,
    /// 2451, 3602, 4106, 4868 and 7634; 249 is ours.
    private static let table = """
        aes256-gcm 20 256 - 36 0 8 16 4
        aes128-gcm 20 128 - 20 0 8 16 4
        chacha20-poly1305 249 - - 36 0 8 16 4
        aes256-gcm12 19 256 - 36 0 8 12 4
        aes128-gcm12 19 128 - 20 0 8 12 4
        aes256-gcm8 18 256 - 36 0 8 8 4
        aes128-gcm8 18 128 - 20 0 8 8 4
        aes256-sha256 12 256 5 32 32 16 16 16
        aes192-sha384 12 192 6 24 48 16 24 16
        aes128-sha512 12 128 7 16 64 16 32 16
        aes128-sha1 12 128 2 16 20 16 12 16
        3des-sha1 3 - 2 24 20 8 12 8
        des-md5 2 - 1 8 16 8 12 8
        blowfish128-sha1 7 128 2 16 20 8 12 8
        null-sha256 11 - 5 0 32 0 16 4
        null-md5 11 - 1 0 16 0 12 4
        """

    @Test func numbersAreTheRegistries() throws {
        for line in Self.table.split(separator: "\n") {
            let fields = line.split(separator: " ").map(String.init)
            let suite = try #require(ESPSuite(rawValue: fields[0]))
            let optional = [suite.keyLength, suite.authenticationID].map { $0.map(String.init) ?? "-" }
            let sizes = [
                suite.cipherKeySize, suite.authenticationKeySize, suite.ivSize, suite.icvSize, suite.alignment,
            ]
            #expect([suite.rawValue, "\(suite.transformID)"] + optional + sizes.map(String.init) == fields)
        }
    }

    @Test func eachHasOneNameAndOneSetOfNumbers() {
        #expect(ESPSuite.allCases.count == 42 && Set(ESPSuite.allCases.map(\.rawValue)).count == 42)
        for suite in ESPSuite.allCases {
            #expect(ESPSuite(rawValue: suite.rawValue) == suite)
            #expect(
                ESPSuite(
                    transformID: suite.transformID, keyLength: suite.keyLength,
                    authenticationID: suite.authenticationID) == suite)
            #expect(suite.isAEAD == (suite.authenticationKeySize == 0))
        }
        for (transform, length, authentication): (UInt8, UInt16?, UInt16?) in [
            (20, nil, nil), (20, 192, nil), (20, 256, 5), (12, nil, 5), (12, 256, nil), (12, 256, 3), (3, 192, 2),
            (7, nil, 2), (7, 448, 2), (11, nil, nil), (249, 256, nil), (2, 56, 1), (1, nil, 1), (0, nil, nil),
        ] {
            #expect(
                ESPSuite(transformID: transform, keyLength: length, authenticationID: authentication) == nil,
                "\(transform) \(String(describing: length)) \(String(describing: authentication))")
        }
        for name in ["", "aes256", "aes256-gcm16", "AES256-GCM", "null", "null-null", "sha256", "aes192-gcm"] {
            #expect(ESPSuite(rawValue: name) == nil, "\(name)")
        }
    }

    @Test func weakOnesAreLegacy() {
        let legacy = Set(ESPSuite.allCases.filter(\.isLegacy).map(\.rawValue))
        for suite in ESPSuite.allCases {
            let name = suite.rawValue
            let isWeak = ["des-", "blowfish", "null-"].contains { name.hasPrefix($0) } || name.hasSuffix("-md5")
            #expect(legacy.contains(name) == isWeak, "\(name)")
        }
        #expect(ESPSuite.allCases.first == .aes256gcm)
    }

    /// RFC 4868 2.7.2.1 to 2.7.2.3, "Hi There": what ESP keeps of the codes.
    @Test(arguments: [
        (HashAlgorithm.sha256, "198a607eb44bfbc69903a0f1cf2bbdc5"),
        (.sha384, "b6a8d5636f5c6a7224f9977dcf7ee6c7fb6d0c48cbdee973"),
        (.sha512, "637edc6e01dce7e6742a99451aae82df23da3e92439e590e43e761b33e910fb8"),
    ])
    func codesOfHalfTheSize(hash: HashAlgorithm, code: String) throws {
        let suite = try #require(ESPSuite(rawValue: "aes128-\(hash.rawValue)"))
        let mac = MACContext(hash: hash, key: Secret([UInt8](repeating: 0x0b, count: suite.authenticationKeySize)))
        var packet = Array("Hi There".utf8) + [UInt8](repeating: 0, count: suite.icvSize)
        var span = packet.mutableSpan
        try mac.append(to: &span, over: 0..<8, count: suite.icvSize)
        #expect(hexadecimal(span.withUnsafeBufferPointer { [UInt8]($0[8...]) }) == code)
        // As if "Hi " and the rest were a packet and the upper half of its number.
        var cut = Array("Hi T".utf8) + [UInt8](repeating: 0, count: suite.icvSize)
        var cutSpan = cut.mutableSpan
        try mac.append(to: &cutSpan, over: 0..<4, high: 0x6865_7265, count: suite.icvSize)
        #expect(hexadecimal(cutSpan.withUnsafeBufferPointer { [UInt8]($0[4...]) }) == code)
        #expect(mac.isValid(in: &cutSpan, over: 0..<4, high: 0x6865_7265, count: suite.icvSize))
        #expect(!mac.isValid(in: &cutSpan, over: 0..<4, high: 0x6865_7266, count: suite.icvSize))
        #expect(!mac.isValid(in: &cutSpan, over: 0..<4, count: suite.icvSize))
    }

    // tests: RFC 7539 2.8.2 - the AEAD of RFC 7634, here with nonce and AAD of that document
    @Test func chacha20Poly1305() throws {
        let plain = Array(
            ("Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen "
                + "would be it.").utf8)
        let sealed = hex(
            """
            d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d63dbea45e8ca9671282fafb69da92728b
            1a71de0a9e060b2905d6a5b67ecd3b3692ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc
            3ff4def08e4b7a9de576d26586cec64b6116 1ae10b594f09e26a7e902ecbd0600691
            """)
        let aad = hex("50515253c0c1c2c3c4c5c6c7")
        let nonce = try #require(AEADNonce(hex("070000004041424344454647")))
        let key = Secret(0x80...0x9f)
        let cipher = try AEADCipher(.chacha20Poly1305, key: key, direction: .encrypt)
        let opener = try AEADCipher(.chacha20Poly1305, key: key, direction: .decrypt)
        // The AAD whole, and as what stands in a packet and the word between.
        for (present, high) in [(aad, nil), (Array(aad[..<4] + aad[8...]), 0xc0c1_c2c3)] as [([UInt8], UInt32?)] {
            var buffer = present + plain + [UInt8](repeating: 0, count: 16)
            let text = present.count..<present.count + plain.count
            var span = buffer.mutableSpan
            try cipher.seal(&span, aad: 0..<present.count, high: high, text: text, nonce: nonce)
            #expect(span.withUnsafeBufferPointer { [UInt8]($0[present.count...]) } == sealed)
            try opener.open(&span, aad: 0..<present.count, high: high, text: text, nonce: nonce)
            #expect(span.withUnsafeBufferPointer { [UInt8]($0[text]) } == plain)
        }
        #expect(throws: CryptographyError.unsupported) {
            _ = try AEADCipher(.chacha20Poly1305, key: key, tagSize: 8, direction: .encrypt)
        }
        #expect(throws: CryptographyError.malformedKey) {
            _ = try AEADCipher(.chacha20Poly1305, key: Secret(0..<16), direction: .encrypt)
        }
        #expect(throws: CryptographyError.unsupported) {
            _ = try AEADCipher(.aes128gcm, key: Secret(0..<16), tagSize: 4, direction: .encrypt)
        }
    }
}
