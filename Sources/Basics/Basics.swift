// SPDX-License-Identifier: Apache-2.0

// Basics owns the vocabulary that every other module speaks: instants, randomness, IP addresses and prefixes, traffic
// selectors, octet readers and writers, and the limits. It imports nothing but the standard library.

/// A UDP datagram with both its ends, as an engine takes it in or gives it out.
public struct Datagram: Sendable, Hashable {
    /// Our end: the address and port it was sent to, or shall be sent from. `0.0.0.0` or `::` lets the system choose.
    public var local: SocketAddress
    /// The other end: where it came from, or where it shall go (a group's control address for a multicast).
    public var remote: SocketAddress
    /// The UDP payload.
    public var bytes: [UInt8]

    public init(local: SocketAddress, remote: SocketAddress, bytes: [UInt8]) {
        self.local = local
        self.remote = remote
        self.bytes = bytes
    }
}
