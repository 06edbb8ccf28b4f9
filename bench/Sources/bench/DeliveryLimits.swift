// SPDX-License-Identifier: Apache-2.0
import Basics
import Glibc
import Simulator

/// Limits of delivery that follow from probability alone.
enum DeliveryLimits {
    /// Transmissions of one datagram, each lost by itself, until every member has it, on average, if the sender knew at once
    /// when to stop: the expectation of the greatest of N geometric numbers, sum over t of 1 - P(all have it after t).
    /// What the source link loses comes on top for everybody.
    static func transmissions(members: Int, classes: [(share: Double, loss: Double)], sourceLoss: Double) -> Double {
        var sum = 0.0
        var count = 0.0
        while true {
            // log(1 - p^t) keeps the digits where p^t is small.
            var logarithm = 0.0
            for kind in classes where kind.loss > 0 || count == 0 {
                logarithm += kind.share * Double(members) * log1p(-pow(kind.loss, count))
            }
            let missing = -expm1(logarithm)
            sum += missing
            if missing < 1e-12 { break }
            count += 1
        }
        return sum / (1 - sourceLoss)
    }

    /// The fewest datagrams of which a share `served` of all members has what it needs at once, on average: its own one of
    /// k data datagrams, or any k of all. What the source link loses is lost for all.
    static func datagrams(
        dataCount k: Int, classes: [(share: Double, loss: Double)], sourceLoss: Double, served: Double
    ) -> Int {
        /// Lost by `loss`, fewer than `needed` of `count` come through.
        func fails(_ count: Int, _ needed: Int, _ loss: Double) -> Double {
            (0..<max(min(needed, count + 1), 0)).reduce(0) { $0 + binomial(count, $1, 1 - loss) }
        }
        var count = k
        while count < 254 {
            var missing = 0.0
            for gone in 0...min(8, count) {
                let isOwnGone = Double(gone) / Double(count)
                for kind in classes {
                    let without =
                        isOwnGone * fails(count - gone, k, kind.loss)
                        + (1 - isOwnGone) * kind.loss * fails(count - gone - 1, k, kind.loss)
                    missing += binomial(count, gone, sourceLoss) * kind.share * without
                }
            }
            if missing <= 1 - served { break }
            count += 1
        }
        return count
    }

    /// P(Bin(count, probability) = value).
    private static func binomial(_ count: Int, _ value: Int, _ probability: Double) -> Double {
        let ways = lgamma(Double(count) + 1) - lgamma(Double(value) + 1) - lgamma(Double(count - value) + 1)
        return exp(ways + Double(value) * log(probability) + Double(count - value) * log1p(-probability))
    }

    /// Seconds until the last of explicit answers is through.
    static func answering(members: Int, octets: Int, rate: Int) -> Double {
        Double(members) * Double(octets) * 8 / Double(rate)
    }
}

/// The peer for few answers: RFC 5401's NACK timer (5.4.2). Members do not hear each other; the server repeats the
/// first NACK that reaches it, and who hears that before its own time is up stays silent. Every repetition is heard,
/// and sizes are known exactly: better than what it would meet.
struct NACKTimer {
    /// T_maxBackoff in round trips: 4 for multicast, 6 where answers come from one place.
    var factor: Double
    var groupSize: Int
    var roundTrip = 0.6

    /// NACKs from `losers` members, and the seconds until the first one is at the server.
    func run(losers: Int, random: inout LoopRandom) -> (nacks: Int, seconds: Double) {
        let waits = (0..<losers).map { _ in backoff(&random) }
        guard let first = waits.min() else { return (0, 0) }
        return (waits.count { $0 < first + roundTrip }, first + roundTrip / 2)
    }

    /// The truncated exponential distribution of the RFC.
    private func backoff(_ random: inout LoopRandom) -> Double {
        let longest = factor * roundTrip
        let lambda = log(Double(max(groupSize, 1))) + 1
        let scale = lambda / (longest * (exp(lambda) - 1))
        let x = random.unit() * lambda / longest + scale
        return longest / lambda * log(x * (exp(lambda) - 1) * longest / lambda)
    }
}
