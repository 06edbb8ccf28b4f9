// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import CLinux
internal import Cryptography
internal import ESP
internal import EventLoop
internal import Glibc

/// Moves packets between the tunnel and the ESP socket, in batches, in buffers made at the start: a packet costs no
/// allocation, and it is read, sealed or opened, and written in one place.
final class PacketPump {
    /// Outer header and everything that ESP adds, at most: 20 + 8 + 16 + 15 + 2 + 32, rounded up.
    static let largestOverhead = 96
    /// An outer packet has 65,535 octets at most.
    static let largestInner = 65_535 - largestOverhead

    private let loop: EventLoop
    private let tunnel: TunnelInterface
    private let router: MulticastRouter
    private let associations: SecurityAssociationDatabase
    private let socket: Int32
    /// The largest inner packet there is room for; the tunnel's MTU is no larger.
    private let largestInner: Int
    /// Where lines for the log go.
    private let report: (LogEvent) -> Void
    private let interfaces: [(name: String, index: UInt32)]
    private let incoming: PacketBatch
    private let outgoing: PacketBatch
    private var watches: [FileWatch] = []
    private var isStopped = false
    private var tally: Tally

    private struct Tally {
        var fromTunnel: UInt64 = 0
        var toTunnel: UInt64 = 0
        var toSatellite: UInt64 = 0
        var fromSatellite: UInt64 = 0
        var kernelPackets: UInt64 = 0
    }

    /// Octets before an inner packet in its buffer, and behind it, in which ESP is built around it.
    private static let headroom = ESPSuite.allCases.map(\.headroom).max() ?? 0
    private static let tailroom = ESPSuite.allCases.map(\.tailroom).max() ?? 0

    init(
        loop: EventLoop, configuration: DataPlaneConfiguration, facts: StartChecks, tunnel: TunnelInterface,
        router: MulticastRouter, associations: SecurityAssociationDatabase, report: @escaping (LogEvent) -> Void
    ) throws(SystemError) {
        self.loop = loop
        self.tunnel = tunnel
        self.router = router
        self.associations = associations
        tally = Tally()
        self.report = report
        largestInner = max(facts.mtu, facts.largestOuter - InnerPacket.minimumHeader)
        interfaces = [
            (configuration.satelliteInterface, facts.satelliteIndex),
            (configuration.terrestrialInterface, facts.terrestrialIndex),
        ]
        outgoing = PacketBatch(
            count: configuration.batch, capacity: Self.headroom + largestInner + Self.tailroom)
        incoming = PacketBatch(count: configuration.batch, capacity: 65_535)
        let interface = configuration.satelliteInterface
        let opened = unsafe clinux_esp_open(interface, Int32(clamping: configuration.socketBuffer))
        socket = try SystemError.check("open a raw ESP socket on", opened, context: interface)
        // Not looped back: what we send must not come in again as if a member had sent it.
        let result = clinux_multicast_output(socket, 4, facts.satelliteIndex, Int32(configuration.outerTTL), 0)
        // All is set: should this throw, deinit closes the socket.
        try SystemError.check("set multicast output to", result, context: interface)
        watches = [
            loop.watch(readable: tunnel.descriptor) { [unowned self] in self.seal() },
            loop.watch(readable: socket) { [unowned self] in self.open() },
        ]
    }

    deinit { stop() }

    /// No packet moves after this.
    func stop() {
        guard !isStopped else { return }
        isStopped = true
        for watch in watches { watch.cancel() }
        watches = []
        close(socket)
    }

    /// Interfaces that are not any more those we started with: sockets and routes hold on to the old ones.
    var replacedInterfaces: [String] {
        interfaces.filter { (try? Interfaces.index(of: $0.name)) != $0.index }.map(\.name)
    }

    /// Adds our counters.
    func report(to status: inout DataPlaneStatus) {
        status.packetsFromTunnel = tally.fromTunnel
        status.packetsToTunnel = tally.toTunnel
        status.packetsToSatellite = tally.toSatellite
        status.packetsFromSatellite = tally.fromSatellite
        status.kernelPackets = tally.kernelPackets
        status.receiveOverflow = isStopped ? 0 : UInt64(max(clinux_socket_drops(socket), 0))
        status.drops = associations.totalDrops
    }

