// SPDX-License-Identifier: Apache-2.0
import Foundation
import Testing

/// Spin explores every state of a small phase 3 (spec/push.pml).
@Suite struct ModelTests {
    @Test func everyStateOfTheModelKeepsThePromise() throws {
        let script = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent().appending(path: "scripts/model.sh")
        let process = Process()
        process.executableURL = URL(filePath: "/usr/bin/env")
        process.arguments = ["--default-signal", "timeout", "600", "/bin/bash", script.path]
        let output = Pipe()
        process.standardOutput = output
        process.standardError = output
        try process.run()
        let text = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        process.waitUntilExit()
        #expect(process.terminationStatus == 0, "\(text)")
        #expect(text.split(separator: "\n").count { $0.hasPrefix("ok: ") } == 3, "\(text)")
    }
}
