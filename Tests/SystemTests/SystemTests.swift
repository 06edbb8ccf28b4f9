// SPDX-License-Identifier: Apache-2.0
import Foundation
import Testing

/// The daemons as an operator runs them: a key server and two clients on one segment, in network namespaces, through
/// faults, restarts and commands. `system.py` prints one line per check, and so do `ipv6.py`, where the same is done
/// over IPv6 with groups of both families, `audit.py`, where the audit file's disk is full and its lines are
/// spoilt, `apply.py`, which changes clients and groups while a stream flows, `vpn.py` with unicast VPNs, and
/// `senders.py` with three senders in one group, and `crash.py`, where the key server is killed again and again.
@Suite(.serialized) struct SystemTests {
    @Test(arguments: [
        ("system.py", 53), ("ipv6.py", 17), ("audit.py", 39), ("apply.py", 30), ("vpn.py", 30), ("senders.py", 17),
        ("crash.py", 14),
    ])
    func daemonsBearWhatOperatorsAndNetworksDoToThem(script: String, checks: Int) throws {
        let folder = URL(filePath: #filePath).deletingLastPathComponent()
        let process = Process()
        // A child of a Swift task starts with its signals blocked, and would not hear of the time limit.
        process.executableURL = URL(filePath: "/usr/bin/env")
        // The test runner lies beside the programs.
        let programs = URL(filePath: "/proc/self/exe").resolvingSymlinksInPath().deletingLastPathComponent()
        let arguments = CommandLine.arguments
        let bundle = arguments.first { $0.hasSuffix(".xctest") }.map { URL(filePath: $0).deletingLastPathComponent() }
        process.arguments = [
            "--default-signal", "timeout", "--kill-after=10", "300", "/usr/bin/python3",
            folder.appending(path: script).path, (bundle ?? programs).path,
        ]
        let output = Pipe()
        process.standardOutput = output
        process.standardError = output
        try process.run()
        let text = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        process.waitUntilExit()
        let lines = text.split(separator: "\n")
        #expect(process.terminationStatus == 0, "\(text)")
        #expect(!lines.contains { $0.hasPrefix("FAILED") }, "\(text)")
        #expect(lines.count { $0.hasPrefix("ok: ") } == checks, "\(text)")
    }
}
