// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Commands
internal import Control
internal import Settings

/// `gcks status`.
struct StatusCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "status", abstract: "Show the key server's state and what is wrong with it.")

    @OptionGroup var daemon: DaemonOptions<ServerSettings>

    func run() throws {
        try daemon.show({ $0.get("/v1/status") }, text: ServerView.status, status: ServerView.exitStatus)
    }
}
