// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Audit
internal import AuditFile
internal import Basics
internal import Commands
internal import Control
internal import Cryptography
internal import Foundation
internal import SQLiteStore
internal import Settings

/// `gcks audit`: the record of who did what with keys.
struct AuditCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "audit", abstract: "Verify, show or set aside the audit file.",
        subcommands: [AuditVerifyCommand.self, AuditShowCommand.self, AuditRotateCommand.self])
}

/// Which files are meant.
struct AuditFileOptions: ParsableArguments {
    @Argument(
        help: ArgumentHelp(
            "Files of one chain, in any order. Without: the configured one and those set aside beside it.",
            valueName: "file"))
    var files: [String] = []

    @Option(help: ArgumentHelp("The key server's configuration file.", valueName: "file"))
    var config = ServerSettings.defaultPath

    /// The settings, said on standard error when they are no good.
    func settings() throws -> ServerSettings {
        do {
            return try ServerSettings.load(path: config)
        } catch {
            Terminal.complain(error.description)
            throw ExitCode(ExitStatus.usage)
        }
    }

    func archive(_ settings: @autoclosure () throws -> ServerSettings) throws -> AuditArchive {
        var paths = files
        if paths.isEmpty {
            guard let path = try settings().auditFile else { throw ValidationError("\(config) names no audit-file") }
            paths = AuditArchive.paths(of: path)
            guard !paths.isEmpty else {
                Terminal.complain("gcks: \(path) is not there")
                throw ExitCode(ExitStatus.error)
            }
        }
        do {
            return try AuditArchive(paths: paths)
        } catch {
            Terminal.complain("gcks: \(error)")
            throw ExitCode(ExitStatus.error)
        }
    }
}

/// `gcks audit verify`.
struct AuditVerifyCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "verify", abstract: "Look for lines that were changed, removed, moved, put in or cut off.",
        discussion: """
            Names the first bad line. The daemon need not run. Exit codes: 0 all lines from the first to the newest \
            are good; 1 they are not; 2 they are, but earlier ones are in files that were not given, or nobody knows \
            which is the newest.
            """)

    @OptionGroup var options: AuditFileOptions

    @Flag(help: "Check the hashes only, without the master key: this tells no chain that somebody computed anew.")
    var hashesOnly = false

    private struct Answer: Encodable {
        var isGood: Bool
        var first: UInt64?
        var newest: UInt64?
        var lines: Int
        var file: String?
        var line: Int?
        var what: String?
    }

    @Flag(help: "Print the result as JSON.")
    var json = false

    func run() throws {
        let settings = hashesOnly && !options.files.isEmpty ? nil : try options.settings()
        let archive = try options.archive(try options.settings())
        let newest = settings.flatMap { Self.newest($0) }
        let key = hashesOnly ? nil : settings?.state.map { AuditChain.key(masterKey: $0.masterKey) }
        if !hashesOnly, key == nil { throw ValidationError("\(options.config) names no master-key-file") }
        let report: AuditArchive.Report
        do {
            report = try archive.verify(key: key, newest: newest)
        } catch {
            Terminal.complain("gcks: \(error)")
            throw ExitCode(ExitStatus.error)
        }
        let status = say(report, isEndKnown: newest != nil)
        if status != ExitStatus.fine { throw ExitCode(status) }
    }

    private func say(_ report: AuditArchive.Report, isEndKnown: Bool) -> Int32 {
        var what: String?
        if let fault = report.fault { what = "line \(fault.line) \(fault.fault)" }
        if report.fault == nil, let end = report.end { what = "\(end)" }
        if report.head == nil, what == nil { what = "holds no line" }
        if json {
            let answer = Answer(
                isGood: report.isGood, first: report.first, newest: report.head?.number, lines: report.lines,
                file: report.fault?.path, line: report.fault?.line, what: what)
            if let octets = try? JSONText.encode(answer) { Terminal.write(json: octets) }
        } else if let what {
            Terminal.complain("\(report.fault.map { "\($0.path): " } ?? "")\(what)")
            if let head = report.head { Terminal.complain("good up to number \(head.number)") }
        } else {
            Terminal.write("ok: lines \(report.first ?? 0) to \(report.head?.number ?? 0) are as they were written\n")
            if let first = report.first, first > 1 {
                Terminal.complain("lines 1 to \(first - 1) are in files that were not given")
            }
            if !isEndKnown { Terminal.complain("no newest line is known: whether the end was cut off cannot be said") }
        }
        guard what == nil else { return ExitStatus.error }
        return report.first == 1 && isEndKnown ? ExitStatus.fine : ExitStatus.degraded
    }

    /// By the daemon, or by the store while none runs.
    private static func newest(_ settings: ServerSettings) -> AuditHead? {
        let query = DaemonQuery(socket: settings.controlSocket, timeout: .seconds(5))
        if case .answer(_, let value) = query.get("/v1/audit"), let number = value["number"].number,
            let hash = value["hash"].string.flatMap(octets)
        {
            return AuditHead(octets: AuditHead(number: UInt64(number), hash: hash).octets)
        }
        guard let state = settings.state, FileManager.default.fileExists(atPath: state.file),
            let store = try? SQLiteStore(path: state.file, masterKey: state.masterKey, random: SystemRandom()),
            let record = try? store.value(of: AuditTrail.headRecord)
        else { return nil }
        // Public values: a number and a hash.
        return AuditHead(octets: record.revealed())
    }

    private static func octets(_ digits: String) -> [UInt8]? {
        var result: [UInt8] = []
        var rest = digits[...]
        while !rest.isEmpty {
            guard let octet = UInt8(rest.prefix(2), radix: 16) else { return nil }
            result.append(octet)
            rest = rest.dropFirst(2)
        }
        return result
    }
}

