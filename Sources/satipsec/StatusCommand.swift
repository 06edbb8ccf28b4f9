// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Commands
internal import Control
internal import Settings

/// `satipsec status`.
struct StatusCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "status", abstract: "Show the client's state and what is wrong with it.")

    @OptionGroup var daemon: DaemonOptions<ClientSettings>

    func run() throws {
        try daemon.show({ $0.get("/v1/status") }, text: ClientView.status, status: ClientView.exitStatus)
    }
}
