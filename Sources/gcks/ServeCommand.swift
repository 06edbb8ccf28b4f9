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
    let settings: ServerSettings
    do {
        settings = try ServerSettings.load(path: options.configuration)
    } catch {
        Terminal.complain(error.description)
        throw ExitCode(ExitStatus.usage)
    }
    LogfmtHandler.bootstrap(level: options.logLevel)
    do {
        let keyLog = try options.keyLogFolder.map { try KeyLog(directory: $0) }
        try ServerDaemon(settings, keyLog: keyLog, logger: Logger(label: "gcks")).run()
    } catch {
        Terminal.complain("gcks: \(error)")
        throw ExitCode(ExitStatus.error)
    }
}
