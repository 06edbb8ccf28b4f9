// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Control
internal import DataPlane
internal import Settings

/// `satipsec guard`: the packet filter that keeps clear packets off the satellite side, whatever the daemon does.
struct GuardCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "guard",
        abstract: "Print the nftables rules that keep the satellite interface closed, or check that they stand.",
        discussion: """
            Load them at boot, before the interface comes up, and apart from the daemon: satipsec guard | nft -f -
            """)

    @Option(help: ArgumentHelp("The configuration file.", valueName: "file"))
    var config = ClientSettings.defaultPath

    @Flag(help: "Print nothing to load; say whether the rules stand (needs the right to ask nft).")
    var check = false

    @Flag(help: "Only the satellite interface: leave the don't-fragment bit of multicasts from the LAN alone.")
    var satelliteOnly = false

    func run() throws {
        let settings: ClientSettings
        do {
            settings = try ClientSettings.load(path: config)
        } catch {
            Terminal.complain(error.description)
            throw ExitCode(ExitStatus.usage)
        }
        guard check else {
            Terminal.write(
                FailClosedGuard.ruleset(
                    interface: settings.satelliteInterface,
                    // Groups' control channels are on the GCKS's port too.
                    ports: [settings.gcks.port, settings.gcks.natPort], natPort: settings.gcks.natPort,
                    policy: settings.policy,
                    terrestrialInterface: satelliteOnly ? nil : settings.terrestrialInterface,
                    clampedTunnel: settings.segmentClamp == .on ? settings.tunnelInterface : nil,
                    admitsOpened: settings.dataPlane == .pfkey))
            return
        }
        if let problem = FailClosedGuard.problem(interface: settings.satelliteInterface) {
            Terminal.complain("satipsec: \(problem)")
            throw ExitCode(ExitStatus.error)
        }
        Terminal.write("ok: \(settings.satelliteInterface) is closed\n")
    }
}
