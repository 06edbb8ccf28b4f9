// SPDX-License-Identifier: Apache-2.0

internal import Basics

/// Decides when packets shall come together before they are taken.
///
/// Whoever reads as soon as there is something finds one packet at a time, as long as it keeps up; then every packet
/// costs a wake-up here, a system call of its own, and a wake-up at the other end. So when one wake-up comes soon after
/// another we look away for a moment, which is nothing to a satellite's delay. A packet alone is never kept waiting,
/// nor is unicast traffic: TCP would send the slower for it.
struct BatchGathering {
    /// How long to look away.
    static let moment = Duration.microseconds(50)
    /// Wake-ups closer together than this are a stream.
    static let soon = Duration.microseconds(250)

    private var last: Instant?
    private var mayPause = false

    /// How long to wait before reading; nil for not at all.
    mutating func pause(now: Instant) -> Duration? {
        defer { last = now }
        guard let last, mayPause, now < last + Self.soon else { return nil }
        return Self.moment
    }

    /// To be called after each reading: whether all buffers were filled, so that there is more already, and whether
    /// what came was all for groups.
    mutating func note(isFull: Bool, isForGroups: Bool) { mayPause = !isFull && isForGroups }
}
