// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import FMKE
public import ReliablePush

// A delivery run: the real halves of ReliablePush, one sender and up to millions of receivers, in virtual time and
// without cryptography, around the links of a satellite:
//
//     PushSender -> control channel (rate, delay) -> source loss -> one loop over all members: loss, PushReceiver
//         ^                                                                         |
//         +------------- return channel (rate, queue, loss, delay) <----- timers ---+
//
// A multicast is one event. A body only says which part it is, and a member is complete when it holds the part that
// serves its index. Everything follows from the seed.

/// A group that gets one transaction after the other.
public final class DeliveryRun {
    public let scenario: DeliveryScenario
    /// What the transactions so far have taught the sender.
    public private(set) var experience = PushExperience()

    private var now = Instant.zero + .seconds(1)
    private var transaction: UInt64 = 0
    private var queue = DeliveryQueue()
    private var field: LossField
    private var random: LoopRandom
    private var forward: DeliveryChannel
    private var backward: DeliveryChannel

    private var members: DeliveryMembers

    // Of the transaction under way.
    private var sender: PushSender?
    private var startedAt = Instant.zero
    private var result = DeliveryResult()
    private var verdictAt: Instant?
    private var flights: [(header: TransactionHeader, body: [UInt8])?] = []
    private var refusals: [(member: UInt32, missing: [GroupReport.Missing])] = []
    private var profiles: [UInt32: Int] = [:]
    private var senderWakesAt: Instant?
    private var keepAliveTurn = 0
    private var beaconPause = Duration.zero
    private var hasRepaired = false
    /// The newest round that had data or parity in it.
    private var lastRound: UInt8?

    /// Between two transmissions of a profile or a probe that is not answered, and how many there are.
    private static let repeatAfter = Duration.seconds(2)
    private static let repetitions = 6

    public init(_ scenario: DeliveryScenario, seed: UInt64) {
        self.scenario = scenario
        random = LoopRandom(seed: seed)
        field = LossField(
            members: scenario.members, source: scenario.losers == nil ? scenario.sourceLoss : .independent(0),
            classes: scenario.losers == nil ? scenario.classes : [], random: LoopRandom(seed: random.next()))
        forward = DeliveryChannel(bitsPerSecond: scenario.policy.controlRate)
        backward = DeliveryChannel(
            bitsPerSecond: scenario.policy.returnRate, queueOctets: scenario.returnQueue)
        var isDeaf = [Bool](repeating: false, count: scenario.members)
        let count = Int((scenario.deaf * Double(scenario.members)).rounded())
        if count > 0 { for member in random.choose(count, below: scenario.members) { isDeaf[member] = true } }
        members = DeliveryMembers(count: scenario.members, isDeaf: isDeaf, random: &random)
    }

    /// Delivers one transaction and ends with its verdict.
    ///
    /// - Parameter absent: members that it is not for.
    public func deliver(_ parts: [DeliveryPart], without absent: [Int] = []) -> DeliveryResult {
        begin(parts, absent)
        drain()
        beaconPause = .seconds(1)
        queue.schedule(.beacon, at: now + scenario.policy.roundTrip + beaconPause)
        if let first = scenario.keepAlive { queue.schedule(.keepAlive, at: now + first / max(scenario.members, 1)) }
        while verdictAt == nil, let (at, event) = queue.pop() {
            now = at
            handle(event)
        }
        return finish()
    }

    private func begin(_ parts: [DeliveryPart], _ absent: [Int]) {
        transaction += 1
        startedAt = now
        result = DeliveryResult()
        verdictAt = nil
        senderWakesAt = nil
        hasRepaired = false
        lastRound = nil
        keepAliveTurn = 0
        var isMember = [Bool](repeating: true, count: scenario.members)
        for member in absent { isMember[member] = false }
        var losing: [Int] = []
        if let losers = scenario.losers, let last = losers.last {
            let count = Int(transaction) <= losers.count ? losers[Int(transaction) - 1] : last
            losing = random.choose(count, below: scenario.members)
        }
        members.begin(parts, without: absent, losing: losing)
        result.members = members.takesPart.count { $0 }
        result.deaf = isMember.count { $0 } - result.members
        forward = DeliveryChannel(bitsPerSecond: scenario.policy.controlRate)
        backward = DeliveryChannel(bitsPerSecond: scenario.policy.returnRate, queueOctets: scenario.returnQueue)
        sender = PushSender(
            group: 1, epoch: 1, transaction: transaction,
            parts: parts.enumerated().map {
                PushPart(body: DeliveryMembers.body($0, octets: $1.octets), members: $1.members)
            },
            members: (0..<UInt32(scenario.members)).lazy.filter { isMember[Int($0)] }, policy: scenario.policy,
            experience: experience, activateAt: now + .seconds(3_600), deactivateAt: now + .seconds(7_200), now: now)
    }

    // MARK: The sender