/// `gcks audit show`.
struct AuditShowCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "show", abstract: "Print lines of the audit file.",
        discussion: "It prints what is there, good or not: 'gcks audit verify' says which.")

    @OptionGroup var options: AuditFileOptions

    @Option(
        help: ArgumentHelp(
            "Only lines from this time on: 2026-11-24, 2026-11-24T01:30, or so long ago as 90s, 30min, 2h, 7d.",
            valueName: "time"))
    var since: String?

    @Option(help: ArgumentHelp("Only lines that name this client.", valueName: "name"))
    var client: String?

    @Option(help: ArgumentHelp("Only lines that name this group.", valueName: "name"))
    var group: String?

    @Flag(help: "Print the lines as they stand: one JSON object each.")
    var json = false

    func validate() throws { if let since { _ = try Self.time(since, now: Date()) } }

    func run() throws {
        let from = try since.map { try Self.time($0, now: Date()) }
        let archive = try options.archive(try options.settings())
        do {
            try archive.forEachLine { octets in
                guard let value = try? JSONText.decode(JSONValue.self, from: octets) else {
                    Terminal.complain("a line is no JSON; gcks audit verify says which")
                    return
                }
                guard isWanted(value, from: from) else { return }
                if json { Terminal.write(json: octets) } else { Terminal.write(Self.text(value)) }
            }
        } catch {
            Terminal.complain("gcks: \(error)")
            throw ExitCode(ExitStatus.error)
        }
    }

    private func isWanted(_ value: JSONValue, from: String?) -> Bool {
        if let from, (value["time"].string ?? "") < from { return false }
        let fields = value["fields"]
        if let group, fields["group"].string != group { return false }
        if let client, fields["client"].string != client, fields["peer"].string != client {
            // A verdict names several.
            let names = (fields["unconfirmed"].string ?? "").split(separator: ",")
            guard names.contains(where: { $0.split(separator: ":").first == client[...] }) else { return false }
        }
        return true
    }

    static func text(_ value: JSONValue) -> String {
        let fields = value["fields"].members.map { "\($0.key)=\($0.value.text)" }.joined(separator: " ")
        return TextTable.printable("\(value["number"].text) \(value["time"].text) \(value["event"].text) \(fields)")
            + "\n"
    }

    /// The earliest time that is meant, as lines write it: such texts are ordered as their times are.
    static func time(_ text: String, now: Date) throws -> String {
        let units: [(String, Double)] = [("min", 60), ("s", 1), ("h", 3_600), ("d", 86_400)]
        for (unit, seconds) in units where text.hasSuffix(unit) {
            guard let count = Double(text.dropLast(unit.count)), count >= 0, count < 1e9 else { break }
            let start = max(now.timeIntervalSince1970 - count * seconds, 0)
            return AuditTime.text(UInt64(start * 1_000_000))
        }
        guard text.count >= 4, text.count <= 27, text.prefix(4).allSatisfy(\.isNumber),
            text.allSatisfy({ $0.isNumber || "-T:.Z".contains($0) })
        else {
            throw ValidationError("--since is a time such as 2026-11-24T01:30 or a span such as 30min, not '\(text)'")
        }
        return text
    }
}

/// `gcks audit rotate`.
struct AuditRotateCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "rotate", abstract: "Set the audit file aside and go on in a new one.",
        discussion: "The daemon does it by itself at 64 MiB. Set aside it is called after its last line's number.")

    @OptionGroup var daemon: DaemonOptions<ServerSettings>

    private struct Request: Encodable {}

    func run() throws {
        try daemon.show({ $0.post("/v1/audit/rotate", Request()) }, text: { "set aside as \($0["before"].text)\n" })
    }
}
