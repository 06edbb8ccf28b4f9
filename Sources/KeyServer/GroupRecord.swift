// SPDX-License-Identifier: Apache-2.0

public import Basics
internal import Cryptography
public import FMKE
public import ReliablePush

// What of a group survives the process (docs/ARCHITECTURE.md, State): each of these is the value of one kind of record.
// Times are microseconds since 1970, the greatest number for never; keys stand in the form of a PUSH's body, which has
// one encoding.

/// `group/ID/state`.
///
///     version | transaction, first transaction, last revocation (u64) | KEK expires, KEK rekey, data rekey (time)
///     | first index that nobody had (u32) | flags (1 a renewal, 2 a retirement, 4 it had several senders)
///     | renewed (time or never) | several senders up to (transaction, u64)
///     | renewal: time, reason | retirement: transaction (u64), time
public struct GroupRecord: StoredRecord, Equatable {
    public struct Renewal: Sendable, Equatable {
        public var at: Instant
        public var reason: RekeyReason
    }
    public struct Retirement: Sendable, Equatable {
        public var transaction: UInt64
        public var removeAt: Instant
    }
    public static let version: UInt8 = 1

    public var transaction: UInt64
    public var firstTransaction: UInt64
    public var lastRevocation: UInt64
    public var kekExpiresAt: Instant
    public var kekRekeyAt: Instant
    public var dataRekeyAt: Instant
    public var nextIndex: UInt32
    public var severalSendersUpTo: UInt64?
    public var renewedAt: Instant?
    public var renewal: Renewal?
    public var retirement: Retirement?

    public func write(to writer: inout OctetWriter, _ clock: RecordClock) {
        for number in [transaction, firstTransaction, lastRevocation] { writer.u64(number) }
        for time in [kekExpiresAt, kekRekeyAt, dataRekeyAt] { writer.time(time, clock) }
        writer.u32(nextIndex)
        let severalSenders: UInt8 = severalSendersUpTo == nil ? 0 : 4
        writer.u8((renewal == nil ? 0 : 1) | (retirement == nil ? 0 : 2) | severalSenders)
        writer.time(renewedAt, clock)
        writer.u64(severalSendersUpTo ?? 0)
        if let renewal {
            writer.time(renewal.at, clock)
            writer.reason(renewal.reason)
        }
        if let retirement {
            writer.u64(retirement.transaction)
            writer.time(retirement.removeAt, clock)
        }
    }
}

extension GroupRecord {
    public init(reading reader: inout OctetReader, _ clock: RecordClock) throws {
        (transaction, firstTransaction, lastRevocation) = (try reader.u64(), try reader.u64(), try reader.u64())
        guard firstTransaction <= transaction, lastRevocation <= transaction, transaction < 1 << 62 else {
            throw Truncated()
        }
        kekExpiresAt = try reader.time(clock)
        (kekRekeyAt, dataRekeyAt) = (try reader.time(clock), try reader.time(clock))
        nextIndex = try reader.u32()
        let flags = try reader.flags(below: 8)
        renewedAt = try reader.timeOrNever(clock)
        let several = try reader.u64()
        guard flags & 4 != 0 || several == 0 else { throw Truncated() }
        severalSendersUpTo = flags & 4 != 0 ? several : nil
        if flags & 1 != 0 { renewal = Renewal(at: try reader.time(clock), reason: try reader.reason()) }
        if flags & 2 != 0 {
            retirement = Retirement(transaction: try reader.u64(), removeAt: try reader.time(clock))
        }
    }
}

/// `group/ID/rekey-sa`: version | the body of a PUSH with this rekey SA alone.
public struct RekeySARecord: StoredRecord {
    public static let version: UInt8 = 1
    public var rekeySA: RekeySA

    public init(_ rekeySA: RekeySA) { self.rekeySA = rekeySA }

    public func write(to writer: inout OctetWriter, _ clock: RecordClock) {
        writer.keys(KeyUpdate(rekeySA: rekeySA, dataSAs: [], replaced: []))
    }

    public init(reading reader: inout OctetReader, _ clock: RecordClock) throws {
        let update = try reader.keys()
        guard let rekeySA = update.rekeySA, update.dataSAs.isEmpty else { throw Truncated() }
        self.rekeySA = rekeySA
    }
}

/// `group/ID/sa/SPI`: version | transaction (u64) | created, activated (time) | removed (time or never)
/// | expires (time) | the body of a PUSH with this SA alone.
public struct DataSARecord: StoredRecord {
    public static let version: UInt8 = 1
    public var transaction: UInt64
    public var createdAt: Instant
    public var activateAt: Instant
    public var removeAt: Instant?
    public var expiresAt: Instant
    public var sa: DataSA

