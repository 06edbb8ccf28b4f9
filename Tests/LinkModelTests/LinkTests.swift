// SPDX-License-Identifier: Apache-2.0
import Basics
import LinkModel
import Testing

func at(_ milliseconds: Int64) -> Instant { .zero + .milliseconds(milliseconds) }

func frame(_ number: Int, octets: Int = 4) -> [UInt8] {
    let head = (0..<4).map { UInt8(truncatingIfNeeded: number >> (8 * $0)) }
    return Array(head.prefix(octets)) + [UInt8](repeating: 0x55, count: max(octets - 4, 0))
}

func link(seed: UInt64 = 1, _ change: (inout LinkParameters) -> Void = { _ in }) -> Link {
    var parameters = LinkParameters()
    change(&parameters)
    return Link(parameters, random: SeededRandom(seed: seed))
}

@Suite struct DelayTests {
    @Test func aPerfectLinkDeliversAtOnce() {
        let link = link()
        #expect(link.next == nil && link.due(at(0)).isEmpty)
        #expect(link.send(frame(1), now: at(5)).arrival == at(5))
        let deliveries = link.due(at(5))
        #expect(deliveries.map(\.frame) == [frame(1)] && deliveries.map(\.arrival) == [at(5)])
        #expect(link.next == nil && link.inFlight == 0)
    }

    @Test func delayIsExact() {
        let link = link { $0.delay = .milliseconds(250) }
        for number in 0..<3 { link.send(frame(number), now: at(Int64(number) * 10)) }
        #expect(link.next == at(250))
        #expect(link.due(at(249)).isEmpty)
        #expect(link.due(at(260)).map(\.arrival) == [at(250), at(260)])
        #expect(link.inFlight == 1)
        #expect(link.due(at(1_000)).map(\.frame) == [frame(2)])
    }

    @Test func jitterStaysInRangeAndKeepsTheOrder() {
        let link = link {
            $0.delay = .milliseconds(100)
            $0.jitter = .milliseconds(50)
        }
        // First close together, where the order is at stake, then far apart, where each takes its own time.
        let times = (0..<500).map { at(Int64($0)) } + (10..<510).map { at(Int64($0) * 100) }
        for (number, time) in times.enumerated() { link.send(frame(number), now: time) }
        let deliveries = link.due(at(100_000))
        #expect(deliveries.map(\.frame) == (0..<1_000).map { frame($0) })
        #expect(zip(deliveries, deliveries.dropFirst()).allSatisfy { $0.arrival <= $1.arrival })
        let late = zip(deliveries, times).map { ($0.arrival - $1).wholeMilliseconds - 100 }
        #expect(late.allSatisfy { (0...50).contains($0) })
        #expect(Set(late[500...]).count > 40, "evenly over the range")
    }

    @Test func reorderedFramesAreOvertaken() {
        let link = link(seed: 3) {
            $0.delay = .milliseconds(10)
            $0.reorder = 0.1
            $0.reorderDelay = .milliseconds(5)
        }
        let fates = (0..<1_000).map { link.send(frame($0), now: at(Int64($0))) }
        let order = link.due(at(10_000)).map { Int($0.frame[0]) | Int($0.frame[1]) << 8 }
        let held = fates.indices.filter { fates[$0].isReordered }
        #expect(order.sorted() == Array(0..<1_000))
        #expect((60...140).contains(held.count) && UInt64(held.count) == link.counters.reordered)
        let overtaken = Set(order.indices.dropFirst().filter { order[$0] < order[$0 - 1] }.map { order[$0] })
        #expect(overtaken.isSubset(of: held) && overtaken.count > held.count / 2)
    }
}

@Suite struct RateTests {
    @Test func serialisationTimesAreExact() {
        // 1,000 octets at 3 Mbit/s take 2,666,666 and 2/3 ns: every third frame ends on a whole number.
        let link = link { $0.rateBitsPerSecond = 3_000_000 }
        let arrivals = (0..<6).map { _ in link.send(frame(0, octets: 1_000), now: .zero).arrival?.nanoseconds }
        #expect(arrivals == [2_666_666, 5_333_333, 8_000_000, 10_666_666, 13_333_333, 16_000_000])
    }

