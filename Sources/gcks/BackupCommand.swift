// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Audit
internal import Commands
internal import Control
internal import Cryptography
internal import Foundation
internal import KeyServer
internal import SQLiteStore
internal import Settings
internal import Store

/// What both commands need.
struct StateOptions: ParsableArguments {
    @Option(help: ArgumentHelp("The key server's configuration file.", valueName: "file"))
    var config = ServerSettings.defaultPath

    /// The settings with their state, said on standard error when they are no good.
    func load() throws -> (settings: ServerSettings, state: StateSettings) {
        do {
            let settings = try ServerSettings.load(path: config)
            guard let state = settings.state else { throw ValidationError("\(config) names no state-file") }
            return (settings, state)
        } catch let error as SettingsError {
            Terminal.complain(error.description)
            throw ExitCode(ExitStatus.usage)
        }
    }

    static func fail(_ text: String) -> ExitCode {
        Terminal.complain("gcks: \(text)")
        return ExitCode(ExitStatus.error)
    }
}

/// `gcks backup`: a copy of the state in one file.
struct BackupCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "backup", abstract: "Copy the state into one file, while the key server runs or not.",
        discussion: """
            Values in the copy stay sealed with the master key: keep that, signing-key.pem, provisioning.key and \
            gcks.yaml elsewhere.
            """)

    @Argument(help: ArgumentHelp("Where to; what is there is replaced.", valueName: "file"))
    var file: String

    @OptionGroup var options: StateOptions

    func run() throws {
        let (settings, state) = try options.load()
        let octets = try Self.octets(settings, state)
        do {
            let copy = try StoreBackup(octets: octets, masterKey: state.masterKey)
            try WholeFile.write(octets, to: file, replaces: true)
            Terminal.write("\(file): revision \(copy.revision), \(octets.count) octets\n")
        } catch let fault as StoreBackup.Fault {
            throw StateOptions.fail("the copy is not good: \(fault)")
        } catch {
            throw StateOptions.fail("\(file): \(error)")
        }
    }

    /// By the daemon, which has the file open; by ourselves while none runs.
    private static func octets(_ settings: ServerSettings, _ state: StateSettings) throws -> [UInt8] {
        do {
            let query = DaemonQuery(socket: settings.controlSocket, timeout: .seconds(60))
            let answer = try query.fetch("POST", "/v1/backup")
            guard answer.status == 200 else {
                throw StateOptions.fail(String(decoding: answer.body, as: UTF8.self))
            }
            return answer.body
        } catch ControlError.notRunning {
            guard WholeFile.exists(state.file) else { throw StateOptions.fail("\(state.file) is not there") }
            do {
                let store = try SQLiteStore(path: state.file, masterKey: state.masterKey, random: SystemRandom())
                let copy = try StoreBackup(of: store, microseconds: RestoreCommand.microsecondsNow)
                return copy.octets(masterKey: state.masterKey)
            } catch {
                throw StateOptions.fail("\(state.file): \(error)")
            }
        } catch let error as ControlError {
            throw StateOptions.fail("\(error)")
        }
    }
}

