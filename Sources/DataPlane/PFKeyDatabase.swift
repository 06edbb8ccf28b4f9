// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import Cryptography
internal import ESP
internal import EventLoop
internal import Glibc

/// The kernel's SAD and SPD over PF_KEYv2 (RFC 2367), with the extensions for policies and tunnels that all who speak
/// it have in common.
///
/// A request number from a range of ours marks the SAs, and a priority the policies. They stand on every interface;
/// what that leaves open the packet filter closes.
final class PFKeyDatabase: KernelDatabase {
    var onExpiry: ((SAKey, _ isHard: Bool, _ done: KernelUsage) -> Void)?

    /// Linux takes numbers up to 0x3fff from outside. Other daemons begin at 1.
    static let requests: ClosedRange<UInt32> = 0x3000...0x3fff

    static func request(after request: UInt32) -> UInt32 {
        request >= requests.upperBound ? requests.lowerBound : request + 1
    }

    /// Priorities of our policies; a lower one decides first.
    private static let ranks: ClosedRange<UInt32> = 0x5a71_0000...0x5a71_ffff

    private let socket: PFKeySocket
    /// Expirations are told to those who registered, and to nobody else.
    private let reports: PFKeySocket
    private var watch: FileWatch?

    init(loop: EventLoop) throws(SystemError) {
        socket = try PFKeySocket()
        reports = try PFKeySocket()
        try reports.perform(PFKeyMessage(.register), "register for ESP", "")
        watch = loop.watch(readable: reports.descriptor) { [unowned self] in
            reports.drain { report in self.hear(report) }
        }
    }

    deinit { watch?.cancel() }

    // MARK: SAs

    func check(_ parameters: SAParameters) throws(DataPlaneError) {
        // Linux takes addresses and ports of a translator this way, but its policies would hold up key exchange's own
        // datagrams on the port that ESP shares with them; of extended sequence numbers it knows nothing here.
        guard parameters.encapsulation == nil, !parameters.extendedSequence else {
            throw .unsupportedAssociation(
                "PF_KEY does neither ESP in UDP nor extended sequence numbers, and \(parameters.name) has"
                    + " \(parameters.encapsulation == nil ? "these" : "the former"); set data-plane: xfrm or userspace")
        }
        guard !parameters.suite.isAEAD else {
            throw .unsupportedAssociation(
                "PF_KEY knows no \(parameters.suite.rawValue), and group \(parameters.name) has it;"
                    + " set data-plane: xfrm or userspace, or another suite at the key server")
        }
        guard Algorithms(parameters.suite) != nil else {
            throw .unsupportedAssociation(
                "by PF_KEY the kernel does not do \(parameters.suite.rawValue) as its standard says (its ICV would be"
                    + " 96 bits), and group \(parameters.name) has it; set data-plane: xfrm or userspace")
        }
    }

    func add(_ association: KernelAssociation) throws(SystemError) {
        try socket.perform(message(.add, association), "give the kernel", association.label)
    }

    func update(_ association: KernelAssociation) throws(SystemError) {
        try socket.perform(message(.update, association), "have the kernel change", association.label)
    }

    func remove(_ association: KernelAssociation) throws(SystemError) {
        try remove(association.parameters.key, association.source, association.label)
    }

    private func remove(_ key: SAKey, _ source: IPAddress, _ label: String) throws(SystemError) {
        do throws(SystemError) {
            try socket.perform(Self.name(.delete, key, source), "have the kernel remove", label)
        } catch {
            guard error.errno == ESRCH else { throw error }
        }
    }

    func usage(of association: KernelAssociation) -> KernelUsage? {
        var found: KernelUsage?
        let message = Self.name(.get, association.parameters.key, association.source)
        try? socket.ask(message, "ask the kernel for", association.label) { report in found = Self.usage(report) }
        if association.source.isUnspecified { found?.sequence = 0 }
        return found
    }

    /// What names an SA: SPI and addresses.
    private static func name(_ kind: PFKeyMessage.Kind, _ key: SAKey, _ source: IPAddress) -> PFKeyMessage {
        var message = PFKeyMessage(kind)
        message.append(.association) { $0.append(key.spi.bigEndian, state: 0) }
        message.append(.source, source, length: 32)
        message.append(.destination, key.destination, length: 32)
        return message
    }

