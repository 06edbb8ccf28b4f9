// SPDX-License-Identifier: Apache-2.0

public import ArgumentParser
public import Control
public import Logging
public import Settings

/// How a daemon is started in the foreground.
public struct StartOptions<Settings: ProgramSettings>: ParsableArguments {
    @Option(help: ArgumentHelp("The configuration file.", valueName: "file"))
    var config = Settings.defaultPath

    @Option(
        help: ArgumentHelp(
            "Write session keys for Wireshark to this folder. Whoever reads them reads all traffic: for tests only.",
            valueName: "dir"))
    var keyLog: String?

    @Option(help: ArgumentHelp("The least level to log.", valueName: "level"))
    var logLevel = LogLevel.info

    public init() {}

    /// Loads the settings, sets up the log, and runs the daemon until a signal ends it. Errors are said on standard
    /// error; those of the settings exit with 64.
    public func run(_ daemon: (Settings, KeyLog?, Logger) throws -> Void) throws {
        if let keyLog { LogLevel.warn(aboutKeyLog: keyLog) }
        let settings: Settings
        do {
            settings = try Settings.load(path: config)
        } catch {
            Terminal.complain(error.description)
            throw ExitCode(ExitStatus.usage)
        }
        LogfmtHandler.bootstrap(level: logLevel.level)
        do {
            let keyLog = try keyLog.map { try KeyLog(directory: $0) }
            let logger = Logger(label: Settings.program)
            Hardening.begin(logger)
            try daemon(settings, keyLog, logger)
        } catch {
            Terminal.complain("\(Settings.program): \(error)")
            throw ExitCode(ExitStatus.error)
        }
    }
}
