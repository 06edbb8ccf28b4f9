// SPDX-License-Identifier: Apache-2.0

internal import Control

/// The desired state on a terminal. The fields are those of `AppliedOutcome`, `RevisionLine` and their like.
extension ServerView {
    /// More names than these are counted only.
    private static let namesAtMost = 10

    /// What an inventory changes, what that takes, and the verdicts.
    static func applied(_ value: JSONValue) -> String {
        let isDryRun = value["isDryRun"].bool == true
        let changes = value["changes"].elements
        var text = ""
        if changes.isEmpty {
            text += "nothing differs from revision \(value["revision"].text)\n"
        } else if isDryRun {
            text += "a dry run: nothing is changed, revision \(value["revision"].text) is in force\n"
        } else {
            text += "revision \(value["revision"].text)\n"
        }
        text += list(changes)
        for rekey in value["rekeys"].elements { text += self.rekey(rekey) }
        let profiles = value["profiles"].elements.map(\.text)
        if !profiles.isEmpty { text += line("new profile: \(names(profiles))") }
        let disconnected = value["disconnected"].elements.map(\.text)
        if !disconnected.isEmpty { text += line("disconnected: \(names(disconnected))") }
        if !changes.isEmpty {
            let (multicast, unicast) = (size(value["multicastOctets"]), size(value["unicastOctets"]))
            text += line("on the link: \(multicast) by multicast, \(unicast) by unicast")
        }
        let needsRestart = value["needsRestart"].elements.map(\.text)
        if !needsRestart.isEmpty {
            text += line("not changed, takes a restart: \(needsRestart.joined(separator: ", "))")
        }
        if !value["reports"].elements.isEmpty { text += verdict(value) }
        return text
    }

    static func difference(_ value: JSONValue) -> String {
        let changes = value["changes"].elements
        guard !changes.isEmpty else {
            return "nothing differs between revisions \(value["from"].text) and \(value["to"].text)\n"
        }
        return list(changes)
    }

    static func exported(_ value: JSONValue) -> String {
        let revision = value["revision"]
        let head = "# revision \(revision["number"].text), \(revision["time"].text), \(revision["source"].text)"
        return TextTable.printable(head) + "\n" + (value["text"].string ?? "")
    }

    static func history(_ value: JSONValue) -> String {
        var table = TextTable([
            "REVISION": .right, "TIME": .left, "SOURCE": .left, "BY": .left, "COMMENT": .left,
        ])
        for revision in value.elements {
            table.add(["number", "time", "source", "author", "comment"].map { revision[$0].text })
        }
        return table.text
    }

    private static func list(_ changes: [JSONValue]) -> String {
        changes.map { change in
            let details = change["details"].elements.map(\.text)
            let what = details.isEmpty ? "" : " (\(details.joined(separator: ", ")))"
            let group = change["group"] == .null ? "" : " of \(change["group"].text)"
            return line(
                "\(change["kind"].text) \(change["name"].text)\(group): \(change["action"].text)\(what)")
        }.joined()
    }

    private static func rekey(_ rekey: JSONValue) -> String {
        let causes = rekey["causes"].elements.map(\.text).joined(separator: ", ")
        let way =
            rekey["datagrams"].number == 0
            ? "\(rekey["unicasts"].text) by unicast"
            : "\(rekey["datagrams"].text) datagrams, \(size(rekey["multicastOctets"])) by multicast"
        return line(
            "new keys for \(rekey["group"].text) (\(causes)): \(rekey["members"].text) members to confirm, \(way)")
    }

    private static func names(_ names: [String]) -> String {
        names.count <= namesAtMost
            ? names.joined(separator: ", ")
            : names.prefix(namesAtMost).joined(separator: ", ") + " and \(names.count - namesAtMost) more"
    }

    private static func size(_ value: JSONValue) -> String {
        value.number.map { Readable.size(octets: $0) } ?? "-"
    }

    private static func line(_ text: String) -> String { TextTable.printable(text) + "\n" }
}
