// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import Control
internal import DesiredState
internal import EventLoop
internal import Foundation
internal import KeyServer
internal import Logging
internal import Settings
internal import Store

/// The desired state: what the daemon starts with, what SIGHUP and the operator's commands change of it.
extension ServerDaemon {
    // MARK: At the start

    /// The inventory to start with: that of the newest revision, unless the file says something else than when it was
    /// last taken. A restart must not undo what was applied since.
    static func desired(
        _ settings: ServerSettings, _ history: RevisionHistory, _ logger: Logger
    ) -> (inventory: Inventory, changes: [RecordChange]) {
        let file = settings.inventory
        if history.newest > 0 {
            do {
                let newest = try history.inventory(history.newest, for: settings)
                if newest.changes(to: file).isEmpty { return (file, history.noteFile()) }
                let taken = history.ofFile > 0 ? try history.inventory(history.ofFile, for: settings) : nil
                if let taken, taken.changes(to: file).isEmpty {
                    logger.notice(
                        "inventory.kept",
                        metadata: [
                            "revision": "\(history.newest)",
                            "reason": "\(settings.file) is what it was for revision \(history.ofFile)",
                        ])
                    return (newest, [])
                }
            } catch {
                // It does not go with the other settings any more, or is damaged: the file says what is wanted.
                logger.warning("inventory.unreadable", metadata: ["reason": "\(error)"])
            }
        }
        let draft = history.draft(
            file, source: .configurationFile, author: settings.file, comment: "", microseconds: microseconds)
        history.accept(draft)
        return (file, draft.changes)
    }

    // MARK: SIGHUP

    /// Reads the configuration file again. A bad one changes nothing.
    func reload() {
        do {
            let text = try ServerSettings.text(ofFile: settings.file)
            let (inventory, needsRestart) = try settings.read(inventory: text, file: settings.file) { _, _ in nil }
            if !needsRestart.isEmpty {
                logger.warning("settings.need-restart", metadata: ["keys": "\(needsRestart.joined(separator: ","))"])
            }
            guard !server.inventory.changes(to: inventory).isEmpty else {
                unrecorded += history.noteFile()
                logger.info(
                    "inventory.unchanged", metadata: ["file": "\(settings.file)", "revision": "\(history.newest)"])
                return pump()
            }
            let draft = history.draft(
                inventory, source: .configurationFile, author: settings.file, comment: "",
                microseconds: Self.microseconds)
            _ = try server.apply(inventory, recording: draft.changes, now: loop.now)
            history.accept(draft)
            logger.notice(
                "inventory.revision", metadata: ["revision": "\(history.newest)", "source": "\(draft.revision.source)"])
        } catch let error as SettingsError {
            for problem in error.problems {
                logger.error(
                    "inventory.refused",
                    metadata: [
                        "file": "\(problem.file)", "line": "\(problem.line)", "path": "\(problem.path)",
                        "what": "\(problem.what)", "instead": "\(problem.instead)",
                    ])
            }
        } catch {
            logger.error("inventory.refused", metadata: ["file": "\(settings.file)", "what": "\(error)"])
        }
        pump()
    }

    // MARK: Commands

    /// - Returns: false for what is none of ours.
    func handleDesired(_ request: ControlRequest, _ reply: ControlReply) -> Bool {
        switch (request.method, request.path) {
        case ("POST", "/v1/apply"): apply(request, reply)
        case ("POST", "/v1/rollback"): rollBack(request, reply)
        case ("GET", "/v1/revisions"): attempt(reply) { reply.send(try history.list().map(RevisionLine.init)) }
        case ("GET", "/v1/revision"): attempt(reply) { try export(request, reply) }
        case ("GET", "/v1/diff"): attempt(reply) { try compare(request, reply) }
        default: return false
        }
        return true
    }

    private struct ApplyRequest: Decodable {
        var file: String
        var text: String
        var comment: String?
        var dryRun: Bool?
        var wait: Bool?
    }

    private struct RollbackRequest: Decodable {
        var revision: UInt64
        var comment: String?
        var dryRun: Bool?
        var wait: Bool?
    }

