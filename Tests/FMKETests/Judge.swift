// SPDX-License-Identifier: Apache-2.0
import Basics
import Cryptography
import FMKE
import Foundation

/// `Tests/Judges/fmke_decode.py`: the same document, read by a program that shares no code with the product.
enum Judge {
    private static let script = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
        .deletingLastPathComponent().appendingPathComponent("Judges/fmke_decode.py").path

    /// Python 3 with the `cryptography` package (Debian: python3-cryptography).
    static let isAvailable: Bool = (try? run(["-c", "import cryptography"], input: "")) != nil

    struct Failure: Error {}

    /// One answer per request: what it printed, as a dictionary.
    static func ask(_ requests: [[String: String]]) throws -> [[String: String]] {
        let text = requests.map { $0.map { "\($0)=\($1)\n" }.joined() }.joined(separator: "\n")
        let answers = try run([script], input: text).components(separatedBy: "\n\n").dropLast()
        guard answers.count == requests.count else { throw Failure() }
        return answers.map { answer in
            var fields: [String: String] = [:]
            for line in answer.split(separator: "\n") {
                let parts = line.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
                if parts.count == 2 { fields[String(parts[0])] = String(parts[1]) }
            }
            return fields
        }
    }

    /// A request to open a datagram as a member of this group would.
    static func open(_ datagram: [UInt8], group: UInt32, _ rekeySA: RekeySA) -> [String: String] {
        [
            "do": "push", "kek": hexadecimal(rekeySA.kek.revealed()), "group": String(group),
            "epoch": String(rekeySA.epoch), "algorithm": String(rekeySA.signatureAlgorithm.rawValue),
            "key": hexadecimal(rekeySA.verifyingKey), "datagram": hexadecimal(datagram),
        ]
    }

    private static func run(_ arguments: [String], input: String) throws -> String {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        process.arguments = ["python3"] + arguments
        let stdout = Pipe()
        process.standardOutput = stdout
        process.standardError = FileHandle.nullDevice
        // A file, not a pipe: a pipe fills up when both sides write before either reads.
        let file = FileManager.default.temporaryDirectory.appendingPathComponent("fmke-\(UUID().uuidString)")
        try Data(input.utf8).write(to: file)
        defer { try? FileManager.default.removeItem(at: file) }
        process.standardInput = try FileHandle(forReadingFrom: file)
        try process.run()
        let output = stdout.fileHandleForReading.readDataToEndOfFile()
        process.waitUntilExit()
        guard process.terminationStatus == 0 else { throw Failure() }
        return String(decoding: output, as: UTF8.self)
    }
}
