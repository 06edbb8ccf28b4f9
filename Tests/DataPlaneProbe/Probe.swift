// SPDX-License-Identifier: Apache-2.0
import AllocationCounter
import Basics
import Cryptography
import DataPlane
import ESP
import EventLoop
import Glibc

/// Arguments are `name=value` (`path=portable` for that way in and out of the system); with `ruleset` it prints the
/// guard's rules and ends, and with `suite` it makes one SA of that suite, says `ok` or what is wrong, and ends. The
/// commands, one a
/// line; each is answered by one line, `ok`, `error: ...` or what was asked for:
///
///     inbound SPI OUTER-DESTINATION SUITE INNER-SOURCE INNER-DESTINATION
///     outbound SPI OUTER-DESTINATION SUITE INNER-SOURCE INNER-DESTINATION
///         (both with `limit=OCTETS`, `life=SECONDS`, `window=PACKETS`, `proto=NUMBER`, `sport=PORT`, `dport=PORT`,
///         `esn`, `udp=REMOTE-ADDRESS/PORT` behind, in any order)
///     activate | remove-inbound | remove-outbound SPI OUTER-DESTINATION
///     remove-all
///     keys SPI SUITE
///     status | sas
///     stop
///
/// Keys are made from the SPI, so that two probes agree: no secret worth the name.
final class Probe {
    private let loop: EventLoop
    private let backend: any SABackend
    private let hasOneSender: Bool
    private let senderID: UInt16
    private var input: [UInt8] = []
    private var watch: FileWatch?
    private var expired: [String] = []
    private var shared: UDPSocket?
    private var keyExchange = 0

    static func main() {
        do {
            let values = Self.values(Array(CommandLine.arguments.dropFirst()))
            if values["ruleset"] != nil {
                say(
                    FailClosedGuard.ruleset(
                        interface: values["interface"] ?? "sat0", policy: try Self.policy(values["policy"] ?? ""),
                        terrestrialInterface: values["terrestrial"], clampedTunnel: values["clamp"],
                        admitsOpened: values["backend"] == "pfkey"))
                return
            }
            if let suite = values["suite"].flatMap({ ESPSuite(rawValue: $0) }) {
                let words = ["", "1000", "239.1.1.1", suite.rawValue, "0.0.0.0/0", "239.1.1.1"]
                _ = try InboundSA(Self.parameters(words, source: nil, senderID: 0))
                return say("ok")
            }
            let probe = try Probe(values)
            say("ready")
            try probe.loop.run()
        } catch {
            say("error: \(error)")
            exit(1)
        }
    }

    /// `name=value`, or a name alone.
    private static func values(_ arguments: [String]) -> [String: String] {
        var values: [String: String] = [:]
        for argument in arguments {
            let parts = argument.split(separator: "=", maxSplits: 1).map(String.init)
            values[parts[0]] = parts.count > 1 ? parts[1] : "yes"
        }
        return values
    }

    private init(_ values: [String: String]) throws {
        senderID = values["sender"].flatMap { UInt16($0) } ?? 0
        loop = try EventLoop()
        var configuration = DataPlaneConfiguration(
            satelliteInterface: values["satellite"] ?? "sat0", terrestrialInterface: values["terrestrial"] ?? "lan0",
            tunnelInterface: values["tunnel"] ?? "tun0",
            mtu: values["mtu"].flatMap { Int($0) },
            remoteNetworks: (values["remote"] ?? "").split(separator: ",").compactMap { IPPrefix($0) },
            requiresGuard: values["unguarded"] == nil)
        configuration.rules = try Self.policy(values["policy"] ?? "")
        configuration.outerDSCP = values["dscp"].flatMap { UInt8($0) }
        if let seconds = values["keepalive"].flatMap({ Int64($0) }) {
            configuration.keepaliveInterval = .seconds(seconds)
        }
        switch values["df"] {
        case "set": configuration.outerDF = .set
        case "clear": configuration.outerDF = .clear
        default: break
        }
        configuration.path = values["path"].flatMap(PacketPath.init) ?? .automatic
        hasOneSender = values["one-sender"] != nil
        if let interface = values["backend"].flatMap({ KernelBackend.Interface(rawValue: $0) }) {
            let kernel = try KernelBackend(interface, configuration: configuration, loop: loop)
            backend = kernel
            kernel.onExpiry = { [unowned self] key, isHard in expired.append("\(key.spi)-\(isHard ? "hard" : "soft")") }
        } else {
            backend = try UserspaceBackend(configuration: configuration, loop: loop, random: SystemRandom())
        }
        // As the daemon has it; `udp6` for IPv6.
        if values["udp"] != nil || values["udp6"] != nil {
            let socket = try UDPSocket(
                loop: loop, port: 4_500, interface: configuration.satelliteInterface,
                family: values["udp"] != nil ? .v4 : .v6
            ) { [unowned self] datagrams in keyExchange += datagrams.count }
            shared = socket
            try backend.share(socket)
        }
        watch = loop.watch(readable: 0) { [unowned self] in self.readInput() }
        loop.onSignal(SIGTERM) { [unowned self] in self.stop() }
    }

