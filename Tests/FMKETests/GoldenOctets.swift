// SPDX-License-Identifier: Apache-2.0

/// The octets of `Golden`'s messages, field by field. They pin docs/FMKE.md: a change here is a change of the protocol.
enum GoldenOctets {
    /// CONFIGURE behind HASH: the chain that starts with PROFILE (133).
    static let configure = fields(
        """
        86 00 0014                   ; PROFILE: next payload 134, 20 octets
        0000000000000007             ; sequence = 7
        00000002                     ; generation = 2
        0000                         ; part = 0
        0001                         ; parts = 1
        01 00 0025                   ; MEMBERSHIP: next payload 1, 37 octets
        0000000a                     ; group = 10
        00000003                     ; member-index = 3
        0001                         ; sender-id = 1
        0001                         ; flags = 1
        0000000000000029             ; sequence = 41
        0000000000000005             ; transaction = 5
        04                           ; name-length = 4
        6e657773                     ; name = "news"
        11 00 010f                   ; SA: next payload 17, 271 octets
        00000002                     ; doi = 2
        00000000                     ; situation = 0
        000f                         ; next-attribute = 15
        0000                         ; reserved
        10 00 0045                   ; SAK: next payload 16, 69 octets
        11                           ; protocol = 17
        01 0000 04 c0000201          ; source: id type 1, port 0, 4 octets
        01 0350 04 efc00001          ; destination: id type 1, port 848, 4 octets
        a0a1a2a3a4a5a6a7a8a9aaabacadaeaf ; spi
        00000000                     ; reserved
        8002 0080                    ; algorithm (attribute 2) = 128
        0004 0004 00015180           ; lifetime (attribute 4) = 86400
        8005 0003                    ; hash (attribute 5) = 3
        8006 0004                    ; signature (attribute 6) = 4
        0080 0004 00000003           ; epoch (attribute 128) = 3
        10 00 003b                   ; SAT: next payload 16, 59 octets
        01                           ; protocol = 1
        11                           ; ip-protocol = 17
        04 0000 08 c6336400ffffff00  ; source: id type 4, port 0, 8 octets
        01 138c 04 ef010101          ; destination: id type 1, port 5004, 4 octets
        14                           ; transform = 20
        00001001                     ; spi = 00001001
        8001 0001                    ; seconds unit (attribute 1) = 1
        0002 0004 00000e10           ; seconds (attribute 2) = 3600
        8004 0001                    ; encapsulation (attribute 4) = 1
        8006 0100                    ; key-length (attribute 6) = 256
        800e 0003                    ; preservation (attribute 14) = 3
        800f 0003                    ; direction (attribute 15) = 3
        00 00 007f                   ; SAT: next payload 0, 127 octets
        01                           ; protocol = 1
        00                           ; ip-protocol = 0
        ; source: id type 6, port 0, 32 octets:
        06 0000 20 20010db8000000000000000000000000ffffffff000000000000000000000000
        05 0000 10 ff150000000000000000000000000001 ; destination: id type 5, port 0, 16 octets
        0c                           ; transform = 12
        00002001                     ; spi = 00002001
        8001 0001                    ; seconds unit (attribute 1) = 1
        0002 0004 00000e10           ; seconds (attribute 2) = 3600
        8001 0002                    ; kilobytes unit (attribute 1) = 2
        0002 0004 00100000           ; kilobytes (attribute 2) = 1048576
        8004 0001                    ; encapsulation (attribute 4) = 1
        8005 0005                    ; authentication (attribute 5) = 5
        8006 0080                    ; key-length (attribute 6) = 128
        800e 0003                    ; preservation (attribute 14) = 3
        800f 0002                    ; direction (attribute 15) = 2
        7d01 0004 000007d0           ; activate-in (attribute 32001) = 2000
        7d02 0004 00001b58           ; deactivate-in (attribute 32002) = 7000
        00 00 0112                   ; KD: next payload 0, 274 octets
        0003                         ; packets = 3
        0000                         ; reserved
        02                           ; packet 0 type = 2
        00                           ; packet 0 wrap = 0
        0098                         ; packet 0 length = 152
        10                           ; packet 0 spi-size = 16
        a0a1a2a3a4a5a6a7a8a9aaabacadaeaf ; packet 0 spi
        ; key (attribute 1):
        0001 0020 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f
        ; verifying-key (attribute 2):
        0002 005b 3059301306072a8648ce3d020106082a8648ce3d0301070342000460fed4ba255a9d31c961eb74c6356d68
        c049b8923b61fa6ce669622e60f29fb67903fe1008b8bc99a41ae9e95628bc64f2f1b20c2d7e9f5177a3c294d4462299
        01                           ; packet 1 type = 1
        00                           ; packet 1 wrap = 0
        0031                         ; packet 1 length = 49
        04                           ; packet 1 spi-size = 4
        00001001                     ; packet 1 spi = 00001001
        ; key (attribute 1):
        0001 0024 404142434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d5e5f60616263
        01                           ; packet 2 type = 1
        00                           ; packet 2 wrap = 0
        0041                         ; packet 2 length = 65
        04                           ; packet 2 spi-size = 4
        00002001                     ; packet 2 spi = 00002001
        0001 0010 707172737475767778797a7b7c7d7e7f ; key (attribute 1)
        ; integrity-key (attribute 2):
        0002 0020 808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f
        """)

