// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import ESP
internal import Glibc

extension KernelAssociation {
    /// Are both the same to the cipher and to the policies, so that sequence numbers and window go on?
    func isSame(as other: KernelAssociation) -> Bool {
        let (a, b) = (parameters, other.parameters)
        return a.key == b.key && a.suite == b.suite && a.cipherKey == b.cipherKey
            && a.authenticationKey == b.authenticationKey && a.replayWindow == b.replayWindow
            && a.extendedSequence == b.extendedSequence && a.encapsulation == b.encapsulation
            && source == other.source && request == other.request
    }
}

extension KernelUsage {
    var drops: [PacketDrop: UInt64] {
        [.replay: replays, .notAuthentic: failures].filter { $0.value > 0 }
    }
}

extension SACounters {
    init(_ usage: KernelUsage, isExpired: Bool, now: Instant) {
        self.init()
        packets = usage.packets
        octets = usage.octets
        sequence = usage.sequence
        drops = usage.drops
        guard usage.lastUsed > 0 else { return }
        var time = timespec()
        unsafe clock_gettime(CLOCK_REALTIME, &time)
        lastUsed = now + .seconds(-max(Int64(time.tv_sec) - Int64(clamping: usage.lastUsed), 0))
    }
}
