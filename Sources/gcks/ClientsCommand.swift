// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Commands
internal import Control
internal import Settings

/// `gcks clients`.
struct ClientsCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "clients", abstract: "List the clients and whether they are registered.")

    @OptionGroup var daemon: DaemonOptions<ServerSettings>

    func run() throws { try daemon.show({ $0.get("/v1/clients") }, text: ServerView.clients) }
}
