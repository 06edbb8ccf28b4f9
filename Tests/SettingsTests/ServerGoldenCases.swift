// SPDX-License-Identifier: Apache-2.0

extension GoldenCases {
    static let server = [
        Case(
            "unknown key, nearest name",
            replace: "satellite-interface: sat0",
            by: "sattelite-interface: sat0",
            says: "gcks.yaml:3:1: sattelite-interface: is not a known key; did you mean satellite-interface?"),
        Case(
            "unknown key, nothing near",
            replace: "identity: hub",
            by: """
                identity: hub
                banana: 1
                """,
            says: """
                gcks.yaml:2:1: banana: is not a known key; known here are identity, address, port, nat-port, \
                satellite-interface, control-socket, signing-key-file, provisioning-key-file, state-file, \
                master-key-file, audit-file, phase1, clients, ranges, groups, vpns
                """),
        Case(
            "state without its key",
            replace: "identity: hub",
            by: """
                identity: hub
                state-file: state.db
                """,
            says: "gcks.yaml:1:1: master-key-file: is missing; add master-key-file: to this mapping"),
        Case(
            "master key without a state",
            replace: "identity: hub",
            by: """
                identity: hub
                master-key-file: master.key
                """,
            says: "gcks.yaml:1:1: state-file: is missing; add state-file: to this mapping"),
        Case(
            "audit without a state",
            replace: "identity: hub",
            by: """
                identity: hub
                audit-file: audit.log
                """,
            says: """
                gcks.yaml:2:13: audit-file: needs the state, which knows how far it goes; add state-file and \
                master-key-file, or leave this out
                """),
        Case(
            "master key that is none",
            replace: "identity: hub",
            by: """
                identity: hub
                state-file: state.db
                master-key-file: strong.psk
                """,
            says: """
                gcks.yaml:3:18: master-key-file: strong.psk does not hold 64 hexadecimal digits alone; make one with \
                openssl rand -hex 32; for a state that exists, bring back the key it was made with
                """),
        Case(
            "unknown key in a group",
            replace: "    id: 7",
            by: """
                    id: 7
                    memebers: []
                """,
            says: "gcks.yaml:21:5: groups[news].memebers: is not a known key; did you mean members?"),
        Case(
            "missing keys",
            replace: """
                identity: hub

                """,
            by: "",
            says: "gcks.yaml:1:1: identity: is missing; add identity: to this mapping"),
        Case(
            "missing name of a client",
            replace: """
                  - name: site2
                    address
                """,
            by: "  - address",
            says: "gcks.yaml:10:5: clients[#2].name: is missing; add name: to this mapping"),
        Case(
            "duplicate key",
            replace: "identity: hub",
            by: """
                identity: hub
                address: 10.0.0.9
                """,
            says: "gcks.yaml:2:1: address: stands twice in this mapping; keep one"),
        Case(
            "key that stands three times",
            replace: "    id: 7",
            by: """
                    id: 7
                    id: 8
                    id: 9
                """,
            says: """
                gcks.yaml:20:5: groups[news].id: stands twice in this mapping; keep one
                gcks.yaml:21:5: groups[news].id: stands twice in this mapping; keep one
                """),
        Case(
            "duplicate key hides nothing else",
            replace: "identity: hub",
            by: """
                identity: hub
                identity: hub2
                port: high
                """,
            says: """
                gcks.yaml:1:1: identity: stands twice in this mapping; keep one
                gcks.yaml:3:7: port: "high" is not a whole number from 1 to 65535; write digits, within these bounds
                """),
        Case(
            "wrong type: list for a value",
            replace: """
                address: 10.0.0.1

                """,
            by: """
                address: [10.0.0.1]

                """,
            says: "gcks.yaml:2:10: address: is a list, not a single value; write one value"),
        Case(
            "wrong type: value for a list",
            replace: "    members: [ship1, ship2]",
            by: "    members: ship1",
            says: """
                gcks.yaml:17:14: ranges[north].members: is "ship1", not a list; write a list, or [] for an empty one
                gcks.yaml:28:17: groups[news].members[ship1].client: no client is called ship1; add it to clients, \
                or remove it here
                """),
        Case(
            "wrong type: list for a mapping",
            replace: """
                    lifetime:
                      data: 1h
                """,
            by: "    lifetime: [1h]",
            says: """
                gcks.yaml:29:15: groups[news].lifetime: is a list, not a mapping; write keys and values: data, kek, \
                volume
                """),
        Case(
            "wrong type: text for a client",
            replace: """
                  - name: site2
                    address: 10.0.0.12
                    psk-file: strong.psk
                """,
            by: "  - site2",
            says: """
                gcks.yaml:10:5: clients[#2]: is "site2", not a mapping; write keys and values: name, address, psk, \
                psk-file, suites, legacy
                """),
        Case(
            "empty value",
            replace: "identity: hub",
            by: "identity:",
            says: "gcks.yaml:1:10: identity: is empty; write one value"),
        Case(
            "not an address",
            replace: "address: 10.0.0.12",
            by: "address: 10.0.0.300",
            says: """
                gcks.yaml:11:14: clients[site2].address: "10.0.0.300" is not an IP address; write for example \
                192.0.2.1 or 2001:db8::1
                """),
        Case(
            "port out of range",
            replace: "satellite-interface: sat0",
            by: """
                satellite-interface: sat0
                port: 70000
                """,
            says: """
                gcks.yaml:4:7: port: "70000" is not a whole number from 1 to 65535; write digits, within these bounds
                """),
        Case(
            "ports that are the same",
            replace: "satellite-interface: sat0",
            by: """
                satellite-interface: sat0
                nat-port: 848
                """,
            says: "gcks.yaml:4:11: nat-port: is the same as port; write 4500, or another free port"),
        Case(
            "name with a slash",
            replace: "  - name: site2",
            by: "  - name: ../site2",
            says: """
                gcks.yaml:10:11: clients[#2].name: "../site2" is not a name; use up to 64 letters, digits, dots, \
                hyphens and underscores, a letter or digit first
                """),
        Case(
            "interface name too long",
            replace: "satellite-interface: sat0",
            by: "satellite-interface: satellite-interface-0",
            says: """
                gcks.yaml:3:22: satellite-interface: "satellite-interface-0" is not the name of a network \
                interface; write it as ip link shows it, for example eth0
                """),
        Case(
            "multicast address of its own",
            replace: """
                address: 10.0.0.1

                """,
            by: """
                address: 239.0.0.1

                """,
            says: """
                gcks.yaml:2:10: address: 239.0.0.1 is a multicast address; write the address of one machine
                """),
        Case(
            "unspecified address",
            replace: """
                address: 10.0.0.1

                """,
            by: """
                address: 0.0.0.0

                """,
            says: "gcks.yaml:2:10: address: 0.0.0.0 stands for any address; write the address of one machine"),
        Case(
            "control socket's path too long",
            replace: "satellite-interface: sat0",
            by: """
                satellite-interface: sat0
                control-socket: /run/xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\
                xxxxxxxxxxxxxxxxxxxxxxxxxx
                """,
            says: """
                gcks.yaml:4:17: control-socket: is longer than the 107 octets a socket's path may have; write a \
                shorter path, for example /run/satipsec/gcks.sock
                """),
        Case(
            "duration without unit",
            replace: "data: 1h",
            by: "data: 3600",
            says: """
                gcks.yaml:30:13: groups[news].lifetime.data: "3600" is not a duration; write a number with its \
                unit, for example 500ms, 2s, 5min or 8h
                """),
        Case(
            "duration out of range",
            replace: """
                    lifetime:

                """,
            by: """
                    rollover: {activate-after: 1h}
                    lifetime:

                """,
            says: """
                gcks.yaml:29:32: groups[news].rollover.activate-after: 1h is out of range; write 1ms to 10min
                """),
        Case(
            "dead-peer-interval",
            replace: "satellite-interface: sat0",
            by: """
                satellite-interface: sat0
                phase1: {dead-peer-interval: never}
                """,
            says: """
                gcks.yaml:4:30: phase1.dead-peer-interval: "never" is not a duration; write a number with its unit, \
                for example 500ms, 2s, 5min or 8h
                """),
        Case(
            "rate and size",
            replace: """
                    lifetime:

                """,
            by: """
                    push: {control-rate: 64kb, return-rate: 1bit/s}
                    lifetime:
                      volume: 1GigaByte

                """,
            says: """
                gcks.yaml:29:26: groups[news].push.control-rate: "64kb" is not a rate; write a number with its \
                unit, for example 64kbit/s or 2Mbit/s
                gcks.yaml:29:45: groups[news].push.return-rate: 1bit/s is out of range; write 1kbit/s to 10Gbit/s
                gcks.yaml:31:15: groups[news].lifetime.volume: "1GigaByte" is not a size; write a number with its \
                unit, for example 512MiB, 1GiB or 10GB
                """),
        Case(
            "share",
            replace: """
                    lifetime:

                """,
            by: """
                    rollover: {commit-at: 101%}
                    lifetime:

                """,
            says: """
                gcks.yaml:29:27: groups[news].rollover.commit-at: "101%" is not a share in percent; write for \
                example 99.9%
                """),
        Case(
            "copies",
            replace: """
                    lifetime:

                """,
            by: """
                    push: {copies: 0, repair-rounds: two}
                    lifetime:

                """,
            says: """
                gcks.yaml:29:20: groups[news].push.copies: "0" is not a whole number from 1 to 10; write digits, \
                within these bounds
                gcks.yaml:29:38: groups[news].push.repair-rounds: "two" is not a whole number from 0 to 20; write \
                digits, within these bounds
                """),
        Case(
            "feedback",
            replace: """
                    lifetime:

                """,
            by: """
                    push: {feedback: census, proactive: 0.9, block-size: 129, adapt: "no"}
                    lifetime:

                """,
            says: """
                gcks.yaml:29:22: groups[news].push.feedback: "census" does not say how many classes; write census \
                and a number from 2 to 65535, for example census 64
                gcks.yaml:29:41: groups[news].push.proactive: "0.9" is not a number from 1 to 4; write for example 1.2
                gcks.yaml:29:58: groups[news].push.block-size: "129" is not a whole number from 1 to 128; write \
                digits, within these bounds
                gcks.yaml:29:70: groups[news].push.adapt: "no" is not true or false; write true or false
                """),
        Case(
            "confirm-within",
            replace: """
                    lifetime:

                """,
            by: """
                    push: {feedback: all, confirm-within: 10s}
                    lifetime:

                """,
            says: """
                gcks.yaml:29:43: groups[news].push.confirm-within: has no meaning where every member is asked; leave \
                it out, or write feedback: none or census N
                """),
        Case(
            "truth",
            replace: "satellite-interface: sat0",
            by: """
                satellite-interface: sat0
                phase1: {legacy: maybe}
                """,
            says: "gcks.yaml:4:18: phase1.legacy: \"maybe\" is not true or false; write true or false"),
    ]
}
