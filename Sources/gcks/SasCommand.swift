// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Commands
internal import Control
internal import Settings

/// `gcks sas`.
struct SasCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "sas", abstract: "List the security associations the key server has given out.")

    @OptionGroup var daemon: DaemonOptions<ServerSettings>

    func run() throws { try daemon.show({ $0.get("/v1/sas") }, text: ServerView.sas) }
}
