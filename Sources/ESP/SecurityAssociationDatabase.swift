// SPDX-License-Identifier: Apache-2.0

public import Basics

/// The SAD and the SPD of one client (RFC 4301 4.4): which SA opens what arrives, and which one protects what leaves.
///
/// Nothing ever passes it unprotected: a packet is sealed or opened by an SA, or it is dropped and counted. Not for
/// several threads at a time. A packet costs no allocation.
public final class SecurityAssociationDatabase {
    /// Our outer addresses, at most one of each family: what comes from them is our own multicast coming back.
    public let localAddresses: [IPAddress]
    /// The largest outer IP packet that we send, header included.
    public let linkMTU: Int
    /// The largest outer packet that goes to a peer in one piece, as long as its path does not say otherwise.
    public let wholeMTU: Int
    /// Drops of packets that belong to no SA, in either direction.
    public private(set) var unattributedDrops: [PacketDrop: UInt64] = [:]
    /// Drops of SAs that are gone, so that totals never go back.
    private var formerDrops: [PacketDrop: UInt64] = [:]
    /// Unspecified where there is none.
    private let localV4: IPAddress
    private let localV6: IPAddress
    private let random: any RandomSource
    private let limits: Limits
    private var inbound: [SAKey: InboundSA] = [:]
    private var outbound: [SAKey: OutboundSA] = [:]
    /// In the order in which their selectors first came; the first that admits a packet decides.
    private var policies: [Policy] = []
    /// The client's own policy, before those of the SAs.
    private let rules: [PolicyRule]
    private var paths = PathMTU()
    private var dropLog = DropLog()

    /// - Parameters:
    ///   - rules: the client's own policy; the first rule that names a packet decides.
    ///   - random: for the IVs of CBC, so it must be fit for keys.
    public init(
        localAddresses: [IPAddress], linkMTU: Int = 1_500, wholeMTU: Int? = nil, rules: [PolicyRule] = [],
        limits: Limits = Limits(), random: any RandomSource
    ) {
        self.localAddresses = localAddresses
        localV4 = localAddresses.first { $0.isV4 } ?? .anyV4
        localV6 = localAddresses.first { !$0.isV4 } ?? .anyV6
        self.linkMTU = linkMTU
        self.wholeMTU = min(wholeMTU ?? linkMTU, linkMTU)
        self.rules = rules
        self.limits = limits
        self.random = random
    }

    /// What shall be done with a packet that was sealed.
    public struct Sealed: Sendable, Hashable {
        /// Where the ESP packet lies, SPI to ICV.
        public var range: Range<Int>
        /// For the outer IP header, both of one family. The source is unspecified where we have no address of it.
        public var source: IPAddress
        public var destination: IPAddress
        /// Larger than what the path to a peer carries in one piece; the outer packet has to be fragmented.
        public var exceedsPath = false
        /// No router may cut the inner packet.
        public var isIndivisible = false
        /// In UDP, to where this says.
        public var encapsulation: UDPEncapsulation?
    }

    // MARK: Packets

    /// Seals an inner IPv4 or IPv6 packet in place with the active SA of the first policy that admits it.
    ///
    /// - Parameter inner: where it lies; `ESPSuite.headroom` octets before and `ESPSuite.tailroom` behind it are
    ///   overwritten (24 and 49 are enough for every suite).
    ///
    /// Throws `noPolicy` when no selector admits it, `noActiveSA` when there is none to seal it now, `tooBig` when the
    /// outer packet would not fit the link, and what `OutboundSA.encapsulate` throws.
    public func encapsulate(
        in buffer: inout MutableSpan<UInt8>, inner: Range<Int>, now: Instant
    ) throws(PacketDrop) -> Sealed {
        var packet: InnerPacket?
        var association: OutboundSA?
        do throws(PacketDrop) {
            guard inner.lowerBound >= 0, inner.upperBound <= buffer.count else { throw .malformed }
            let read = try InnerPacket(reading: buffer.span.extracting(inner))
            packet = read
            let found = try select(read)
            association = found
            return try encapsulate(in: &buffer, inner.lowerBound..<inner.lowerBound + read.count, read, found, now)
        } catch {
            if let association { association.count(error) } else { count(error) }
            dropLog.note(
                error, .outbound, now: now, DropLog.Packet(parameters: association?.parameters, inner: packet))
            throw error
        }
    }

