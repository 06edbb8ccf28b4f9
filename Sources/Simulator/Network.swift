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

    init?(_ datagram: Datagram) {
        // Behind the non-ESP marker, where NAT is on the way (RFC 3948 2.2).
        let hasMarker = datagram.local.port == Network.natPort || datagram.remote.port == Network.natPort
        let position = hasMarker ? 22 : 18
        guard datagram.bytes.count > position else { return nil }
        self.init(rawValue: datagram.bytes[position])
    }
}

/// The satellite: each station's link up, and its link down. What goes up comes down at whom it is addressed to, or at
/// all that have joined the multicast group. Terminal 0 is the GCKS.
final class Network {
    static let natPort: UInt16 = 4500

    /// Address and port translation in front of a terminal: its own address inside, and the ports that its own ones
    /// have outside until it forgets them.
    struct Translation {
        let inside: IPAddress
        var firstPort: UInt16
        var ports: [UInt16: UInt16] = [:]

        mutating func outside(_ port: UInt16) -> UInt16 {
            if let known = ports[port] { return known }
            let port = (port, firstPort + UInt16(ports.count))
            ports[port.0] = port.1
            return port.1
        }

        /// After this what comes to the old ports goes nowhere.
        mutating func rebind() { (firstPort, ports) = (firstPort &+ 16, [:]) }
    }

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
        var translation: Translation?
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

    /// A datagram of a terminal as the others see it.
    func outside(_ datagram: Datagram, of terminal: Int) -> Datagram {
        guard terminals[terminal].translation != nil else { return datagram }
        var datagram = datagram
        let port = terminals[terminal].translation?.outside(datagram.local.port) ?? datagram.local.port
        datagram.local = SocketAddress(terminals[terminal].address, port)
        return datagram
    }

    /// A datagram as its receiver at a terminal sees it; nil when it is not for it.
    func inside(_ datagram: Datagram, of terminal: Int) -> Datagram? {
        let station = terminals[terminal]
        if station.joined.contains(datagram.local) { return datagram }
        guard datagram.local.address == station.address else { return nil }
        guard let translation = station.translation else { return datagram }
        guard let port = translation.ports.first(where: { $0.value == datagram.local.port })?.key else { return nil }
        var datagram = datagram
        datagram.local = SocketAddress(translation.inside, port)
        return datagram
    }

    /// Sends a datagram, as it is outside, up. Gives the time it comes to the satellite; nil when it is lost.
    func transmit(_ datagram: Datagram, from terminal: Int, now: Instant) -> Instant? {
        let kind = TrafficClass(datagram)
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
            if let mine = inside(datagram, of: terminal) { datagrams.append(mine) }
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
