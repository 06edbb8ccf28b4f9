// SPDX-License-Identifier: Apache-2.0

public import Basics

/// A terminal of a broadcast medium: its position in the order of joining.
public struct TerminalID: Hashable, Sendable, Comparable {
    public let index: Int
    public static func < (left: TerminalID, right: TerminalID) -> Bool { left.index < right.index }
}

public enum LinkDirection: String, Sendable, Hashable, CaseIterable {
    /// From the terminal to the satellite. What is lost here is lost for everybody.
    case uplink
    /// From the satellite to the terminal. What is lost here is lost for this terminal alone.
    case downlink
}

/// A frame that the medium lost or damaged.
public struct FrameLoss: Sendable, Hashable {
    public enum Reason: Sendable, Hashable {
        case lost(LossCause)
        /// Delivered with a bit inverted.
        case corrupted
    }
    public var time: Instant
    public var terminal: TerminalID
    public var direction: LinkDirection
    public var reason: Reason
    /// As it was sent.
    public var frame: [UInt8]
}

/// A frame for one terminal.
public struct MediumDelivery: Sendable, Hashable {
    public var terminal: TerminalID
    public var frame: [UInt8]
    public var arrival: Instant
}

/// Joins terminals as a transparent satellite does: what one sends goes up once and comes down to all others.
///
///     terminal A --- uplink A --->  satellite  --- downlink B ---> terminal B
///                                       \------- downlink C ---> terminal C
///
/// Every link draws from a random source of its own, seeded by the medium's seed and the terminal's name, so that a
/// terminal more or less does not change what the others see. Rule for callers: one call with the current time, then
/// `due` until it gives nothing, then `takeLosses`; `next` says when to call again. The time must not go back.
public final class BroadcastMedium {
    /// Keep lost and damaged frames for `takeLosses`?
    public var recordsLosses = false

    private struct Terminal {
        var name: String
        var uplink: Link
        var downlink: Link
    }
    private let seed: UInt64
    private var terminals: [Terminal] = []
    private var losses: [FrameLoss] = []

    public init(seed: UInt64) { self.seed = seed }

    /// Joins a terminal. Names are its identity for the seed and should differ.
    public func addTerminal(_ name: String, uplink: LinkParameters, downlink: LinkParameters) -> TerminalID {
        terminals.append(
            Terminal(
                name: name, uplink: Link(uplink, random: random(name, .uplink)),
                downlink: Link(downlink, random: random(name, .downlink))))
        return TerminalID(index: terminals.count - 1)
    }

    /// In the order of joining.
    public var terminalIDs: [TerminalID] { terminals.indices.map(TerminalID.init(index:)) }

    public func name(of terminal: TerminalID) -> String { terminals[terminal.index].name }

    public func link(_ terminal: TerminalID, _ direction: LinkDirection) -> Link {
        switch direction {
        case .uplink: terminals[terminal.index].uplink
        case .downlink: terminals[terminal.index].downlink
        }
    }

    /// A terminal sends a frame.
    public func transmit(_ frame: [UInt8], from terminal: TerminalID, now: Instant) {
        send(frame, terminal, .uplink, now)
    }

    /// When there is something to do; nil when nothing is under way.
    public var next: Instant? {
        var earliest: Instant?
        for terminal in terminals {
            for time in [terminal.uplink.next, terminal.downlink.next] {
                guard let time else { continue }
                earliest = min(earliest ?? time, time)
            }
        }
        return earliest
    }

    /// What arrives at terminals by now, in the order of arrival. A frame goes down at the very instant it came up,
    /// however late this is called.
    public func due(_ now: Instant) -> [MediumDelivery] {
        while let (sender, time) = earliestUplink(), time <= now {
            guard let up = terminals[sender.index].uplink.popDue(time) else { break }
            for receiver in terminalIDs where receiver != sender { send(up.frame, receiver, .downlink, time) }
        }
        var deliveries: [MediumDelivery] = []
        for terminal in terminalIDs {
            for down in terminals[terminal.index].downlink.due(now) {
                deliveries.append(MediumDelivery(terminal: terminal, frame: down.frame, arrival: down.arrival))
            }
        }
        deliveries.sort { ($0.arrival, $0.terminal) < ($1.arrival, $1.terminal) }
        return deliveries
    }

    /// What was lost or damaged since the last call; empty unless `recordsLosses`.
    public func takeLosses() -> [FrameLoss] {
        defer { losses.removeAll() }
        return losses
    }

    private func earliestUplink() -> (TerminalID, Instant)? {
        var earliest: (TerminalID, Instant)?
        for (index, terminal) in terminals.enumerated() {
            guard let time = terminal.uplink.next, earliest.map({ time < $0.1 }) ?? true else { continue }
            earliest = (TerminalID(index: index), time)
        }
        return earliest
    }

    private func send(_ frame: [UInt8], _ terminal: TerminalID, _ direction: LinkDirection, _ now: Instant) {
        let fate = link(terminal, direction).send(frame, now: now)
        guard recordsLosses else { return }
        let reason: FrameLoss.Reason? = fate.loss.map { .lost($0) } ?? (fate.isCorrupted ? .corrupted : nil)
        guard let reason else { return }
        losses.append(
            FrameLoss(time: now, terminal: terminal, direction: direction, reason: reason, frame: frame))
    }

    /// FNV-1a over the name and the direction, mixed with the seed.
    private func random(_ name: String, _ direction: LinkDirection) -> SeededRandom {
        var hash: UInt64 = 0xcbf2_9ce4_8422_2325
        for octet in "\(direction.rawValue) \(name)".utf8 { hash = (hash ^ UInt64(octet)) &* 0x100_0000_01b3 }
        return SeededRandom(seed: seed ^ hash)
    }
}
