// SPDX-License-Identifier: Apache-2.0

internal import Basics

/// The pending deadlines of many timers, at most one each. A server keeps several per ISAKMP SA, so the earliest one
/// must not cost a walk over all of them: a binary heap with lazy deletion, rebuilt when half of it is stale.
struct DeadlineQueue<Timer: Hashable> {
    /// Timers of one instant are due in the order in which they were set, so that a run can be repeated exactly.
    private struct Deadline: Comparable {
        let instant: Instant
        let number: UInt64

        static func < (left: Deadline, right: Deadline) -> Bool {
            (left.instant, left.number) < (right.instant, right.number)
        }
    }

    private var deadlines: [Timer: Deadline] = [:]
    private var heap: [(deadline: Deadline, timer: Timer)] = []
    private var lastNumber: UInt64 = 0

    subscript(timer: Timer) -> Instant? {
        get { deadlines[timer]?.instant }
        set {
            guard deadlines[timer]?.instant != newValue else { return }
            guard let newValue else {
                deadlines[timer] = nil
                return
            }
            lastNumber += 1
            let deadline = Deadline(instant: newValue, number: lastNumber)
            deadlines[timer] = deadline
            push((deadline, timer))
        }
    }

    /// When the next timer is due; nil when none is set.
    mutating func next() -> Instant? {
        while let first = heap.first {
            if deadlines[first.timer] == first.deadline { return first.deadline.instant }
            removeFirst()
        }
        return nil
    }

    /// Takes out one timer that is due, the earliest first; call until it gives nil.
    mutating func popDue(_ now: Instant) -> Timer? {
        guard let due = next(), due <= now, let timer = heap.first?.timer else { return nil }
        removeFirst()
        deadlines[timer] = nil
        return timer
    }

    private mutating func push(_ entry: (deadline: Deadline, timer: Timer)) {
        heap.append(entry)
        if heap.count > 2 * deadlines.count + 64 {
            heap = deadlines.map { ($0.value, $0.key) }
            for index in stride(from: heap.count / 2, through: 0, by: -1) { sink(index) }
            return
        }
        var child = heap.count - 1
        while child > 0 {
            let parent = (child - 1) / 2
            guard heap[child].deadline < heap[parent].deadline else { break }
            heap.swapAt(child, parent)
            child = parent
        }
    }

    private mutating func removeFirst() {
        heap.swapAt(0, heap.count - 1)
        heap.removeLast()
        sink(0)
    }

    private mutating func sink(_ start: Int) {
        var parent = start
        while true {
            var least = parent
            for child in [2 * parent + 1, 2 * parent + 2] where child < heap.count {
                if heap[child].deadline < heap[least].deadline { least = child }
            }
            guard least != parent else { return }
            heap.swapAt(parent, least)
            parent = least
        }
    }
}
