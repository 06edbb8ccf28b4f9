// SPDX-License-Identifier: Apache-2.0

internal import Basics
public import IKEv1

/// Phase 1 as both programs configure it.
public struct Phase1Settings: Sendable, Hashable {
    /// In order of preference; never empty.
    public var suites: [Phase1Suite] = [.standard]
    /// Of an ISAKMP SA.
    public var lifetime: Duration = .seconds(8 * 3_600)
    /// Idle time after which a peer is asked whether it lives (RFC 3706); nil for never.
    public var deadPeerInterval: Duration? = .seconds(30)
    /// Weak suites, and in a client's file a weak key, are allowed.
    public var isLegacyAllowed = false

    static let keys = ["suites", "lifetime", "dead-peer-interval", "legacy"]

    /// What stands under `phase1`; without it, or for keys left out, the defaults.
    init(_ reader: MappingReader?) {
        guard let reader else { return }
        isLegacyAllowed = reader.optional("legacy", .truth, default: false)
        suites = Self.suites(reader, isLegacyAllowed: isLegacyAllowed) ?? suites
        lifetime = reader.optional(
            "lifetime", .duration(.seconds(60)...(.seconds(30 * 86_400))), default: lifetime)
        deadPeerInterval = reader.optional(
            "dead-peer-interval", .durationOrOff(.seconds(1)...(.seconds(86_400))), default: deadPeerInterval)
    }

    /// The list under `suites`; nil when it is left out or has nothing good in it.
    static func suites(_ reader: MappingReader, isLegacyAllowed: Bool) -> [Phase1Suite]? {
        guard reader.has("suites") else { return nil }
        let values = reader.values("suites", .phase1Suite(isLegacyAllowed: isLegacyAllowed))
        var suites: [Phase1Suite] = []
        for (suite, place) in values {
            if suites.contains(suite) {
                reader.problems.add(place, "\(suite) is in this list already", instead: "remove one of the two")
            } else {
                suites.append(suite)
            }
        }
        let limit = Limits().transformsPerOffer
        if suites.count > limit {
            reader.problems.add(reader.place(of: "suites"), "has more than \(limit) suites", instead: "offer fewer")
        }
        if suites.isEmpty, reader.isEmptyList("suites") {
            reader.problems.add(
                reader.place(of: "suites"), "is empty", instead: "leave it out, or write \(Phase1Suite.standard)")
        }
        return suites.isEmpty ? nil : suites
    }
}
