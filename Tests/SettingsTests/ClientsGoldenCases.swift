// SPDX-License-Identifier: Apache-2.0

extension GoldenCases {
    static let clients = [
        Case(
            "duplicate client name",
            replace: "  - name: site2",
            by: "  - name: site1",
            says: """
                gcks.yaml:10:11: clients[site1].name: site1 is the name of another client already (line 7); give \
                each client a name of its own
                """),
        Case(
            "duplicate client name in a range",
            replace: "[ship1, ship2]",
            by: "[ship1, site2]",
            says: """
                gcks.yaml:17:22: ranges[north].members[#2]: site2 is the name of another client already (line 10); \
                give each client a name of its own
                """),
        Case(
            "duplicate client address",
            replace: "address: 10.0.0.12",
            by: "address: 10.0.0.11",
            says: """
                gcks.yaml:11:14: clients[site2].address: 10.0.0.11 is the address of another client already (line \
                8); give each client its own address, or put them into a range
                """),
        Case(
            "client with the GCKS's address",
            replace: "address: 10.0.0.12",
            by: "address: 10.0.0.1",
            says: """
                gcks.yaml:11:14: clients[site2].address: 10.0.0.1 is the GCKS itself; write the client's own address
                """),
        Case(
            "client of another family",
            replace: "address: 10.0.0.12",
            by: "address: 2001:db8::12",
            says: """
                gcks.yaml:11:14: clients[site2].address: 2001:db8::12 is not of the GCKS's address family; write an \
                IPv4 address
                """),
        Case(
            "range with bits behind its length",
            replace: "10.0.1.0/24",
            by: "10.0.1.7/24",
            says: """
                gcks.yaml:15:16: ranges[north].addresses: 10.0.1.7/24 has bits set behind its length; write \
                10.0.1.0/24
                """),
        Case(
            "ranges that overlap",
            replace: """
                groups:

                """,
            by: """
                  - name: south
                    addresses: 10.0.0.0/16
                    psk-file: strong.psk
                    members: [ship3]
                groups:

                """,
            says: """
                gcks.yaml:19:16: ranges[south].addresses: 10.0.0.0/16 overlaps range north (10.0.1.0/24); give each \
                range addresses of its own
                """),
        Case(
            "two ranges of one name, one without members",
            replace: """
                groups:

                """,
            by: """
                  - name: north
                    addresses: 10.0.2.0/24
                    psk-file: strong.psk
                    members: []
                groups:

                """,
            says: """
                gcks.yaml:18:11: ranges[north].name: north is the name of another range already; give each range a \
                name of its own
                gcks.yaml:21:14: ranges[north].members: is empty; list the names of the range's clients
                """),
        Case(
            "range of another family",
            replace: "10.0.1.0/24",
            by: "2001:db8::/32",
            says: """
                gcks.yaml:15:16: ranges[north].addresses: 2001:db8::/32 is not of the GCKS's address family; write \
                an IPv4 subnet
                """),
        Case(
            "key in the file",
            replace: "psk: derived",
            by: "psk: correct-horse-battery-staple",
            says: """
                gcks.yaml:9:10: clients[site1].psk: a key does not stand in this file; write psk-file: FILE, or \
                psk: derived
                """),
        Case(
            "key and key file",
            replace: "psk: derived",
            by: """
                psk: derived
                    psk-file: strong.psk
                """,
            says: "gcks.yaml:9:10: clients[site1].psk: stands beside psk-file; keep one of the two"),
        Case(
            "no key",
            replace: """
                    psk: derived

                """,
            by: "",
            says: "gcks.yaml:7:5: clients[site1].psk-file: is missing; add psk-file: FILE, or psk: derived"),
        Case(
            "derived from nothing",
            replace: """
                provisioning-key-file: provisioning.key

                """,
            by: "",
            says: """
                gcks.yaml:8:10: clients[site1].psk: has nothing to derive from; add provisioning-key-file: at the \
                top of the file, or write psk-file: FILE here
                """),
        Case(
            "short key",
            replace: """
                    address: 10.0.0.12
                    psk-file: strong.psk
                """,
            by: """
                    address: 10.0.0.12
                    psk-file: short.psk
                """,
            says: """
                gcks.yaml:12:15: clients[site2].psk-file: the key in short.psk is shorter than 16 octets; make one \
                with openssl rand -hex 32, or set legacy: true
                """),
        Case(
            "key that can be guessed",
            replace: """
                    address: 10.0.0.12
                    psk-file: strong.psk
                """,
            by: """
                    address: 10.0.0.12
                    psk-file: words.psk
                """,
            says: """
                gcks.yaml:12:15: clients[site2].psk-file: the key in words.psk can be guessed (under 128 bits); \
                make one with openssl rand -hex 32, or set legacy: true
                """),
        Case(
            "empty key",
            replace: """
                    address: 10.0.0.12
                    psk-file: strong.psk
                """,
            by: """
                    address: 10.0.0.12
                    psk-file: empty.psk
                """,
            says: """
                gcks.yaml:12:15: clients[site2].psk-file: empty.psk is empty; make one with openssl rand -hex 32
                """),
        Case(
            "key with DOS line end",
            replace: """
                    address: 10.0.0.12
                    psk-file: strong.psk
                """,
            by: """
                    address: 10.0.0.12
                    psk-file: dos.psk
                """,
            says: """
                gcks.yaml:12:15: clients[site2].psk-file: dos.psk has more than one line; keep the key alone in it, \
                with LF as its line end
                """),
        Case(
            "key that everyone can read",
            replace: """
                    address: 10.0.0.12
                    psk-file: strong.psk
                """,
            by: """
                    address: 10.0.0.12
                    psk-file: open.psk
                """,
            says: """
                gcks.yaml:12:15: clients[site2].psk-file: everyone on this machine has access to open.psk (mode \
                0644); run chmod 600 on it, and consider the secret known
                """),
        Case(
            "key file that is not there",
            replace: """
                    address: 10.0.0.12
                    psk-file: strong.psk
                """,
            by: """
                    address: 10.0.0.12
                    psk-file: none.psk
                """,
            says: """
                gcks.yaml:12:15: clients[site2].psk-file: cannot read none.psk: No such file or directory; name a \
                file that this user may read
                """),
        Case(
            "key file that is a folder",
            replace: """
                    address: 10.0.0.12
                    psk-file: strong.psk
                """,
            by: """
                    address: 10.0.0.12
                    psk-file: .
                """,
            says: "gcks.yaml:12:15: clients[site2].psk-file: . is not a regular file; name a file"),
        Case(
            "key file that is too long",
            replace: """
                    address: 10.0.0.12
                    psk-file: strong.psk
                """,
            by: """
                    address: 10.0.0.12
                    psk-file: long.psk
                """,
            says: """
                gcks.yaml:12:15: clients[site2].psk-file: long.psk has 5000 octets, more than 4096; name the right \
                file
                """),
        Case(
            "weak provisioning key",
            replace: "provisioning-key-file: provisioning.key",
            by: "provisioning-key-file: words.psk",
            says: """
                gcks.yaml:5:24: provisioning-key-file: the key in words.psk can be guessed (under 128 bits); make \
                one with openssl rand -hex 32
                """),
        Case(
            "signing key that is none",
            replace: "signing-key-file: signing-key.pem",
            by: "signing-key-file: strong.psk",
            says: """
                gcks.yaml:4:19: signing-key-file: strong.psk holds no private key that can sign here; make one with \
                gcks init, or openssl genpkey -algorithm ed25519
                """),
        Case(
            "signing key that is not there",
            replace: "signing-key-file: signing-key.pem",
            by: "signing-key-file: keys/none.pem",
            says: """
                gcks.yaml:4:19: signing-key-file: cannot read keys/none.pem: No such file or directory; name a file \
                that this user may read
                """),
        Case(
            "not a suite",
            replace: "satellite-interface: sat0",
            by: """
                satellite-interface: sat0
                phase1: {suites: [aes256-sha256-modp9]}
                """,
            says: """
                gcks.yaml:4:19: phase1.suites[#1]: "aes256-sha256-modp9" is not a phase 1 suite; write \
                encryption-hash-group, for example aes256-sha256-ecp256
                """),
        Case(
            "weak suite",
            replace: "satellite-interface: sat0",
            by: """
                satellite-interface: sat0
                phase1: {suites: [aes256-sha256-ecp256, des-md5-modp768]}
                """,
            says: """
                gcks.yaml:4:41: phase1.suites[#2]: des-md5-modp768 is weak (DES, Blowfish, MD5 and MODP-768 are); \
                write aes256-sha256-ecp256, or set legacy: true beside it
                """),
        Case(
            "weak suite of a client",
            replace: """
                    address: 10.0.0.12

                """,
            by: """
                    address: 10.0.0.12
                    suites: [3des-md5-modp1024]

                """,
            says: """
                gcks.yaml:12:14: clients[site2].suites[#1]: 3des-md5-modp1024 is weak (DES, Blowfish, MD5 and \
                MODP-768 are); write aes256-sha256-ecp256, or set legacy: true beside it
                """),
        Case(
            "suites twice or none",
            replace: """
                    address: 10.0.0.12

                """,
            by: """
                    address: 10.0.0.12
                    suites: [aes128-sha1-modp2048, aes128-sha1-modp2048]

                """,
            says: """
                gcks.yaml:12:36: clients[site2].suites[#2]: aes128-sha1-modp2048 is in this list already; remove \
                one of the two
                """),
        Case(
            "no suites",
            replace: "satellite-interface: sat0",
            by: """
                satellite-interface: sat0
                phase1: {suites: []}
                """,
            says: "gcks.yaml:4:18: phase1.suites: is empty; leave it out, or write aes256-sha256-ecp256"),
    ]
}
