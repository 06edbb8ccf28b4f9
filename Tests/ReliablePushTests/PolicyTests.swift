// SPDX-License-Identifier: Apache-2.0
import Basics
import ReliablePush
import Testing

@Suite struct PolicyTests {
    @Test func aSlotIsWhatOneAnswerTakes() {
        var policy = PushPolicy()
        #expect(policy.slot == .milliseconds(19))
        policy.returnRate = 256_000
        #expect(policy.slotMicroseconds == 4_750)
        policy.returnRate = .max
        #expect(policy.slotMicroseconds == 1)
        (policy.returnRate, policy.answerOctets) = (0, .max)
        #expect(policy.slotMicroseconds == .max)
    }
}
