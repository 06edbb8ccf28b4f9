// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import FMKE

/// Multicast rounds: what is sent, who is asked to answer when, and what follows from the answers.
extension PushSender {
    /// With fewer NACKs than this from a part of those who lack something, a larger part is asked.
    private static let fewNACKs = 5
    /// The share grows by this factor from a few NACKs.
    private static let shareGrowth = 8.0
    /// Of so many whom a question concerned somebody would have answered, nineteen times in twenty.
    private static let silenceMost = 3.0
    /// So many standard deviations are reckoned with where the return channel's budget is concerned.
    private static let deviations = 3.0
    /// A round that ends on the wire as number 250 is the last: round numbers have one octet.
    private static let roundsMost: UInt8 = 250
    /// Repairs by multicast at most, however many members still lack something.
    private static let repairsMost = 16
    /// While nothing is known.
    private static let unknownLoss = 0.05
    /// When more than this share of all lacks something, the transmission failed at its source.
    static let outageShare = 0.25

    // MARK: Sending

    /// Round 0: data of all blocks and what experience says beyond.
    mutating func begin(now: Instant) {
        for index in blocks.indices {
            blocks[index].extra = learned.extra(
                dataCount: blocks[index].dataCount, members: members.count, policy: policy)
        }
        // Position by position over all blocks: what a burst of loss takes is spread over them.
        let longest = blocks.map { $0.dataCount + $0.extra }.max() ?? 0
        var datagrams: [Planned] = []
        for position in 0..<longest {
            for index in blocks.indices where position < blocks[index].dataCount + blocks[index].extra {
                datagrams.append(.datagram(block: index, index: blocks[index].takeIndex()))
            }
        }
        share = firstShare()
        nackWait = wait(expected: expectedLosers.map { $0 * share })
        start(datagrams, asks: policy.feedback != .none, now: now)
    }

    private var expectedLosers: Double? {
        guard let block = blocks.max(by: { $0.dataCount < $1.dataCount }) else { return nil }
        return learned.expected(dataCount: block.dataCount, extra: block.extra, members: members.count)
    }

    /// The share that leads to the wanted number of NACKs, if the channel is what it was; nil without experience.
    private var experiencedShare: Double? {
        expectedLosers.map { min(1, Double(max(policy.nackTarget, 1)) / max($0, 1)) }
    }

    private var target: Double { Double(max(policy.nackTarget, 1)) }

    /// So many NACKs may be expected at worst: with them, and by chance some more, the return channel is busy for a
    /// round trip.
    var carried: Double {
        let all = policy.roundTrip.inSeconds / policy.slot.inSeconds
        return max(target, all - Self.deviations * all.squareRoot())
    }

    /// Nothing is proved yet: everybody may lack it. Without experience so few are asked that even then the wanted
    /// number answers; with it, as many as the return channel carries.
    private mutating func firstShare() -> Double {
        lackMost = Double(max(members.unconfirmedCount, 1))
        return bounded(experiencedShare ?? target / lackMost)
    }

    /// No larger a share than the return channel has room for, even if all lack something of whom it is not proved that
    /// they do not.
    private func bounded(_ share: Double) -> Double {
        let trusts = policy.trustsExperience && experiencedShare != nil
        return min(1, share, trusts ? 1 : carried / max(lackMost, 1))
    }

    /// So many answered the present question, and that is all.
    private mutating func prove(answers: Int) {
        let count = Double(answers)
        let most = count + Self.deviations * count.squareRoot() + Self.silenceMost
        lackMost = min(lackMost, most / actualShare, Double(max(members.unconfirmedCount, 1)))
    }

    /// Long enough that the NACKs expected fit the return channel one after the other.
    private func wait(expected: Double?) -> Duration {
        let most = min(Double(max(policy.nackTarget, 1)), Double(members.unconfirmedCount))
        let count = expected.map { min(max(4 * $0, 4), most) } ?? most
        return min(policy.slot * count.rounded(.up), .seconds(60))
    }

