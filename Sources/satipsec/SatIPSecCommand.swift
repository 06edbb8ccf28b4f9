// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser

// satipsec is the client's program, a security gateway: the daemon (`run`) and its operator's commands, which ask the
// daemon over its control socket. This target holds wiring only; what the words mean is in the modules below.

/// A client, the security gateway of a site.
@main struct SatIPSecCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "satipsec",
        abstract: "Client of SatIPSec: the security gateway of a site.",
        discussion: """
            Exit codes: 0 fine, 1 error, 2 degraded (not registered with the key server), 64 wrong usage or settings.
            """,
        version: "0.1.0",
        subcommands: [
            CheckCommand.self, RunCommand.self, StatusCommand.self, SasCommand.self, GuardCommand.self,
        ])
}
