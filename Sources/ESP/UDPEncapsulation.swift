// SPDX-License-Identifier: Apache-2.0

extension UDPEncapsulation {
    /// Octets of the UDP header, which stands between the outer IP header and ESP.
    public static let headerSize = 8
}

/// What a datagram is that came to the port which ESP and key exchange share behind address translators.
///
/// spec: RFC 3948 2.2, 2.3, 2.4 - no SPI is 0, so four octets 0 mark a message of key exchange; one octet 0xFF keeps a
/// translator's mapping alive, and is ignored.
public enum PayloadInUDP: Sendable, Hashable {
    case esp, keepalive
    /// Anything else is for key exchange to judge.
    case keyExchange

    /// What a keepalive is.
    public static let keepaliveOctets: [UInt8] = [0xff]

    public init(reading payload: Span<UInt8>) {
        if payload.count == 1, payload[0] == 0xff {
            self = .keepalive
        } else if payload.count >= ESPHeader.iv, payload.u32(at: ESPHeader.spi) != 0 {
            self = .esp
        } else {
            self = .keyExchange
        }
    }
}
