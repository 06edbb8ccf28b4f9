// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import Cryptography
internal import ISAKMP

/// Who stands behind a network address translator.
struct NATSituation: Equatable {
    var weAreBehind = false
    var peerIsBehind = false
    var isOnPath: Bool { weAreBehind || peerIsBehind }
}

/// RFC 3947: finding address translators, and the framing on their port.
enum NATTraversal {
    /// Stands before an ISAKMP message on the NAT-T port, where ESP packets begin with an SPI (RFC 3948 2.2).
    static let nonESPMarker: [UInt8] = [0, 0, 0, 0]
    /// One octet that keeps a mapping alive (RFC 3948 2.3).
    static let keepAlive: [UInt8] = [0xff]

    /// The NAT-D payloads of one message: the other end as we see it, then ourselves (RFC 3947 3.2).
    static func payloads(
        _ hash: HashAlgorithm, _ id: AssociationID, local: SocketAddress, remote: SocketAddress
    ) -> [RawPayload] {
        [remote, local].map { RawPayload(.natDiscovery, digest(hash, id, $0)) }
    }

    /// Compares what the peer sent with what we see. With fewer than two payloads the peer does not take part.
    static func situation(
        _ hash: HashAlgorithm, _ id: AssociationID, local: SocketAddress, remote: SocketAddress, received: [[UInt8]]
    ) -> NATSituation {
        guard let ours = received.first, received.count >= 2 else { return NATSituation() }
        return NATSituation(
            weAreBehind: ours != digest(hash, id, local),
            peerIsBehind: !received.dropFirst().contains(digest(hash, id, remote)))
    }

    private static func digest(_ hash: HashAlgorithm, _ id: AssociationID, _ end: SocketAddress) -> [UInt8] {
        var port = OctetWriter()
        port.u16(end.port)
        return hash.digest(id.initiatorOctets, id.responderOctets, end.address.octets, port.bytes)
    }
}

extension AssociationID {
    var initiatorOctets: [UInt8] { Self.octets(initiatorCookie) }
    var responderOctets: [UInt8] { Self.octets(responderCookie) }
    /// Both cookies, the SPI of the ISAKMP SA.
    var octets: [UInt8] { initiatorOctets + responderOctets }

    private static func octets(_ cookie: UInt64) -> [UInt8] {
        var writer = OctetWriter()
        writer.u64(cookie)
        return writer.bytes
    }
}

/// What the peer said it can do.
struct PeerFeatures: Equatable {
    /// RFC 3706.
    static let deadPeerDetection: [UInt8] = [
        0xaf, 0xca, 0xd7, 0x13, 0x68, 0xa1, 0xf1, 0xc9, 0x6b, 0x86, 0x96, 0xfc, 0x77, 0x57, 0x01, 0x00,
    ]
    /// The MD5 of "RFC 3947".
    static let natTraversal: [UInt8] = [
        0x4a, 0x13, 0x1c, 0x81, 0x07, 0x03, 0x58, 0x45, 0x5c, 0x57, 0x28, 0xf2, 0x0e, 0x95, 0x45, 0x2f,
    ]

    var hasDeadPeerDetection = false
    var hasNATTraversal = false

    /// Everything we can do.
    static let ours = PeerFeatures(hasDeadPeerDetection: true, hasNATTraversal: true)

    init(hasDeadPeerDetection: Bool = false, hasNATTraversal: Bool = false) {
        self.hasDeadPeerDetection = hasDeadPeerDetection
        self.hasNATTraversal = hasNATTraversal
    }

    /// From the vendor ids of a message; unknown ones mean nothing (RFC 2408 3.16).
    init(_ payloads: [RawPayload]) {
        for payload in payloads where payload.type == .vendorID {
            if payload.body == Self.deadPeerDetection { hasDeadPeerDetection = true }
            if payload.body == Self.natTraversal { hasNATTraversal = true }
        }
    }

    var payloads: [RawPayload] {
        (hasDeadPeerDetection ? [RawPayload(.vendorID, Self.deadPeerDetection)] : [])
            + (hasNATTraversal ? [RawPayload(.vendorID, Self.natTraversal)] : [])
    }
}
