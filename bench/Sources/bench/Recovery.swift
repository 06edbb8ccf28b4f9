// SPDX-License-Identifier: Apache-2.0
import Basics
import CSQLite
import Cryptography
import Glibc
import IKEv1
import ISAKMP
import KeyServer
import KeyTree
import SQLiteStore
import Store

/// How long a key server takes to come back with all its clients registered and their group as it was.
enum Recovery {
    private static let count = 100_000
    private static let target = 10.0

    static func run() throws -> Report {
        var report = Report(
            note:
                "a start of the GCKS with \(count) registered members of one group with a key tree, from a warm file; best of 3"
        )
        let folder = "/tmp/satipsec-bench-\(getpid())"
        guard mkdir(folder, 0o700) == 0 else { throw Failure(what: "no folder") }
        let file = "\(folder)/state.db"
        defer { for name in ["", "-wal", "-shm"] { unlink(file + name) }; rmdir(folder) }
        let configuration = try configuration()
        try fill(file, configuration)
        let octets = try size(file)
        let scan = try (0..<3).map { _ in try seconds { try readAll(file) } }.min() ?? 0
        let read = try seconds {
            let store = try open(file)
            guard try store.records(under: "").count > count else { throw Failure(what: "records are missing") }
        }
        func come() throws {
            let store = try open(file)
            let server = try KeyServer(configuration, records: store, random: SystemRandom(), now: .zero)
            let snapshot = server.snapshot(now: .zero)
            guard snapshot.clients.allSatisfy({ $0.state == "registered" }),
                snapshot.groups[0].members.allSatisfy(\.isCurrent), snapshot.groups[0].tree?.members == count
            else { throw Failure(what: "not all are back") }
            // Whatever it wants done at once.
            var sends = 0
            while true {
                let output = server.poll()
                if case .wait = output { break }
                if case .transmit = output { sends += 1 }
            }
            guard sends == 0 else { throw Failure(what: "a start sends \(sends) datagrams") }
        }
        let cpu = cpuSeconds()
        var start = try seconds(come)
        let spent = cpuSeconds() - cpu
        for _ in 0..<2 { start = min(start, try seconds(come)) }
        report.lines = [
            Line(
                workload: "start", figure: "\(decimal(start)) s",
                peer: "scan of the file by SQLite: \(decimal(scan)) s",
                ratio: decimal(start / scan, 1), target: "< \(decimal(target, 0)) s", isMet: start < target),
            Line(
                workload: "its CPU time", figure: "\(decimal(spent)) s", peer: "", ratio: "", target: "", isMet: nil),
            Line(
                workload: "of it: records read and opened", figure: "\(decimal(read)) s",
                peer: "the same: \(decimal(scan)) s", ratio: decimal(read / scan, 1), target: "", isMet: nil),
            Line(
                workload: "file", figure: "\(decimal(Double(octets) / 1_048_576, 1)) MiB", peer: "", ratio: "",
                target: "", isMet: nil),
        ]
        return report
    }

    private struct Failure: Error { let what: String }

    private static func seconds(_ work: () throws -> Void) throws -> Double {
        let clock = ContinuousClock()
        let start = clock.now
        try work()
        let spent = (clock.now - start).components
        return Double(spent.seconds) + Double(spent.attoseconds) * 1e-18
    }

    private static func open(_ file: String) throws -> SQLiteStore {
        try SQLiteStore(path: file, masterKey: Secret([UInt8](repeating: 7, count: 32)), random: SystemRandom())
    }

    private static func name(_ number: Int) -> String { "member-\(number)" }
    private static func address(_ number: Int) -> IPAddress {
        .v4(10, UInt8(number >> 16 & 255), UInt8(number >> 8 & 255), UInt8(number & 255))
    }
    private static func key(_ number: Int) -> Secret { Secret(Array("pre-shared key of \(number), many octets".utf8)) }

    private static func configuration() throws -> KeyServer.Configuration {
        let clients = (0..<count).map {
            ClientEntry(name: name($0), address: address($0), preSharedKey: key($0), suites: [.standard])
        }
        var entry = GroupEntry(
            name: "all", id: 7, control: SocketAddress(.v4(239, 255, 0, 1), 848),
            flows: [TrafficSelector(source: .allV4, destination: IPPrefix(host: .v4(239, 1, 1, 1)))],
            suite: .aes256gcm, members: (0..<count).map { (name($0), $0 == 0 ? .sender : .receiver) })
        entry.revocation = .lkh
        return KeyServer.Configuration(
            identity: "gcks", address: SocketAddress(.v4(192, 0, 2, 1), 848),
            signingKey: try SigningKey.generate(.ecdsaP256), inventory: Inventory(clients: clients, groups: [entry]),
            numberFloor: 1_700_000_000_000_000)
    }

