// SPDX-License-Identifier: Apache-2.0

import Foundation
import Testing

/// The rules of CONTRIBUTING.md that a program can check. Each test collects everything that is wrong, so that one run
/// tells it all.
@Suite struct TidyTests {
    private let tree = Tree()

    @Test func modulesImportOnlyWhatStandsBelowThem() throws {
        var wrong: [String] = []
        for file in try tree.files(under: "Sources", extensions: ["swift"]) {
            guard let allowed = Self.imports[file.module] else {
                wrong.append("\(file.path): module \(file.module) is not in the table of this test")
                continue
            }
            for (number, line) in file.lines.enumerated() {
                guard let name = Self.importedModule(line) else { continue }
                if !allowed.contains(name) { wrong.append("\(file.path):\(number + 1): imports \(name)") }
            }
        }
        #expect(wrong == [])
    }

    /// What Package.swift gives a module is what this table says.
    @Test func thePackageSaysTheSame() throws {
        let manifest = try tree.file("Package.swift").text
        for (module, allowed) in Self.imports {
            let own = allowed.subtracting(Self.system)
            guard let declared = Self.dependencies(of: module, in: manifest) else {
                Issue.record("Package.swift declares no target \(module)")
                continue
            }
            #expect(declared.subtracting(own) == [], "Package.swift gives \(module) more than this test's table")
        }
    }

    @Test func filesSayTheirLicence() throws {
        let files =
            try tree.files(under: "Sources", extensions: Self.code)
            + tree.files(under: "Tests", extensions: Self.code)
            + tree.files(under: "demo", extensions: Self.code) + tree.files(under: "scripts", extensions: Self.code)
            + ["Package.swift", "Makefile", ".ci/run"].map(tree.file)
        let wrong = files.filter { !$0.lines.prefix(2).contains { $0.contains("SPDX-License-Identifier: Apache-2.0") } }
        #expect(files.count > 50)
        #expect(wrong.map(\.path) == [])
    }

    @Test func linesAndFilesAreShort() throws {
        var wrong: [String] = []
        let files =
            try tree.files(under: "Sources", extensions: Self.code)
            + tree.files(under: "Tests", extensions: Self.code) + tree.files(under: "demo", extensions: Self.code)
            + [tree.file("Package.swift")]
        for file in files {
            if file.lines.count > 600 { wrong.append("\(file.path): \(file.lines.count) lines") }
            guard !["py", "sh"].contains((file.path as NSString).pathExtension) else { continue }
            for (number, line) in file.lines.enumerated() where line.count > 120 {
                wrong.append("\(file.path):\(number + 1): \(line.count) columns")
            }
        }
        #expect(wrong == [])
    }

    @Test func nothingIsLeftForLater() throws {
        let marks = ["TO" + "DO", "FIX" + "ME", "XX" + "X"]
        var wrong: [String] = []
        for file in try tree.files(under: "Sources", extensions: Self.code)
            + tree.files(under: "Tests", extensions: Self.code) + tree.files(under: "demo", extensions: Self.code)
            + tree.documents()
        {
            for (number, line) in file.lines.enumerated() {
                let words = line.split { !$0.isLetter }
                for mark in marks where words.contains(Substring(mark)) {
                    wrong.append("\(file.path):\(number + 1): \(mark)")
                }
            }
        }
        #expect(wrong == [])
    }

    @Test func inputNeverStopsAProgram() throws {
        var wrong: [String] = []
        for file in try tree.files(under: "Sources", extensions: ["swift"]) {
            for (number, line) in file.lines.enumerated() {
                let code = Self.withoutComment(line)
                for word in ["try!", "as!", "fatalError"] where code.contains(word) {
                    wrong.append("\(file.path):\(number + 1): \(word)")
                }
            }
        }
        #expect(wrong == [])
    }

    @Test func documentsHaveOneTopHeading() throws {
        for file in try tree.documents() {
            var isCode = false
            let headings = file.lines.filter { line in
                if line.hasPrefix("```") { isCode.toggle() }
                return !isCode && line.hasPrefix("# ")
            }
            #expect(headings.count == 1, "\(file.path)")
        }
    }

    /// Links between documents lead somewhere.
    @Test func linksLeadSomewhere() throws {
        for file in try tree.documents() {
            for link in file.text.matches(of: /\]\(([^)#:]+)\)/).map({ String($0.output.1) }) {
                let folder = (file.path as NSString).deletingLastPathComponent
                #expect(tree.exists((folder as NSString).appendingPathComponent(link)), "\(file.path) links to \(link)")
            }
        }
    }

    @Test func eachModuleSaysWhatItOwns() throws {
        for module in Self.imports.keys where module.first?.isUppercase == true {
            let files = try tree.files(under: "Sources/\(module)", extensions: ["swift"])
            let says = files.contains { file in
                file.lines.prefix(16).contains { $0.hasPrefix("// \(module) owns ") }
            }
            #expect(says, "no file of \(module) starts with: // \(module) owns ...")
        }
    }
}

extension TidyTests {
    static let code = ["swift", "c", "h", "py", "sh"]

    /// Whose modules these are nobody asks: they come with the system.
    static let system: Set<String> = ["Foundation", "FoundationEssentials", "Glibc", "Synchronization"]

