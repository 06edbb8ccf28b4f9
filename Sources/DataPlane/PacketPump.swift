// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import CLinux
internal import Cryptography
internal import ESP
internal import EventLoop
internal import Glibc

/// Moves packets between the tunnel and the ESP sockets, in batches, in buffers made at the start: a packet costs no
/// allocation, and it is read, sealed or opened, and written in one place.
final class PacketPump {
    /// Outer headers and everything that ESP adds, at most: 40 + 8 + 8 + 16 + 15 + 2 + 32, rounded up.
    static let largestOverhead = 124
    /// An outer packet has 65,535 octets at most.
    static let largestInner = 65_535 - largestOverhead

    let loop: EventLoop
    private let tunnel: TunnelInterface
    private let routers: [AddressFamily: MulticastRouter]
    let associations: SecurityAssociationDatabase
    private var sockets: [ESPSocket] = []
    /// How each packet of the batch that is being filled may be cut.
    private var modes: [ESPSocket.Fragmentation]
    private let outerDSCP: UInt8?
    private let outerDF: DataPlaneConfiguration.DontFragment
    private var notice = TooBigNotice()
    /// The largest inner packet there is room for; the tunnel's MTU is no larger.
    private let largestInner: Int
    /// Where lines for the log go.
    let report: (LogEvent) -> Void
    /// The shorter way for packets to groups; nil where there is none.
    private let link: LinkSender?
    /// Takes several datagrams in one piece; nil where the tunnel does not.
    private let writer: TunnelWriter?
    /// The shorter way of packets from groups; nil where there is none.
    private var ring: ReceiveRing?
    /// Outer groups that we joined. The ring has those, too, that the interface lets in besides.
    var joined: Set<IPAddress> = []
    /// Which packets of the batch that is being filled go by `link`.
    private var isDirect: [Bool]
    private var gathering = BatchGathering()
    private var arriving = BatchGathering()
    /// Which go in UDP.
    private var isInUDP: [Bool]
    /// Key exchange's socket, by which ESP in UDP comes and goes; nil as long as there is none.
    private(set) var shared: UDPSocket?
    private let socketBuffer: Int
    private let interfaces: [(name: String, index: UInt32)]
    private let incoming: PacketBatch
    private let outgoing: PacketBatch
    private var watches: [FileWatch] = []
    private var isStopped = false
    var tally: Tally

    struct Tally {
        var fromTunnel: UInt64 = 0
        var toTunnel: UInt64 = 0
        var toSatellite: UInt64 = 0
        var fromSatellite: UInt64 = 0
        var kernelPackets: UInt64 = 0
    }

    /// Octets before an inner packet in its buffer, and behind it, in which ESP is built around it.
    private static let headroom = OuterHeader.size + (ESPSuite.allCases.map(\.headroom).max() ?? 0)
    private static let tailroom = ESPSuite.allCases.map(\.tailroom).max() ?? 0

    init(
        loop: EventLoop, configuration: DataPlaneConfiguration, facts: StartChecks, tunnel: TunnelInterface,
        routers: [AddressFamily: MulticastRouter], associations: SecurityAssociationDatabase,
        report: @escaping (LogEvent) -> Void
    ) throws(SystemError) {
        self.loop = loop
        self.tunnel = tunnel
        self.routers = routers
        self.associations = associations
        tally = Tally()
        self.report = report
        largestInner = max(facts.mtu.device, facts.largestOuter - InnerPacket.headerSize(isV4: true))
        modes = Array(repeating: .allowed, count: configuration.batch)
        outerDSCP = configuration.outerDSCP
        outerDF = configuration.outerDF
        socketBuffer = configuration.socketBuffer
        interfaces = [
            (configuration.satelliteInterface, facts.satelliteIndex),
            (configuration.terrestrialInterface, facts.terrestrialIndex),
        ]
        outgoing = PacketBatch(
            count: configuration.batch, capacity: Self.headroom + largestInner + Self.tailroom)
        incoming = PacketBatch(count: configuration.batch, capacity: 65_535)
        isDirect = Array(repeating: false, count: configuration.batch)
        isInUDP = isDirect
        writer = tunnel.header > 0 ? TunnelWriter(descriptor: tunnel.descriptor) : nil
        link =
            configuration.path == .automatic
            ? try? LinkSender(
                configuration.satelliteInterface, interface: facts.satelliteIndex,
                header: OuterHeader(linkMTU: facts.linkMTU, ttl: configuration.outerTTL),
                buffer: configuration.socketBuffer) : nil
        for address in facts.satelliteAddresses {
            sockets.append(
                try ESPSocket(
                    family: AddressFamily(address), configuration: configuration, interface: facts.satelliteIndex))
        }
        // Only with a writer: its pieces are what makes a block of packets cheap.
        ring =
            writer == nil
            ? nil : ReceiveRing(configuration.satelliteInterface, buffer: configuration.socketBuffer)
        watches = [loop.watch(readable: tunnel.descriptor) { [unowned self] in self.seal() }]
        for socket in sockets {
            watches.append(loop.watch(readable: socket.descriptor) { [unowned self] in self.open(socket) })
        }
        if let ring {
            watches.append(loop.watch(readable: ring.descriptor) { [unowned self] in self.open(ring, now: loop.now) })
        }
    }