    private func encapsulate(
        in buffer: inout MutableSpan<UInt8>, _ inner: Range<Int>, _ packet: InnerPacket, _ association: OutboundSA,
        _ now: Instant
    ) throws(PacketDrop) -> Sealed {
        let key = association.parameters.key
        // A group's SA carries what goes to that group, and nothing else that a wide selector may admit.
        if key.destination.isMulticast, packet.destination != key.destination { throw .policyMismatch }
        let size = association.parameters.suite.sealedSize(inner: packet.count)
        let outer = association.outerHeaderSize + size
        // spec: RFC 4301 8.2.1 - what must not be cut has to be smaller than the path's MTU, and its sender is told.
        let exceedsPath = outer > pathMTU(to: key.destination, now: now)
        guard outer <= linkMTU, !exceedsPath || !packet.isIndivisible else { throw .tooBig }
        let range = try association.seal(&buffer, inner, now)
        return Sealed(
            range: range, source: source(of: association), destination: key.destination, exceedsPath: exceedsPath,
            isIndivisible: packet.isIndivisible, encapsulation: association.parameters.encapsulation)
    }

    /// A group has many paths, and one member's must not decide for all.
    private func pathMTU(to destination: IPAddress, now: Instant) -> Int {
        if destination.isMulticast { return linkMTU }
        return min(paths.mtu(to: destination, now: now) ?? wholeMTU, wholeMTU)
    }

    /// The largest packet that would have been sealed in the place of one that was too big; nil where that has no
    /// answer. This is the MTU to tell its sender.
    public func largestInner(for packet: InnerPacket, now: Instant) -> Int? {
        guard let association = try? select(packet) else { return nil }
        let destination = association.parameters.key.destination
        let sealed = min(pathMTU(to: destination, now: now), linkMTU) - association.outerHeaderSize
        let largest = association.parameters.suite.largestInner(sealed: sealed)
        return packet.source.isV4 ? largest : max(largest, PathMTU.floor(isV4: false))
    }

    /// Takes in what a router says about one of our packets (ICMP "fragmentation needed", ICMPv6 "packet too big").
    ///
    /// spec: RFC 4301 8.2.1 - only if the packet that it quotes was sent under one of our SAs, and not long ago: these
    /// messages are not authentic. Never below what every link carries.
    ///
    /// - Parameters:
    ///   - mtu: of the next link, in octets.
    ///   - spi, sequence: of the ESP packet that is quoted.
    /// - Returns: whether it was believed.
    @discardableResult
    public func notePathMTU(
        _ mtu: Int, destination: IPAddress, spi: UInt32, sequence: UInt32, now: Instant
    ) -> Bool {
        guard !destination.isMulticast, let association = outbound[SAKey(spi: spi, destination: destination)] else {
            return false
        }
        // The lower half is what the packet shows.
        let last = association.counters.sequence
        let age = UInt32(truncatingIfNeeded: last) &- sequence
        guard age < Self.quotedRange, age < last else { return false }
        paths.note(mtu, to: destination, now: now)
        return true
    }

    /// How many packets back a router's message may quote.
    private static let quotedRange: UInt32 = 65_536

    /// Path MTUs that routers told of, by peer.
    public var pathMTUs: [IPAddress: Int] { paths.all }

    private func source(of association: OutboundSA) -> IPAddress {
        let isV4 = association.parameters.key.destination.isV4
        if let source = association.parameters.source, source.isV4 == isV4 { return source }
        return isV4 ? localV4 : localV6
    }

    /// Which SA would protect a packet now.
    ///
    /// Throws `noPolicy`, `noActiveSA` or `discarded`; counts nothing.
    public func select(_ packet: InnerPacket) throws(PacketDrop) -> OutboundSA {
        if !rules.isEmpty {
            switch rules.first(where: { $0.selector.admits(packet) })?.action {
            case nil, .protect: break
            case .discard: throw .discarded
            // It leaves by the system's routing; what comes this way cannot leave in clear.
            case .bypass: throw .noPolicy
            }
        }
        for policy in policies where policy.selector.admits(packet) {
            guard let active = policy.active else { throw .noActiveSA }
            return active
        }
        throw .noPolicy
    }