    private func message(_ kind: PFKeyMessage.Kind, _ association: KernelAssociation) -> PFKeyMessage {
        let parameters = association.parameters
        guard let algorithms = Algorithms(parameters.suite), let key = parameters.authenticationKey else {
            preconditionFailure("a suite that PF_KEY does not know is refused before")
        }
        var message = PFKeyMessage(kind)
        message.append(.association) { message in
            message.append(
                parameters.key.spi.bigEndian, replay: UInt8(min(parameters.replayWindow, Self.largestWindow)),
                state: 1, authentication: algorithms.authentication, encryption: algorithms.encryption)
        }
        // One kind alone is refused.
        let hard = Self.limits(association, percent: 100)
        message.append(.hard) { $0.append(limits: hard, lifetime: parameters.lifetime) }
        message.append(.soft) {
            $0.append(limits: Self.limits(association, percent: 80), lifetime: parameters.lifetime)
        }
        message.append(.source, association.source, length: 32)
        message.append(.destination, parameters.key.destination, length: 32)
        for (type, key) in [(.authenticationKey, key), (.encryptionKey, parameters.cipherKey)]
            as [(PFKeyMessage.Extension, Secret)]
        {
            message.append(type) { message in
                message.append(UInt16(truncatingIfNeeded: key.count * 8))
                message.append(UInt16(0))
                message.append(key)
            }
        }
        message.append(.association2) { message in
            message.append(Self.tunnelMode)
            message.append(UInt8(0))
            message.append(UInt16(0))
            message.append(UInt32(0))
            message.append(association.request)
        }
        return message
    }

    private static let tunnelMode: UInt8 = 2
    /// What Linux keeps for an SA that came this way.
    private static let largestWindow = 32

    private static func limits(
        _ association: KernelAssociation, percent: UInt64
    ) -> (packets: UInt32, octets: UInt64) {
        let packets = association.source.isUnspecified ? 0 : UInt64(UInt32.max) / 100 * percent
        return (UInt32(clamping: packets), (association.octetLimit ?? 0) / 100 * percent)
    }

    private static func usage(_ report: PFKeyReport) -> KernelUsage {
        var usage = KernelUsage()
        guard let current = report[.current] else { return usage }
        usage.packets = UInt64(current.value(at: 0, as: UInt32.self) ?? 0)
        usage.octets = current.value(at: 4) ?? 0
        // Linux tells no number; one that sends counts from 1 and leaves none out.
        usage.sequence = usage.packets
        return usage
    }

    // MARK: Policies

    func set(_ policy: KernelPolicy) throws(SystemError) {
        var message = PFKeyMessage(.updatePolicy)
        message.append(selector: policy.selector)
        let isBlock = policy.direction == .out && policy.active == nil
        message.append(.policy) { message in
            message.append(
                kind: isBlock ? Self.discard : Self.ipsec, direction: policy.direction.number,
                rank: min(Self.ranks.lowerBound + policy.rank, Self.ranks.upperBound))
            guard !isBlock else { return }
            // struct sadb_x_ipsecrequest with its two addresses; its length is in octets.
            message.append(UInt16(48))
            message.append(UInt16(IPPROTO_ESP))
            message.append(Self.tunnelMode)
            message.append(Self.unique)
            message.append(UInt16(0))
            message.append(policy.request)
            message.append(UInt32(0))
            message.append(policy.source)
            message.append(policy.destination)
        }
        try socket.perform(message, "give the kernel a policy for", "\(policy.selector)")
    }

    func remove(_ policy: KernelPolicy) throws(SystemError) {
        var message = PFKeyMessage(.deletePolicy)
        message.append(selector: policy.selector)
        message.append(.policy) { $0.append(kind: Self.discard, direction: policy.direction.number, rank: 0) }
        try deletePolicy(message, "\(policy.selector)")
    }

    private func deletePolicy(_ message: PFKeyMessage, _ label: String) throws(SystemError) {
        do throws(SystemError) {
            try socket.perform(message, "have the kernel remove the policy for", label)
        } catch {
            guard error.errno == ENOENT else { throw error }
        }
    }

    private static let discard: UInt16 = 0
    private static let ipsec: UInt16 = 2
    /// IPSEC_LEVEL_UNIQUE: only an SA with this request number.
    private static let unique: UInt8 = 3

    // MARK: All of them

