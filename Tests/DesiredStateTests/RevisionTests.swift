// SPDX-License-Identifier: Apache-2.0

import Basics
import Cryptography
import Foundation
import IKEv1
import KeyServer
import Settings
import Store
import Testing

@testable import DesiredState

/// A key server's folder for one test.
private final class Site {
    let path = NSTemporaryDirectory() + "desired-" + UUID().uuidString

    init() throws {
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        try write("signing-key.pem", SigningKey.generate(.ecdsaP256).pem().revealed())
        try write("provisioning.key", Array("5a1f0c77e9d04b3892c6ab5e11f7d3600b9ae24d8c7f315642e8d09bb1a6fc37\n".utf8))
        try write("site2.psk", Array("9f2c41d07be85a6613f0c8d9a274b35e\n".utf8))
        try write("ships.psk", Array("0b9ae24d8c7f315642e8d09bb1a6fc37\n".utf8))
    }

    deinit { try? FileManager.default.removeItem(atPath: path) }

    func write(_ name: String, _ content: [UInt8]) throws {
        try Data(content).write(to: URL(fileURLWithPath: path + "/" + name))
        try FileManager.default.setAttributes([.posixPermissions: 0o600], ofItemAtPath: path + "/" + name)
    }

    func settings(_ inventory: String = Site.inventory) throws -> ServerSettings {
        let head = """
            identity: gcks
            address: 10.0.0.1
            satellite-interface: sat0
            signing-key-file: signing-key.pem
            provisioning-key-file: provisioning.key

            """
        try write("gcks.yaml", Array((head + inventory).utf8))
        return try ServerSettings.load(path: path + "/gcks.yaml")
    }

    static let inventory = """
        clients:
          - {name: hub, address: 10.0.0.2, psk: derived}
          - {name: site2, address: 10.0.0.3, psk-file: site2.psk, legacy: true,
             suites: [aes128-sha256-x25519, 3des-md5-modp1024]}
        ranges:
          - {name: ships, addresses: 10.0.1.0/24, psk-file: ships.psk, members: [ship1, "null"]}
        groups:
          - name: news
            id: 7
            control: 239.255.0.1:848
            flows:
              - {source: 192.168.1.0/24, destination: 239.1.1.1, protocol: udp, destination-port: 5004}
              - {source: "2001:db8:1::/64", destination: "ff18::2"}
              - {source: any, destination: 239.1.1.2}
            suite: aes128-md5
            legacy: true
            members:
              - {client: hub, role: both}
              - {client: site2, role: receiver}
              - {client: "null", role: sender}
            lifetime: {data: 90s, kek: 1.5h, volume: 3MiB}
            rollover: {activate-after: 1500ms, keep-old: 0s, commit-at: 99.95%}
            push: {copies: 3, proactive: 1.25, adapt: false, feedback: census 64, confirm-within: 5min,
                   spread: 150ms, control-rate: 96kbit/s, unicast-below: 2}
            revocation: lkh
            backward-secrecy: true
        vpns:
          - name: hub-site2
            id: 1001
            ends: [hub, site2]
            flows:
              - {source: 192.168.1.0/24, destination: 192.168.2.0/24}
              - {source: "2001:db8::1/128", destination: "2001:db8::2/128", protocol: tcp, destination-port: 443}
            suite: aes256-sha256
            extended-sequence: false
            lifetime: {data: 90s, volume: 3MiB}
            rollover: {keep-old: 1500ms}
        """
}

@Suite struct RevisionTests {
    private let site: Site
    private let store = MemoryStore()
    private let settings: ServerSettings
    private let history: RevisionHistory

    init() throws {
        site = try Site()
        settings = try site.settings()
        history = try RevisionHistory(store)
    }

    private func keep(_ inventory: Inventory, _ source: RevisionSource = .command, comment: String = "") {
        let draft = history.draft(
            inventory, source: source, author: "uid 0", comment: comment, microseconds: 1_700_000_000_000_000)
        store.apply(draft.changes)
        history.accept(draft)
    }

