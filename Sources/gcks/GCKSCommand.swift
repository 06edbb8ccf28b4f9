// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser

// gcks is the key server's program: the daemon (`serve`) and its operator's commands, which ask the daemon over its
// control socket. This target holds wiring only; what the words mean is in the modules below.

/// The group controller and key server, and its operator's commands.
@main struct GCKSCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "gcks",
        abstract: "Group controller and key server of SatIPSec.",
        discussion: """
            Exit codes: 0 fine, 1 error, 2 degraded (a client is absent, a member has not confirmed), 64 wrong usage \
            or settings.
            """,
        version: "0.1.0",
        subcommands: [
            InitCommand.self, CheckCommand.self, ServeCommand.self, StatusCommand.self, GroupsCommand.self,
            ClientsCommand.self, VPNsCommand.self, SasCommand.self, RekeyCommand.self, RevokeCommand.self,
            AuditCommand.self,
            ApplyCommand.self, ExportCommand.self, HistoryCommand.self, RollbackCommand.self, DiffCommand.self,
            BackupCommand.self, RestoreCommand.self, RecoverCommand.self,
        ])
}
