// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import ISAKMP

/// An exchange as responder whose initiator has not authenticated itself yet.
final class HalfOpenExchange {
    /// What makes two messages 1 the same: everything.
    struct Opening: Hashable {
        let remote: SocketAddress
        let octets: [UInt8]
    }

    let opening: Opening
    /// Where message 1 came in.
    let localPort: UInt16
    var responder: MainModeResponder
    var sentAt: Instant
    /// Message 4, once there is one.
    var lastAnswer: [UInt8] = []
    /// The latest message went out once only, so the answer to it measures the path.
    var isSampleClean = true
    var roundTrip: Duration?
    /// A failure is reported once, to the peer and to the log.
    var isFailureReported = false

    var id: AssociationID { responder.id }

    init(_ opening: Opening, at localPort: UInt16, _ responder: MainModeResponder, now: Instant) {
        self.opening = opening
        self.localPort = localPort
        self.responder = responder
        sentAt = now
    }
}

/// The exchanges under way as responder, with a cap on all and on those of one address.
struct HalfOpenTable {
    private var byID: [AssociationID: HalfOpenExchange] = [:]
    private var byOpening: [HalfOpenExchange.Opening: AssociationID] = [:]
    private var byAddress: [IPAddress: [AssociationID]] = [:]
    /// In the order they came, with ids that are gone in between.
    private var order: [AssociationID] = []
    private var orderStart = 0

    var count: Int { byID.count }

    /// In the order they came.
    var all: [HalfOpenExchange] { order[orderStart...].compactMap { byID[$0] } }

    subscript(id: AssociationID) -> HalfOpenExchange? { byID[id] }

    subscript(opening: HalfOpenExchange.Opening) -> HalfOpenExchange? { byOpening[opening].flatMap { byID[$0] } }

    mutating func insert(_ exchange: HalfOpenExchange) {
        byID[exchange.id] = exchange
        byOpening[exchange.opening] = exchange.id
        byAddress[exchange.opening.remote.address, default: []].append(exchange.id)
        order.append(exchange.id)
    }

    mutating func remove(_ exchange: HalfOpenExchange) {
        guard byID.removeValue(forKey: exchange.id) != nil else { return }
        byOpening[exchange.opening] = nil
        let address = exchange.opening.remote.address
        byAddress[address]?.removeAll { $0 == exchange.id }
        if byAddress[address]?.isEmpty == true { byAddress[address] = nil }
    }

    /// Is there room for one more of this address? If not: which exchange gives way, one that has not proved its
    /// address; nil when all have, and the newcomer has to wait.
    ///
    /// Of one address it is any of them by chance: who makes up messages 1 in the name of a client would know when the
    /// client's own exchange is the oldest. Of all it is the oldest.
    mutating func room(
        for address: IPAddress, _ limits: Limits, random: any RandomSource
    ) -> (hasRoom: Bool, victim: HalfOpenExchange?) {
        let ofAddress = byAddress[address] ?? []
        if ofAddress.count >= limits.halfOpenPerAddress {
            let unproven = ofAddress.compactMap { byID[$0] }.filter { !$0.responder.isProven }
            guard !unproven.isEmpty else { return (false, nil) }
            return (false, unproven[Int(random.number(below: UInt64(unproven.count)))])
        }
        if byID.count >= limits.halfOpen { return (false, oldestUnproven()) }
        return (true, nil)
    }

    private mutating func oldestUnproven() -> HalfOpenExchange? {
        // Those that are gone or have proved themselves leave the queue for good, so this is constant on average.
        while orderStart < order.count {
            let candidate = byID[order[orderStart]]
            if let candidate, !candidate.responder.isProven { return candidate }
            orderStart += 1
        }
        order.removeAll()
        orderStart = 0
        return nil
    }

    /// Drops what is gone from the queue's front; called when an exchange ends, so that the queue stays short.
    mutating func compact() {
        while orderStart < order.count, byID[order[orderStart]] == nil { orderStart += 1 }
        if orderStart > 1_024, orderStart * 2 > order.count {
            order.removeFirst(orderStart)
            orderStart = 0
        }
    }
}