    /// Begins a round with these datagrams. A BEACON follows where somebody may hear none of them.
    private mutating func start(_ datagrams: [Planned], asks: Bool, now: Instant) {
        forgetNACKs()
        findUnconfirmed()
        plan = datagrams
        let isThin = blocks.contains { $0.dataCount == 1 } || round > 0
        if datagrams.isEmpty {
            // Who lost one poll hears the next, and the few are asked by the last question.
            for _ in 0..<(share < 1 ? 1 : pollCount()) { plan.append(.poll(asks: asks)) }
        } else {
            rounds += 1
            if isThin { for _ in 0..<pollCount() { plan.append(.poll(asks: false)) } }
        }
        planned = 0
        slots = asks ? askedNow().slots : 0
        let largest = blocks.flatMap { $0.parts }.map(\.body.count).max() ?? 0
        let pace = policy.serialisation(of: largest + Self.overheadOctets)
        gap = max(pace, Self.spacing(of: datagrams.count, data: dataCount(in: datagrams), spread: policy.spread))
        pollGap = max(policy.serialisation(of: Self.overheadOctets), min(gap, policy.spread / 2))
        let polls = datagrams.isEmpty ? plan.count - 1 : plan.count - datagrams.count
        (sendAt, answerAt) = (now, now + gap * max(datagrams.count - 1, 0) + pollGap * polls)
        nackBy = answerAt + nackWait + policy.roundTrip + PushPolicy.guardTime
        if slots > 0 {
            slotsBy = answerAt + policy.slot * Int(slots) + policy.roundTrip + PushPolicy.guardTime
            passing = passingSlots()
        }
        state = .sending
    }

    private mutating func forgetNACKs() {
        for position in nackers { members.forget(.asking, position) }
        nackers = []
        for index in blocks.indices { blocks[index].forgetRequests() }
    }

    /// BEACONs are lost as well: so many that not one in twenty of those who lack something misses them all.
    private func pollCount() -> Int {
        let loss = min(learned.loss ?? Self.unknownLoss, 0.3)
        var (count, missed) = (1, max(expectedLosers ?? 1, 1) * loss)
        while missed > 0.05 {
            count += 1
            missed *= loss
        }
        return count
    }

    private func dataCount(in datagrams: [Planned]) -> Int {
        if round > 0 { return 0 }
        return datagrams.count - blocks.reduce(0) { $0 + $1.extra }
    }

    /// Of data with so much beyond it: the distance at which a burst of half the spread takes no more than what is
    /// there beyond. Copies of one datagram fill the spread.
    private static func spacing(of count: Int, data: Int, spread: Duration) -> Duration {
        let extra = count - data
        guard count > 1, extra > 0 else { return .zero }
        let length = data <= 1 ? spread : min(max(spread * count / (2 * extra), spread), spread * 5)
        return length / (count - 1)
    }

    /// Header, transaction payload, signature and tag of a PUSH, rounded up.
    private static let overheadOctets = 220

    mutating func send(now: Instant) -> Action? {
        guard planned < plan.count else {
            state = .collecting
            return nil
        }
        let next = plan[planned]
        planned += 1
        sendAt = now + gap
        if planned < plan.count, case .poll = plan[planned] { sendAt = now + pollGap }
        if planned == plan.count {
            state = .collecting
            // Late datagrams make late answers.
            let delay = now - answerAt
            if delay > .zero {
                answerAt = now
                nackBy = nackBy + delay
                slotsBy = slots > 0 ? slotsBy.map { $0 + delay } : slotsBy
                if slots > 0 { passing?.begin = answerAt }
            }
        }
        switch next {
        case .poll(let asks):
            polls += 1
            return .multicast(header(.beacon, feedback: feedback(asks: asks, now: now), now: now), body: [])
        case .datagram(let index, let number):
            guard blocks[index].unconfirmed != nil, let body = blocks[index].body(number) else { return nil }
            datagrams += 1
            let kind: TransactionHeader.Kind = number < blocks[index].dataCount ? .data : .parity
            var header = header(kind, feedback: feedback(asks: true, now: now), now: now)
            header.block = blocks[index].number
            header.index = number
            header.dataCount = UInt8(clamping: blocks[index].dataCount)
            let served = blocks[index].unconfirmed ?? blocks[index].members
            (header.memberFirst, header.memberLast) = (served.lowerBound, served.upperBound)
            return .multicast(header, body: body)
        }
    }

