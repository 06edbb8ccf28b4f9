// SPDX-License-Identifier: Apache-2.0

public import ArgumentParser
internal import Control
public import Settings

/// What `check` is asked.
public struct CheckOptions<Settings: ProgramSettings>: ParsableArguments {
    @Option(help: ArgumentHelp("The configuration file.", valueName: "file"))
    var config = Settings.defaultPath

    @Flag(help: "Print the result as JSON.")
    var json = false

    public init() {}

    /// Says what is wrong with the file and exits with 64, or that nothing is, in the words of `summary`.
    public func check(_ summary: (Settings) -> String) throws {
        let settings: Settings
        do {
            settings = try Settings.load(path: config)
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
            Terminal.write(summary(settings))
        }
    }
}
