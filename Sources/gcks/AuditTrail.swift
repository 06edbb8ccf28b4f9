// SPDX-License-Identifier: Apache-2.0

internal import Audit
internal import AuditFile
internal import Basics
internal import Cryptography
internal import Foundation
internal import Logging
internal import Store

/// The daemon's audit: events become lines, lines are on the disk before what they tell of happens. What cannot be
/// written waits, in the store as well, and goes first when the file can be written again.
final class AuditTrail {
    /// A file as long as this is set aside.
    private static let octetsMost = 64 << 20
    /// So many lines wait at most; of what comes then, only the number is kept.
    private static let pendingMost = 10_000
    static let headRecord = "audit/head"
    static let pendingPrefix = "audit/pending/"

    private let path: String
    private let key: Secret
    private let logger: Logger
    private var chain: AuditChain
    private var file: AuditFile?
    /// Lines that are not in the file, by number.
    private var pending: [(number: UInt64, line: [UInt8])] = []
    /// Events that found no room there.
    private var omitted: UInt64 = 0
    /// What the store has to be told.
    private var changes: [RecordChange] = []

    /// Why nothing can be written; nil when all is in the file.
    private(set) var failure: String?
    private(set) var failedAt: Date?

    /// - Throws: `AuditFailure` for a file that is not as it was left; `StoreError`.
    init(path: String, masterKey: Secret, store: any RecordStore, logger: Logger) throws {
        self.path = path
        self.logger = logger
        key = AuditChain.key(masterKey: masterKey)
        let recorded = try store.value(of: Self.headRecord)
        // Public values: a number and a hash.
        let newest = recorded.flatMap { AuditHead(octets: $0.revealed()) }
        if recorded != nil, newest == nil { throw StoreError.corrupt }
        let waiting = try store.records(under: Self.pendingPrefix)
        chain = AuditChain(key: key, head: newest ?? .start)
        do {
            let opened = try AuditFile.open(path, key: key, newest: newest)
            file = opened.file
            take(opened, waiting: waiting)
        } catch {
            throw AuditFailure(file: path, reason: error)
        }
    }

    /// How far the file goes.
    private(set) var written = AuditHead.start
    var waiting: Int { pending.count }

    private static func pending(_ record: Record) -> (number: UInt64, line: [UInt8])? {
        // The lines are no secret of their own.
        let line = record.value.revealed()
        return AuditLine(Array(line.dropLast())).map { ($0.number, line) }
    }

    private static func head(of line: (number: UInt64, line: [UInt8])) -> AuditHead {
        AuditHead(number: line.number, hash: HashAlgorithm.sha256.digest(Array(line.line.dropLast())))
    }

    /// Goes on where the file ends, with the lines that an earlier run could not write.
    private func take(
        _ opened: (file: AuditFile, head: AuditHead, torn: Int, isNew: Bool), waiting: [Record]
    ) {
        var head = opened.head
        written = head
        pending = waiting.compactMap { Self.pending($0) }.filter { $0.number > opened.head.number }
        changes += waiting.map { .remove($0.name) }
        if let last = pending.last { head = Self.head(of: last) }
        chain = AuditChain(key: key, head: head)
        if opened.torn > 0 {
            logger.warning("audit.mended", metadata: ["file": "\(path)", "octets": "\(opened.torn)"])
        }
        if opened.isNew, opened.head.number > 0 {
            logger.warning(
                "audit.continued", metadata: ["file": "\(path)", "number": "\(opened.head.number)"])
            // Lines that wait were made before this one and follow the old file: they go into it in front.
            if pending.isEmpty { add(AuditEvent("audit.continued"), at: Date()) }
        }
    }

    // MARK: Writing

