// SPDX-License-Identifier: Apache-2.0

public import Basics

/// One direction of a link: frames go in with `send` and come out of `due` when their time has come.
///
/// A frame first waits for the rate (or finds the queue full), then it may be lost, corrupted, held back or doubled on
/// its way. `now` must not go back from one call to the next. The same parameters, seed and inputs give the same
/// outputs, to the bit. An idle link holds no memory besides itself.
public final class Link {
    /// May change while frames are under way: those keep the fate they have.
    public var parameters: LinkParameters {
        didSet { losses.model = parameters.loss }
    }
    public private(set) var counters = LinkCounters()

    private let random: any RandomSource
    private var losses: LossProcess
    private var serializer = Serializer()
    /// No frame arrives before the one sent before it, unless it overtakes one that is held back.
    private var latestArrival = Instant(nanoseconds: .min)
    private var serial: UInt64 = 0
    private var ordered = FlightQueue()
    private var heldBack = FlightQueue()

    public init(_ parameters: LinkParameters, random: any RandomSource) {
        precondition(parameters.isValid, "probabilities within 0...1, no negative time, no zero rate")
        self.parameters = parameters
        self.random = random
        losses = LossProcess(parameters.loss)
    }

    /// Frames under way, copies included.
    public var inFlight: Int { ordered.count + heldBack.count }

    /// When `due` will have something; nil when nothing is under way.
    public var next: Instant? {
        guard let first = ordered.first?.arrival else { return heldBack.first?.arrival }
        return heldBack.first.map { min($0.arrival, first) } ?? first
    }

    /// Sends a frame and says what becomes of it.
    @discardableResult
    public func send(_ frame: [UInt8], now: Instant) -> FrameFate {
        counters.offered += 1
        counters.offeredOctets += UInt64(frame.count)
        let fate = decide(octets: frame.count, now: now)
        counters.count(fate)
        guard let arrival = fate.arrival else { return fate }
        var flight = Flight(arrival: arrival, serial: serial, frame: frame)
        if fate.isCorrupted { invertOneBit(&flight.frame) }
        for _ in 0..<(fate.isDuplicated ? 2 : 1) {
            flight.serial = serial
            serial += 1
            if fate.isReordered { heldBack.insert(flight) } else { ordered.append(flight) }
        }
        return fate
    }

    /// The frames that have arrived by now, in the order of their arrival.
    public func due(_ now: Instant) -> [LinkDelivery] {
        var deliveries: [LinkDelivery] = []
        while let delivery = popDue(now) { deliveries.append(delivery) }
        return deliveries
    }

    /// The next frame that has arrived by now; nil when there is none.
    public func popDue(_ now: Instant) -> LinkDelivery? {
        guard let next, next <= now else { return nil }
        let overtaken = heldBack.first.map { held in ordered.first.map { held < $0 } ?? true } ?? false
        guard let flight = overtaken ? heldBack.popFirst() : ordered.popFirst() else { return nil }
        counters.delivered += 1
        counters.deliveredOctets += UInt64(flight.frame.count)
        return LinkDelivery(frame: flight.frame, arrival: flight.arrival)
    }

    private func decide(octets: Int, now: Instant) -> FrameFate {
        var departure = now
        if let rate = parameters.rateBitsPerSecond {
            let sent = serializer.send(octets: octets, rate: rate, queueOctets: parameters.queueOctets, now: now)
            guard let sent else { return FrameFate(loss: .queue) }
            departure = sent
        }
        if let cause = losses.next(random) { return FrameFate(loss: cause) }
        var fate = FrameFate()
        fate.isCorrupted = octets > 0 && random.happens(parameters.corrupt)
        fate.isDuplicated = random.happens(parameters.duplicate)
        fate.isReordered = random.happens(parameters.reorder)
        var arrival = departure + parameters.delay + random.duration(below: parameters.jitter)
        if fate.isReordered {
            arrival = max(arrival, latestArrival) + parameters.reorderDelay
        } else {
            arrival = max(arrival, latestArrival)
            latestArrival = arrival
        }
        fate.arrival = arrival
        return fate
    }

    private func invertOneBit(_ frame: inout [UInt8]) {
        let bit = Int(random.number(below: UInt64(frame.count) * 8))
        frame[bit / 8] ^= 1 << UInt8(bit % 8)
    }
}

/// A frame under way. Ordered by arrival, then by the order of sending.
struct Flight: Comparable {
    var arrival: Instant
    var serial: UInt64
    var frame: [UInt8]

    static func < (left: Flight, right: Flight) -> Bool {
        (left.arrival, left.serial) < (right.arrival, right.serial)
    }
}

/// Frames under way in the order of their arrival. Appending and taking from the front cost constant time on average.
struct FlightQueue {
    private var flights: [Flight] = []
    private var head = 0

    var count: Int { flights.count - head }
    var first: Flight? { head < flights.count ? flights[head] : nil }

    /// Only for a flight that arrives behind all others.
    mutating func append(_ flight: Flight) { flights.append(flight) }

    mutating func insert(_ flight: Flight) {
        var position = flights.count
        while position > head, flight < flights[position - 1] { position -= 1 }
        flights.insert(flight, at: position)
    }

    mutating func popFirst() -> Flight? {
        guard head < flights.count else { return nil }
        let flight = flights[head]
        flights[head].frame = []  // the rest of the array must not keep the frame's storage
        head += 1
        if head == flights.count {
            // An idle queue gives its memory back once it has been long.
            flights.removeAll(keepingCapacity: flights.capacity <= 64)
            head = 0
        } else if head >= 64, head * 2 >= flights.count {
            flights.removeFirst(head)
            head = 0
        }
        return flight
    }
}
