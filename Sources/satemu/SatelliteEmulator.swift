// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Glibc
import LinkModel

// satemu is the satellite of a laboratory: it gives each terminal an Ethernet interface (a TAP device, in a network
// namespace of the terminal's own) and carries every frame of one terminal to all the others, through an imitation of
// its uplink and of their downlinks. This file is its command line; `Emulator` does the work.

struct SatelliteEmulator: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "satemu",
        abstract: "Emulates a satellite: one broadcast domain with delay, rate, loss and other faults.",
        discussion: """
            A LINK is a list such as delay=125ms,jitter=2ms,rate=2M,queue=64k,loss=1%,duplicate=0.1%,reorder=0.1%,\
            reorder-delay=20ms,corrupt=0.01%. Besides a share, loss may be burst:SHARE:LENGTH (bursts of LENGTH frames \
            on average) or gilbert:P:R[:GOODLOSS:BADLOSS]. Rates count bits per second, queues count octets.

            Interfaces appear down and without address; they go when satemu ends. Signals: SIGHUP reads the --links \
            file again, SIGUSR1 writes statistics, SIGTERM and SIGINT end it.

            Exit status: 0 ended by a signal, 1 error, 64 usage.
            """)

    @Option(
        help: .init(
            """
            A terminal and its interface; once per terminal. NETNS is a name of `ip netns`, a path or a process id; \
            without it the interface is made here.
            """, valueName: "name=ifname[@netns]"))
    var terminal: [TerminalOption] = []

    @Option(help: .init("Every terminal's link up to the satellite.", valueName: "link"))
    var uplink = LinkOption()

    @Option(help: .init("Every terminal's link down from the satellite.", valueName: "link"))
    var downlink = LinkOption()

    @Option(
        help: .init(
            "What differs for one terminal, such as site1:downlink:loss=5%. May be repeated.",
            valueName: "name:direction:link"))
    var link: [TerminalLinkOption] = []

    @Option(help: .init("YAML file with `uplink`, `downlink` and `terminals`, which goes before the options above."))
    var links: String?

    @Option(help: .init("Seed of everything that is random: the same seed and frames give the same losses."))
    var seed: UInt64 = 1

    @Option(help: .init("File for the statistics, one JSON line per terminal and direction; - is standard output."))
    var stats = "-"

    @Option(help: .init("File for a JSON line per frame lost or damaged on a link; - is standard output."))
    var dropLog: String?

    func validate() throws {
        guard terminal.count >= 2 else { throw ValidationError("Give at least two terminals (--terminal).") }
        let names = Set(terminal.map(\.name))
        guard names.count == terminal.count else { throw ValidationError("Two terminals have the same name.") }
        for option in link where !names.contains(option.terminal) {
            throw ValidationError("--link names \(option.terminal), which is no terminal.")
        }
    }

    func run() throws {
        do {
            try Emulator(self).run()
        } catch let error as LinkFileError {
            Console.complain(error.description)
            throw ExitCode(64)
        } catch let error as EmulatorError {
            Console.complain(error.description)
            throw ExitCode(1)
        }
    }

    /// The links of each terminal: the defaults, then the file, then the options for it.
    func plan() throws(LinkFileError) -> LinkPlan {
        var plan = LinkPlan(uplink: uplink, downlink: downlink)
        if let links { plan.add(try LinkFile(path: links, terminals: terminal.map(\.name))) }
        for option in link { plan.add(option) }
        return plan
    }
}
