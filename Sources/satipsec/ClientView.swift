// SPDX-License-Identifier: Apache-2.0

internal import Control

/// What the daemon's JSON looks like on a terminal. The fields are those of `MemberSnapshot`, with the data plane's
/// counters beside them.
enum ClientView {
    /// 2 unless the client is registered.
    static func exitStatus(_ value: JSONValue) -> Int32 {
        ["ok", "registered"].contains(value["state"].string) ? ExitStatus.fine : ExitStatus.degraded
    }

    /// State, key server, groups.
    static func status(_ value: JSONValue) -> String {
        var text = line("state", value["state"].text)
        text += line("name", value["name"].text)
        let suite = value["suite"] == .null ? "" : ", \(value["suite"].text)"
        let roundTrip = value["roundTripMilliseconds"]
        text += line("gcks", value["gcks"].text + suite + (roundTrip == .null ? "" : ", rtt \(roundTrip.text)ms"))
        text += line("registered", span(value["registeredSeconds"]))
        for group in value["groups"].elements {
            let isCurrent = group["isCurrent"].bool == true ? "current" : "behind"
            text += line(
                "group \(group["name"].text)",
                "\(group["role"].text), \(isCurrent), epoch \(group["epoch"].text), "
                    + "transaction \(group["transaction"].text), KEK expires in \(span(group["kekExpiresInSeconds"]))")
        }
        if value["lastFailure"] != .null { text += line("last failure", value["lastFailure"].text) }
        for alarm in value["alarms"].elements { text += line("alarm", alarm.text) }
        return text
    }

    static func sas(_ value: JSONValue) -> String {
        var table = TextTable([
            "GROUP": .left, "SPI": .left, "DIR": .left, "ACTIVE": .left, "SUITE": .left, "TRANSACTION": .right,
            "EXPIRES": .right, "PACKETS": .right, "OCTETS": .right, "DROPS": .right, "FLOW": .left,
        ])
        let list = if case .array(let values) = value { values } else { value["sas"].elements }
        for sa in list {
            let drops = sa["drops"].members.reduce(0.0) { $0 + ($1.value.number ?? 0) }
            table.add([
                sa["group"].text, sa["spi"].text, sa["direction"].text, sa["isActive"].text, sa["suite"].text,
                sa["transaction"].text, span(sa["expiresInSeconds"]), sa["packets"].text,
                sa["octets"].number.map { Readable.size(octets: $0) } ?? "-",
                sa["drops"] == .null ? "-" : String(Int(drops)), sa["flow"].text,
            ])
        }
        return table.text
    }

    private static func span(_ value: JSONValue) -> String {
        value.number.map { Readable.duration(seconds: $0) } ?? "-"
    }

    private static func line(_ name: String, _ value: String) -> String {
        let padding = String(repeating: " ", count: max(1, 14 - name.count))
        return TextTable.printable("\(name):\(padding)\(value)") + "\n"
    }
}
