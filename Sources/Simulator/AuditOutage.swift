// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import KeyServer

extension Scenario {
    /// A time in which the key server's audit file cannot be written, counted from the beginning of the faults.
    public struct AuditOutage: Sendable {
        public var start: Duration
        public var length: Duration
    }

    /// Draws some, while the faults happen. All else in the scenario stays as it is.
    public mutating func drawAuditOutages() {
        let random = SeededRandom(seed: Simulation.derive(seed, "audit"))
        auditOutages = (0..<1 + Int(random.number(below: 4))).map { _ in
            AuditOutage(
                start: random.duration(below: faultTime),
                length: .milliseconds(50) + random.duration(below: random.happens(0.3) ? .seconds(60) : .seconds(3)))
        }
    }
}

/// What the key server's driver does when the audit file cannot be written.
struct AuditState {
    /// Outages that are under way.
    var outages = 0
    /// An event could not be written; and the engine knows.
    var isWaiting = false
    var isKnown = false
    /// How long all outages take together: so much later things may come.
    var longest: Duration = .zero
}

extension Simulation {
    static let auditFailure = "the disk is full"

    func scheduleAuditOutages(from start: Instant) {
        for outage in scenario.auditOutages {
            queue.schedule(.auditFails, at: start + outage.start)
            queue.schedule(.auditWorks, at: start + outage.start + outage.length)
            audit.longest += outage.length
        }
    }

    /// Takes an event; and says whether an output may be done, or is as good as lost.
    func mayDo(_ output: ServerOutput) -> Bool {
        if case .audit = output {
            if audit.outages > 0 { audit.isWaiting = true }
            return false
        }
        return !audit.isWaiting || !output.letsKeysGo
    }

    /// - Returns: whether the engine was told something, and has to be drained again.
    func tellOfAudit(_ engine: KeyServer) -> Bool {
        guard audit.isWaiting, !audit.isKnown else { return false }
        audit.isKnown = true
        engine.setAuditing(failure: Self.auditFailure, now: now)
        return true
    }

    /// An outage excuses that keys are held back; nothing else is refused.
    func isUnexpected(_ error: any Error) -> Bool {
        !(audit.isKnown && error as? CommandError == .heldBack(Self.auditFailure))
    }

    func auditFails() {
        audit.outages += 1
        kinds.insert("audit outage")
    }

    func auditWorks() {
        audit.outages -= 1
        guard audit.outages == 0, audit.isWaiting else { return }
        (audit.isWaiting, audit.isKnown) = (false, false)
        server.engine?.setAuditing(failure: nil, now: now)
        drainServer()
    }
}
