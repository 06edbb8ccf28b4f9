// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Commands
internal import Control
internal import Settings

/// `gcks vpns`.
struct VPNsCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "vpns", abstract: "List the VPNs, their ends, SAs and last verdicts.")

    @OptionGroup var daemon: DaemonOptions<ServerSettings>

    func run() throws { try daemon.show({ $0.get("/v1/vpns") }, text: ServerView.vpns) }
}
