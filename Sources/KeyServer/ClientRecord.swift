// SPDX-License-Identifier: Apache-2.0

public import Basics
public import Cryptography
public import IKEv1
internal import ISAKMP

/// A record that this version does not read: damaged, of another version, or one that cannot be.
public struct UnreadableRecord: Error, Hashable, Sendable {
    public var name: String
    public init(name: String) { self.name = name }
}

extension UnreadableRecord: CustomStringConvertible {
    public var description: String {
        "record '\(name)' is damaged or of another version; nothing was changed. Move the state file away to start "
            + "without it: every client registers again, and clients that were revoked must be out of the configuration"
    }
}

/// Times in records are microseconds since 1970, so that they mean the same after the machine started anew; instants
/// of the engine count from an origin of their own.
public struct RecordClock: Sendable {
    private let offset: Int64

    /// - Parameter microseconds: since 1970, at `now`.
    public init(microseconds: UInt64, now: Instant) {
        offset = Int64(clamping: microseconds).subtractingReportingOverflow(now.nanoseconds / 1_000).partialValue
    }

    func microseconds(_ instant: Instant) -> UInt64 {
        UInt64(clamping: (instant.nanoseconds / 1_000).addingReportingOverflow(offset).partialValue)
    }

    func instant(_ microseconds: UInt64) -> Instant {
        .zero + .microseconds(Int64(clamping: microseconds).subtractingReportingOverflow(offset).partialValue)
    }
}

/// `client/NAME/state`: what a restart must know of a client beside its numbers.
///
///     version = 1 | flags (1: it has an ISAKMP SA, 2: it was registered before, 4: a profile was under way)
///     | last report (u64)
///     with an ISAKMP SA: check of the key (32) | cookies (u64, u64) | flags (1 we are the initiator, 2 we are behind
///     NAT, 4 the peer is, 8 dead peer detection, 16 NAT traversal, 32 initial contact, 64 a round trip is known,
///     128 something was delivered) | local and remote end (octets of the address (u8), address, port (u16))
///     | suite (length u8, text) | established, expires (u64, microseconds since 1970) | round trip (u64, microseconds)
///     | first, reserved message id, first sequence, greatest delivered id (u32 each)
///     | identity body, SKEYID_a, cipher key, last block, digest of message 5, message 6 (each length u16, octets)
public struct ClientRecord: Sendable, Equatable {
    public static let version: UInt8 = 1
    public static let checkSize = 32

    public var lastReport: UInt64
    public var wasRegistered: Bool
    /// It was sent a profile that it has not acknowledged.
    public var isOwedProfile = false
    /// The ISAKMP SA, and what changes with the pre-shared key it was made by.
    public var association: AssociationRecord?
    public var check: [UInt8]

    public init(lastReport: UInt64, wasRegistered: Bool, association: AssociationRecord?, check: [UInt8]) {
        self.lastReport = lastReport
        self.wasRegistered = wasRegistered
        self.association = association
        self.check = check
    }

    public func octets(_ clock: RecordClock) -> Secret {
        var writer = OctetWriter(capacity: 512)
        writer.u8(Self.version)
        writer.u8((association == nil ? 0 : 1) | (wasRegistered ? 2 : 0) | (isOwedProfile ? 4 : 0))
        writer.u64(lastReport)
        if let association {
            writer.append(check)
            Self.write(association, clock, to: &writer)
        }
        var octets = writer.bytes
        defer { wipe(&octets) }
        return Secret(octets)
    }

    /// Throws `UnreadableRecord` for anything that `octets` does not write.
    public init(name: String, octets value: Secret, _ clock: RecordClock) throws(UnreadableRecord) {
        // Revealed to be taken apart; the keys become secrets again.
        var octets = value.revealed()
        defer { wipe(&octets) }
        do {
            var reader = OctetReader(octets)
            guard try reader.u8() == Self.version else { throw Truncated() }
            let flags = try reader.u8()
            guard flags < 8 else { throw Truncated() }
            lastReport = try reader.u64()
            wasRegistered = flags & 2 != 0
            isOwedProfile = flags & 4 != 0
            (association, check) = (nil, [])
            if flags & 1 != 0 {
                check = try reader.bytes(Self.checkSize)
                association = try Self.association(&reader, clock)
            }
            guard reader.isEmpty else { throw Truncated() }
        } catch {
            throw UnreadableRecord(name: name)
        }
    }

