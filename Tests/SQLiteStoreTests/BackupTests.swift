// SPDX-License-Identifier: Apache-2.0
import Basics
import Cryptography
import Foundation
import SQLiteStore
import Store
import Testing

/// Copies of a store in one file.
@Suite struct BackupTests {
    private let key = Secret([UInt8](repeating: 3, count: 32))
    private let random = SeededRandom(seed: 5)

    private final class Folder {
        let path: String
        init() throws {
            path = NSTemporaryDirectory() + "backup-\(UInt64.random(in: 0 ... .max))"
            try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: false)
        }
        deinit { try? FileManager.default.removeItem(atPath: path) }
        func callAsFunction(_ name: String) -> String { path + "/" + name }
    }

    private func store(_ path: String) throws -> SQLiteStore {
        try SQLiteStore(path: path, masterKey: key, random: random)
    }

    @Test func aCopyOfAStoreInUseIsAllOfOneMoment() throws {
        let folder = try Folder()
        let original = try store(folder("state.db"))
        let records = (0..<300).map { Record("r/\($0)", Secret(random.bytes(100))) }
        try original.put(records)
        let octets = try StoreBackup(of: original, microseconds: 77).octets(masterKey: key)
        try original.put([Record("r/0", Secret([1])), Record("later", Secret([2]))])
        let backup = try StoreBackup(octets: octets, masterKey: key)
        #expect(backup.microseconds == 77 && backup.revision == 300 && original.newestRevision == 302)
        #expect(original.isSame(as: backup))
        try backup.unpack(to: folder("copy.db"))
        let attributes = try FileManager.default.attributesOfItem(atPath: folder("copy.db"))
        #expect(attributes[.posixPermissions] as? Int == 0o600)
        #expect(throws: StoreError.self) { try backup.unpack(to: folder("copy.db")) }
        let copy = try store(folder("copy.db"))
        #expect(Set(try copy.records(under: "").map(\.name)) == Set(records.map(\.name)))
        #expect(try copy.value(of: "r/0") == records[0].value)
        let left = try FileManager.default.contentsOfDirectory(atPath: folder.path).filter { !$0.contains(".db") }
        #expect(left == [] && !FileManager.default.fileExists(atPath: folder("state.db.copy")))
    }

    @Test func noSecretIsInTheClear() throws {
        let folder = try Folder()
        let original = try store(folder("state.db"))
        let secret = Array("a key that nobody may see".utf8)
        try original.put([Record("k", Secret(secret))])
        let octets = try StoreBackup(of: original, microseconds: 1).octets(masterKey: key)
        #expect(octets.firstRange(of: secret) == nil)
    }

    @Test func whatIsNotAsItWasWrittenIsRefused() throws {
        let folder = try Folder()
        let original = try store(folder("state.db"))
        try original.put([Record("a", Secret([1]))])
        let good = try StoreBackup(of: original, microseconds: 1).octets(masterKey: key)
        // All octets of the head, and some of the database.
        for place in Array(0..<200) + stride(from: 200, to: good.count, by: 97) {
            var bad = good
            bad[place] ^= 1
            #expect(throws: StoreBackup.Fault.self, "octet \(place)") { try StoreBackup(octets: bad, masterKey: key) }
        }
        for count in [0, 17, 18, 50, 121, 122, good.count - 1] {
            #expect(throws: StoreBackup.Fault.self) {
                try StoreBackup(octets: Array(good.prefix(count)), masterKey: key)
            }
        }
        #expect(throws: StoreBackup.Fault.damaged) { try StoreBackup(octets: good + [0], masterKey: key) }
        #expect(throws: StoreBackup.Fault.wrongKey) {
            try StoreBackup(octets: good, masterKey: Secret([UInt8](repeating: 4, count: 32)))
        }
        #expect(throws: StoreBackup.Fault.unknownFormat) {
            try StoreBackup(octets: Array(good.dropFirst()), masterKey: key)
        }
    }

    @Test func aFileIsThereWholeOrNotAtAll() throws {
        let folder = try Folder()
        try WholeFile.write([1, 2], to: folder("file"), replaces: false)
        #expect(throws: StoreError.self) { try WholeFile.write([3], to: folder("file"), replaces: false) }
        #expect(try WholeFile.read(folder("file")) == [1, 2])
        try WholeFile.write([4], to: folder("file"), replaces: true)
        #expect(try WholeFile.read(folder("file")) == [4])
        #expect(throws: StoreError.self) { try WholeFile.write([3], to: folder("none/file"), replaces: true) }
        #expect(throws: StoreError.self) { try WholeFile.read(folder.path) }
        #expect(try FileManager.default.contentsOfDirectory(atPath: folder.path) == ["file"])
    }
}
