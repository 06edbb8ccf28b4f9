// SPDX-License-Identifier: Apache-2.0
import LinkModel
import Testing

@testable import satemu

@Suite struct LinkOptionTests {
    @Test func everyKeyIsRead() throws {
        let text = """
            delay=125ms,jitter=1.5ms,rate=2M,queue=64k,loss=1%,duplicate=0.001,reorder=0.1%,reorder-delay=20us,corrupt=0
            """
        let parameters = try LinkOption(text).applied(to: LinkParameters())
        var expected = LinkParameters()
        expected.delay = .milliseconds(125)
        expected.jitter = .microseconds(1_500)
        expected.rateBitsPerSecond = 2_000_000
        expected.queueOctets = 64_000
        expected.loss = .independent(0.01)
        expected.duplicate = 0.001
        expected.reorder = 0.001
        expected.reorderDelay = .microseconds(20)
        #expect(parameters == expected && parameters.isValid)
    }

    @Test func lossModels() throws {
        func loss(_ text: String) throws -> LossModel {
            try LinkOption("loss=\(text)").applied(to: LinkParameters()).loss
        }
        #expect(try loss("burst:20%:4") == .gilbertElliott(toBad: 0.0625, toGood: 0.25, goodLoss: 0, badLoss: 1))
        #expect(try loss("gilbert:1%:25%") == .gilbertElliott(toBad: 0.01, toGood: 0.25, goodLoss: 0, badLoss: 1))
        #expect(
            try loss("gilbert:0.01:0.25:0.1%:50%")
                == .gilbertElliott(toBad: 0.01, toGood: 0.25, goodLoss: 0.001, badLoss: 0.5))
    }

    @Test func onlyWhatIsNamedChanges() throws {
        let first = try LinkOption("delay=1s,loss=5%").applied(to: LinkParameters())
        let second = try LinkOption("loss=0,rate=none").applied(to: first)
        #expect(second.delay == .seconds(1) && second.loss == .none && second.rateBitsPerSecond == nil)
    }

    @Test(arguments: [
        "", "delay", "delay=", "delay=250", "delay=-1s", "delay=1e3s", "delay=9999999s", "delay=1m", "loss=101%",
        "loss=1.5", "loss=nan", "loss=burst:1%", "loss=burst:90%:1", "loss=gilbert:1:2", "rate=0", "rate=fast",
        "queue=-5", "speed=1M", "delay=1s,", "corrupt=1..2", "delay=1s,,loss=1%", "loss=%",
        "queue=9999999999999999999G",
    ])
    func nonsenseIsRefused(text: String) { #expect(throws: LinkTextError.self) { try LinkOption(text) } }
}

@Suite struct TerminalOptionTests {
    @Test func namespacesByNamePathAndProcess() throws {
        func path(_ text: String) throws -> String? { try #require(TerminalOption(argument: text)).namespacePath }
        #expect(try path("hub=sat0") == nil)
        #expect(try path("hub=sat0@hub") == "/run/netns/hub")
        #expect(try path("hub=sat0@/proc/self/ns/net") == "/proc/self/ns/net")
        #expect(try path("hub=sat0@1234") == "/proc/1234/ns/net")
        let option = try #require(TerminalOption(argument: "site-1=sat0@x"))
        #expect(option.name == "site-1" && option.interface == "sat0")
    }

    @Test(arguments: [
        "", "hub", "=sat0", "hub=", "hub=sat0@", "hub=interface-too-long", "h b=sat0", "hub=sat0@a b", "hub=sat0@..",
        "\"=sat0",
    ])
    func malformedTerminalsAreRefused(text: String) { #expect(TerminalOption(argument: text) == nil) }

    @Test func aPlanLaysOneOverTheOther() throws {
        var plan = LinkPlan(uplink: try LinkOption("delay=125ms"), downlink: try LinkOption("delay=125ms,loss=1%"))
        plan.add(try LinkFile(text: "downlink: {loss: 2%}", name: "f", terminals: ["a", "b"]))
        plan.add(try #require(TerminalLinkOption(argument: "b:downlink:loss=burst:3%:8")))
        #expect(plan.parameters("a", .uplink).loss == .none)
        #expect(plan.parameters("a", .downlink).loss == .independent(0.02))
        #expect(plan.parameters("b", .downlink).loss == LossModel.bursts(loss: 0.03, meanBurst: 8))
        #expect(plan.parameters("b", .downlink).delay == .milliseconds(125))
    }
}

@Suite struct LinkFileTests {
    @Test func aWholeFile() throws {
        let text = """
            uplink: {delay: 125ms}
            downlink:
              delay: 125ms
              loss: 1%
            terminals:
              site1:
                downlink: {loss: "burst:1%:8", rate: 2M}
            """
        let file = try LinkFile(text: text, name: "links.yaml", terminals: ["site1", "site2"])
        #expect(file.defaults[.uplink] == (try LinkOption("delay=125ms")))
        #expect(file.defaults[.downlink] == (try LinkOption("delay=125ms,loss=1%")))
        #expect(file.terminals == ["site1": [.downlink: try LinkOption("loss=burst:1%:8,rate=2M")]])
        #expect(try LinkFile(text: "", name: "empty", terminals: []).defaults.isEmpty)
    }

    @Test(arguments: [
        ("uplinks: {}", "f:1:1"), ("uplink: 5", "f:1:9"), ("uplink:\n  loss: 200%", "f:2:3"),
        ("uplink:\n  loss: [1]", "f:2:3"), ("terminals:\n  site9: {}", "f:2:3"),
        ("terminals:\n  site1:\n    sideways: {}", "f:3:5"), ("- 1", "f:1:1"), ("{", "f"),
    ])
    func errorsSayWhere(text: String, place: String) {
        let error = #expect(throws: LinkFileError.self) { try LinkFile(text: text, name: "f", terminals: ["site1"]) }
        #expect(error?.place == place)
    }
}
