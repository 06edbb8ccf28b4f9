// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Control
internal import Logging
internal import Settings

/// What the daemon is started with.
struct RunOptions {
    /// Path of satipsec.yaml.
    var configuration: String
    /// Where session keys are written for Wireshark; nil, and it should be nil: not at all.
    var keyLogFolder: String?
    var logLevel: Logger.Level
}

/// `satipsec run`: the daemon, in the foreground.
struct RunCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "run", abstract: "Run the client in the foreground, logging to standard error.")

    @Option(help: ArgumentHelp("The configuration file.", valueName: "file"))
    var config = ClientSettings.defaultPath

    @Option(
        help: ArgumentHelp(
            "Write session keys for Wireshark to this folder. Whoever reads them reads all traffic: for tests only.",
            valueName: "dir"))
    var keyLog: String?

    @Option(help: ArgumentHelp("The least level to log.", valueName: "level"))
    var logLevel = LogLevel.info

    func run() throws {
        if let keyLog { LogLevel.warn(aboutKeyLog: keyLog) }
        try satipsec.run(RunOptions(configuration: config, keyLogFolder: keyLog, logLevel: logLevel.level))
    }
}

/// Runs the daemon until a signal ends it.
func run(_ options: RunOptions) throws {
    let settings: ClientSettings
    do {
        settings = try ClientSettings.load(path: options.configuration)
    } catch {
        Terminal.complain(error.description)
        throw ExitCode(ExitStatus.usage)
    }
    LogfmtHandler.bootstrap(level: options.logLevel)
    do {
        let keyLog = try options.keyLogFolder.map { try KeyLog(directory: $0) }
        try ClientDaemon(settings, keyLog: keyLog, logger: Logger(label: "satipsec")).run()
    } catch {
        Terminal.complain("satipsec: \(error)")
        throw ExitCode(ExitStatus.error)
    }
}