    /// Opens an ESP packet in place; gives where the inner packet lies.
    ///
    /// - Parameters:
    ///   - packet: where it lies, SPI to ICV.
    ///   - source: the outer source address.
    ///   - destination: the outer destination address.
    ///   - isInUDP: whether it came in UDP, which must be how its SA has it (`encapsulation` is the drop otherwise).
    public func decapsulate(
        in buffer: inout MutableSpan<UInt8>, packet: Range<Int>, source: IPAddress, destination: IPAddress,
        isInUDP: Bool = false, now: Instant
    ) throws(PacketDrop) -> Range<Int> {
        var association: InboundSA?
        var header: (spi: UInt32, sequence: UInt32)?
        do throws(PacketDrop) {
            guard source != localV4, source != localV6 else { throw .ownPacket }
            guard packet.lowerBound >= 0, packet.upperBound <= buffer.count, packet.count >= ESPHeader.iv else {
                throw .malformed
            }
            let spi = buffer.span.u32(at: packet.lowerBound + ESPHeader.spi)
            header = (spi, buffer.span.u32(at: packet.lowerBound + ESPHeader.sequence))
            guard let found = inbound[SAKey(spi: spi, destination: destination)] else { throw .unknownSPI }
            association = found
            guard found.isInUDP == isInUDP else {
                found.count(.encapsulation)
                throw .encapsulation
            }
            let inner = try found.decapsulate(in: &buffer, packet: packet, now: now)
            if !rules.isEmpty, let read = found.lastInner { try checkRules(read, of: found) }
            return inner
        } catch {
            if association == nil { count(error) }
            dropLog.note(
                error, .inbound, now: now,
                DropLog.Packet(
                    parameters: association?.parameters, spi: header?.spi, sequence: header?.sequence, source: source,
                    destination: destination, inner: association?.lastInner))
            throw error
        }
    }

    /// What came in by an SA is not what a rule discards, or lets pass in clear only.
    private func checkRules(_ packet: InnerPacket, of association: InboundSA) throws(PacketDrop) {
        let rule = rules.first { $0.selector.reversed.admits(packet) || isGroups($0, packet) }
        guard let rule, rule.action != .protect else { return }
        association.count(.discarded)
        throw .discarded
    }

    /// A rule about a group is about what its members send, whoever does.
    private func isGroups(_ rule: PolicyRule, _ packet: InnerPacket) -> Bool {
        packet.destination.isMulticast && rule.selector.admits(packet)
    }

    /// Opens what a raw IPv4 socket for ESP gives: an outer IPv4 header and the ESP packet, at `datagram`. (A raw IPv6
    /// socket gives the ESP packet alone.)
    public func decapsulate(
        in buffer: inout MutableSpan<UInt8>, datagram: Range<Int>, now: Instant
    ) throws(PacketDrop) -> Range<Int> {
        let source: IPAddress
        let destination: IPAddress
        let packet: Range<Int>
        do throws(PacketDrop) {
            guard datagram.lowerBound >= 0, datagram.upperBound <= buffer.count else { throw .malformed }
            let octets = buffer.span.extracting(datagram)
            let outer = try InnerPacket(reading: octets)
            let start = datagram.lowerBound
            // Protocol 50, and no fragment: the kernel has put those together.
            guard outer.source.isV4, outer.ipProtocol == 50, octets.u16(at: 6) & 0x3fff == 0 else { throw .malformed }
            source = outer.source
            destination = outer.destination
            packet = start + Int(octets[0] & 15) * 4..<start + outer.count
        } catch {
            count(error)
            dropLog.note(error, .inbound, now: now, DropLog.Packet())
            throw error
        }
        return try decapsulate(in: &buffer, packet: packet, source: source, destination: destination, now: now)
    }

    /// What there is to say in the log about packets that were dropped: of each reason a few lines at once, then one a
    /// second, with the flow where it could be read. Ask after each batch of packets.
    public func takeEvents() -> [LogEvent] { dropLog.isEmpty ? [] : dropLog.take() }

    /// Counts a drop that happened outside, for example on a socket error.
    public func count(_ drop: PacketDrop) { unattributedDrops[drop, default: 0] &+= 1 }

    // MARK: Changes

    /// Does what the control plane asks. Doing it again changes nothing: an SA that is already there keeps its sequence
    /// numbers, replay windows and counters unless its keys, suite or sender differ.
    ///
    /// Throws what `OutboundSA` and `InboundSA` throw when they are made, `reservedSPI`, `tooMany` beyond the limits,
    /// and `unknownAssociation` when an SA is to be activated that is not there. Removing what is not there is fine.
    public func apply(_ change: SAChange) throws(SAError) {
        switch change {
        case .addInbound(let parameters): try addInbound(parameters)
        case .addOutbound(let parameters): try addOutbound(parameters)
        case .activateOutbound(let key):
            guard let association = outbound[key] else { throw .unknownAssociation }
            guard let index = policies.firstIndex(where: { $0.members.contains(key) }) else {
                preconditionFailure("each outbound SA belongs to a policy")
            }
            policies[index].active = association
        case .removeInbound(let key):
            if let gone = inbound.removeValue(forKey: key) { retire(gone.counters) }
        case .removeOutbound(let key): removeOutbound(key)
        case .removeAll:
            for association in inbound.values { retire(association.counters) }
            for association in outbound.values { retire(association.counters) }
            inbound = [:]
            outbound = [:]
            policies = []
            paths.removeAll()
        }
    }

