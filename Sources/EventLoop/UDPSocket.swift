// SPDX-License-Identifier: Apache-2.0

public import Basics
package import CLinux
internal import Glibc

/// A UDP socket on an event loop that knows the address each datagram was sent to, and that can answer from it.
///
/// It binds to the wildcard address, so one socket serves all addresses of the host and all groups it joins. It
/// delivers datagrams in batches, at most `Limits.datagramsPerWakeup` per wake-up.
public final class UDPSocket {
    /// What the socket did, for status and metrics.
    public struct Counters: Sendable, Hashable {
        public var received: UInt64 = 0
        public var sent: UInt64 = 0
        /// Larger than `Limits.datagramOctets`.
        public var truncated: UInt64 = 0
        /// For a group that this socket did not join (another program on this host did).
        public var foreign: UInt64 = 0
        public var sendFailures: UInt64 = 0
        /// Lost since the socket's receive buffer was full.
        public var overflow: UInt64 = 0

        public init() {}
    }

    /// The port it is bound to.
    public let port: UInt16
    package let family: AddressFamily
    private let interface: UInt32
    private let limits: Limits
    package let descriptor: Int32
    private let memberships = MulticastMemberships()
    private let incoming: PacketBatch
    private let outgoing: PacketBatch
    private let onReceive: ([Datagram]) -> Void
    private var watch: FileWatch?
    private var tally = Counters()
    private var sharer: Sharer?
    /// As in `clinux_fragmentation`.
    private var fragmentation = newSocketsFragmentation

    private static let newSocketsFragmentation: Int32 = 3

    /// Somebody else whose packets come and go by this socket: ESP in UDP.
    @safe package struct Sharer {
        /// Looks at each unicast that came before it becomes a datagram, and takes it by saying so. Its octets may be
        /// changed, and stay until `finish`.
        package var take: (UnsafeMutablePointer<clinux_slot>) -> Bool
        /// The batch is at its end; whether there was none, but an error that the network reported.
        package var finish: (_ isError: Bool) -> Void

        package init(
            take: @escaping (UnsafeMutablePointer<clinux_slot>) -> Bool, finish: @escaping (_ isError: Bool) -> Void
        ) {
            unsafe self.take = unsafe take
            self.finish = finish
        }
    }

    /// - Parameters:
    ///   - port: 0 lets the system choose.
    ///   - interface: binds to this interface alone; nil for all.
    ///   - family: of all its datagrams.
    ///   - address: binds to this one address; nil for all. A socket with an address hears no groups.
    ///   - limits: the batch size and the largest datagram.
    ///   - onReceive: called with one batch at a time, never with an empty one.
    public init(
        loop: EventLoop, port: UInt16, interface: String? = nil, family: AddressFamily, address: IPAddress? = nil,
        limits: Limits = Limits(), onReceive: @escaping ([Datagram]) -> Void
    ) throws(SystemError) {
        self.family = family
        self.limits = limits
        self.onReceive = onReceive
        self.interface = if let interface { try Interfaces.index(of: interface) } else { 0 }
        var local = clinux_address(address ?? family.any, port: port)
        let context = "\(SocketAddress(address ?? family.any, port))\(interface.map { " on " + $0 } ?? "")"
        let opened = unsafe clinux_udp_open(&local, interface)
        descriptor = try SystemError.check("bind UDP", opened, context: context)
        self.port = UInt16(truncatingIfNeeded: clinux_local_port(descriptor))
        incoming = PacketBatch(count: limits.datagramsPerWakeup, capacity: limits.datagramOctets)
        outgoing = PacketBatch(count: limits.datagramsPerWakeup, capacity: 65_535)
        watch = loop.watch(readable: descriptor) { [unowned self] in self.receive() }
    }

    deinit { close() }

    public var counters: Counters {
        var result = tally
        if watch != nil { result.overflow = UInt64(max(clinux_socket_drops(descriptor), 0)) }
        return result
    }

    /// Sends one datagram, from its local address if that is a unicast address, else from one the system chooses. The
    /// local port is always the socket's.
    public func send(_ datagram: Datagram) throws(SystemError) {
        if let error = send([datagram]).first { throw error }
    }

    /// Sends datagrams in order, in as few system calls as may be. What cannot be sent is lost, as on the network; the
    /// errors come back.
    @discardableResult
    public func send(_ datagrams: [Datagram]) -> [SystemError] {
        var errors: [SystemError] = []
        var rest = datagrams[...]
        while !rest.isEmpty {
            let batch = rest.prefix(outgoing.count)
            rest = rest.dropFirst(batch.count)
            errors += sendBatch(batch)
        }
        tally.sent += UInt64(datagrams.count - errors.count)
        tally.sendFailures += UInt64(errors.count)
        return errors
    }

    /// Hears what is sent to the group on the interface.
    public func join(_ group: IPAddress, interface: String) throws(SystemError) {
        try memberships.join(group, interface: interface)
    }

    /// No longer hears the group.
    public func leave(_ group: IPAddress, interface: String) { memberships.leave(group, interface: interface) }

