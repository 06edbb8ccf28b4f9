// SPDX-License-Identifier: Apache-2.0

internal import Control

/// What the daemon's JSON looks like on a terminal. The fields are those of `ServerSnapshot` and `VerdictReport`.
enum ServerView {
    /// 2 unless the daemon says `ok`.
    static func exitStatus(_ value: JSONValue) -> Int32 {
        value["state"].string == "ok" ? ExitStatus.fine : ExitStatus.degraded
    }

    /// State, counts, alarms.
    static func status(_ value: JSONValue) -> String {
        let clients = value["clients"].elements
        let registered = clients.count { $0["state"].string == "registered" }
        var text = line("state", value["state"].text)
        text += line("identity", value["identity"].text)
        text += line("address", value["address"].text)
        text += line("up", span(value["uptimeSeconds"]))
        text += line("clients", "\(registered) of \(clients.count) registered")
        for group in value["groups"].elements {
            let members = group["members"].elements
            let current = members.count { $0["isCurrent"].bool == true }
            text += line(
                "group \(group["name"].text)",
                "\(current) of \(members.count) members current, epoch \(group["epoch"].text), "
                    + "transaction \(group["transaction"].text), rekey in \(span(group["nextDataRekeySeconds"]))")
        }
        for alarm in value["alarms"].elements { text += line("alarm", alarm.text) }
        return text
    }

    static func groups(_ value: JSONValue) -> String {
        var table = TextTable([
            "NAME": .left, "ID": .right, "CONTROL": .left, "SUITE": .left, "EPOCH": .right, "TRANSACTION": .right,
            "MEMBERS": .right, "CURRENT": .right, "REKEY-IN": .right, "KEK-IN": .right, "LAST": .left, "MISSING": .left,
        ])
        for group in list(value, "groups") {
            let members = group["members"].elements
            let current = members.filter { $0["isCurrent"].bool == true }
            let missing = members.filter { $0["isCurrent"].bool != true }.map { $0["client"].text }
            table.add([
                group["name"].text, group["id"].text, group["control"].text, group["suite"].text, group["epoch"].text,
                group["transaction"].text, "\(members.count)", "\(current.count)", span(group["nextDataRekeySeconds"]),
                span(group["nextKEKRekeySeconds"]), group["lastVerdict"]["verdict"].text, shortened(missing),
            ])
        }
        return table.text
    }

    static func clients(_ value: JSONValue) -> String {
        var table = TextTable([
            "NAME": .left, "ADDRESS": .left, "STATE": .left, "SUITE": .left, "NAT": .left, "RTT": .right,
            "REGISTERED": .right, "HEARD": .right, "GROUPS": .left,
        ])
        for client in list(value, "clients") {
            let roundTrip = client["roundTripMilliseconds"]
            table.add([
                client["name"].text, client["address"].text, client["state"].text, client["suite"].text,
                client["isBehindNAT"].text, roundTrip == .null ? "-" : roundTrip.text + "ms",
                span(client["registeredSeconds"]), span(client["lastHeardSeconds"]), client["groups"].text,
            ])
        }
        return table.text
    }

    static func sas(_ value: JSONValue) -> String {
        var table = TextTable([
            "GROUP": .left, "SPI": .left, "STATE": .left, "SUITE": .left, "TRANSACTION": .right, "EXPIRES": .right,
            "FLOW": .left,
        ])
        for sa in list(value, "sas") {
            table.add([
                sa["group"].text, sa["spi"].text, sa["state"].text, sa["suite"].text, sa["transaction"].text,
                span(sa["expiresInSeconds"]), sa["flow"].text,
            ])
        }
        return table.text
    }

    // MARK: Verdicts

    /// What became of a rekey or a revocation: one group's verdict, or several under `verdicts`.
    static func verdict(_ value: JSONValue) -> String {
        let several = value["verdicts"].elements
        guard several.isEmpty else { return several.map(oneVerdict).joined() }
        return oneVerdict(value)
    }

    /// 0 when confirmed, or when nobody waited for a verdict; else 2.
    static func verdictStatus(_ value: JSONValue) -> Int32 {
        let verdicts = ([value] + value["verdicts"].elements).compactMap { $0["verdict"].string }
        return verdicts.allSatisfy { $0 == "confirmed" } ? ExitStatus.fine : ExitStatus.degraded
    }

    private static func oneVerdict(_ value: JSONValue) -> String {
        let group = value["group"] == .null ? "" : "group \(value["group"].text): "
        guard let verdict = value["verdict"].string else {
            let transaction = value["transaction"] == .null ? "" : ", transaction \(value["transaction"].text)"
            return TextTable.printable("\(group)started\(transaction)") + "\n"
        }
        var facts: [String] = []
        let confirmed = value["confirmed"].elements.count
        let unconfirmed = value["unconfirmed"].elements
        if value["confirmed"] != .null { facts.append("\(confirmed) of \(confirmed + unconfirmed.count) members") }
        if value["seconds"] != .null { facts.append("in \(span(value["seconds"]))") }
        if value["transaction"] != .null { facts.append("transaction \(value["transaction"].text)") }
        if value["epoch"] != .null { facts.append("epoch \(value["epoch"].text)") }
        if value["rounds"] != .null { facts.append("\(value["rounds"].text) rounds") }
        let tail = facts.isEmpty ? "" : " (\(facts.joined(separator: ", ")))"
        var text = TextTable.printable("\(group)\(verdict)\(tail)") + "\n"
        for member in unconfirmed {
            let name = member.string ?? member["client"].text
            let reason = member["reason"] == .null ? "" : ": \(member["reason"].text)"
            text += TextTable.printable("unconfirmed \(name)\(reason)") + "\n"
        }
        for name in value["absent"].elements { text += TextTable.printable("absent \(name.text)") + "\n" }
        return text
    }

    // MARK: Pieces

    /// The list under `key`, or the value itself where it is the list.
    private static func list(_ value: JSONValue, _ key: String) -> [JSONValue] {
        if case .array(let values) = value { values } else { value[key].elements }
    }

    private static func span(_ value: JSONValue) -> String {
        value.number.map { Readable.duration(seconds: $0) } ?? "-"
    }

    private static func line(_ name: String, _ value: String) -> String {
        let padding = String(repeating: " ", count: max(1, 14 - name.count))
        return TextTable.printable("\(name):\(padding)\(value)") + "\n"
    }

    /// A few names, and how many more there are.
    private static func shortened(_ names: [String]) -> String {
        names.count <= 5
            ? names.joined(separator: ",") : names.prefix(5).joined(separator: ",") + ",+\(names.count - 5)"
    }
}