    /// Tunnel to satellite. Each packet is read to where its ESP packet is built, and all leave in one system call.
    private func seal() {
        let now = loop.now
        var filled = 0
        for _ in 0..<outgoing.count {
            let slot = unsafe outgoing[filled]
            let got = unsafe read(tunnel.descriptor, slot.pointee.bytes + Self.headroom, largestInner)
            guard got > 0 else { break }
            tally.fromTunnel &+= 1
            if unsafe isKernelsOwn(slot.pointee.bytes + Self.headroom, got) {
                tally.kernelPackets &+= 1
            } else if unsafe seal(slot, count: got, now: now) {
                filled += 1
            }
        }
        var failures: UInt64 = 0
        outgoing.send(to: socket, count: filled) { _, _ in failures &+= 1 }
        tally.toSatellite &+= UInt64(filled) &- failures
        for _ in 0..<failures { associations.count(.socketError) }
        for event in associations.takeEvents() { report(event) }
    }

    /// Makes the slot an ESP packet with its addresses; false when the packet was dropped, and counted.
    private func seal(_ slot: UnsafeMutablePointer<clinux_slot>, count: Int, now: Instant) -> Bool {
        var buffer = unsafe MutableSpan(_unsafeStart: slot.pointee.bytes, count: outgoing.capacity)
        let inner = Self.headroom..<Self.headroom + count
        // spec: RFC 4301 5.1.2.1 - the outer DSCP is the inner one, so that the link's quality of service still sees
        // it; congestion marks are not carried over (RFC 6040 4.1, compatibility mode).
        let trafficClass = count > 1 ? UInt32(buffer[Self.headroom + 1] & 0xfc) : 0
        guard let sealed = try? associations.encapsulate(in: &buffer, inner: inner, now: now) else { return false }
        unsafe slot.pointee.start = UInt32(sealed.range.lowerBound)
        unsafe slot.pointee.count = UInt32(sealed.range.count)
        unsafe slot.pointee.traffic_class = trafficClass
        unsafe slot.pointee.local = clinux_address(sealed.source)
        unsafe slot.pointee.remote = clinux_address(sealed.destination)
        return true
    }

    /// Satellite to tunnel.
    private func open() {
        // An error here is one that the network reported about a packet we sent; reading it was all it wanted.
        guard let count = try? incoming.receive(from: socket, limit: incoming.count) else { return }
        let now = loop.now
        for index in 0..<count {
            tally.fromSatellite &+= 1
            unsafe open(incoming[index], now: now)
        }
        for event in associations.takeEvents() { report(event) }
    }

    private func open(_ slot: UnsafeMutablePointer<clinux_slot>, now: Instant) {
        let bytes = unsafe slot.pointee.bytes
        var buffer = unsafe MutableSpan(_unsafeStart: bytes!, count: incoming.capacity)  // set for the batch's life
        let datagram = unsafe 0..<Int(slot.pointee.count)
        guard let inner = try? associations.decapsulate(in: &buffer, datagram: datagram, now: now) else { return }
        do throws(PacketDrop) {
            // The database has read this header: the octets are there.
            let source = buffer.word(at: inner.lowerBound + 12)
            let destination = buffer.word(at: inner.lowerBound + 16)
            if destination >> 28 == 0xe { try router.admit(source: source, group: destination) }
            let written = unsafe write(tunnel.descriptor, bytes! + inner.lowerBound, inner.count)
            guard written == inner.count else { throw .socketError }
            tally.toTunnel &+= 1
        } catch {
            associations.count(error)
        }
    }

    /// IGMP, MLD and router solicitations that the kernel writes to every interface: nobody's traffic. IPv6 has no
    /// business in this tunnel at all.
    private func isKernelsOwn(_ packet: UnsafeMutablePointer<UInt8>, _ count: Int) -> Bool {
        guard count >= InnerPacket.minimumHeader else { return false }
        if unsafe packet[0] >> 4 == 6 { return true }
        return unsafe packet[16] == 224 && packet[17] == 0 && packet[18] == 0
    }
}

extension MutableSpan<UInt8> {
    /// 32 bits in network order.
    fileprivate func word(at offset: Int) -> UInt32 {
        (0..<4).reduce(0) { $0 << 8 | UInt32(self[offset + $1]) }
    }
}
