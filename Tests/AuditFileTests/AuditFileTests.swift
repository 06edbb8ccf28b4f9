// SPDX-License-Identifier: Apache-2.0
import Audit
import AuditFile
import Basics
import Cryptography
import Foundation
import Testing

/// Files of a chain: written, spoilt, taken away, read again.
@Suite struct AuditFileTests {
    private static let key = AuditChain.key(masterKey: Secret([UInt8](repeating: 7, count: 32)))

    /// A folder of its own for each test.
    private final class Folder {
        let path: String
        init() throws {
            path = NSTemporaryDirectory() + "audit-\(UInt64.random(in: 0 ... .max))"
            try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: false)
        }
        deinit { try? FileManager.default.removeItem(atPath: path) }
        var file: String { path + "/audit.log" }

        func octets(_ name: String = "audit.log") throws -> [UInt8] {
            try [UInt8](Data(contentsOf: URL(filePath: path + "/" + name)))
        }
        func write(_ octets: [UInt8], to name: String = "audit.log") throws {
            try Data(octets).write(to: URL(filePath: path + "/" + name))
        }
    }

    /// Lines with their line feeds.
    private static func lines(_ count: Int, _ chain: inout AuditChain) -> [[UInt8]] {
        (0..<count).map { chain.line(AuditEvent("keys.sent", ["client": "hub\($0)"]), microseconds: UInt64($0)) }
    }

    /// A file of so many lines.
    private static func made(_ count: Int) throws -> (folder: Folder, lines: [[UInt8]], head: AuditHead) {
        let folder = try Folder()
        var chain = AuditChain(key: key)
        let lines = lines(count, &chain)
        let opened = try AuditFile.open(folder.file, key: key, newest: nil)
        #expect(opened.isNew && opened.head == .start)
        for line in lines { try opened.file.append(line) }
        return (folder, lines, chain.head)
    }

    private static func report(_ folder: Folder, newest: AuditHead?) throws -> AuditArchive.Report {
        try AuditArchive(paths: AuditArchive.paths(of: folder.file)).verify(key: key, newest: newest)
    }

    @Test func linesAreThereAgainAndTheChainGoesOn() throws {
        let (folder, lines, head) = try Self.made(3)
        #expect(try folder.octets() == lines.flatMap { $0 })
        let attributes = try FileManager.default.attributesOfItem(atPath: folder.file)
        #expect(attributes[.posixPermissions] as? Int == 0o600)
        let opened = try AuditFile.open(folder.file, key: Self.key, newest: head)
        #expect(opened.head == head && opened.torn == 0 && !opened.isNew)
        #expect(throws: AuditFileError.inUse) { try AuditFile.open(folder.file, key: Self.key, newest: head) }
        var chain = AuditChain(key: Self.key, head: head)
        try opened.file.append(Self.lines(2, &chain).flatMap { $0 })
        let report = try Self.report(folder, newest: head)
        #expect(report.isGood && report.lines == 5 && report.first == 1 && report.head == chain.head)
    }

    /// Every octet of every line changed, one at a time: the verifier names the line, and the writer does not go on.
    @Test func aChangedOctetIsNamedAndTheWriterRefuses() throws {
        let (folder, lines, head) = try Self.made(3)
        let good = lines.flatMap { $0 }
        for place in good.indices {
            var bad = good
            bad[place] ^= 1
            try folder.write(bad)
            // The line that begins there; a changed line feed makes one line of two.
            let line = lines.indices.first { place < lines[...$0].reduce(0) { $0 + $1.count } } ?? 0
            let report = try Self.report(folder, newest: head)
            #expect(report.fault?.line == line + 1 && !report.isGood, "octet \(place)")
            #expect(throws: AuditFileError.self) { try AuditFile.open(folder.file, key: Self.key, newest: head) }
        }
    }

    @Test func aCutEndIsFoundByWhatTheStoreRemembers() throws {
        let (folder, lines, head) = try Self.made(4)
        for count in 1...3 {
            try folder.write(lines.prefix(count).flatMap { $0 })
            let cut = AuditFileError.cut(last: UInt64(count), newest: 4)
            #expect(try Self.report(folder, newest: head).end == cut)
            #expect(throws: cut) { try AuditFile.open(folder.file, key: Self.key, newest: head) }
        }
        // In the middle of a line.
        for count in [1, lines[3].count - 1] {
            try folder.write(lines.prefix(3).flatMap { $0 } + lines[3].prefix(count))
            #expect(try Self.report(folder, newest: head).fault?.line == 4)
            #expect(throws: AuditFileError.damaged(line: 4, .malformed)) {
                try AuditFile.open(folder.file, key: Self.key, newest: head)
            }
        }
        try folder.write([])
        #expect(try !Self.report(folder, newest: head).isGood)
    }

    /// An unfinished line behind the newest that the store knows is what a crash leaves: nothing was sent for it.
    @Test func anUnfinishedLineIsTakenAway() throws {
        let (folder, lines, _) = try Self.made(3)
        var chain = AuditChain(key: Self.key)
        _ = Self.lines(2, &chain)
        for count in [1, 40, lines[2].count - 1] {
            try folder.write(lines.prefix(2).flatMap { $0 } + lines[2].prefix(count))
            let opened = try AuditFile.open(folder.file, key: Self.key, newest: chain.head)
            #expect(opened.head == chain.head && opened.torn == count)
            #expect(try folder.octets() == lines.prefix(2).flatMap { $0 })
        }
        // Whole ones behind it are accepted: the file is written before the store.
        try folder.write(lines.flatMap { $0 })
        #expect(try AuditFile.open(folder.file, key: Self.key, newest: chain.head).head.number == 3)
    }

    /// All computed anew, by somebody with the master key even: the store remembers another line.
    @Test func anotherPastIsFoundByWhatTheStoreRemembers() throws {
        let (folder, _, head) = try Self.made(3)
        var other = AuditChain(key: Self.key)
        let lines = (0..<4).map { other.line(AuditEvent("made.up"), microseconds: UInt64($0)) }
        try folder.write(lines.flatMap { $0 })
        #expect(try Self.report(folder, newest: head).end == .replaced(number: 3))
        #expect(throws: AuditFileError.replaced(number: 3)) {
            try AuditFile.open(folder.file, key: Self.key, newest: head)
        }
    }

    @Test func severalFilesAreOneChain() throws {
        let (folder, lines, head) = try Self.made(3)
        var chain = AuditChain(key: Self.key, head: head)
        do {
            let opened = try AuditFile.open(folder.file, key: Self.key, newest: head)
            try opened.file.rename(to: folder.file + ".000000000003")
        }
        let next = try AuditFile.open(folder.file, key: Self.key, newest: head)
        #expect(next.isNew && next.head == head)
        try next.file.append(chain.line(AuditEvent("audit.rotated"), microseconds: 1))
        try next.file.append(Self.lines(2, &chain).flatMap { $0 })
        let report = try Self.report(folder, newest: chain.head)
        #expect(report.isGood && report.lines == 6 && report.first == 1)
        // The newest alone: good, and it begins with 4.
        let alone = try AuditArchive(paths: [folder.file]).verify(key: Self.key, newest: chain.head)
        #expect(alone.isGood && alone.first == 4)
        // The older alone ends too early; and a line taken out of it is found in it.
        let older = folder.file + ".000000000003"
        #expect(
            try AuditArchive(paths: [older]).verify(key: Self.key, newest: chain.head).end == .cut(last: 3, newest: 6))
        try folder.write((lines[0] + lines[2]), to: "audit.log.000000000003")
        let fault = try Self.report(folder, newest: chain.head).fault
        #expect(fault?.path == older && fault?.line == 2)
        // All of its lines gone but the first: the next file does not follow.
        try folder.write(lines[0], to: "audit.log.000000000003")
        #expect(try Self.report(folder, newest: chain.head).fault?.fault == .missing(from: 2, to: 3))
    }

    @Test func aFileThatIsRemovedComesBackAndOneThatIsRenamedDoesNot() throws {
        let (folder, lines, head) = try Self.made(3)
        var chain = AuditChain(key: Self.key, head: head)
        let next = chain.line(AuditEvent("keys.sent"), microseconds: 9)
        do {
            let opened = try AuditFile.open(folder.file, key: Self.key, newest: head)
            try FileManager.default.removeItem(atPath: folder.file)
            #expect(throws: AuditFileError.removed) { try opened.file.append(next) }
            #expect(try opened.file.putBack())
            #expect(try folder.octets() == lines.flatMap { $0 })
        }
        let opened = try AuditFile.open(folder.file, key: Self.key, newest: head)
        try FileManager.default.moveItem(atPath: folder.file, toPath: folder.path + "/away")
        #expect(throws: AuditFileError.removed) { try opened.file.append(next) }
        #expect(try !opened.file.putBack())
        try folder.write(Array("something else\n".utf8))
        #expect(throws: AuditFileError.foreign) { try opened.file.append(next) }
    }

    @Test func whatOthersWriteIsNoticed() throws {
        let (folder, _, head) = try Self.made(2)
        let opened = try AuditFile.open(folder.file, key: Self.key, newest: head)
        let handle = try #require(FileHandle(forWritingAtPath: folder.file))
        try handle.truncate(atOffset: 10)
        var chain = AuditChain(key: Self.key, head: head)
        #expect(throws: AuditFileError.foreign) {
            try opened.file.append(chain.line(AuditEvent("keys.sent"), microseconds: 9))
        }
    }

    @Test func onlyAFileOfOurOwnIsOpened() throws {
        let folder = try Folder()
        try FileManager.default.createSymbolicLink(atPath: folder.file, withDestinationPath: "/dev/null")
        #expect(throws: AuditFileError.self) { try AuditFile.open(folder.file, key: Self.key, newest: nil) }
        try FileManager.default.removeItem(atPath: folder.file)
        try folder.write(Array("not ours\n".utf8))
        #expect(throws: AuditFileError.damaged(line: 1, .malformed)) {
            try AuditFile.open(folder.file, key: Self.key, newest: nil)
        }
        #expect(try folder.octets() == Array("not ours\n".utf8))
        #expect(throws: AuditFileError.self) {
            try AuditFile.open(folder.path + "/no/audit.log", key: Self.key, newest: nil)
        }
    }
}
