// SPDX-License-Identifier: Apache-2.0
import Foundation

/// Runs programs that we did not write and that say whether our packets are right.
enum Judge {
    struct Failure: Error, CustomStringConvertible {
        let description: String
    }

    /// The folder of the scripts, `Tests/Judges`.
    static let scripts = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .appendingPathComponent("Judges")

    /// Runs a program to its end; gives its standard output.
    ///
    /// Throws when it is missing, with the Debian package that has it, and when it does not end well or in time.
    static func run(
        _ program: String, _ arguments: [String], package: String, input: Data = Data(),
        environment: [String: String] = [:]
    ) throws -> Data {
        guard FileManager.default.isExecutableFile(atPath: program) else {
            throw Failure(description: "\(program) is missing: install the Debian package \(package)")
        }
        // Through files: pipes that fill up would have to be emptied at the same time.
        let folder = try temporaryFolder()
        defer { try? FileManager.default.removeItem(at: folder) }
        let names = ["input", "output", "errors"].map { folder.appendingPathComponent($0) }
        try input.write(to: names[0])
        for name in names[1...] { try Data().write(to: name) }

        let process = Process()
        process.executableURL = URL(fileURLWithPath: program)
        process.arguments = arguments
        process.environment = ProcessInfo.processInfo.environment.merging(environment) { $1 }
        process.standardInput = try FileHandle(forReadingFrom: names[0])
        process.standardOutput = try FileHandle(forWritingTo: names[1])
        process.standardError = try FileHandle(forWritingTo: names[2])
        try process.run()
        let end = Date(timeIntervalSinceNow: 120)
        while process.isRunning, Date() < end { Thread.sleep(forTimeInterval: 0.02) }
        if process.isRunning {
            process.terminate()
            throw Failure(description: "\(program) did not end")
        }
        guard process.terminationStatus == 0 else {
            let errors = String(decoding: (try? Data(contentsOf: names[2])) ?? Data(), as: UTF8.self)
            throw Failure(
                description: """
                    \(program) failed with \(process.terminationStatus); is the Debian package \(package) installed?
                    \(errors.suffix(2_000))
                    """)
        }
        return try Data(contentsOf: names[1])
    }

    /// A new folder of our own; the caller removes it.
    static func temporaryFolder() throws -> URL {
        let folder = FileManager.default.temporaryDirectory.appendingPathComponent("esp-judge-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        return folder
    }
}
