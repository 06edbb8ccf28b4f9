// SPDX-License-Identifier: Apache-2.0

/// One rule of a client's own security policy (RFC 4301 4.4.1), which stands before the flows that the GCKS gives it.
/// Of an ordered list the first rule that names a packet decides; without one, the GCKS's flows do, and what they do
/// not name is discarded.
public struct PolicyRule: Sendable, Hashable {
    public enum Action: String, Sendable, Hashable, CaseIterable {
        /// As if there were no rule: by the SA of the GCKS's flow, or not at all.
        case protect
        /// In clear, by the system's own routing, and the answers too. No packet of the tunnel.
        case bypass
        /// Not at all, in either direction.
        case discard
    }

    public var action: Action
    /// As packets go to the satellite: the source is on the client's side.
    public var selector: TrafficSelector

    public init(_ action: Action, _ selector: TrafficSelector) {
        self.action = action
        self.selector = selector
    }
}

extension TrafficSelector {
    /// The same packets on their way back.
    public var reversed: TrafficSelector {
        TrafficSelector(
            source: destination, destination: source, ipProtocol: ipProtocol, sourcePort: destinationPort,
            destinationPort: sourcePort)
    }

    /// Does every packet that `other` names match?
    public func covers(_ other: TrafficSelector) -> Bool {
        func holds(_ outer: IPPrefix, _ inner: IPPrefix) -> Bool {
            outer.length <= inner.length && outer.contains(inner.address)
        }
        func matches<Value: BinaryInteger>(_ outer: Value, _ inner: Value) -> Bool { outer == 0 || outer == inner }
        return holds(source, other.source) && holds(destination, other.destination)
            && matches(ipProtocol, other.ipProtocol) && matches(sourcePort, other.sourcePort)
            && matches(destinationPort, other.destinationPort)
    }
}