    @Test func aBusyLinkSendsPreciselyItsRate() {
        let link = link {
            $0.rateBitsPerSecond = 7_777_777
            $0.queueOctets = 3_000
        }
        // Offer twice the rate for 10 s: what gets through is the rate, up to what is in the queue at the end.
        for step in 0..<20_000 { link.send(frame(step, octets: 972), now: Instant(nanoseconds: Int64(step) * 500_000)) }
        let octets = link.due(.zero + .seconds(10)).reduce(0) { $0 + $1.frame.count }
        #expect((7_777_777 * 10 / 8 - 3_000...7_777_777 * 10 / 8).contains(octets))
        #expect(link.counters.lostToQueue + link.counters.delivered + UInt64(link.inFlight) == 20_000)
    }

    @Test func tailDropCountsOctetsNotYetSent() {
        // 8 kbit/s: an octet takes 1 ms. Room for 300 octets.
        let link = link {
            $0.rateBitsPerSecond = 8_000
            $0.queueOctets = 300
        }
        #expect(link.send(frame(0, octets: 100), now: at(0)).arrival == at(100))
        #expect(link.send(frame(1, octets: 200), now: at(0)).arrival == at(300))
        #expect(link.send(frame(2, octets: 1), now: at(0)).loss == .queue)
        #expect(link.send(frame(3, octets: 51), now: at(50)).loss == .queue)
        #expect(link.send(frame(4, octets: 50), now: at(50)).arrival == at(350))
        #expect(link.send(frame(5, octets: 300), now: at(350)).arrival == at(650))
        #expect(link.counters.lostToQueue == 2)
    }

    @Test func anIdleLinkTakesAFrameLargerThanItsQueue() {
        let link = link {
            $0.rateBitsPerSecond = 8_000
            $0.queueOctets = 0
        }
        #expect(link.send(frame(0, octets: 1_500), now: at(0)).arrival == at(1_500))
        #expect(link.send(frame(1), now: at(1_499)).loss == .queue)
        #expect(link.send(frame(2), now: at(1_500)).arrival == at(1_504))
    }

    @Test func lostFramesHaveUsedTheRate() {
        let link = link {
            $0.rateBitsPerSecond = 8_000
            $0.loss = .independent(1)
        }
        #expect(link.send(frame(0, octets: 100), now: at(0)).loss == .loss)
        link.parameters.loss = .none
        #expect(link.send(frame(1, octets: 100), now: at(0)).arrival == at(200))
    }

    @Test func extremesDoNotTrap() {
        let link = link {
            $0.rateBitsPerSecond = 1
            $0.queueOctets = .max
        }
        for _ in 0..<10 { link.send(frame(0, octets: 65_536), now: Instant(nanoseconds: .max - 10)) }
        #expect(link.inFlight == 10)
    }
}

@Suite struct FaultTests {
    /// Which of `count` frames are lost.
    func losses(_ model: LossModel, seed: UInt64, count: Int) -> [Bool] {
        let (link, sent) = (link(seed: seed) { $0.loss = model }, frame(0))
        return (0..<count).map { _ in
            defer { _ = link.due(.zero) }
            return link.send(sent, now: .zero).loss != nil
        }
    }

    @Test(arguments: [0.0, 0.001, 0.01, 0.2, 1.0], [1, 2, 3] as [UInt64])
    func independentLossComesNearItsRate(probability: Double, seed: UInt64) {
        let count = 30_000
        let lost = Double(losses(.independent(probability), seed: seed, count: count).count { $0 })
        let deviation = (Double(count) * probability * (1 - probability)).squareRoot()
        #expect(abs(lost - Double(count) * probability) <= 4 * deviation)
    }

    @Test(arguments: [(0.01, 1.0), (0.01, 8.0), (0.2, 20.0), (0.4, 3.0)])
    func burstsHaveTheirLengthAndRate(loss: Double, length: Double) throws {
        let model = try #require(LossModel.bursts(loss: loss, meanBurst: length))
        #expect(abs(model.meanLoss - loss) < 1e-9)
        let lost = losses(model, seed: 11, count: 400_000)
        let share = Double(lost.count { $0 }) / Double(lost.count)
        let bursts = lost.indices.count { lost[$0] && ($0 == 0 || !lost[$0 - 1]) }
        let mean = Double(lost.count { $0 }) / Double(bursts)
        #expect(abs(share - loss) < 0.12 * loss)
        #expect(abs(mean - length) < 0.12 * length)
    }