    /// Every key of the file, to a revision, to a file, to the engine and back.
    @Test func aRevisionReadsBackAsTheSame() throws {
        keep(settings.inventory, .configurationFile)
        let again = try RevisionHistory(store)
        #expect(again.newest == 1 && again.ofFile == 1)
        let stored = try again.inventory(1, for: settings)
        #expect(settings.inventory.changes(to: stored).isEmpty && stored.changes(to: settings.inventory).isEmpty)
        #expect(stored.clients.map(\.preSharedKey) == settings.inventory.clients.map(\.preSharedKey))
        #expect(stored.ranges[0].preSharedKey == settings.inventory.ranges[0].preSharedKey)
        #expect(stored.groups[0].push == settings.inventory.groups[0].push)
        #expect(stored.groups[0].rollover == settings.inventory.groups[0].rollover)
        #expect(stored.groups[0].flows == settings.inventory.groups[0].flows)

        let text = try again.export(1, for: settings)
        let (read, needsRestart) = try settings.read(inventory: text, file: "export") { again.key($0, of: $1) }
        #expect(settings.inventory.changes(to: read).isEmpty && needsRestart.isEmpty)
        #expect(text.contains("name: hub, address: 10.0.0.2, psk: derived"))
        #expect(text.contains("psk: revision-1"))
        let keys = ["9f2c41d07be85a6613f0c8d9a274b35e", "0b9ae24d8c7f315642e8d09bb1a6fc37"]
        #expect(keys.allSatisfy { !text.contains($0) }, "a secret stands in an exported file")
        let inside = try #require(store.value(of: "desired/1/inventory")).revealed()
        #expect(keys.allSatisfy { inside.firstRange(of: Array($0.utf8)) != nil }, "but in the sealed record")
    }

    @Test func aKeyComesBackAfterItsFileChangedOrIsGone() throws {
        keep(settings.inventory, .configurationFile)
        let old = settings.inventory.clients[1].preSharedKey
        try site.write("site2.psk", Array("ffffc41d07be85a6613f0c8d9a2aaaaa\n".utf8))
        let changed = try site.settings()
        #expect(settings.inventory.changes(to: changed.inventory).map(\.details) == [["key"]])
        keep(changed.inventory)
        try FileManager.default.removeItem(atPath: site.path + "/site2.psk")
        #expect(try history.inventory(1, for: settings).clients[1].preSharedKey == old)
        #expect(try history.inventory(2, for: settings).clients[1].preSharedKey != old)
        // Also where the key that others are derived from is another by now.
        try site.write("site2.psk", Array("ffffc41d07be85a6613f0c8d9a2aaaaa\n".utf8))
        try site.write(
            "provisioning.key", Array("0c77e9d04b3892c6ab5e11f7d3600b9ae24d8c7f315642e8d09bb1a6fc375a1f\n".utf8))
        let derived = try site.settings()
        #expect(derived.inventory.clients[0].preSharedKey != settings.inventory.clients[0].preSharedKey)
        let text = try history.export(1, for: derived)
        #expect(!text.contains("derived"))
        let read = try derived.read(inventory: text, file: "export") { [history] in history.key($0, of: $1) }
        #expect(settings.inventory.changes(to: read.inventory).isEmpty)
    }

    @Test func theHistorySaysWhoWhenAndWhy() throws {
        keep(settings.inventory, .configurationFile)
        var other = settings.inventory
        other.groups[0].members.removeLast()
        keep(other, comment: "too noisy")
        keep(settings.inventory, .rollback(to: 1))
        let list = try history.list()
        #expect(list.map(\.number) == [3, 2, 1])
        #expect(list.map(\.source) == [.rollback(to: 1), .command, .configurationFile])
        #expect(list.map { "\($0.source)" } == ["rollback to 1", "apply", "config file"])
        #expect(list.map(\.comment) == ["", "too noisy", ""] && list.allSatisfy { $0.author == "uid 0" })
        #expect(list[0].madeAt == 1_700_000_000_000_000)
        let changes = try history.inventory(1, for: settings).changes(to: history.inventory(2, for: settings))
        #expect(changes == [ApplyReport.Change(.member, .removed, "null", group: "news")])
        #expect(throws: UnknownRevision(number: 9)) { try history.inventory(9, for: settings) }
        #expect(try history.revision(9) == nil)
    }