    /// Takes what the sender wants done.
    private func drain() {
        while verdictAt == nil, let action = sender?.poll(now: now) {
            switch action {
            case .multicast(let header, let body): multicast(header, body)
            case .unicast(let members):
                for member in members where profiles[member] == nil {
                    profiles[member] = 0
                    queue.schedule(.profile(member), at: now)
                }
            case .probe(let members): for member in members { probe(member) }
            case .ended(let verdict):
                verdictAt = now
                result.named = verdict.unconfirmed.count
            case .wait(let until):
                if let until, senderWakesAt != until {
                    senderWakesAt = until
                    queue.schedule(.sender, at: until)
                }
                return
            }
        }
    }

    private func multicast(_ header: TransactionHeader, _ body: [UInt8]) {
        let isParity = header.kind == .parity
        let octets = DeliverySizes.multicast(body: body.count, isParity: isParity)
        if header.kind == .data || isParity {
            result.transmissions += 1
            result.transmissionOctets += octets
            if lastRound != header.feedback.round {
                lastRound = header.feedback.round
                result.rounds += 1
            }
            if header.feedback.round > 0 { hasRepaired = true }
        } else if members.servedCount < result.members {
            result.beacons += 1
            result.beaconOctets += octets
        } else {
            result.idleBeacons += 1
        }
        guard let departure = forward.send(octets, now: now) else { return }
        flights.append((header, body))
        queue.schedule(.datagram(Int32(truncatingIfNeeded: flights.count - 1)), at: departure + scenario.delay)
    }

    /// What the GCKS sends besides: outside of the rounds it names the newest transaction, ever more rarely, and asks a
    /// share of those that lack it that grows as long as it has to (docs/FMKE.md 7.3).
    private func beacon() {
        guard let sender else { return }
        let policy = scenario.policy
        guard !sender.isInRounds else {
            queue.schedule(.beacon, at: now + max(beaconPause, policy.roundTrip))
            return
        }
        var share = Double(max(policy.nackTarget, 1)) / Double(max(scenario.members, 1))
        var seconds = beaconPause.components.seconds
        while seconds > 1, share < 1 { (seconds, share) = (seconds / 2, share * 8) }
        let wait = max(policy.roundTrip, policy.slot * min(policy.nackTarget, scenario.members))
        let question = FeedbackRequest(
            mode: .none, round: .max, nackWaitMilliseconds: UInt16(clamping: wait.wholeMilliseconds),
            nackShare: share >= 1 ? .max : UInt16(share * 65_535))
        multicast(sender.beacon(feedback: question, now: now), [])
        beaconPause = min(beaconPause * 2, policy.beaconInterval)
        queue.schedule(.beacon, at: now + beaconPause)
    }

    private func handle(_ event: DeliveryQueue.Event) {
        switch event {
        case .sender:
            if senderWakesAt == now { senderWakesAt = nil }
            drain()
        case .datagram(let number):
            guard let flight = flights[Int(number)] else { return }
            flights[Int(number)] = nil
            reach(flight.header, flight.body)
        case .member(let member):
            guard members.wakesAt[Int(member)] == now.nanoseconds else { return }
            members.wakesAt[Int(member)] = DeliveryMembers.never
            wake(member)
        case .answer(let member), .profileAnswer(let member):
            confirm(member)
            drain()
        case .refusal(let number):
            refuse(refusals[Int(number)])
            drain()
        case .profile(let member): sendProfile(member)
        case .profileArrives(let member): takeProfile(member)
        case .alive(let member):
            sender?.heard(from: member)
            if scenario.keepAlive != nil, members.isServed(member) { confirm(member) }
            drain()
        case .keepAlive: keepAlive()
        case .beacon: beacon()
        }
    }

    private func confirm(_ member: UInt32) {
        sender?.confirm(member, now: now)
        guard !members.isConfirmed[Int(member)] else { return }
        members.isConfirmed[Int(member)] = true
        result.confirmed += 1
        result.lastConfirmedAt = (now - startedAt).inSeconds
    }

    private func refuse(_ refusal: (member: UInt32, missing: [GroupReport.Missing])) {
        result.firstNackAt = result.firstNackAt ?? (now - startedAt).inSeconds
        for missing in refusal.missing where missing.transaction == transaction {
            sender?.negativeAcknowledgement(
                from: refusal.member, needed: missing.needed, block: missing.block, now: now)
        }
    }

    // MARK: The members

    private func reach(_ header: TransactionHeader, _ body: [UInt8]) {
        // A BEACON that asks for nothing tells nothing to those who have it all.
        let isIdle = header.kind == .beacon && header.feedback.mode == .none
        if isIdle, members.servedCount >= result.members { return }
        guard field.begin(at: now) else { return }
        let served = members.reach(header, body, now: now, field: &field, queue: &queue)
        guard served > 0 else { return }
        let round = max(result.rounds - 1, 0)
        while result.servedByRound.count <= round { result.servedByRound.append(0) }
        result.servedByRound[round] += served
    }