    private var roomIsLeft: Bool { inbound.count + outbound.count < limits.dataAssociations }

    private func addInbound(_ parameters: SAParameters) throws(SAError) {
        guard parameters.key.spi != 0 else { throw .reservedSPI }
        if let present = inbound[parameters.key] {
            if present.parameters.isSameCryptography(as: parameters) {
                present.update(parameters)
                return
            }
        } else if !roomIsLeft {
            throw .tooMany
        }
        let association = try InboundSA(parameters, limits: limits)
        if let former = inbound.updateValue(association, forKey: parameters.key) { retire(former.counters) }
    }

    private func addOutbound(_ parameters: SAParameters) throws(SAError) {
        guard parameters.key.spi != 0 else { throw .reservedSPI }
        if let present = outbound[parameters.key] {
            if present.parameters.isSameCryptography(as: parameters) {
                if present.parameters.selector != parameters.selector { movePolicy(present, to: parameters.selector) }
                present.update(parameters)
                return
            }
        } else if !roomIsLeft {
            throw .tooMany
        }
        let association = try OutboundSA(parameters, random: random)
        removeOutbound(parameters.key)
        outbound[parameters.key] = association
        enlist(parameters.key, parameters.selector)
    }

    /// The SA keeps its role when its selector changes.
    private func movePolicy(_ association: OutboundSA, to selector: TrafficSelector) {
        let key = association.parameters.key
        let wasActive = policies.contains { $0.active === association }
        dismiss(key)
        enlist(key, selector)
        if wasActive, let index = policies.firstIndex(where: { $0.members.contains(key) }) {
            policies[index].active = association
        }
    }

    private func removeOutbound(_ key: SAKey) {
        guard let gone = outbound.removeValue(forKey: key) else { return }
        retire(gone.counters)
        dismiss(key)
    }

    private func enlist(_ key: SAKey, _ selector: TrafficSelector) {
        if let index = policies.firstIndex(where: { $0.selector == selector }) {
            policies[index].members.insert(key)
        } else {
            policies.append(Policy(selector: selector, members: [key], active: nil))
        }
    }

    private func dismiss(_ key: SAKey) {
        guard let index = policies.firstIndex(where: { $0.members.contains(key) }) else { return }
        policies[index].members.remove(key)
        if policies[index].active?.parameters.key == key { policies[index].active = nil }
        if policies[index].members.isEmpty { policies.remove(at: index) }
    }

    private func retire(_ counters: SACounters) { formerDrops.merge(counters.drops) { $0 &+ $1 } }

    // MARK: Status

    /// Every SA with its counters, in the order of names, directions and SPIs. No keys.
    public func snapshot() -> [SAStatus] {
        let active = Set(policies.compactMap { $0.active?.parameters.key })
        let incoming = inbound.values.map {
            SAStatus(
                $0.parameters, direction: .inbound, isActive: true, senders: $0.senderCount, counters: $0.counters)
        }
        let outgoing = outbound.values.map {
            SAStatus(
                $0.parameters, direction: .outbound, isActive: active.contains($0.parameters.key), senders: 1,
                counters: $0.counters)
        }
        return (incoming + outgoing).sorted {
            ($0.name, $0.direction.rawValue, $0.key.destination, $0.key.spi)
                < ($1.name, $1.direction.rawValue, $1.key.destination, $1.key.spi)
        }
    }

    /// All drops since the start by reason: of no SA, of SAs that are gone, and of SAs that are there.
    public var totalDrops: [PacketDrop: UInt64] {
        var total = unattributedDrops.merging(formerDrops) { $0 &+ $1 }
        for association in inbound.values { total.merge(association.counters.drops) { $0 &+ $1 } }
        for association in outbound.values { total.merge(association.counters.drops) { $0 &+ $1 } }
        return total
    }

    /// One rule of the SPD: a selector, the SAs that could serve it, and the one that does.
    private struct Policy {
        let selector: TrafficSelector
        var members: Set<SAKey>
        var active: OutboundSA?
    }
}

extension SAParameters {
    /// Whether both are the same SA to the cipher, so that its sequence numbers and replay windows go on.
    fileprivate func isSameCryptography(as other: SAParameters) -> Bool {
        key == other.key && suite == other.suite && cipherKey == other.cipherKey
            && authenticationKey == other.authenticationKey && senderID == other.senderID
            && source == other.source && extendedSequence == other.extendedSequence
    }
}
