// SPDX-License-Identifier: Apache-2.0

internal import Basics

/// The list `policy` of satipsec.yaml: what the client lets pass in clear, and what it never sends or delivers.
struct PolicyReader {
    private static let ruleKeys = ["action", "source", "destination", "protocol", "source-port", "destination-port"]
    /// Each is a rule of the packet filter too, and looked at for each packet.
    private static let mostRules = 64

    private let top: MappingReader
    private var problems: Problems { top.problems }

    init(_ top: MappingReader) { self.top = top }

    /// In their order; what is wrong goes to the problems.
    func rules() -> [PolicyRule] {
        guard top.has("policy") else { return [] }
        var rules: [(rule: PolicyRule, line: Int)] = []
        for mapping in top.mappings("policy", keys: Self.ruleKeys, label: "action") {
            guard let rule = read(mapping) else { continue }
            if let earlier = rules.first(where: { $0.rule.selector.covers(rule.selector) }) {
                problems.add(
                    mapping.place, "is never reached: line \(earlier.line) decides about all it names",
                    instead: "put it before that line, or remove it")
            }
            rules.append((rule, mapping.place.line))
        }
        if rules.count > Self.mostRules {
            problems.add(
                top.place(of: "policy"), "has \(rules.count) rules, more than \(Self.mostRules)",
                instead: "write wider subnets")
        }
        return rules.map(\.rule)
    }

    private func read(_ mapping: MappingReader) -> PolicyRule? {
        let action = mapping.required("action", Scalar<PolicyRule.Action>.word)
        let source = mapping.required("source", Scalar<IPPrefix?>.prefixOrAny)
        let destination = mapping.required("destination", Scalar<IPPrefix?>.prefixOrAny)
        let ipProtocol = mapping.optional("protocol", Scalar<UInt8>.ipProtocol, default: 0)
        let ports = mapping.ports(for: ipProtocol)
        guard let action, let source, let destination else { return nil }
        let prefixes = [source, destination].compactMap(\.self)
        let isV4 = prefixes.first?.address.isV4 ?? true
        if prefixes.contains(where: { $0.address.isV4 != isV4 }) {
            problems.add(
                mapping.place(of: "source"), "is not of the destination's address family",
                instead: "write both as IPv4 or both as IPv6")
            return nil
        }
        if let source, source.address.isMulticast {
            problems.add(
                mapping.place(of: "source"), "\(source) is multicast, which no packet comes from",
                instead: "write the subnet of the senders, or any")
        }
        if action == .bypass { checkBypass(destination, of: mapping) }
        let all: IPPrefix = isV4 ? .allV4 : .allV6
        return PolicyRule(
            action,
            TrafficSelector(
                source: source ?? all, destination: destination ?? all, ipProtocol: ipProtocol,
                sourcePort: ports.source, destinationPort: ports.destination))
    }

    /// The guard lets exactly these through, so they must not make it no guard.
    private func checkBypass(_ destination: IPPrefix?, of mapping: MappingReader) {
        let place = mapping.place(of: "destination")
        guard let destination, destination.length > 0 else {
            problems.add(
                place, "would let everything pass in clear", instead: "write the host or subnet that needs it")
            return
        }
        let multicast: IPPrefix? = IPPrefix(destination.address.isV4 ? "224.0.0.0/4" : "ff00::/8")
        guard multicast?.overlaps(destination) == true else { return }
        problems.add(
            place, "\(destination) holds multicasts, which go through the tunnel or not at all",
            instead: "write a unicast host or subnet")
    }
}
