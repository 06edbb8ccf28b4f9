// SPDX-License-Identifier: Apache-2.0

public import FMKE

extension PushSender {
    /// What the first round is going to multicast, datagram by datagram, before any of it was sent: the kind, and the
    /// octets of the body. Nothing in a transaction that goes by unicast alone.
    public var forecast: [(kind: TransactionHeader.Kind, octets: Int)] {
        var copy = self
        var datagrams: [(kind: TransactionHeader.Kind, octets: Int)] = []
        while case .sending = copy.state {
            if case .multicast(let header, let body) = copy.send(now: startedAt) {
                datagrams.append((header.kind, body.count))
            }
        }
        return datagrams
    }
}
