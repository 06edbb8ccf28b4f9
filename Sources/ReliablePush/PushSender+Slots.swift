// SPDX-License-Identifier: Apache-2.0

internal import Basics

/// Who lets its slot pass in silence lacks it, or its answer was lost, or it is dead. Where slots run for long, it is
/// served by unicast while they do: the answer to that takes the room that its own did not.
extension PushSender {
    /// The slots of one round that asks everybody, from the first on.
    struct PassingSlots: Sendable {
        var begin: Instant
        /// The first member that is asked, and how many slots there are.
        let first: UInt32
        let slots: UInt32
        /// Slots that were looked at.
        var passed: UInt32 = 0
        /// Of their members, those who were to answer, and those who were silent.
        var asked = 0
        var silent = 0
        /// Whom unicast serves meanwhile.
        var served = 0
    }

    /// Slots that are looked at together, at least.
    private static let slotsAtOnce = 64
    /// Up to one of so many may be silent; when more are, asking all again may cost less.
    private static let silentMost = 8

    /// Not for slots that are soon over, nor where several members share one.
    func passingSlots() -> PassingSlots? {
        guard policy.feedback == .all, policy.slot * Int(slots) > policy.roundTrip * 2,
            let first = members.positions.first(where: { members.isUnconfirmed($0) }),
            let last = members.positions.last(where: { members.isUnconfirmed($0) }),
            members.member(at: last) - members.member(at: first) < slots
        else { return nil }
        return PassingSlots(begin: answerAt, first: members.member(at: first), slots: slots)
    }

    /// When all answers of the next slots to look at are here.
    func due(of passing: PassingSlots) -> Instant {
        let apart = max(policy.slot * Self.slotsAtOnce, policy.roundTrip)
        return passing.begin + policy.slot * Int(passing.passed) + apart + policy.roundTrip + PushPolicy.guardTime
    }

    /// Serves those whose slot passed and who said nothing at all: no more than the return channel carries in a round
    /// trip, since answers that got lost did take their room.
    mutating func servePassed(_ slots: PassingSlots, now: Instant) {
        var slots = slots
        let run = now - slots.begin - policy.roundTrip - PushPolicy.guardTime
        let over = UInt32(clamping: run.wholeNanoseconds / max(policy.slot.wholeNanoseconds, 1))
        var found: [Int] = []
        while slots.passed < min(over, slots.slots) {
            // The index is the slot, so that of the first member is anywhere.
            let (turn, count) = (UInt64(slots.passed), UInt64(slots.slots))
            let member = UInt64(slots.first) + (turn + count - UInt64(slots.first) % count) % count
            slots.passed += 1
            guard let member = UInt32(exactly: member), let position = members.position(of: member) else { continue }
            let isSilent = members.isUnconfirmed(position)
            guard isSilent || members.fate(position) == .confirmed else { continue }
            slots.asked += 1
            // Who asked for something is served by the rounds, and says when it has it.
            guard isSilent, !members.has(.alive, position) else { continue }
            slots.silent += 1
            if !members.has(.profiled, position), slots.served + found.count < Int(carried) { found.append(position) }
        }
        if slots.silent * Self.silentMost <= slots.asked, !found.isEmpty {
            slots.served += found.count
            if direct.isEmpty { directAt = now }
            direct += found
        }
        passing = slots.passed < slots.slots ? slots : nil
    }
}