    /// Makes lines of these events and writes all that is not written yet.
    ///
    /// - Returns: what the store is to be told, in one piece with what else this round changes.
    func write(_ events: [AuditEvent]) -> [RecordChange] {
        let now = Date()
        for event in events { add(event, at: now) }
        defer { changes = [] }
        guard !pending.isEmpty else { return changes }
        do throws(AuditFileError) {
            try reopenIfNeeded()
            guard let file else { return changes }
            if file.size > Self.octetsMost, failure == nil { try rotate() }
            try self.file?.append(pending.flatMap(\.line))
        } catch {
            fail("\(path): \(error)")
            return changes
        }
        if failure != nil { changes += pending.map { .remove(Self.name(of: $0.number)) } }
        pending = []
        written = chain.head
        changes.append(.put(Record(Self.headRecord, Secret(chain.head.octets))))
        if let failedAt {
            logger.warning(
                "audit.written", metadata: ["file": "\(path)", "seconds": "\(Int(now.timeIntervalSince(failedAt)))"])
        }
        (failure, failedAt) = (nil, nil)
        guard omitted > 0 else { return changes }
        let event = AuditEvent("audit.omitted", ["events": "\(omitted)"])
        omitted = 0
        let done = changes
        changes = []
        return done + write([event])
    }

    private func add(_ event: AuditEvent, at time: Date) {
        guard pending.count < Self.pendingMost else {
            omitted += 1
            return
        }
        let line = chain.line(event, microseconds: Self.microseconds(time))
        pending.append((chain.head.number, line))
        // Of the lines that were waiting already when the writing failed, the store knows.
        if failure != nil { changes.append(Self.put(chain.head.number, line)) }
    }

    private static func microseconds(_ time: Date) -> UInt64 { UInt64(max(time.timeIntervalSince1970, 0) * 1_000_000) }

    private static func name(of number: UInt64) -> String {
        let digits = "\(number)"
        return pendingPrefix + String(repeating: "0", count: 20 - digits.count) + digits
    }

    private static func put(_ number: UInt64, _ line: [UInt8]) -> RecordChange {
        .put(Record(name(of: number), Secret(line)))
    }

    private func fail(_ reason: String) {
        if failure == nil {
            failedAt = Date()
            changes += pending.map { Self.put($0.number, $0.line) }
        }
        if failure != reason {
            logger.critical(
                "audit.failed",
                metadata: ["reason": "\(reason)", "effect": "no new keys are given out until it can be written"])
        }
        failure = reason
    }

    /// After a failure the file may be another one, or gone.
    private func reopenIfNeeded() throws(AuditFileError) {
        if let file {
            do throws(AuditFileError) {
                return try file.lookAround()
            } catch {
                guard case .removed = error else { throw error }
                // What was only renamed keeps its lines; what was removed comes back.
                let isBack = try file.putBack()
                logger.warning("audit.removed", metadata: ["file": "\(path)", "restored": "\(isBack)"])
            }
        }
        file = nil
        let written = pending.first.map { $0.number - 1 } ?? chain.head.number
        let opened = try AuditFile.open(path, key: key, newest: nil)
        guard opened.isNew || opened.head.number == written else { throw .foreign }
        file = opened.file
    }

    // MARK: Rotation

    /// Sets the file aside under a name with the number of its last line, and begins a new one that goes on.
    /// - Returns: that name.
    @discardableResult
    func rotate() throws(AuditFileError) -> String {
        guard let file, failure == nil else { throw .system(operation: "rotate", reason: failure ?? "no file is open") }
        // Lines that wait have their numbers, which are before that of the new file's first one.
        try file.append(pending.flatMap(\.line))
        pending = []
        let digits = "\(chain.head.number)"
        let name = "\(path).\(String(repeating: "0", count: max(0, 12 - digits.count)))\(digits)"
        try file.rename(to: name)
        self.file = nil
        self.file = try AuditFile.open(path, key: key, newest: chain.head).file
        add(AuditEvent("audit.rotated", ["before": name]), at: Date())
        logger.info("audit.rotated", metadata: ["file": "\(path)", "before": "\(name)"])
        return name
    }
}

/// The audit file is not what it must be: the daemon does not start.
struct AuditFailure: Error, CustomStringConvertible {
    let file: String
    let reason: AuditFileError

    var description: String {
        "\(file): \(reason). Keep it as evidence under another name: the key server goes on in a new file then"
    }
}
