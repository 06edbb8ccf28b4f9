// SPDX-License-Identifier: Apache-2.0

public import Basics

/// The nftables rules that keep the satellite interface closed whatever the daemon does, dies or fails to do.
///
/// They stand at the device itself, on ingress and egress, below routing and forwarding, and pass only what the
/// protocol needs: ESP, the UDP ports of phase 1 and FMKE, IGMP and ARP, of ICMPv6 what a link cannot do without
/// (neighbour discovery, MLD: messages that no router forwards), and inwards the news that an ESP packet was too big.
/// The operator loads them at boot, before the interface comes up, apart from the daemon; the kernel keeps them when
/// the daemon is gone and hooks them in again when the interface comes back. Fragments carry no port, so FMKE must fit
/// one packet.
public enum FailClosedGuard {
    /// Name of the tables.
    public static let table = "satipsec_guard"
    /// ISAKMP, GDOI and FMKE, NAT traversal.
    public static let defaultPorts: [UInt16] = [500, 848, 4500]

    /// A ruleset for `nft -f`; loading it again replaces it in one transaction.
    ///
    /// - Parameters:
    ///   - interface: towards the satellite.
    ///   - ports: UDP destination ports that pass.
    ///   - natPort: our own port for ESP in UDP; one of `ports`.
    ///   - policy: the client's own rules: what bypasses passes, with its answers, unless an earlier one discards it.
    ///   - terrestrialInterface: when given, a second table clears the DF bit of IPv4 multicasts that come in from the
    ///     LAN. Without it the kernel drops those larger than the tunnel's MTU, silently, and most senders set DF.
    ///   - admitsOpened: let in what the kernel's IPsec has opened, which comes in by the satellite interface a second
    ///     time where no interface of its own is there for it (PF_KEY).
    ///   - clampedTunnel: when given, a third table makes TCP connections through this tunnel agree on segments that
    ///     fit it (RFC 879, RFC 8200 5): both ends' offers pass a tunnel outwards at one of the two gateways. The
    ///     kernel does it here, since it has the MTU and the checksum at hand, for forwarded packets alone.
    public static func ruleset(
        interface: String, ports: [UInt16] = defaultPorts, natPort: UInt16 = 4500, policy: [PolicyRule] = [],
        terrestrialInterface: String? = nil, clampedTunnel: String? = nil, admitsOpened: Bool = false
    ) -> String {
        let interface = quotable(interface)
        let list = Set(ports).sorted().map(String.init).joined(separator: ", ")
        // Without a bypass there is nothing that the others would keep from passing.
        let matches = policy.contains { $0.action == .bypass } ? policy : []
        func rules(_ passes: [String], _ way: (TrafficSelector) -> TrafficSelector) -> String {
            let own = matches.map { rule in
                "        " + match(way(rule.selector)) + (rule.action == .bypass ? " accept" : " counter drop")
            }
            return (passes + own + ["        counter drop"]).joined(separator: "\n")
        }
        // Neighbour discovery says by its hop limit that no router was on its way, MLD that none shall be (RFC 4861
        // 6.1 and 7.1, RFC 3810 5). Anything else of ICMPv6 could be somebody's traffic.
        let passes = """
                    meta protocol arp accept
                    meta protocol ip meta l4proto { 2, 50 } accept
                    meta protocol ip6 meta l4proto 50 accept
                    icmpv6 type { 133, 134, 135, 136, 137 } ip6 hoplimit 255 accept
                    icmpv6 type { 130, 131, 132, 143 } ip6 hoplimit 1 accept
                    udp dport { \(list) } accept
            """
        let opened = admitsOpened ? "        \(Self.openedRule)\n" : ""
        // The packet they quote, which begins behind their own header of 8 octets, must be ESP.
        let tooBig = """
                    icmp type 3 icmp code 4 @th,136,8 50 accept
                    icmpv6 type 2 @th,112,8 50 accept
            """
        // To its own port such a peer's packets come as any others do. RFC 3948 2: SPIs up to 255 are none, and a
        // keepalive is one octet behind a header of 8.
        let inUDP = """
                    udp sport \(natPort) udp length > 16 @th,64,32 > 255 fib saddr type local accept
                    udp sport \(natPort) udp length 9 @th,64,8 0xff fib saddr type local accept
            """
        var text = """
            # The satellite side stays closed: only protected packets and what key exchange needs may pass.
            table netdev \(table)
            delete table netdev \(table)
            table netdev \(table) {
              chain ingress {
                type filter hook ingress device "\(interface)" priority -500; policy drop;
            \(opened)\(rules([passes, tooBig]) { $0.reversed })
              }
              chain egress {
                type filter hook egress device "\(interface)" priority -500; policy drop;
            \(rules([passes, inUDP]) { $0 })
              }
            }

            """
        if let terrestrialInterface = terrestrialInterface.map(quotable) {
            text += """

                # Multicasts from the LAN may be fragmented before the tunnel.
                table ip \(table)
                delete table ip \(table)
                table ip \(table) {
                  chain prerouting {
                    type filter hook prerouting priority -300; policy accept;
                    iifname "\(terrestrialInterface)" ip daddr 224.0.0.0/4 ip frag-off set ip frag-off & 0xbfff
                  }
                }

                """
        }
        if let clampedTunnel = clampedTunnel.map(quotable) {
            let clamp = "tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu"
            text += """

                # Segments that fit the tunnel.
                table inet \(table)
                delete table inet \(table)
                table inet \(table) {
                  chain forward {
                    type filter hook forward priority -150; policy accept;
                    oifname "\(clampedTunnel)" \(clamp)
                  }
                }

                """
        }
        return text
    }

