// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Commands
import Control
import Testing

@testable import satipsec

@Suite struct ClientViewTests {
    private func value(_ json: String) throws -> JSONValue {
        try JSONText.decode(JSONValue.self, from: Array(json.utf8))
    }

    @Test func status() throws {
        let value = try value(
            """
            {"state": "ok", "member": {"name": "site1", "state": "registered", "gcks": "10.0.0.1:848",
              "suite": "aes256-sha256-ecp256", "roundTripMilliseconds": 612, "registeredSeconds": 61,
              "groups": [{"name": "news", "role": "receiver", "isCurrent": true, "epoch": 3, "transaction": 42,
                 "kekExpiresInSeconds": 7200}], "lastFailure": "no answer"},
             "dataPlane": {"backend": "xfrm", "isGuarded": true, "packetsToSatellite": 5, "packetsFromSatellite": 7,
               "drops": {"replay": 2, "unknownSPI": 1}, "warnings": ["the link is slow"]}}
            """)
        #expect(
            ClientView.status(value) == """
                state:         ok, registered
                name:          site1
                gcks:          10.0.0.1:848, aes256-sha256-ecp256, rtt 612ms
                registered:    1m01s
                group news:    receiver, current, epoch 3, transaction 42, KEK expires in 2h00m
                last failure:  no answer
                guard:         yes
                data plane:    xfrm
                packets:       5 to the satellite, 7 from it
                drops:         replay 2, unknownSPI 1
                warning:       the link is slow

                """)
        #expect(ClientView.exitStatus(value) == 0)
        #expect(ClientView.exitStatus(try self.value(#"{"state": "degraded"}"#)) == 2)
    }

    @Test func associations() throws {
        let value = try value(
            """
            [{"group": "news", "spi": "0x1234abcd", "direction": "inbound", "isActive": true, "suite": "aes256-gcm",
              "packets": 12, "octets": 15000, "drops": {"replay": 2, "malformed": 1}, "expiresInSeconds": 3000,
              "lastUsedSeconds": 0.02, "backend": "userspace", "flow": "0.0.0.0/0 -> 239.1.1.1/32"}]
            """)
        let row = ClientView.sas(value).split(separator: "\n").last.map { $0.split(separator: " ").map(String.init) }
        #expect(
            row == [
                "news", "0x1234abcd", "inbound", "yes", "aes256-gcm", "50m00s", "12", "14.6KiB", "3", "20ms",
                "userspace", "0.0.0.0/0", "->", "239.1.1.1/32",
            ])
    }
}

@Suite struct CommandLineTests {
    @Test func guardReadsItsOptions() throws {
        let command = try SatIPSecCommand.parseAsRoot(["guard", "--config", "a.yaml", "--check"])
        let guardCommand = try #require(command as? GuardCommand)
        #expect(guardCommand.config == "a.yaml")
        #expect(guardCommand.check)
    }

    @Test(arguments: [["run", "--log-level", "loud"], ["status", "x"], ["rekey", "news"], ["--banana"]])
    func wrongUsageExitsWith64(_ words: [String]) {
        let error = #expect(throws: (any Error).self) { try SatIPSecCommand.parseAsRoot(words) }
        #expect(error.map { SatIPSecCommand.exitCode(for: $0).rawValue } == ExitStatus.usage)
    }
}
