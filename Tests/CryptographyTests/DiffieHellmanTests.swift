// SPDX-License-Identifier: Apache-2.0
import Basics
import Cryptography
import Testing

struct ECPVector: Sendable {
    let group: DHGroup
    let i, gi, r, gr, secret: String
}

// tests: RFC 5903 8.1 to 8.3
private let ecpVectors = [
    ECPVector(
        group: .ecp256, i: "c88f01f510d9ac3f70a292daa2316de544e9aab8afe84049c62a9c57862d1433",
        gi: """
            dad0b65394221cf9b051e1feca5787d098dfe637fc90b9ef945d0c3772581180
            5271a0461cdb8252d61f1c456fa3e59ab1f45b33accf5f58389e0577b8990bb3
            """,
        r: "c6ef9c5d78ae012a011164acb397ce2088685d8f06bf9be0b283ab46476bee53",
        gr: """
            d12dfb5289c8d4f81208b70270398c342296970a0bccb74c736fc7554494bf63
            56fbf3ca366cc23e8157854c13c58d6aac23f046ada30f8353e74f33039872ab
            """,
        secret: "d6840f6b42f6edafd13116e0e12565202fef8e9ece7dce03812464d04b9442de"),
    ECPVector(
        group: .ecp384,
        i: "099f3c7034d4a2c699884d73a375a67f7624ef7c6b3c0f160647b67414dce655e35b538041e649ee3faef896783ab194",
        gi: """
            667842d7d180ac2cde6f74f37551f55755c7645c20ef73e31634fe72b4c55ee6de3ac808acb4bdb4c88732aee95f41aa
            9482ed1fc0eeb9cafc4984625ccfc23f65032149e0e144ada024181535a0f38eeb9fcff3c2c947dae69b4c634573a81c
            """,
        r: "41cb0779b4bdb85d47846725fbec3c9430fab46cc8dc5060855cc9bda0aa2942e0308312916b8ed2960e4bd55a7448fc",
        gr: """
            e558dbef53eecde3d3fccfc1aea08a89a987475d12fd950d83cfa41732bc509d0d1ac43a0336def96fda41d0774a3571
            dcfbec7aacf3196472169e838430367f66eebe3c6e70c416dd5f0c68759dd1fff83fa40142209dff5eaad96db9e6386c
            """,
        secret: "11187331c279962d93d604243fd592cb9d0a926f422e47187521287e7156c5c4d603135569b9e9d09cf5d4a270f59746"),
    ECPVector(
        group: .ecp521,
        i: """
            0037ade9319a89f4dabdb3ef411aaccca5123c61acab57b5393dce47608172a095aa85a30fe1c2952c6771d937ba9777
            f5957b2639bab072462f68c27a57382d4a52
            """,
        gi: """
            0015417e84dbf28c0ad3c278713349dc7df153c897a1891bd98bab4357c9ecbee1e3bf42e00b8e380aeae57c2d107564
            941885942af5a7f4601723c4195d176ced3e
            017cae20b6641d2eeb695786d8c946146239d099e18e1d5a514c739d7cb4a10ad8a788015ac405d7799dc75e7b7d5b6c
            f2261a6a7f1507438bf01beb6ca3926f9582
            """,
        r: """
            0145ba99a847af43793fdd0e872e7cdfa16be30fdc780f97bccc3f078380201e9c677d600b343757a3bdbf2a3163e4c2
            f869cca7458aa4a4effc311f5cb151685eb9
            """,
        gr: """
            00d0b3975ac4b799f5bea16d5e13e9af971d5e9b984c9f39728b5e5739735a219b97c356436adc6e95bb0352f6be64a6
            c2912d4ef2d0433ced2b6171640012d9460f
            015c68226383956e3bd066e797b623c27ce0eac2f551a10c2c724d9852077b87220b6536c5c408a1d2aebb8e86d678ae
            49cb57091f4732296579ab44fcd17f0fc56a
            """,
        secret: """
            01144c7d79ae6956bc8edb8e7c787c4521cb086fa64407f97894e5e6b2d79b04d1427e73ca4baa240a34786859810c06
            b3c715a3a8cc3151f2bee417996d19f3ddea
            """),
]

@Suite struct DiffieHellmanTests {
    @Test(arguments: ecpVectors)
    func curvesOfRFC5903(vector: ECPVector) throws {
        let initiator = try vector.group.generateKey(random: FixedRandom(hex(vector.i)))
        let responder = try vector.group.generateKey(random: FixedRandom(hex(vector.r)))
        #expect(initiator.publicValue == hex(vector.gi))
        #expect(responder.publicValue == hex(vector.gr))
        #expect(try initiator.sharedSecret(with: responder.publicValue) == Secret(hex(vector.secret)))
        #expect(try responder.sharedSecret(with: initiator.publicValue) == Secret(hex(vector.secret)))
    }