/// `gcks restore`: the state from a backup.
struct RestoreCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "restore", abstract: "Put the state back from a backup, with the key server stopped.",
        discussion: """
            Nothing that the run after the backup used comes again: numbers jump, all clients register anew, \
            all groups get new keys. Who is revoked in the present state stays so. The present state is set \
            aside, not removed.
            """)

    @Argument(help: "The backup.")
    var file: String

    @Flag(help: "Also over a state that is newer than the backup, of another key server, or not readable.")
    var force = false

    @OptionGroup var options: StateOptions

    static var microsecondsNow: UInt64 { UInt64(max(Date().timeIntervalSince1970, 0) * 1_000_000) }

    func run() throws {
        let (settings, state) = try options.load()
        let backup: StoreBackup
        do {
            backup = try StoreBackup(octets: try WholeFile.read(file), masterKey: state.masterKey)
        } catch {
            throw StateOptions.fail("\(file): \(error)")
        }
        Terminal.write("\(file): of \(AuditTime.text(backup.microseconds)), revision \(backup.revision)\n")
        // Held open to the end: no daemon starts meanwhile.
        let present = try present(state, backup)
        let aside = state.file + ".restoring"
        for name in [aside, aside + "-wal", aside + "-shm"] { WholeFile.remove(name) }
        do {
            try backup.unpack(to: aside)
            try prepare(aside, state, revoked: try present.store.map(Self.revoked) ?? [])
            if present.isThere {
                let kept = state.file + ".before-restore-\(Self.microsecondsNow)"
                try WholeFile.move(state.file, to: kept)
                for end in ["-wal", "-shm"] where WholeFile.exists(state.file + end) {
                    try WholeFile.move(state.file + end, to: kept + end)
                }
                Terminal.write("the state that was there is \(kept) now\n")
            }
            try WholeFile.move(aside, to: state.file)
        } catch {
            throw StateOptions.fail("\(state.file): \(error)")
        }
        Terminal.write("restored: clients register anew, and all groups get new keys\n")
        if settings.auditFile != nil {
            Terminal.write("who was revoked after the backup: gcks audit show, lines client.revoked\n")
        }
    }

    private static func revoked(_ store: SQLiteStore) throws(StoreError) -> [String] {
        RestoredState.revoked(in: try store.records(under: "client/"))
    }

    /// What is there now, and whether the backup may take its place.
    private func present(
        _ state: StateSettings, _ backup: StoreBackup
    ) throws -> (isThere: Bool, store: SQLiteStore?) {
        guard WholeFile.exists(state.file) else { return (false, nil) }
        do {
            let store = try SQLiteStore(path: state.file, masterKey: state.masterKey, random: SystemRandom())
            Terminal.write("\(state.file): revision \(store.newestRevision)\n")
            guard force || store.isSame(as: backup) else {
                throw StateOptions.fail("it is the state of another key server; --force puts the backup in its place")
            }
            guard force || store.newestRevision <= backup.revision else {
                throw StateOptions.fail(
                    "it is newer than the backup, which would lose what came since; --force does it all the same")
            }
            return (true, store)
        } catch StoreError.inUse {
            throw StateOptions.fail("\(state.file): \(StoreError.inUse); stop it first")
        } catch let error as StoreError {
            guard force else {
                throw StateOptions.fail("\(state.file): \(error). --force puts the backup in its place")
            }
            Terminal.complain("\(state.file): \(error); who was revoked there is not known")
            return (true, nil)
        }
    }

    /// Makes the copy one to go on from.
    private func prepare(_ path: String, _ state: StateSettings, revoked: [String]) throws {
        let store = try SQLiteStore(path: path, masterKey: state.masterKey, random: SystemRandom())
        let records = try store.records(under: "")
        let now = Self.microsecondsNow
        var changes = try RestoredState.changes(of: records, revoked: revoked, microseconds: now)
        changes.append(.put(Record(RestoredState.note, Secret(Array(AuditTime.text(now).utf8)))))
        try store.apply(changes)
        let groups = Set(records.compactMap { $0.name.split(separator: "/").prefix(2) }.filter { $0[0] == "group" })
        let clients = Set(records.compactMap { $0.name.split(separator: "/").prefix(2) }.filter { $0[0] == "client" })
        let out = Set(RestoredState.revoked(in: records)).union(revoked)
        Terminal.write("\(clients.count) clients and \(groups.count) groups had come; \(out.count) clients are revoked")
        Terminal.write(out.isEmpty ? "\n" : ": \(out.sorted().joined(separator: ", "))\n")
    }
}

/// `gcks recover`: on with numbers above what members have.
struct RecoverCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "recover", abstract: "Go on from a state that is older than what members have.",
        discussion: """
            For the alarm that a client has newer keys than this state knows: all groups where that is so get new keys \
            with numbers above all that was reported. If only one client says so and the state is not old, revoke it.
            """)

    @Flag(help: "Return with the verdict: every member confirmed, or named.")
    var wait = false

    @Option(help: ArgumentHelp("How long to wait at most.", valueName: "seconds"))
    var timeout = 120

    @OptionGroup var daemon: DaemonOptions<ServerSettings>

    private struct Request: Encodable { var wait: Bool }

    func validate() throws { try WaitLimit.validate(timeout) }

    func run() throws {
        try daemon.show(
            timeout: .seconds(wait ? timeout : 10), { $0.post("/v1/recover", Request(wait: wait)) },
            text: ServerView.verdict, status: ServerView.verdictStatus)
    }
}
