// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import LinkModel

/// What a datagram is, by the octet of its header that anybody can read.
enum TrafficClass: UInt8, CaseIterable {
    case mainMode = 2
    case informational = 5
    case configure = 240
    case push = 241
    case status = 242

    init?(_ bytes: [UInt8]) {
        guard bytes.count > 18 else { return nil }
        self.init(rawValue: bytes[18])
    }
}

/// The satellite: each station's link up, and its link down. What goes up comes down at whom it is addressed to, or at
/// all that have joined the multicast group. Terminal 0 is the GCKS.
final class Network {
    struct Terminal {
        let address: IPAddress
        let uplink: Link
        let downlink: Link
        var joined: Set<SocketAddress> = []
        /// Hears nothing, or is heard by nobody.
        var isDeaf = false
        var isMute = false
        /// Only terminals of one part hear each other.
        var part = 0
    }

    private(set) var terminals: [Terminal] = []
    private var byAddress: [IPAddress: Int] = [:]
    private var listeners: [SocketAddress: [Int]] = [:]
    /// Share of each class that is lost on its way up.
    var classLoss: [TrafficClass: Double] = [:]
    private let random: SeededRandom
    private let seed: UInt64
    /// Datagrams by class, and octets with their IP and UDP headers.
    private(set) var counts: [TrafficClass: (datagrams: Int, octets: Int)] = [:]

    init(seed: UInt64) {
        self.seed = seed
        random = SeededRandom(seed: Simulation.derive(seed, "network"))
    }

    func add(_ address: IPAddress, uplink: LinkParameters, downlink: LinkParameters) {
        let number = terminals.count
        terminals.append(
            Terminal(
                address: address,
                uplink: Link(uplink, random: SeededRandom(seed: Simulation.derive(seed, "up \(number)"))),
                downlink: Link(downlink, random: SeededRandom(seed: Simulation.derive(seed, "down \(number)")))))
        byAddress[address] = number
    }

    func update(_ terminal: Int, _ change: (inout Terminal) -> Void) { change(&terminals[terminal]) }

    func join(_ terminal: Int, _ address: SocketAddress) {
        guard terminals[terminal].joined.insert(address).inserted else { return }
        var list = listeners[address] ?? []
        // Nearly always at the end or near it: the order keeps the run the same whatever came first.
        var position = list.count
        while position > 0, list[position - 1] > terminal { position -= 1 }
        list.insert(terminal, at: position)
        listeners[address] = list
    }

    func leave(_ terminal: Int, _ address: SocketAddress) {
        guard terminals[terminal].joined.remove(address) != nil else { return }
        listeners[address]?.removeAll { $0 == terminal }
    }

    func leaveAll(_ terminal: Int) {
        for address in terminals[terminal].joined { leave(terminal, address) }
    }

    /// Sends a datagram up. Gives the time it comes to the satellite; nil when it is lost.
    func transmit(_ datagram: Datagram, from terminal: Int, now: Instant) -> Instant? {
        let kind = TrafficClass(datagram.bytes)
        if let kind {
            let count = counts[kind] ?? (0, 0)
            counts[kind] = (count.datagrams + 1, count.octets + datagram.bytes.count + 28)
        }
        guard !terminals[terminal].isMute else { return nil }
        if let kind, let loss = classLoss[kind], random.happens(loss) { return nil }
        var writer = OctetWriter(capacity: datagram.bytes.count + 12)
        writer.append(datagram.remote.address.octets)
        writer.u16(datagram.remote.port)
        writer.append(datagram.local.address.octets)
        writer.u16(datagram.local.port)
        writer.append(datagram.bytes)
        return terminals[terminal].uplink.send(writer.bytes, now: now).arrival
    }

    /// Takes what has come up from a terminal and sends it down: the terminals it goes to, and when it arrives there.
    func forward(from terminal: Int, now: Instant) -> [(terminal: Int, arrival: Instant)] {
        var flights: [(Int, Instant)] = []
        while let frame = terminals[terminal].uplink.popDue(now)?.frame {
            guard let to = Self.destination(of: frame) else { continue }
            let receivers = to.address.isMulticast ? listeners[to] ?? [] : byAddress[to.address].map { [$0] } ?? []
            for receiver in receivers where receiver != terminal {
                guard terminals[receiver].part == terminals[terminal].part, !terminals[receiver].isDeaf else {
                    continue
                }
                guard let arrival = terminals[receiver].downlink.send(frame, now: now).arrival else { continue }
                flights.append((receiver, arrival))
            }
        }
        return flights
    }

    /// What has arrived at a terminal.
    func arrived(at terminal: Int, now: Instant) -> [Datagram] {
        var datagrams: [Datagram] = []
        while let frame = terminals[terminal].downlink.popDue(now)?.frame {
            guard !terminals[terminal].isDeaf, let datagram = Self.datagram(in: frame) else { continue }
            let isMine =
                datagram.local.address == terminals[terminal].address
                || terminals[terminal].joined.contains(datagram.local)
            if isMine { datagrams.append(datagram) }
        }
        return datagrams
    }

    private static func destination(of frame: [UInt8]) -> SocketAddress? {
        var reader = OctetReader(frame)
        guard let address = try? IPAddress(octets: reader.slice(4)), let port = try? reader.u16() else { return nil }
        return SocketAddress(address, port)
    }

    private static func datagram(in frame: [UInt8]) -> Datagram? {
        var reader = OctetReader(frame)
        guard let to = try? IPAddress(octets: reader.slice(4)), let toPort = try? reader.u16(),
            let from = try? IPAddress(octets: reader.slice(4)), let fromPort = try? reader.u16()
        else { return nil }
        return Datagram(
            local: SocketAddress(to, toPort), remote: SocketAddress(from, fromPort), bytes: reader.remainder())
    }
}