    @Test func oldRevisionsGoButThatOfTheFileStays() throws {
        keep(settings.inventory, .configurationFile)
        for number in 0..<(RevisionHistory.kept + 5) { keep(settings.inventory, comment: "\(number)") }
        let newest = history.newest
        #expect(newest == RevisionHistory.kept + 6)
        var numbers = try history.list().map(\.number)
        #expect(numbers.first == newest && numbers.last == 1 && numbers.count == Int(RevisionHistory.kept) + 1)
        #expect(try history.inventory(1, for: settings).clients.count == 2)
        #expect(throws: UnknownRevision(number: 5)) { try history.inventory(5, for: settings) }
        store.apply(history.noteFile())
        #expect(history.ofFile == newest && history.noteFile().isEmpty)
        numbers = try RevisionHistory(store).list().map(\.number)
        #expect(numbers.count == Int(RevisionHistory.kept) && !numbers.contains(1))
    }

    @Test func damagedRecordsAreNamed() throws {
        keep(settings.inventory, .configurationFile)
        for name in ["desired/1", "desired/1/inventory"] {
            let good = try #require(store.value(of: name))
            var bad = [Secret([]), good[0..<(good.count - 1)], Secret(good.revealed() + [0])]
            bad.append(Secret([9] + good.revealed().dropFirst()))
            for count in stride(from: 1, to: good.count, by: 37) { bad.append(good[0..<count]) }
            for value in bad {
                store.put([Record(name, value)])
                #expect(throws: UnreadableRecord(name: name)) {
                    _ = try history.revision(1)
                    _ = try history.inventory(1, for: settings)
                }
            }
            store.put([Record(name, good)])
        }
        store.put([Record("desired/current", Secret([1]))])
        #expect(throws: UnreadableRecord(name: "desired/current")) { try RevisionHistory(store) }
    }

    @Test func anInventoryFileMeansWhatItLeavesOutOnlyWhereThatIsClear() throws {
        func problems(_ text: String) -> [String] {
            do {
                _ = try settings.read(inventory: text, file: "inventory.yaml") { [history] in history.key($0, of: $1) }
                return []
            } catch {
                return error.problems.map { "\($0.line): \($0.path): \($0.what)" }
            }
        }
        #expect(problems("clients: []\n") == ["1: groups: is missing"])
        #expect(problems("groups: []\n") == ["1: clients: is missing"])
        #expect(problems("clients: []\ngroups: []\n") == [])
        #expect(
            problems("clients:\n  - {name: a, address: 10.0.0.9, psk: revision-4}\ngroups: []\n") == [
                "2: clients[a].psk: revision 4 is not there, or has no key of this name"
            ])
        #expect(
            problems("clients:\n  - {name: a, address: 10.0.0.9, psk: revision-x}\ngroups: []\n") == [
                "2: clients[a].psk: a key does not stand in this file"
            ])
        #expect(problems("clients: []\ngroups: []\nbanana: 1\n").count == 1)
        // A whole file is read as one, and what it cannot change is said.
        let whole = try String(contentsOfFile: site.path + "/gcks.yaml", encoding: .utf8)
        let read = try settings.read(
            inventory: whole.replacing("address: 10.0.0.1\n", with: "address: 10.0.0.1\nport: 849\n")
                .replacing("239.255.0.1:848", with: "239.255.0.1:849"), file: site.path + "/gcks.yaml"
        ) { _, _ in nil }
        #expect(read.needsRestart == ["port"])
        #expect(settings.inventory.changes(to: read.inventory).map(\.details) == [["control"]])
    }
}
