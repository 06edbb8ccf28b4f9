// SPDX-License-Identifier: Apache-2.0
import Foundation
import Testing

/// The kernel back ends on Debian's stock kernel, in a virtual machine: `kernel.py` prints one line per check, each
/// test here is about the lines of one case. One boot serves all of them.
@Suite struct KernelTests {
    // xfrm
    @Test func userspaceOpensWhatXFRMSealed() { expect("xfrm-to-userspace", checks: 12) }
    @Test func xfrmOpensWhatUserspaceSealed() { expect("userspace-to-xfrm", checks: 12) }
    @Test func xfrmOpensWhatXFRMSealed() { expect("xfrm-to-xfrm", checks: 12) }
    @Test func userspaceOpensWhatUserspaceSealed() { expect("userspace-to-userspace", checks: 8) }
    @Test func anXFRMRollOverLosesNothing() { expect("xfrm-roll-over", checks: 3) }
    @Test func xfrmLeaksNothing() { expect("xfrm-leaks-nothing", checks: 9) }
    @Test func afterAKillXFRMLeaksNothingAndStartsClean() { expect("xfrm-killed", checks: 8) }
    @Test func xfrmLetsNothingIn() { expect("xfrm-lets-nothing-in", checks: 10) }
    @Test func xfrmCounts() { expect("xfrm-counts", checks: 8) }
    @Test func xfrmSAsExpire() { expect("xfrm-expires", checks: 10) }
    @Test func xfrmSaysWhatItCannotDo() { expect("xfrm-refuses", checks: 6) }

    // PF_KEY
    @Test func userspaceOpensWhatPFKeySealed() { expect("pfkey-to-userspace", checks: 4) }
    @Test func pfkeyOpensWhatUserspaceSealed() { expect("userspace-to-pfkey", checks: 4) }
    @Test func xfrmOpensWhatPFKeySealed() { expect("pfkey-to-xfrm", checks: 4) }
    @Test func aPFKeyRollOverLosesNothing() { expect("pfkey-roll-over", checks: 3) }
    @Test func pfkeyLeaksNothing() { expect("pfkey-leaks-nothing", checks: 9) }
    @Test func afterAKillPFKeyLeaksNothingAndStartsClean() { expect("pfkey-killed", checks: 8) }
    @Test func pfkeyLetsNothingIn() { expect("pfkey-lets-nothing-in", checks: 9) }
    @Test func pfkeyCountsAndItsSAsExpire() { expect("pfkey-counts-and-expires", checks: 4) }
    @Test func pfkeySaysWhatItCannotDo() { expect("pfkey-refuses", checks: 3) }

    // Unicast VPNs
    @Test func xfrmAndUserspaceMakeAVPN() { expect("vpn-userspace", checks: 18) }
    @Test func xfrmMakesAVPN() { expect("vpn-xfrm", checks: 10) }
    @Test func aVPNsRollOverLosesNothing() { expect("vpn-roll-over", checks: 4) }
    @Test func aVPNTheKernelCannotDoIsRefused() { expect("vpn-refuses", checks: 8) }
    @Test func routingRulesAndGuardWorkOnThisKernel() { expect("vpn-in-user-space", checks: 1) }

    // Both
    @Test func underTheGuardBothCarryPackets() { expect("guarded", checks: 5) }
    @Test func theDaemonsRunOnXFRM() { expect("daemons", checks: 12) }

    private func expect(_ name: String, checks: Int, at location: SourceLocation = #_sourceLocation) {
        let run = KernelRun.shared
        let failed = run.lines.filter { $0.hasPrefix("FAILED: \(name): ") }
        let passed = run.lines.filter { $0.hasPrefix("ok: \(name): ") }
        #expect(failed.isEmpty, "\(failed.joined(separator: "\n"))", sourceLocation: location)
        #expect(
            passed.count == checks, "the run ended with \(run.status): \(run.lines.suffix(8).joined(separator: "\n"))",
            sourceLocation: location)
    }
}

/// One run of all cases in a virtual machine, started by the first test that asks for it.
private struct KernelRun: Sendable {
    static let shared = KernelRun()

    let lines: [String]
    let status: Int32

    private init() {
        let folder = URL(filePath: #filePath).deletingLastPathComponent()
        let scripts = folder.deletingLastPathComponent().deletingLastPathComponent().appending(path: "scripts")
        // The test runner lies beside the programs.
        let bundle = CommandLine.arguments.first { $0.hasSuffix(".xctest") }
            .map { URL(filePath: $0).deletingLastPathComponent() }
        let programs =
            bundle ?? URL(filePath: "/proc/self/exe").resolvingSymlinksInPath().deletingLastPathComponent()
        let process = Process()
        // A child of a Swift task starts with its signals blocked, and would not hear of the time limit.
        process.executableURL = URL(filePath: "/usr/bin/env")
        process.arguments = [
            "--default-signal", scripts.appending(path: "kernel-vm.sh").path, "--seconds", "900", "python3",
            folder.appending(path: "kernel.py").path, programs.path,
        ]
        let output = Pipe()
        process.standardOutput = output
        process.standardError = output
        do {
            try process.run()
        } catch {
            (lines, status) = (["FAILED: \(error)"], 125)
            return
        }
        let text = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        process.waitUntilExit()
        lines = text.split(whereSeparator: \.isNewline).map(String.init)
        status = process.terminationStatus
    }
}