    func header(_ kind: TransactionHeader.Kind, feedback: FeedbackRequest, now: Instant) -> TransactionHeader {
        let ranges = blocks.compactMap(\.unconfirmed)
        return TransactionHeader(
            kind: kind, group: group, epoch: epoch, transaction: transaction,
            blockCount: UInt16(clamping: max(blocks.count, 1)),
            dataCount: UInt8(clamping: blocks.map(\.dataCount).max() ?? 1), datagramCount: .max,
            memberFirst: ranges.map(\.lowerBound).min() ?? 0, memberLast: ranges.map(\.upperBound).max() ?? .max,
            feedback: feedback, activateInMilliseconds: Self.milliseconds(until: activateAt, from: now),
            deactivateInMilliseconds: Self.milliseconds(until: deactivateAt, from: now))
    }

    static func milliseconds(until instant: Instant, from now: Instant) -> UInt32 {
        UInt32(clamping: max((instant - now).wholeMilliseconds, 0))
    }

    var wireShare: UInt16 { UInt16(clamping: Int(share * 65_536) - 1) }
    /// What the share on the wire says.
    private var actualShare: Double { (Double(wireShare) + 1) / 65_536 }

    private func feedback(asks: Bool, now: Instant) -> FeedbackRequest {
        var feedback = FeedbackRequest(
            mode: .none, round: round, answerInMilliseconds: Self.milliseconds(until: answerAt, from: now),
            nackWaitMilliseconds: UInt16(clamping: nackWait.wholeMilliseconds), nackShare: wireShare)
        guard asks, slots > 0 else { return feedback }
        (feedback.slots, feedback.slotMicroseconds) = (slots, policy.slotMicroseconds)
        switch policy.feedback {
        case .none: break
        case .all: feedback.mode = .all
        case .census(let modulus):
            feedback.mode = .census
            (feedback.modulus, feedback.residue) = (max(modulus, 1), residue)
        }
        return feedback
    }

    /// Another class each time, so that after as many transactions as there are classes everybody was asked.
    private var residue: UInt16 {
        guard case .census(let modulus) = policy.feedback else { return 0 }
        return UInt16(transaction % UInt64(max(modulus, 1)))
    }

    private func isAsked(_ position: Int) -> Bool {
        guard case .census(let modulus) = policy.feedback else { return policy.feedback == .all }
        return members.member(at: position) % UInt32(max(modulus, 1)) == UInt32(residue)
    }

    /// The ranges of those who have not confirmed, block by block.
    private mutating func findUnconfirmed() {
        for index in blocks.indices {
            let positions = members.positions(in: blocks[index].members)
            let first = positions.first { members.isUnconfirmed($0) }
            let last = first == nil ? nil : positions.last { members.isUnconfirmed($0) }
            if let first, let last {
                blocks[index].unconfirmed = members.member(at: first)...members.member(at: last)
            } else {
                blocks[index].unconfirmed = nil
            }
        }
    }

    /// How many are asked, and the slots that takes: one for each index of the range that a header names (from the
    /// first to the last who has not confirmed, asked or not), since everybody of the class in it answers, whether
    /// confirmed or not.
    private func askedNow() -> (members: Int, slots: UInt32) {
        var (count, first, last) = (0, UInt32.max, UInt32.min)
        for position in members.positions where members.isUnconfirmed(position) {
            let member = members.member(at: position)
            (first, last) = (min(first, member), max(last, member))
            if isAsked(position) { count += 1 }
        }
        guard count > 0 else { return (0, 0) }
        var modulus: UInt32 = 1
        if case .census(let classes) = policy.feedback { modulus = UInt32(max(classes, 1)) }
        let width = UInt64(last / modulus - first / modulus) + 1
        // No longer than a header can say; then several share a slot.
        let longest = UInt64(UInt32.max) * 1_000 / UInt64(policy.slotMicroseconds)
        return (count, UInt32(clamping: max(min(width, longest), 1)))
    }

    /// To ask again costs an answer of everybody in the range. So it is done where that is soon over, or where many of
    /// them are silent; few of many are rather served by unicast.
    private var mayAskAgain: Bool {
        guard confirmRounds < policy.repairRounds, round < Self.roundsMost else { return false }
        let asked = askedNow()
        guard asked.members > policy.unicastBelow else { return false }
        return policy.slot * Int(asked.slots) <= policy.roundTrip * 2 || asked.members * 4 >= Int(asked.slots)
    }

