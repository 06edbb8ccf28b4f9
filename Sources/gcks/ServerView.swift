// SPDX-License-Identifier: Apache-2.0

internal import Control

/// What the daemon's JSON looks like on a terminal. The fields are those of `ServerSnapshot`, and of the `Outcome` of
/// `ServerDaemon` with its `VerdictReport`s.
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
            text += tree(group)
        }
        for vpn in value["vpns"].elements {
            text += line(
                "vpn \(vpn["name"].text)",
                "\(vpn["state"].text), \(vpn["ends"].elements.map { $0["client"].text }.joined(separator: " - ")), "
                    + "rekey in \(span(vpn["nextRekeySeconds"]))")
        }
        for alarm in value["alarms"].elements { text += line("alarm", alarm.text) }
        return text
    }

    /// Of a group that has a key tree.
    private static func tree(_ group: JSONValue) -> String {
        let tree = group["tree"]
        guard tree != .null else { return "" }
        var text = "\(tree["members"].text) members, height \(tree["height"].text)"
        if tree["updateOctets"] != .null {
            text += ", last change \(tree["updateOctets"].text) octets (transaction \(tree["updateTransaction"].text))"
        }
        return line("tree of \(group["name"].text)", text)
    }

    static func groups(_ value: JSONValue) -> String {
        var table = TextTable([
            "NAME": .left, "ID": .right, "CONTROL": .left, "SUITE": .left, "EPOCH": .right, "TRANSACTION": .right,
            "MEMBERS": .right, "CURRENT": .right, "REKEY-IN": .right, "KEK-IN": .right, "LAST": .left, "MISSING": .left,
        ])
        for group in value.elements {
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
        for client in value.elements {
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
        for sa in value.elements {
            table.add([
                sa["group"].text, sa["spi"].text, sa["state"].text, sa["suite"].text, sa["transaction"].text,
                span(sa["expiresInSeconds"]), sa["flow"].text,
            ])
        }
        return table.text
    }

    static func vpns(_ value: JSONValue) -> String {
        var table = TextTable([
            "NAME": .left, "ID": .right, "ENDS": .left, "STATE": .left, "SUITE": .left, "UDP": .left, "SPIS": .left,
            "TRANSACTION": .right, "EXPIRES": .right, "REKEY-IN": .right, "LAST": .left, "MISSING": .left,
        ])
        for vpn in value.elements {
            let ends = vpn["ends"].elements
            // What each end sends with.
            let spis = ends.map { end in end["outboundSPIs"].elements.map(\.text).joined(separator: ",") }
            let verdict = vpn["lastVerdict"]
            table.add([
                vpn["name"].text, vpn["id"].text,
                ends.map { $0["client"].text + ($0["isRegistered"].bool == true ? "" : "(absent)") }
                    .joined(separator: " - "),
                vpn["state"].text, vpn["suite"].text, vpn["isEncapsulated"].text,
                spis.allSatisfy(\.isEmpty) ? "-" : "> \(spis.joined(separator: " < "))",
                vpn["transaction"].text, span(vpn["expiresInSeconds"]), span(vpn["nextRekeySeconds"]),
                verdict["verdict"].text,
                verdict["unconfirmed"].elements.map { "\($0["client"].text):\($0["reason"].text)" }
                    .joined(separator: ","),
            ])
        }
        return table.text
    }

    // MARK: Verdicts

    /// What became of a rekey or a revocation, group by group.
    static func verdict(_ value: JSONValue) -> String {
        var text = ""
        if value["client"] != .null { text += TextTable.printable("client \(value["client"].text): revoked") + "\n" }
        let reports = value["reports"].elements
        for report in reports { text += oneVerdict(report) }
        if reports.isEmpty {
            for (group, transaction) in value["transactions"].members {
                text += TextTable.printable("group \(group): started, transaction \(transaction.text)") + "\n"
            }
        }
        return text
    }

    /// 2 when somebody is not confirmed; 0 when all are, or when nobody waited for a verdict.
    static func verdictStatus(_ value: JSONValue) -> Int32 {
        value["verdict"].string == "unconfirmed" ? ExitStatus.degraded : ExitStatus.fine
    }

    /// What happens with a member that is not confirmed, by the reason.
    private static let whatIsDone = [
        "silent": "it gets the keys by unicast as soon as it is heard",
        "refused": "it lives, and its log says why; it gets the keys again when it asks",
        "unreachable": "it gets the keys when it registers again",
        "revoked": "it is out",
        "waiting": "it waits for the other end",
    ]

    private static func oneVerdict(_ report: JSONValue) -> String {
        let confirmed = report["confirmed"].elements.count
        let unconfirmed = report["unconfirmed"].elements
        if report["isVPN"].bool == true { return vpnVerdict(report) }
        var text =
            TextTable.printable(
                """
                group \(report["group"].text): confirmed by \(confirmed) of \
                \(confirmed + unconfirmed.count) members in \(span(report["seconds"])) \
                (transaction \(report["transaction"].text), epoch \(report["epoch"].text), \
                rounds \(report["rounds"].text), datagrams \(report["datagrams"].text), \
                octets \(report["multicastOctets"].text), \
                unicasts \(report["unicasts"].text))
                """) + "\n"
        for member in unconfirmed {
            let reason = member["reason"].text
            let next = whatIsDone[reason].map { ": \($0)" } ?? ""
            text += TextTable.printable("  unconfirmed: \(member["client"].text) (\(reason))\(next)") + "\n"
        }
        for name in report["absent"].elements {
            text += TextTable.printable("  absent: \(name.text) (gets the keys when it registers)") + "\n"
        }
        return text
    }

    private static func vpnVerdict(_ report: JSONValue) -> String {
        let confirmed = report["confirmed"].elements.map { $0["client"].text }
        var text = "vpn \(report["group"].text): "
        text += confirmed.isEmpty ? "confirmed by nobody" : "confirmed by \(confirmed.joined(separator: ", "))"
        text += " in \(span(report["seconds"])) (transaction \(report["transaction"].text), "
        text = TextTable.printable(text + "reason \(report["reason"].text))") + "\n"
        for end in report["unconfirmed"].elements {
            let reason = end["reason"].text
            let isRevocation = report["reason"].string == "revocation"
            let next = isRevocation ? "it lets go when it is heard, or when the SAs end" : whatIsDone[reason]
            let rest = next.map { ": \($0)" } ?? ""
            text += TextTable.printable("  unconfirmed: \(end["client"].text) (\(reason))\(rest)") + "\n"
        }
        return text
    }

    // MARK: Pieces

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
