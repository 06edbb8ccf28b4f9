// SPDX-License-Identifier: Apache-2.0

import Basics
import Cryptography
import IKEv1
import KeyServer
import ReliablePush
import Testing

@testable import Settings

@Suite struct ServerSettingsTests {
    let folder: Folder

    init() throws { folder = try Folder.withKeys() }

    private func parse(_ text: String) throws -> ServerSettings {
        try ServerSettings.parse(text, file: folder.path + "/gcks.yaml")
    }

    @Test func everyKeyBecomesItsValue() throws {
        let settings = try parse(full)
        #expect(settings.identity == "hub.example")
        #expect(settings.listenAddress == IPAddress("10.0.0.1"))
        #expect(settings.port == 1848)
        #expect(settings.natPort == 14500)
        #expect(settings.satelliteInterface == "sat0")
        #expect(settings.controlSocket == folder.path + "/gcks.sock")
        #expect(settings.signingKeyFile == folder.path + "/signing-key.pem")
        #expect(settings.signingKey.algorithm == .ecdsaP256)
        #expect(settings.phase1.suites.map(\.description) == ["aes128-sha1-modp2048", "aes256-sha384-x25519"])
        #expect(settings.phase1Lifetime == .seconds(7_200))
        #expect(settings.deadPeerInterval == nil)

        let site = try #require(settings.inventory.clients.first)
        #expect(site.name == "site1")
        #expect(site.address == IPAddress("10.0.0.11"))
        #expect(site.preSharedKey == Secret(Array("9f2c41d07be85a6613f0c8d9a274b35e".utf8)))
        #expect(site.suites.map(\.description) == ["des-md5-modp768"])
        #expect(settings.inventory.clients[1].suites == settings.phase1.suites)
        let range = try #require(settings.inventory.ranges.first)
        #expect(range.name == "north")
        #expect(range.addresses == IPPrefix("10.0.1.0/24"))
        #expect(range.members == ["ship1", "ship2"])
    }