    /// `ACTION,SOURCE,DESTINATION,PROTOCOL,DESTINATION-PORT`, more than one with semicolons between.
    private static func policy(_ text: String) throws -> [PolicyRule] {
        try text.split(separator: ";").map { rule in
            let words = rule.split(separator: ",").map(String.init)
            guard words.count == 5, let action = PolicyRule.Action(rawValue: words[0]), let from = IPPrefix(words[1]),
                let to = IPPrefix(words[2]), let ipProtocol = UInt8(words[3]), let port = UInt16(words[4])
            else { throw Unknown() }
            return PolicyRule(
                action,
                TrafficSelector(source: from, destination: to, ipProtocol: ipProtocol, destinationPort: port))
        }
    }

    private func readInput() {
        var buffer = [UInt8](repeating: 0, count: 4_096)
        let count = read(0, &buffer, buffer.count)
        guard count > 0 else { return stop() }
        input += buffer.prefix(count)
        while let end = input.firstIndex(of: UInt8(ascii: "\n")) {
            let line = String(decoding: input[..<end], as: UTF8.self)
            input.removeSubrange(...end)
            do {
                say(try answer(line.split(separator: " ").map(String.init)))
            } catch {
                say("error: \(error)")
            }
        }
    }

    private func stop() {
        watch?.cancel()
        backend.stop()
        loop.stop()
    }

    private struct Unknown: Error {}

    private func answer(_ words: [String]) throws -> String {
        switch words.first {
        case "inbound":
            try backend.apply(.addInbound(Self.parameters(words, source: nil, senderID: 0, hasOneSender: hasOneSender)))
        case "outbound":
            let key = try Self.key(words)
            let own = backend.status().satelliteAddresses.first { $0.isV4 == key.destination.isV4 }
            try backend.apply(
                .addOutbound(
                    Self.parameters(
                        words, source: own ?? key.destination, senderID: senderID, hasOneSender: hasOneSender)))
        case "activate": try backend.apply(.activateOutbound(Self.key(words)))
        case "remove-inbound": try backend.apply(.removeInbound(Self.key(words)))
        case "remove-outbound": try backend.apply(.removeOutbound(Self.key(words)))
        case "remove-all": try backend.apply(.removeAll)
        case "keys":
            let parameters = try Self.parameters(
                [words[0], words[1], "10.0.0.1", words[2], "0.0.0.0/0", "0.0.0.0/0"], source: nil, senderID: 0)
            let keys = [parameters.cipherKey, parameters.authenticationKey].compactMap { $0 }
            return keys.map { key in
                key.withOctets { $0.map { String($0 >> 4, radix: 16) + String($0 & 15, radix: 16) }.joined() }
            }.joined(separator: " ")
        case "status": return report()
        case "sas": return (["sas=\(backend.snapshot().count)"] + associations).joined(separator: " ")
        case "stop": stop()
        default: throw Unknown()
        }
        return "ok"
    }

    private static func key(_ words: [String]) throws -> SAKey {
        guard words.count > 2, let spi = UInt32(words[1]), let destination = IPAddress(words[2]) else {
            throw Unknown()
        }
        return SAKey(spi: spi, destination: destination)
    }

