// SPDX-License-Identifier: Apache-2.0

import Basics
import Cryptography
import ESP

/// First octet even: the rest is an outer IPv4 datagram with ESP. Odd: the rest is the plain text of an ESP packet,
/// padding and trailer included, which is sealed under the SA's key.
enum ESPTarget {
    private static let key = Fixture.counting(from: 0x40, 36)
    private static let spi: UInt32 = 0x1001
    private static let selector: TrafficSelector = {
        guard let source = IPPrefix("198.51.100.0/24"), let destination = IPPrefix("239.1.1.1/32") else {
            fatalError("these are prefixes")
        }
        return TrafficSelector(source: source, destination: destination, ipProtocol: 17, destinationPort: 5_004)
    }()

    private static func database() -> SecurityAssociationDatabase {
        let database = SecurityAssociationDatabase(localAddress: .v4(192, 0, 2, 2), random: SeededRandom(seed: 1))
        let parameters = SAParameters(
            key: SAKey(spi: spi, destination: .v4(239, 1, 1, 1)), selector: selector, suite: .aes256gcm,
            cipherKey: Secret(key), authenticationKey: nil, source: nil, senderID: 0, name: "news")
        Fixture.made { try database.apply(.addInbound(parameters)) }
        return database
    }

    static func run(_ octets: [UInt8]) {
        guard let kind = octets.first else { return }
        let rest = Array(octets.dropFirst())
        var buffer = kind & 1 == 0 ? rest : outer(sealed(rest))
        let count = buffer.count
        let database = database()
        var inner = 0..<0
        do {
            var span = buffer.mutableSpan
            guard let range = try? database.decapsulate(in: &span, datagram: 0..<count, now: .zero) else { return }
            inner = range
        }
        let packet = Array(buffer[inner])
        guard let read = try? InnerPacket(reading: packet.span) else {
            return demand(false, "what comes out is a packet")
        }
        demand(
            selector.source.contains(read.source) && selector.destination.contains(read.destination)
                && read.ipProtocol == 17 && read.count == packet.count, "what comes out is the selector's")
    }

    /// ESP with a valid tag around any plain text.
    private static func sealed(_ plain: [UInt8]) -> [UInt8] {
        let header: [UInt8] = [0, 0, 0x10, 0x01, 0, 0, 0, 9]
        let vector: [UInt8] = [0, 0, 0, 0, 0, 0, 0, 9]
        let text = Fixture.made {
            try AESGCM.seal(plain, key: Secret(key[..<32]), nonce: Array(key[32...]) + vector, aad: header)
        }
        return header + vector + text
    }

    private static func outer(_ payload: [UInt8]) -> [UInt8] {
        let count = 20 + payload.count
        let header: [UInt8] = [
            0x45, 0, UInt8(truncatingIfNeeded: count >> 8), UInt8(truncatingIfNeeded: count), 0, 0, 0x40, 0, 16, 50, 0,
            0, 192, 0, 2, 1, 239, 1, 1, 1,
        ]
        return header + payload
    }

    static let seeds: [[UInt8]] = {
        let udp: [UInt8] = [0x13, 0x88, 0x13, 0x8c, 0, 12, 0, 0, 1, 2, 3, 4]
        let inner: [UInt8] =
            [0x45, 0, 0, 32, 0, 0, 0x40, 0, 16, 17, 0, 0, 198, 51, 100, 7, 239, 1, 1, 1] + udp
        let plain = inner + [1, 2, 2, 4]
        return [[1] + plain, [0] + outer(sealed(plain)), [1] + inner + [0, 4]]
    }()
}