    /// What nftables compares with a packet's headers for this selector.
    private static func match(_ selector: TrafficSelector) -> String {
        let family = selector.source.address.isV4 ? "ip" : "ip6"
        var words = ["meta protocol \(family)"]
        if selector.source.length > 0 { words.append("\(family) saddr \(selector.source)") }
        if selector.destination.length > 0 { words.append("\(family) daddr \(selector.destination)") }
        if selector.ipProtocol != 0 { words.append("meta l4proto \(selector.ipProtocol)") }
        if selector.sourcePort != 0 { words.append("th sport \(selector.sourcePort)") }
        if selector.destinationPort != 0 { words.append("th dport \(selector.destinationPort)") }
        return words.joined(separator: " ")
    }

    /// A packet that an SA opened carries that SA with it.
    private static let openedRule = "meta ipsec exists accept"

    /// Does the guard let in what the kernel's IPsec has opened?
    static func admitsOpened(interface: String) -> Bool {
        guard let result = ChildProcess.run("nft", ["list", "ruleset", "netdev"]), result.exitCode == 0 else {
            return false
        }
        return chains(of: result.output).contains { chain in
            chain.head.contains("\"\(interface)\"") && chain.head.contains("hook ingress ")
                && chain.rules.contains { $0 == openedRule }
        }
    }

    /// Does a guard stand on both hooks of this interface? Asks `nft`, so it needs the right to.
    public static func isInstalled(interface: String) -> Bool { problem(interface: interface) == nil }

    /// What is missing, in words; nil when the guard stands.
    public static func problem(interface: String) -> String? {
        guard let result = ChildProcess.run("nft", ["list", "ruleset", "netdev"]) else {
            return "the program nft cannot be run"
        }
        guard result.exitCode == 0 else {
            return "nft reports: " + result.output.split(separator: "\n").prefix(1).joined()
        }
        return problem(interface: interface, listing: result.output)
    }

    /// The same for a listing of all tables of the netdev family.
    static func problem(interface: String, listing: String) -> String? {
        var closed: Set<Substring> = []
        for chain in chains(of: listing) {
            guard chain.head.contains("\"\(interface)\""), chain.head.contains("policy drop;"),
                let hook = hooks.first(where: { chain.head.contains("hook \($0) ") })
            else { continue }
            // A policy means nothing behind a rule that takes everything.
            guard !chain.rules.contains(where: acceptsEverything) else {
                return "the nftables chain with hook \(hook) on \(interface) accepts everything"
            }
            closed.insert(hook)
        }
        guard let missing = hooks.first(where: { !closed.contains($0) }) else { return nil }
        return "no nftables chain of the netdev family with hook \(missing) and policy drop stands on \(interface)"
    }

    private static let hooks: [Substring] = ["ingress", "egress"]

    /// The base chains in what `nft list ruleset` prints: the line that hooks them in, and their rules.
    private static func chains(of listing: String) -> [(head: Substring, rules: [Substring])] {
        var chains: [(head: Substring, rules: [Substring])] = []
        var isInside = false
        for line in listing.split(separator: "\n").map({ $0.drop(while: \.isWhitespace) }) {
            if line.hasPrefix("type filter hook ") {
                chains.append((line, []))
                isInside = true
            } else if line.hasPrefix("}") {
                isInside = false
            } else if isInside {
                chains[chains.count - 1].rules.append(line)
            }
        }
        return chains
    }

    /// `accept`, with nothing before it but a counter.
    private static func acceptsEverything(_ rule: Substring) -> Bool {
        var words = rule.split(separator: " ").filter { $0 != "counter" }
        if words.count == 5, words[0] == "packets", words[2] == "bytes" { words.removeFirst(4) }
        return words == ["accept"]
    }

    /// Without what would end a quoted name. Linux lets an interface be called almost anything.
    static func quotable(_ name: String) -> String {
        name.filter { $0 != "\"" && $0 != "\\" && !$0.isNewline }
    }
}
