// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import Cryptography
internal import ISAKMP

/// Messages 1 that are answered without remembering anything.
///
/// HASH_I covers the offer of message 1, and message 3 does not repeat it: a responder has to keep it, and who makes up
/// messages 1 in a client's name could push the client's own out of whatever room there is. But what our own clients
/// offer is known beforehand, and so is what a client offered when it last registered. Such a message 1 is answered
/// under a cookie from which message 3 is known again (RFC 2408 2.5.3): nothing is kept, so nothing can be pushed out.
struct KnownOpenings {
    /// All of a message 1 but the initiator's cookie, and of message 2 but both cookies.
    struct Opening: Equatable {
        let tail: [UInt8]
        let answerTail: [UInt8]
    }

    /// Of one credential.
    private struct Entry {
        let suites: [Phase1Suite]
        let lifetime: Duration
        /// What a client of ours offers under this credential.
        let expected: Opening?
        /// What led to an SA the last time.
        var latest: Opening?

        var all: [Opening] { [expected, latest].compactMap { $0 } }
    }

    /// So long a cookie is good at least; at most twice as long.
    private static let period: Duration = .seconds(32)

    private let key: Secret
    /// By the credential's name: as many as there are credentials.
    private var entries: [String: Entry] = [:]

    init(key: Secret) { self.key = key }

    /// Has a peer with this credential ever authenticated itself?
    func hasProven(_ credential: PeerCredential) -> Bool { entries[credential.name]?.latest != nil }

    /// Message 2 for a message 1 that is known.
    mutating func answer(
        _ received: Received, _ credential: PeerCredential, _ configuration: Phase1Configuration, now: Instant
    ) -> [UInt8]? {
        let tail = received.octets[8...]
        guard let opening = openings(credential, configuration).first(where: { $0.tail.elementsEqual(tail) }) else {
            return nil
        }
        var writer = OctetWriter(capacity: Header.size)
        writer.u64(received.header.initiatorCookie)
        writer.u64(cookie(opening, received, period: Self.number(now)))
        return writer.bytes + opening.answerTail
    }

    /// Message 1 in front of a message 3 whose cookie we gave to this address and port for it; nil where we did not.
    mutating func opening(
        before received: Received, _ credential: PeerCredential, _ configuration: Phase1Configuration, now: Instant
    ) -> [UInt8]? {
        let number = Self.number(now)
        for opening in openings(credential, configuration) {
            for period in [number, number - 1]
            where cookie(opening, received, period: period) == received.header.responderCookie {
                var writer = OctetWriter(capacity: 8)
                writer.u64(received.header.initiatorCookie)
                return writer.bytes + opening.tail
            }
        }
        return nil
    }

    /// A peer has authenticated itself after this message 1 and our message 2.
    mutating func remember(
        _ octets: [UInt8], answer: [UInt8], _ credential: PeerCredential, _ configuration: Phase1Configuration
    ) {
        _ = openings(credential, configuration)
        entries[credential.name]?.latest = Opening(
            tail: Array(octets.dropFirst(8)), answerTail: Array(answer.dropFirst(16)))
    }

    private mutating func openings(
        _ credential: PeerCredential, _ configuration: Phase1Configuration
    ) -> [Opening] {
        if let entry = entries[credential.name], entry.suites == credential.suites,
            entry.lifetime == credential.lifetime
        {
            return entry.all
        }
        let entry = Entry(
            suites: credential.suites, lifetime: credential.lifetime, expected: Self.expected(credential, configuration)
        )
        entries[credential.name] = entry
        return entry.all
    }

