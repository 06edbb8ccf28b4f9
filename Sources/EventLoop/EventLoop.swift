// SPDX-License-Identifier: Apache-2.0

public import Basics
internal import CLibevent
internal import CLinux
internal import Glibc

// EventLoop owns the one thread that all input and output of a daemon runs on: the libevent base, timers, descriptor
// and signal watches, wake-ups from other threads, and the UDP sockets with their multicast memberships. It knows
// nothing of the protocol; the engines are driven from its callbacks.

/// A libevent base and the thread that runs it.
///
/// Not `Sendable`: the loop and all that is made from it belong to the thread that calls `run()`. Other threads reach
/// it through its `handle`, or through a `LoopInbox`.
@safe public final class EventLoop {
    /// What other threads may hold.
    public let handle: LoopHandle

    /// The `struct event_base *`, for the HTTP server of the control socket.
    package let base: OpaquePointer

    private let timers: TimerQueue
    private var sources: [EventSource] = []
    private var deferred: [() -> Void] = []
    private var isStopped = false

    /// libevent must know the threading library before the first base exists.
    private static let threading: Int32 = evthread_use_pthreads()

    /// Creates the base. Ignores SIGPIPE for the whole process: a client that hangs up is an error return, no signal.
    public init() throws(SystemError) {
        guard Self.threading == 0 else { throw SystemError("evthread_use_pthreads", errno: EINVAL) }
        signal(SIGPIPE, SIG_IGN)
        guard let base = unsafe event_base_new() else { throw SystemError("event_base_new", errno: ENOMEM) }
        unsafe self.base = unsafe base
        handle = LoopHandle()
        do throws(SystemError) {
            timers = try TimerQueue()
        } catch {
            unsafe event_base_free(base)
            throw error
        }
        let wake = unsafe EventSource(base: base, descriptor: -1, events: Int32(EV_PERSIST)) { [unowned self] in
            self.drain()
        }
        unsafe handle.attach(wake.event)
        let due = unsafe EventSource(base: base, descriptor: timers.descriptor, events: Int32(EV_READ | EV_PERSIST)) {
            [timers] in timers.fire()
        }
        sources = [wake, due]
    }

    deinit {
        handle.detach()
        sources = []
        unsafe event_base_free(base)
    }

    /// The present, from `CLOCK_BOOTTIME`: it does not jump with the wall clock and goes on in suspend.
    public var now: Instant { .now }

    /// Serves events until `stop()`. Returns at once if `stop()` came first.
    public func run() throws(SystemError) {
        while !isStopped {
            let result = unsafe event_base_loop(base, EVLOOP_NO_EXIT_ON_EMPTY)
            guard result >= 0 else { throw SystemError("event_base_loop", errno: errno) }
            // The break request can only be ours, but libevent forgets one that comes before it loops.
            if unsafe event_base_got_break(base) != 0 { break }
        }
        isStopped = false
    }

    /// Makes `run()` return when the current callback is done.
    public func stop() {
        isStopped = true
        unsafe event_base_loopbreak(base)
    }

    /// Runs `work` on the loop after the current callback: for what must not happen within a call that is under way.
    public func enqueue(_ work: @escaping () -> Void) {
        deferred.append(work)
        handle.wake()
    }

    /// A one-shot timer, not set yet. Keep it: letting go of it cancels it.
    public func makeTimer(_ fire: @escaping () -> Void) -> LoopTimer { LoopTimer(queue: timers, fire: fire) }

    /// Calls `handler` as long as the descriptor is readable. Keep the result: letting go of it cancels the watch. The
    /// descriptor stays the caller's, who closes it after the watch.
    public func watch(readable descriptor: Int32, _ handler: @escaping () -> Void) -> FileWatch {
        FileWatch(loop: self, descriptor: descriptor, events: Int32(EV_READ | EV_PERSIST), handler: handler)
    }

    /// Calls `handler` as long as the descriptor is writable; otherwise as `watch(readable:)`.
    public func watch(writable descriptor: Int32, _ handler: @escaping () -> Void) -> FileWatch {
        FileWatch(loop: self, descriptor: descriptor, events: Int32(EV_WRITE | EV_PERSIST), handler: handler)
    }

    /// Calls `handler` on the loop, not in signal context, whenever the signal comes; for as long as the loop lives.
    public func onSignal(_ number: Int32, _ handler: @escaping () -> Void) {
        sources.append(
            unsafe EventSource(
                base: base, descriptor: number, events: Int32(EV_SIGNAL | EV_PERSIST), handler: handler))
    }

    /// A way for other threads to send values to this loop; `receive` is called on the loop, once per value, in the
    /// order of sending. The loop keeps it for as long as it lives.
    public func makeInbox<Message: Sendable>(_ receive: @escaping (Message) -> Void) -> LoopInbox<Message> {
        let inbox = LoopInbox<Message>(handle: handle)
        handle.addInbox { inbox.drain(receive) }
        return inbox
    }

    /// What the wake event does: work from other threads first, then our own deferred work. What is enqueued meanwhile
    /// waits for the next round, so that descriptors get their turn.
    private func drain() {
        for work in handle.takeWork() { work() }
        let work = deferred
        deferred = []
        for item in work { item() }
        handle.drainInboxes()
    }
}

extension Instant {
    /// The present of `CLOCK_BOOTTIME`.
    package static var now: Instant { Instant(nanoseconds: clinux_boottime()) }
}

/// One libevent event and what it calls. The owner keeps the base alive longer than this.
@safe final class EventSource {
    private(set) var event: OpaquePointer?
    private let handler: () -> Void

    init(base: OpaquePointer, descriptor: Int32, events: Int32, handler: @escaping () -> Void) {
        self.handler = handler
        let context = unsafe Unmanaged.passUnretained(self).toOpaque()
        unsafe event = event_new(base, descriptor, Int16(events), eventFired, context)
        // Fails only without memory, or for a descriptor that epoll does not take: our bug.
        let added = unsafe event.map { unsafe event_add($0, nil) }
        precondition(added == 0, "a watch is made for a pollable descriptor")
    }

    deinit { cancel() }

    func cancel() {
        guard let event = unsafe event else { return }
        unsafe event_free(event)
        unsafe self.event = nil
    }

    fileprivate func fire() { handler() }
}

/// Takes a strong reference for the time of the call, since the handler may let go of its own source.
private func eventFired(_ descriptor: Int32, _ events: Int16, _ context: UnsafeMutableRawPointer?) {
    guard let context = unsafe context else { return }
    unsafe Unmanaged<EventSource>.fromOpaque(context).takeUnretainedValue().fire()
}

/// The watch of one descriptor; ends with `cancel()` or with its last reference.
public final class FileWatch {
    private let loop: EventLoop
    private var source: EventSource?

    init(loop: EventLoop, descriptor: Int32, events: Int32, handler: @escaping () -> Void) {
        self.loop = loop
        source = unsafe EventSource(base: loop.base, descriptor: descriptor, events: events, handler: handler)
    }

    /// No call of the handler after this. Cancel before you close the descriptor.
    public func cancel() {
        source?.cancel()
        source = nil
    }
}