    private func apply(_ request: ControlRequest, _ reply: ControlReply) {
        guard let order = try? JSONText.decode(ApplyRequest.self, from: request.body) else {
            return reply.send(
                status: 400,
                error: #"the body must be {"file": NAME, "text": YAML, "comment": TEXT, "dryRun": BOOL, "wait": BOOL}"#)
        }
        attempt(reply) {
            defer { history.forgetKeys() }
            let (inventory, needsRestart) = try settings.read(inventory: order.text, file: order.file) {
                [history] number, holder in history.key(number, of: holder)
            }
            let draft = history.draft(
                inventory, source: .command, author: Self.author(request), comment: order.comment ?? "",
                microseconds: Self.microseconds)
            try take(
                inventory, draft, needsRestart: needsRestart, isDryRun: order.dryRun ?? false,
                waits: order.wait ?? false, reply)
        }
    }

    private func rollBack(_ request: ControlRequest, _ reply: ControlReply) {
        guard let order = try? JSONText.decode(RollbackRequest.self, from: request.body) else {
            return reply.send(
                status: 400,
                error: #"the body must be {"revision": NUMBER, "comment": TEXT, "dryRun": BOOL, "wait": BOOL}"#)
        }
        attempt(reply) {
            let inventory = try history.inventory(order.revision, for: settings)
            let draft = history.draft(
                inventory, source: .rollback(to: order.revision), author: Self.author(request),
                comment: order.comment ?? "", microseconds: Self.microseconds)
            try take(
                inventory, draft, needsRestart: [], isDryRun: order.dryRun ?? false, waits: order.wait ?? false, reply)
        }
    }

    private func take(
        _ inventory: Inventory, _ draft: RevisionDraft, needsRestart: [String], isDryRun: Bool, waits: Bool,
        _ reply: ControlReply
    ) throws {
        var applied = Applied(revision: history.newest, isDryRun: isDryRun, needsRestart: needsRestart)
        if isDryRun || server.inventory.changes(to: inventory).isEmpty {
            applied.report = try server.plan(inventory, now: loop.now)
            return reply.send(
                AppliedOutcome(applied, Outcome(Waiter(reply: reply, open: [:]), verdict: "confirmed")))
        }
        applied.report = try server.apply(inventory, recording: draft.changes, now: loop.now)
        history.accept(draft)
        applied.revision = history.newest
        logger.notice(
            "inventory.revision",
            metadata: [
                "revision": "\(history.newest)", "source": "\(draft.revision.source)",
                "by": "\(draft.revision.author)",
            ])
        answer(Waiter(reply: reply, open: applied.report.transactions, applied: applied), waits: waits)
    }

    private func export(_ request: ControlRequest, _ reply: ControlReply) throws {
        let number = try number(request.query["number"]) ?? history.newest
        guard let revision = try history.revision(number) else { throw UnknownRevision(number: number) }
        reply.send(ExportedRevision(revision: RevisionLine(revision), text: try history.export(number, for: settings)))
    }

    private func compare(_ request: ControlRequest, _ reply: ControlReply) throws {
        let to = try number(request.query["to"]) ?? history.newest
        let from = try number(request.query["from"]) ?? to - min(to, 1)
        let before =
            from == 0 ? Inventory(clients: [], groups: []) : try history.inventory(from, for: settings)
        let after = try history.inventory(to, for: settings)
        reply.send(RevisionDifference(from: from, to: to, changes: before.changes(to: after)))
    }

    private func number(_ text: String?) throws -> UInt64? {
        guard let text else { return nil }
        guard let number = UInt64(text) else { throw UnknownRevision(number: 0) }
        return number
    }

    private static func author(_ request: ControlRequest) -> String {
        request.peer.map { "uid \($0.uid)" } ?? "unknown"
    }

    /// Answers with what went wrong, if something does.
    private func attempt(_ reply: ControlReply, _ body: () throws -> Void) {
        do {
            try body()
        } catch let error as SettingsError {
            if let json = try? JSONText.encode(RefusedInventory(error)) { reply.send(status: 422, json: json) }
        } catch {
            reply.send(status: error is UnknownRevision ? 404 : 409, error: "\(error)")
        }
    }
}

/// What became of an inventory, beside the verdicts.
struct Applied {
    /// The one in force now.
    var revision: UInt64
    var isDryRun: Bool
    var needsRestart: [String]
    var report = ApplyReport()
}

/// What `apply` and `rollback` answer.
struct AppliedOutcome: Encodable {
    var revision: UInt64
    var isDryRun: Bool
    var changes: [ApplyReport.Change]
    var rekeys: [ApplyReport.Rekey]
    var profiles: [String]
    var disconnected: [String]
    var multicastOctets: Int
    var unicastOctets: Int
    var needsRestart: [String]
    var transactions: [String: UInt64]
    var verdict: String
    var unconfirmed: [String]
    var reports: [VerdictReport]

    init(_ applied: Applied, _ outcome: ServerDaemon.Outcome) {
        let report = applied.report
        (revision, isDryRun, needsRestart) = (applied.revision, applied.isDryRun, applied.needsRestart)
        (changes, rekeys, profiles) = (report.changes, report.rekeys, report.profiles)
        disconnected = report.disconnected
        (multicastOctets, unicastOctets) = (report.multicastOctets, report.unicastOctets)
        (transactions, verdict) = (outcome.transactions, outcome.verdict)
        (unconfirmed, reports) = (outcome.unconfirmed, outcome.reports)
    }
}

/// A revision as `history` lists it.
struct RevisionLine: Encodable {
    var number: UInt64
    /// RFC 3339, UTC.
    var time: String
    var source: String
    var author: String
    var comment: String

    init(_ revision: Revision) {
        number = revision.number
        time = Date(timeIntervalSince1970: Double(revision.madeAt / 1_000_000)).ISO8601Format()
        source = "\(revision.source)"
        (author, comment) = (revision.author, revision.comment)
    }
}

private struct ExportedRevision: Encodable {
    var revision: RevisionLine
    var text: String
}

private struct RevisionDifference: Encodable {
    var from: UInt64
    var to: UInt64
    var changes: [ApplyReport.Change]
}

/// Problems as `gcks check --json` has them, and each as a line.
private struct RefusedInventory: Encodable {
    struct Problem: Encodable {
        var file: String
        var line: Int
        var column: Int
        var path: String
        var what: String
        var instead: String
        var description: String
    }
    var error = "the inventory has mistakes; nothing was changed"
    var problems: [Problem]

    init(_ error: SettingsError) {
        problems = error.problems.map {
            Problem(
                file: $0.file, line: $0.line, column: $0.column, path: $0.path, what: $0.what, instead: $0.instead,
                description: $0.description)
        }
    }
}
