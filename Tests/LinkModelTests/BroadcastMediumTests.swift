// SPDX-License-Identifier: Apache-2.0
import Basics
import LinkModel
import Testing

@Suite struct BroadcastMediumTests {
    func medium(
        seed: UInt64 = 1, terminals: [String] = ["a", "b", "c"], _ change: (inout LinkParameters) -> Void = { _ in }
    ) -> (BroadcastMedium, [TerminalID]) {
        var (up, down) = (LinkParameters(), LinkParameters())
        up.delay = .milliseconds(120)
        down.delay = .milliseconds(130)
        change(&down)
        let medium = BroadcastMedium(seed: seed)
        medium.recordsLosses = true
        return (medium, terminals.map { medium.addTerminal($0, uplink: up, downlink: down) })
    }

    @Test func everyFrameReachesAllButItsSender() {
        let (medium, ids) = medium()
        medium.transmit(frame(1), from: ids[0], now: at(0))
        medium.transmit(frame(2), from: ids[2], now: at(1))
        #expect(medium.next == at(120))
        #expect(medium.due(at(200)).isEmpty && medium.next == at(250))
        let deliveries = medium.due(at(300))
        #expect(deliveries.map(\.terminal) == [ids[1], ids[2], ids[0], ids[1]])
        #expect(deliveries.map(\.frame) == [frame(1), frame(1), frame(2), frame(2)])
        #expect(deliveries.map(\.arrival) == [at(250), at(250), at(251), at(251)])
        #expect(medium.next == nil)
    }

    @Test func aLateCallChangesNothing() {
        let (medium, ids) = medium()
        medium.transmit(frame(1), from: ids[0], now: at(0))
        #expect(medium.due(at(5_000)).map(\.arrival) == [at(250), at(250)])
    }

    @Test func uplinkLossIsEverybodysAndDownlinkLossIsOnes() {
        let (medium, ids) = medium()
        medium.link(ids[0], .uplink).parameters.loss = .independent(1)
        medium.link(ids[1], .downlink).parameters.loss = .independent(1)
        medium.transmit(frame(1), from: ids[0], now: at(0))
        medium.transmit(frame(2), from: ids[2], now: at(0))
        #expect(medium.due(at(1_000)).map(\.terminal) == [ids[0]])
        let losses = medium.takeLosses()
        #expect(losses.map(\.terminal) == [ids[0], ids[1]])
        #expect(losses.map(\.direction) == [.uplink, .downlink])
        #expect(losses.map(\.frame) == [frame(1), frame(2)])
        #expect(losses.map(\.time) == [at(0), at(120)])
        #expect(losses.allSatisfy { $0.reason == .lost(.loss) })
        #expect(medium.takeLosses().isEmpty)
    }

    @Test func damageIsReportedWithTheFrameAsSent() {
        let (medium, ids) = medium { $0.corrupt = 1 }
        medium.transmit(frame(1), from: ids[0], now: at(0))
        #expect(medium.due(at(1_000)).allSatisfy { $0.frame != frame(1) })
        let losses = medium.takeLosses()
        #expect(losses.count == 2 && losses.allSatisfy { $0.reason == .corrupted && $0.frame == frame(1) })
    }

    @Test func anotherTerminalDoesNotChangeWhatTheFirstSee() {
        func arrivals(terminals: [String]) -> [MediumDelivery] {
            let (medium, ids) = medium(seed: 9, terminals: terminals) { $0.loss = .independent(0.3) }
            for number in 0..<500 { medium.transmit(frame(number), from: ids[0], now: at(Int64(number))) }
            return medium.due(at(10_000)).filter { $0.terminal == ids[1] }
        }
        let two = arrivals(terminals: ["a", "b"])
        #expect(two.count < 400 && two == arrivals(terminals: ["a", "b", "c"]))
        #expect(two.map(\.frame) != arrivals(terminals: ["a", "z"]).map(\.frame))
    }
}
