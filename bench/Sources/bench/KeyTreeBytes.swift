// SPDX-License-Identifier: Apache-2.0
import Basics
import Cryptography
import FMKE
import KeyTree

/// How many keys and octets a change of members costs on the link.
enum KeyTreeBytes {
    /// Octets of IPv4 and UDP.
    static let headers = 28
    /// What the peer's keys are sent in: IPv4 and UDP 28; the PUSH of docs/FMKE.md with an ECDSA signature 188
    /// (36 in clear, TRANSACTION 68, SIG 68, tag 16); KD payload, its count, and the head of its packet 16.
    static let envelope = 232

    /// The signed and sealed PUSH of an eviction, as the GCKS sends it: KEK and data SAs change too. It is opened again,
    /// and a member of the tree must have the same keys.
    static func leave() throws -> Report {
        var report = Report(
            note:
                "one leave from N members, the worst of 300 random ones; octets on the link of the whole PUSH with its "
                + "IPv4 and UDP headers: new group key, new KEK, new data SA, ECDSA P-256")
        for size in [1_000, 4_096, 10_000, 100_000, 1_000_000, 10_000_000] {
            let group = try Group(size)
            var channel = try EvictionChannel()
            var (keys, octets, copy, stated) = (0, 0, 0, 0)
            for _ in 0..<300 {
                let slot = UInt32(group.random.number(below: UInt64(size)))
                let witness = (slot + 1) % UInt32(size)
                let member = try KeyTreeMember(group.server.memberKeys(witness))
                try group.server.leave(slot)
                guard let update = try group.commit().update else { continue }
                let sealed = try channel.push(update, groupKey: group.server.groupKey)
                keys = max(keys, update.wrappedKeyCount)
                octets = max(octets, sealed.data.count + headers)
                copy = max(copy, sealed.copy.count + headers)
                stated = max(stated, sealed.stated.count + headers)
                guard try channel.follow(sealed.data, member) else { throw BenchError.disagree }
                _ = try group.server.join()
                _ = try group.commit()
            }
            // Levels of a full tree of degree 4, each with 4 wrapped keys but the lowest, which lost one.
            var leaves = 1
            var plainKeys = -1
            while leaves < size {
                leaves *= PlainLKH.degree
                plainKeys += PlainLKH.degree
            }
            let peer = plainKeys * PlainLKH.keyOctets + envelope
            let limit = ceilLog2(size)
            let target = size > 1_000_000 ? "" : "<= 576, one datagram"
            report.lines += [
                Line(
                    workload: "N=\(size), keys", figure: "\(keys)", peer: "log2 N = \(limit)",
                    ratio: decimal(Double(keys) / Double(limit)), target: "<= log2 N + 1", isMet: keys <= limit + 1),
                Line(
                    workload: "N=\(size), octets", figure: "\(octets)",
                    peer: "LKH4+KW at most \(peer), group key alone",
                    ratio: decimal(Double(octets) / Double(peer)), target: target,
                    isMet: target.isEmpty ? nil : octets <= 576),
                Line(
                    workload: "  its repetition", figure: "\(copy)", peer: "", ratio: "", target: target,
                    isMet: target.isEmpty ? nil : copy <= 576),
                Line(
                    workload: "  with all keys stated", figure: "\(stated)", peer: "", ratio: "", target: ""),
            ]
        }
        return report
    }

    static func batch() throws -> Report {
        var report = Report(
            note:
                "L random leaves (and J joins) at once; octets of the update in one piece, and cut into "
                + "self-standing datagrams of 1,150")
        let cases: [(size: Int, leaves: Int, joins: Int, runs: Int, limit: Double?)] = [
            (4_096, 1_024, 0, 20, 0.30), (4_096, 1_024, 1_024, 20, nil), (100_000, 1_000, 0, 3, nil),
            (100_000, 25_000, 0, 3, 0.30), (1_000_000, 10_000, 0, 1, nil), (1_000_000, 250_000, 0, 1, 0.30),
        ]
        for workload in cases {
            var (keys, whole, cut, datagrams, plainKeys) = (0, 0, 0, 0, 0)
            for run in 0..<workload.runs {
                let group = try Group(workload.size, seed: UInt64(run))
                let left = group.randomSlots(workload.leaves)
                for slot in left { try group.server.leave(UInt32(slot)) }
                for _ in 0..<workload.joins { _ = try group.server.join() }
                guard let update = try group.commit().update else { continue }
                keys += update.wrappedKeyCount
                whole += try update.whole().octets.count
                let slices = try update.slices(limit: 1_150)
                cut += slices.reduce(0) { $0 + $1.octets.count }
                datagrams += slices.count
                let present = (0..<UInt32(workload.size)).map { group.server.isMember($0) }
                plainKeys += PlainLKH.wrappedKeys(present: present, changed: left)
            }
            let plain = plainKeys * PlainLKH.keyOctets
            let name = "N=\(workload.size) L=\(workload.leaves) J=\(workload.joins)"
            let ratio = Double(whole) / Double(plain)
            report.lines.append(
                Line(
                    workload: name, figure: "\(whole / workload.runs) (\(keys / workload.runs) keys)",
                    peer: "LKH4+KW \(plain / workload.runs) (\(plainKeys / workload.runs) keys)",
                    ratio: decimal(ratio, 3), target: workload.limit.map { "<= \(decimal($0))" } ?? "",
                    isMet: workload.limit.map { ratio <= $0 }))
            report.lines.append(
                Line(
                    workload: "  in \(datagrams / workload.runs) datagrams", figure: "\(cut / workload.runs)",
                    peer: "the same, not cut", ratio: decimal(Double(cut) / Double(plain), 3), target: ""))
        }
        return report
    }
}

