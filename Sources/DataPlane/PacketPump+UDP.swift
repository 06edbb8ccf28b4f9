// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import CLinux
internal import ESP
internal import EventLoop

/// ESP in UDP (RFC 3948), by the socket that key exchange has on its port for address translators. What comes there
/// goes the way of other ESP packets, in the socket's own buffers.
extension PacketPump {
    /// Takes an ESP packet or keepalive out of what came; the rest is key exchange's.
    ///
    /// - Parameter capacity: octets of the slot's buffer.
    func take(_ slot: UnsafeMutablePointer<clinux_slot>, from capacity: Int) -> Bool {
        let bytes = unsafe slot.pointee.bytes!  // set for the batch's life
        var buffer = unsafe MutableSpan(_unsafeStart: bytes, count: capacity)
        let packet = unsafe 0..<Int(slot.pointee.count)
        switch PayloadInUDP(reading: buffer.span.extracting(packet)) {
        case .keyExchange: return false
        case .keepalive: return true
        case .esp: break
        }
        tally.fromSatellite &+= 1
        do throws(PacketDrop) {
            let inner = try associations.decapsulate(
                in: &buffer, packet: packet, source: unsafe IPAddress(slot.pointee.remote),
                destination: unsafe IPAddress(slot.pointee.local), isInUDP: true, now: loop.now)
            let outerClass = unsafe UInt8(truncatingIfNeeded: slot.pointee.traffic_class)
            unsafe deliver(bytes, &buffer, inner, outerClass: outerClass)
        } catch {}  // counted
        return true
    }

    /// The socket's batch is at its end.
    func finishShared(isError: Bool) {
        if isError, let shared { hearTooBig(shared.descriptor) }
        flush()
    }

    /// Sends sealed packets that go in UDP.
    func sendInUDP(
        _ slots: Range<Int>, of batch: PacketBatch, _ mode: ESPSocket.Fragmentation, failure: () -> Void
    ) {
        // An SA for UDP is taken only when the socket is there.
        guard let shared else { return slots.forEach { _ in failure() } }
        shared.send(slots, of: batch, fragmentation: mode.rawValue) { _, _ in failure() }
    }
}
