// SPDX-License-Identifier: Apache-2.0

public import Cryptography

// Store owns what must outlive a message: the records that engines hand out before the sends that depend on them. An
// engine never waits for a disk: it gives `.persist(records)` and, behind it, the `.transmit`; the driver keeps that
// order. Here are the interface, an implementation in memory, and the seal under which values leave the process.

/// One thing to remember: a name such as `group/7/sequence` and its value. The value may hold keys, so it is a secret.
public struct Record: Sendable, Equatable {
    public var name: String
    public var value: Secret

    public init(_ name: String, _ value: Secret) {
        self.name = name
        self.value = value
    }
}

/// One step of a change.
public enum RecordChange: Sendable, Equatable {
    /// Replaces what had the same name.
    case put(Record)
    /// Nothing happens where there is no such record.
    case remove(String)
}

/// Keeps records by name.
public protocol RecordStore: AnyObject {
    /// Makes all of these changes or none, one after the other. When it returns, they are safe.
    func apply(_ changes: [RecordChange]) throws(StoreError)
    func value(of name: String) throws(StoreError) -> Secret?
    /// All records whose name starts so, in the order of their names.
    func records(under prefix: String) throws(StoreError) -> [Record]
}

extension RecordStore {
    /// Stores all of them or none, replacing what had the same name.
    public func put(_ records: [Record]) throws(StoreError) { try apply(records.map(RecordChange.put)) }
}

public enum StoreError: Error, Hashable, Sendable {
    /// The medium failed or is full; with what the system says.
    case unavailable(String)
    /// Another process has it open.
    case inUse
    /// It is sealed with another master key. Nothing was changed.
    case wrongKey
    /// It is not a store of ours, or of a later version of this program; with what was found. Nothing was changed.
    case unknownFormat(String)
    /// A value does not have the form that this version writes, or its seal is broken.
    case corrupt
}

extension StoreError: CustomStringConvertible {
    public var description: String {
        switch self {
        case .unavailable(let reason): "it cannot be read or written: \(reason)"
        case .inUse: "another daemon is running: it has this file open"
        case .wrongKey: "it is sealed with another master key; nothing was changed. Give the key that it was made with"
        case .unknownFormat(let found): "it is no state of this version (\(found)); nothing was changed"
        case .corrupt: "a record in it is damaged, or was changed by somebody without the master key"
        }
    }
}

/// Remembers for the life of the process.
public final class MemoryStore: RecordStore {
    private var values: [String: Secret] = [:]

    public init() {}

    /// A store with what another one holds now.
    public init(copying other: MemoryStore) { values = other.values }

    public func apply(_ changes: [RecordChange]) {
        for change in changes {
            switch change {
            case .put(let record): values[record.name] = record.value
            case .remove(let name): values[name] = nil
            }
        }
    }

    public func put(_ records: [Record]) { apply(records.map(RecordChange.put)) }
    public func value(of name: String) -> Secret? { values[name] }
    public func records(under prefix: String) -> [Record] {
        values.filter { $0.key.hasPrefix(prefix) }.sorted { $0.key < $1.key }.map { Record($0.key, $0.value) }
    }
}