    private static func expected(
        _ credential: PeerCredential, _ configuration: Phase1Configuration
    ) -> Opening? {
        let id = AssociationID(initiatorCookie: 1, responderCookie: 0)
        let offer = Negotiation.offer(credential, limits: configuration.limits).body()
        let octets = message([RawPayload(.securityAssociation, offer)] + PeerFeatures.ours.payloads, .mainMode, id)
        var reader = OctetReader(octets)
        let nowhere = SocketAddress(.v4(0, 0, 0, 0), 0)
        guard let header = try? Header(reading: &reader),
            let responder = try? MainModeResponder(
                Received(octets: octets, header: header, local: nowhere, remote: nowhere), cookie: 1,
                credential: credential, identity: configuration.identity, limits: configuration.limits),
            responder.answer.count <= octets.count
        else { return nil }
        return Opening(tail: Array(octets.dropFirst(8)), answerTail: Array(responder.answer.dropFirst(16)))
    }

    private static func number(_ now: Instant) -> Int64 { now.nanoseconds / period.wholeNanoseconds }

    /// Nobody can guess it for an address where he does not see what we send.
    private func cookie(_ opening: Opening, _ received: Received, period: Int64) -> UInt64 {
        var writer = OctetWriter(capacity: 64)
        writer.u64(UInt64(bitPattern: period))
        writer.u64(received.header.initiatorCookie)
        writer.u16(received.local.port)
        writer.u16(received.remote.port)
        writer.append(received.remote.address.octets)
        let code = HMAC.code(.sha256, key: key, writer.bytes, opening.tail)
        var reader = OctetReader(code)
        return max((try? reader.u64()) ?? 1, 1)
    }
}

/// How many Diffie-Hellman computations messages 3 may cost us: of one address, and of all.
struct KeyAgreementBudget {
    /// When the tokens of each address, and of all, would be all there again (what is called a virtual schedule).
    private var fullAt: [IPAddress: Instant] = [:]
    private var allFullAt = Instant(nanoseconds: .min / 2)

    /// - Parameter hasProven: a peer with this credential was here before; the second half of what there is for all is
    ///   for those.
    mutating func admit(_ address: IPAddress, hasProven: Bool, _ limits: Limits, now: Instant) -> Bool {
        let second: Int64 = 1_000_000_000
        let burst = Int64(max(1, limits.keyAgreementsPerAddress))
        let own = Duration.nanoseconds(4 * second / burst)
        let all = Duration.nanoseconds(second / Int64(max(1, limits.keyAgreementsPerSecond)))
        let nextOwn = max(fullAt[address] ?? now, now) + own
        let nextAll = max(allFullAt, now) + all
        guard nextOwn - now <= own * burst, nextAll - now <= .nanoseconds(hasProven ? second : second / 2) else {
            return false
        }
        if fullAt[address] == nil, fullAt.count >= max(1, limits.halfOpen) {
            fullAt = fullAt.filter { $0.value > now }
            guard fullAt.count < max(1, limits.halfOpen) else { return false }
        }
        fullAt[address] = nextOwn
        allFullAt = nextAll
        return true
    }
}

/// The addresses from which peers have an SA with us. A message 1 from there is most likely made up: to answer all
/// would send the peer as much as somebody sends in its name.
struct MemberAddresses {
    private var entries: [IPAddress: (count: Int, fullAt: Instant)] = [:]

    mutating func add(_ address: IPAddress) {
        entries[address, default: (0, Instant(nanoseconds: .min / 2))].count += 1
    }

    mutating func remove(_ address: IPAddress) {
        guard let entry = entries[address] else { return }
        entries[address] = entry.count > 1 ? (entry.count - 1, entry.fullAt) : nil
    }

    /// May a message 1 from this address be answered?
    mutating func admitOpening(_ address: IPAddress, _ limits: Limits, now: Instant) -> Bool {
        guard let entry = entries[address] else { return true }
        // As many as there are SAs behind the address, which may be a translator's.
        let most = Int64(max(1, limits.openingsPerMember)) * Int64(entry.count)
        let next = max(entry.fullAt, now) + .nanoseconds(1_000_000_000 / most)
        guard next - now <= .seconds(1) else { return false }
        entries[address]?.fullAt = next
        return true
    }
}
