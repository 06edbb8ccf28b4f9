// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Commands
import Control
import Testing

@testable import gcks

@Suite struct ServerViewTests {
    private func value(_ json: String) throws -> JSONValue {
        try JSONText.decode(JSONValue.self, from: Array(json.utf8))
    }

    private let snapshot = """
        {"state": "degraded", "alarms": ["client site2 is not registered"], "identity": "hub",
         "address": "10.0.0.1:848", "uptimeSeconds": 93780.2, "drops": {},
         "groups": [{"name": "news", "id": 1, "control": "239.255.0.1:848", "flows": [], "suite": "aes256-gcm",
            "epoch": 3, "transaction": 42, "openTransactions": [], "nextDataRekeySeconds": 600.5,
            "nextKEKRekeySeconds": 7200, "lastVerdict": {"verdict": "unconfirmed"},
            "members": [{"client": "site1", "isCurrent": true}, {"client": "site2", "isCurrent": false}]}],
         "clients": [
            {"name": "site1", "address": "10.0.0.11:848", "state": "registered", "suite": "aes256-sha256-ecp256",
             "isBehindNAT": false, "roundTripMilliseconds": 612, "registeredSeconds": 61, "lastHeardSeconds": 0.25,
             "pendingConfigures": 0, "groups": ["news", "radio"]},
            {"name": "site2", "state": "absent", "pendingConfigures": 0, "groups": []}],
         "sas": [{"group": "news", "spi": "0x1234abcd", "flow": "0.0.0.0/0 -> 239.1.1.1/32", "suite": "aes256-gcm",
            "transaction": 42, "state": "active", "expiresInSeconds": 3000}]}
        """

