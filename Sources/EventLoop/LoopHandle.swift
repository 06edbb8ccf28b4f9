// SPDX-License-Identifier: Apache-2.0

internal import CLibevent
internal import Glibc

/// Reaches an event loop from any thread. It may outlive the loop; what it is given then goes nowhere.
@safe public final class LoopHandle: @unchecked Sendable {
    // Sendable: `event` and `work` are touched under the lock only; `inboxes` on the loop's thread only.
    private let lock = Lock()
    private var event: OpaquePointer?
    private var work: [@Sendable () -> Void] = []
    private var inboxes: [() -> Void] = []

    /// Runs `work` on the loop's thread, soon.
    public func enqueue(_ work: @escaping @Sendable () -> Void) {
        lock.hold {
            self.work.append(work)
            wakeLocked()
        }
    }

    /// Makes the loop look for work.
    func wake() { lock.hold { wakeLocked() } }

    func attach(_ event: OpaquePointer?) { lock.hold { unsafe self.event = event } }
    func detach() {
        lock.hold { unsafe event = nil }
        inboxes = []
    }

    func takeWork() -> [@Sendable () -> Void] {
        lock.hold {
            defer { work = [] }
            return work
        }
    }

    func addInbox(_ drain: @escaping () -> Void) { inboxes.append(drain) }
    func drainInboxes() { for drain in inboxes { drain() } }

    private func wakeLocked() {
        if let event = unsafe event { unsafe event_active(event, 0, 0) }
    }
}

/// A queue of values from other threads to one handler on a loop. Made by `EventLoop.makeInbox`.
public final class LoopInbox<Message: Sendable>: @unchecked Sendable {
    // Sendable: the queue is touched under the lock only.
    private let lock = Lock()
    private let handle: LoopHandle
    private var messages: [Message] = []

    init(handle: LoopHandle) { self.handle = handle }

    /// Hands a value to the loop. Never blocks longer than another call of it.
    public func send(_ message: Message) {
        lock.hold { messages.append(message) }
        handle.wake()
    }

    func drain(_ receive: (Message) -> Void) {
        let taken = lock.hold {
            defer { messages = [] }
            return messages
        }
        for message in taken { receive(message) }
    }
}

/// A pthread mutex: unlike the futex of `Synchronization.Mutex`, the thread sanitizer understands it.
@safe final class Lock: @unchecked Sendable {
    private let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)

    init() {
        unsafe mutex.initialize(to: pthread_mutex_t())
        unsafe pthread_mutex_init(mutex, nil)
    }

    deinit {
        unsafe pthread_mutex_destroy(mutex)
        unsafe mutex.deallocate()
    }

    func hold<Result>(_ body: () throws -> Result) rethrows -> Result {
        unsafe pthread_mutex_lock(mutex)
        defer { unsafe pthread_mutex_unlock(mutex) }
        return try body()
    }
}
