// SPDX-License-Identifier: Apache-2.0

internal import Basics
public import Cryptography
public import KeyServer
public import LinkModel
public import ReliablePush

/// What is to be simulated. Everything in it and everything that happens in the run follows from the seed, unless a
/// test changes a value.
public struct Scenario: Sendable {
    /// A group and who is in it, by the numbers of the members.
    public struct Group: Sendable {
        public var roles: [Int: MemberRole]
        public var flows: Int
        public var suite: ESPSuite
        public var rollover = RolloverPolicy()
        public var push = PushPolicy()
        public var dataLifetime: Duration
        public var kekLifetime: Duration
        public var revocation = RevocationMethod.flat
        public var backwardSecrecy = false
    }

    /// A VPN between two members, by their numbers.
    public struct VPN: Sendable {
        public var ends: [Int]
        public var flows = 1
        public var suite = ESPSuite.aes128gcm
        public var extendedSequence = true
        public var lifetime: Duration = .seconds(3_600)
        public var keepOld: Duration = .seconds(5)

        public init(ends: [Int]) { self.ends = ends }
    }

    public var seed: UInt64
    public var members: Int
    public var groups: [Group]
    public var vpns: [VPN] = []
    /// Each member's clock runs this much too fast, in millionths.
    public var drifts: [Int]
    public var uplink = LinkParameters()
    public var downlink = LinkParameters()
    /// How long faults happen; they begin 20 s after the start.
    public var faultTime: Duration
    /// Between two faults on average.
    public var faultPause: Duration
    /// What remains of faults on the links when the others have stopped.
    public var residualLoss: Double
    /// How long after the last fault everybody must have the current keys.
    public var settleTime: Duration = .seconds(600)
    /// Members start within this time.
    public var startSpread: Duration = .seconds(5)
    public var phase1Lifetime: Duration
    /// Members behind address translation, which forgets its ports now and then.
    public var translated: [Int] = []
    public var sharesControlAddress = false
    /// Does the operator change the inventory now and then?
    public var applies = false
    /// Do data planes refuse SAs now and then?
    public var refusesSAs = true
    public var auditOutages: [AuditOutage] = []
    /// What happens when, from the start on, in place of faults.
    public var script: [(at: Duration, step: ScriptStep)] = []
    /// Where the server dies.
    public var kill: KillPoint?
    /// What is to be broken on purpose.
    public var sabotage: Sabotage?
    /// Are the costly checks (every receiver against every sender) made after each change?
    public var checksEverything = true

    /// Draws a scenario with faults of every kind.
    /// - Parameters:
    ///   - trees: draw key trees and address translation as well; all else is the same without.
    ///   - vpns: draw VPNs, and what happens to them, as well; all else is the same without.
    ///   - applies: draw an operator who changes the inventory as well; all else is the same without.
    public init(seed: UInt64, trees: Bool = true, vpns: Bool = true, applies: Bool = true) {
        self.seed = seed
        let random = SeededRandom(seed: Simulation.derive(seed, "scenario"))
        members = Int(random.number(below: 7)) + 2
        faultTime = .seconds(60) + random.duration(below: .seconds(240))
        faultPause = .seconds(2) + random.duration(below: .seconds(20))
        residualLoss = random.happens(0.5) ? 0 : random.unit() * 0.05
        phase1Lifetime = random.happens(0.3) ? .seconds(120) : .seconds(8 * 3_600)
        let drift = [0, 20, 200, 1_000][Int(random.number(below: 4))]
        drifts = (0..<members).map { _ in Int(random.number(below: UInt64(2 * drift + 1))) - drift }
        uplink.delay = .milliseconds(10) + random.duration(below: .milliseconds(400))
        downlink.jitter = random.happens(0.5) ? random.duration(below: .milliseconds(50)) : .zero
        if random.happens(0.3) { uplink.rateBitsPerSecond = 32_000 + random.number(below: 500_000) }
        downlink.duplicate = random.happens(0.4) ? random.unit() * 0.1 : 0
        downlink.reorder = random.happens(0.4) ? random.unit() * 0.1 : 0
        downlink.reorderDelay = random.duration(below: .milliseconds(500))
        downlink.corrupt = random.happens(0.4) ? random.unit() * 0.05 : 0
        let loss = random.unit() * (random.happens(0.2) ? 0.4 : 0.1)
        downlink.loss =
            random.happens(0.5) ? .independent(loss) : LossModel.bursts(loss: loss, meanBurst: 4) ?? .none
        uplink.loss = random.happens(0.5) ? .none : .independent(random.unit() * 0.1)
        groups = []
        let roundTrip = uplink.delay * 2 + downlink.jitter + .milliseconds(100)
        for index in 0..<(random.happens(0.4) ? 2 : 1) {
            groups.append(Self.group(index, members: members, roundTrip: roundTrip, random: random))
        }
        sharesControlAddress = groups.count > 1 && random.happens(0.3)
        let treeRandom = SeededRandom(seed: Simulation.derive(seed, "trees"))
        for index in groups.indices where treeRandom.happens(0.6) && trees {
            groups[index].revocation = .lkh
            groups[index].backwardSecrecy = treeRandom.happens(0.4)
        }
        let translation = SeededRandom(seed: Simulation.derive(seed, "translation"))
        self.applies = SeededRandom(seed: Simulation.derive(seed, "operator")).happens(0.4) && applies
        if translation.happens(0.2), trees { translated = (0..<members).filter { _ in translation.happens(0.5) } }
        if trees, vpns { self.vpns = Self.vpns(seed, members: members) }
    }

