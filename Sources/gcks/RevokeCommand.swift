// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Commands
internal import Control
internal import Settings

/// `gcks revoke`: a client is out, every group it was in gets new keys, and its VPNs end.
struct RevokeCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "revoke", abstract: "Take a client's authorisation away and rekey all its groups; its VPNs end.",
        discussion: """
            With --wait the exit code is 0 when every remaining member confirmed, 2 when some are named that did not, \
            with what is done about each. The client stays out as long as the key server's state file is there.
            """)

    @Argument(help: "The client's name.")
    var client: String

    @Flag(help: "Return with the verdict: every remaining member confirmed, or named.")
    var wait = false

    @Option(help: ArgumentHelp("How long to wait at most.", valueName: "seconds"))
    var timeout = 120

    @OptionGroup var daemon: DaemonOptions<ServerSettings>

    private struct Request: Encodable {
        var client: String
        var wait: Bool
    }

    func validate() throws { try WaitLimit.validate(timeout) }

    func run() throws {
        try daemon.show(
            timeout: .seconds(wait ? timeout : 10), { $0.post("/v1/revoke", Request(client: client, wait: wait)) },
            text: ServerView.verdict, status: ServerView.verdictStatus)
    }
}