    deinit { stop() }

    /// No packet moves after this.
    func stop() {
        guard !isStopped else { return }
        isStopped = true
        for watch in watches { watch.cancel() }
        watches = []
        sockets = []
        ring = nil
        shared?.endSharing()
        shared = nil
    }

    /// From now on ESP in UDP comes and goes by this socket.
    func share(_ socket: UDPSocket) throws(SystemError) {
        guard shared !== socket else { return }
        let sharer = unsafe UDPSocket.Sharer(
            take: { [unowned self] slot in unsafe self.take(slot, from: socket.largestPacket) },
            finish: { [unowned self] isError in self.finishShared(isError: isError) })
        try socket.share(with: sharer, buffer: socketBuffer)
        shared?.endSharing()
        shared = socket
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
        status.receiveOverflow = sockets.reduce(ring?.drops ?? 0) { $0 + $1.drops }
        status.drops = associations.totalDrops
        status.pathMTUs = associations.pathMTUs
    }

    /// Tunnel to satellite. Each packet is read to where its ESP packet is built, and all leave in one system call.
    private func seal() {
        if let pause = gathering.pause(now: loop.now) { clinux_pause(pause.wholeNanoseconds) }
        let now = loop.now
        var filled = 0
        var got = 0
        for _ in 0..<outgoing.count {
            let slot = unsafe outgoing[filled]
            let start = Self.headroom - tunnel.header
            got =
                unsafe read(tunnel.descriptor, slot.pointee.bytes + start, tunnel.header + largestInner) - tunnel.header
            guard got > 0 else { break }
            tally.fromTunnel &+= 1
            if unsafe isKernelsOwn(slot.pointee.bytes + Self.headroom, got) {
                tally.kernelPackets &+= 1
            } else if unsafe seal(slot, number: filled, count: got, now: now) {
                filled += 1
            }
        }
        let isForGroups = filled > 0 && (0..<filled).allSatisfy { unsafe outgoing[$0].pointee.remote.isGroup }
        gathering.note(isFull: got > 0, isForGroups: isForGroups)
        send(filled)
    }

    /// Sends the first slots: what stands together and goes by the same socket, in one system call.
    private func send(_ count: Int) {
        var failures: UInt64 = 0
        var first = 0
        while first < count {
            let family = unsafe outgoing[first].pointee.remote.family
            var end = first + 1
            while end < count, unsafe outgoing[end].pointee.remote.family == family, modes[end] == modes[first],
                isDirect[end] == isDirect[first], isInUDP[end] == isInUDP[first]
            {
                end += 1
            }
            // A packet is sealed only for a destination of a family that we have an address of.
            if isDirect[first], let link {
                outgoing.send(first..<end, toGroupsBy: link.descriptor, interface: link.interface) { _, _ in
                    failures &+= 1
                }
            } else if isInUDP[first] {
                sendInUDP(first..<end, of: outgoing, modes[first]) { failures &+= 1 }
            } else if let socket = sockets.first(where: { $0.family.number == Int32(family) }) {
                socket.set(modes[first])
                outgoing.send(first..<end, to: socket.descriptor) { _, _ in failures &+= 1 }
            } else {
                failures &+= UInt64(end - first)
            }
            first = end
        }
        tally.toSatellite &+= UInt64(count) &- failures
        for _ in 0..<failures { associations.count(.socketError) }
        for event in associations.takeEvents() { report(event) }
    }