    @Test func partialLossInBothStates() {
        let model = LossModel.gilbertElliott(toBad: 0.01, toGood: 0.1, goodLoss: 0.02, badLoss: 0.5)
        let (link, sent) = (link(seed: 5) { $0.loss = model }, frame(0))
        for _ in 0..<200_000 { link.send(sent, now: .zero) }
        let counters = link.counters
        #expect(abs(Double(counters.lost) / 200_000 - model.meanLoss) < 0.1 * model.meanLoss)
        // 10/11 of the time good with 2 %, 1/11 bad with 50 %.
        #expect((3_240...4_040).contains(counters.lostAlone))
        #expect((8_100...10_100).contains(counters.lostInBurst))
    }

    @Test func impossibleModelsAreRefused() {
        #expect(LossModel.bursts(loss: 1, meanBurst: 2) == nil)
        #expect(LossModel.bursts(loss: 0.1, meanBurst: 0.5) == nil)
        #expect(LossModel.bursts(loss: 0.9, meanBurst: 1) == nil, "single losses cannot be nine of ten")
        #expect(!LossModel.independent(1.5).isValid && !LossModel.independent(.nan).isValid)
        var parameters = LinkParameters()
        #expect(parameters.isValid)
        parameters.rateBitsPerSecond = 0
        #expect(!parameters.isValid)
    }

    @Test func duplicatesComeTwiceInARow() {
        let link = link { $0.duplicate = 0.25 }
        for number in 0..<10_000 { link.send(frame(number), now: at(Int64(number))) }
        let frames = link.due(at(20_000)).map(\.frame)
        let pairs = zip(frames, frames.dropFirst()).count { $0 == $1 }
        #expect((2_300...2_700).contains(pairs))
        #expect(frames.count == 10_000 + pairs && link.counters.duplicated == UInt64(pairs))
    }

    @Test func corruptionInvertsOneBit() {
        let link = link { $0.corrupt = 0.5 }
        let sent = frame(0x5a5a_5a5a, octets: 100)
        var positions = Set<Int>()
        for _ in 0..<2_000 {
            let fate = link.send(sent, now: .zero)
            let received = link.due(.zero)[0].frame
            let changed = sent.indices.filter { received[$0] != sent[$0] }
            let bits = changed.reduce(0) { $0 + (sent[$1] ^ received[$1]).nonzeroBitCount }
            #expect(bits == (fate.isCorrupted ? 1 : 0))
            positions.formUnion(changed)
        }
        #expect((900...1_100).contains(link.counters.corrupted))
        #expect(positions.count > 95, "all over the frame")
    }

    @Test func aSeedReplaysToTheBit() {
        func run(seed: UInt64) -> ([FrameFate], [LinkDelivery], LinkCounters) {
            let link = link(seed: seed) {
                $0.delay = .milliseconds(250)
                $0.jitter = .milliseconds(3)
                $0.rateBitsPerSecond = 500_000
                $0.queueOctets = 20_000
                $0.loss = .gilbertElliott(toBad: 0.01, toGood: 0.2, goodLoss: 0.001, badLoss: 0.8)
                $0.duplicate = 0.01
                $0.reorder = 0.01
                $0.corrupt = 0.01
            }
            var fates: [FrameFate] = []
            var deliveries: [LinkDelivery] = []
            for number in 0..<5_000 {
                fates.append(link.send(frame(number, octets: 64 + number % 1_400), now: at(Int64(number * 10))))
                deliveries += link.due(at(Int64(number * 10)))
            }
            return (fates, deliveries + link.due(.distantFuture), link.counters)
        }
        let (first, second, other) = (run(seed: 42), run(seed: 42), run(seed: 43))
        #expect(first.0 == second.0 && first.1 == second.1 && first.2 == second.2)
        #expect(first.0 != other.0)
        let counters = first.2
        #expect(counters.offered + counters.duplicated == counters.delivered + counters.lost)
        #expect(counters.lostToQueue > 0 && counters.lostInBurst > 0 && counters.corrupted > 0)
    }
}
