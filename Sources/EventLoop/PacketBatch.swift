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

    /// Sends the first `count` slots. A packet that cannot be sent is reported to `failure` with its index and errno,
    /// and the others still go.
    package func send(to descriptor: Int32, count: Int, failure: (Int, Int32) -> Void) {
        send(0..<count, to: descriptor, failure: failure)
    }

    /// The same for some of the slots.
    package func send(_ slots: Range<Int>, to descriptor: Int32, failure: (Int, Int32) -> Void) {
        var next = slots.lowerBound
        while next < slots.upperBound {
            let sent = unsafe clinux_batch_send(batch, descriptor, UInt32(next), UInt32(slots.upperBound - next))
            if sent > 0 {
                next += Int(sent)
            } else {
                failure(next, -sent)
                next += 1
            }
        }
    }
}
