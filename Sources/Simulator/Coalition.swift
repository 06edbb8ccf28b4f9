// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import Cryptography
internal import FMKE
internal import KeyServer
internal import KeyTree
internal import Store

/// Everything that was ever secret in one group, from the records of the GCKS, to tell a find from noise; and when each
/// key was made, in records counted from the start of the run.
struct GroupSecrets {
    struct KEK {
        var rekeySA: RekeySA
        var madeAt: Int
        /// The transaction that made it.
        var transaction: UInt64
    }
    struct Key {
        var octets: [UInt8]
        var madeAt: Int
        var transaction: UInt64
    }
    private(set) var keks: [RekeySPI: KEK] = [:]
    private(set) var sas: [UInt32: Key] = [:]
    private(set) var nodes: [NodeID: Set<[UInt8]>] = [:]
    private(set) var current: RekeySPI?
    /// The tree as it is now.
    private(set) var tree: [NodeID: [UInt8]] = [:]
    private(set) var height: Int?
    private(set) var transaction: UInt64 = 0
    /// What the group's data SAs hand down: no secret.
    private(set) var flows: [Flow]

    init(flows: [Flow]) { self.flows = flows }

    /// Takes what stands under `group/ID/` of a record.
    mutating func learn(_ path: ArraySlice<Substring>, _ record: Record, at count: Int) {
        var reader = OctetReader(record.value.revealed())
        switch path.first {
        case "transaction": transaction = record.number.map { $0 &- 1 } ?? 0
        case "rekey-sa":
            guard let rekeySA = record.read(RekeySARecord.self)?.rekeySA else { return }
            let spi = rekeySA.spi
            current = spi
            guard keks[spi] == nil else { return }
            keks[spi] = KEK(rekeySA: rekeySA, madeAt: count, transaction: transaction)
        case "delivery" where path.count == 2:
            // Of two changes by one input, the first one's KEK stands nowhere else.
            guard let rekeySA = record.read(DeliveryRecord.self)?.rekeySA, keks[rekeySA.spi] == nil,
                let number = path.last.flatMap({ UInt64($0) })
            else { return }
            keks[rekeySA.spi] = KEK(rekeySA: rekeySA, madeAt: count, transaction: number - min(number, 1))
        case "sa" where path.count == 2:
            guard let made = record.read(DataSARecord.self), sas[made.sa.spi] == nil else { return }
            sas[made.sa.spi] = Key(octets: made.sa.keyOctets, madeAt: count, transaction: made.transaction)
        case "tree" where path.count == 1: height = (try? TreeRecord(octets: reader.remainder()))?.height
        case "tree" where path.count == 3:
            guard let id = path.last.flatMap({ UInt32($0, radix: 16) }), (try? reader.u64()) != nil else { return }
            let key = reader.remainder()
            tree[NodeID(rawValue: id)] = key
            nodes[NodeID(rawValue: id), default: []].insert(key)
        default: break
        }
    }

    /// The group protects something else, or otherwise, from now on.
    mutating func learn(_ more: [Flow]) { flows += more.filter { !flows.contains($0) } }
    /// What stood there is not in the store any more.
    mutating func forget(_ path: ArraySlice<Substring>) {
        guard path.first == "tree" else { return }
        if path.count == 1 { height = nil }
        guard path.count == 3, let id = path.last.flatMap({ UInt32($0, radix: 16) }) else { return }
        tree[NodeID(rawValue: id)] = nil
    }

    /// The store is lost: a new tree will be planted, if any.
    mutating func forgetTree() { (tree, height) = ([:], nil) }

    /// The nodes above a slot, its leaf included, with their keys; nil when nobody sits there.
    func path(of slot: Int) -> [(NodeID, [UInt8])]? {
        guard let height, tree[NodeID(level: 0, index: slot)] != nil else { return nil }
        // Trees of groups have degree 2.
        return (0...height).compactMap { level in
            let id = NodeID(level: level, index: slot >> level)
            return tree[id].map { (id, $0) }
        }
    }
}

/// What some members can find out together: all they were ever told, and a full recording of the control channel.
///
/// It tries every key that it has of a node, of whatever time, on everything that node's key was used for. What comes
/// out counts when it is a key that there really was.
struct Coalition {
    let group: UInt32
    private(set) var keks: Set<RekeySPI> = []
    private(set) var sas: Set<UInt32> = []
    private var nodes: [NodeID: Set<[UInt8]>] = [:]
    /// Which root keys were tried on which transactions: what follows from them is the same in each copy.
    private var tried: Set<Attempt> = []

    private struct Attempt: Hashable {
        var transaction: UInt64
        var spi: RekeySPI
        var root: [UInt8]
    }

    init(group: UInt32) { self.group = group }

    mutating func tell(kek: RekeySPI) { keks.insert(kek) }
    mutating func tell(sa: UInt32) { sas.insert(sa) }
    mutating func tell(path: [(NodeID, [UInt8])]) { for (id, key) in path { nodes[id, default: []].insert(key) } }
    mutating func join(_ other: Coalition) {
        // Each has tried its own keys.
        tried.formUnion(other.tried)
        keks.formUnion(other.keks)
        sas.formUnion(other.sas)
        nodes.merge(other.nodes) { $0.union($1) }
    }

    /// Draws every conclusion there is.
    mutating func conclude(from recording: [Recording], _ truth: GroupSecrets) {
        guard let prf = try? BlockPRF() else { return }
        var last = -1
        while last != size {
            last = size
            for push in recording {
                guard let update = push.update else { continue }
                // Not only of what they can open: the rest of what keys follow from is no secret, or soon guessed.
                if let succession = update.succession { derive(succession, push, truth, prf) }
                guard keks.contains(push.spi) else { continue }
                if let octets = update.treeSlice {
                    follow(octets, push.transaction, truth, prf)
                    unmask(update, push.transaction, truth, prf)
                } else {
                    learn(update, truth)
                }
            }
        }
    }

