// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import Cryptography
internal import IKEv1
internal import ReliablePush

// Scalars of the Internet's own notations: addresses, prefixes, protocols, suites.

extension Scalar where Value == IPAddress {
    static var address: Scalar {
        Scalar("an IP address", write: "write for example 192.0.2.1 or 2001:db8::1") { IPAddress($0) }
    }

    /// An address that one host can have.
    static var unicast: Scalar {
        Scalar { text throws(Wrong) in
            let address = try Scalar.address.parse(text)
            guard !address.isMulticast else {
                throw Wrong("\(text) is a multicast address", instead: "write the address of one machine")
            }
            guard !address.isUnspecified else {
                throw Wrong("\(text) stands for any address", instead: "write the address of one machine")
            }
            return address
        }
    }

    /// A multicast address that routers and satellites carry.
    static var multicast: Scalar {
        Scalar { text throws(Wrong) in
            guard IPAddress(text) != nil || IPPrefix(text) == nil else {
                throw Wrong("\(text) is a subnet", instead: "write one multicast address, and one flow for each")
            }
            let address = try Scalar.address.parse(text)
            try requireMulticast(address)
            return address
        }
    }

    static func requireMulticast(_ address: IPAddress) throws(Wrong) {
        let example = address.isV4 ? "239.1.2.3 (239.0.0.0/8 is for private use)" : "ff18::1"
        guard address.isMulticast else {
            throw Wrong("\(address) is not a multicast address", instead: "write for example \(example)")
        }
        guard !address.isLinkLocalMulticast else {
            throw Wrong("no router forwards \(address)", instead: "write for example \(example)")
        }
    }
}

extension Scalar where Value == IPPrefix {
    static var prefix: Scalar {
        Scalar { text throws(Wrong) in
            if let prefix = IPPrefix(text) { return prefix }
            let parts = text.split(separator: "/", omittingEmptySubsequences: false)
            if parts.count == 2, let address = IPAddress(parts[0]), let length = Int(parts[1]),
                (0...address.bitCount).contains(length), let prefix = masked(address, length)
            {
                throw Wrong("\(text) has bits set behind its length", instead: "write \(prefix)")
            }
            throw Wrong("\"\(text)\" is not a subnet", instead: "write for example 10.1.0.0/16 or 2001:db8:1::/48")
        }
    }

    private static func masked(_ address: IPAddress, _ length: Int) -> IPPrefix? {
        var octets = address.octets
        for index in octets.indices {
            let bits = min(8, max(0, length - 8 * index))
            octets[index] &= UInt8(truncatingIfNeeded: 0xff00 >> bits)
        }
        return IPAddress(octets: octets).flatMap { IPPrefix(address: $0, length: length) }
    }
}

extension Scalar where Value == IPPrefix? {
    /// A subnet, or `any`, which is nil.
    static var prefixOrAny: Scalar {
        Scalar { text throws(Wrong) in text == "any" ? nil : try Scalar<IPPrefix>.prefix.parse(text) }
    }
}

extension Scalar where Value == SocketAddress {
    /// `239.255.0.1:848` or `[ff18::1]:848`; the address is a multicast group.
    static var multicastSocket: Scalar {
        Scalar { text throws(Wrong) in
            guard let socket = read(text) else {
                throw Wrong(
                    "\"\(text)\" is not an address with a port", instead: "write for example 239.255.0.1:848")
            }
            try Scalar<IPAddress>.requireMulticast(socket.address)
            return socket
        }
    }

    private static func read(_ text: String) -> SocketAddress? {
        guard let colon = text.lastIndex(of: ":") else { return nil }
        var host = text[..<colon]
        let digits = text[text.index(after: colon)...]
        let isBracketed = host.hasPrefix("[") && host.hasSuffix("]")
        if isBracketed { host = host.dropFirst().dropLast() }
        guard let address = IPAddress(host), address.isV4 != isBracketed,
            digits.utf8.allSatisfy({ (0x30...0x39).contains($0) }), let port = UInt16(digits), port > 0
        else { return nil }
        return SocketAddress(address, port)
    }
}

extension Scalar where Value == UInt8 {
    /// An IP protocol by name or number; 0 is any.
    static var ipProtocol: Scalar {
        Scalar("an IP protocol", write: "write any, icmp, tcp, udp, or a number from 1 to 255") { text in
            if let known = names.first(where: { $0.0 == text }) { return known.1 }
            return try? Scalar<UInt8>.integer(1...255).parse(text)
        }
    }