    func block(of member: UInt32) -> Int? {
        let position = partition(blocks.count) { blocks[$0].members.lowerBound <= member } - 1
        guard position >= 0 else { return nil }
        return (0...position).reversed().first { blocks[$0].members.contains(member) }
    }

    // MARK: Collecting

    var collectingDue: Instant? {
        var next = Instant.distantFuture
        if !direct.isEmpty { next = min(next, directAt) }
        if !nackers.isEmpty { next = min(next, repairAt) }
        if !isNACKOver, nackers.isEmpty { next = min(next, nackBy) }
        if let slotsBy { next = min(next, slotsBy, passing.map { due(of: $0) } ?? slotsBy) }
        if isNACKOver, slotsBy == nil, nackers.isEmpty {
            next = min(next, confirmBy.map { min($0, stepAt) } ?? startedAt)
        }
        return next
    }

    /// When the NACKs of this round are gathered. Where answering slots are over soon, the repair waits for them, so
    /// that it asks nobody whose answer is on its way.
    private var repairAt: Instant {
        // All who have not confirmed have said what they need.
        if nackers.count >= members.unconfirmedCount { return firstNACKAt }
        let gathered = max(firstNACKAt, min(nackBy - PushPolicy.guardTime, firstNACKAt + nackWait))
        guard let slotsBy, slotsBy - firstNACKAt <= policy.roundTrip * 2 else { return gathered }
        return max(gathered, slotsBy - PushPolicy.guardTime)
    }

    mutating func collect(now: Instant) -> Action? {
        if !direct.isEmpty, directAt <= now { return unicastDirectly(now: now) }
        if let slotsBy, now < slotsBy, let passing, due(of: passing) <= now {
            servePassed(passing, now: now)
            return nil
        }
        if !nackers.isEmpty, repairAt <= now || slotsBy.map({ $0 <= now }) == true {
            repair(now: now)
        } else if !isNACKOver, nackers.isEmpty, nackBy <= now {
            if share < 1, round < Self.roundsMost {
                askMore(now: now)
            } else {
                isNACKOver = true
                if losers == nil { losers = Double(lackedCount) }
            }
        } else if let slotsBy, slotsBy <= now {
            endOfSlots(now: now)
        } else if isNACKOver, slotsBy == nil, nackers.isEmpty {
            finishRounds(now: now)
        }
        return nil
    }

    /// Nobody of a part of those who lack something answered: asks a larger part, as large as this silence allows.
    private mutating func askMore(now: Instant) {
        round += 1
        prove(answers: 0)
        // What experience knows may be trusted now, within the budget; without it twice the wanted number is risked.
        share = bounded(max(experiencedShare ?? 0, share * 2 * target / Self.silenceMost))
        nackWait = wait(expected: expectedLosers)
        let open = slotsBy
        start([], asks: false, now: now)
        slotsBy = open
    }

    /// The answer to the NACKs of this round.
    private mutating func repair(now: Instant) {
        let asked = nackers.count
        let estimate = estimate(asked)
        if let known = losers {
            losers = max(known, Double(lackedCount))
        } else {
            (losers, losersShare) = (Double(asked) / actualShare, actualShare)
        }
        let isSettled = share >= 1
        let byUnicast =
            estimate <= Double(policy.unicastBelow)
            || isSettled && estimate * Double(Self.profileOctets) <= Double(repairOctets)
            || repairs >= policy.repairRounds && estimate <= Double(policy.nackTarget)
            || repairs >= Self.repairsMost || round >= Self.roundsMost
        if byUnicast {
            if direct.isEmpty { directAt = now }
            direct += nackers
            forgetNACKs()
            if isSettled { isNACKOver = true }
            return
        }
        repairs += 1
        let loss = lossNow(estimate)
        var datagrams: [Planned] = []
        for index in blocks.indices where blocks[index].needed > 0 {
            let losers = estimate * Double(blocks[index].asking) / Double(asked)
            datagrams += mend(index, losers: losers, loss: loss, isSettled: isSettled)
        }
        // Where answering slots are over the repair asks again; else it comes in between and leaves them as they are.
        let open = slotsBy.flatMap { $0 - now > policy.roundTrip ? $0 : nil }
        let asks = slotsBy != nil && open == nil && mayAskAgain
        if asks { confirmRounds += 1 }
        slotsBy = open
        // Should the repair fail as a whole, the same members answer once more.
        prove(answers: asked)
        share = bounded(asked < Self.fewNACKs && !isSettled ? share * Self.shareGrowth : 1)
        isNACKOver = false
        nackWait = wait(expected: nil)
        round += 1
        start(datagrams, asks: asks, now: now)
    }