    @Test func status() throws {
        let value = try value(snapshot)
        #expect(
            ServerView.status(value) == """
                state:         degraded
                identity:      hub
                address:       10.0.0.1:848
                up:            1d02h
                clients:       1 of 2 registered
                group news:    1 of 2 members current, epoch 3, transaction 42, rekey in 10m01s
                alarm:         client site2 is not registered

                """)
        #expect(ServerView.exitStatus(value) == 2)
        #expect(ServerView.exitStatus(try self.value(#"{"state": "ok"}"#)) == 0)
        #expect(ServerView.exitStatus(.null) == 2)
    }

    @Test func aKeyTreeHasALineOfItsOwn() throws {
        let value = try value(
            """
            {"state": "ok", "groups": [{"name": "news", "members": [], "epoch": 1, "transaction": 7, "tree":
              {"members": 6, "height": 3, "updateTransaction": 5, "updateOctets": 502, "updateDatagrams": 1}}]}
            """)
        #expect(
            ServerView.status(value).contains(
                "tree of news:  6 members, height 3, last change 502 octets (transaction 5)\n"))
    }

    @Test func vpns() throws {
        let value = try value(
            """
            [{"name": "hub-site1", "id": 1001, "state": "up", "suite": "aes256-gcm", "isEncapsulated": true,
              "ends": [{"client": "hub", "isRegistered": true, "outboundSPIs": ["0x00001001"]},
                       {"client": "site1", "isRegistered": false, "outboundSPIs": ["0x00001002"]}],
              "transaction": 9, "expiresInSeconds": 3000, "nextRekeySeconds": 2400,
              "lastVerdict": {"verdict": "unconfirmed", "unconfirmed": [{"client": "site1", "reason": "silent"}]}},
             {"name": "two", "id": 1002, "state": "down", "suite": "aes128-gcm", "isEncapsulated": false,
              "ends": [{"client": "hub", "isRegistered": true, "outboundSPIs": []},
                       {"client": "site2", "isRegistered": true, "outboundSPIs": []}], "transaction": 1}]
            """)
        #expect(
            ServerView.vpns(value).split(separator: "\n").map { $0.split(separator: " ").joined(separator: " ") } == [
                "NAME ID ENDS STATE SUITE UDP SPIS TRANSACTION EXPIRES REKEY-IN LAST MISSING",
                "hub-site1 1001 hub - site1(absent) up aes256-gcm yes > 0x00001001 < 0x00001002 9 50m00s 40m00s "
                    + "unconfirmed site1:silent",
                "two 1002 hub - site2 down aes128-gcm no - 1 - - - -",
            ])
    }

    @Test func theVerdictOnAVPNNamesItsEnds() throws {
        let value = try value(
            """
            {"client": "site2", "verdict": "unconfirmed", "reports": [
              {"group": "a", "isVPN": true, "transaction": 9, "reason": "commanded", "seconds": 2.4,
               "confirmed": [{"client": "hub"}, {"client": "site1"}], "unconfirmed": []},
              {"group": "b", "isVPN": true, "transaction": 4, "reason": "revocation", "seconds": 90, "confirmed": [],
               "unconfirmed": [{"client": "hub", "reason": "silent"}]},
              {"group": "c", "isVPN": true, "transaction": 5, "reason": "commanded", "seconds": 0, "confirmed": [],
               "unconfirmed": [{"client": "hub", "reason": "waiting"}]}]}
            """)
        #expect(
            ServerView.verdict(value) == """
                client site2: revoked
                vpn a: confirmed by hub, site1 in 2.4s (transaction 9, reason commanded)
                vpn b: confirmed by nobody in 1m30s (transaction 4, reason revocation)
                  unconfirmed: hub (silent): it lets go when it is heard, or when the SAs end
                vpn c: confirmed by nobody in 0ms (transaction 5, reason commanded)
                  unconfirmed: hub (waiting): it waits for the other end

                """)
        #expect(ServerView.verdictStatus(value) == 2)
    }

    @Test func tables() throws {
        let value = try value(snapshot)
        let groups = ServerView.groups(value["groups"]).split(separator: "\n")
        #expect(
            groups.last.map { $0.split(separator: " ") } == [
                "news", "1", "239.255.0.1:848", "aes256-gcm", "3", "42", "2", "1", "10m01s", "2h00m", "unconfirmed",
                "site2",
            ])
        #expect(
            ServerView.clients(value["clients"]) == """
                NAME   ADDRESS        STATE       SUITE                 NAT    RTT  REGISTERED  HEARD  GROUPS
                site1  10.0.0.11:848  registered  aes256-sha256-ecp256  no   612ms       1m01s  250ms  news,radio
                site2  -              absent      -                     -        -           -      -  -

                """)
        #expect(
            ServerView.sas(value["sas"]) == """
                GROUP  SPI         STATE   SUITE       TRANSACTION  EXPIRES  FLOW
                news   0x1234abcd  active  aes256-gcm           42   50m00s  0.0.0.0/0 -> 239.1.1.1/32

                """)
    }

    @Test func aVerdictNamesWhoIsMissing() throws {
        let value = try value(
            """
            {"verdict": "unconfirmed", "unconfirmed": ["site2"], "transactions": {"news": 43}, "reports": [
              {"group": "news", "transaction": 43, "epoch": 3, "verdict": "unconfirmed", "seconds": 4.2, "rounds": 3,
               "datagrams": 9, "multicastOctets": 4100, "unicasts": 1,
               "confirmed": [{"client": "site1", "seconds": 0.7}],
               "unconfirmed": [{"client": "site2", "reason": "silent"}], "absent": ["site3"]}]}
            """)
        #expect(
            ServerView.verdict(value) == """
                group news: confirmed by 1 of 2 members in 4.2s \
                (transaction 43, epoch 3, rounds 3, datagrams 9, octets 4100, unicasts 1)
                  unconfirmed: site2 (silent): it gets the keys by unicast as soon as it is heard
                  absent: site3 (gets the keys when it registers)

                """)
        #expect(ServerView.verdictStatus(value) == 2)
    }

    @Test func withoutWaitingItHasOnlyStarted() throws {
        let value = try value(
            #"{"client": "site2", "verdict": "started", "transactions": {"radio": 7, "news": 43}, "reports": []}"#)
        #expect(
            ServerView.verdict(value) == """
                client site2: revoked
                group news: started, transaction 43
                group radio: started, transaction 7

                """)
        #expect(ServerView.verdictStatus(value) == 0)
    }
}

/// The desired state on a terminal.
@Suite struct DesiredViewTests {
    private func value(_ json: String) throws -> JSONValue {
        try JSONText.decode(JSONValue.self, from: Array(json.utf8))
    }