    /// Makes the slot an ESP packet with its addresses; false when the packet was dropped, and counted.
    private func seal(_ slot: UnsafeMutablePointer<clinux_slot>, number: Int, count: Int, now: Instant) -> Bool {
        var buffer = unsafe MutableSpan(_unsafeStart: slot.pointee.bytes, count: outgoing.capacity)
        let inner = Self.headroom..<Self.headroom + count
        let octet = count > 1 ? TrafficClass.read(buffer.span.extracting(inner)) : 0
        let sealed: SecurityAssociationDatabase.Sealed
        do throws(PacketDrop) {
            sealed = try associations.encapsulate(in: &buffer, inner: inner, now: now)
        } catch {
            if error == .tooBig { tellTooBig(buffer.span.extracting(inner), now: now) }
            return false
        }
        let outerClass = TrafficClass.outer(for: octet, dscp: outerDSCP)
        modes[number] = mode(of: sealed)
        isInUDP[number] = sealed.encapsulation != nil
        // A group's packets only: routers may cut them.
        isDirect[number] =
            modes[number] == .allowed
            && link?.writeHeader(
                &buffer, packet: sealed.range, source: sealed.source, destination: sealed.destination,
                trafficClass: outerClass) == true
        let header = isDirect[number] ? OuterHeader.size : 0
        unsafe slot.pointee.start = UInt32(sealed.range.lowerBound - header)
        unsafe slot.pointee.count = UInt32(sealed.range.count + header)
        unsafe slot.pointee.traffic_class = UInt32(outerClass)
        unsafe slot.pointee.local = sealed.source.isUnspecified ? clinux_address() : clinux_address(sealed.source)
        unsafe slot.pointee.remote =
            sealed.encapsulation.map { clinux_address($0.remote.address, port: $0.remote.port) }
            ?? clinux_address(sealed.destination)
        return true
    }

    private func mode(of sealed: SecurityAssociationDatabase.Sealed) -> ESPSocket.Fragmentation {
        if sealed.exceedsPath { return .needed }
        guard !sealed.destination.isMulticast else { return .allowed }
        switch outerDF {
        case .copy: return sealed.isIndivisible ? .forbidden : .allowed
        case .set: return .forbidden
        case .clear: return .allowed
        }
    }

    private func tellTooBig(_ packet: Span<UInt8>, now: Instant) {
        guard let read = try? InnerPacket(reading: packet), read.isIndivisible,
            let mtu = associations.largestInner(for: read, now: now), mtu < read.count
        else { return }
        notice.send(about: packet, read: read, mtu: mtu, now: now)
    }

    /// Satellite to tunnel.
    private func open(_ socket: ESPSocket) {
        // An error here is one that the network reported about a packet we sent; the socket keeps what it said.
        if let pause = arriving.pause(now: loop.now) { clinux_pause(pause.wholeNanoseconds) }
        let count = (try? incoming.receive(from: socket.descriptor, limit: incoming.count)) ?? 0
        let now = loop.now
        if count == 0 { hearTooBig(socket.descriptor) }
        var isForGroups = count > 0
        for index in 0..<count {
            tally.fromSatellite &+= 1
            if isForGroups { isForGroups = unsafe isForGroup(incoming[index], family: socket.family) }
            unsafe open(incoming[index], family: socket.family, now: now)
        }
        arriving.note(isFull: count == incoming.count, isForGroups: isForGroups)
        flush()
    }

    /// After a batch: what is gathered goes to the tunnel, what was dropped into the log.
    func flush() {
        if let (written, failed) = writer?.flush() {
            tally.toTunnel &+= written
            for _ in 0..<failed { associations.count(.socketError) }
        }
        for event in associations.takeEvents() { report(event) }
    }

    /// Takes in what routers said about packets that we sent by this socket.
    func hearTooBig(_ descriptor: Int32) {
        for one in ESPSocket.readTooBig(descriptor) {
            associations.notePathMTU(
                one.mtu, destination: one.destination, spi: one.spi, sequence: one.sequence, now: loop.now)
        }
    }

