// SPDX-License-Identifier: Apache-2.0
import Basics
import Simulator

/// The peer for delivery, re-implemented from the published description of Zhang, Lam, Lee and Yang, "Protocol Design
/// for Scalable and Reliable Group Rekeying" (2003): a message of a 4-ary key tree, packed so that all encryptions of
/// a user are in one datagram, in blocks of k with Reed-Solomon parity; some parity is sent at once, as much as keeps the
/// NACKs of the first round about a wanted number; a second round brings what was asked for; then unicast.
struct ZhangMessage {
    static let degree = 4
    /// Encryptions in a datagram of 1,024 octets.
    static let capacity = 46
    static let datagramOctets = 1_024 + DeliverySizes.network

    /// For each user that stays, in order, its datagram.
    private(set) var datagramOf: [Int] = []
    private(set) var datagrams = 0
    private(set) var height = 0

    /// The batch of these leaves from a full tree of `size` users; for each user that stays, all changed keys above it
    /// wrapped for its side.
    init(size: Int, leaves: [Int]) {
        var left = [Bool](repeating: false, count: size)
        for leaf in leaves { left[leaf] = true }
        var changed: [[Bool]] = [left]
        while let below = changed.last, below.count > 1 {
            var above = [Bool](repeating: false, count: (below.count + Self.degree - 1) / Self.degree)
            for place in below.indices where below[place] { above[place / Self.degree] = true }
            changed.append(above)
        }
        height = changed.count - 1
        var previous: [Int] = []
        var used = 0
        for user in 0..<size where !left[user] {
            var path: [Int] = []
            var place = user
            for level in 1...max(height, 1) {
                path.append(level < changed.count && changed[level][place / Self.degree] ? place : -1)
                place /= Self.degree
            }
            var more = path.indices.count { path[$0] >= 0 && (previous.isEmpty || previous[$0] != path[$0]) }
            if datagrams == 0 || used + more > Self.capacity {
                datagrams += 1
                used = 0
                more = path.count { $0 >= 0 }
            }
            used += more
            previous = path
            datagramOf.append(datagrams - 1)
        }
    }
}

/// What became of one message, of either protocol.
struct DeliveryFigures {
    var servedInRoundOne = 0.0
    var rounds = 0.0
    var nacks = 0.0
    var octets = 0.0
    var datagrams = 0.0
    var feedbackOctets = 0.0
    var lastSeconds = 0.0

    static func mean(_ all: [DeliveryFigures]) -> DeliveryFigures {
        var sum = DeliveryFigures()
        for one in all {
            sum.servedInRoundOne += one.servedInRoundOne
            sum.rounds += one.rounds
            sum.nacks += one.nacks
            sum.octets += one.octets
            sum.datagrams += one.datagrams
            sum.feedbackOctets += one.feedbackOctets
            sum.lastSeconds += one.lastSeconds
        }
        let count = Double(max(all.count, 1))
        return DeliveryFigures(
            servedInRoundOne: sum.servedInRoundOne / count, rounds: sum.rounds / count, nacks: sum.nacks / count,
            octets: sum.octets / count, datagrams: sum.datagrams / count,
            feedbackOctets: sum.feedbackOctets / count, lastSeconds: sum.lastSeconds / count)
    }
}

final class ZhangTransport {
    let blockSize: Int
    let wantedNACKs: Int
    /// Parity of each block in the first round.
    private(set) var parity: Int
    /// Fixed: `parity` stays as it is.
    let isFixed: Bool
    let spacing: Duration
    let roundTrip: Duration = .milliseconds(600)
    let returnLoss: Double
    private var random: LoopRandom
    private var now = Instant.zero

    init(
        blockSize: Int = 10, wantedNACKs: Int = 20, proactive: Double? = nil, spacing: Duration = .milliseconds(100),
        returnLoss: Double, seed: UInt64
    ) {
        self.blockSize = blockSize
        self.wantedNACKs = wantedNACKs
        self.spacing = spacing
        self.returnLoss = returnLoss
        isFixed = proactive != nil
        parity = proactive.map { Int((($0 - 1) * Double(blockSize)).rounded()) } ?? 0
        random = LoopRandom(seed: seed)
    }

