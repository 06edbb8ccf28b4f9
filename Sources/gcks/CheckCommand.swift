// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Commands
internal import Cryptography
internal import KeyServer
internal import Settings

/// `gcks check`: everything that is wrong with a configuration file.
struct CheckCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "check", abstract: "Say what is wrong with a configuration file, and what to write instead.")

    @OptionGroup var options: CheckOptions<ServerSettings>

    func run() throws { try options.check(Self.summary) }

    private static func summary(_ settings: ServerSettings) -> String {
        func count(_ number: Int, _ noun: String) -> String { "\(number) \(noun)\(number == 1 ? "" : "s")" }
        let inventory = settings.inventory
        let members = inventory.ranges.reduce(0) { $0 + $1.members.count }
        let ranged = inventory.ranges.isEmpty ? "" : ", \(members) more in \(count(inventory.ranges.count, "range"))"
        let vpns = inventory.vpns.isEmpty ? "" : ", \(count(inventory.vpns.count, "VPN"))"
        var text = """
            ok: \(settings.identity) at \(settings.listenAddress), port \(settings.port); \
            \(count(inventory.clients.count, "client"))\(ranged), \(count(inventory.groups.count, "group"))\(vpns)

            """
        for group in inventory.groups {
            let senders = group.members.count { $0.role.maySend }
            text += "group \(group.name): \(count(group.members.count, "member")), \(count(senders, "sender")); "
            text += "\(count(group.flows.count, "flow")), \(group.suite.rawValue); control \(group.control)\n"
        }
        for vpn in inventory.vpns {
            text += "vpn \(vpn.name): \(vpn.ends.joined(separator: " - ")); "
            text += "\(count(vpn.flows.count, "flow")), \(vpn.suite.rawValue)\n"
        }
        return text
    }
}
