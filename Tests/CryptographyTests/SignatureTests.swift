// SPDX-License-Identifier: Apache-2.0
import Basics
import Cryptography
import Testing

/// PKCS #8 and SubjectPublicKeyInfo of Ed25519 are fixed prefixes before the 32 octets (RFC 8410).
private func ed25519PEM(_ seed: [UInt8]) -> [UInt8] {
    let der = hex("302e020100300506032b657004220420") + seed
    let alphabet = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".utf8)
    var text: [UInt8] = []
    for start in stride(from: 0, to: der.count, by: 3) {  // 48 octets: no padding
        let word = Int(der[start]) << 16 | Int(der[start + 1]) << 8 | Int(der[start + 2])
        for shift in [18, 12, 6, 0] { text.append(alphabet[word >> shift & 63]) }
    }
    return Array("-----BEGIN PRIVATE KEY-----\n".utf8) + text + Array("\n-----END PRIVATE KEY-----\n".utf8)
}

@Suite struct SignatureTests {
    // tests: RFC 8032 7.1, tests 1 to 3
    @Test(arguments: [
        (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a", "",
            """
            e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155
            5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b
            """
        ),
        (
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c", "72",
            """
            92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da
            085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00
            """
        ),
        (
            "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
            "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025", "af82",
            """
            6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac
            18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a
            """
        ),
    ])
    func ed25519(seed: String, publicKey: String, message: String, signature: String) throws {
        let key = try SigningKey(pem: ed25519PEM(hex(seed)))
        #expect(key.algorithm == .ed25519)
        #expect(key.publicKey == hex("302a300506032b6570032100") + hex(publicKey))
        #expect(try key.sign(hex(message)) == hex(signature))
        let verifier = try VerifyingKey(der: key.publicKey, algorithm: .ed25519)
        #expect(verifier.isValid(hex(signature), for: hex(message)))
        #expect(!verifier.isValid(hex(signature), for: hex(message) + [0]))
    }

    // tests: RFC 4754 8.1 - ECDSA-256, r | s
    @Test func ecdsaOfRFC4754() throws {
        let x = "2442a5cc0ecd015fa3ca31dc8e2bbc70bf42d60cbca20085e0822cb04235e970"
        let y = "6fc98bd7e50211a4a27102fa3549df79ebcb4bf246b80945cddfe7d509bbfd7d"
        let der = hex("3059301306072a8648ce3d020106082a8648ce3d030107034200" + "04" + x + y)
        let verifier = try VerifyingKey(der: der, algorithm: .ecdsaP256)
        let signature = hex(
            """
            cb28e0999b9c7715fd0a80d8e47a77079716cbbf917dd72e97566ea1c066957c
            86fa3bb4e26cad5bf90b7f81899256ce7594bb1ea0c89212748bff3b3d5b0315
            """)
        #expect(verifier.isValid(signature, for: Array("abc".utf8)))
        #expect(!verifier.isValid(signature, for: Array("abd".utf8)))
    }

    @Test(arguments: SignatureAlgorithm.allCases)
    func signaturesVerifyAndChangesDoNot(algorithm: SignatureAlgorithm) throws {
        let key = try SigningKey.generate(algorithm)
        let verifier = try VerifyingKey(der: key.publicKey, algorithm: algorithm)
        let message = Array("one transaction of a group".utf8)
        let signature = try key.sign(message)
        #expect(key.algorithm == algorithm && signature.count == algorithm.signatureSize)
        #expect(verifier.isValid(signature, for: message))
        #expect(verifier.isValid(try key.sign([]), for: []))
        for bit in 0..<signature.count * 8 {
            var changed = signature
            changed[bit / 8] ^= 1 << UInt8(bit % 8)
            #expect(!verifier.isValid(changed, for: message), "bit \(bit)")
        }
        for index in message.indices {
            var changed = message
            changed[index] ^= 0x20
            #expect(!verifier.isValid(signature, for: changed))
        }
        for wrong in [
            [], [0], [UInt8](signature.dropLast()), signature + [0], signature + signature,
            [UInt8](repeating: 0, count: signature.count), [UInt8](repeating: 0xff, count: signature.count),
        ] {
            #expect(!verifier.isValid(wrong, for: message))
        }
        let stranger = try SigningKey.generate(algorithm)
        #expect(!verifier.isValid(try stranger.sign(message), for: message))
    }

