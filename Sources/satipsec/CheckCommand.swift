// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Control
internal import Settings

/// `satipsec check`: everything that is wrong with a configuration file.
struct CheckCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "check", abstract: "Say what is wrong with a configuration file, and what to write instead.")

    @Option(help: ArgumentHelp("The configuration file.", valueName: "file"))
    var config = ClientSettings.defaultPath

    @Flag(help: "Print the result as JSON.")
    var json = false

    func run() throws {
        let settings: ClientSettings
        do {
            settings = try ClientSettings.load(path: config)
        } catch {
            if json {
                Terminal.write(json: try JSONText.encode(error))
            } else {
                Terminal.complain(error.description)
            }
            throw ExitCode(ExitStatus.usage)
        }
        if json {
            Terminal.write(json: try JSONText.encode(SettingsError(problems: [])))
        } else {
            Terminal.write(
                """
                ok: \(settings.name), key server \(settings.gcks.identity) at \(settings.gcks.address), \
                port \(settings.gcks.port); satellite \(settings.satelliteInterface), \
                terrestrial \(settings.terrestrialInterface), tunnel \(settings.tunnelInterface); \
                guard \(settings.failClosedGuard.rawValue)

                """)
        }
    }
}
