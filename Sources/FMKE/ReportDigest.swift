// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import Cryptography
public import ISAKMP

/// What a client has, in eight octets behind its answer to dead peer detection (docs/FMKE.md 5.1).
///
///     client -> GCKS  HDR*, HASH, N(R-U-THERE-ACK), DIGEST
public struct ReportDigest: Sendable, Hashable {
    private static let size = 8

    private let octets: [UInt8]

    /// - Parameter groups: every group of the client with its newest complete transaction.
    public init(_ groups: [UInt32: UInt64]) {
        var writer = OctetWriter(capacity: 12 * groups.count)
        for (group, complete) in groups.sorted(by: { $0.key < $1.key }) {
            writer.u32(group)
            writer.u64(complete)
        }
        octets = Array(HashAlgorithm.sha256.digest(writer.bytes).prefix(Self.size))
    }

    /// nil for anything but one payload of this kind.
    public init?(payloads: [RawPayload]) {
        guard payloads.count == 1, let payload = payloads.first, payload.type == .digest,
            payload.body.count == Self.size
        else { return nil }
        octets = payload.body
    }

    public var payload: RawPayload { RawPayload(.digest, octets) }
}