    @Test func ecdsaKeepsItsWidth() throws {
        // One signature in 128 has an r or s with a leading zero octet, which DER drops.
        let key = try SigningKey.generate(.ecdsaP256)
        let verifier = try VerifyingKey(der: key.publicKey, algorithm: .ecdsaP256)
        var leadingZeros = 0
        for number in 0..<2_000 {
            let message = [UInt8(number & 0xff), UInt8(number >> 8)]
            let signature = try key.sign(message)
            if signature[0] == 0 || signature[32] == 0 {
                leadingZeros += 1
                #expect(verifier.isValid(signature, for: message))
            }
            #expect(signature.count == 64)
        }
        #expect(leadingZeros > 0)
    }

    @Test(arguments: SignatureAlgorithm.allCases)
    func keysSurviveTheirFile(algorithm: SignatureAlgorithm) throws {
        let key = try SigningKey.generate(algorithm)
        let pem = try key.pem().revealed()
        #expect(String(decoding: pem, as: UTF8.self).hasPrefix("-----BEGIN PRIVATE KEY-----\n"))
        let again = try SigningKey(pem: pem)
        #expect(again.algorithm == algorithm && again.publicKey == key.publicKey)
        let verifier = try VerifyingKey(der: key.publicKey, algorithm: algorithm)
        #expect(verifier.isValid(try again.sign([1, 2, 3]), for: [1, 2, 3]))
        for other in SignatureAlgorithm.allCases where other != algorithm {
            #expect(throws: CryptographyError.unsupported) {
                try VerifyingKey(der: key.publicKey, algorithm: other)
            }
        }
        for size in stride(from: 0, to: pem.count - 30, by: 7) {
            #expect(throws: CryptographyError.self) { try SigningKey(pem: [UInt8](pem.prefix(size))) }
        }
        for size in 0..<key.publicKey.count {
            #expect(throws: CryptographyError.self) {
                try VerifyingKey(der: [UInt8](key.publicKey.prefix(size)), algorithm: algorithm)
            }
        }
        #expect(throws: CryptographyError.malformedKey) {
            try VerifyingKey(der: key.publicKey + [0], algorithm: algorithm)
        }
    }

    @Test func keysOfNoUseAreRefused() throws {
        // P-384, and X25519, which signs nothing (both made with openssl genpkey)
        let p384 = """
            -----BEGIN PRIVATE KEY-----
            MIG2AgEAMBAGByqGSM49AgEGBSuBBAAiBIGeMIGbAgEBBDD71+fl++QxOMBDbzgS
            D5eB2A+UmaAkjhPNHGS3RRH14EqL5w6QCzmRZwkc2O78BwuhZANiAAQvYatklHU7
            LSJ3KbJChoQx7n9XtCRhQOOJRxMCCcpoyMq12QX3h7etGWsFl3kRHrR0s+5cd8W1
            ca5j3OUmsigd6sZK/26entTaAMT2cScdBYs4fD8zFqe/ZSEkJ4rcnx0=
            -----END PRIVATE KEY-----

            """
        #expect(throws: CryptographyError.unsupported) { try SigningKey(pem: Array(p384.utf8)) }
        let x25519 = """
            -----BEGIN PRIVATE KEY-----
            MC4CAQAwBQYDK2VuBCIEIBBpIN4bsQpsk1fm5RVq+B/Xx1ofGcPxKsIFYIE7Rv1e
            -----END PRIVATE KEY-----

            """
        #expect(throws: CryptographyError.unsupported) { try SigningKey(pem: Array(x25519.utf8)) }
        // Encrypted: refused, not asked for on the terminal
        let encrypted = """
            -----BEGIN ENCRYPTED PRIVATE KEY-----
            MIGbMFcGCSqGSIb3DQEFDTBKMCkGCSqGSIb3DQEFDDAcBAgFd8usfgzBawICCAAw
            DAYIKoZIhvcNAgkFADAdBglghkgBZQMEAQIEEF8ZzOVTnQnVea4t41puKOUEQEWz
            bKLdGJ1ff8EhQ/6wRqKS1uIf/EyzE3rnKDejwQ+bSE4j2S5Y71PhcfInQSQWIysQ
            +VoRf9J54ri111PaF8w=
            -----END ENCRYPTED PRIVATE KEY-----

            """
        #expect(throws: CryptographyError.malformedKey) { try SigningKey(pem: Array(encrypted.utf8)) }
        for text in ["", "x", "-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n"] {
            #expect(throws: CryptographyError.malformedKey) { try SigningKey(pem: Array(text.utf8)) }
        }
    }
}