    func removeLeftOvers() throws(SystemError) {
        var policies: [PFKeyMessage] = []
        dump(.dumpPolicies) { report in
            guard let policy = report[.policy], let direction: UInt8 = policy.value(at: 2),
                let rank: UInt32 = policy.value(at: 8), Self.ranks.contains(rank),
                let source = report[.source], let destination = report[.destination]
            else { return }
            var message = PFKeyMessage(.deletePolicy)
            message.append(.source) { $0.append(octets: source) }
            message.append(.destination) { $0.append(octets: destination) }
            message.append(.policy) { $0.append(kind: Self.discard, direction: direction, rank: 0) }
            policies.append(message)
        }
        var associations: [(SAKey, IPAddress)] = []
        dump(.dump) { report in
            guard let key = Self.ours(report), let source = report[.source].flatMap(Self.address) else { return }
            associations.append((key, source))
        }
        for message in policies { try deletePolicy(message, "a former client") }
        for (key, source) in associations { try remove(key, source, "an SA of a former client") }
    }

    /// An empty list is an error to PF_KEY.
    private func dump(_ kind: PFKeyMessage.Kind, _ take: (PFKeyReport) -> Void) {
        try? socket.ask(PFKeyMessage(kind), "list what the kernel has", "", take)
    }

    /// The SA that a report is about, if it is one of ours.
    private static func ours(_ report: PFKeyReport) -> SAKey? {
        guard let request: UInt32 = report[.association2]?.value(at: 8), requests.contains(request),
            let spi: UInt32 = report[.association]?.value(at: 0),
            let destination = report[.destination].flatMap(address)
        else { return nil }
        return SAKey(spi: UInt32(bigEndian: spi), destination: destination)
    }

    /// In an address extension, behind protocol, prefix length, family and port.
    private static func address(_ octets: ArraySlice<UInt8>) -> IPAddress? {
        guard octets.value(at: 4, as: UInt16.self) == UInt16(AF_INET) else { return nil }
        return IPAddress(octets: octets.dropFirst(8).prefix(4))
    }

    private func hear(_ report: PFKeyReport) {
        guard report.kind == PFKeyMessage.Kind.expire.rawValue, let key = Self.ours(report) else { return }
        onExpiry?(key, report[.hard] != nil, Self.usage(report))
    }
}

/// What PF_KEY calls a suite's algorithms.
private struct Algorithms {
    var encryption: UInt8
    var authentication: UInt8

    /// Not HMAC-SHA2-256: the kernel cuts it to 96 bits on this way, where RFC 4868 has 128.
    init?(_ suite: ESPSuite) {
        switch (suite.transformID, suite.authenticationID) {
        case (12, 2): (encryption, authentication) = (12, 3)
        default: return nil
        }
    }
}

extension KernelPolicy.Direction {
    fileprivate var number: UInt8 {
        switch self {
        case .into: 1
        case .out: 2
        case .forward: 3
        }
    }
}

extension KernelMessage {
    /// The body of sadb_sa.
    fileprivate mutating func append(
        _ spi: UInt32, replay: UInt8 = 0, state: UInt8, authentication: UInt8 = 0, encryption: UInt8 = 0
    ) {
        append(spi)
        for octet in [replay, state, authentication, encryption] { append(octet) }
        append(UInt32(0))
    }

    /// The body of sadb_lifetime; 0 is no limit.
    fileprivate mutating func append(limits: (packets: UInt32, octets: UInt64), lifetime: Duration?) {
        append(limits.packets)
        append(limits.octets)
        append(UInt64(clamping: lifetime.map { max($0.components.seconds, 1) } ?? 0))
        append(UInt64(0))
    }

    /// The body of sadb_x_policy.
    fileprivate mutating func append(kind: UInt16, direction: UInt8, rank: UInt32) {
        append(kind)
        append(direction)
        append(UInt8(0))
        append(UInt32(0))
        append(rank)
    }
}

extension PFKeyMessage {
    fileprivate mutating func append(selector: TrafficSelector) {
        // 255 is any.
        let ipProtocol = selector.ipProtocol == 0 ? 255 : selector.ipProtocol
        append(
            .source, selector.source.address, length: selector.source.length, ipProtocol: ipProtocol,
            port: selector.sourcePort)
        append(
            .destination, selector.destination.address, length: selector.destination.length, ipProtocol: ipProtocol,
            port: selector.destinationPort)
    }
}