    private var size: Int { keks.count + sas.count + nodes.reduce(0) { $0 + $1.value.count } }

    private mutating func learn(_ update: KeyUpdate, _ truth: GroupSecrets) {
        if let rekeySA = update.rekeySA, truth.keks[rekeySA.spi]?.rekeySA.kek == rekeySA.kek {
            keks.insert(rekeySA.spi)
        }
        for sa in update.dataSAs {
            let key = sa.cipherKey.revealed() + (sa.authenticationKey?.revealed() ?? [])
            if truth.sas[sa.spi]?.octets == key { sas.insert(sa.spi) }
        }
    }

    /// With every root key that it ever had, not only that of the update.
    private mutating func unmask(
        _ update: KeyUpdate, _ transaction: UInt64, _ truth: GroupSecrets, _ prf: BlockPRF
    ) {
        for (id, keys) in nodes where id.index == 0 && id.level > 0 {
            for key in keys {
                let groupKey = Self.value(5, prf, key, id, 0) + Self.value(6, prf, key, id, 0)
                learn(
                    update.unmasked(groupKey: Secret(groupKey), group: group, transaction: transaction), truth)
            }
        }
    }

    /// docs/FMKE.md 4.6, with every root key that it ever had.
    private mutating func derive(
        _ succession: Succession, _ push: Recording, _ truth: GroupSecrets, _ prf: BlockPRF
    ) {
        guard let predecessor = truth.keks[push.spi]?.rekeySA else { return }
        for (id, keys) in nodes where id.index == 0 && id.level > 0 {
            for key in keys {
                let attempt = Attempt(transaction: push.transaction, spi: push.spi, root: key)
                guard tried.insert(attempt).inserted else { continue }
                let groupKey = Self.value(5, prf, key, id, 0) + Self.value(6, prf, key, id, 0)
                let keys = SuccessorKeys(
                    groupKey: Secret(groupKey), group: group, transaction: push.transaction, predecessor: predecessor)
                var found = KeyUpdate(
                    rekeySA: try? keys.rekeySA(lifetimeSeconds: succession.rekeyLifetimeSeconds), dataSAs: [],
                    replaced: [])
                for flow in truth.flows {
                    let sa = try? keys.dataSA(
                        of: flow, attempt: succession.attempt, lifetimeSeconds: succession.dataLifetimeSeconds)
                    if let sa { found.dataSAs.append(sa) }
                }
                learn(found, truth)
            }
        }
    }

    private mutating func follow(
        _ octets: [UInt8], _ transaction: UInt64, _ truth: GroupSecrets, _ prf: BlockPRF
    ) {
        guard let changes = try? UpdateSlice(octets: octets, transaction: transaction).changes() else { return }
        for change in changes {
            let node = change.node
            guard let possible = truth.nodes[node] else { continue }
            func found(_ key: [UInt8]) { if possible.contains(key) { nodes[node, default: []].insert(key) } }
            for key in nodes[node] ?? [] { found(Self.value(3, prf, key, node, transaction)) }
            // Also from children that the server did not derive from: an attacker is free to try.
            for child in [2 * node.index, 2 * node.index + 1] {
                for key in nodes[NodeID(level: node.level - 1, index: child)] ?? [] {
                    found(Self.value(2, prf, key, node, transaction))
                }
            }
            for wrapped in change.wrapped {
                for key in nodes[wrapped.child] ?? [] {
                    found(zip(wrapped.text, Self.value(1, prf, key, node, transaction)).map { $0 ^ $1 })
                }
            }
        }
    }

    /// docs/KEYTREE.md 3, made anew from that page.
    private static func value(
        _ purpose: UInt64, _ prf: BlockPRF, _ key: [UInt8], _ node: NodeID, _ transaction: UInt64
    ) -> [UInt8] {
        let table = KeyTable(count: 1)
        table[0] = Secret(key)
        let label = PRFBlock(high: purpose << 56 | UInt64(node.rawValue), low: transaction)
        return prf.secret(with: table, at: 0, label).revealed()
    }
}

/// A PUSH as somebody recorded it, who opens it only with the KEK.
final class Recording {
    let spi: RekeySPI
    let bytes: [UInt8]
    /// When it was sent, in records counted from the start of the run.
    let sentAt: Int
    private let rekeySA: RekeySA?
    private let group: UInt32
    private lazy var opened: Push? =
        rekeySA.flatMap { try? PushOpener(group: group, rekeySA: $0).open(bytes) }
    /// The keys inside; nil where there are none.
    private(set) lazy var update: KeyUpdate? = content()

    init(spi: RekeySPI, bytes: [UInt8], group: UInt32, rekeySA: RekeySA?, sentAt: Int) {
        self.spi = spi
        self.bytes = bytes
        self.sentAt = sentAt
        self.group = group
        self.rekeySA = rekeySA
    }

    var kind: TransactionHeader.Kind? { opened?.header.kind }
    var transaction: UInt64 { opened?.header.transaction ?? 0 }

    private func content() -> KeyUpdate? {
        guard let opened else { return nil }
        return switch opened.header.kind {
        case .data: try? KeyUpdate(body: opened.body)
        // Of larger blocks the data datagrams say it all.
        case .parity: (try? Shard.body(from: opened.body)).flatMap { try? KeyUpdate(body: $0) }
        case .beacon, .commit: nil
        }
    }
}
