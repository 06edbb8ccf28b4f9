// SPDX-License-Identifier: Apache-2.0

internal import CSQLite
internal import Glibc
internal import Store

/// A value in a row, or one to put into a statement.
enum Column {
    case number(Int)
    case text(String)
    case blob([UInt8])

    /// 0 for what is no number.
    var number: Int { if case .number(let value) = self { value } else { 0 } }
    /// Empty for what is no text.
    var text: String { if case .text(let value) = self { value } else { "" } }
    /// Empty for what is no blob.
    var octets: [UInt8] { if case .blob(let value) = self { value } else { [] } }
}

/// What we use of SQLite: one connection, statements prepared once.
@safe final class Database {
    /// What each database file starts with.
    private static let magic = Array("SQLite format 3\0".utf8)

    private let connection: OpaquePointer
    private var statements: [String: OpaquePointer]

    /// Opens a file, or makes it with mode 0600.
    init(path: String) throws(StoreError) {
        // SQLite would make it with what the umask leaves, and would take a short file that is none of its own for an
        // empty database.
        let descriptor = unsafe Glibc.open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { throw .unavailable(unsafe String(cString: strerror(errno))) }
        var start = [UInt8](repeating: 0, count: Self.magic.count)
        let count = unsafe read(descriptor, &start, start.count)
        close(descriptor)
        guard count == 0 || start == Self.magic else { throw .unknownFormat("not an SQLite database") }
        var opened: OpaquePointer?
        let flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX
        let code = unsafe sqlite3_open_v2(path, &opened, flags, nil)
        guard code == SQLITE_OK, let connection = unsafe opened else {
            unsafe sqlite3_close_v2(opened)
            throw Self.error(code)
        }
        unsafe self.connection = connection
        unsafe statements = [:]
        unsafe sqlite3_extended_result_codes(connection, 0)
    }

    deinit {
        unsafe statements.values.forEach { statement in unsafe sqlite3_finalize(statement) }
        unsafe sqlite3_close_v2(connection)
    }

    private static func error(_ code: Int32) -> StoreError {
        switch code & 0xff {
        case SQLITE_BUSY, SQLITE_LOCKED: .inUse
        case SQLITE_NOTADB: .unknownFormat("not an SQLite database")
        case SQLITE_CORRUPT: .corrupt
        default: .unavailable(unsafe String(cString: sqlite3_errstr(code)))
        }
    }

    /// Copies all of it into a new file of mode 0600, by SQLite's backup.
    func copy(to path: String) throws(StoreError) {
        let descriptor = unsafe Glibc.open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0o600)
        guard descriptor >= 0 else { throw .unavailable(unsafe String(cString: strerror(errno))) }
        close(descriptor)
        var opened: OpaquePointer?
        let code = unsafe sqlite3_open_v2(path, &opened, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, nil)
        defer { unsafe sqlite3_close_v2(opened) }
        guard code == SQLITE_OK, let copy = unsafe opened else { throw Self.error(code) }
        guard let backup = unsafe sqlite3_backup_init(copy, "main", connection, "main") else {
            throw Self.error(unsafe sqlite3_errcode(copy))
        }
        let step = unsafe sqlite3_backup_step(backup, -1)
        let end = unsafe sqlite3_backup_finish(backup)
        guard step == SQLITE_DONE, end == SQLITE_OK else { throw Self.error(step == SQLITE_DONE ? end : step) }
    }

    /// Runs a statement without values whose rows, if any, do not matter.
    func run(_ text: String) throws(StoreError) {
        let code = unsafe sqlite3_exec(connection, text, nil, nil, nil)
        guard code == SQLITE_OK else { throw Self.error(code) }
    }

    /// Runs a statement with values.
    func execute(_ text: String, _ values: [Column]) throws(StoreError) { _ = try rows(text, values) { _ in true } }

    /// The first row.
    func row(_ text: String, _ values: [Column]) throws(StoreError) -> [Column]? {
        var isFirst = true
        return try rows(text, values) { _ in
            defer { isFirst = false }
            return isFirst
        }.first
    }

    /// The one number that a statement gives.
    func number(_ text: String) throws(StoreError) -> Int { try row(text, [])?.first?.number ?? 0 }

    /// The rows in their order, as long as `take` wants them.
    func rows(_ text: String, _ values: [Column], while take: ([Column]) -> Bool) throws(StoreError) -> [[Column]] {
        let statement = try unsafe prepared(text)
        defer {
            unsafe sqlite3_reset(statement)
            unsafe sqlite3_clear_bindings(statement)
        }
        for (index, value) in values.enumerated() {
            let code = unsafe Self.bind(value, to: statement, at: Int32(index + 1))
            guard code == SQLITE_OK else { throw Self.error(code) }
        }
        var rows: [[Column]] = []
        while true {
            let code = unsafe sqlite3_step(statement)
            if code == SQLITE_DONE { return rows }
            guard code == SQLITE_ROW else { throw Self.error(code) }
            let row = unsafe (0..<sqlite3_column_count(statement)).map { unsafe Self.column(statement, $0) }
            guard take(row) else { return rows }
            rows.append(row)
        }
    }

    private func prepared(_ text: String) throws(StoreError) -> OpaquePointer {
        if let known = unsafe statements[text] { return unsafe known }
        var made: OpaquePointer?
        let code = unsafe sqlite3_prepare_v2(connection, text, -1, &made, nil)
        guard code == SQLITE_OK, let statement = unsafe made else { throw Self.error(code) }
        unsafe statements[text] = statement
        return unsafe statement
    }

    /// SQLite makes a copy of what it is given.
    private static func bind(_ value: Column, to statement: OpaquePointer, at index: Int32) -> Int32 {
        let transient = unsafe unsafeBitCast(-1, to: sqlite3_destructor_type.self)
        switch value {
        case .number(let number): return unsafe sqlite3_bind_int64(statement, index, Int64(number))
        case .text(let text): return unsafe sqlite3_bind_text(statement, index, text, -1, transient)
        case .blob(let octets):
            // An empty array has no address, which would bind NULL.
            guard !octets.isEmpty else { return unsafe sqlite3_bind_zeroblob(statement, index, 0) }
            return unsafe sqlite3_bind_blob64(statement, index, octets, UInt64(octets.count), transient)
        }
    }

    private static func column(_ statement: OpaquePointer, _ index: Int32) -> Column {
        switch unsafe sqlite3_column_type(statement, index) {
        case SQLITE_INTEGER: return unsafe .number(Int(sqlite3_column_int64(statement, index)))
        case SQLITE_TEXT:
            guard let text = unsafe sqlite3_column_text(statement, index) else { return .text("") }
            let count = unsafe Int(sqlite3_column_bytes(statement, index))
            return unsafe .text(String(decoding: UnsafeBufferPointer(start: text, count: count), as: UTF8.self))
        default:
            guard let octets = unsafe sqlite3_column_blob(statement, index) else { return .blob([]) }
            let count = unsafe Int(sqlite3_column_bytes(statement, index))
            return unsafe .blob([UInt8](UnsafeRawBufferPointer(start: octets, count: count)))
        }
    }
}
