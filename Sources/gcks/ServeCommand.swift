// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Control
internal import Logging
internal import Settings

/// What the daemon is started with.
struct ServeOptions {
    /// Path of gcks.yaml.
    var configuration: String
    /// Where session keys are written for Wireshark; nil, and it should be nil: not at all.
    var keyLogFolder: String?
    var logLevel: Logger.Level
}

/// `gcks serve`: the daemon, in the foreground.
struct ServeCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "serve", abstract: "Run the key server in the foreground, logging to standard error.")

    @Option(help: ArgumentHelp("The configuration file.", valueName: "file"))
    var config = ServerSettings.defaultPath

    @Option(
        help: ArgumentHelp(
            "Write session keys for Wireshark to this folder. Whoever reads them reads all traffic: for tests only.",
            valueName: "dir"))
    var keyLog: String?

    @Option(help: ArgumentHelp("The least level to log.", valueName: "level"))
    var logLevel = LogLevel.info

    func run() throws {
        if let keyLog { LogLevel.warn(aboutKeyLog: keyLog) }
        try serve(ServeOptions(configuration: config, keyLogFolder: keyLog, logLevel: logLevel.level))
    }
}

/// Runs the daemon until a signal ends it.
func serve(_ options: ServeOptions) throws {
    Terminal.complain("gcks: not wired")
    throw ExitCode(ExitStatus.error)
}