    /// Its answer behind HASH: ACK/NACK (135), here a NACK.
    static let answer = fields(
        """
        00 00 0034                   ; ACK/NACK: next payload 0, 52 octets
        0000000000000007             ; sequence = 7
        0003                         ; count = 3
        0000                         ; reserved
        0000000a                     ; item 0 group = 10
        00000000                     ; item 0 spi = 0
        00                           ; item 0 code = 0
        000000                       ; item 0 reserved = 000000
        0000000a                     ; item 1 group = 10
        00001001                     ; item 1 spi = 4097
        01                           ; item 1 code = 1
        000000                       ; item 1 reserved = 000000
        0000000a                     ; item 2 group = 10
        00002001                     ; item 2 spi = 8193
        03                           ; item 2 code = 3
        000000                       ; item 2 reserved = 000000
        """)

    /// STATUS behind HASH: REPORT (138).
    static let status = fields(
        """
        00 00 0058                   ; REPORT: next payload 0, 88 octets
        000000000000000c             ; report = 12
        0002                         ; count = 2
        0000                         ; reserved
        0000000a                     ; group 0 id = 10
        00000003                     ; group 0 epoch = 3
        0000000000000005             ; group 0 complete = 5
        0000000000000029             ; group 0 sequence = 41
        0000                         ; group 0 flags = 0
        00                           ; group 0 missing-count = 0
        01                           ; group 0 spi-count = 1
        00001001                     ; group 0 spi 0 = 4097
        0000000b                     ; group 1 id = 11
        00000001                     ; group 1 epoch = 1
        0000000000000008             ; group 1 complete = 8
        0000000000000063             ; group 1 sequence = 99
        0001                         ; group 1 flags = 1
        01                           ; group 1 missing-count = 1
        00                           ; group 1 spi-count = 0
        0000000000000009             ; group 1 missing 0 transaction = 9
        0000                         ; group 1 missing 0 block = 0
        02                           ; group 1 missing 0 needed = 2
        00                           ; group 1 missing 0 reserved = 00
        """)

    /// The octets in clear of the first PUSH below.
    static let pushPrefix = fields(
        """
        a0a1a2a3a4a5a6a7a8a9aaabacadaeaf ; spi
        88                           ; next = 136
        10                           ; version = 16
        f1                           ; exchange = 241
        01                           ; flags = 1
        00000000                     ; message-id = 0
        00000150                     ; length = 336
        000000000000002a             ; sequence = 42
        """)

