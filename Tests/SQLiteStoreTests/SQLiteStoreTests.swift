// SPDX-License-Identifier: Apache-2.0

import Basics
import CSQLite
import Cryptography
import Foundation
import SQLiteStore
import Store
import Testing

@Suite struct SQLiteStoreTests {
    private let random = SeededRandom(seed: 7)
    private let key = Secret(Array(UInt8(1)...32))

    /// A folder of its own for one test.
    private final class Folder {
        let url = FileManager.default.temporaryDirectory.appendingPathComponent("sqlite-store-\(UUID().uuidString)")
        var file: String { url.appendingPathComponent("state.db").path }

        init() throws { try FileManager.default.createDirectory(at: url, withIntermediateDirectories: true) }
        deinit { try? FileManager.default.removeItem(at: url) }
    }

    private func open(_ folder: Folder, key: Secret? = nil) throws -> SQLiteStore {
        try SQLiteStore(path: folder.file, masterKey: key ?? self.key, random: random)
    }

    /// Does to a closed store what somebody without the key could do.
    private func tamper(_ folder: Folder, _ statement: String) throws {
        var connection: OpaquePointer?
        try #require(sqlite3_open(folder.file, &connection) == SQLITE_OK)
        defer { sqlite3_close(connection) }
        try #require(sqlite3_exec(connection, statement, nil, nil, nil) == SQLITE_OK)
    }

    @Test func whatIsPutIsThereAfterReopening() throws {
        let folder = try Folder()
        do {
            let store = try open(folder)
            try store.put([Record("group/1/epoch", Secret([1])), Record("group/1/sequence", Secret([2, 3]))])
            try store.put([Record("group/1/epoch", Secret([9])), Record("group/10/epoch", Secret([]))])
            try store.put([])
        }
        let store = try open(folder)
        #expect(try store.value(of: "group/1/epoch") == Secret([9]))
        #expect(try store.value(of: "group/1/sequence") == Secret([2, 3]))
        #expect(try store.value(of: "group/10/epoch") == Secret([]))
        #expect(try store.value(of: "group/2/epoch") == nil)
    }

    @Test func aRangeIsTheNamesThatStartSoInOrder() throws {
        let folder = try Folder()
        let store = try open(folder)
        let names = ["b", "a/2", "a/10", "a", "a/1", "aé", "A/1", "a0"]
        try store.put(names.map { Record($0, Secret(Array($0.utf8))) })
        #expect(try store.records(under: "a/").map(\.name) == ["a/1", "a/10", "a/2"])
        #expect(try store.records(under: "a").map(\.name) == ["a", "a/1", "a/10", "a/2", "a0", "aé"])
        #expect(try store.records(under: "").count == names.count)
        #expect(try store.records(under: "c").isEmpty)
        #expect(try store.records(under: "b").first?.value == Secret(Array("b".utf8)))
    }

    @Test func itDoesTheSameAsTheStoreInMemory() throws {
        let folder = try Folder()
        let (store, model) = (try open(folder), MemoryStore())
        for _ in 0..<200 {
            let records = (0..<random.number(below: 4)).map { _ in
                Record("r/\(random.number(below: 20))", Secret(random.bytes(Int(random.number(below: 50)))))
            }
            try store.put(records)
            model.put(records)
        }
        #expect(try store.records(under: "") == model.records(under: ""))
    }

    @Test func noValueStandsInTheFile() throws {
        let folder = try Folder()
        let value = Array("a key that must not be readable".utf8)
        do {
            let store = try open(folder)
            try store.put([Record("x", Secret(value))])
            try store.put([Record("x", Secret(value + [0]))])
        }
        for name in try FileManager.default.contentsOfDirectory(atPath: folder.url.path) {
            let content = try Data(contentsOf: folder.url.appendingPathComponent(name))
            #expect(content.range(of: Data(value)) == nil, "in \(name)")
        }
        let mode = try FileManager.default.attributesOfItem(atPath: folder.file)[.posixPermissions] as? Int
        #expect(mode == 0o600)
    }

    @Test func anotherMasterKeyIsRefusedAndChangesNothing() throws {
        let folder = try Folder()
        do { try open(folder).put([Record("x", Secret([1]))]) }
        let before = try Data(contentsOf: URL(fileURLWithPath: folder.file))
        let other = Secret(Array(UInt8(2)...33))
        #expect(throws: StoreError.wrongKey) { try open(folder, key: other) }
        #expect(throws: StoreError.wrongKey) { try open(folder, key: Secret([1, 2, 3])) }
        #expect(try Data(contentsOf: URL(fileURLWithPath: folder.file)) == before)
        #expect(try open(folder).value(of: "x") == Secret([1]))
    }

    @Test func aSecondOneIsKeptOut() throws {
        let folder = try Folder()
        let first = try open(folder)
        #expect(throws: StoreError.inUse) { try open(folder) }
        try first.put([Record("x", Secret([1]))])
        #expect(try first.value(of: "x") == Secret([1]))
    }