    private static var names: [(String, UInt8)] { [("any", 0), ("icmp", 1), ("tcp", 6), ("udp", 17)] }
}

extension Scalar where Value == UInt8? {
    /// A DSCP (RFC 2474), or `copy`, which is nil.
    static var dscp: Scalar {
        Scalar("a DSCP", write: "write copy, or a number from 0 to 63") { text in
            if text == "copy" { return .some(nil) }
            return (try? Scalar<UInt8>.integer(0...63).parse(text)).map { .some($0) }
        }
    }
}

extension Scalar where Value == Phase1Suite {
    /// In strongSwan's notation; a suite known to be weak needs `legacy: true` beside it.
    static func phase1Suite(isLegacyAllowed: Bool) -> Scalar {
        Scalar { text throws(Wrong) in
            guard let suite = Phase1Suite(text) else {
                throw Wrong(
                    "\"\(text)\" is not a phase 1 suite",
                    instead: "write encryption-hash-group, for example \(Phase1Suite.standard)")
            }
            guard isLegacyAllowed || !suite.isLegacy else {
                throw Wrong(
                    "\(text) is weak (DES, Blowfish, MD5 and MODP-768 are)",
                    instead: "write \(Phase1Suite.standard), or set legacy: true beside it")
            }
            return suite
        }
    }
}

extension Scalar where Value == ESPSuite {
    /// By its name; a suite known to be weak needs `legacy: true` beside it.
    static func espSuite(isLegacyAllowed: Bool) -> Scalar {
        Scalar { text throws(Wrong) in
            guard let suite = ESPSuite(rawValue: text) else {
                let near = NearestName.find(text, among: ESPSuite.allCases.map(\.rawValue))
                throw Wrong(
                    "\"\(text)\" is not a suite of ESP",
                    instead: near.map { "did you mean \($0)?" }
                        ?? "write \(ESPSuite.aes256gcm), \(ESPSuite.chacha20poly1305), or cipher-hash such as "
                        + "\(ESPSuite.aes128sha256)")
            }
            guard isLegacyAllowed || !suite.isLegacy else {
                throw Wrong(
                    "\(text) is weak (DES, Blowfish, null and MD5 are)",
                    instead: "write \(ESPSuite.aes256gcm), or set legacy: true beside it")
            }
            return suite
        }
    }
}

extension Scalar where Value == FeedbackPolicy {
    /// `all`, `none` or `census 64`.
    static var feedback: Scalar {
        Scalar { text throws(Wrong) in
            if text == "all" { return .all }
            if text == "none" { return .none }
            let parts = text.split(separator: " ")
            if parts.first == "census" {
                guard parts.count == 2,
                    let classes = try? Scalar<UInt16>.integer(2...UInt16.max).parse(String(parts[1]))
                else {
                    throw Wrong(
                        "\"\(text)\" does not say how many classes",
                        instead: "write census and a number from 2 to 65535, for example census 64")
                }
                return .census(classes)
            }
            throw Wrong("\"\(text)\" is not known here", instead: "write all, none or census N, for example census 64")
        }
    }
}

extension Scalar where Value == Double {
    /// Data and parity over data: `1.2`.
    static var overhead: Scalar {
        Scalar("a number from 1 to 4", write: "write for example 1.2") { text in
            guard let thousandths = Quantity.decimal(text[...], scale: 1_000), (1_000...4_000).contains(thousandths)
            else { return nil }
            return Double(thousandths) / 1_000
        }
    }
}

extension MappingReader {
    /// `source-port` and `destination-port`, 0 for any, beside this IP protocol.
    func ports(for ipProtocol: UInt8) -> (source: UInt16, destination: UInt16) {
        let source = optional("source-port", Scalar<UInt16>.port, default: 0)
        let destination = optional("destination-port", Scalar<UInt16>.port, default: 0)
        // TCP, UDP, DCCP, SCTP and UDP-Lite are those with ports.
        if source != 0 || destination != 0, ![6, 17, 33, 132, 136].contains(ipProtocol) {
            problems.add(
                place(of: destination != 0 ? "destination-port" : "source-port"),
                "stands beside a protocol that has no ports", instead: "add protocol: udp, or remove it")
        }
        return (source, destination)
    }
}
