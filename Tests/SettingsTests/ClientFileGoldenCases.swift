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
            "bypass of everything",
            replace: "name: site1",
            by: """
                name: site1
                policy:
                  - {action: bypass, source: any, destination: any}
                """,
            says: """
                satipsec.yaml:3:48: policy[bypass].destination: would let everything pass in clear; write the host \
                or subnet that needs it
                """),
        Case(
            "bypass of a multicast",
            replace: "name: site1",
            by: """
                name: site1
                policy:
                  - {action: bypass, source: any, destination: 239.1.1.1}
                """,
            says: """
                satipsec.yaml:3:48: policy[bypass].destination: 239.1.1.1/32 holds multicasts, which go through the \
                tunnel or not at all; write a unicast host or subnet
                """),
        Case(
            "bypass of half of everything",
            replace: "name: site1",
            by: """
                name: site1
                policy:
                  - {action: bypass, source: any, destination: 128.0.0.0/1}
                """,
            says: """
                satipsec.yaml:3:48: policy[bypass].destination: 128.0.0.0/1 holds multicasts, which go through the \
                tunnel or not at all; write a unicast host or subnet
                """),
        Case(
            "unknown action",
            replace: "name: site1",
            by: """
                name: site1
                policy:
                  - {action: pass, source: any, destination: 10.0.0.1}
                """,
            says: """
                satipsec.yaml:3:14: policy[pass].action: "pass" is not known here; did you mean bypass?
                """),
        Case(
            "policy of two families",
            replace: "name: site1",
            by: """
                name: site1
                policy:
                  - {action: discard, source: 10.0.0.0/8, destination: ff18::1}
                """,
            says: """
                satipsec.yaml:3:31: policy[discard].source: is not of the destination's address family; write both \
                as IPv4 or both as IPv6
                """),
        Case(
            "policy with a port and no protocol",
            replace: "name: site1",
            by: """
                name: site1
                policy:
                  - {action: discard, source: any, destination: any, destination-port: 80}
                """,
            says: """
                satipsec.yaml:3:72: policy[discard].destination-port: stands beside a protocol that has no ports; \
                add protocol: udp, or remove it
                """),
        Case(
            "policy without destination",
            replace: "name: site1",
            by: """
                name: site1
                policy:
                  - {action: discard, source: any}
                """,
            says: """
                satipsec.yaml:3:5: policy[discard].destination: is missing; add destination: to this mapping
                """),
        Case(
            "a rule that is never reached",
            replace: "name: site1",
            by: """
                name: site1
                policy:
                  - {action: discard, source: any, destination: 239.0.0.0/8}
                  - {action: protect, source: 10.0.0.0/8, destination: 239.1.1.1, protocol: udp}
                """,
            says: """
                satipsec.yaml:4:5: policy[protect]: is never reached: line 3 decides about all it names; put it \
                before that line, or remove it
                """),
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
                phase1, satellite-interface, terrestrial-interface, data-plane, tunnel-interface, link-mtu, \
                control-socket, guard, mss-clamp, dscp, outer-df, packet-path, retry, policy
                """),
        Case(
            "DSCP that is none",
            replace: "name: site1",
            by: "name: site1\ndscp: 64",
            says: """
                satipsec.yaml:2:7: dscp: "64" is not a DSCP; write copy, or a number from 0 to 63
                """),
        Case(
            "DF that a kernel back end does not do",
            replace: "name: site1",
            by: "name: site1\ndata-plane: xfrm\nouter-df: set",
            says: """
                satipsec.yaml:3:11: outer-df: is not done by data-plane: xfrm; write data-plane: userspace, \
                or outer-df: copy
                """),
    ]
}
