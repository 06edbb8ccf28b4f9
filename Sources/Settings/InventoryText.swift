// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import Cryptography
internal import IKEv1
public import KeyServer
internal import ReliablePush

/// An inventory as a file that reads back as the same: every value in words, none left to a default, no key in it.
public enum InventoryText {
    /// - Parameter keyWord: what stands under `psk` of each client and range: `derived` or `revision-N`.
    public static func write(_ inventory: Inventory, keyWord: (KeyHolder) -> String) -> String {
        var lines: [String] = []
        list("clients", inventory.clients.isEmpty, &lines)
        for client in inventory.clients {
            lines.append(
                "  - {name: \(word(client.name)), address: \(word("\(client.address)")), "
                    + "psk: \(keyWord(.client(client.name))), \(suites(client.suites))}")
        }
        if !inventory.ranges.isEmpty { lines.append("ranges:") }
        for range in inventory.ranges {
            lines.append(
                "  - {name: \(word(range.name)), addresses: \(word("\(range.addresses)")), "
                    + "psk: \(keyWord(.range(range.name))), \(suites(range.suites)), "
                    + "members: [\(range.members.map(word).joined(separator: ", "))]}")
        }
        list("groups", inventory.groups.isEmpty, &lines)
        for group in inventory.groups { write(group, &lines) }
        if !inventory.vpns.isEmpty { lines.append("vpns:") }
        for vpn in inventory.vpns { write(vpn, &lines) }
        return lines.joined(separator: "\n") + "\n"
    }

    private static func list(_ key: String, _ isEmpty: Bool, _ lines: inout [String]) {
        lines.append(isEmpty ? "\(key): []" : "\(key):")
    }

    private static func write(_ group: GroupEntry, _ lines: inout [String]) {
        lines.append("  - name: \(word(group.name))")
        lines.append("    id: \(group.id)")
        lines.append("    control: \(word("\(group.control)"))")
        lines.append("    flows:")
        for flow in group.flows { lines.append("      - {\(self.flow(flow))}") }
        lines.append("    suite: \(group.suite.rawValue)")
        if group.suite.isLegacy { lines.append("    legacy: true") }
        lines.append("    members:")
        for (client, role) in group.members {
            lines.append("      - {client: \(word(client)), role: \(role.rawValue)}")
        }
        let volume = group.dataVolume.map { ", volume: \(Quantity.show(size: $0))" } ?? ""
        lines.append(
            "    lifetime: {data: \(exact(group.dataLifetime)), kek: \(exact(group.kekLifetime))\(volume)}")
        let commit = group.rollover.commitAtPercent.map { ", commit-at: \(decimal($0, places: 6))%" } ?? ""
        lines.append(
            "    rollover: {activate-after: \(exact(group.rollover.activateAfter)), "
                + "keep-old: \(exact(group.rollover.keepOld))\(commit)}")
        lines.append("    push:")
        for (key, value) in policy(group.push) { lines.append("      \(key): \(value)") }
        lines.append("    revocation: \(group.revocation.rawValue)")
        lines.append("    backward-secrecy: \(group.backwardSecrecy)")
    }

    private static func write(_ vpn: VPNEntry, _ lines: inout [String]) {
        lines.append("  - name: \(word(vpn.name))")
        lines.append("    id: \(vpn.id)")
        lines.append("    ends: [\(vpn.ends.map(word).joined(separator: ", "))]")
        lines.append("    flows:")
        for flow in vpn.flows { lines.append("      - {\(self.flow(flow, "\(flow.destination)"))}") }
        lines.append("    suite: \(vpn.suite.rawValue)")
        if vpn.suite.isLegacy { lines.append("    legacy: true") }
        lines.append("    extended-sequence: \(vpn.extendedSequence)")
        let volume = vpn.volume.map { ", volume: \(Quantity.show(size: $0))" } ?? ""
        lines.append("    lifetime: {data: \(exact(vpn.lifetime))\(volume)}")
        lines.append("    rollover: {keep-old: \(exact(vpn.keepOld))}")
    }

    private static func suites(_ suites: [Phase1Suite]) -> String {
        "suites: [\(suites.map(\.description).joined(separator: ", "))]"
            + (suites.contains(where: \.isLegacy) ? ", legacy: true" : "")
    }

    /// - Parameter destination: nil for a group's, which is an address; a VPN's is any prefix.
    private static func flow(_ flow: TrafficSelector, _ destination: String? = nil) -> String {
        // "any" is of the family of the other side; where both are any, the prefixes say which.
        let areBothAny = destination != nil && flow.source.length == 0 && flow.destination.length == 0
        var parts = [
            "source: \(flow.source.length == 0 && !areBothAny ? "any" : word("\(flow.source)"))",
            "destination: \(word(destination ?? "\(flow.destination.address)"))",
        ]
        if flow.ipProtocol != 0 { parts.append("protocol: \(flow.ipProtocol)") }
        if flow.sourcePort != 0 { parts.append("source-port: \(flow.sourcePort)") }
        if flow.destinationPort != 0 { parts.append("destination-port: \(flow.destinationPort)") }
        return parts.joined(separator: ", ")
    }

    private static func policy(_ push: PushPolicy) -> [(String, String)] {
        let feedback =
            switch push.feedback {
            case .all: "all"
            case .none: "none"
            case .census(let classes): "census \(classes)"
            }
        var policy = [
            ("copies", "\(push.copies)"), ("spread", exact(push.spread)),
            ("proactive", decimal(push.proactive, places: 3)), ("adapt", "\(push.adapts)"),
            ("block-size", "\(push.blockSize)"), ("feedback", feedback),
            ("repair-rounds", "\(push.repairRounds)"), ("control-rate", Quantity.show(rate: push.controlRate)),
            ("return-rate", Quantity.show(rate: push.returnRate)), ("round-trip", exact(push.roundTrip)),
            ("unicast-below", "\(push.unicastBelow)"), ("beacon-interval", exact(push.beaconInterval)),
        ]
        // Where every member is asked it has no meaning, and is refused.
        if push.feedback != .all { policy.append(("confirm-within", exact(push.confirmWithin))) }
        return policy
    }

    // MARK: Values

    /// YAML takes colons and the word null for something else.
    private static func word(_ text: String) -> String {
        text.contains(":") || text.hasPrefix("[") || text == "null" ? "\"\(text)\"" : text
    }

    /// A duration to the nanosecond.
    private static func exact(_ duration: Duration) -> String {
        let nanoseconds = duration.wholeNanoseconds
        guard nanoseconds % 1_000_000 != 0 else { return nanoseconds == 0 ? "0s" : Quantity.show(duration) }
        return "\(fraction(UInt64(clamping: nanoseconds), scale: 1_000_000_000, places: 9))s"
    }

    private static func decimal(_ value: Double, places: Int) -> String {
        let scale = (0..<places).reduce(UInt64(1)) { product, _ in product * 10 }
        return fraction(UInt64((value * Double(scale)).rounded()), scale: scale, places: places)
    }

    private static func fraction(_ value: UInt64, scale: UInt64, places: Int) -> String {
        let digits = String(value % scale)
        var text = "\(value / scale)." + String(repeating: "0", count: places - digits.count) + digits
        while text.last == "0" { text.removeLast() }
        return text.last == "." ? String(text.dropLast()) : text
    }
}
