// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import CLinux
internal import ESP

/// From groups, straight from the satellite interface.
extension PacketPump {
    /// Opens what is there, where it lies.
    func open(_ ring: ReceiveRing, now: Instant) {
        unsafe ring.take(blocks: 4) { bytes, count in
            unsafe open(bytes, count, now: now)
        } endOfBlock: {
            flush()
        }
    }

    private func open(_ bytes: UnsafeMutablePointer<UInt8>, _ count: Int, now: Instant) {
        var buffer = unsafe MutableSpan(_unsafeStart: bytes, count: count)
        guard let outer = PlainOuterHeader(buffer.span) else {
            tally.fromSatellite &+= 1
            associations.count(.malformed)
            return
        }
        guard joined.contains(outer.destination) else { return }
        tally.fromSatellite &+= 1
        let inner: Range<Int>
        do throws(PacketDrop) {
            inner = try associations.decapsulate(
                in: &buffer, packet: outer.packet, source: outer.source, destination: outer.destination, now: now)
        } catch {
            return  // counted
        }
        unsafe deliver(bytes, &buffer, inner, outerClass: outer.trafficClass)
    }
}
