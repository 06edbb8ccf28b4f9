// SPDX-License-Identifier: Apache-2.0

public import Basics
internal import CSQLite
public import Cryptography
public import Store

// SQLiteStore owns the file in which a key server keeps its records: one SQLite database, every value sealed, each put
// one transaction that is on the disk when it returns. It knows nothing of what the records mean.

/// Records in an SQLite database.
///
/// One process at a time has it open. The file has mode 0600; its write-ahead log stands beside it.
@safe public final class SQLiteStore: RecordStore {
    /// "SIPS": what says that a database is ours (`PRAGMA application_id`).
    private static let applicationID = 0x5349_5053
    /// The layout of the tables (`PRAGMA user_version`).
    private static let layout = 1
    /// What stands sealed in each store: whoever has another key cannot open it.
    private static let check = Array("SatIPSec".utf8)

    public let path: String
    private let database: Database
    private let seal: RecordSeal
    private let random: any RandomSource
    /// The greatest of all records: it counts every write to the store, so that a name which is removed and comes back
    /// does not count anew.
    private var revision: Int
    /// Drawn when the store was made.
    let id: [UInt8]

    /// The number of the newest record.
    public var newestRevision: UInt64 { UInt64(clamping: revision) }

    /// Opens a store, or makes one where there is no file.
    ///
    /// - Parameter masterKey: 32 octets.
    /// - Throws: `unavailable`, `inUse`, `wrongKey`, `unknownFormat`; what is there stays as it is.
    public init(path: String, masterKey: Secret, random: any RandomSource) throws(StoreError) {
        guard masterKey.count == RecordSeal.masterKeySize else { throw .wrongKey }
        self.path = path
        self.random = random
        let database = try Database(path: path)
        // Held until the process ends: a second key server would give numbers twice.
        try database.run("PRAGMA locking_mode = EXCLUSIVE")
        try database.run("BEGIN IMMEDIATE")
        do throws(StoreError) {
            seal = try Self.prepare(database, masterKey: masterKey, random: random)
            try database.run("COMMIT")
        } catch {
            try? database.run("ROLLBACK")
            throw error
        }
        // Only now: what is not ours must not be changed, and the mode of the journal is part of the file.
        try database.run("PRAGMA journal_mode = WAL")
        try database.run("PRAGMA synchronous = FULL")
        revision = try database.number("SELECT max(revision) FROM record")
        id = try database.row("SELECT id FROM store", [])?.first?.octets ?? []
        self.database = database
    }

    /// Makes the tables or checks them.
    private static func prepare(
        _ database: Database, masterKey: Secret, random: any RandomSource
    ) throws(StoreError) -> RecordSeal {
        let id = try database.number("PRAGMA application_id")
        let layout = try database.number("PRAGMA user_version")
        guard id == applicationID else {
            guard id == 0, try database.number("SELECT count(*) FROM sqlite_schema") == 0 else {
                throw .unknownFormat("application id \(id)")
            }
            return try make(database, masterKey: masterKey, random: random)
        }
        guard layout == Self.layout else { throw .unknownFormat("layout \(layout)") }
        guard let row = try database.row("SELECT id, sealed FROM store", []), row.count == 2 else { throw .corrupt }
        let seal = RecordSeal(masterKey: masterKey, storeID: row[0].octets)
        guard let opened = try? seal.open(row[1].octets, name: "", revision: 0), opened == Secret(check) else {
            throw .wrongKey
        }
        return seal
    }

    private static func make(
        _ database: Database, masterKey: Secret, random: any RandomSource
    ) throws(StoreError) -> RecordSeal {
        let id = random.bytes(RecordSeal.storeIDSize)
        let seal = RecordSeal(masterKey: masterKey, storeID: id)
        try database.run("PRAGMA application_id = \(applicationID)")
        try database.run("PRAGMA user_version = \(layout)")
        try database.run("CREATE TABLE store (id BLOB NOT NULL, sealed BLOB NOT NULL) STRICT")
        try database.run(
            """
            CREATE TABLE record (
                name TEXT PRIMARY KEY NOT NULL, revision INTEGER NOT NULL, sealed BLOB NOT NULL
            ) STRICT, WITHOUT ROWID
            """)
        let sealed = try seal.seal(Secret(check), name: "", revision: 0, random: random)
        try database.execute("INSERT INTO store (id, sealed) VALUES (?, ?)", [.blob(id), .blob(sealed)])
        return seal
    }

    /// The database as a file would have it, all of one moment. The copy is made beside the file and removed again.
    func image() throws(StoreError) -> [UInt8] {
        let aside = path + ".copy"
        WholeFile.remove(aside)
        defer { WholeFile.remove(aside) }
        try database.copy(to: aside)
        return try WholeFile.read(aside)
    }

    // MARK: Records

    public func apply(_ changes: [RecordChange]) throws(StoreError) {
        guard !changes.isEmpty else { return }
        let before = revision
        try database.run("BEGIN IMMEDIATE")
        do throws(StoreError) {
            for change in changes {
                switch change {
                case .put(let record): try write(record)
                case .remove(let name): try database.execute("DELETE FROM record WHERE name = ?", [.text(name)])
                }
            }
            try database.run("COMMIT")
        } catch {
            try? database.run("ROLLBACK")
            revision = before
            throw error
        }
    }

    private func write(_ record: Record) throws(StoreError) {
        revision += 1
        let sealed = try seal.seal(
            record.value, name: record.name, revision: UInt64(clamping: revision), random: random)
        try database.execute(
            """
            INSERT INTO record (name, revision, sealed) VALUES (?1, ?2, ?3)
            ON CONFLICT (name) DO UPDATE SET revision = ?2, sealed = ?3
            """, [.text(record.name), .number(revision), .blob(sealed)])
    }

    public func value(of name: String) throws(StoreError) -> Secret? {
        let row = try database.row("SELECT revision, sealed FROM record WHERE name = ?", [.text(name)])
        guard let row else { return nil }
        return try open(row[1].octets, name: name, revision: row[0].number)
    }

    public func records(under prefix: String) throws(StoreError) -> [Record] {
        // By octets: a prefix is a range of names, and substr would count characters.
        let rows = try database.rows(
            "SELECT name, revision, sealed FROM record WHERE name >= ?1 ORDER BY name", [.text(prefix)]
        ) { row in row[0].text.utf8.starts(with: prefix.utf8) }
        var records: [Record] = []
        records.reserveCapacity(rows.count)
        for row in rows {
            let value = try open(row[2].octets, name: row[0].text, revision: row[1].number)
            records.append(Record(row[0].text, value))
        }
        return records
    }

    private func open(_ sealed: [UInt8], name: String, revision: Int) throws(StoreError) -> Secret {
        guard let revision = UInt64(exactly: revision) else { throw .corrupt }
        return try seal.open(sealed, name: name, revision: revision)
    }
}