    private static func parameters(
        _ words: [String], source: IPAddress?, senderID: UInt16, hasOneSender: Bool = false
    ) throws -> SAParameters {
        let key = try key(words)
        let more = Self.values(Array(words.dropFirst(6)))
        guard words.count >= 6, let suite = ESPSuite(rawValue: words[3]), let from = IPPrefix(words[4]),
            let to = IPPrefix(words[5])
        else { throw Unknown() }
        func secret(_ count: Int, _ salt: UInt64) -> Secret {
            Secret(SeededRandom(seed: UInt64(key.spi) << 8 | salt).bytes(count))
        }
        func port(_ name: String) -> UInt16 { more[name].flatMap { UInt16($0) } ?? 0 }
        let selector = TrafficSelector(
            source: from, destination: to, ipProtocol: more["proto"].flatMap { UInt8($0) } ?? 0,
            sourcePort: port("sport"), destinationPort: port("dport"))
        var parameters = SAParameters(
            key: key, selector: selector, suite: suite,
            cipherKey: secret(suite.cipherKeySize, 1),
            authenticationKey: suite.isAEAD ? nil : secret(suite.authenticationKeySize, 2), source: source,
            senderID: senderID, replayWindow: more["window"].flatMap { Int($0) } ?? 1_024,
            octetLimit: more["limit"].flatMap { UInt64($0) }, name: "probe", hasOneSender: hasOneSender,
            lifetime: more["life"].flatMap { Int64($0) }.map { .seconds($0) })
        parameters.extendedSequence = more["esn"] != nil
        if let words = more["udp"]?.split(separator: "/"), words.count == 2, let remote = IPAddress(String(words[0])),
            let port = UInt16(words[1])
        {
            parameters.encapsulation = UDPEncapsulation(localPort: 4_500, remote: SocketAddress(remote, port))
        }
        return parameters
    }

    /// All on one line, `name=value` each.
    private func report() -> String {
        let allocations = allocation_count()  // before this report makes its own
        let status = backend.status()
        var fields = [
            "mtu=\(status.mtu)", "mtu-v6=\(status.mtuV6 ?? 0)",
            "addresses=\(status.satelliteAddresses.map(\.description).joined(separator: ","))",
            "guarded=\(status.isGuarded.map { $0 ? "yes" : "no" } ?? "unknown")",
            "from-tunnel=\(status.packetsFromTunnel)", "to-tunnel=\(status.packetsToTunnel)",
            "to-satellite=\(status.packetsToSatellite)", "from-satellite=\(status.packetsFromSatellite)",
            "kernel=\(status.kernelPackets)", "key-exchange=\(keyExchange)",
            "fragmentation-failures=\(status.fragmentationFailures)",
            "warnings=\(status.warnings.count)", "allocations=\(allocations)",
            "optimised=\(isOptimised ? "yes" : "no")",
        ]
        fields += status.pathMTUs.map { "path-\($0.key)=\($0.value)" }.sorted()
        fields += associations
        fields += expired.map { "expired-\($0)=yes" }
        fields += status.drops.map { "drop-\($0.key)=\($0.value)" }.sorted()
        return fields.joined(separator: " ")
    }

    private var associations: [String] {
        var fields: [String] = []
        for sa in backend.snapshot() {
            fields.append("\(sa.direction)-\(sa.key.spi)=\(sa.counters.packets)\(sa.isActive ? "" : "-idle")")
            fields.append("octets-\(sa.key.spi)-\(sa.direction)=\(sa.counters.octets)")
            fields.append("sequence-\(sa.key.spi)-\(sa.direction)=\(sa.counters.sequence)")
            fields.append("used-\(sa.key.spi)-\(sa.direction)=\(sa.counters.lastUsed == nil ? "no" : "yes")")
        }
        return fields
    }
}

#if DEBUG
    private let isOptimised = false
#else
    private let isOptimised = true
#endif

/// One line on standard output, at once: the other end is a script that waits for it.
private func say(_ text: String) {
    let octets = Array((text + "\n").utf8)
    _ = write(1, octets, octets.count)
}
