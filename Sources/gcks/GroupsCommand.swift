// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Commands
internal import Control
internal import Settings

/// `gcks groups`.
struct GroupsCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "groups", abstract: "List the groups, their keys' age and who has confirmed them.")

    @OptionGroup var daemon: DaemonOptions<ServerSettings>

    func run() throws { try daemon.show({ $0.get("/v1/groups") }, text: ServerView.groups) }
}
