// SPDX-License-Identifier: Apache-2.0
import Basics
import FMKE
import Testing

@testable import ReliablePush

/// One sender and many receivers over a lossy channel, in virtual time, without cryptography: a body is the number of
/// its part, and a member is served by the part that stands for its index.
final class Loop {
    struct Options {
        var members = 100
        var parts = 1
        var policy = PushPolicy()
        var experience = PushExperience()
        /// Loss on the way to each member and back.
        var loss = 0.0
        var returnLoss = 0.0
        var delay: Duration = .milliseconds(300)
        var seed: UInt64 = 1
        var transaction: UInt64 = 1
        /// Octets of a body.
        var bodySize = 8
    }
    enum Event {
        case push(TransactionHeader, [UInt8])
        case report(UInt32, needed: UInt8?, block: UInt16, complete: UInt64)
        case profile(UInt32)
    }

    let options: Options
    var sender: PushSender
    var receivers: [PushReceiver]
    var now = Instant.zero
    /// Drops what it says yes to: (header, member).
    var interceptor: (TransactionHeader, UInt32) -> Bool = { _, _ in false }
    /// Members that neither hear nor speak.
    var deaf: Set<UInt32> = []
    /// Members that hear multicast only (no CONFIGURE reaches them).
    private(set) var verdict: PushVerdict?
    private(set) var sent: [(at: Instant, header: TransactionHeader)] = []
    private(set) var reports: [(at: Instant, member: UInt32, isNACK: Bool)] = []
    private(set) var unicasts: [(at: Instant, members: [UInt32])] = []
    private(set) var probes: [UInt32] = []
    private(set) var servedAt: [UInt32: Instant] = [:]
    private var events: [(at: Instant, number: Int, event: Event)] = []
    private var eventCount = 0
    private let random: SeededRandom

    init(_ options: Options) {
        self.options = options
        random = SeededRandom(seed: options.seed)
        let parts = (0..<options.parts).map { number in
            let first = UInt32(options.members * number / options.parts)
            let last = UInt32(options.members * (number + 1) / options.parts) - 1
            return PushPart(body: Self.body(number, size: options.bodySize), members: first...max(first, last))
        }
        let source = SeededRandom(seed: options.seed &+ 77)
        receivers = (0..<options.members).map {
            PushReceiver(memberIndex: UInt32($0), complete: options.transaction - 1, random: source)
        }
        sender = PushSender(
            group: 1, epoch: 1, transaction: options.transaction, parts: parts, members: 0..<UInt32(options.members),
            policy: options.policy, experience: options.experience, activateAt: .zero + .seconds(9),
            deactivateAt: .distantFuture, now: .zero)
    }

    private static func body(_ part: Int, size: Int) -> [UInt8] {
        [UInt8(part >> 8), UInt8(part & 255)]
            + [UInt8](repeating: UInt8(part & 255), count: max(size - 2 + part % 3, 0))
    }

    func part(of member: UInt32) -> Int {
        (0..<options.parts).first { Int(member) < options.members * ($0 + 1) / options.parts } ?? 0
    }

    private func schedule(_ event: Event, after delay: Duration) {
        eventCount += 1
        events.append((now + delay, eventCount, event))
    }

    private func isLost(_ loss: Double) -> Bool { random.unit() < loss }

    /// Runs to the verdict, or until nothing is to come before `end`.
    func run(until end: Instant = .zero + .seconds(4_000)) {
        while verdict == nil {
            drain()
            guard verdict == nil else { return }
            var next = sender.due ?? .distantFuture
            for event in events { next = min(next, event.at) }
            for receiver in receivers { if let due = receiver.due { next = min(next, due) } }
            guard next <= end else {
                now = end
                return
            }
            now = max(now, next)
            let ready = events.filter { $0.at <= now }.sorted { ($0.at, $0.number) < ($1.at, $1.number) }
            events.removeAll { $0.at <= now }
            for item in ready { handle(item.event) }
            for index in receivers.indices { poll(index) }
        }
    }

    private func drain() {
        while true {
            switch sender.poll(now: now) {
            case .multicast(let header, let body):
                sent.append((now, header))
                schedule(.push(header, body), after: options.delay)
            case .unicast(let members):
                unicasts.append((now, members))
                for member in members { schedule(.profile(member), after: options.delay) }
            case .probe(let members): probes += members
            case .ended(let verdict):
                self.verdict = verdict
                return
            case .wait: return
            }
        }
    }

    private func handle(_ event: Event) {
        switch event {
        case .push(let header, let body):
            for index in receivers.indices {
                let member = UInt32(index)
                guard !deaf.contains(member), !isLost(options.loss), !interceptor(header, member) else { continue }
                if case .bodies(let transaction, let bodies) = receivers[index].receive(header, body: body, now: now) {
                    for body in bodies where Int(body[0]) << 8 + Int(body[1]) == part(of: member) {
                        #expect(body == Self.body(part(of: member), size: options.bodySize))
                        if servedAt[member] == nil { servedAt[member] = now }
                        receivers[index].completed(transaction)
                    }
                }
            }
        case .report(let member, let needed, let block, let complete):
            if complete >= options.transaction { sender.confirm(member, now: now) }
            if let needed { sender.negativeAcknowledgement(from: member, needed: needed, block: block, now: now) }
        case .profile(let member):
            guard !deaf.contains(member) else { return }
            receivers[Int(member)].completed(options.transaction)
            if servedAt[member] == nil { servedAt[member] = now }
            schedule(.report(member, needed: nil, block: 0, complete: options.transaction), after: options.delay)
        }
    }

    private func poll(_ index: Int) {
        while receivers[index].poll(now: now) == .report {
            let missing = receivers[index].missing.first
            reports.append((now, UInt32(index), missing != nil))
            guard !isLost(options.returnLoss) else { continue }
            schedule(
                .report(
                    UInt32(index), needed: missing?.needed, block: missing?.block ?? 0,
                    complete: receivers[index].complete),
                after: options.delay)
        }
    }

    /// Everybody says something by itself, as members do from time to time.
    func everybodyReports() {
        for index in receivers.indices where !deaf.contains(UInt32(index)) {
            if receivers[index].complete >= options.transaction { sender.confirm(UInt32(index), now: now) }
        }
    }

    /// Data and parity datagrams sent.
    var datagrams: [TransactionHeader] { sent.map(\.header).filter { $0.kind == .data || $0.kind == .parity } }
    var nacks: Int { reports.count { $0.isNACK } }
}
