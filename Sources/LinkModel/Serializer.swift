// SPDX-License-Identifier: Apache-2.0

import Basics

/// The rate of a link and the queue before it, in exact arithmetic: a busy link sends precisely its rate in the long
/// run, since the fraction of a nanosecond that one frame leaves over is carried on to the next.
struct Serializer {
    /// When everything accepted so far has been sent: this instant and `fraction / rate` of a nanosecond.
    private var idleAt = Instant(nanoseconds: .min)
    private var fraction: UInt64 = 0

    /// Puts a frame on the link. Gives the instant its last bit leaves, or nil when the queue has no room for it.
    mutating func send(octets: Int, rate: UInt64, queueOctets: UInt64, now: Instant) -> Instant? {
        if now >= idleAt {
            idleAt = now
            fraction = 0
        }
        // One octet is 8 bits, and n bits take n * 10^9 / rate nanoseconds.
        let unit: UInt128 = 8_000_000_000
        let waiting = UInt128(UInt64(clamping: (idleAt - now).wholeNanoseconds)) * UInt128(rate) + UInt128(fraction)
        // An idle link takes any frame, as a queue of zero octets would otherwise pass nothing.
        guard waiting == 0 || waiting + UInt128(octets) * unit <= UInt128(queueOctets) * unit else { return nil }
        let work = UInt128(octets) * unit + UInt128(fraction)
        idleAt = idleAt + .nanoseconds(Int64(clamping: work / UInt128(rate)))
        fraction = UInt64(work % UInt128(rate))
        return idleAt
    }
}
