// SPDX-License-Identifier: Apache-2.0

internal import Basics

/// What comes next in a delivery run, in the order of time and, at one time, of scheduling: a binary heap of small
/// entries, for millions of them.
struct DeliveryQueue {
    enum Event {
        /// The sender has something to do.
        case sender
        /// A multicast reaches the members.
        case datagram(Int32)
        /// A member has something to do.
        case member(UInt32)
        /// An answer reaches the GCKS.
        case answer(UInt32)
        /// A NACK reaches it: its number in the list.
        case refusal(Int32)
        /// A profile for one member: its next transmission, its arrival, and that of its acknowledgement.
        case profile(UInt32)
        case profileArrives(UInt32)
        case profileAnswer(UInt32)
        /// The answer to a probe reaches the GCKS.
        case alive(UInt32)
        /// The next member's turn in the dead peer detection that goes on anyway.
        case keepAlive
        /// A BEACON of the GCKS is due.
        case beacon
    }
    private struct Entry {
        var at: Int64
        var serial: UInt32
        var event: Event
    }

    private var heap: [Entry] = []
    private var serial: UInt32 = 0

    var isEmpty: Bool { heap.isEmpty }
    var nextAt: Instant? { heap.first.map { Instant(nanoseconds: $0.at) } }

    mutating func removeAll() { heap.removeAll(keepingCapacity: heap.count < 65_536) }

    mutating func schedule(_ event: Event, at instant: Instant) {
        let entry = Entry(at: instant.nanoseconds, serial: serial, event: event)
        serial &+= 1
        var place = heap.count
        heap.append(entry)
        while place > 0, Self.precedes(entry, heap[(place - 1) / 2]) {
            heap[place] = heap[(place - 1) / 2]
            place = (place - 1) / 2
        }
        heap[place] = entry
    }

    mutating func pop() -> (at: Instant, event: Event)? {
        guard let first = heap.first, let last = heap.popLast() else { return nil }
        if !heap.isEmpty {
            var place = 0
            while true {
                var child = 2 * place + 1
                guard child < heap.count else { break }
                if child + 1 < heap.count, Self.precedes(heap[child + 1], heap[child]) { child += 1 }
                guard Self.precedes(heap[child], last) else { break }
                heap[place] = heap[child]
                place = child
            }
            heap[place] = last
        }
        return (Instant(nanoseconds: first.at), first.event)
    }

    @inline(__always) private static func precedes(_ left: Entry, _ right: Entry) -> Bool {
        left.at == right.at ? left.serial < right.serial : left.at < right.at
    }
}

/// A rate with a queue before it.
struct DeliveryChannel {
    let bitsPerSecond: UInt64
    /// Octets that may wait; what comes when it is full is lost.
    let queueOctets: Int
    private var idleAt = Instant(nanoseconds: .min)
    private(set) var octets = 0
    private(set) var datagrams = 0
    private(set) var dropped = 0
    /// The longest that anything waited here, its own sending not counted.
    private(set) var longestWait = Duration.zero

    init(bitsPerSecond: UInt64, queueOctets: Int = .max) {
        self.bitsPerSecond = max(bitsPerSecond, 1)
        self.queueOctets = queueOctets
    }

    /// When the last bit leaves; nil when there was no room.
    mutating func send(_ count: Int, now: Instant) -> Instant? {
        let start = max(idleAt, now)
        let wait = start - now
        let waiting = Double(wait.wholeNanoseconds) * Double(bitsPerSecond) / 8e9
        guard waiting <= Double(queueOctets) else {
            dropped += 1
            return nil
        }
        octets += count
        datagrams += 1
        longestWait = max(longestWait, wait)
        idleAt = start + .nanoseconds(Int64(clamping: UInt64(count) * 8_000_000_000 / bitsPerSecond))
        return idleAt
    }
}
