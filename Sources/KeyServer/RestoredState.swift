// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import Cryptography
public import Store

/// What a store that was put back from a backup may keep: the run after the backup used numbers and made keys that it
/// knows nothing of.
///
/// Who is revoked stays, and the desired state. Every number jumps beyond what the lost run can have used. All keys go,
/// ISAKMP SAs among them, whose message ids have 32 bits and no clock: clients register again, and groups get new ones.
public enum RestoredState {
    /// Says that the store was put back, and when, until the next start has written it into the audit file.
    public static let note = "restored"
    /// What microseconds since 1970 are ahead of, if the clock is right; and a jump where it is not (12 days of them).
    private static let jump: UInt64 = 1 << 40
    /// The same for epochs, which count seconds and have 32 bits.
    private static let epochJump: UInt64 = 1 << 20

    /// The changes to make before anybody reads the store.
    /// - Parameters:
    ///   - records: all of the backup.
    ///   - revoked: names of clients that are revoked by what is known beside it.
    ///   - microseconds: since 1970, now.
    /// - Throws: `UnreadableRecord` for a number that is none.
    public static func changes(
        of records: [Record], revoked: some Sequence<String>, microseconds: UInt64
    ) throws(UnreadableRecord) -> [RecordChange] {
        var changes: [RecordChange] = []
        // Where the backup has no number the lost run may have begun to count: above all that was counted before.
        var missing: Set<String> = []
        var greatest = microseconds
        for record in records {
            let parts = record.name.split(separator: "/", omittingEmptySubsequences: false)
            if parts.count > 2, ["client", "group"].contains(parts[0]) {
                missing.insert("\(parts[0])/\(parts[1])/sequence")
            }
            if parts[0] == "desired" || record.name == "audit/head" { continue }
            switch (parts[0], parts.count > 2 ? parts[2] : "", parts.count) {
            case ("client", "revoked", 3), ("group", "sender-id", 3), ("group", "confirmed", 4): break
            case ("client", "sequence", 3), ("group", "transaction", 3), ("group", "sequence", 3):
                let number = max(min(try number(record), .max / 2) + jump, microseconds)
                greatest = max(greatest, number)
                changes.append(put(record.name, number))
            case ("group", "epoch", 3):
                let number = min(try number(record), UInt64(UInt32.max) - 2 * epochJump)
                changes.append(put(record.name, max(number + epochJump, microseconds / 1_000_000)))
            default: changes.append(.remove(record.name))
            }
        }
        missing.subtract(records.map(\.name))
        for name in missing.sorted() { changes.append(put(name, greatest)) }
        for name in revoked { changes.append(.put(Record("client/\(name)/revoked", Secret([1])))) }
        return changes
    }

    /// Names of the clients that these records say are revoked.
    public static func revoked(in records: [Record]) -> [String] {
        records.compactMap { record in
            let parts = record.name.split(separator: "/")
            return parts.count == 3 && parts[0] == "client" && parts[2] == "revoked" ? String(parts[1]) : nil
        }
    }

    private static func number(_ record: Record) throws(UnreadableRecord) -> UInt64 {
        var reader = OctetReader(record.value.revealed())  // a number, no key
        guard record.value.count == 8, let number = try? reader.u64() else { throw UnreadableRecord(name: record.name) }
        return number
    }

    private static func put(_ name: String, _ number: UInt64) -> RecordChange {
        var writer = OctetWriter(capacity: 8)
        writer.u64(number)
        return .put(Record(name, Secret(writer.bytes)))
    }
}