    /// What the repair of this round takes at least, where it brings large datagrams that only some need; of a block of
    /// one datagram a repetition is as good as a profile.
    private var repairOctets: Int {
        blocks.reduce(0) { sum, block in
            guard block.dataCount > 1, block.needed > 0 else { return sum }
            let largest = block.parts.map(\.body.count).max() ?? 0
            return sum + min(block.needed, max(block.askedParts.count, 1)) * (largest + Self.overheadOctets)
        }
    }

    /// How many lack something, now that so many said so.
    private func estimate(_ asked: Int) -> Double {
        let heard = Double(asked)
        let isSingle = blocks.allSatisfy { $0.dataCount == 1 }
        guard isSingle, losers == nil, let expected = expectedLosers else { return max(heard / actualShare, 1) }
        let all = PushExperience.lacking(heard: heard, share: actualShare, expected: expected)
        return max(heard + (1 - actualShare) * all, 1)
    }

    /// What a block's members are sent that asked: parity for the one that needs most; or, where that is less, the very
    /// datagrams that serve them.
    private mutating func mend(_ index: Int, losers: Double, loss: Double, isSettled: Bool) -> [Planned] {
        let block = blocks[index]
        if block.dataCount == 1 {
            let copies = PushExperience.copies(losers: losers, members: Double(members.count), loss: loss)
            return (0..<copies).map { _ in .datagram(block: index, index: blocks[index].takeIndex()) }
        }
        let count = PushExperience.repair(needed: block.needed, losers: losers, loss: loss)
        if isSettled, block.dataCount > 1, !block.askedParts.isEmpty {
            let copies = PushExperience.repair(needed: 1, losers: losers, loss: loss)
            if block.askedParts.count * copies <= count {
                let parts = block.askedParts.sorted()
                return (0..<copies).flatMap { _ in
                    parts.map { .datagram(block: index, index: UInt8(clamping: $0)) }
                }
            }
        }
        return (0..<count).map { _ in .datagram(block: index, index: blocks[index].takeIndex()) }
    }

    /// The loss to reckon with, now that so many lacked something.
    private func lossNow(_ estimate: Double) -> Double {
        let known = learned.loss ?? Self.unknownLoss
        guard let block = blocks.max(by: { $0.dataCount < $1.dataCount }) else { return known }
        // When most lack it the transmission failed at its source; that says nothing of the next one.
        guard repairs <= 1, estimate <= Double(members.count) * Self.outageShare else { return known }
        let expected = expectedLosers ?? PushExperience.tolerance(members: members.count)
        guard estimate >= 3 + 3 * expected else { return known }
        return max(
            known,
            PushExperience.loss(
                leaving: estimate, dataCount: block.dataCount, extra: block.extra, members: Double(members.count)))
    }

    /// All answers that slots were given for are here.
    private mutating func endOfSlots(now: Instant) {
        (slotsBy, passing) = (nil, nil)
        guard mayAskAgain else { return }
        confirmRounds += 1
        // They lack it, or their answer got lost. Of one datagram the repetition asks as well as a BEACON would.
        var datagrams: [Planned] = []
        if blocks.count == 1, blocks[0].dataCount == 1 {
            datagrams = [.datagram(block: 0, index: blocks[0].takeIndex())]
        }
        round += 1
        start(datagrams, asks: true, now: now)
    }

    private mutating func finishRounds(now: Instant) {
        let until = startedAt + policy.confirmWithin
        if policy.feedback == .all || until <= now {
            beginUnicast(now: now)
        } else if confirmBy == nil || stepAt <= now && round >= Self.roundsMost {
            confirmBy = until
            stepAt = now + pollPause
        } else if stepAt <= now {
            // Who was out of reach all the time learns of it now.
            pollPause = min(pollPause * 2, policy.beaconInterval)
            stepAt = now + pollPause
            isNACKOver = false
            share = firstShare()
            nackWait = wait(expected: nil)
            round += 1
            start([], asks: false, now: now)
        }
    }
}