    /// The records of a first start, and then what registrations and confirmations leave.
    private static func fill(_ file: String, _ configuration: KeyServer.Configuration) throws {
        let (store, random) = (try open(file), SystemRandom())
        let server = try KeyServer(configuration, records: store, random: random, now: .zero)
        while true {
            let output = server.poll()
            if case .wait = output { break }
            if case .persist(let changes) = output { try store.apply(changes) }
        }
        let transaction = server.snapshot(now: .zero).groups[0].transaction
        let clock = RecordClock(microseconds: configuration.numberFloor, now: .zero)
        var records: [Record] = []
        for number in 0..<count {
            let id = AssociationID(initiatorCookie: random.next() | 1, responderCookie: random.next() | 1)
            var association = AssociationRecord(
                id: id, isInitiator: false, peerIdentity: .name(name(number)), local: configuration.address,
                remote: SocketAddress(address(number), 848), suite: .standard, establishedAt: .zero,
                expiresAt: .zero + .seconds(3_600), authenticationKey: Secret(random: random, count: 32),
                cipherKey: Secret(random: random, count: Phase1Suite.standard.encryption.keySize),
                lastBlock: random.bytes(16), firstMessageID: 5, reservedMessageID: 69, firstSequence: 9)
            (association.roundTrip, association.highestDelivered) = (.milliseconds(600), 77)
            (association.proofDigest, association.proofAnswer) = (random.bytes(32), random.bytes(300))
            let client = ClientRecord(
                lastReport: 3, wasRegistered: true, association: association, check: check(key(number), id))
            records.append(Record("client/\(name(number))/state", client.octets(clock)))
            var sequence = OctetWriter(capacity: 8)
            sequence.u64(configuration.numberFloor + 1_000)
            records.append(Record("client/\(name(number))/sequence", Secret(sequence.bytes)))
            var member = MemberRecord(index: UInt32(number), role: number == 0 ? .sender : .receiver)
            (member.holdsKeys, member.confirmed, member.confirmedAt) = (true, transaction, .zero)
            if number == 0 { member.senderID = 1 }
            records.append(Record("group/7/member/\(name(number))", member.octets(clock)))
        }
        let tree = try KeyTreeServer(parameters: KeyTreeParameters(backwardSecrecy: false), random: random)
        try tree.reserve(slots: count)
        for number in 0..<count { try tree.join(at: UInt32(number)) }
        _ = try tree.commit(transaction: transaction)
        records.append(Record("group/7/tree", Secret(tree.treeRecord.octets)))
        tree.records { node in
            var writer = OctetWriter(capacity: 24)
            writer.u64(node.version)
            writer.append(node.key?.revealed() ?? [])
            let octets = [24, 16, 8, 0].map { UInt8(truncatingIfNeeded: node.id.rawValue >> $0) }
            records.append(Record("group/7/tree/node/\(hexadecimal(octets))", Secret(writer.bytes)))
        }
        try store.put(records)
    }

    /// docs/ARCHITECTURE.md, State: what changes with the pre-shared key.
    private static func check(_ key: Secret, _ id: AssociationID) -> [UInt8] {
        var writer = OctetWriter(capacity: 48)
        writer.append(Array("SatIPSec ISAKMP SA".utf8))
        writer.u64(id.initiatorCookie)
        writer.u64(id.responderCookie)
        return HMAC.code(.sha256, key: key, writer.bytes)
    }

    /// Reads all that is in the file, and does nothing with it.
    private static func readAll(_ file: String) throws {
        var connection: OpaquePointer?
        var statement: OpaquePointer?
        defer {
            sqlite3_finalize(statement)
            sqlite3_close(connection)
        }
        guard sqlite3_open(file, &connection) == SQLITE_OK,
            sqlite3_prepare_v2(connection, "SELECT name, revision, sealed FROM record", -1, &statement, nil)
                == SQLITE_OK
        else { throw Failure(what: "the file cannot be read") }
        var octets = 0
        while sqlite3_step(statement) == SQLITE_ROW {
            octets += Int(sqlite3_column_bytes(statement, 0)) + Int(sqlite3_column_bytes(statement, 2))
        }
        guard octets > count * 100 else { throw Failure(what: "the file is too small") }
    }

    private static func size(_ file: String) throws -> Int {
        var status = stat()
        guard stat(file, &status) == 0 else { throw Failure(what: "no file") }
        return Int(status.st_size)
    }
}
