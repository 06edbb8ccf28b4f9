// SPDX-License-Identifier: Apache-2.0
import Foundation
import Testing

/// The tests that are written in Python, as the demonstration is: its verification, and satemu in network namespaces.
@Suite struct DemoTests {
    @Test(arguments: ["test_claims", "test_emulator"])
    func pythonTests(module: String) throws {
        let folder = URL(filePath: #filePath).deletingLastPathComponent()
        let process = Process()
        process.executableURL = URL(filePath: "/usr/bin/python3")
        process.arguments = ["-B", "-m", "unittest", module]
        process.currentDirectoryURL = folder
        // The test runner lies beside the programs.
        let programs = URL(filePath: "/proc/self/exe").resolvingSymlinksInPath().deletingLastPathComponent()
        process.environment = ProcessInfo.processInfo.environment.merging(
            ["SATEMU": programs.appending(path: "satemu").path]) { $1 }
        let output = Pipe()
        process.standardError = output
        try process.run()
        let text = String(decoding: try output.fileHandleForReading.readToEnd() ?? Data(), as: UTF8.self)
        process.waitUntilExit()
        #expect(process.terminationStatus == 0, "\(text)")
        #expect(!text.contains("skipped"), "nothing may be left out quietly: \(text)")
    }
}
