// SPDX-License-Identifier: Apache-2.0

/// The pending deadlines of one engine: at most one per timer, and the earliest on demand.
public struct TimerTable<Timer: Hashable> {
    private var deadlines: [Timer: Instant] = [:]

    public init() {}

    /// When the next timer is due; nil when none is set.
    public var next: Instant? { deadlines.values.min() }

    public subscript(timer: Timer) -> Instant? {
        get { deadlines[timer] }
        set { deadlines[timer] = newValue }
    }

    /// Takes out one timer that is due, the earliest first; call until it gives nil.
    public mutating func popDue(_ now: Instant) -> Timer? {
        guard let due = deadlines.min(by: { $0.value < $1.value }), due.value <= now else { return nil }
        deadlines[due.key] = nil
        return due.key
    }
}