enum BenchError: Error {
    /// The member's keys are not the server's.
    case disagree
}

/// The control channel of a group with one flow, from one eviction to the next.
struct EvictionChannel {
    private static let group: UInt32 = 7
    private let key: SigningKey
    private let flow: Flow
    private var rekeySA: RekeySA
    private var next: RekeySA
    private var dataSA: DataSA
    private var sequence: UInt64 = 0
    private var header: TransactionHeader

    init() throws {
        key = try SigningKey.generate(.ecdsaP256)
        flow = Flow(
            selector: TrafficSelector(source: .allV4, destination: IPPrefix(host: .v4(239, 1, 1, 1))),
            suite: .aes256gcm, lifetimeKilobytes: nil)
        rekeySA = RekeySA(
            spi: RekeySPI(high: 1, low: 2), source: .v4(10, 0, 0, 10),
            control: SocketAddress(.v4(239, 255, 0, 1), 848), epoch: 1, lifetimeSeconds: 86_400,
            signatureAlgorithm: key.algorithm, verifyingKey: key.publicKey,
            kek: Secret([UInt8](repeating: 3, count: 32)))
        next = rekeySA
        dataSA = DataSA(
            spi: 256, selector: flow.selector, suite: flow.suite, direction: .symmetric, lifetimeSeconds: 3_600,
            cipherKey: Secret([UInt8](repeating: 4, count: flow.suite.cipherKeySize)), authenticationKey: nil)
        header = TransactionHeader(
            kind: .data, group: Self.group, epoch: 1, transaction: 1,
            feedback: FeedbackRequest(mode: .none, nackWaitMilliseconds: 600, nackShare: 1),
            activateInMilliseconds: 2_000, deactivateInMilliseconds: 7_000)
    }

    /// The datagram, its repetition, and what it would be with the same keys in it under masks.
    mutating func push(
        _ update: Update, groupKey: Secret
    ) throws -> (data: [UInt8], copy: [UInt8], stated: [UInt8]) {
        let keys = SuccessorKeys(
            groupKey: groupKey, group: Self.group, transaction: update.transaction, predecessor: rekeySA)
        let old = dataSA.spi
        next = try keys.rekeySA(lifetimeSeconds: 86_400)
        dataSA = try keys.dataSA(of: flow, attempt: 0, lifetimeSeconds: 3_600)
        let slice = try update.whole().octets
        let implicit = KeyUpdate(
            rekeySA: nil, dataSAs: [], replaced: [], treeSlice: slice,
            succession: Succession(
                attempt: 0, flows: [flow], rekeyLifetimeSeconds: 86_400, dataLifetimeSeconds: 3_600))
        let stated = KeyUpdate(rekeySA: next, dataSAs: [dataSA], replaced: [old], treeSlice: slice)
        func body(_ update: KeyUpdate, _ number: UInt64) throws -> [UInt8] {
            try update.masked(groupKey: groupKey, group: Self.group, transaction: number).body()
        }
        let sealer = try PushSealer(group: Self.group, rekeySA: rekeySA, signingKey: key)
        header.epoch = rekeySA.epoch
        header.transaction = update.transaction
        func seal(_ kind: TransactionHeader.Kind, _ body: [UInt8]) throws -> [UInt8] {
            header.kind = kind
            (header.index, header.datagramCount) = kind == .data ? (0, 1) : (1, 2)
            sequence += 1
            return try sealer.seal(header, body: body, sequence: sequence)
        }
        let plain = try body(implicit, update.transaction)
        return (
            try seal(.data, plain), try seal(.parity, Shard.make(plain, size: plain.count + Shard.lengthSize)),
            try seal(.data, body(stated, update.transaction))
        )
    }

    /// Opens the last datagram as a member does.
    /// - Returns: whether it then has the keys of the GCKS. They are those in use from then on.
    mutating func follow(_ datagram: [UInt8], _ member: KeyTreeMember) throws -> Bool {
        let push = try PushOpener(group: Self.group, rekeySA: rekeySA).open(datagram)
        let read = try KeyUpdate(body: push.body)
        let slice = try UpdateSlice(octets: read.treeSlice ?? [], transaction: push.header.transaction)
        guard try member.apply(slice) == .applied else { return false }
        let update = try read.completed(
            flows: [flow], predecessor: rekeySA, groupKey: member.groupKey, group: Self.group,
            transaction: push.header.transaction)
        guard update.rekeySA == next, update.dataSAs == [dataSA] else { return false }
        rekeySA = next
        return true
    }
}

/// A tree with so many members, all slots taken.
final class Group {
    let random: SeededRandom
    let server: KeyTreeServer
    let size: Int
    private var transaction: UInt64 = 0

    init(_ size: Int, seed: UInt64 = 1) throws {
        self.size = size
        random = SeededRandom(seed: seed)
        server = try KeyTreeServer(random: random)
        for _ in 0..<size { _ = try server.join() }
        _ = try commit()
    }

    func commit() throws -> Commit {
        transaction += 1
        return try server.commit(transaction: transaction)
    }

    /// Different slots, in random order.
    func randomSlots(_ count: Int) -> [Int] {
        var slots = Array(0..<size)
        for place in 0..<count {
            slots.swapAt(place, place + Int(random.number(below: UInt64(size - place))))
        }
        return Array(slots.prefix(count))
    }
}

/// The exponent of the least power of two that is not below a number.
func ceilLog2(_ number: Int) -> Int { number <= 1 ? 0 : Int.bitWidth - (number - 1).leadingZeroBitCount }