    private func wake(_ member: UInt32) {
        while case .report = members.receivers[Int(member)].poll(now: now) { report(member) }
        members.schedule(Int(member), &queue)
    }

    private func report(_ member: UInt32) {
        let missing = members.receivers[Int(member)].missing
        let octets = DeliverySizes.status(missing: missing.count)
        if missing.isEmpty {
            result.acks += 1
        } else {
            result.nacks += 1
            if !hasRepaired { result.firstNacks += 1 }
        }
        guard let departure = backward.send(octets, now: now), random.unit() >= scenario.returnLoss else { return }
        if missing.isEmpty {
            queue.schedule(.answer(member), at: departure + scenario.delay)
        } else {
            refusals.append((member, missing))
            queue.schedule(.refusal(Int32(truncatingIfNeeded: refusals.count - 1)), at: departure + scenario.delay)
        }
    }

    // MARK: Unicast

    private func sendProfile(_ member: UInt32) {
        guard let tries = profiles[member], !members.isConfirmed[Int(member)], tries < Self.repetitions else {
            profiles[member] = nil
            return
        }
        profiles[member] = tries + 1
        result.unicasts += 1
        result.unicastOctets += DeliverySizes.profile
        guard let departure = forward.send(DeliverySizes.profile, now: now) else { return }
        queue.schedule(.profile(member), at: departure + Self.repeatAfter * (1 << min(tries, 3)))
        guard members.takesPart[Int(member)], !field.losesUnicast(Int(member)) else { return }
        queue.schedule(.profileArrives(member), at: departure + scenario.delay)
    }

    private func takeProfile(_ member: UInt32) {
        if !members.isServed(member) {
            members.serve(Int(member), transaction, now: now)
            result.servedByUnicast += 1
        }
        guard let departure = backward.send(DeliverySizes.profileAnswer, now: now),
            random.unit() >= scenario.returnLoss
        else { return }
        queue.schedule(.profileAnswer(member), at: departure + scenario.delay)
    }

    private func probe(_ member: UInt32) {
        for tries in 0..<3 {
            result.unicasts += 1
            result.unicastOctets += DeliverySizes.probe
            guard let departure = forward.send(DeliverySizes.probe, now: now) else { continue }
            guard members.takesPart[Int(member)], !field.losesUnicast(Int(member)), random.unit() >= scenario.returnLoss
            else {
                continue
            }
            result.feedbackOctets += DeliverySizes.probe
            queue.schedule(.alive(member), at: departure + Self.repeatAfter * tries + scenario.delay * 2)
            return
        }
    }

    /// Asks the next member whether it lives; all in turn within the interval.
    private func keepAlive() {
        guard let interval = scenario.keepAlive, scenario.members > 0 else { return }
        // A step that shares no factor with the number of members visits each once.
        let member = UInt32(truncatingIfNeeded: keepAliveTurn)
        keepAliveTurn += 1
        if keepAliveTurn >= scenario.members { keepAliveTurn = 0 }
        queue.schedule(.keepAlive, at: now + interval / scenario.members)
        guard members.takesPart[Int(member)], members.isServed(member), !members.isConfirmed[Int(member)] else {
            return
        }
        // It is repeated until it gets through, as dead peer detection does.
        var tries = 0
        while tries < Self.repetitions, field.losesUnicast(Int(member)) || random.unit() < scenario.returnLoss {
            tries += 1
        }
        guard tries < Self.repetitions else { return }
        result.confirmedByKeepAlive += 1
        queue.schedule(.answer(member), at: now + Self.repeatAfter * tries + scenario.delay * 2)
    }

    // MARK: The end

    private func finish() -> DeliveryResult {
        if let sender { experience = sender.experience }
        sender = nil
        let end = verdictAt ?? now
        result.verdictAt = (end - startedAt).inSeconds
        result.feedbackOctets += backward.octets
        result.longestWait = backward.longestWait.inSeconds
        result.droppedAnswers = backward.dropped
        var times: [Int64] = []
        times.reserveCapacity(result.members)
        for member in 0..<members.count where members.takesPart[member] { times.append(members.servedAt[member]) }
        times.sort()
        if let last = times.last, last != DeliveryMembers.never {
            result.lastServedAt = (Instant(nanoseconds: last) - startedAt).inSeconds
        }
        if !times.isEmpty, times[times.count / 2] != DeliveryMembers.never {
            result.medianServedAt = (Instant(nanoseconds: times[times.count / 2]) - startedAt).inSeconds
        }
        // The next transaction finds a quiet group: whoever has nothing yet gets it by profile meanwhile.
        queue.removeAll()
        flights.removeAll()
        refusals.removeAll()
        profiles.removeAll()
        now = end + .seconds(600)
        for member in 0..<members.count {
            members.receivers[member].completed(transaction)
            while case .report = members.receivers[member].poll(now: now) {}
        }
        return result
    }
}
