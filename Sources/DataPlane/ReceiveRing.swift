// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import CLinux
internal import ESP
internal import EventLoop
internal import Glibc

/// Takes ESP packets to groups from the satellite interface before the kernel's IP stack sees them: it writes them to
/// memory that we share, and a rule of the packet filter ends their way there. Fragments, unicasts and whatever else is
/// not as plain as that go through the stack to the raw sockets.
///
/// Both vanish with their descriptors, so that a crash leaves neither; then the stack has the packets again, and drops
/// them, since nobody is there for them.
@safe final class ReceiveRing {
    /// The nftables table, of the netdev family.
    static let table = "satipsec_ring"

    private let ring: OpaquePointer
    private let diversion: Int32
    let descriptor: Int32

    /// nil where the system does not have it, or the interface is no Ethernet: the raw sockets remain.
    ///
    /// - Parameter buffer: octets of the memory.
    init?(_ interface: String, buffer: Int) {
        guard let ring = unsafe clinux_ring_open(interface, UInt32(clamping: buffer)) else { return nil }
        // The ring first: what the stack does not get has to have somewhere to go.
        let diversion = unsafe clinux_ring_divert(Self.table, interface)
        guard diversion >= 0 else {
            unsafe clinux_ring_close(ring)
            return nil
        }
        unsafe self.ring = unsafe ring
        self.diversion = diversion
        descriptor = unsafe clinux_ring_descriptor(ring)
    }

    deinit {
        close(diversion)
        unsafe clinux_ring_close(ring)
    }

    /// Lends each packet of the blocks that are there, at most so many blocks, from the outer header on; `endOfBlock`
    /// comes before a block's memory goes back to the kernel.
    func take(blocks: Int, _ packet: (UnsafeMutablePointer<UInt8>, Int) -> Void, endOfBlock: () -> Void) {
        for _ in 0..<blocks {
            guard unsafe clinux_ring_take(ring) > 0 else { return }
            var count: UInt32 = 0
            while let octets = unsafe clinux_ring_next(ring, &count) { unsafe packet(octets, Int(count)) }
            endOfBlock()
            unsafe clinux_ring_release(ring)
        }
    }

    /// Packets there was no room for.
    var drops: UInt64 { unsafe UInt64(max(clinux_ring_drops(ring), 0)) }
}

/// The outer header of what the ring gives, which no IP stack has looked at.
struct PlainOuterHeader {
    var source: IPAddress
    var destination: IPAddress
    /// DSCP and ECN.
    var trafficClass: UInt8
    /// Where the ESP packet lies.
    var packet: Range<Int>

    /// nil for what a stack would have dropped: a length that is not there, or a wrong checksum.
    init?(_ octets: Span<UInt8>) {
        let isV4 = !octets.isEmpty && octets[0] == 0x45
        let header = InnerPacket.headerSize(isV4: isV4)
        guard octets.count >= header, let read = try? InnerPacket(reading: octets), read.ipProtocol == 50 else {
            return nil
        }
        if isV4 {
            let sum = unsafe octets.withUnsafeBufferPointer {
                unsafe clinux_checksum($0.baseAddress, UInt32(header), 0)
            }
            guard sum == 0xffff else { return nil }
        }
        source = read.source
        destination = read.destination
        trafficClass = TrafficClass.read(octets)
        packet = header..<read.count
    }
}