    @Test func whatAnInventoryChangesAndTakes() throws {
        let value = try value(
            """
            {"revision": 7, "isDryRun": false, "verdict": "started", "unconfirmed": [], "reports": [],
             "transactions": {"news": 43}, "multicastOctets": 14336, "unicastOctets": 1400, "needsRestart": ["port"],
             "changes": [
               {"kind": "client", "action": "removed", "name": "site2", "details": []},
               {"kind": "member", "action": "added", "name": "site3", "group": "news", "details": ["receiver"]},
               {"kind": "group", "action": "changed", "name": "news", "details": ["flows", "suite"]}],
             "rekeys": [
               {"group": "news", "causes": ["flows", "eviction"], "members": 10000, "datagrams": 3,
                "multicastOctets": 14336, "unicasts": 0},
               {"group": "radio", "causes": ["senders"], "members": 2, "datagrams": 0, "multicastOctets": 0,
                "unicasts": 2}],
             "profiles": ["hub", "site3"], "disconnected": ["site2"]}
            """)
        #expect(
            ServerView.applied(value) == """
                revision 7
                client site2: removed
                member site3 of news: added (receiver)
                group news: changed (flows, suite)
                new keys for news (flows, eviction): 10000 members to confirm, 3 datagrams, 14.0KiB by multicast
                new keys for radio (senders): 2 members to confirm, 2 by unicast
                new profile: hub, site3
                disconnected: site2
                on the link: 14.0KiB by multicast, 1.3KiB by unicast
                not changed, takes a restart: port

                """)
        #expect(ServerView.verdictStatus(value) == 0)
    }

    @Test func nothingAndDryRunsSaySo() throws {
        #expect(
            ServerView.applied(try value(#"{"revision": 3, "isDryRun": true, "changes": []}"#))
                == "nothing differs from revision 3\n")
        let dry = try value(
            """
            {"revision": 3, "isDryRun": true, "changes": [
              {"kind": "client", "action": "added", "name": "a", "details": []}]}
            """
        )
        #expect(
            ServerView.applied(dry).hasPrefix(
                "a dry run: nothing is changed, revision 3 is in force\nclient a: added\n"))
        let same = try value(#"{"from": 1, "to": 2, "changes": []}"#)
        #expect(ServerView.difference(same) == "nothing differs between revisions 1 and 2\n")
    }

    @Test func historyAndExport() throws {
        let revision =
            #"{"number": 2, "time": "2026-11-24T00:00:00Z", "source": "apply", "author": "uid 0", "comment": ""}"#
        #expect(
            ServerView.history(try value("[\(revision)]")) == """
                REVISION  TIME                  SOURCE  BY     COMMENT
                       2  2026-11-24T00:00:00Z  apply   uid 0  -

                """)
        let text = ServerView.exported(try value(#"{"revision": \#(revision), "text": "clients: []\n"}"#))
        #expect(text == "# revision 2, 2026-11-24T00:00:00Z, apply\nclients: []\n")
    }
}

/// The command lines themselves, as ArgumentParser reads them.
@Suite struct CommandLineTests {
    @Test func rekeyReadsItsOptions() throws {
        let command = try GCKSCommand.parseAsRoot(["rekey", "news", "--kek", "--wait", "--timeout", "5", "--json"])
        let rekey = try #require(command as? RekeyCommand)
        #expect(rekey.group == "news")
        #expect(rekey.kek)
        #expect(rekey.wait)
        #expect(rekey.timeout == 5)
        #expect(rekey.daemon.json)
    }

    @Test func applyReadsItsOptions() throws {
        let words = ["apply", "-f", "inventory.yaml", "--dry-run", "--wait", "-m", "one more site", "--json"]
        let apply = try #require(try GCKSCommand.parseAsRoot(words) as? ApplyCommand)
        #expect(apply.file == "inventory.yaml" && apply.options.dryRun && apply.options.wait)
        #expect(apply.options.message == "one more site" && apply.daemon.json)
        let rollback = try #require(try GCKSCommand.parseAsRoot(["rollback", "7", "--wait"]) as? RollbackCommand)
        #expect(rollback.revision == 7 && rollback.options.wait && !rollback.options.dryRun)
        let export = try #require(try GCKSCommand.parseAsRoot(["export"]) as? ExportCommand)
        #expect(export.revision == nil)
        let diff = try #require(try GCKSCommand.parseAsRoot(["diff", "3", "5"]) as? DiffCommand)
        #expect(diff.from == 3 && diff.to == 5)
        #expect(try GCKSCommand.parseAsRoot(["history"]) is HistoryCommand)
    }

    @Test(
        arguments: [
            ["apply"], ["apply", "-f"], ["rollback"], ["rollback", "-1"], ["export", "x"],
            ["rekey"], ["rekey", "news", "--timeout", "0"], ["status", "--socket", "a", "--config", "b"], ["banana"],
            ["init", "dir", "--client", "site1"], ["init", "dir", "--address", "239.0.0.1"],
            ["serve", "--log-level", "loud"], ["check", "--config"],
        ])
    func wrongUsageExitsWith64(_ words: [String]) {
        let error = #expect(throws: (any Error).self) { try GCKSCommand.parseAsRoot(words) }
        #expect(error.map { GCKSCommand.exitCode(for: $0).rawValue } == ExitStatus.usage)
    }
}
