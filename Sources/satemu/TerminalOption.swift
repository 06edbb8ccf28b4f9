// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import LinkModel

/// `NAME=IFNAME[@NETNS]`: a terminal, its interface, and the network namespace this stands in.
struct TerminalOption: ExpressibleByArgument, Equatable {
    var name: String
    var interface: String
    /// The file that stands for the namespace; nil for the one satemu runs in.
    var namespacePath: String?

    init?(argument: String) {
        let halves = argument.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
        guard halves.count == 2, Self.isName(halves[0]) else { return nil }
        let parts = halves[1].split(separator: "@", maxSplits: 1, omittingEmptySubsequences: false)
        // IFNAMSIZ is 16 with the final zero.
        guard Self.isName(parts[0]), parts[0].utf8.count <= 15 else { return nil }
        name = String(halves[0])
        interface = String(parts[0])
        if parts.count == 2 {
            guard let path = Self.path(parts[1]) else { return nil }
            namespacePath = path
        }
    }

    private static func path(_ namespace: Substring) -> String? {
        if namespace.contains("/") { return String(namespace) }
        guard isName(namespace) else { return nil }
        let isProcess = namespace.utf8.allSatisfy { (0x30...0x39).contains($0) }
        return isProcess ? "/proc/\(namespace)/ns/net" : "/run/netns/\(namespace)"
    }

    /// Letters, digits, and `-`, `_`, `.`: such names need no escape in any output of ours.
    static func isName(_ text: some StringProtocol) -> Bool {
        !text.isEmpty && text.utf8.count <= 64 && text != "." && text != ".."
            && text.allSatisfy { $0.isASCII && ($0.isLetter || $0.isNumber || "-_.".contains($0)) }
    }
}

/// `NAME:DIRECTION:LINK`: what differs for one terminal.
struct TerminalLinkOption: ExpressibleByArgument, Equatable {
    var terminal: String
    var direction: LinkDirection
    var link: LinkOption

    init?(argument: String) {
        let parts = argument.split(separator: ":", maxSplits: 2, omittingEmptySubsequences: false)
        guard parts.count == 3, let direction = LinkDirection(rawValue: String(parts[1])),
            let link = LinkOption(argument: String(parts[2]))
        else { return nil }
        terminal = String(parts[0])
        self.direction = direction
        self.link = link
    }
}

/// Which parameters each terminal's links have.
struct LinkPlan {
    private var defaults: [LinkDirection: [LinkOption]]
    private var exceptions: [String: [LinkDirection: [LinkOption]]] = [:]

    init(uplink: LinkOption, downlink: LinkOption) {
        defaults = [.uplink: [uplink], .downlink: [downlink]]
    }

    mutating func add(_ file: LinkFile) {
        for (direction, option) in file.defaults { defaults[direction, default: []].append(option) }
        for (terminal, links) in file.terminals {
            for (direction, option) in links { add(terminal, direction, option) }
        }
    }

    mutating func add(_ option: TerminalLinkOption) { add(option.terminal, option.direction, option.link) }

    func parameters(_ terminal: String, _ direction: LinkDirection) -> LinkParameters {
        let layers = (defaults[direction] ?? []) + (exceptions[terminal]?[direction] ?? [])
        return layers.reduce(LinkParameters()) { $1.applied(to: $0) }
    }

    private mutating func add(_ terminal: String, _ direction: LinkDirection, _ option: LinkOption) {
        exceptions[terminal, default: [:]][direction, default: []].append(option)
    }
}