    /// How multicasts of this socket leave: by which interface, with which TTL or hop limit, and whether this host's
    /// own members hear them.
    public func setMulticast(interface: String, ttl: UInt8, loop: Bool) throws(SystemError) {
        let index = try Interfaces.index(of: interface)
        let result = clinux_multicast_output(descriptor, family.number, index, Int32(ttl), loop ? 1 : 0)
        try SystemError.check("set multicast output to", result, context: interface)
    }

    // MARK: Sharing

    /// Octets of the largest packet that a sharer may be given.
    package var largestPacket: Int { incoming.capacity }

    /// Lets somebody have packets by this socket, without a copy or allocation for each.
    ///
    /// - Parameter buffer: asked for in both directions, in octets.
    package func share(with sharer: Sharer, buffer: Int) throws(SystemError) {
        let result = clinux_udp_share(descriptor, family.number, Int32(clamping: buffer))
        try SystemError.check("prepare for ESP", result, context: "UDP port \(port)")
        self.sharer = sharer
    }

    /// Has the kernel's IPsec take ESP out of what comes (IPv4).
    package func shareWithKernel() throws(SystemError) {
        try SystemError.check(
            "have the kernel take ESP from", clinux_udp_decapsulate(descriptor), context: "UDP \(port)")
    }

    package func endSharing() { sharer = nil }

    /// Sends these slots of a sharer's batch; a packet that cannot be sent is reported with its index and errno.
    ///
    /// - Parameter fragmentation: what may happen to them on their way, as in `clinux_fragmentation`.
    package func send(
        _ slots: Range<Int>, of batch: PacketBatch, fragmentation: Int32, failure: (Int, Int32) -> Void
    ) {
        guard watch != nil else { return slots.forEach { failure($0, EBADF) } }
        set(fragmentation)
        batch.send(slots, to: descriptor, failure: failure)
    }

    private func set(_ mode: Int32) {
        guard mode != fragmentation else { return }
        fragmentation = mode
        // Every kernel since 3.15 has these options.
        _ = clinux_fragmentation(descriptor, family.number, mode)
    }

    /// Ends it: no datagram comes or goes after this.
    public func close() {
        guard let watch else { return }
        watch.cancel()
        self.watch = nil
        sharer = nil
        memberships.leaveAll()
        _ = Glibc.close(descriptor)
    }

    private func receive() {
        // A queued ICMP error is all that can fail here, and it is spent by being read.
        guard let count = try? incoming.receive(from: descriptor, limit: limits.datagramsPerWakeup) else {
            sharer?.finish(true)
            return
        }
        var datagrams: [Datagram] = []
        for index in 0..<count {
            let slot = unsafe incoming[index].pointee
            let local = unsafe slot.local
            guard unsafe slot.truncated == 0, local.family != 0 else {
                tally.truncated += 1
                continue
            }
            let target = IPAddress(local)
            if target.isMulticast, !memberships.contains(target, interface: local.interface) {
                tally.foreign += 1
                continue
            }
            if let sharer, !target.isMulticast, unsafe sharer.take(incoming[index]) { continue }
            let bytes = unsafe [UInt8](UnsafeBufferPointer(start: slot.bytes, count: Int(slot.count)))
            let remote = unsafe SocketAddress(IPAddress(slot.remote), slot.remote.port)
            datagrams.append(Datagram(local: SocketAddress(target, port), remote: remote, bytes: bytes))
        }
        sharer?.finish(false)
        tally.received += UInt64(datagrams.count)
        if !datagrams.isEmpty { onReceive(datagrams) }
    }

    private func sendBatch(_ datagrams: ArraySlice<Datagram>) -> [SystemError] {
        guard watch != nil else { return datagrams.map { failed($0, EBADF) } }
        set(Self.newSocketsFragmentation)
        var errors: [SystemError] = []
        var filled: [Datagram] = []
        for datagram in datagrams {
            guard datagram.bytes.count <= outgoing.capacity, AddressFamily(datagram.remote.address) == family else {
                errors.append(failed(datagram, datagram.bytes.count > outgoing.capacity ? EMSGSIZE : EAFNOSUPPORT))
                continue
            }
            unsafe fill(outgoing[filled.count], with: datagram)
            filled.append(datagram)
        }
        outgoing.send(0..<filled.count, to: descriptor) { index, number in
            errors.append(failed(filled[index], number))
        }
        return errors
    }

    private func fill(_ slot: UnsafeMutablePointer<clinux_slot>, with datagram: Datagram) {
        let local = datagram.local.address
        let hasSource = !local.isUnspecified && !local.isMulticast && local.isV4 == (family == .v4)
        unsafe slot.pointee.count = UInt32(datagram.bytes.count)
        unsafe slot.pointee.local = hasSource ? clinux_address(local) : clinux_address()
        let remote = datagram.remote
        unsafe slot.pointee.remote = clinux_address(remote.address, port: remote.port, interface: interface)
        unsafe slot.pointee.bytes.update(from: datagram.bytes, count: datagram.bytes.count)
    }

    private func failed(_ datagram: Datagram, _ number: Int32) -> SystemError {
        SystemError("send", errno: number, context: "to \(datagram.remote)")
    }
}