    private static func write(_ item: AssociationRecord, _ clock: RecordClock, to writer: inout OctetWriter) {
        writer.u64(item.id.initiatorCookie)
        writer.u64(item.id.responderCookie)
        let flags = [
            item.isInitiator, item.weAreBehindNAT, item.peerIsBehindNAT, item.hasDeadPeerDetection,
            item.hasNATTraversal, item.isInitialContact, item.roundTrip != nil, item.highestDelivered != nil,
        ]
        writer.u8(flags.enumerated().reduce(0) { $0 | ($1.element ? 1 << UInt8($1.offset) : 0) })
        for end in [item.local, item.remote] {
            let address = end.address.octets
            writer.u8(UInt8(clamping: address.count))
            writer.append(address)
            writer.u16(end.port)
        }
        let suite = Array(item.suite.description.utf8)
        writer.u8(UInt8(clamping: suite.count))
        writer.append(suite)
        writer.u64(clock.microseconds(item.establishedAt))
        writer.u64(clock.microseconds(item.expiresAt))
        writer.u64(UInt64(clamping: (item.roundTrip ?? .zero).wholeNanoseconds / 1_000))
        writer.u32(item.firstMessageID)
        writer.u32(item.reservedMessageID)
        writer.u32(item.firstSequence)
        writer.u32(item.highestDelivered ?? 0)
        for part in [
            item.peerIdentity.body(), item.authenticationKey.revealed(), item.cipherKey.revealed(), item.lastBlock,
            item.proofDigest, item.proofAnswer,
        ] {
            writer.u16(UInt16(clamping: part.count))
            writer.append(part)
        }
    }

    private static func association(_ reader: inout OctetReader, _ clock: RecordClock) throws -> AssociationRecord {
        let id = AssociationID(initiatorCookie: try reader.u64(), responderCookie: try reader.u64())
        let flags = try reader.u8()
        func end() throws -> SocketAddress {
            let size = Int(try reader.u8())
            guard size == 4 || size == 16, let address = IPAddress(octets: try reader.slice(size)) else {
                throw Truncated()
            }
            return SocketAddress(address, try reader.u16())
        }
        func part() throws -> [UInt8] { try reader.bytes(Int(try reader.u16())) }
        let (local, remote) = (try end(), try end())
        let text = String(decoding: try reader.bytes(Int(try reader.u8())), as: UTF8.self)
        guard let suite = Phase1Suite(text), suite.description == text else { throw Truncated() }
        let (established, expires, roundTrip) = (try reader.u64(), try reader.u64(), try reader.u64())
        let (first, reserved) = (try reader.u32(), try reader.u32())
        let (sequence, delivered) = (try reader.u32(), try reader.u32())
        let body = try part()
        let identity = try Identity(body: body)
        guard identity.body() == body else { throw Truncated() }
        var record = AssociationRecord(
            id: id, isInitiator: flags & 1 != 0, peerIdentity: identity, local: local, remote: remote, suite: suite,
            establishedAt: clock.instant(established), expiresAt: clock.instant(expires),
            authenticationKey: Secret(try part()), cipherKey: Secret(try part()), lastBlock: try part(),
            firstMessageID: first, reservedMessageID: reserved, firstSequence: sequence)
        (record.weAreBehindNAT, record.peerIsBehindNAT) = (flags & 2 != 0, flags & 4 != 0)
        (record.hasDeadPeerDetection, record.hasNATTraversal) = (flags & 8 != 0, flags & 16 != 0)
        record.isInitialContact = flags & 32 != 0
        record.roundTrip = flags & 64 != 0 ? .microseconds(Int64(clamping: roundTrip)) : nil
        record.highestDelivered = flags & 128 != 0 ? delivered : nil
        (record.proofDigest, record.proofAnswer) = (try part(), try part())
        guard record.isPossible, expires < 1 << 52, established <= expires, roundTrip < 1 << 50,
            flags & 64 != 0 || roundTrip == 0, flags & 128 != 0 || delivered == 0
        else { throw Truncated() }
        return record
    }
}
