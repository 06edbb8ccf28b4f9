// SPDX-License-Identifier: Apache-2.0
import Foundation
import Testing

/// Programs we did not write judge phase 1.
@Suite struct StrongSwanTests {
    /// strongSwan at the other end of Main Mode in both roles, tshark on the wire. Where a tool is missing the script
    /// names its package, and that fails.
    @Test func charonAndTSharkAgreeWithUs() throws {
        let arguments = CommandLine.arguments
        let bundle = arguments.first { $0.hasSuffix(".xctest") } ?? arguments[0]
        let probe = URL(filePath: bundle).deletingLastPathComponent().appending(path: "phase1-probe")
        let script = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .appending(path: "Judges/strongswan.sh")
        let process = Process()
        // A child of a Swift task starts with its signals blocked, and would not hear of the time limit.
        process.executableURL = URL(filePath: "/usr/bin/env")
        process.arguments = ["--default-signal", "timeout", "180", "/bin/bash", script.path, probe.path]
        let output = Pipe()
        process.standardOutput = output
        process.standardError = output
        try process.run()
        let text = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        process.waitUntilExit()
        let lines = text.split(separator: "\n")
        #expect(process.terminationStatus == 0, "\(text)")
        #expect(!lines.contains { $0.hasPrefix("FAILED") }, "\(text)")
        #expect(lines.count { $0.hasPrefix("ok: ") } == 21, "\(text)")
    }
}
