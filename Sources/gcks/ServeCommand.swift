// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Commands
internal import Settings

/// `gcks serve`: the daemon, in the foreground.
struct ServeCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "serve", abstract: "Run the key server in the foreground, logging to standard error.")

    @OptionGroup var options: StartOptions<ServerSettings>

    func run() throws { try options.run { try ServerDaemon($0, keyLog: $1, logger: $2).run() } }
}
