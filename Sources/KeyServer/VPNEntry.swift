// SPDX-License-Identifier: Apache-2.0

public import Basics
public import Cryptography

/// A VPN, a tunnel between two clients, as the operator declares it.
public struct VPNEntry: Sendable, Equatable {
    public var name: String
    /// From one number space with the ids of groups: answers and reports name both alike.
    public var id: UInt32
    /// Two clients by name.
    public var ends: [String]
    /// From the first end's side to the second's; each is protected in both directions, by one SA each.
    public var flows: [TrafficSelector]
    public var suite: ESPSuite
    /// Sequence numbers of 64 bits (RFC 4303 2.2.1).
    public var extendedSequence = true
    public var lifetime: Duration = .seconds(3_600)
    /// In octets; nil for the suite's own limit.
    public var volume: UInt64?
    /// How long replaced SAs go on receiving when both ends have moved.
    public var keepOld: Duration = .seconds(5)

    public init(name: String, id: UInt32, ends: [String], flows: [TrafficSelector], suite: ESPSuite) {
        self.name = name
        self.id = id
        self.ends = ends
        self.flows = flows
        self.suite = suite
    }

    /// The end's number, 0 or 1; nil for a client that is none.
    func end(_ client: String) -> Int? { ends.firstIndex(of: client) }
}

extension TrafficSelector {
    /// The way back.
    public var mirrored: TrafficSelector {
        TrafficSelector(
            source: destination, destination: source, ipProtocol: ipProtocol, sourcePort: destinationPort,
            destinationPort: sourcePort)
    }
}