    public func write(to writer: inout OctetWriter, _ clock: RecordClock) {
        writer.u64(transaction)
        for time in [createdAt, activateAt, removeAt, expiresAt] { writer.time(time, clock) }
        writer.keys(KeyUpdate(rekeySA: nil, dataSAs: [sa], replaced: []))
    }
}

extension DataSARecord {
    public init(reading reader: inout OctetReader, _ clock: RecordClock) throws {
        transaction = try reader.u64()
        (createdAt, activateAt) = (try reader.time(clock), try reader.time(clock))
        (removeAt, expiresAt) = (try reader.timeOrNever(clock), try reader.time(clock))
        let update = try reader.keys()
        guard update.rekeySA == nil, update.dataSAs.count == 1, update.dataSAs[0].direction == .symmetric else {
            throw Truncated()
        }
        sa = update.dataSAs[0]
    }
}

/// `group/ID/member/NAME`: version | flags (1 it was sent keys, 2 it was taken out, 4 it has a sender id, 8 it may
/// send, 16 it may receive) | index (u32) | sender id (u16) | confirmed, taken in by, sends since,
/// taken out behind (transactions, u64) | confirmed, moves (time or never)
public struct MemberRecord: StoredRecord, Equatable {
    public static let version: UInt8 = 1
    public var index: UInt32
    public var role: MemberRole
    public var holdsKeys = false
    public var senderID: UInt16?
    public var confirmed: UInt64 = 0
    public var since: UInt64 = 0
    public var sendsSince: UInt64 = 0
    /// The last transaction that it had a part in, of one that was taken out: its index is never given again.
    public var until: UInt64?
    public var confirmedAt: Instant?
    public var movesBy: Instant?

    public init(index: UInt32, role: MemberRole) { (self.index, self.role) = (index, role) }

    public func write(to writer: inout OctetWriter, _ clock: RecordClock) {
        writer.u8(
            (holdsKeys ? 1 : 0) | (until == nil ? 0 : 2) | (senderID == nil ? 0 : 4) | (role.maySend ? 8 : 0)
                | (role.mayReceive ? 16 : 0))
        writer.u32(index)
        writer.u16(senderID ?? 0)
        for number in [confirmed, since, sendsSince, until ?? 0] { writer.u64(number) }
        writer.time(confirmedAt, clock)
        writer.time(movesBy, clock)
    }

    public init(reading reader: inout OctetReader, _ clock: RecordClock) throws {
        let flags = try reader.flags(below: 32)
        guard flags >= 8 else { throw Truncated() }
        role = flags & 24 == 24 ? .both : flags & 8 != 0 ? .sender : .receiver
        index = try reader.u32()
        let id = try reader.u16()
        (confirmed, since, sendsSince) = (try reader.u64(), try reader.u64(), try reader.u64())
        let until = try reader.u64()
        guard flags & 4 != 0 || id == 0, flags & 2 != 0 || until == 0 else { throw Truncated() }
        holdsKeys = flags & 1 != 0
        senderID = flags & 4 != 0 ? id : nil
        self.until = flags & 2 != 0 ? until : nil
        (confirmedAt, movesBy) = (try reader.timeOrNever(clock), try reader.timeOrNever(clock))
    }
}

/// `group/ID/open/TRANSACTION`: version | flags (1 masked, 2 committed, 4 by unicast alone) | epoch (u32)
/// | first index that it has no part in (u32) | started, activated (time) | replaced SAs removed (time or never)
/// | reason
public struct OpenRecord: StoredRecord, Equatable {
    public static let version: UInt8 = 1
    public var reason: RekeyReason
    public var epoch: UInt32
    public var membersBelow: UInt32
    public var isMasked: Bool
    public var isCommitted: Bool
    /// Nothing of it may go by multicast, or nothing was to.
    public var isByUnicast: Bool
    public var startedAt: Instant
    public var activateAt: Instant
    public var deactivateAt: Instant?

    public func write(to writer: inout OctetWriter, _ clock: RecordClock) {
        writer.u8((isMasked ? 1 : 0) | (isCommitted ? 2 : 0) | (isByUnicast ? 4 : 0))
        writer.u32(epoch)
        writer.u32(membersBelow)
        for time in [startedAt, activateAt, deactivateAt] { writer.time(time, clock) }
        writer.reason(reason)
    }
}

