// SPDX-License-Identifier: Apache-2.0

public import Basics
internal import CLinux
internal import Glibc

/// A one-shot timer of an event loop. An engine has one and sets it to its next deadline after each drain of `poll()`.
public final class LoopTimer {
    private let queue: TimerQueue
    private let id: UInt64

    init(queue: TimerQueue, fire: @escaping () -> Void) {
        self.queue = queue
        id = queue.register(fire)
    }

    deinit { queue.forget(id) }

    /// When to fire next; nil for not at all. An instant that has passed fires in the next round of the loop.
    public func set(_ deadline: Instant?) { queue.set(id, deadline) }
}

/// All timers of one loop behind one timer descriptor on `CLOCK_BOOTTIME`: libevent's own timers would stop in suspend
/// and are cut to milliseconds.
final class TimerQueue {
    let descriptor: Int32
    private var table = TimerTable<UInt64>()
    private var actions: [UInt64: () -> Void] = [:]
    private var nextID: UInt64 = 0
    /// What the descriptor is set to.
    private var armed: Instant?

    init() throws(SystemError) {
        descriptor = try SystemError.check("timerfd_create", clinux_timer_open())
    }

    deinit { close(descriptor) }

    func register(_ fire: @escaping () -> Void) -> UInt64 {
        nextID += 1
        actions[nextID] = fire
        return nextID
    }

    func forget(_ id: UInt64) {
        actions[id] = nil
        set(id, nil)
    }

    func set(_ id: UInt64, _ deadline: Instant?) {
        table[id] = deadline
        arm()
    }

    /// Runs what is due now. What a handler sets anew waits for the next round, even if it is due already.
    func fire() {
        let now = Instant.now
        var due: [UInt64] = []
        while let id = table.popDue(now) { due.append(id) }
        for id in due where table[id] == nil { actions[id]?() }
        // Setting it also takes back that it is readable.
        set(table.next)
    }

    private func arm() {
        let next = table.next
        if next != armed { set(next) }
    }

    private func set(_ next: Instant?) {
        armed = next
        _ = clinux_timer_set(descriptor, next.map { max($0.nanoseconds, 0) } ?? -1)
    }
}