    @Test(arguments: [
        "UPDATE record SET sealed = (SELECT sealed FROM record WHERE name = 'b') WHERE name = 'a'",
        "UPDATE record SET revision = revision + 1 WHERE name = 'a'",
        "UPDATE record SET revision = -1 WHERE name = 'a'",
        "UPDATE record SET sealed = zeroblob(40) WHERE name = 'a'",
        "UPDATE record SET sealed = x'' WHERE name = 'a'",
        "UPDATE record SET sealed = substr(sealed, 1, length(sealed) - 1) WHERE name = 'a'",
        "UPDATE record SET sealed = CAST(substr(sealed, 1, length(sealed) - 1) || x'00' AS BLOB) WHERE name = 'a'",
        "DELETE FROM record WHERE name = 'a'; UPDATE record SET name = 'a' WHERE name = 'c'",
    ])
    func aChangedRecordIsNoticed(_ statement: String) throws {
        let folder = try Folder()
        do {
            let store = try open(folder)
            try store.put([Record("a", Secret([1, 2, 3])), Record("c", Secret([1]))])
            try store.put([Record("a", Secret([4, 5, 6]))])
            try store.put([Record("b", Secret([7, 8, 9]))])
        }
        try tamper(folder, statement)
        let store = try open(folder)
        #expect(throws: StoreError.corrupt) { try store.value(of: "a") }
        #expect(throws: StoreError.corrupt) { try store.records(under: "") }
    }

    @Test func anOldValueOfTheSameNameIsNoticed() throws {
        let folder = try Folder()
        do { try open(folder).put([Record("a", Secret([1]))]) }
        try tamper(folder, "CREATE TABLE kept AS SELECT sealed FROM record WHERE name = 'a'")
        do { try open(folder).put([Record("a", Secret([2]))]) }
        try tamper(folder, "UPDATE record SET sealed = (SELECT sealed FROM kept) WHERE name = 'a'")
        let store = try open(folder)
        #expect(throws: StoreError.corrupt) { try store.value(of: "a") }
    }

    @Test func foreignFilesStayAsTheyAre() throws {
        for content in [Data("a letter to somebody, long enough to be no empty database at all".utf8), Data([0])] {
            let folder = try Folder()
            try content.write(to: URL(fileURLWithPath: folder.file))
            #expect(throws: StoreError.unknownFormat("not an SQLite database")) { try open(folder) }
            #expect(try Data(contentsOf: URL(fileURLWithPath: folder.file)) == content)
        }
        let folder = try Folder()
        try tamper(folder, "CREATE TABLE theirs (x)")
        #expect(throws: StoreError.unknownFormat("application id 0")) { try open(folder) }
    }

    @Test func aLaterLayoutIsRefused() throws {
        let folder = try Folder()
        do { try open(folder).put([Record("a", Secret([1]))]) }
        try tamper(folder, "PRAGMA user_version = 2")
        #expect(throws: StoreError.unknownFormat("layout 2")) { try open(folder) }
    }

    @Test func aFolderThatIsNotThereIsSaid() throws {
        #expect(throws: StoreError.unavailable("No such file or directory")) {
            try SQLiteStore(path: "/nowhere/at/all/state.db", masterKey: key, random: random)
        }
    }

    @Test func aPutThatFailsLeavesNothingBehind() throws {
        let folder = try Folder()
        do { try open(folder).put([Record("a", Secret([1]))]) }
        // The second record of the put runs into this; a full disk would look the same.
        try tamper(
            folder,
            "CREATE TRIGGER full BEFORE INSERT ON record WHEN NEW.name = 'b' BEGIN SELECT RAISE(ABORT, 'full'); END")
        let store = try open(folder)
        #expect(throws: StoreError.self) { try store.put([Record("a", Secret([2])), Record("b", Secret([3]))]) }
        #expect(try store.value(of: "a") == Secret([1]))
        #expect(try store.value(of: "b") == nil)
        try store.put([Record("c", Secret([4]))])
        #expect(try store.value(of: "c") == Secret([4]))
    }
}

@Suite struct RecordSealTests {
    @Test func everyOctetOfASealCounts() throws {
        let random = SeededRandom(seed: 1)
        let seal = RecordSeal(masterKey: Secret(random: random, count: 32), storeID: random.bytes(16))
        let value = Secret(Array("value".utf8))
        let sealed = try seal.seal(value, name: "n", revision: 5, random: random)
        #expect(try seal.open(sealed, name: "n", revision: 5) == value)
        for position in sealed.indices {
            var changed = sealed
            changed[position] ^= 1
            #expect(throws: StoreError.corrupt) { try seal.open(changed, name: "n", revision: 5) }
            #expect(throws: StoreError.corrupt) { try seal.open(Array(sealed[..<position]), name: "n", revision: 5) }
        }
        #expect(throws: StoreError.corrupt) { try seal.open(sealed, name: "m", revision: 5) }
        #expect(throws: StoreError.corrupt) { try seal.open(sealed, name: "n", revision: 6) }
        #expect(try seal.seal(value, name: "n", revision: 5, random: random) != sealed)
    }

    @Test func anotherStoreHasOtherKeys() throws {
        let random = SeededRandom(seed: 1)
        let master = Secret(random: random, count: 32)
        let (one, other) = (
            RecordSeal(masterKey: master, storeID: random.bytes(16)),
            RecordSeal(masterKey: master, storeID: random.bytes(16))
        )
        let sealed = try one.seal(Secret([1]), name: "n", revision: 1, random: random)
        #expect(throws: StoreError.corrupt) { try other.open(sealed, name: "n", revision: 1) }
    }
}
