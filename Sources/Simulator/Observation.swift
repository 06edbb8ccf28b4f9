// SPDX-License-Identifier: Apache-2.0

public import Basics
internal import Cryptography
internal import ESP
internal import FMKE
internal import KeyServer
internal import Store

/// What checkers see of a run: everything the engines ask for, and what is done to them.
enum Observation {
    case serverStarted
    case serverStopped
    case serverPersisted(Record)
    case serverForgot(name: String)
    /// The next server starts with an empty store.
    case storeLost
    case serverLogged(LogEvent)
    case pushSent(spi: RekeySPI, sequence: UInt64, bytes: [UInt8])
    case ended(VerdictReport)
    /// The operator took this member out.
    case revoked(Int)
    /// The operator took this member out of a group, or into it again.
    case left(Int, group: Int)
    case returned(Int, group: Int)
    /// The file says something else of groups.
    case groupsChanged
    case memberStarted(Int)
    case memberStopped(Int)
    case memberPersisted(Int, Record)
    case memberLogged(Int, LogEvent)
    /// After the data plane has done it.
    case dataChanged(Int, SAChange)
    /// The data plane refused an SA.
    case dataRefused(Int, SAKey)
    /// A datagram of this member goes on the link.
    case memberSent(Int, bytes: [UInt8])
    case statusSent(Int, octets: Int)
    /// Everything at this instant has been done.
    case stepDone
    /// No fault is under way any more.
    case faultsEnded
}

/// Watches one property of a run and reports what breaks it.
protocol Checker: AnyObject {
    /// The letter of issue and documentation, and what it watches.
    var name: String { get }
    func observe(_ observation: Observation, in simulation: Simulation)
    /// The run is over.
    func finish(_ simulation: Simulation)
    /// How often there was something to check.
    var looks: Int { get }
}

extension Checker {
    func finish(_ simulation: Simulation) {}
}

/// One property broken.
public struct Violation: Sendable, Hashable {
    public var checker: String
    public var at: Instant
    public var text: String
}

/// How a run went.
public struct Outcome: Sendable {
    public var seed: UInt64
    public var violations: [Violation]
    /// Of everything that happened, in order: two runs of one seed give the same.
    public var hash: UInt64
    public var events: UInt64
    public var virtualTime: Duration
    public var transactions: Int
    public var verdictsConfirmed: Int
    public var faults: Int
    public var datagrams: Int
    /// The last events, one line each.
    public var lastEvents: [String]
    /// Which kinds of faults and commands there were, and of links, clocks and groups.
    public var kinds: Set<String>
    /// How often each checker had something to check, by its letter.
    public var looks: [String: Int]
    /// Figures of the checkers, such as the most answers in one second.
    public var figures: [String: Double]
}

extension LogEvent {
    subscript(_ field: String) -> String? { fields.first { $0.name == field }?.value }

    /// As a line of the report of a failing seed.
    var line: String {
        ([level.rawValue, name] + fields.map { "\($0.name)=\($0.value)" }).joined(separator: " ")
    }
}

extension Record {
    /// For keys alone: the times that it gives count from no clock in use.
    private static let clock = RecordClock(microseconds: 0, now: .zero)

    /// The value as what records of this kind have; nil when it is none.
    func read<Value: StoredRecord>(_ type: Value.Type = Value.self) -> Value? {
        try? Value(name: name, octets: value, Self.clock)
    }

    /// The value as a number, when it has eight octets.
    var number: UInt64? {
        var reader = OctetReader(value.revealed())
        return value.count == 8 ? try? reader.u64() : nil
    }
    var path: [Substring] { name.split(separator: "/") }
}
