// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import FMKE

// The SAs of a VPN and their change, one step after the other (docs/FMKE.md 7.8):
//
//     installing --both ends have it--> activating --both ends send with it--> settled: what it replaces goes
//         ^                                                                      |
//         +----------- time, volume, a command, an end that restarted or moved --+      removed: an end is revoked

/// How far the newest generation is.
enum VPNPhase: UInt8 {
    case installing = 0
    case activating = 1
    case settled = 2
    case removed = 3
}

/// What a profile says of a VPN, and with its answer the client confirms.
struct VPNMark: Hashable {
    let transaction: UInt64
    let phase: VPNPhase
}

/// Where the two ends are, as the server sees them.
struct VPNPath: Hashable {
    /// By end; ports are 0 without encapsulation.
    var addresses: [SocketAddress]
    /// ESP in UDP: one of them is behind a NAT.
    var isEncapsulated: Bool
}

/// The SAs of a VPN that were made together: two for each flow.
struct VPNGeneration {
    let transaction: UInt64
    /// The end that sends with it, and the SA.
    let sas: [(from: Int, sa: DataSA)]
    let path: VPNPath
    let createdAt: Instant
    let expiresAt: Instant
    /// The ends were told to send with it.
    var isActive = false
    /// When it is gone, for one that was replaced and that no end uses any more.
    var removeAt: Instant?
    /// Ends that registered again since: its counters may be gone there, so it must not be taken in again.
    var lostBy: Set<Int> = []

    var endsAt: Instant { min(expiresAt, removeAt ?? expiresAt) }

    /// Does it protect what the entry says, and as that says?
    func fits(_ entry: VPNEntry) -> Bool {
        let wanted = entry.flows.flatMap { [$0, $0.mirrored] }
        return sas.map(\.sa.selector) == wanted
            && sas.allSatisfy { $0.sa.suite == entry.suite && $0.sa.extendedSequence == entry.extendedSequence }
    }
}

/// A change of a VPN's keys whose verdict is still to come.
struct VPNChange {
    let transaction: UInt64
    let reason: RekeyReason
    let startedAt: Instant
    /// Whose confirmation is waited for.
    let members: [String]
    /// When each of them confirmed.
    var confirmed: [String: Instant] = [:]
    var refused: Set<String> = []
    /// Profiles sent for it.
    var unicasts = 0
}

/// One VPN at the server.
struct VPNState {
    var entry: VPNEntry
    /// The newest number; never goes back.
    var transaction: UInt64
    /// Oldest first.
    var generations: [VPNGeneration] = []
    var phase = VPNPhase.settled
    /// What each end last confirmed.
    var marks: [VPNMark?] = [nil, nil]
    var changes: [VPNChange] = []
    /// New keys that wait: for their turn, or for both ends to be there.
    var renewal: (at: Instant, reason: RekeyReason)?
    var lastVerdict: VerdictReport?

    /// The ends may have SAs of which no record is left.
    var hasUnknown = false

    /// May an end have SAs in use that its profile does not name? They stay until both ends use named ones.
    func keepsOthers(at end: Int) -> Bool {
        phase != .settled && (hasUnknown || generations.contains { $0.lostBy.contains(end) })
    }

    var mark: VPNMark { VPNMark(transaction: transaction, phase: phase) }

    /// Have both ends confirmed what their last profiles said?
    var isConfirmed: Bool { marks.allSatisfy { $0 == mark } }
}

/// The profile that a client has still to answer, as far as VPNs go.
struct VPNPending {
    /// Messages of it without an answer, by message id. One that is never answered stays.
    var outstanding: Set<UInt32>
    let marks: [UInt32: VPNMark]
    /// VPNs of which an answer refused something.
    var refused: Set<UInt32> = []
}
