// SPDX-License-Identifier: Apache-2.0

import Basics
import LinkModel

/// A JSON object in the making: keys in the order given, values without need of an escape.
struct JSONLine {
    private var fields: [String] = []

    /// `event` says what kind of line it is, `time` is in seconds since 1970.
    init(event: String, time: Double) {
        self["event"] = event
        self["time"] = time
    }

    subscript(_ key: String) -> String? {
        get { nil }
        set {
            guard let newValue else { return }
            precondition(newValue.utf8.allSatisfy { $0 >= 0x20 && $0 != 0x22 && $0 != 0x5c }, "plain text only")
            fields.append("\"\(key)\":\"\(newValue)\"")
        }
    }
    subscript(_ key: String) -> Double {
        get { 0 }
        set {
            // Six digits behind the point; Double's own description of large numbers would use an exponent.
            let microseconds = Int64((newValue * 1e6).rounded())
            let fraction = String(microseconds % 1_000_000)
            let padding = String(repeating: "0", count: 6 - fraction.count)
            fields.append("\"\(key)\":\(microseconds / 1_000_000).\(padding)\(fraction)")
        }
    }
    subscript(_ key: String) -> UInt64? {
        get { nil }
        set { if let newValue { fields.append("\"\(key)\":\(newValue)") } }
    }

    var text: String { "{" + fields.joined(separator: ",") + "}\n" }
}

enum Reports {
    static func ready(time: Double, terminals: Int, seed: UInt64) -> String {
        var line = JSONLine(event: "ready", time: time)
        line["terminals"] = UInt64(terminals)
        line["seed"] = seed
        return line.text
    }

    /// `reason` is queue, loss, burst, corrupted or interface (the terminal's interface took it not: it is down).
    static func drop(time: Double, terminal: String, direction: LinkDirection, reason: String, frame: [UInt8]) -> String
    {
        let summary = FrameSummary(frame)
        var line = JSONLine(event: "drop", time: time)
        line["terminal"] = terminal
        line["direction"] = direction.rawValue
        line["reason"] = reason
        line["octets"] = UInt64(summary.octets)
        line["ether_type"] = summary.etherType.map(UInt64.init)
        line["protocol"] = summary.ipProtocol.map(UInt64.init)
        line["source"] = summary.source?.description
        line["destination"] = summary.destination?.description
        line["spi"] = summary.spi.map(UInt64.init)
        line["sequence"] = summary.sequence.map(UInt64.init)
        line["source_port"] = summary.sourcePort.map(UInt64.init)
        line["destination_port"] = summary.destinationPort.map(UInt64.init)
        return line.text
    }

    /// `refused` are frames that the terminal's interface did not take.
    static func stats(
        time: Double, terminal: String, direction: LinkDirection, link: Link, refused: UInt64
    ) -> String {
        let counters = link.counters
        var line = JSONLine(event: "stats", time: time)
        line["terminal"] = terminal
        line["direction"] = direction.rawValue
        line["offered"] = counters.offered
        line["offered_octets"] = counters.offeredOctets
        line["delivered"] = counters.delivered
        line["delivered_octets"] = counters.deliveredOctets
        line["lost_queue"] = counters.lostToQueue
        line["lost"] = counters.lostAlone
        line["lost_burst"] = counters.lostInBurst
        line["corrupted"] = counters.corrupted
        line["duplicated"] = counters.duplicated
        line["reordered"] = counters.reordered
        line["in_flight"] = UInt64(link.inFlight)
        line["refused"] = refused
        return line.text
    }
}

extension FrameLoss.Reason {
    var name: String {
        switch self {
        case .lost(let cause): cause.rawValue
        case .corrupted: "corrupted"
        }
    }
}
