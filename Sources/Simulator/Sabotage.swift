// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import ESP
internal import GroupMember
internal import KeyServer
internal import Store

/// What is broken on purpose to see that a checker finds it. The engines are as they are; what is around them is not
/// what they may rely on, or somebody has what nobody may have.
public enum Sabotage: Sendable, CaseIterable {
    /// (a) A member is never heard again, though the faults are over.
    case deadUplink
    /// (b) Somebody has the signing key of the GCKS.
    case stolenSigningKey
    /// (c) The GCKS loses its records, and its clock goes back by a day.
    case clockBack
    /// (c) A data plane starts the counter of an SA anew.
    case restartedCounter
    /// (d) The GCKS loses its records, and a revoked client is still in the file.
    case forgottenRevocation
    /// (d) A member tells a revoked one the KEK.
    case leakedKEK
    /// (d) A member tells a revoked one the root key of the tree, from which KEK and data keys follow.
    case leakedRoot
    /// (d) A member that was there all the time passes for a newcomer, which is to know nothing of that.
    case falseNewcomer
    /// (e) A data plane says again and again that its SA is worn out.
    case babbler
    /// (f) A data plane loses an SA without a word.
    case lostSA
    /// (f) The same with an SA of a VPN.
    case lostVPNSA
    /// (g) The store of the GCKS loses a client, or a group's state.
    case lostClient, lostGroup
    /// (g) The GCKS ends the ISAKMP SA of a client that may be one.
    case wrongGoodbye

    /// The letter of the checker that must find it.
    public var checker: String {
        switch self {
        case .deadUplink: "a"
        case .stolenSigningKey: "b"
        case .clockBack, .restartedCounter: "c"
        case .forgottenRevocation, .leakedKEK, .leakedRoot, .falseNewcomer: "d"
        case .babbler: "e"
        case .lostSA, .lostVPNSA: "f"
        case .lostClient, .lostGroup, .wrongGoodbye: "g"
        }
    }
}

extension Simulation {
    func commitSabotage() {
        guard let sabotage = scenario.sabotage, let last = members.last, let engine = server.engine else { return }
        say("sim.sabotage", "\(sabotage)")
        switch sabotage {
        case .deadUplink: network.update(last.terminal) { $0.isMute = true }
        case .stolenSigningKey: forge(faultRandom, with: signingKey)
        case .clockBack:
            setBack = 86_400_000_000
            stopServer()
            startServer(keepingRecords: false)
        case .restartedCounter:
            for member in members {
                guard let key = member.active.values.first, let parameters = member.outbound[key] else { continue }
                observe(.dataChanged(member.number, .addOutbound(parameters)))
                observe(.dataChanged(member.number, .activateOutbound(key)))
            }
        case .forgottenRevocation:
            revoke(last, engine)
            stopServer()
            last.isRevoked = false
            startServer(keepingRecords: false)
        case .leakedKEK:
            revoke(last, engine)
            knowledge.tellCurrent(last.number)
        case .leakedRoot:
            revoke(last, engine)
            knowledge.tellRoot(last.number)
        case .falseNewcomer: knowledge.passForNewcomer(last.number, 0)
        case .babbler:
            guard let sender = members.first(where: { !$0.active.isEmpty }), let key = sender.active.first?.value else {
                return
            }
            for _ in 0..<200 {
                sender.engine?.wearsOut(key, now: sender.clock.local(now))
                drain(sender)
            }
        case .lostClient:
            stopServer()
            server.store.apply([.remove("client/\(last.name)/state")])
            startServer(keepingRecords: true)
        case .lostGroup:
            stopServer()
            server.store.apply([.remove("group/\(Directory.groupID(0))/state")])
            startServer(keepingRecords: true)
        case .wrongGoodbye:
            // A revocation that nobody ordered.
            _ = try? engine.revoke(client: last.name, now: now)
            drainServer()
        case .lostSA:
            for key in members.flatMap(\.active.values) { last.inbound[key] = nil }
            observe(.dataChanged(last.number, .removeAll))
        case .lostVPNSA:
            for key in last.inbound.keys where !key.destination.isMulticast { last.inbound[key] = nil }
            observe(.dataChanged(last.number, .removeAll))
        }
    }
}
