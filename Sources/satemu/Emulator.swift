// SPDX-License-Identifier: Apache-2.0

import Basics
import CLinux
import Glibc
import LinkModel

/// Drives a `BroadcastMedium` in real time: frames from the TAP devices go in, what is due goes out to them.
///
/// One loop over one `poll`: the TAP devices, a timer descriptor (exact to the microsecond, where poll's own timeout
/// counts milliseconds) and a signal descriptor.
final class Emulator {
    /// Frames taken from one interface before the others have their turn.
    private static let framesPerTurn = 64

    private let options: SatelliteEmulator
    private let medium: BroadcastMedium
    private var taps: [Tap] = []
    /// Frames that a terminal's interface did not take.
    private var refused: [UInt64] = []
    private let timer: Int32
    private let signals: Int32
    private let stats: LineFile
    private let drops: LineFile?
    private var buffer = [UInt8](repeating: 0, count: 65_536 + 18)
    private var isStopping = false

    init(_ options: SatelliteEmulator) throws {
        self.options = options
        let plan = try options.plan()
        stats = try LineFile(options.stats)
        drops = try options.dropLog.map { path in try LineFile(path) }
        medium = BroadcastMedium(seed: options.seed)
        medium.recordsLosses = options.dropLog != nil
        // Before anything else that a signal could leave half done.
        let numbers = [SIGTERM, SIGINT, SIGHUP, SIGUSR1]
        let opened = unsafe numbers.withUnsafeBufferPointer {
            unsafe clinux_signals_open($0.baseAddress, UInt32($0.count))
        }
        signals = try EmulatorError.check(opened, "cannot watch signals")
        timer = try EmulatorError.check(clinux_timer_open(), "cannot make a timer")
        for terminal in options.terminal {
            taps.append(try Tap(terminal))
            refused.append(0)
            _ = medium.addTerminal(
                terminal.name, uplink: plan.parameters(terminal.name, .uplink),
                downlink: plan.parameters(terminal.name, .downlink))
        }
    }

    deinit {
        close(timer)
        close(signals)
    }

    /// Until a signal ends it.
    func run() throws(EmulatorError) {
        let ready = Reports.ready(time: Clock.wall(Clock.now), terminals: taps.count, seed: options.seed)
        let console = try LineFile("-")
        console.append(ready)
        console.flush()
        let watched = taps.map(\.descriptor) + [timer, signals]
        var entries = watched.map { pollfd(fd: $0, events: Int16(POLLIN), revents: 0) }
        while !isStopping {
            _ = try EmulatorError.check(
                clinux_timer_set(timer, medium.next?.nanoseconds ?? -1), "cannot set the timer")
            let count = unsafe poll(&entries, nfds_t(entries.count), -1)
            guard count >= 0 || errno == EINTR else { throw EmulatorError("poll", errno: errno) }
            for (terminal, entry) in zip(medium.terminalIDs, entries) where entry.revents != 0 { collect(terminal) }
            deliver()
            if entries[watched.count - 1].revents != 0 { handleSignals() }
        }
        writeStats()
    }

    private func collect(_ terminal: TerminalID) {
        for _ in 0..<Self.framesPerTurn {
            guard let frame = taps[terminal.index].read(&buffer) else { return }
            medium.transmit(frame, from: terminal, now: Clock.now)
        }
    }

    private func deliver() {
        let now = Clock.now
        for delivery in medium.due(now) where !taps[delivery.terminal.index].write(delivery.frame) {
            refused[delivery.terminal.index] += 1
            logDrop(
                time: now, terminal: delivery.terminal, direction: .downlink, reason: "interface",
                frame: delivery.frame)
        }
        for loss in medium.takeLosses() {
            logDrop(
                time: loss.time, terminal: loss.terminal, direction: loss.direction, reason: loss.reason.name,
                frame: loss.frame)
        }
        drops?.flush()
    }

    private func logDrop(
        time: Instant, terminal: TerminalID, direction: LinkDirection, reason: String, frame: [UInt8]
    ) {
        drops?.append(
            Reports.drop(
                time: Clock.wall(time), terminal: medium.name(of: terminal), direction: direction, reason: reason,
                frame: frame))
    }

    private func handleSignals() {
        while true {
            switch clinux_signals_read(signals) {
            case 0: return
            case SIGHUP: reload()
            case SIGUSR1: writeStats()
            default: isStopping = true
            }
        }
    }

    /// A file with an error changes nothing.
    private func reload() {
        do {
            let plan = try options.plan()
            for terminal in medium.terminalIDs {
                for direction in LinkDirection.allCases {
                    medium.link(terminal, direction).parameters = plan.parameters(medium.name(of: terminal), direction)
                }
            }
        } catch { Console.complain("nothing changed: \(error.description)") }
    }

    private func writeStats() {
        let time = Clock.wall(Clock.now)
        for terminal in medium.terminalIDs {
            for direction in LinkDirection.allCases {
                stats.append(
                    Reports.stats(
                        time: time, terminal: medium.name(of: terminal), direction: direction,
                        link: medium.link(terminal, direction),
                        refused: direction == .downlink ? refused[terminal.index] : 0))
            }
        }
        stats.flush()
    }
}