    // tests: RFC 7748 6.1
    @Test func curve25519() throws {
        let alice = try DHGroup.curve25519.generateKey(
            random: FixedRandom(hex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")))
        let bob = try DHGroup.curve25519.generateKey(
            random: FixedRandom(hex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")))
        #expect(hexadecimal(alice.publicValue) == "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")
        #expect(hexadecimal(bob.publicValue) == "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")
        let secret = Secret(hex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"))
        #expect(try alice.sharedSecret(with: bob.publicValue) == secret)
        #expect(try bob.sharedSecret(with: alice.publicValue) == secret)
    }

    @Test(arguments: MODPVector.all)
    func safePrimeGroups(vector: MODPVector) throws {
        func scalar(from start: UInt8) -> FixedRandom { FixedRandom((0..<64).map { start + $0 }) }
        func digest(_ octets: [UInt8]) -> String { hexadecimal(HashAlgorithm.sha256.digest(octets)) }
        let first = try vector.group.generateKey(random: scalar(from: 1))
        let second = try vector.group.generateKey(random: scalar(from: 101))
        #expect(digest(first.publicValue) == vector.firstPublicDigest)
        #expect(digest(second.publicValue) == vector.secondPublicDigest)
        #expect(digest(try first.sharedSecret(with: second.publicValue).revealed()) == vector.secretDigest)
        #expect(digest(try second.sharedSecret(with: first.publicValue).revealed()) == vector.secretDigest)
    }

    @Test(arguments: DHGroup.allCases)
    func aSeedReplaysAnExchange(group: DHGroup) throws {
        let first = try group.generateKey(random: SeededRandom(seed: 7))
        let again = try group.generateKey(random: SeededRandom(seed: 7))
        let other = try group.generateKey(random: SeededRandom(seed: 8))
        #expect(first.publicValue == again.publicValue && first.publicValue != other.publicValue)
        #expect(first.publicValue.count == group.publicValueSize)
        let secret = try first.sharedSecret(with: other.publicValue)
        #expect(try other.sharedSecret(with: again.publicValue) == secret)
    }

    @Test(arguments: MODPVector.all)
    func numbersWithoutAGroupAreRefused(vector: MODPVector) throws {
        let prime = hex(vector.prime)
        #expect(prime.count == vector.group.publicValueSize)
        func minus(_ subtrahend: UInt8) -> [UInt8] { prime.dropLast() + [prime[prime.count - 1] - subtrahend] }
        let zeros = [UInt8](repeating: 0, count: prime.count - 1)
        let key = try vector.group.generateKey(random: SeededRandom(seed: 1))
        for bad in [zeros + [0], zeros + [1], minus(1), prime, [UInt8](repeating: 0xff, count: prime.count)] {
            #expect(throws: CryptographyError.invalidPublicValue) { try key.sharedSecret(with: bad) }
        }
        // The neighbours of what is refused are members.
        #expect(try key.sharedSecret(with: zeros + [2]).revealed() == key.publicValue)
        _ = try key.sharedSecret(with: minus(2))
    }

    @Test(arguments: DHGroup.allCases)
    func wrongLengthsAreRefused(group: DHGroup) throws {
        let key = try group.generateKey(random: SeededRandom(seed: 1))
        let good = try group.generateKey(random: SeededRandom(seed: 2)).publicValue
        for bad in [[], [5], [UInt8](good.dropLast()), [UInt8](good.dropFirst()), [0] + good, good + [0], good + good] {
            #expect(throws: CryptographyError.invalidPublicValue) { try key.sharedSecret(with: bad) }
        }
    }

    @Test(arguments: [DHGroup.ecp256, .ecp384, .ecp521])
    func pointsOffTheCurveAreRefused(group: DHGroup) throws {
        let key = try group.generateKey(random: SeededRandom(seed: 1))
        let good = try group.generateKey(random: SeededRandom(seed: 2)).publicValue
        let size = good.count
        var bad = [[UInt8](repeating: 0, count: size), [UInt8](repeating: 0xff, count: size)]
        bad.append([UInt8](good[(size / 2)...] + good[..<(size / 2)]))  // y | x
        for index in 0..<size {
            var changed = good
            changed[index] ^= 1
            bad.append(changed)
        }
        for point in bad {
            #expect(throws: CryptographyError.invalidPublicValue) { try key.sharedSecret(with: point) }
        }
    }

    @Test func coordinatesAreNotTakenModuloThePrime() throws {
        // x = 0 is on P-256 for a y whose square is b; (p, y) is the same point to who reduces.
        let y = "66485c780e2f83d72433bd5d84a06bb6541c2af31dae871728bf856a174f93f4"
        let key = try DHGroup.ecp256.generateKey(random: SeededRandom(seed: 1))
        _ = try key.sharedSecret(with: [UInt8](repeating: 0, count: 32) + hex(y))
        let p = "ffffffff00000001000000000000000000000000ffffffffffffffffffffffff"
        #expect(throws: CryptographyError.invalidPublicValue) { try key.sharedSecret(with: hex(p + y)) }
    }

    // tests: RFC 7748 6.1 and 7 - values of small order give zeros and are refused
    @Test(arguments: [
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    ])
    func smallOrders(value: String) throws {
        let key = try DHGroup.curve25519.generateKey(random: SeededRandom(seed: 1))
        #expect(throws: CryptographyError.invalidPublicValue) { try key.sharedSecret(with: hex(value)) }
    }

    @Test func aSourceThatGivesNoScalarFails() {
        for octet: UInt8 in [0, 0xff] {
            #expect(throws: CryptographyError.failed) {
                try DHGroup.ecp256.generateKey(random: FixedRandom([octet]))
            }
        }
    }
}
