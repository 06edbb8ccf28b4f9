// SPDX-License-Identifier: Apache-2.0

import Basics
import Cryptography
import Foundation
import IKEv1
import KeyServer
import Testing

@testable import Settings

@Suite struct ClientSettingsTests {
    let folder: Folder

    init() throws { folder = try Folder.withKeys() }

    @Test func aPolicyIsAnOrderedList() throws {
        let rules = """
            policy:
              - {action: bypass, source: 192.168.1.0/24, destination: 10.9.0.1, protocol: udp, destination-port: 123}
              - {action: protect, source: 192.168.1.7, destination: 239.1.1.1}
              - {action: discard, source: any, destination: 239.1.1.1, protocol: 17, source-port: 9}

            """
        let policy = try ClientSettings.parse(
            GoldenCases.goodClient + rules, file: folder.path + "/satipsec.yaml"
        ).policy
        let texts = policy.map { "\($0.action) \($0.selector)" }
        #expect(
            texts == [
                "bypass 192.168.1.0/24 -> 10.9.0.1/32 port 123 proto 17", "protect 192.168.1.7/32 -> 239.1.1.1/32",
                "discard 0.0.0.0/0 port 9 -> 239.1.1.1/32 proto 17",
            ])
    }

    @Test func everyKeyBecomesItsValue() throws {
        let text = """
            name: site1.example
            gcks: {address: 10.0.0.1, port: 1848, nat-port: 14500, identity: hub.example}
            address: 10.0.0.11
            psk-file: words.psk
            phase1: {suites: [blowfish128-sha1-modp1536], lifetime: 1h, dead-peer-interval: 10s, legacy: true}
            satellite-interface: sat0
            terrestrial-interface: lan0
            data-plane: xfrm
            tunnel-interface: tun7
            link-mtu: 1400
            control-socket: /run/site1.sock
            guard: off
            packet-path: portable
            retry: {first: 500ms, most: 30s}
            """
        let settings = try ClientSettings.parse(text, file: folder.path + "/satipsec.yaml")
        #expect(settings.name == "site1.example")
        #expect(settings.gcks.address == .v4(10, 0, 0, 1))
        #expect(settings.gcks.port == 1848)
        #expect(settings.gcks.natPort == 14500)
        #expect(settings.gcks.identity == "hub.example")
        #expect(settings.address == .v4(10, 0, 0, 11))
        #expect(settings.preSharedKey == Secret(Array("correct horse battery staple".utf8)))
        #expect(settings.phase1.suites.map(\.description) == ["blowfish128-sha1-modp1536"])
        #expect(settings.phase1.lifetime == .seconds(3_600))
        #expect(settings.phase1.deadPeerInterval == .seconds(10))
        #expect(settings.satelliteInterface == "sat0")
        #expect(settings.terrestrialInterface == "lan0")
        #expect(settings.dataPlane == .xfrm)
        #expect(settings.tunnelInterface == "tun7")
        #expect(settings.linkMTU == 1_400)
        #expect(settings.controlSocket == "/run/site1.sock")
        #expect(settings.failClosedGuard == .off)
        #expect(settings.packetPath == .portable)
        #expect(settings.retry == ClientSettings.Retry(first: .milliseconds(500), most: .seconds(30)))
    }

    @Test func headersOfEncryptedPackets() throws {
        func parse(_ line: String) throws -> ClientSettings {
            try ClientSettings.parse(GoldenCases.goodClient + "\n\(line)\n", file: folder.path + "/satipsec.yaml")
        }
        #expect(try parse("mss-clamp: on").segmentClamp == .on)
        #expect(try parse("dscp: 46").outerDSCP == 46 && parse("dscp: 0").outerDSCP == 0)
        #expect(try parse("dscp: copy").outerDSCP == nil)
        #expect(try parse("outer-df: set").outerDF == .set && parse("outer-df: clear").outerDF == .clear)
        #expect(try parse("mss-clamp: on").outerDF == .copy)
    }

    @Test func whatIsLeftOutHasItsDefault() throws {
        let settings = try ClientSettings.parse(GoldenCases.goodClient, file: folder.path + "/satipsec.yaml")
        #expect(settings.gcks.port == 848)
        #expect(settings.gcks.natPort == 4500)
        #expect(settings.address == nil)
        #expect(settings.phase1.suites == [.standard])
        #expect(settings.policy.isEmpty)
        #expect(settings.dataPlane == .userspace)
        #expect(settings.tunnelInterface == "tun0")
        #expect(settings.linkMTU == 1_500)
        #expect(settings.controlSocket == "/run/satipsec/satipsec.sock")
        #expect(settings.failClosedGuard == .required)
        #expect(settings.segmentClamp == .off && settings.outerDSCP == nil)
        #expect(settings.packetPath == .automatic)
        #expect(settings.retry == ClientSettings.Retry())
    }

    @Test func aFileThatIsNotThereIsOneProblem() {
        let error = #expect(throws: SettingsError.self) { try ClientSettings.load(path: folder.path + "/none.yaml") }
        #expect(error?.problems.map(\.what) == ["cannot read \(folder.path)/none.yaml: No such file or directory"])
    }

    @Test func aFileThatIsNoTextIsOneProblem() throws {
        try folder.write("bad.yaml", [0x6e, 0xff, 0xfe])
        let error = #expect(throws: SettingsError.self) { try ClientSettings.load(path: folder.path + "/bad.yaml") }
        #expect(error?.problems.map(\.what) == ["is not UTF-8 text"])
    }

    @Test(arguments: ["", "# nothing\n", "~\n", "- a\n", "word\n", "---\n...\n"])
    func aFileWithoutKeysIsAProblem(_ text: String) {
        #expect(throws: SettingsError.self) { try ClientSettings.parse(text, file: "satipsec.yaml") }
    }
}

