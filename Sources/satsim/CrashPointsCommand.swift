// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Basics
internal import Simulator

/// Kills the server at every point of a scenario.
struct CrashPointsCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "crash-points",
        abstract: "Kills the key server before and behind each of its writes and sends, and looks what becomes of it.",
        discussion: "Exit status: 0 nothing found, 1 a point failed, 64 usage.")

    @Option(help: "Every so many points only.")
    var each = 1

    @Option(
        help: "This one alone: flat, lkh or backward-secrecy.",
        transform: { text in
            guard let kind = CrashPoints.Kind(rawValue: text) else { throw ValidationError("there is no kind \(text)") }
            return kind
        })
    var kind: CrashPoints.Kind?

    @Option(help: "Of one kind, this point alone (before effect N: 2N, behind it: 2N + 1), with its log.")
    var point: Int?

    func validate() throws {
        guard each > 0 else { throw ValidationError("--each must be at least 1.") }
        guard point == nil || kind != nil else { throw ValidationError("--point needs --kind.") }
    }

    func run() throws {
        var (count, failed) = (0, 0)
        for kind in kind.map({ [$0] }) ?? CrashPoints.Kind.allCases {
            let points = CrashPoints(kind)
            var all = try points.points(each: each)
            if let point { all = try points.points().indices.contains(point) ? [points.points()[point]] : [] }
            for kill in all {
                count += 1
                let outcome = try points.run(kill)
                if point != nil { for line in outcome.lastEvents { print(line) } }
                guard let violation = outcome.violations.first else { continue }
                failed += 1
                print(
                    """
                    VIOLATION (\(violation.checker)) at \((violation.at - .zero).secondsText) s: \(violation.text)
                    replay: satsim crash-points --kind \(kind.rawValue) \
                    --point \(2 * kill.effect + (kill.isAfter ? 1 : 0))
                    """)
            }
            print("\(kind.rawValue): \(all.count) points")
        }
        print("\(count) points, \(failed) failed")
        if failed > 0 { throw ExitCode(1) }
    }
}
