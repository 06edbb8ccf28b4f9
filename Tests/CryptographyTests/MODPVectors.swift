// SPDX-License-Identifier: Apache-2.0
import Cryptography

/// The MODP groups, computed from the formulas of RFC 2409 6 and RFC 3526 (pi by Machin's series) with big integers of
/// another language, and one exchange in each: scalars 1, 2, 3... and 101, 102, 103... with the highest bit set, of
/// `scalarSize` octets. Long numbers are compared by their SHA-256.
struct MODPVector: Sendable {
    let group: DHGroup
    let scalarSize: Int
    let prime: String
    let firstPublicDigest, secondPublicDigest, secretDigest: String

    static let all = [
        MODPVector(
            group: .modp768, scalarSize: 20,
            prime: """
                ffffffffffffffff c90fdaa22168c234 c4c6628b80dc1cd1 29024e088a67cc74 020bbea63b139b22 514a08798e3404dd
                ef9519b3cd3a431b 302b0a6df25f1437 4fe1356d6d51c245 e485b576625e7ec6 f44c42e9a63a3620 ffffffffffffffff
                """,
            firstPublicDigest: "e4613c07eda7d132c8f82c338170836f92298e2447f6e786020d46750a7ed814",
            secondPublicDigest: "98a79cdc5c7ba9029b4bfb4a94288ddf0cf5c9c3a38999b865cd833ea1cefd39",
            secretDigest: "51270d7f9235d9e70799b02140fd50fcbcf991627b05105946e7f8e2e16343a1"),
        MODPVector(
            group: .modp1024, scalarSize: 20,
            prime: """
                ffffffffffffffff c90fdaa22168c234 c4c6628b80dc1cd1 29024e088a67cc74 020bbea63b139b22 514a08798e3404dd
                ef9519b3cd3a431b 302b0a6df25f1437 4fe1356d6d51c245 e485b576625e7ec6 f44c42e9a637ed6b 0bff5cb6f406b7ed
                ee386bfb5a899fa5 ae9f24117c4b1fe6 49286651ece65381 ffffffffffffffff
                """,
            firstPublicDigest: "42aaa30040f653a18ea62316e716c71350c20a6da5eea0ca31b573e77fb927a3",
            secondPublicDigest: "5d906da71ae837da82df0db9b117e110f61e85926d43c033078264da3b070fb5",
            secretDigest: "a776f3bc76a888194cad8b1de0b98ce944c4fa323f7ef3aa93faea877e0259af"),
        MODPVector(
            group: .modp1536, scalarSize: 30,
            prime: """
                ffffffffffffffff c90fdaa22168c234 c4c6628b80dc1cd1 29024e088a67cc74 020bbea63b139b22 514a08798e3404dd
                ef9519b3cd3a431b 302b0a6df25f1437 4fe1356d6d51c245 e485b576625e7ec6 f44c42e9a637ed6b 0bff5cb6f406b7ed
                ee386bfb5a899fa5 ae9f24117c4b1fe6 49286651ece45b3d c2007cb8a163bf05 98da48361c55d39a 69163fa8fd24cf5f
                83655d23dca3ad96 1c62f356208552bb 9ed529077096966d 670c354e4abc9804 f1746c08ca237327 ffffffffffffffff
                """,
            firstPublicDigest: "31042507ffd146b3aad3c6c61890dc0f6d3aa94eb6e45591a5636870b72d19f5",
            secondPublicDigest: "7f3756c87263b5a49d5fda61ba0e50c0dcd71c6ca196f5b60b4937b5efaab24d",
            secretDigest: "397c4297124a97ea32dd386e43211a65b8c10553976139ef4ad3bcaea074fd1b"),
        MODPVector(
            group: .modp2048, scalarSize: 32,
            prime: """
                ffffffffffffffff c90fdaa22168c234 c4c6628b80dc1cd1 29024e088a67cc74 020bbea63b139b22 514a08798e3404dd
                ef9519b3cd3a431b 302b0a6df25f1437 4fe1356d6d51c245 e485b576625e7ec6 f44c42e9a637ed6b 0bff5cb6f406b7ed
                ee386bfb5a899fa5 ae9f24117c4b1fe6 49286651ece45b3d c2007cb8a163bf05 98da48361c55d39a 69163fa8fd24cf5f
                83655d23dca3ad96 1c62f356208552bb 9ed529077096966d 670c354e4abc9804 f1746c08ca18217c 32905e462e36ce3b
                e39e772c180e8603 9b2783a2ec07a28f b5c55df06f4c52c9 de2bcbf695581718 3995497cea956ae5 15d2261898fa0510
                15728e5a8aacaa68 ffffffffffffffff
                """,
            firstPublicDigest: "2979f3312e43f70a9714dcda49112b0b3dad685fff298b3ea59526fa863c5060",
            secondPublicDigest: "881c7806339bc5e04958d0925e9f6505aab6c12d66f41341fb0b54900f716969",
            secretDigest: "44016d42f2be1109ac7999c1352710766bae41f644745bc225bb58b2f23c709d"),
        MODPVector(
            group: .modp3072, scalarSize: 36,
            prime: """
                ffffffffffffffff c90fdaa22168c234 c4c6628b80dc1cd1 29024e088a67cc74 020bbea63b139b22 514a08798e3404dd
                ef9519b3cd3a431b 302b0a6df25f1437 4fe1356d6d51c245 e485b576625e7ec6 f44c42e9a637ed6b 0bff5cb6f406b7ed
                ee386bfb5a899fa5 ae9f24117c4b1fe6 49286651ece45b3d c2007cb8a163bf05 98da48361c55d39a 69163fa8fd24cf5f
                83655d23dca3ad96 1c62f356208552bb 9ed529077096966d 670c354e4abc9804 f1746c08ca18217c 32905e462e36ce3b
                e39e772c180e8603 9b2783a2ec07a28f b5c55df06f4c52c9 de2bcbf695581718 3995497cea956ae5 15d2261898fa0510
                15728e5a8aaac42d ad33170d04507a33 a85521abdf1cba64 ecfb850458dbef0a 8aea71575d060c7d b3970f85a6e1e4c7
                abf5ae8cdb0933d7 1e8c94e04a25619d cee3d2261ad2ee6b f12ffa06d98a0864 d87602733ec86a64 521f2b18177b200c
                bbe117577a615d6c 770988c0bad946e2 08e24fa074e5ab31 43db5bfce0fd108e 4b82d120a93ad2ca ffffffffffffffff
                """,
            firstPublicDigest: "7212ed4bc5e85ee0a9c2536ebb83fbde303f3030433baba3cdc656c9e068c4a9",
            secondPublicDigest: "c5334cf8922b4a169a40a25133f7f11ee6cc5fb60d72aaad0f46b75e5c83d17a",
            secretDigest: "41d54c7ba75bad40412cd72ef2a66f4bacacc3db5f350af580b97a0d23f4ae88"),
        MODPVector(
            group: .modp4096, scalarSize: 40,
            prime: """
                ffffffffffffffff c90fdaa22168c234 c4c6628b80dc1cd1 29024e088a67cc74 020bbea63b139b22 514a08798e3404dd
                ef9519b3cd3a431b 302b0a6df25f1437 4fe1356d6d51c245 e485b576625e7ec6 f44c42e9a637ed6b 0bff5cb6f406b7ed
                ee386bfb5a899fa5 ae9f24117c4b1fe6 49286651ece45b3d c2007cb8a163bf05 98da48361c55d39a 69163fa8fd24cf5f
                83655d23dca3ad96 1c62f356208552bb 9ed529077096966d 670c354e4abc9804 f1746c08ca18217c 32905e462e36ce3b
                e39e772c180e8603 9b2783a2ec07a28f b5c55df06f4c52c9 de2bcbf695581718 3995497cea956ae5 15d2261898fa0510
                15728e5a8aaac42d ad33170d04507a33 a85521abdf1cba64 ecfb850458dbef0a 8aea71575d060c7d b3970f85a6e1e4c7
                abf5ae8cdb0933d7 1e8c94e04a25619d cee3d2261ad2ee6b f12ffa06d98a0864 d87602733ec86a64 521f2b18177b200c
                bbe117577a615d6c 770988c0bad946e2 08e24fa074e5ab31 43db5bfce0fd108e 4b82d120a9210801 1a723c12a787e6d7
                88719a10bdba5b26 99c327186af4e23c 1a946834b6150bda 2583e9ca2ad44ce8 dbbbc2db04de8ef9 2e8efc141fbecaa6
                287c59474e6bc05d 99b2964fa090c3a2 233ba186515be7ed 1f612970cee2d7af b81bdd762170481c d0069127d5b05aa9
                93b4ea988d8fddc1 86ffb7dc90a6c08f 4df435c934063199 ffffffffffffffff
                """,
            firstPublicDigest: "079309ae7726a8ecd3e361455c09aa37b2250a7f5f811a2094f50d3d552916f8",
            secondPublicDigest: "56d733501aa0abc2b0189f4303bd0ec144816cb6355b9d61170f8f8bcf140a17",
            secretDigest: "39d645b8b2dd236c06b0ebdff256b4fc6f2e2bef2a3bc740b1361189aeeef017"),
    ]
}