/// The control socket's path is all that a command needs, whatever else is wrong or unreadable.
@Suite struct ControlSocketTests {
    let folder: Folder

    init() throws { folder = try Folder() }

    @Test func isFoundInAFileWithProblems() throws {
        try folder.write("gcks.yaml", "control-socket: here.sock\nsigning-key-file: none.pem\nbanana: 1\n")
        #expect(try ServerSettings.controlSocket(inFile: folder.path + "/gcks.yaml") == folder.path + "/here.sock")
    }

    @Test func hasADefault() throws {
        try folder.write("satipsec.yaml", "name: site1\n")
        #expect(
            try ClientSettings.controlSocket(inFile: folder.path + "/satipsec.yaml") == "/run/satipsec/satipsec.sock")
    }

    @Test func isNotGuessedFromAFileThatCannotBeRead() throws {
        try folder.write("gcks.yaml", "control-socket: \"unfinished\n")
        #expect(throws: SettingsError.self) { try ServerSettings.controlSocket(inFile: folder.path + "/gcks.yaml") }
        try folder.write("gcks.yaml", "control-socket: [a]\n")
        #expect(throws: SettingsError.self) { try ServerSettings.controlSocket(inFile: folder.path + "/gcks.yaml") }
    }
}

/// The samples in the tree, with the secret files they name beside them.
@Suite struct SampleTests {
    private static let samples = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .deletingLastPathComponent().appendingPathComponent("configs")

    private static func sample(_ name: String) throws -> [UInt8] {
        [UInt8](try Data(contentsOf: samples.appendingPathComponent(name)))
    }

    @Test func serverSampleLoads() throws {
        let folder = try Folder.withKeys()
        try folder.write("gcks.yaml", Self.sample("gcks.yaml"), mode: 0o644)
        for name in ["site2.psk", "ships.psk"] { try folder.write(name, "9f2c41d07be85a6613f0c8d9a274b35e\n") }
        try folder.write("old-modem.psk", "modem\n")
        try folder.write("master.key", String(repeating: "9f2c41d07be85a66", count: 4) + "\n")
        let settings = try ServerSettings.load(path: folder.path + "/gcks.yaml")
        #expect(settings.inventory.clients.map(\.name) == ["hub", "site1", "site2", "old-modem"])
        #expect(settings.inventory.groups.map(\.name) == ["news", "radio"])
    }

    @Test func clientSampleLoads() throws {
        let folder = try Folder()
        try folder.write("satipsec.yaml", Self.sample("satipsec.yaml"), mode: 0o644)
        try folder.write("site1.psk", "9f2c41d07be85a6613f0c8d9a274b35e\n")
        let settings = try ClientSettings.load(path: folder.path + "/satipsec.yaml")
        #expect(settings.name == "site1")
    }
}
