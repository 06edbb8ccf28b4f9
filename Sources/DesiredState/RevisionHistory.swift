// SPDX-License-Identifier: Apache-2.0

internal import Basics
public import Cryptography
public import KeyServer
public import Settings
public import Store

/// A revision that is not stored yet: to be stored with what follows from it, or not at all.
public struct RevisionDraft: Sendable {
    public let revision: Revision
    public let changes: [RecordChange]
}

/// The revisions in a store.
///
///     desired/current     number of the newest one (u64): the one in force
///     desired/file        number of the one that the configuration file was last taken for (u64)
///     desired/N           `Revision`
///     desired/N/inventory `StoredInventory`
public final class RevisionHistory {
    /// As many are kept; of older ones only that of the configuration file.
    public static let kept: UInt64 = 100

    private let records: any RecordStore
    /// 0: there is none yet.
    public private(set) var newest: UInt64
    /// Which one is what the configuration file said when it was last read; 0: none.
    public private(set) var ofFile: UInt64

    /// - Throws: `StoreError`, `UnreadableRecord`.
    public init(_ records: any RecordStore) throws {
        self.records = records
        newest = try Self.number(records, "desired/current")
        ofFile = try Self.number(records, "desired/file")
    }

    // MARK: Reading

    /// nil for one that is not there.
    public func revision(_ number: UInt64) throws -> Revision? {
        let name = "desired/\(number)"
        guard let value = try records.value(of: name) else { return nil }
        let revision = try Revision(name: name, octets: value)
        guard revision.number == number else { throw UnreadableRecord(name: name) }
        return revision
    }

    /// All that are there, the newest first.
    public func list() throws -> [Revision] {
        var list: [Revision] = []
        for number in (newest - min(newest, Self.kept - 1)...newest).reversed() where number > 0 {
            if let revision = try revision(number) { list.append(revision) }
        }
        if ofFile > 0, !list.contains(where: { $0.number == ofFile }), let revision = try revision(ofFile) {
            list.append(revision)
        }
        return list
    }

    /// What a revision wants.
    /// - Parameter settings: those of the key server that is to have it: addresses and ports must go with its own.
    /// - Throws: `UnknownRevision`; `SettingsError` where it does not fit the key server any more.
    public func inventory(_ number: UInt64, for settings: ServerSettings) throws -> Inventory {
        let stored = try stored(number)
        return try settings.read(inventory: stored.text, file: "revision \(number)") { revision, holder in
            revision == number ? stored.keys[holder] : nil
        }.inventory
    }

    /// The key that a client or range has in a revision.
    public func key(_ number: UInt64, of holder: KeyHolder) -> Secret? {
        if known?.number != number { known = (try? stored(number)).map { (number, $0.keys) } }
        return known?.keys[holder]
    }
    /// The last revision that was asked for keys: a file asks for one after the other.
    private var known: (number: UInt64, keys: [KeyHolder: Secret])?

    /// Forgets what `key` kept.
    public func forgetKeys() { known = nil }

    /// A revision as a file for `gcks apply`: `psk: derived` stands where that gives the key of the revision,
    /// `psk: revision-N` elsewhere.
    public func export(_ number: UInt64, for settings: ServerSettings) throws -> String {
        let inventory = try inventory(number, for: settings)
        let keys = Dictionary(inventory.clients.map { ($0.name, $0.preSharedKey) }) { first, _ in first }
        return InventoryText.write(inventory) { holder in
            if case .client(let name) = holder, let provisioning = settings.provisioningKey,
                ProvisioningKey.preSharedKey(from: provisioning, client: name) == keys[name]
            {
                return "derived"
            }
            return "revision-\(number)"
        }
    }

    private func stored(_ number: UInt64) throws -> StoredInventory {
        let name = "desired/\(number)/inventory"
        guard let value = try records.value(of: name) else { throw UnknownRevision(number: number) }
        return try StoredInventory(name: name, octets: value)
    }

    private static func number(_ records: any RecordStore, _ name: String) throws -> UInt64 {
        guard let value = try records.value(of: name) else { return 0 }
        var reader = OctetReader(value.revealed())
        guard value.count == 8, let number = try? reader.u64() else { throw UnreadableRecord(name: name) }
        return number
    }

    // MARK: Writing

    /// The next revision.
    /// - Parameter microseconds: since 1970, now.
    public func draft(
        _ inventory: Inventory, source: RevisionSource, author: String, comment: String, microseconds: UInt64
    ) -> RevisionDraft {
        let number = newest + 1
        let revision = Revision(
            number: number, madeAt: microseconds, source: source, author: author, comment: comment)
        var changes: [RecordChange] = [
            .put(Record("desired/\(number)", revision.octets)),
            .put(Record("desired/\(number)/inventory", StoredInventory(inventory, of: number).octets)),
            Self.put("desired/current", number),
        ]
        var ofFile = ofFile
        if source == .configurationFile {
            if ofFile > 0, ofFile + Self.kept <= number { changes += Self.remove(ofFile) }
            ofFile = number
            changes.append(Self.put("desired/file", number))
        }
        if number > Self.kept, number - Self.kept != ofFile { changes += Self.remove(number - Self.kept) }
        return RevisionDraft(revision: revision, changes: changes)
    }

    /// A draft is stored, or certain to be before anything else is.
    public func accept(_ draft: RevisionDraft) {
        newest = draft.revision.number
        if draft.revision.source == .configurationFile { ofFile = newest }
    }

    /// The configuration file says what is in force already.
    /// - Returns: what to store of it.
    public func noteFile() -> [RecordChange] {
        guard ofFile != newest, newest > 0 else { return [] }
        var changes = [Self.put("desired/file", newest)]
        if ofFile > 0, ofFile + Self.kept <= newest { changes += Self.remove(ofFile) }
        ofFile = newest
        return changes
    }

    private static func put(_ name: String, _ number: UInt64) -> RecordChange {
        var writer = OctetWriter(capacity: 8)
        writer.u64(number)
        return .put(Record(name, Secret(writer.bytes)))
    }

    private static func remove(_ number: UInt64) -> [RecordChange] {
        [.remove("desired/\(number)"), .remove("desired/\(number)/inventory")]
    }
}
