// SPDX-License-Identifier: Apache-2.0

internal import Basics
package import CLinux
internal import Glibc

/// Preallocated buffers for a batch of packets, and the system calls that fill and empty them: no allocation per
/// packet. The slots' memory lives as long as the batch.
@safe package final class PacketBatch {
    package let count: Int
    /// Octets per slot.
    package let capacity: Int
    private let batch: OpaquePointer

    package init(count: Int, capacity: Int) {
        self.count = count
        self.capacity = capacity
        guard let batch = unsafe clinux_batch_new(UInt32(count), UInt32(capacity)) else {
            preconditionFailure("memory for a batch of packets is there at the start")
        }
        unsafe self.batch = unsafe batch
    }

    deinit { unsafe clinux_batch_free(batch) }

    /// One packet: its octets, their number, both addresses. `index` is below `count`.
    package subscript(index: Int) -> UnsafeMutablePointer<clinux_slot> {
        guard index >= 0, let slot = unsafe clinux_batch_slot(batch, UInt32(index)) else {
            preconditionFailure("a slot's index is inside the batch")
        }
        return unsafe slot
    }

    /// Receives what is there, at most `limit` packets, into the first slots; gives their number.
    package func receive(from descriptor: Int32, limit: Int) throws(SystemError) -> Int {
        Int(try SystemError.check("recvmmsg", unsafe clinux_batch_receive(batch, descriptor, UInt32(limit))))
    }

    /// Sends these slots. A packet that cannot be sent is reported to `failure` with its index and errno, and the
    /// others still go.
    package func send(_ slots: Range<Int>, to descriptor: Int32, failure: (Int, Int32) -> Void) {
        send(slots, failure) { unsafe clinux_batch_send(batch, descriptor, $0, $1) }
    }

    /// The same by a socket that sends to an Ethernet interface: whole IPv4 packets to groups.
    package func send(
        _ slots: Range<Int>, toGroupsBy descriptor: Int32, interface: UInt32, failure: (Int, Int32) -> Void
    ) {
        send(slots, failure) { unsafe clinux_batch_send_link(batch, descriptor, interface, $0, $1) }
    }

    private func send(_ slots: Range<Int>, _ failure: (Int, Int32) -> Void, by call: (UInt32, UInt32) -> Int32) {
        var next = slots.lowerBound
        while next < slots.upperBound {
            let sent = call(UInt32(next), UInt32(slots.upperBound - next))
            if sent > 0 {
                next += Int(sent)
            } else {
                failure(next, -sent)
                next += 1
            }
        }
    }
}
