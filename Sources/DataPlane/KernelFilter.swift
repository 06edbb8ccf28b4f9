// SPDX-License-Identifier: Apache-2.0

internal import Basics

/// The packet filter's rules that do what the kernel's IPsec leaves undone.
///
/// Its multicast router forwards whatever comes in by the right interface and asks no policy: neither whether the SA
/// that opened a packet is for it (RFC 4301 5.2), nor, where packets come in by the satellite interface itself, whether
/// any SA opened it at all. The rules stay when the daemon is killed: they only ever drop.
struct KernelFilter {
    static let table = "satipsec_kernel"

    /// Where opened packets come from: our own interface, or the satellite interface, where they mix with others.
    enum Origin {
        case tunnel(String)
        case satellite(String)

        var name: String {
            switch self {
            case .tunnel(let name), .satellite(let name): name
            }
        }
    }

    /// What the SA of a request may carry.
    struct Permission {
        var request: UInt32
        var selector: TrafficSelector
    }

    let origin: Origin

    /// Loads the rules in one transaction, in the place of the former ones. In words what nft says against it.
    ///
    /// - Parameter outgoing: what may leave as multicast; looked at only where packets leave by the satellite interface
    ///   itself, since the kernel's multicast router does not ask the policies about the source.
    func load(_ permissions: [Permission], outgoing: [TrafficSelector]) throws(DataPlaneError) {
        // Another interface's rules would protect nothing; a star at the end stands for anything.
        guard FailClosedGuard.quotable(origin.name) == origin.name, !origin.name.hasSuffix("*") else {
            throw .filter("nftables cannot name the interface \(origin.name); give it another name")
        }
        try Self.run(ruleset(permissions, outgoing: outgoing))
    }

    /// Do they still? `nft flush ruleset` takes them away, too.
    var stands: Bool { ChildProcess.run("nft", ["list", "table", "ip", Self.table])?.exitCode == 0 }

    static func remove() { try? run("table ip \(table)\ndelete table ip \(table)\n") }

    private static func run(_ rules: String) throws(DataPlaneError) {
        guard let result = ChildProcess.run("nft", [rules]) else { throw .filter("the program nft cannot be run") }
        guard result.exitCode == 0 else {
            throw .filter(result.output.split(separator: "\n").prefix(1).joined())
        }
    }

    func ruleset(_ permissions: [Permission], outgoing: [TrafficSelector]) -> String {
        var lines = ["table ip \(Self.table)", "delete table ip \(Self.table)", "table ip \(Self.table) {"]
        let name = FailClosedGuard.quotable(origin.name)
        lines += ["chain opened {", "type filter hook prerouting priority -310; policy accept;"]
        switch origin {
        case .tunnel:
            lines += permissions.map { "iifname \"\(name)\" \($0.match) accept" }
            lines += ["iifname \"\(name)\" counter drop", "}"]
        case .satellite:
            lines += permissions.map { "iifname \"\(name)\" \($0.match) accept" }
            lines += ["iifname \"\(name)\" meta ipsec exists counter drop", "}"]
            lines += ["chain forwarded {", "type filter hook forward priority -310; policy accept;"]
            // Routed from here as any multicast: ESP to the group, and what somebody put there in clear.
            lines += ["iifname \"\(name)\" meta l4proto esp counter drop"]
            lines += ["iifname \"\(name)\" ip daddr 224.0.0.0/4 meta ipsec missing counter drop"]
            lines += outgoing.map { "oifname \"\(name)\" \($0.match) rt ipsec exists accept" }
            lines += ["oifname \"\(name)\" ip daddr 224.0.0.0/4 counter drop", "}"]
        }
        return (lines + ["}", ""]).joined(separator: "\n")
    }
}

extension KernelFilter.Permission {
    /// The rule's condition: this SA, and a packet that it is for.
    fileprivate var match: String { "ipsec in reqid \(request) \(selector.match)" }
}

extension TrafficSelector {
    fileprivate var match: String {
        var words = "ip saddr \(source) ip daddr \(destination)"
        if ipProtocol != 0 { words += " meta l4proto \(ipProtocol)" }
        if sourcePort != 0 { words += " th sport \(sourcePort)" }
        if destinationPort != 0 { words += " th dport \(destinationPort)" }
        return words
    }
}
