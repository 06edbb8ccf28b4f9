// SPDX-License-Identifier: Apache-2.0

extension GoldenCases {
    static let groups = [
        Case(
            "duplicate group",
            replace: """
                    lifetime:
                      data: 1h

                """,
            by: """
                  - name: news
                    id: 7
                    control: 239.255.0.1:848
                    flows: [{source: any, destination: 239.1.1.2}]
                    members: [{client: site1, role: both}]

                """,
            says: """
                gcks.yaml:29:11: groups[news].name: news is the name of another group already (line 19); give each \
                group its own name
                gcks.yaml:30:9: groups[news].id: 7 is the id of another group already (line 20); give each group \
                its own id
                gcks.yaml:31:14: groups[news].control: 239.255.0.1:848 is the control channel of another group \
                already (line 21); give each group its own control channel
                """),
        Case(
            "group id 0",
            replace: "    id: 7",
            by: "    id: 0",
            says: """
                gcks.yaml:20:9: groups[news].id: "0" is not a whole number from 1 to 4294967295; write digits, \
                within these bounds
                """),
        Case(
            "control without port",
            replace: "239.255.0.1:848",
            by: "239.255.0.1",
            says: """
                gcks.yaml:21:14: groups[news].control: "239.255.0.1" is not an address with a port; write for \
                example 239.255.0.1:848
                """),
        Case(
            "control on a port that the clients' guard does not pass",
            replace: "239.255.0.1:848",
            by: "239.255.0.1:849",
            says: """
                gcks.yaml:21:14: groups[news].control: 239.255.0.1:849 is not on the GCKS's port, and no client lets \
                another in; write 239.255.0.1:848
                """),
        Case(
            "control that is not multicast",
            replace: "239.255.0.1:848",
            by: "10.255.0.1:848",
            says: """
                gcks.yaml:21:14: groups[news].control: 10.255.0.1 is not a multicast address; write for example \
                239.1.2.3 (239.0.0.0/8 is for private use)
                """),
        Case(
            "control that no router forwards",
            replace: "239.255.0.1:848",
            by: "224.0.0.5:848",
            says: """
                gcks.yaml:21:14: groups[news].control: no router forwards 224.0.0.5; write for example 239.1.2.3 \
                (239.0.0.0/8 is for private use)
                """),
        Case(
            "control of another family",
            replace: "239.255.0.1:848",
            by: "\"[ff18::1]:848\"",
            says: """
                gcks.yaml:21:14: groups[news].control: ff18::1 is not of the GCKS's address family; write an IPv4 \
                address
                """),
        Case(
            "control address that is a flow's",
            replace: "destination: 239.1.1.1",
            by: "destination: 239.255.0.1",
            says: """
                gcks.yaml:21:14: groups[news].control: 239.255.0.1 is the destination of a flow too (line 24); give \
                the control channel an address of its own
                """),
        Case(
            "destination that is not multicast",
            replace: "destination: 239.1.1.1",
            by: "destination: 10.1.1.1",
            says: """
                gcks.yaml:24:22: groups[news].flows[#1].destination: 10.1.1.1 is not a multicast address; write for \
                example 239.1.2.3 (239.0.0.0/8 is for private use)
                """),
        Case(
            "destination that is a subnet",
            replace: "destination: 239.1.1.1",
            by: "destination: 239.1.1.0/24",
            says: """
                gcks.yaml:24:22: groups[news].flows[#1].destination: 239.1.1.0/24 is a subnet; write one multicast \
                address, and one flow for each
                """),
        Case(
            "source of another family",
            replace: "source: any",
            by: "source: 2001:db8::/32",
            says: """
                gcks.yaml:23:17: groups[news].flows[#1].source: 2001:db8::/32 is not of the destination's address \
                family; write an IPv4 subnet, or any
                """),
        Case(
            "source that is multicast",
            replace: "source: any",
            by: "source: 239.2.0.0/16",
            says: """
                gcks.yaml:23:17: groups[news].flows[#1].source: 239.2.0.0/16 is multicast, which no packet comes \
                from; write the subnet of the senders, or any
                """),
        Case(
            "ports without protocol",
            replace: "destination: 239.1.1.1",
            by: """
                destination: 239.1.1.1
                        destination-port: 5004
                """,
            says: """
                gcks.yaml:25:27: groups[news].flows[#1].destination-port: stands beside a protocol that has no \
                ports; add protocol: udp, or remove it
                """),
        Case(
            "unknown protocol",
            replace: "destination: 239.1.1.1",
            by: """
                destination: 239.1.1.1
                        protocol: rtp
                """,
            says: """
                gcks.yaml:25:19: groups[news].flows[#1].protocol: "rtp" is not an IP protocol; write any, icmp, \
                tcp, udp, or a number from 1 to 255
                """),
        Case(
            "flows that overlap",
            replace: """
                    members:
                      - client: site1
                """,
            by: """
                      - {source: 10.2.0.0/16, destination: 239.1.1.1}
                    members:
                      - client: site1
                """,
            says: """
                gcks.yaml:25:9: groups[news].flows[#2]: overlaps the flow of line 24 (0.0.0.0/0 -> 239.1.1.1/32); \
                make their sources or ports differ, since one packet can have one SA only
                """),
        Case(
            "flows that overlap between groups",
            replace: """
                    lifetime:
                      data: 1h

                """,
            by: """
                  - name: radio
                    id: 8
                    control: 239.255.0.2:848
                    flows: [{source: any, destination: 239.1.1.1, protocol: udp, destination-port: 9}]
                    members: [{client: site1, role: both}]

                """,
            says: """
                gcks.yaml:32:13: groups[radio].flows[#1]: overlaps the flow of line 24 (0.0.0.0/0 -> 239.1.1.1/32); \
                make their sources or ports differ, since one packet can have one SA only
                """),
        Case(
            "no flows",
            replace: """
                    flows:
                      - source: any
                        destination: 239.1.1.1

                """,
            by: """
                    flows: []

                """,
            says: "gcks.yaml:22:12: groups[news].flows: is empty; list what the group protects"),
        Case(
            "unknown ESP suite",
            replace: "    id: 7",
            by: """
                    id: 7
                    suite: aes256-gmc
                """,
            says: """
                gcks.yaml:21:12: groups[news].suite: "aes256-gmc" is not a suite of ESP; did you mean aes256-gcm?
                """),
        Case(
            "an ESP suite like none",
            replace: "    id: 7",
            by: """
                    id: 7
                    suite: rot13
                """,
            says: """
                gcks.yaml:21:12: groups[news].suite: "rot13" is not a suite of ESP; write aes256-gcm, \
                chacha20-poly1305, or cipher-hash such as aes128-sha256
                """),
        Case(
            "more flows than keys of this size fit a datagram",
            replace: """
                      - source: any
                        destination: 239.1.1.1

                """,
            by: """
                      - {source: any, destination: 239.1.1.1}
                      - {source: any, destination: 239.1.1.2}
                      - {source: any, destination: 239.1.1.3}
                    suite: aes256-sha512

                """,
            says: """
                gcks.yaml:23:7: groups[news].flows: has 3 flows, and one datagram carries the keys of 2 (suite \
                aes256-sha512); put the others into a second group with the same members
                """),
        Case(
            "weak ESP suite",
            replace: "    id: 7",
            by: """
                    id: 7
                    suite: 3des-md5
                """,
            says: """
                gcks.yaml:21:12: groups[news].suite: 3des-md5 is weak (DES, Blowfish, null and MD5 are); write \
                aes256-gcm, or set legacy: true beside it
                """),
        Case(
            "an ESP suite that names no senders, for two of them",
            replace: "      - client: ship1\n",
            by: """
                      - {client: ship1, role: both}
                    suite: null-sha1
                    legacy: true

                """,
            says: """
                gcks.yaml:29:12: groups[news].suite: null-sha1 does not say who sent a packet, and the group has 2 \
                senders; write another suite, or give the group one sender
                """),
        Case(
            "more volume than the ESP suite allows",
            replace: """
                    lifetime:
                      data: 1h

                """,
            by: """
                    suite: 3des-sha1
                    lifetime: {volume: 1GiB}

                """,
            says: """
                gcks.yaml:30:24: groups[news].lifetime.volume: is more than one key of 3des-sha1 may protect; write \
                64MiB or less, or another suite
                """),
        Case(
            "unknown client",
            replace: "client: ship1",
            by: "client: shipl",
            says: """
                gcks.yaml:28:17: groups[news].members[shipl].client: no client is called shipl; did you mean ship1?
                """),
        Case(
            "unknown client, nothing near",
            replace: "client: ship1",
            by: "client: lighthouse",
            says: """
                gcks.yaml:28:17: groups[news].members[lighthouse].client: no client is called lighthouse; add it to \
                clients, or remove it here
                """),
        Case(
            "unknown role",
            replace: "role: sender",
            by: "role: reciever",
            says: """
                gcks.yaml:27:15: groups[news].members[site1].role: "reciever" is not known here; did you mean \
                receiver?
                """),
        Case(
            "member twice",
            replace: "      - client: ship1",
            by: "      - client: site1",
            says: """
                gcks.yaml:28:17: groups[news].members[site1].client: site1 is a member already (line 26); keep one \
                of the two
                """),
        Case(
            "no member",
            replace: """
                    members:
                      - client: site1
                        role: sender
                      - client: ship1

                """,
            by: """
                    members: []

                """,
            says: "gcks.yaml:25:14: groups[news].members: is empty; list the clients of the group"),
        Case(
            "no sender",
            replace: """
                        role: sender

                """,
            by: "",
            says: """
                gcks.yaml:26:7: groups[news].members: has no sender; give at least one member role: sender or both
                """),
        Case(
            "lifetime under ten activations",
            replace: "data: 1h",
            by: "data: 15s",
            says: """
                gcks.yaml:30:13: groups[news].lifetime.data: 15s for data is under 10 times activate-after; write \
                at least 20s, or a shorter activate-after
                """),
        Case(
            "activation that makes the default lifetimes too short",
            replace: """
                    lifetime:
                      data: 1h
                """,
            by: """
                    rollover:
                      activate-after: 10min
                """,
            says: """
                gcks.yaml:30:7: groups[news].rollover: 1h for data is under 10 times activate-after; write at least \
                100min, or a shorter activate-after
                """),
        Case(
            "unknown revocation",
            replace: "    id: 7",
            by: """
                    id: 7
                    revocation: tree
                """,
            says: "gcks.yaml:21:17: groups[news].revocation: \"tree\" is not known here; write flat or lkh"),
        Case(
            "backward secrecy without a tree",
            replace: "    id: 7",
            by: """
                    id: 7
                    revocation: flat
                    backward-secrecy: true
                """,
            says: """
                gcks.yaml:22:23: groups[news].backward-secrecy: needs the key tree, and revocation is flat; write \
                revocation: lkh, or remove it
                """),
        Case(
            "not YAML",
            replace: "identity: hub",
            by: "identity: \"hub",
            says: """
                gcks.yaml:31:1: not YAML: found unexpected end of stream; check indentation, colons and quotes from \
                here upwards
                """),
        Case(
            "tab for indentation",
            replace: "    id: 7",
            by: "\tid: 7",
            says: """
                gcks.yaml:20:1: not YAML: found a tab character that violates indentation; check indentation, \
                colons and quotes from here upwards
                """),
        Case(
            "two documents",
            replace: "groups:",
            by: """
                ---
                groups:
                """,
            says: """
                gcks.yaml:18:1: not YAML: found another document; check indentation, colons and quotes from here \
                upwards
                """),
        Case(
            "unknown alias",
            replace: "    members: [ship1, ship2]",
            by: "    members: *ships",
            says: """
                gcks.yaml:17:14: not YAML: found undefined alias; check indentation, colons and quotes from here \
                upwards
                """),
        Case(
            "control character",
            replace: "identity: hub",
            by: "identity: hub\u{1}",
            says: """
                gcks.yaml:1:14: not YAML: control characters are not allowed; check indentation, colons and quotes \
                from here upwards
                """),
    ]
}