    /// PUSH, data, decrypted; signed with Ed25519, so every octet is determined.
    static let pushData = fields(
        """
        01 00 0044                   ; TRANSACTION: next payload 1, 68 octets
        01                           ; kind = 1
        01                           ; mode = 1
        00                           ; round = 0
        00                           ; reserved
        0000000a                     ; group = 10
        00000003                     ; epoch = 3
        0000000000000006             ; id = 6
        0000                         ; block = 0
        0001                         ; blocks = 1
        00                           ; index = 0
        01                           ; data = 1
        02                           ; datagrams = 2
        00                           ; reserved
        00000000                     ; first = 0
        00000063                     ; last = 99
        00005014                     ; slot = 20500
        000000fa                     ; answer-in = 250
        00000064                     ; slots = 100
        0001                         ; modulus = 1
        0000                         ; residue = 0
        04b0                         ; nack-wait = 1200
        ffff                         ; nack-share = 65535
        000007d0                     ; activate-in = 2000
        00001b58                     ; deactivate-in = 7000
        0c 00 004b                   ; SA: next payload 12, 75 octets
        00000002                     ; doi = 2
        00000000                     ; situation = 0
        0010                         ; next-attribute = 16
        0000                         ; reserved
        00 00 003b                   ; SAT: next payload 0, 59 octets
        01                           ; protocol = 1
        11                           ; ip-protocol = 17
        04 0000 08 c6336400ffffff00  ; source: id type 4, port 0, 8 octets
        01 138c 04 ef010101          ; destination: id type 1, port 5004, 4 octets
        14                           ; transform = 20
        00001002                     ; spi = 00001002
        8001 0001                    ; seconds unit (attribute 1) = 1
        0002 0004 00000e10           ; seconds (attribute 2) = 3600
        8004 0001                    ; encapsulation (attribute 4) = 1
        8006 0100                    ; key-length (attribute 6) = 256
        800e 0003                    ; preservation (attribute 14) = 3
        800f 0003                    ; direction (attribute 15) = 3
        11 00 0010                   ; Delete: next payload 17, 16 octets
        00000002                     ; doi = 2
        01                           ; protocol = 1
        04                           ; spi-size = 4
        0001                         ; count = 1
        00001001                     ; 0 = 00001001
        09 00 0039                   ; KD: next payload 9, 57 octets
        0001                         ; packets = 1
        0000                         ; reserved
        01                           ; packet 0 type = 1
        00                           ; packet 0 wrap = 0
        0031                         ; packet 0 length = 49
        04                           ; packet 0 spi-size = 4
        00001002                     ; packet 0 spi = 00001002
        ; key (attribute 1):
        0001 0024 404142434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d5e5f60616263
        00 00 0044                   ; SIG: next payload 0, 68 octets
        20d52e58884baab24404407157ead788e59f7ec60a07cf3996b279f742aeb98ab1dbcc9faa7f862fbdc999f30866dfde
        65daeb2128afa901167e4a985d89410a ; signature
        """)

    /// PUSH, parity of a block of one datagram, decrypted: the shard repeats the body.
    static let pushParity = fields(
        """
        89 00 0044                   ; TRANSACTION: next payload 137, 68 octets
        02                           ; kind = 2
        01                           ; mode = 1
        00                           ; round = 0
        00                           ; reserved
        0000000a                     ; group = 10
        00000003                     ; epoch = 3
        0000000000000006             ; id = 6
        0000                         ; block = 0
        0001                         ; blocks = 1
        01                           ; index = 1
        01                           ; data = 1
        02                           ; datagrams = 2
        00                           ; reserved
        00000000                     ; first = 0
        00000063                     ; last = 99
        00005014                     ; slot = 20500
        000000fa                     ; answer-in = 250
        00000064                     ; slots = 100
        0001                         ; modulus = 1
        0000                         ; residue = 0
        04b0                         ; nack-wait = 1200
        ffff                         ; nack-share = 65535
        000007d0                     ; activate-in = 2000
        00001b58                     ; deactivate-in = 7000
        09 00 009b                   ; PARITY: next payload 9, 155 octets
        0095010c00004b0000000200000000001000000000003b011104000008c6336400ffffff0001138c04ef010101140000
        1002800100010002000400000e108004000180060100800e0003800f0003110000100000000201040001000010010000
        00390001000001000031040000100200010024404142434445464748494a4b4c4d4e4f505152535455565758595a5b5c
        5d5e5f60616263 ; shard
        00 00 0044                   ; SIG: next payload 0, 68 octets
        a99ccc2e8e0421006604263fc46bf109741d73d8c64b9385d085d698b7b2fb83575dacf78b11c9f34be75d84ae9ca0e7
        9792492ba88bed333fdc0c265c81ae08 ; signature
        """)

