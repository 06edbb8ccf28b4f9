// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Commands
internal import Settings

/// `satipsec check`: everything that is wrong with a configuration file.
struct CheckCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "check", abstract: "Say what is wrong with a configuration file, and what to write instead.")

    @OptionGroup var options: CheckOptions<ClientSettings>

    func run() throws { try options.check(Self.summary) }

    private static func summary(_ settings: ClientSettings) -> String {
        """
        ok: \(settings.name), key server \(settings.gcks.identity) at \(settings.gcks.address), \
        port \(settings.gcks.port); satellite \(settings.satelliteInterface), \
        terrestrial \(settings.terrestrialInterface), tunnel \(settings.tunnelInterface); \
        guard \(settings.failClosedGuard.rawValue)\(settings.dataPlane == .userspace ? "" : "; data plane ")\
        \(settings.dataPlane == .userspace ? "" : settings.dataPlane.rawValue)

        """
    }
}
