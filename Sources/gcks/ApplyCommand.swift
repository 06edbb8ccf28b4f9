// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Commands
internal import Control
internal import Foundation
internal import Settings

/// How `apply` and `rollback` go about it.
struct ApplyOptions: ParsableArguments {
    @Flag(help: "Say what would change, and change nothing.")
    var dryRun = false

    @Flag(help: "Return with the verdicts: every member of each group that gets new keys confirmed, or named.")
    var wait = false

    @Option(name: .short, help: ArgumentHelp("Why, for the history.", valueName: "text"))
    var message: String?

    @Option(help: ArgumentHelp("How long to wait at most.", valueName: "seconds"))
    var timeout = 120

    func validate() throws { try WaitLimit.validate(timeout) }

    /// The daemon reads a large inventory for some seconds.
    var patience: Duration { .seconds(wait ? timeout : 60) }
}

/// `gcks apply`: another inventory, now.
struct ApplyCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "apply", abstract: "Change clients and groups while the key server runs.",
        discussion: """
            The file has clients, ranges and groups as gcks.yaml has them, or is a whole gcks.yaml. All of it takes \
            effect in one step as a new revision, or nothing does. Key files are read by the key server. With --wait \
            the exit code is 0 when every member confirmed, 2 when some are named that did not; 64 for a file with \
            mistakes.
            """)

    @Option(name: .shortAndLong, help: ArgumentHelp("The inventory.", valueName: "inventory.yaml"))
    var file: String

    @OptionGroup var options: ApplyOptions
    @OptionGroup var daemon: DaemonOptions<ServerSettings>

    private struct Request: Encodable {
        var file: String
        var text: String
        var comment: String?
        var dryRun: Bool
        var wait: Bool
    }

    func run() throws {
        let text: String
        do {
            text = try ServerSettings.text(ofFile: file)
        } catch {
            Terminal.complain(error.description)
            throw ExitCode(ExitStatus.usage)
        }
        let path = URL(fileURLWithPath: file).path
        let request = Request(
            file: path, text: text, comment: options.message, dryRun: options.dryRun, wait: options.wait)
        try daemon.show(
            timeout: options.patience, { $0.post("/v1/apply", request) }, text: ServerView.applied,
            status: ServerView.verdictStatus)
    }
}

/// `gcks rollback`: an earlier revision again.
struct RollbackCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "rollback", abstract: "Bring an earlier revision back, as a new one.",
        discussion: "The revision's own keys come back with it, whatever its key files say by now.")

    @Argument(help: "The revision's number.")
    var revision: UInt64

    @OptionGroup var options: ApplyOptions
    @OptionGroup var daemon: DaemonOptions<ServerSettings>

    private struct Request: Encodable {
        var revision: UInt64
        var comment: String?
        var dryRun: Bool
        var wait: Bool
    }

    func run() throws {
        let request = Request(
            revision: revision, comment: options.message, dryRun: options.dryRun, wait: options.wait)
        try daemon.show(
            timeout: options.patience, { $0.post("/v1/rollback", request) }, text: ServerView.applied,
            status: ServerView.verdictStatus)
    }
}

/// `gcks export`: a revision as a file.
struct ExportCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "export", abstract: "Print the inventory, or an earlier revision of it, as a file for gcks apply.",
        discussion: """
            No key is in it: psk: revision-N names the key that the key server has stored with that revision, so the \
            file is for this key server.
            """)

    @Argument(help: "The revision's number; without it the one in force.")
    var revision: UInt64?

    @OptionGroup var daemon: DaemonOptions<ServerSettings>

    func run() throws {
        try daemon.show(
            timeout: .seconds(60), { $0.get("/v1/revision" + (revision.map { "?number=\($0)" } ?? "")) },
            text: ServerView.exported)
    }
}

/// `gcks history`: the revisions.
struct HistoryCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "history", abstract: "List the revisions of the inventory: when, whence, who, why.")

    @OptionGroup var daemon: DaemonOptions<ServerSettings>

    func run() throws { try daemon.show({ $0.get("/v1/revisions") }, text: ServerView.history) }
}

/// `gcks diff`: what differs between two revisions.
struct DiffCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "diff", abstract: "Say what differs between two revisions of the inventory.",
        discussion: "To compare a file with what is in force: gcks apply -f FILE --dry-run.")

    @Argument(help: "The earlier revision; without it the last but one.")
    var from: UInt64?

    @Argument(help: "The later revision; without it the one in force.")
    var to: UInt64?

    @OptionGroup var daemon: DaemonOptions<ServerSettings>

    func run() throws {
        let query = [from.map { "from=\($0)" }, to.map { "to=\($0)" }].compactMap { $0 }.joined(separator: "&")
        try daemon.show(
            timeout: .seconds(60), { $0.get("/v1/diff" + (query.isEmpty ? "" : "?" + query)) },
            text: ServerView.difference)
    }
}