extension OpenRecord {
    public init(reading reader: inout OctetReader, _ clock: RecordClock) throws {
        let flags = try reader.flags(below: 8)
        (isMasked, isCommitted, isByUnicast) = (flags & 1 != 0, flags & 2 != 0, flags & 4 != 0)
        (epoch, membersBelow) = (try reader.u32(), try reader.u32())
        (startedAt, activateAt) = (try reader.time(clock), try reader.time(clock))
        deactivateAt = try reader.timeOrNever(clock)
        reason = try reader.reason()
    }
}

/// `group/ID/delivery/TRANSACTION`: what never changes of a transaction under way.
///
///     version | the rekey SA that its PUSHes go under: as in `rekey-sa`, length u32 in front
///     | how many ranges, and each: first and last index of members that are not waited for (u32)
///     | how many datagrams (u32), and each: first and last member, length of the body (u32), body
public struct DeliveryRecord: StoredRecord {
    public static let version: UInt8 = 1
    public var rekeySA: RekeySA
    /// In order, none next to another.
    public var absent: [ClosedRange<UInt32>]
    public var parts: [PushPart]

    public init(rekeySA: RekeySA, absent: some Sequence<UInt32>, parts: [PushPart]) {
        self.rekeySA = rekeySA
        self.parts = parts
        self.absent = []
        for index in absent.sorted() {
            if let last = self.absent.last, index <= last.upperBound || index - last.upperBound == 1 {
                self.absent[self.absent.count - 1] = last.lowerBound...max(last.upperBound, index)
            } else {
                self.absent.append(index...index)
            }
        }
    }

    public func isAbsent(_ index: UInt32) -> Bool {
        var (low, high) = (0, absent.count)
        while low < high {
            let middle = (low + high) / 2
            if absent[middle].upperBound < index { low = middle + 1 } else { high = middle }
        }
        return low < absent.count && absent[low].contains(index)
    }

    public func write(to writer: inout OctetWriter, _ clock: RecordClock) {
        var keys = OctetWriter()
        keys.keys(KeyUpdate(rekeySA: rekeySA, dataSAs: [], replaced: []))
        writer.part(keys.bytes)
        writer.u32(UInt32(clamping: absent.count))
        for range in absent {
            writer.u32(range.lowerBound)
            writer.u32(range.upperBound)
        }
        writer.u32(UInt32(clamping: parts.count))
        for part in parts {
            writer.u32(part.members.lowerBound)
            writer.u32(part.members.upperBound)
            writer.part(part.body)
        }
    }

    public init(reading reader: inout OctetReader, _ clock: RecordClock) throws {
        var octets = try reader.part()
        defer { wipe(&octets) }
        var keys = OctetReader(octets)
        guard let rekeySA = try keys.keys().rekeySA else { throw Truncated() }
        self.rekeySA = rekeySA
        (absent, parts) = ([], [])
        for _ in 0..<(try reader.u32()) {
            let range = try reader.members()
            if let last = absent.last {
                guard range.lowerBound > last.upperBound, range.lowerBound - last.upperBound > 1 else {
                    throw Truncated()
                }
            }
            absent.append(range)
        }
        for _ in 0..<(try reader.u32()) {
            let range = try reader.members()
            parts.append(PushPart(body: try reader.part(), members: range))
        }
    }
}

extension OctetWriter {
    /// Of keys that the server made itself: they have an encoding.
    fileprivate mutating func keys(_ update: KeyUpdate) {
        guard var octets = try? update.body() else { preconditionFailure("keys of the server's own can be written") }
        defer { wipe(&octets) }
        append(octets)
    }

    fileprivate mutating func reason(_ reason: RekeyReason) {
        u8(UInt8(clamping: reason.rawValue.utf8.count))
        append(Array(reason.rawValue.utf8))
    }
}

extension OctetReader {
    /// All that is left.
    fileprivate mutating func keys() throws -> KeyUpdate {
        var octets = remainder()
        defer { wipe(&octets) }
        let update = try KeyUpdate(body: octets)
        // One encoding only: what is written again is the same.
        guard update.replaced.isEmpty, update.treeSlice == nil, try update.body() == octets else { throw Truncated() }
        return update
    }

    fileprivate mutating func reason() throws -> RekeyReason {
        let text = String(decoding: try bytes(Int(try u8())), as: UTF8.self)
        guard let reason = RekeyReason(rawValue: text) else { throw Truncated() }
        return reason
    }

    fileprivate mutating func members() throws -> ClosedRange<UInt32> {
        let (first, last) = (try u32(), try u32())
        guard first <= last else { throw Truncated() }
        return first...last
    }
}