    /// BEACON, decrypted.
    static let beacon = fields(
        """
        09 00 0044                   ; TRANSACTION: next payload 9, 68 octets
        03                           ; kind = 3
        00                           ; mode = 0
        00                           ; round = 0
        00                           ; reserved
        0000000a                     ; group = 10
        00000003                     ; epoch = 3
        0000000000000006             ; id = 6
        0000                         ; block = 0
        0001                         ; blocks = 1
        00                           ; index = 0
        01                           ; data = 1
        02                           ; datagrams = 2
        00                           ; reserved
        00000000                     ; first = 0
        00000063                     ; last = 99
        00000000                     ; slot = 0
        000000fa                     ; answer-in = 250
        00000000                     ; slots = 0
        0001                         ; modulus = 1
        0000                         ; residue = 0
        04b0                         ; nack-wait = 1200
        03e7                         ; nack-share = 999
        000007d0                     ; activate-in = 2000
        00001b58                     ; deactivate-in = 7000
        00 00 0044                   ; SIG: next payload 0, 68 octets
        a0ebb9211f3f14f4ea269a5c2096c6a8062079a3830f05119f1c846fc970c19fe4526ff6c5320fc13e600a6733261af5
        8483c1bb6b6fa8be9ee60d7ebb65d70b ; signature
        """)

    /// COMMIT, decrypted.
    static let commit = fields(
        """
        09 00 0044                   ; TRANSACTION: next payload 9, 68 octets
        04                           ; kind = 4
        01                           ; mode = 1
        00                           ; round = 0
        00                           ; reserved
        0000000a                     ; group = 10
        00000003                     ; epoch = 3
        0000000000000006             ; id = 6
        0000                         ; block = 0
        0001                         ; blocks = 1
        00                           ; index = 0
        01                           ; data = 1
        02                           ; datagrams = 2
        00                           ; reserved
        00000000                     ; first = 0
        00000063                     ; last = 99
        00005014                     ; slot = 20500
        000000fa                     ; answer-in = 250
        00000064                     ; slots = 100
        0001                         ; modulus = 1
        0000                         ; residue = 0
        04b0                         ; nack-wait = 1200
        ffff                         ; nack-share = 65535
        000001f4                     ; activate-in = 500
        00001b58                     ; deactivate-in = 7000
        00 00 0044                   ; SIG: next payload 0, 68 octets
        db5703a968b207e3ac88ca52310e1d316dea9a5c18e412b7f79d0eb202b34196664da226bb219726c8edc581dcd13055
        634d460344ed2f4313ac13af45d1f10d ; signature
        """)

    /// The whole BEACON as it travels.
    static let sealedBeacon = fields(
        """
        a0a1a2a3a4a5a6a7a8a9aaabacadaeaf8810f10100000000000000bc000000000000002cccf81930af155cc45dfa4f7ad2967b11
        f9672a5c8abac80890a7da58598aab6aeaca69b2dc48fbacdc6dff9d1c0c8fe803296c90c76e288e05d2f64edc828fd9116c7439
        520ea7042d854a22e549548413f71dfecb50390750425687e45bc12dac5629601089fb70faac56bf68d5db41de2321d638c1a1ed
        dc9cff326be122c27d75d8f1937a29e7baa4b8b95c13fb01e94d68dbb8d90a9b
        """)

    /// A whole PUSH signed with ECDSA on P-256, the key of RFC 6979 A.2.5: data, as `pushData`.
    static let sealedP256 = fields(
        """
        a0a1a2a3a4a5a6a7a8a9aaabacadaeaf8810f1010000000000000150000000000000002a31be32c749980a3978dfc04a15bd20cc
        5b6ba3c2adbc613cb7d9db773d5ae602b34407ebdcaedb7b58a47d74f6b50668f1a2941858d7f4729287aab5dca658d61a980649
        56f44dd7e24332322f4882060fda04356a6c58bd6a2dadc70a9561197e122c6f429accd17a9313184b93bf55bf4cba2dbe11ccd2
        b5446f35a99f873eea703d65b7f6da9442c5c3f6733dcb8dc2ce2aac1f39c43e478e67d13c5ed996e87f1d93d5fe499acfcc0ec6
        14b1f52d9eb45eabe06b9d76853e0a7139349bdc11fb7f1539a85c719b548e7c9faa3c48786cf729324d8a605b349cbcbf1c6012
        cd376e57ffb175332f68a58894c0c771dae4f8dc7b856b4f503a9f6d9ce75be5dba1271b6cdb4f8e5732af68a52859997a9f1af0
        93b60d63677138cd8473c23e0ff6f015f47b6dbbaf741467
        """)
}