    private static func vpns(_ seed: UInt64, members: Int) -> [VPN] {
        let random = SeededRandom(seed: Simulation.derive(seed, "vpns"))
        guard random.happens(0.5) else { return [] }
        return (0..<1 + random.number(below: 3)).map { _ in
            let first = Int(random.number(below: UInt64(members)))
            let second = (first + 1 + Int(random.number(below: UInt64(members - 1)))) % members
            var vpn = VPN(ends: [first, second])
            vpn.flows = 1 + Int(random.number(below: 4))
            vpn.suite = Self.suites[Int(random.number(below: UInt64(Self.suites.count)))]
            vpn.extendedSequence = random.happens(0.7)
            vpn.lifetime = random.happens(0.4) ? .seconds(120) : .seconds(3_600)
            vpn.keepOld = .seconds(1) + random.duration(below: .seconds(10))
            return vpn
        }
    }

    private static let suites = ESPSuite.allCases.filter { !$0.isLegacy }

    private static func group(_ index: Int, members: Int, roundTrip: Duration, random: SeededRandom) -> Group {
        var roles: [Int: MemberRole] = [:]
        for member in 0..<members where index == 0 || random.happens(0.7) {
            roles[member] = random.happens(0.15) ? .both : .receiver
        }
        roles[index % members] = random.happens(0.7) ? .sender : .both
        var group = Group(
            roles: roles, flows: 1 + Int(random.number(below: 3)),
            suite: Self.suites[Int(random.number(below: UInt64(Self.suites.count)))],
            dataLifetime: random.happens(0.3) ? .seconds(120) : .seconds(3_600),
            kekLifetime: random.happens(0.3) ? .seconds(200) : .seconds(86_400))
        group.flows = min(group.flows, GroupEntry.mostFlows(with: group.suite))
        group.push.roundTrip = roundTrip
        group.push.copies = 1 + Int(random.number(below: 3))
        group.push.repairRounds = Int(random.number(below: 4))
        group.push.unicastBelow = Int(random.number(below: 2))
        group.push.returnRate = [2_000, 8_000, 64_000][Int(random.number(below: 3))]
        group.push.beaconInterval = random.happens(0.5) ? .seconds(60) : .seconds(15)
        group.rollover.activateAfter = .seconds(2) + random.duration(below: .seconds(10))
        group.rollover.keepOld = .seconds(3) + random.duration(below: .seconds(8))
        if random.happens(0.3) { group.rollover.commitAtPercent = random.happens(0.5) ? 100 : 60 }
        return group
    }

    /// What there is of faults that are there all the time, and of groups.
    var features: Set<String> {
        var features: Set<String> = []
        func note(_ name: String, _ isThere: Bool) { if isThere { features.insert(name) } }
        note("drifting clocks", drifts.contains { $0 != 0 })
        note("jitter", downlink.jitter > .zero)
        note("rate and queue", uplink.rateBitsPerSecond != nil)
        note("duplicates", downlink.duplicate > 0)
        note("reordering", downlink.reorder > 0)
        note("corruption", downlink.corrupt > 0)
        if case .gilbertElliott = downlink.loss { features.insert("bursts of loss") } else { features.insert("loss") }
        note("changes of the inventory", applies)
        note("address translation", !translated.isEmpty)
        note("shared control address", sharesControlAddress)
        note("short ISAKMP SAs", phase1Lifetime < .seconds(600))
        note("short data SAs", groups.contains { $0.dataLifetime < .seconds(600) })
        note("short KEKs", groups.contains { $0.kekLifetime < .seconds(600) })
        note("early COMMIT", groups.contains { $0.rollover.commitAtPercent != nil })
        note("key tree", groups.contains { $0.revocation == .lkh })
        note("VPN", !vpns.isEmpty)
        note("short VPN SAs", vpns.contains { $0.lifetime < .seconds(600) })
        note("backward secrecy", groups.contains { $0.backwardSecrecy })
        return features
    }

    /// One group with one sender and no fault: for measuring how many members a process carries.
    /// - Parameter seconds: within which the members come.
    public static func calm(members: Int, seed: UInt64, seconds: Int) -> Scenario {
        let spread = Duration.seconds(seconds)
        var scenario = Scenario(seed: seed)
        scenario.members = members
        scenario.drifts = Array(repeating: 0, count: members)
        (scenario.translated, scenario.vpns) = ([], [])
        scenario.applies = false
        var roles = Dictionary(uniqueKeysWithValues: (0..<members).map { ($0, MemberRole.receiver) })
        roles[0] = .sender
        scenario.groups = [
            Group(
                roles: roles, flows: 1, suite: .aes128gcm, dataLifetime: .seconds(86_400), kekLifetime: .seconds(86_400)
            )
        ]
        scenario.uplink = LinkParameters()
        scenario.uplink.delay = .milliseconds(250)
        scenario.downlink = LinkParameters()
        scenario.faultTime = .zero
        scenario.residualLoss = 0
        scenario.startSpread = spread
        scenario.settleTime = spread + .seconds(600)
        scenario.phase1Lifetime = .seconds(8 * 3_600)
        scenario.sharesControlAddress = false
        scenario.checksEverything = members <= 1_000
        return scenario
    }
}

extension RandomSource {
    func happens(_ probability: Double) -> Bool { unit() < probability }
    func pick<Value>(_ values: [Value]) -> Value? {
        values.isEmpty ? nil : values[Int(number(below: UInt64(values.count)))]
    }
}
