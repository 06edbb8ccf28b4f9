// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import Cryptography
internal import FMKE

/// What an operator sees of VPNs.
extension KeyServer {
    func state(of vpn: VPNState, now: Instant) -> String {
        if vpn.phase == .removed || vpn.entry.ends.contains(where: { clients[$0]?.isRevoked != false }) {
            return "revoked"
        }
        let live = vpn.generations.filter { $0.endsAt > now }
        guard !live.isEmpty else { return "down" }
        let areThere = vpn.entry.ends.allSatisfy { clients[$0]?.association != nil }
        return areThere && live.contains { $0.isActive && $0.lostBy.isEmpty } ? "up" : "half"
    }

    func describe(_ vpn: VPNState, now: Instant) -> ServerSnapshot.VPN {
        let live = vpn.generations.filter { $0.endsAt > now }
        let shown = live.last(where: \.isActive) ?? live.last
        func spis(from end: Int) -> [String] { shown?.sas.filter { $0.from == end }.map { spiText($0.sa.spi) } ?? [] }
        return ServerSnapshot.VPN(
            name: vpn.entry.name, id: vpn.entry.id,
            ends: vpn.entry.ends.enumerated().map { index, name in
                ServerSnapshot.VPN.End(
                    client: name, isRegistered: clients[name]?.association != nil,
                    inboundSPIs: spis(from: 1 - index), outboundSPIs: spis(from: index))
            }, state: state(of: vpn, now: now), flows: vpn.entry.flows.map(\.description),
            suite: vpn.entry.suite.rawValue, extendedSequence: vpn.entry.extendedSequence,
            isEncapsulated: shown?.path.isEncapsulated ?? false, transaction: vpn.transaction,
            openTransactions: vpn.changes.map(\.transaction),
            expiresInSeconds: shown.map { ($0.endsAt - now).inSeconds },
            nextRekeySeconds: due(vpn, now: now).map { max(($0.at - now).inSeconds, 0) },
            lastVerdict: vpn.lastVerdict)
    }

    func describeSAs(of vpn: VPNState, now: Instant) -> [ServerSnapshot.SA] {
        vpn.generations.filter { $0.endsAt > now }.flatMap { generation in
            generation.sas.map { item in
                ServerSnapshot.SA(
                    group: vpn.entry.name, spi: spiText(item.sa.spi), flow: item.sa.selector.description,
                    suite: item.sa.suite.rawValue, transaction: generation.transaction,
                    state: !generation.isActive ? "pending" : generation.removeAt != nil ? "old" : "active",
                    expiresInSeconds: (generation.endsAt - now).inSeconds, from: vpn.entry.ends[item.from])
            }
        }
    }
}
