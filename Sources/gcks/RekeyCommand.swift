// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Commands
internal import Control
internal import Settings

/// `gcks rekey`: new keys for a group or a VPN, now.
struct RekeyCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "rekey", abstract: "Give a group or a VPN new keys now.",
        discussion: "With --wait the exit code is 0 when every member confirmed, 2 when some are named that did not.")

    @Argument(help: "The name of the group or VPN.")
    var group: String

    @Flag(help: "Change the control channel's key as well (of a group).")
    var kek = false

    @Flag(help: "Return with the verdict: every member confirmed, or named.")
    var wait = false

    @Option(help: ArgumentHelp("How long to wait at most.", valueName: "seconds"))
    var timeout = 120

    @OptionGroup var daemon: DaemonOptions<ServerSettings>

    private struct Request: Encodable {
        var group: String
        var kek: Bool
        var wait: Bool
    }

    func validate() throws { try WaitLimit.validate(timeout) }

    func run() throws {
        try daemon.show(
            timeout: .seconds(wait ? timeout : 10),
            { $0.post("/v1/rekey", Request(group: group, kek: kek, wait: wait)) },
            text: ServerView.verdict, status: ServerView.verdictStatus)
    }
}

/// What `--timeout` may be.
enum WaitLimit {
    static func validate(_ seconds: Int) throws {
        guard (1...86_400).contains(seconds) else { throw ValidationError("--timeout is 1 to 86400 seconds") }
    }
}
