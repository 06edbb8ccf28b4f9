// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Commands
internal import Control
internal import Settings

/// `satipsec sas`.
struct SasCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "sas", abstract: "List the security associations in force, and what each did.")

    @OptionGroup var daemon: DaemonOptions<ClientSettings>

    func run() throws { try daemon.show({ $0.get("/v1/sas") }, text: ClientView.sas) }
}
