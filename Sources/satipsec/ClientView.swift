// SPDX-License-Identifier: Apache-2.0

internal import Control

/// What the daemon's JSON looks like on a terminal. The fields are those of `StatusAnswer` and `SAAnswer`.
enum ClientView {
    /// 2 unless the client is registered.
    static func exitStatus(_ value: JSONValue) -> Int32 {
        value["state"].string == "ok" ? ExitStatus.fine : ExitStatus.degraded
    }

    /// State, key server, groups, data plane.
    static func status(_ value: JSONValue) -> String {
        let member = value["member"]
        let plane = value["dataPlane"]
        var text = line("state", "\(value["state"].text), \(condition(member))")
        text += line("name", member["name"].text)
        let suite = member["suite"] == .null ? "" : ", \(member["suite"].text)"
        let roundTrip = member["roundTripMilliseconds"]
        text += line("gcks", member["gcks"].text + suite + (roundTrip == .null ? "" : ", rtt \(roundTrip.text)ms"))
        text += line("registered", span(member["registeredSeconds"]))
        for group in member["groups"].elements {
            let isCurrent = group["isCurrent"].bool == true ? "current" : "behind"
            text += line(
                "group \(group["name"].text)",
                "\(group["role"].text), \(isCurrent), epoch \(group["epoch"].text), "
                    + "transaction \(group["transaction"].text), KEK expires in \(span(group["kekExpiresInSeconds"]))")
        }
        for vpn in member["vpns"].elements {
            let peer = vpn["encapsulation"] == .null ? vpn["peer"].text : "\(vpn["encapsulation"].text) in UDP"
            text += line(
                "vpn \(vpn["name"].text)",
                "\(vpn["state"].text), peer \(peer), transaction \(vpn["transaction"].text)")
        }
        if member["lastFailure"] != .null { text += line("last failure", member["lastFailure"].text) }
        text += line("guard", plane["isGuarded"] == .null ? "not looked for" : plane["isGuarded"].text)
        text += line("data plane", plane["backend"].text)
        text += line(
            "packets",
            "\(plane["packetsToSatellite"].text) to the satellite, \(plane["packetsFromSatellite"].text) from it")
        let drops = plane["drops"].members.map { "\($0.key) \($0.value.text)" }
        text += line("drops", drops.isEmpty ? "none" : drops.joined(separator: ", "))
        for warning in plane["warnings"].elements { text += line("warning", warning.text) }
        return text
    }

    static func sas(_ value: JSONValue) -> String {
        var table = TextTable([
            "GROUP": .left, "SPI": .left, "DIRECTION": .left, "ACTIVE": .left, "SUITE": .left, "EXPIRES": .right,
            "PACKETS": .right, "OCTETS": .right, "DROPS": .right, "USED": .right, "BY": .left,
            "FLOW": .left,
        ])
        for sa in value.elements {
            let drops = sa["drops"].members.reduce(Int64(0)) { sum, drop in
                guard case .integer(let count) = drop.value else { return sum }
                return sum &+ count
            }
            table.add([
                sa["group"].text, sa["spi"].text, sa["direction"].text, sa["isActive"].text, sa["suite"].text,
                span(sa["expiresInSeconds"]), sa["packets"].text,
                sa["octets"].number.map { Readable.size(octets: $0) } ?? "-", "\(drops)",
                span(sa["lastUsedSeconds"]), sa["backend"].text, sa["flow"].text,
            ])
        }
        return table.text
    }

    private static func condition(_ member: JSONValue) -> String {
        switch member["state"].string {
        case "connecting": "not registered yet"
        case "degraded": "the key server is out of reach; the keys at hand stay in use until they end"
        default: member["state"].text
        }
    }

    private static func span(_ value: JSONValue) -> String {
        value.number.map { Readable.duration(seconds: $0) } ?? "-"
    }

    private static func line(_ name: String, _ value: String) -> String {
        let padding = String(repeating: " ", count: max(1, 14 - name.count))
        return TextTable.printable("\(name):\(padding)\(value)") + "\n"
    }
}
