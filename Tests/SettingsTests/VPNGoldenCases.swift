// SPDX-License-Identifier: Apache-2.0

extension GoldenCases {
    /// What a VPN stands in for, from line 29 on.
    private static let end = """
            lifetime:
              data: 1h

        """

    private static func vpns(_ title: String, _ lines: String, says: String) -> Case {
        Case(title, replace: end, by: "vpns:\n" + lines + "\n", says: says)
    }

    static let vpns = [
        vpns(
            "nothing of a VPN",
            "  - {legacy: false}",
            says: """
                gcks.yaml:30:5: vpns[#1].ends: is missing; add ends: to this mapping
                gcks.yaml:30:5: vpns[#1].flows: is missing; add flows: to this mapping
                gcks.yaml:30:5: vpns[#1].id: is missing; add id: to this mapping
                gcks.yaml:30:5: vpns[#1].name: is missing; add name: to this mapping
                """),
        vpns(
            "name and id of a group",
            "  - {name: news, id: 7, ends: [site1, site2], flows: [{source: 10.1.0.0/16, destination: 10.2.0.0/16}]}",
            says: """
                gcks.yaml:30:12: vpns[news].name: news is the name of another group or VPN already (line 19); give \
                each group and each VPN its own name
                gcks.yaml:30:22: vpns[news].id: 7 is the id of another group or VPN already (line 20); give each \
                group and each VPN its own id
                """),
        vpns(
            "an unknown end",
            "  - {name: v, id: 8, ends: [site1, site3], flows: [{source: 10.1.0.0/16, destination: 10.2.0.0/16}]}",
            says: """
                gcks.yaml:30:36: vpns[v].ends[#2]: no client is called site3; did you mean site1?
                """),
        vpns(
            "one end",
            "  - {name: v, id: 8, ends: [site1], flows: [{source: 10.1.0.0/16, destination: 10.2.0.0/16}]}",
            says: """
                gcks.yaml:30:28: vpns[v].ends: names 1 client; write the two ends, for example [hub, site1]
                """),
        vpns(
            "an end twice",
            "  - {name: v, id: 8, ends: [site1, site1], flows: [{source: 10.1.0.0/16, destination: 10.2.0.0/16}]}",
            says: """
                gcks.yaml:30:36: vpns[v].ends[#2]: site1 is the other end too; write two different clients
                """),
        vpns(
            "a multicast destination",
            "  - {name: v, id: 8, ends: [site1, site2], flows: [{source: any, destination: 239.2.0.0/16}]}",
            says: """
                gcks.yaml:30:79: vpns[v].flows[#1].destination: 239.2.0.0/16 is multicast, and a VPN joins two \
                clients; write a subnet or a host of a site, or make it a flow of a group
                """),
        vpns(
            "two families in one flow",
            "  - {name: v, id: 8, ends: [site1, site2], flows: [{source: 10.1.0.0/16, destination: \"fd00::/16\"}]}",
            says: """
                gcks.yaml:30:61: vpns[v].flows[#1].source: 10.1.0.0/16 is not of the destination's address family; \
                write an IPv6 subnet, or any
                """),
        vpns(
            "flows of one client that overlap",
            """
              - {name: v, id: 8, ends: [site1, site2], flows: [{source: 10.1.0.0/16, destination: 10.2.0.0/16}]}
              - {name: w, id: 9, ends: [ship1, site1], flows: [{source: 10.2.3.0/24, destination: 10.1.3.0/24}]}
            """,
            says: """
                gcks.yaml:31:52: vpns[w].flows[#1]: overlaps what site1 sends by the flow of line 30 (10.1.0.0/16 -> \
                10.2.0.0/16); make their addresses or ports differ, since one packet can have one SA only
                """),
        vpns(
            "everything, and a group beside it",
            "  - {name: v, id: 8, ends: [site1, site2], flows: [{source: 10.1.0.0/16, destination: any}]}",
            says: """
                gcks.yaml:30:52: vpns[v].flows[#1]: overlaps what site1 sends by the flow of line 24 (0.0.0.0/0 -> \
                239.1.1.1/32); make their addresses or ports differ, since one packet can have one SA only
                """),
        vpns(
            "a weak suite",
            """
              - {name: v, id: 8, ends: [site1, site2], suite: 3des-md5, lifetime: {data: 10s}, flows:
                [{source: 10.1.0.0/16, destination: 10.2.0.0/16}]}
            """,
            says: """
                gcks.yaml:30:51: vpns[v].suite: 3des-md5 is weak (DES, Blowfish, null and MD5 are); write \
                aes256-gcm, or set legacy: true beside it
                gcks.yaml:30:78: vpns[v].lifetime.data: 10s is out of range; write 1min to 365d
                """),
        vpns(
            "too many flows",
            """
              - {name: v, id: 8, ends: [site1, site2], flows: [{source: 10.1.1.0/24, destination: 10.2.0.0/16},
                {source: 10.1.2.0/24, destination: 10.2.0.0/16}, {source: 10.1.3.0/24, destination: 10.2.0.0/16},
                {source: 10.1.4.0/24, destination: 10.2.0.0/16}, {source: 10.1.5.0/24, destination: 10.2.0.0/16}]}
            """,
            says: """
                gcks.yaml:30:51: vpns[v].flows: has 5 flows, more than 4; put the others into a second VPN between \
                the same ends
                """),
        vpns(
            "a key that there is not",
            """
              - {name: v, id: 8, ends: [site1, site2], psk: x, flows: [{source: 10.1.1.0/24, destination: 10.2.0.0/16}]}
            """,
            says: """
                gcks.yaml:30:44: vpns[v].psk: is not a known key; known here are name, id, ends, flows, suite, \
                legacy, extended-sequence, lifetime, rollover
                """),
    ]
}
