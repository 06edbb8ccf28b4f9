// SPDX-License-Identifier: Apache-2.0
import Simulator
import Testing

/// The key server dies before or behind each of its writes and sends. Here are some of the points;
/// `satsim crash-points` takes all.
@Suite struct CrashPointTests {
    @Test(arguments: CrashPoints.Kind.allCases) func nothingIsLostWhereverTheServerDies(_ kind: CrashPoints.Kind) throws
    {
        let points = CrashPoints(kind)
        let all = try points.points()
        #expect(Set(all).count == all.count && all.count > 200)
        let some = try points.points(each: 23)
        for point in some {
            let outcome = try points.run(point)
            #expect(outcome.violations == [], "\(point): \(outcome.lastEvents.suffix(20).joined(separator: "\n"))")
        }
        print("\(kind.rawValue): \(some.count) of \(all.count) points")
    }

    @Test func withoutADeathNothingIsFound() throws {
        for kind in CrashPoints.Kind.allCases {
            let outcome = try CrashPoints(kind).runUndisturbed()
            #expect(outcome.violations == [] && outcome.transactions >= 5)
        }
    }
}
