// SPDX-License-Identifier: Apache-2.0
import Basics
import EventLoop
import Glibc
import Testing

/// Runs the loop until `done()`, at most ten seconds; checks on each round of a short timer.
func run(_ loop: EventLoop, until done: @escaping () -> Bool) throws {
    let deadline = loop.now + .seconds(10)
    var timer: LoopTimer?
    timer = loop.makeTimer {
        if done() || loop.now > deadline { loop.stop() } else { timer?.set(loop.now + .milliseconds(2)) }
    }
    timer?.set(loop.now)
    try loop.run()
    timer = nil
    #expect(done(), "the loop ran into its time limit")
}

@Suite struct EventLoopTests {
    @Test func timersFireOnceInOrderAndNeverEarly() throws {
        let loop = try EventLoop()
        let start = loop.now
        var fired: [(String, Instant)] = []
        let late = loop.makeTimer { fired.append(("late", loop.now)) }
        let early = loop.makeTimer { fired.append(("early", loop.now)) }
        let never = loop.makeTimer { fired.append(("never", loop.now)) }
        let past = loop.makeTimer { fired.append(("past", loop.now)) }
        late.set(start + .milliseconds(30))
        early.set(start + .milliseconds(10))
        never.set(start + .milliseconds(20))
        never.set(nil)
        past.set(.zero)
        try run(loop) { fired.count >= 3 }
        #expect(fired.map(\.0) == ["past", "early", "late"])
        #expect(fired[1].1 >= start + .milliseconds(10) && fired[2].1 >= start + .milliseconds(30))
    }

    @Test func aTimerLetGoDoesNotFire() throws {
        let loop = try EventLoop()
        var fired = 0
        var timer: LoopTimer? = loop.makeTimer { fired += 1 }
        timer?.set(loop.now + .milliseconds(5))
        timer = nil
        let end = loop.now + .milliseconds(20)
        try run(loop) { loop.now > end }
        #expect(fired == 0)
    }

    @Test func enqueuedWorkRunsAfterTheCurrentCallbackInOrder() throws {
        let loop = try EventLoop()
        var order: [Int] = []
        loop.enqueue {
            order.append(1)
            loop.enqueue { order.append(3) }
            order.append(2)
        }
        try run(loop) { order.count == 3 }
        #expect(order == [1, 2, 3])
    }

    @Test func aStopBeforeRunCounts() throws {
        let loop = try EventLoop()
        loop.stop()
        try loop.run()
        var ran = false
        loop.enqueue {
            ran = true
            loop.stop()
        }
        try loop.run()
        #expect(ran)
    }

    @Test func otherThreadsSendInOrder() throws {
        let loop = try EventLoop()
        var received: [Int] = []
        let inbox = loop.makeInbox { (value: Int) in received.append(value) }
        let counter = Counter()
        let handle = loop.handle
        for thread in 0..<4 {
            inThread {
                for value in 0..<250 { inbox.send(thread * 1_000 + value) }
                handle.enqueue { counter.value += 1 }
            }
        }
        try run(loop) { counter.value == 4 && received.count == 1_000 }
        for thread in 0..<4 {
            #expect(received.filter { $0 / 1_000 == thread } == (0..<250).map { thread * 1_000 + $0 })
        }
    }

    @Test func aHandleMayOutliveItsLoop() throws {
        var loop: EventLoop? = try EventLoop()
        let handle = try #require(loop).handle
        loop = nil
        handle.enqueue { Issue.record("nobody is left to run this") }
    }

    @Test func signalsComeAsCallbacks() throws {
        let loop = try EventLoop()
        var hangups = 0
        loop.onSignal(SIGHUP) { hangups += 1 }
        loop.enqueue { kill(getpid(), SIGHUP) }
        try run(loop) { hangups == 1 }
    }

    @Test func aWatchSeesItsDescriptorUntilCancelled() throws {
        let loop = try EventLoop()
        var ends: [Int32] = [0, 0]
        #expect(pipe(&ends) == 0)
        defer { for end in ends { close(end) } }
        var octets: [UInt8] = []
        var watch: FileWatch?
        watch = loop.watch(readable: ends[0]) {
            var octet: UInt8 = 0
            #expect(read(ends[0], &octet, 1) == 1)
            octets.append(octet)
            if octet == 2 { watch?.cancel() }
        }
        #expect(write(ends[1], [1, 2, 3] as [UInt8], 3) == 3)
        let end = loop.now + .milliseconds(20)
        try run(loop) { loop.now > end }
        #expect(octets == [1, 2])
        withExtendedLifetime(watch) {}
    }

    @Test func errorsNameOperationContextAndReason() throws {
        let error = #expect(throws: SystemError.self) { try Interfaces.index(of: "nosuchif0") }
        #expect(error?.errno == ENODEV)
        #expect(error?.description == "find interface nosuchif0: No such device (19)")
    }

    @Test func theLoopbackInterfaceIsDescribed() throws {
        #expect(try Interfaces.address(of: "lo", family: .v4) == .v4(127, 0, 0, 1))
        #expect(try Interfaces.prefix(of: "lo", family: .v4) == IPPrefix("127.0.0.0/8"))
        #expect(try Interfaces.index(of: "lo") > 0)
        #expect(try Interfaces.mtu(of: "lo") >= 1_500)
        #expect(try Interfaces.isUp("lo"))
    }
}

/// Counted on one thread only: the loop's.
final class Counter: @unchecked Sendable { var value = 0 }

/// Runs `body` on a new thread.
func inThread(_ body: @escaping @Sendable () -> Void) {
    final class Box: Sendable {
        let body: @Sendable () -> Void
        init(_ body: @escaping @Sendable () -> Void) { self.body = body }
    }
    var thread = pthread_t()
    let context = Unmanaged.passRetained(Box(body)).toOpaque()
    let result = pthread_create(
        &thread, nil,
        { argument in
            if let argument { Unmanaged<Box>.fromOpaque(argument).takeRetainedValue().body() }
            return nil
        }, context)
    #expect(result == 0)
    pthread_detach(thread)
}
