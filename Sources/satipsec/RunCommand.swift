// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Commands
internal import Settings

/// `satipsec run`: the daemon, in the foreground.
struct RunCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "run", abstract: "Run the client in the foreground, logging to standard error.")

    @OptionGroup var options: StartOptions<ClientSettings>

    func run() throws { try options.run { try ClientDaemon($0, keyLog: $1, logger: $2).run() } }
}