    private func open(_ slot: UnsafeMutablePointer<clinux_slot>, family: AddressFamily, now: Instant) {
        let bytes = unsafe slot.pointee.bytes
        var buffer = unsafe MutableSpan(_unsafeStart: bytes!, count: incoming.capacity)  // set for the batch's life
        let datagram = unsafe 0..<Int(slot.pointee.count)
        let inner: Range<Int>
        // The raw IPv4 socket gives a whole header; the IPv6 one keeps it, and the slot has the octet.
        let outerClass =
            unsafe family == .v4 && datagram.count > 1
            ? buffer[1] : UInt8(truncatingIfNeeded: slot.pointee.traffic_class)
        do throws(PacketDrop) {
            if family == .v4 {
                inner = try associations.decapsulate(in: &buffer, datagram: datagram, now: now)
            } else {
                // The kernel keeps the IPv6 header to itself.
                inner = try associations.decapsulate(
                    in: &buffer, packet: datagram, source: unsafe IPAddress(slot.pointee.remote),
                    destination: unsafe IPAddress(slot.pointee.local), now: now)
            }
        } catch {
            return  // counted
        }
        unsafe deliver(bytes!, &buffer, inner, outerClass: outerClass)
    }

    /// Into the tunnel, at the latest with the next `flush`.
    func deliver(
        _ bytes: UnsafeMutablePointer<UInt8>, _ buffer: inout MutableSpan<UInt8>, _ inner: Range<Int>,
        outerClass: UInt8
    ) {
        do throws(PacketDrop) {
            try TrafficClass.carryMark(outer: outerClass, into: &buffer, packet: inner)
            try admit(buffer.span.extracting(inner))
            if let writer {
                unsafe writer.append(bytes + inner.lowerBound, count: inner.count)
                return
            }
            let written = unsafe write(tunnel.descriptor, bytes + inner.lowerBound, inner.count)
            guard written == inner.count else { throw .socketError }
            tally.toTunnel &+= 1
        } catch {
            associations.count(error)
        }
    }

    /// Whether a received packet was sent to a group.
    private func isForGroup(_ slot: UnsafeMutablePointer<clinux_slot>, family: AddressFamily) -> Bool {
        guard family == .v4 else { return unsafe slot.pointee.local.isGroup }
        return unsafe slot.pointee.count > 16 && slot.pointee.bytes[16] >> 4 == 0xe
    }

    /// Prepares the kernel for a multicast out of the tunnel.
    private func admit(_ inner: Span<UInt8>) throws(PacketDrop) {
        // The database has read this header: the octets are there.
        if inner[0] >> 4 == 4 {
            guard inner[16] >> 4 == 0xe else { return }
            try routers[.v4]?.admit(source: .v4(inner.word(at: 12)), group: .v4(inner.word(at: 16)))
        } else {
            guard inner[24] == 0xff else { return }
            try routers[.v6]?.admit(
                source: .v6(inner.longWord(at: 8), inner.longWord(at: 16)),
                group: .v6(inner.longWord(at: 24), inner.longWord(at: 32)))
        }
    }

    /// IGMP, MLD and router solicitations that the kernel writes to every interface, and whatever else no router
    /// forwards: nobody's traffic.
    private func isKernelsOwn(_ packet: UnsafeMutablePointer<UInt8>, _ count: Int) -> Bool {
        let octets = unsafe Span(_unsafeStart: packet, count: count)
        if octets[0] >> 4 == 4, count >= InnerPacket.headerSize(isV4: true) {
            return IPAddress.v4(octets.word(at: 16)).isLinkLocalMulticast
        }
        guard octets[0] >> 4 == 6, count >= InnerPacket.headerSize(isV4: false) else { return false }
        let source = IPAddress.v6(octets.longWord(at: 8), octets.longWord(at: 16))
        return source.isLinkLocal || source.isUnspecified
            || IPAddress.v6(octets.longWord(at: 24), 0).isLinkLocalMulticast
    }
}

extension clinux_address {
    fileprivate var isGroup: Bool { family == 4 ? low >> 28 == 0xe : high >> 56 == 0xff }
}

extension Span<UInt8> {
    /// 32 bits in network order.
    fileprivate func word(at offset: Int) -> UInt32 {
        (0..<4).reduce(0) { $0 << 8 | UInt32(self[offset + $1]) }
    }

    /// 64 bits in network order.
    fileprivate func longWord(at offset: Int) -> UInt64 {
        UInt64(word(at: offset)) << 32 | UInt64(word(at: offset + 4))
    }
}
