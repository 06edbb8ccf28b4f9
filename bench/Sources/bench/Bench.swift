// SPDX-License-Identifier: Apache-2.0
import Glibc

// bench measures what the project promises: each case prints its workload, the figure, the limit or the peer measured in
// the same run, their ratio and the target, and the program ends with status 1 when a target is missed.

@main struct Bench {
    static let cases: [(name: String, run: @Sendable () throws -> Report)] = [
        ("leave-bytes", KeyTreeBytes.leave),
        ("batch-bytes", KeyTreeBytes.batch),
        ("leave-rate", KeyTreeSpeed.leave),
        ("batch-cpu", KeyTreeSpeed.batch),
        ("zhang-replay", ZhangReplay.run),
        ("one-packet", OnePacket.run),
        ("confirm-all", ConfirmAll.run),
        ("nack-control", NACKControl.run),
        ("recovery", Recovery.run),
        ("dataplane", DataPlaneSpeed.run),
    ]

    static func main() throws {
        let chosen = CommandLine.arguments.dropFirst()
        let names = cases.map(\.name)
        guard chosen.allSatisfy({ names.contains($0) || $0 == "all" }), !chosen.isEmpty else {
            print("usage: bench CASE...   with CASE one of: \((names + ["all"]).joined(separator: " "))")
            exit(64)
        }
        var (met, missed): (Int, [String]) = (0, [])
        for entry in cases where chosen.contains(entry.name) || chosen.contains("all") {
            let report = try entry.run()
            report.print(entry.name)
            fflush(nil)  // a case is seen when it is done, also through a pipe
            met += report.count(isMet: true)
            let misses = report.count(isMet: false)
            if misses > 0 { missed.append("\(misses) of \(entry.name)") }
        }
        print("\(met) targets met; missed: \(missed.isEmpty ? "none" : missed.joined(separator: ", "))")
        exit(missed.isEmpty ? 0 : 1)
    }
}

/// One line of a result.
struct Line {
    var workload: String
    var figure: String
    /// The limit or the peer, with its name.
    var peer: String
    var ratio: String
    var target: String
    /// nil: shown without a target.
    var isMet: Bool?
}

struct Report {
    /// How it was measured.
    var note: String
    var lines: [Line] = []

    /// Of the lines that have a target, how many met or missed it.
    func count(isMet: Bool) -> Int { lines.count { $0.isMet == isMet } }

    func print(_ name: String) {
        let head = ["workload", "figure", "limit or peer", "ratio", "target", ""]
        let rows =
            [head]
            + lines.map { line in
                let verdict = line.isMet.map { $0 ? "met" : "MISSED" } ?? ""
                return [line.workload, line.figure, line.peer, line.ratio, line.target, verdict]
            }
        let widths = head.indices.map { column in rows.map { $0[column].count }.max() ?? 0 }
        Swift.print("\(name): \(note)")
        for row in rows {
            let cells = zip(row, widths).map { $0 + String(repeating: " ", count: $1 - $0.count) }
            Swift.print("  " + cells.joined(separator: "  "))
        }
    }
}

/// CPU seconds of this process.
func cpuSeconds() -> Double {
    var time = timespec()
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time)
    return Double(time.tv_sec) + Double(time.tv_nsec) * 1e-9
}

/// A number with so many decimals.
func decimal(_ value: Double, _ places: Int = 2) -> String {
    guard value.isFinite else { return "-" }
    var scale = 1.0
    for _ in 0..<places { scale *= 10 }
    let rounded = Int((value * scale).rounded())
    guard places > 0 else { return "\(rounded)" }
    let fraction = String(rounded % Int(scale))
    return "\(rounded / Int(scale))." + String(repeating: "0", count: places - fraction.count) + fraction
}