    /// The picture of docs/ARCHITECTURE.md as a table.
    static let imports: [String: Set<String>] = [
        "Basics": [],
        "Cryptography": ["Basics", "COpenSSL"],
        "Store": ["Basics", "Cryptography"],
        "SQLiteStore": ["Store", "Cryptography", "Basics", "CSQLite", "Glibc"],
        "Audit": ["Cryptography", "Basics"],
        "AuditFile": ["Audit", "Cryptography", "Glibc"],
        "ISAKMP": ["Basics"],
        "IKEv1": ["ISAKMP", "Cryptography", "Basics"],
        "FMKE": ["ISAKMP", "IKEv1", "Cryptography", "Basics"],
        "KeyTree": ["Cryptography", "Basics"],
        "ErasureCode": ["CISAL"],
        "ReliablePush": ["ErasureCode", "FMKE", "Basics"],
        "ESP": ["Cryptography", "Basics"],
        "LinkModel": ["Basics"],
        "KeyServer": [
            "FMKE", "ReliablePush", "KeyTree", "Store", "Audit", "IKEv1", "ISAKMP", "Cryptography", "Basics",
        ],
        "GroupMember": [
            "FMKE", "ReliablePush", "KeyTree", "ESP", "Store", "IKEv1", "ISAKMP", "Cryptography", "Basics",
        ],
        "Simulator": [
            "KeyServer", "GroupMember", "ReliablePush", "KeyTree", "FMKE", "ESP", "LinkModel", "Store", "IKEv1",
            "Cryptography", "Basics", "Glibc",
        ],
        "EventLoop": ["CLibevent", "CLinux", "Basics", "Glibc"],
        "DataPlane": ["EventLoop", "ESP", "CLinux", "Cryptography", "Basics", "Glibc"],
        "Settings": ["KeyServer", "ReliablePush", "IKEv1", "Cryptography", "Basics", "Yams", "Glibc"],
        "DesiredState": ["Settings", "KeyServer", "Store", "Cryptography", "Basics"],
        "Control": [
            "EventLoop", "CLibevent", "Cryptography", "Basics", "Logging", "FoundationEssentials", "Glibc",
        ],
        "Commands": ["Control", "Settings", "CLinux", "ArgumentParser", "Logging"],
        "gcks": [
            "KeyServer", "IKEv1", "Commands", "Control", "DesiredState", "EventLoop", "Settings", "Store",
            "SQLiteStore", "Audit", "AuditFile", "Cryptography", "Basics", "ArgumentParser", "Logging", "Foundation",
        ],
        "satipsec": [
            "GroupMember", "DataPlane", "ESP", "IKEv1", "Commands", "Control", "EventLoop", "Settings", "Cryptography",
            "Basics",
            "ArgumentParser", "Logging", "Foundation",
        ],
        "satemu": ["LinkModel", "CLinux", "Basics", "ArgumentParser", "Yams", "Foundation", "Glibc"],
        "satsim": ["Simulator", "ReliablePush", "Basics", "ArgumentParser"],
    ]

    /// The module that a line imports.
    static func importedModule(_ line: String) -> String? {
        let words = line.split(separator: " ")
        guard let position = words.firstIndex(of: "import"), position + 1 < words.count,
            words[..<position].allSatisfy({
                $0.hasPrefix("@") || ["public", "internal", "package", "private"].contains($0)
            })
        else { return nil }
        return words[position + 1].split(separator: ".").first.map(String.init)
    }

    /// The names in the declaration of a target, up to the next target's.
    static func dependencies(of module: String, in manifest: String) -> Set<String>? {
        let code = manifest.split(separator: "\n").map(withoutComment).joined(separator: " ")
        let declaration = try? Regex("(?:module\\(\\s*|executableTarget\\(\\s*name: )\"\(module)\"")
        guard let declaration, let start = code.firstMatch(of: declaration)?.range.upperBound else { return nil }
        let rest = code[start...]
        let end = rest.firstMatch(of: /module\(|[a-zA-Z]*[tT]arget\(|tests\(of|systemLibrary\(/)?.range.lowerBound
        let text = rest[..<(end ?? rest.endIndex)]
        var names = Set(text.matches(of: /"([A-Za-z0-9]+)"/).map { String($0.output.1) })
        if text.contains(/\barguments\b/) { names.insert("ArgumentParser") }
        if text.contains(/\blogging\b/) { names.insert("Logging") }
        return names
    }

    static func withoutComment(_ line: some StringProtocol) -> String {
        line.firstRange(of: "//").map { String(line[..<$0.lowerBound]) } ?? String(line)
    }
}

/// The files of this repository, as they are on the disk.
struct Tree {
    struct File {
        /// From the top of the repository.
        var path: String
        var text: String
        var lines: [String]
        /// The folder under Sources.
        var module: String { path.split(separator: "/").dropFirst().first.map(String.init) ?? "" }
    }

    let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .deletingLastPathComponent()

    func file(_ path: String) throws -> File {
        let text = try String(contentsOf: root.appendingPathComponent(path), encoding: .utf8)
        var lines = text.split(separator: "\n", omittingEmptySubsequences: false).map(String.init)
        if lines.last == "" { lines.removeLast() }
        return File(path: path, text: text, lines: lines)
    }

    func files(under folder: String, extensions: [String]) throws -> [File] {
        let names = try FileManager.default.subpathsOfDirectory(atPath: root.appendingPathComponent(folder).path)
        return try names.sorted().filter { extensions.contains(($0 as NSString).pathExtension) }
            .map { try file(folder + "/" + $0) }
    }

    /// Everything that is written for readers.
    func documents() throws -> [File] {
        let top = try FileManager.default.contentsOfDirectory(atPath: root.path).sorted().filter { $0.hasSuffix(".md") }
        return try top.map(file) + files(under: "docs", extensions: ["md"])
    }

    func exists(_ path: String) -> Bool {
        FileManager.default.fileExists(atPath: root.appendingPathComponent(path).path)
    }
}