    @Test func everyKeyOfAGroupBecomesItsValue() throws {
        let settings = try parse(full)
        let group = try #require(settings.inventory.groups.first)
        #expect(group.name == "news")
        #expect(group.id == 7)
        #expect(group.control == SocketAddress(.v4(239, 255, 0, 1), 1848))
        #expect(
            group.flows.map(\.description) == [
                "192.168.0.0/16 port 5000 -> 239.1.1.1/32 port 5004 proto 17", "0.0.0.0/0 -> 239.1.1.2/32",
            ])
        #expect(group.suite == .aes128sha256)
        #expect(group.members.map(\.client) == ["site1", "site2", "ship1"])
        #expect(group.members.map(\.role) == [.sender, .both, .receiver])
        #expect(group.dataLifetime == .seconds(600))
        #expect(group.kekLifetime == .seconds(86_400))
        #expect(group.dataVolume == 1 << 30)
        #expect(group.rollover.activateAfter == .milliseconds(1_500))
        #expect(group.rollover.keepOld == .seconds(3))
        #expect(group.rollover.commitAtPercent == 99.9)
        #expect(group.push.copies == 3)
        #expect(group.push.proactive == 1.35 && !group.push.adapts && group.push.blockSize == 64)
        #expect(group.push.feedback == .census(32) && group.push.confirmWithin == .seconds(90))
        #expect(group.push.spread == .milliseconds(400))
        #expect(group.push.repairRounds == 4)
        #expect(group.push.controlRate == 256_000)
        #expect(group.push.returnRate == 9_600)
        #expect(group.push.roundTrip == .milliseconds(550))
        #expect(group.push.unicastBelow == 5)
        #expect(group.push.beaconInterval == .seconds(120))
        #expect(group.revocation == .flat)
    }

    @Test func everyKeyOfAVPNBecomesItsValue() throws {
        let text =
            GoldenCases.goodServer + """
                vpns:
                  - name: one
                    id: 1001
                    ends: [site1, ship2]
                    flows:
                      - {source: 192.168.1.0/24, destination: 192.168.2.0/24}
                      - {source: 10.0.0.11, destination: "10.0.1.2", protocol: tcp, destination-port: 443}
                      - {source: any, destination: "fd00::/16"}
                    suite: 3des-sha1
                    legacy: true
                    extended-sequence: false
                    lifetime: {data: 2h, volume: 32MiB}
                    rollover: {keep-old: 9s}
                  - {name: two, id: 1002, ends: [site2, site1], flows: [{source: 10.9.0.1, destination: 10.8.0.1}]}

                """
        let vpns = try parse(text).inventory.vpns
        let (one, two) = (try #require(vpns.first), try #require(vpns.last))
        #expect(vpns.count == 2 && one.name == "one" && one.id == 1_001 && one.ends == ["site1", "ship2"])
        #expect(
            one.flows.map(\.description) == [
                "192.168.1.0/24 -> 192.168.2.0/24", "10.0.0.11/32 -> 10.0.1.2/32 port 443 proto 6",
                "::/0 -> fd00::/16",
            ])
        #expect(one.suite.rawValue == "3des-sha1" && !one.extendedSequence)
        #expect(one.lifetime == .seconds(7_200) && one.volume == 32 << 20 && one.keepOld == .seconds(9))
        #expect(two.suite == .aes256gcm && two.extendedSequence && two.lifetime == .seconds(3_600))
        #expect(two.volume == nil && two.keepOld == .seconds(5))
        let settings = try parse(text)
        let written = InventoryText.write(settings.inventory) { _ in "revision-1" }
        let again = try settings.read(inventory: written, file: folder.path + "/again.yaml") { _, holder in
            settings.inventory.clients.first { .client($0.name) == holder }?.preSharedKey
                ?? settings.inventory.ranges.first?.preSharedKey
        }
        #expect(again.inventory.vpns == vpns)
    }

    @Test func theMethodOfRevocationFollowsTheSizeUnlessItIsNamed() throws {
        func group(ships: Int, _ line: String = "") throws -> GroupEntry {
            let names = (1...ships).map { "ship\($0)" }
            let members = names.map { "      - client: \($0)\n" }.joined()
            let text = GoldenCases.goodServer
                .replacing("[ship1, ship2]", with: "[\(names.joined(separator: ", "))]")
                .replacing("      - client: ship1\n", with: members + (line.isEmpty ? "" : "    \(line)\n"))
            return try #require(parse(text).inventory.groups.first)
        }
        // With site1.
        #expect(try group(ships: 7).revocation == .flat && group(ships: 8).revocation == .lkh)
        #expect(try group(ships: 8, "revocation: flat").revocation == .flat)
        #expect(try group(ships: 1, "revocation: lkh").revocation == .lkh)
        #expect(try group(ships: 1, "backward-secrecy: true").revocation == .lkh)
        #expect(try group(ships: 1, "backward-secrecy: true").backwardSecrecy && !group(ships: 8).backwardSecrecy)
    }

    /// Outside a group's packets are of its own family, whatever that of the GCKS is.
    @Test func flowsMayBeOfTheOtherFamily() throws {
        let text = GoldenCases.goodServer.replacing("destination: 239.1.1.1", with: "destination: ff18::2")
        let flow = try #require(parse(text).inventory.groups.first?.flows.first)
        #expect(flow.source == .allV6 && flow.destination == IPPrefix("ff18::2"))
    }

    /// Every suite by its name; the weak ones only with `legacy: true`.
    @Test(arguments: ESPSuite.allCases)
    func suitesOfESP(suite: ESPSuite) throws {
        func read(_ lines: String) throws -> ESPSuite? {
            let text = GoldenCases.goodServer.replacing("    id: 7\n", with: "    id: 7\n\(lines)")
            return try parse(text).inventory.groups.first?.suite
        }
        #expect(try read("    suite: \(suite)\n    legacy: true\n") == suite)
        if suite.isLegacy {
            #expect(throws: SettingsError.self) { try read("    suite: \(suite)\n") }
        } else {
            #expect(try read("    suite: \(suite)\n") == suite)
        }
    }

    @Test func whatIsLeftOutHasItsDefault() throws {
        let settings = try parse(GoldenCases.goodServer)
        #expect(settings.port == 848)
        #expect(settings.natPort == 4500)
        #expect(settings.controlSocket == "/run/satipsec/gcks.sock")
        #expect(settings.phase1.suites == [.standard])
        #expect(settings.phase1Lifetime == .seconds(8 * 3_600))
        #expect(settings.deadPeerInterval == .seconds(30))
        let group = try #require(settings.inventory.groups.first)
        #expect(group.suite == .aes256gcm)
        #expect(group.dataVolume == nil)
        #expect(group.rollover.commitAtPercent == nil)
    }

    @Test func aServerWithoutClientsIsFine() throws {
        let settings = try parse(
            """
            identity: hub
            address: 2001:db8::1
            satellite-interface: sat0
            signing-key-file: signing-key.pem
            """)
        #expect(settings.inventory.clients.isEmpty)
        #expect(settings.inventory.groups.isEmpty)
    }

    @Test func aGroupMayBeIPv6() throws {
        let settings = try parse(
            """
            identity: hub
            address: 2001:db8::1
            satellite-interface: sat0
            signing-key-file: signing-key.pem
            clients:
              - {name: site1, address: "2001:db8::11", psk-file: strong.psk}
            groups:
              - name: news
                id: 1
                control: "[ff18::1]:848"
                flows: [{source: any, destination: "ff18::2"}]
                members: [{client: site1, role: both}]
            """)
        let group = try #require(settings.inventory.groups.first)
        #expect(group.control == SocketAddress(try #require(IPAddress("ff18::1")), 848))
        #expect(group.flows.map(\.source) == [.allV6])
    }

    @Test func legacyAllowsAWeakKeyAndAWeakSuite() throws {
        let text = GoldenCases.goodServer.replacing(
            "psk-file: strong.psk\nranges", with: "psk-file: short.psk\n    legacy: true\nranges")
        let client = try parse(text).inventory.clients[1]
        #expect(client.preSharedKey == Secret(Array("9f2c41d07be85a6".utf8)))
    }

    /// Judged by Python's `cryptography`: HKDF-SHA256 without salt, info `SatIPSec pre-shared key` NUL `site1`.
    @Test func derivedKeysFollowFromProvisioningKeyAndName() throws {
        let client = try parse(GoldenCases.goodServer).inventory.clients[0]
        #expect(client.preSharedKey == Secret(Array(derivedForSite1.utf8)))
    }

    @Test func aliasesAndAnchorsWork() throws {
        let text = GoldenCases.goodServer.replacing("    address: 10.0.1", with: "    address: 10.0.1")
            .replacing("flows:", with: "flows: &all").replacing("ship1, ship2", with: "ship1, &second ship2")
        #expect(try parse(text).inventory.ranges[0].members == ["ship1", "ship2"])
    }

    @Test func tenThousandClientsLoad() throws {
        var text = "identity: hub\naddress: 10.0.0.1\nsatellite-interface: sat0\nsigning-key-file: signing-key.pem\n"
        text += "provisioning-key-file: provisioning.key\nclients:\n"
        for number in 0..<10_000 {
            text += "  - {name: site\(number), address: 10.1.\(number / 250).\(number % 250 + 1), psk: derived}\n"
        }
        text += "groups:\n  - name: all\n    id: 1\n    control: 239.255.0.1:848\n"
        text += "    flows: [{source: any, destination: 239.1.1.1}]\n    members:\n"
        for number in 0..<10_000 {
            text += "      - {client: site\(number), role: \(number == 0 ? "both" : "receiver")}\n"
        }
        let settings = try parse(text)
        #expect(settings.inventory.clients.count == 10_000)
        #expect(settings.inventory.groups[0].members.count == 10_000)
    }

    @Test func moreProblemsThanAnyoneReadsAreCounted() throws {
        var text = "identity: hub\naddress: 10.0.0.1\nsatellite-interface: sat0\nsigning-key-file: signing-key.pem\n"
        text += "clients:\n"
        for number in 0..<500 { text += "  - {name: site\(number), address: 10.1.1.1, psk-file: strong.psk}\n" }
        let error = #expect(throws: SettingsError.self) { try parse(text) }
        #expect(error?.problems.count == 201)
        #expect(error?.problems.last?.what == "299 more problems are not shown")
    }

    /// Files that are slightly wrong everywhere: each is refused or accepted, none stops the program.
    @Test(arguments: [UInt64(1), 2, 3, 4]) func noSlipOfAFingerIsFatal(seed: UInt64) {
        let random = SeededRandom(seed: seed)
        let pieces = [
            "\n", " ", ":", "-", "[", "]", "{", "}", "\"", "'", "#", "&a", "*a", "!", "|", ">", "%", "~", "é", "0",
        ]
        for _ in 0..<200 {
            var text = Array(full)
            for _ in 0..<(1 + random.number(below: 3)) {
                let position = Int(random.number(below: UInt64(text.count)))
                if random.number(below: 2) == 0 {
                    text.remove(at: position)
                } else {
                    text.insert(contentsOf: pieces[Int(random.number(below: UInt64(pieces.count)))], at: position)
                }
            }
            do throws(SettingsError) {
                _ = try ServerSettings.parse(String(text), file: folder.path + "/gcks.yaml")
            } catch {
                #expect(!error.problems.isEmpty)
                #expect(error.problems.allSatisfy { !$0.description.contains("\n") })
            }
        }
    }

    private let derivedForSite1 = "2e57c247cb5fe01f114ec8c0c1131dd4897ba7a14abbbc06e87a68244ae67586"

    private let full = """
        identity: hub.example
        address: 10.0.0.1
        port: 1848
        nat-port: 14500
        satellite-interface: sat0
        control-socket: gcks.sock
        signing-key-file: signing-key.pem
        phase1:
          suites: [aes128-sha1-modp2048, aes256-sha384-x25519]
          lifetime: 2h
          dead-peer-interval: off
          legacy: false
        clients:
          - name: site1
            address: 10.0.0.11
            psk-file: strong.psk
            suites: [des-md5-modp768]
            legacy: true
          - name: site2
            address: 10.0.0.12
            psk-file: strong.psk
        ranges:
          - name: north
            addresses: 10.0.1.0/24
            psk-file: strong.psk
            members: [ship1, ship2]
        groups:
          - name: news
            id: 7
            control: 239.255.0.1:1848
            flows:
              - source: 192.168.0.0/16
                destination: 239.1.1.1
                protocol: udp
                source-port: 5000
                destination-port: 5004
              - source: any
                destination: 239.1.1.2
            suite: aes128-sha256
            members:
              - {client: site1, role: sender}
              - {client: site2, role: both}
              - {client: ship1}
            lifetime: {data: 10min, kek: 1d, volume: 1GiB}
            rollover: {activate-after: 1.5s, keep-old: 3s, commit-at: 99.9%}
            push:
              copies: 3
              proactive: 1.35
              adapt: false
              block-size: 64
              feedback: census 32
              confirm-within: 90s
              spread: 400ms
              repair-rounds: 4
              control-rate: 256kbit/s
              return-rate: 9600bit/s
              round-trip: 550ms
              unicast-below: 5
              beacon-interval: 2min
            revocation: flat
        """
}
