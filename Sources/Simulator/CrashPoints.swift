// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import KeyServer
internal import LinkModel
internal import ReliablePush

/// What the operator does, or a member, in a scenario without faults.
public enum ScriptStep: Sendable, Hashable {
    case start(member: Int)
    case rekey(group: Int, includingKEK: Bool)
    case revoke(member: Int)

    var started: Int? { if case .start(let member) = self { member } else { nil } }
}

/// An effect of the server: a write to its store or a datagram, counted from its first start over all its runs.
public struct KillPoint: Sendable, Hashable {
    public var effect: Int
    /// Just behind it, or just before.
    public var isAfter: Bool
    /// So many effects later it dies once more.
    public var again: Int?

    public init(effect: Int, isAfter: Bool, again: Int? = nil) {
        (self.effect, self.isAfter, self.again) = (effect, isAfter, again)
    }
}

/// The server dies at every point of a scenario: before and behind each write and each send. What must hold then is
/// what the checkers say: above all that the transaction ends in a verdict, that nobody registers anew, and that
/// senders are heard all the time.
public struct CrashPoints: Sendable {
    public enum Kind: String, Sendable, CaseIterable {
        case flat, lkh
        case backwardSecrecy = "backward-secrecy"
    }

    public let kind: Kind
    public init(_ kind: Kind) { self.kind = kind }

    /// Registration of four, a rekey, one with a KEK, a newcomer, a revocation, another rekey; nobody is lost on the
    /// way but for what the links lose.
    public func scenario(_ kill: KillPoint?) -> Scenario {
        var scenario = Scenario.calm(members: 6, seed: 11, seconds: 3)
        scenario.uplink.delay = .milliseconds(120)
        // Some members confirm by the first transmission, others need what follows.
        scenario.downlink.loss = .independent(0.15)
        scenario.groups[0].roles[1] = .both
        scenario.groups[0].flows = 2
        scenario.groups[0].revocation = kind == .flat ? .flat : .lkh
        scenario.groups[0].backwardSecrecy = kind == .backwardSecrecy
        scenario.groups[0].push.roundTrip = .milliseconds(400)
        scenario.groups[0].push.beaconInterval = .seconds(20)
        scenario.groups[0].rollover.commitAtPercent = 100
        scenario.groups[0].rollover.keepOld = .seconds(3)
        scenario.script = [
            (.seconds(12), .rekey(group: 0, includingKEK: false)), (.seconds(22), .rekey(group: 0, includingKEK: true)),
            (.seconds(32), .start(member: 5)), (.seconds(40), .revoke(member: 4)),
            (.milliseconds(40_500), .rekey(group: 0, includingKEK: false)),
        ]
        scenario.faultTime = .seconds(50)
        scenario.kill = kill
        return scenario
    }

    /// How many effects the server has when it does not die.
    public func effects() throws -> Int {
        let simulation = try Simulation(scenario(nil))
        _ = simulation.run()
        return simulation.server.effects
    }

    /// All points, or each `step`th. A third of them die once more soon after the restart.
    public func points(each step: Int = 1) throws -> [KillPoint] {
        var all: [KillPoint] = []
        for effect in 0..<(try effects()) {
            all.append(KillPoint(effect: effect, isAfter: false, again: effect % 3 == 1 ? effect % 7 : nil))
            all.append(KillPoint(effect: effect, isAfter: true, again: effect % 3 == 2 ? effect % 5 : nil))
        }
        return stride(from: 0, to: all.count, by: max(step, 1)).map { all[$0] }
    }

    public func run(_ point: KillPoint) throws -> Outcome { try Simulation(scenario(point)).run() }
    public func runUndisturbed() throws -> Outcome { try Simulation(scenario(nil)).run() }
}

extension Simulation {
    func play(_ step: ScriptStep) {
        // A server that is down is told when it is up again.
        if server.engine == nil, step.started == nil,
            let number = scenario.script.firstIndex(where: { $0.step == step })
        {
            return queue.schedule(.step(number), at: now + .seconds(1))
        }
        switch step {
        case .start(let member): start(members[member])
        case .rekey(let group, let includingKEK): rekey("g\(group)", includingKEK: includingKEK)
        case .revoke(let member): if let engine = server.engine { revoke(members[member], engine) }
        }
    }

    /// Counts what the server does, and kills it where the scenario says so.
    /// - Returns: whether it is dead.
    func dies(at output: ServerOutput) -> Bool {
        switch output {
        case .persist, .transmit: break
        default: return false
        }
        let effect = server.effects
        server.effects += 1
        guard let kill = scenario.kill else { return false }
        let again = kill.again.map { kill.effect + 1 + $0 }
        guard effect == kill.effect || effect == again else { return false }
        if kill.isAfter { take(output) }
        stopServer()
        queue.schedule(.restartServer, at: now + .milliseconds(300))
        return true
    }
}
