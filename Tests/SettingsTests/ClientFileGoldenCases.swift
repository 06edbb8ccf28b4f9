// SPDX-License-Identifier: Apache-2.0

extension GoldenCases {
    static let clientFile = [
        Case(
            "missing GCKS",
            replace: """
                gcks:
                  address: 10.0.0.1
                  identity: hub

                """,
            by: "",
            says: "satipsec.yaml:1:1: gcks: is missing; add gcks: to this mapping"),
        Case(
            "missing parts",
            replace: """
                name: site1

                """,
            by: "",
            says: "satipsec.yaml:1:1: name: is missing; add name: to this mapping"),
        Case(
            "GCKS without identity",
            replace: """
                  identity: hub

                """,
            by: "",
            says: "satipsec.yaml:3:3: gcks.identity: is missing; add identity: to this mapping"),
        Case(
            "unknown guard",
            replace: "name: site1",
            by: """
                name: site1
                guard: of
                """,
            says: "satipsec.yaml:2:8: guard: \"of\" is not known here; did you mean off?"),
        Case(
            "MTU out of range",
            replace: "name: site1",
            by: """
                name: site1
                link-mtu: 64
                """,
            says: """
                satipsec.yaml:2:11: link-mtu: "64" is not a whole number from 576 to 9000; write digits, within \
                these bounds
                """),
        Case(
            "one interface for both sides",
            replace: "lan0",
            by: "sat0",
            says: """
                satipsec.yaml:7:24: terrestrial-interface: sat0 is the satellite-interface; name three different \
                interfaces
                """),
        Case(
            "tunnel interface that exists",
            replace: "name: site1",
            by: """
                name: site1
                tunnel-interface: sat0
                """,
            says: """
                satipsec.yaml:2:19: tunnel-interface: sat0 is another interface of this file; name an interface \
                that the client may make, for example tun0
                """),
        Case(
            "address of another family",
            replace: "name: site1",
            by: """
                name: site1
                address: 2001:db8::1
                """,
            says: """
                satipsec.yaml:2:10: address: 2001:db8::1 is not of the GCKS's address family; write an IPv4 address
                """),
        Case(
            "address of the GCKS",
            replace: "name: site1",
            by: """
                name: site1
                address: 10.0.0.1
                """,
            says: "satipsec.yaml:2:10: address: 10.0.0.1 is the GCKS itself; write the client's own address"),
        Case(
            "most below first",
            replace: "name: site1",
            by: """
                name: site1
                retry: {first: 10s, most: 5s}
                """,
            says: "satipsec.yaml:2:27: retry.most: 5s is shorter than first; write at least 10s"),
        Case(
            "GCKS's ports",
            replace: "  identity: hub",
            by: """
                  identity: hub
                  port: 4500
                """,
            says: "satipsec.yaml:3:3: gcks.nat-port: is the same as port; write 4500, or what gcks.yaml says"),
        Case(
            "weak key",
            replace: "psk-file: strong.psk",
            by: "psk-file: words.psk",
            says: """
                satipsec.yaml:5:11: psk-file: the key in words.psk can be guessed (under 128 bits); make one with \
                openssl rand -hex 32, or set phase1.legacy: true
                """),
        Case(
            "server's key in a client's file",
            replace: "name: site1",
            by: """
                name: site1
                groups: []
                """,
            says: """
                satipsec.yaml:2:1: groups: is not a known key; known here are name, gcks, address, psk-file, \
                phase1, satellite-interface, terrestrial-interface, tunnel-interface, link-mtu, control-socket, \
                guard, retry
                """),
    ]
}
