// SPDX-License-Identifier: Apache-2.0

internal import Basics

/// Lines for the log about packets that were dropped: of each reason and direction a few at once, then one a second.
/// What is left out is counted.
struct DropLog {
    /// What is known of a packet when it is dropped.
    struct Packet {
        var parameters: SAParameters?
        /// Of a packet that arrives: from its ESP and outer IP headers, which nothing vouches for.
        var spi: UInt32?
        var sequence: UInt32?
        var source: IPAddress?
        var destination: IPAddress?
        /// The packet in clear, where it was read.
        var inner: InnerPacket?
    }

    /// Lines wait here until the driver takes them; one that never does loses no memory to them.
    private static let mostWaiting = Limits().waitingDropLines
    private var limiter = LogLimiter()
    private var waiting: [LogEvent] = []

    var isEmpty: Bool { waiting.isEmpty }

    mutating func take() -> [LogEvent] {
        defer { waiting = [] }
        return waiting
    }

    /// Notes a drop. Traffic-flow padding and our own multicast coming back are dropped as they should be: no line.
    mutating func note(
        _ reason: PacketDrop, _ direction: SAStatus.Direction, now: Instant, _ packet: @autoclosure () -> Packet
    ) {
        guard reason != .dummy, reason != .ownPacket, waiting.count < Self.mostWaiting,
            let omitted = limiter.admit("\(direction.rawValue) \(reason.rawValue)", now: now)
        else { return }
        let packet = packet()
        var event = LogEvent(.info, "packet.dropped", ["reason": reason.rawValue, "direction": direction.rawValue])
        func add(_ name: String, _ value: String?) {
            if let value { event.fields.append(LogEvent.Field(name: name, value: value)) }
        }
        add("group", packet.parameters?.name)
        add("spi", (packet.spi ?? packet.parameters?.key.spi).map(spiText))
        add("sequence", packet.sequence.map(String.init))
        add("from", packet.source?.description)
        add("to", packet.destination?.description)
        add("flow", packet.inner?.description)
        add("omitted", String(omitted))
        waiting.append(event)
    }
}
