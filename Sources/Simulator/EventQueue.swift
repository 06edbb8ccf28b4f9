// SPDX-License-Identifier: Apache-2.0

internal import Basics

/// What comes next, in the order of time and, at one time, of scheduling.
struct EventQueue {
    enum Event {
        case wakeServer
        case wakeMember(Int)
        /// Something has come up to the satellite from this terminal, or down to it.
        case up(Int)
        case down(Int)
        case startMember(Int)
        case startServer
        /// The same, with the store of the one that died.
        case restartServer
        /// A step of the scenario's script.
        case step(Int)
        case fault
        /// The address translation in front of this member forgets.
        case rebind(Int)
        /// The operator wants new keys for this VPN.
        case rekeyVPN(Int)
        /// The operator changes the inventory.
        case apply
        case endFault(Int)
        case faultsEnd
        case sabotage
        case check
        case auditFails
        case auditWorks
    }
    private struct Entry {
        var at: Instant
        var serial: UInt64
        var event: Event

        static func < (left: Entry, right: Entry) -> Bool {
            left.at == right.at ? left.serial < right.serial : left.at < right.at
        }
    }

    private var heap: [Entry] = []
    private var serial: UInt64 = 0

    var count: Int { heap.count }

    mutating func schedule(_ event: Event, at instant: Instant) {
        heap.append(Entry(at: instant, serial: serial, event: event))
        serial += 1
        var child = heap.count - 1
        while child > 0, heap[child] < heap[(child - 1) / 2] {
            heap.swapAt(child, (child - 1) / 2)
            child = (child - 1) / 2
        }
    }

    mutating func pop() -> (at: Instant, event: Event)? {
        guard let first = heap.first, let last = heap.popLast() else { return nil }
        if !heap.isEmpty {
            heap[0] = last
            var parent = 0
            while true {
                var least = parent
                for child in [2 * parent + 1, 2 * parent + 2] where child < heap.count && heap[child] < heap[least] {
                    least = child
                }
                guard least != parent else { break }
                heap.swapAt(parent, least)
                parent = least
            }
        }
        return (first.at, first.event)
    }
}

/// Sums up a run: two runs that differ in one octet of one datagram, or in one line of a log, differ in it.
struct EventHash {
    private(set) var value: UInt64 = 0xcbf2_9ce4_8422_2325
    private(set) var events: UInt64 = 0

    mutating func add(_ number: UInt64) {
        value = (value ^ number) &* 0x9e37_79b9_7f4a_7c15
        value ^= value >> 29
    }

    mutating func add(_ octets: some Sequence<UInt8>) { add(Self.of(octets)) }

    static func of(_ octets: some Sequence<UInt8>) -> UInt64 {
        var hash: UInt64 = 0xcbf2_9ce4_8422_2325
        for octet in octets { hash = (hash ^ UInt64(octet)) &* 0x100_0000_01b3 }
        return hash
    }

    mutating func event(_ kind: UInt64, _ who: Int, at now: Instant) {
        events += 1
        add(kind)
        add(UInt64(bitPattern: Int64(who)))
        add(UInt64(bitPattern: now.nanoseconds))
    }
}