    /// The state of one user in one message.
    private struct User {
        var block: Int
        var place: Int
        var held = 0
        var isServed = false
    }

    /// - Parameter users: the members of `field` that are the message's users, in its order.
    func deliver(_ message: ZhangMessage, users members: [Int], field: inout LossField) -> DeliveryFigures {
        let start = now
        var figures = DeliveryFigures()
        var users = message.datagramOf.map { User(block: $0 / blockSize, place: $0 % blockSize) }
        let blocks = (message.datagrams + blockSize - 1) / blockSize
        // The last block is filled up with repetitions of its own datagrams.
        let lastCount = message.datagrams - (blocks - 1) * blockSize
        var servedAt = now

        func send(block: Int, place: Int?) {
            figures.datagrams += 1
            figures.octets += Double(ZhangMessage.datagramOctets)
            defer { now = now + spacing }
            guard field.begin(at: now) else { return }
            let original = place.map { block == blocks - 1 ? $0 % lastCount : $0 }
            for index in users.indices {
                // Each draws for each datagram, so that a burst goes on whether or not it is still interested.
                let isLost = field.loses(members[index])
                guard !isLost, !users[index].isServed, users[index].block == block else { continue }
                users[index].held += 1
                if users[index].place == original || users[index].held >= blockSize {
                    users[index].isServed = true
                    servedAt = now + roundTrip / 2
                }
            }
        }
        /// The users that lack something, and say so in vain or not.
        func ask() -> [Int] {
            var heard: [Int] = []
            for index in users.indices where !users[index].isServed {
                figures.nacks += 1
                figures.feedbackOctets += Double(DeliverySizes.status)
                if random.unit() >= returnLoss { heard.append(index) }
            }
            return heard
        }

        for place in 0..<blockSize { for block in 0..<blocks { send(block: block, place: place) } }
        for _ in 0..<parity { for block in 0..<blocks { send(block: block, place: nil) } }
        figures.rounds = 1
        figures.servedInRoundOne = Double(users.count { $0.isServed }) / Double(max(users.count, 1))
        now = now + roundTrip
        var heard = ask()
        let requests = heard.map { blockSize - users[$0].held }
        if !heard.isEmpty {
            var most = [Int](repeating: 0, count: blocks)
            for index in heard {
                most[users[index].block] = max(most[users[index].block], blockSize - users[index].held)
            }
            for number in 0..<(most.max() ?? 0) {
                for block in 0..<blocks where number < most[block] { send(block: block, place: nil) }
            }
            figures.rounds = 2
            now = now + roundTrip
            heard = ask()
        }
        while users.contains(where: { !$0.isServed }) {
            figures.rounds += 1
            // The user's own encryptions, of 20 octets each, and its new number.
            for index in heard {
                figures.datagrams += 1
                figures.octets += Double(8 + 20 * message.height + DeliverySizes.network)
                if !field.losesUnicast(members[index]) {
                    users[index].isServed = true
                    servedAt = now + roundTrip / 2
                }
            }
            now = now + roundTrip
            heard = ask()
        }
        adjust(requests.sorted(by: >))
        figures.lastSeconds = (servedAt - start).inSeconds
        // The next interval: far enough away for bursts to be over.
        now = now + .seconds(10)
        return figures
    }

    /// The published rule: too many NACKs, and the parity grows by what the first one behind the wanted number asked
    /// for; clearly too few, and it shrinks by one, the more likely the fewer they were.
    private func adjust(_ requests: [Int]) {
        guard !isFixed else { return }
        if requests.count > wantedNACKs {
            parity += max(requests[wantedNACKs], 1)
        } else {
            let missing = Double(wantedNACKs - 2 * requests.count) / Double(max(wantedNACKs, 1))
            if random.unit() < missing { parity = max(parity - 1, 0) }
        }
    }
}
