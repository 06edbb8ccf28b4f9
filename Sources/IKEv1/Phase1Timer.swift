// SPDX-License-Identifier: Apache-2.0

internal import Basics

/// Everything an endpoint waits for.
enum Phase1Timer: Hashable {
    /// Send the last Main Mode message of the attempt with this initiator cookie again (RFC 2408 5.1).
    case retransmit(UInt64)
    /// A responder's unfinished exchange has taken too long (RFC 2408 5.1, `Limits.halfOpenLifetime`).
    case halfOpen(AssociationID)
    /// Send a request again (RFC 2408 5.1).
    case request(AssociationID, UInt32)
    /// Look whether the peer has been heard of, or ask again (RFC 3706 5.5).
    case deadPeer(AssociationID)
    /// Keep the NAT's mapping alive (RFC 3948 4).
    case keepAlive(AssociationID)
    /// Tell the engine above to authenticate anew, before the lifetime ends (RFC 2409 5).
    case reauthenticate(AssociationID)
    /// The lifetime has ended (RFC 2407 4.5).
    case expire(AssociationID)
}

/// How long to wait before each repetition: doubling, up to eight times the first time-out, so that a peer that comes
/// back after an outage is heard within seconds (RFC 2408 5.1 asks for growth, not for a law).
struct Backoff {
    /// How often the message was sent.
    private(set) var transmissions = 1
    private let first: Duration
    private var shift = 0

    init(first: Duration) { self.first = first }

    /// How long to wait for an answer to the latest transmission.
    var timeout: Duration { first * (1 << shift) }

    /// Counts one more transmission.
    mutating func transmitted() {
        transmissions += 1
        shift = min(shift + 1, 3)
    }
}
