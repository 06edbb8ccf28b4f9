// SPDX-License-Identifier: Apache-2.0

public import Basics

// ISAKMP owns the wire format of RFC 2408 and its GDOI extensions (RFC 6407): header, payloads, attributes; bytes to
// values and back. It knows no key and no state. Readers throw on whatever is malformed and never trap.

/// Exchange types (RFC 2408 3.1; 240 to 255 are for private use).
public struct ExchangeType: RawRepresentable, Hashable, Sendable {
    public var rawValue: UInt8
    public init(rawValue: UInt8) { self.rawValue = rawValue }

    public static let mainMode = ExchangeType(rawValue: 2)
    public static let aggressive = ExchangeType(rawValue: 4)
    public static let informational = ExchangeType(rawValue: 5)
    /// FMKE phase 2, unicast, GCKS to client. Ours.
    public static let configure = ExchangeType(rawValue: 240)
    /// FMKE phase 3, multicast, GCKS to group. Ours.
    public static let push = ExchangeType(rawValue: 241)
    /// FMKE feedback, unicast, client to GCKS. Ours.
    public static let status = ExchangeType(rawValue: 242)
}

/// Payload types (RFC 2408 3.1, RFC 3947, RFC 6407; 128 to 255 are for private use, of which 130 to 132 are taken in
/// practice).
public struct PayloadType: RawRepresentable, Hashable, Sendable {
    public var rawValue: UInt8
    public init(rawValue: UInt8) { self.rawValue = rawValue }

    public static let none = PayloadType(rawValue: 0)
    public static let securityAssociation = PayloadType(rawValue: 1)
    public static let proposal = PayloadType(rawValue: 2)
    public static let transform = PayloadType(rawValue: 3)
    public static let keyExchange = PayloadType(rawValue: 4)
    public static let identification = PayloadType(rawValue: 5)
    public static let hash = PayloadType(rawValue: 8)
    public static let signature = PayloadType(rawValue: 9)
    public static let nonce = PayloadType(rawValue: 10)
    public static let notification = PayloadType(rawValue: 11)
    public static let delete = PayloadType(rawValue: 12)
    public static let vendorID = PayloadType(rawValue: 13)
    public static let rekeySA = PayloadType(rawValue: 15)
    public static let dataSA = PayloadType(rawValue: 16)
    public static let keyDownload = PayloadType(rawValue: 17)
    public static let natDiscovery = PayloadType(rawValue: 20)
    public static let groupAssociatedPolicy = PayloadType(rawValue: 22)
    /// FMKE's own.
    public static let profile = PayloadType(rawValue: 133)
    public static let membership = PayloadType(rawValue: 134)
    public static let acknowledgement = PayloadType(rawValue: 135)
    public static let transaction = PayloadType(rawValue: 136)
    public static let parity = PayloadType(rawValue: 137)
    public static let report = PayloadType(rawValue: 138)
    public static let digest = PayloadType(rawValue: 139)
    public static let succession = PayloadType(rawValue: 140)
    public static let vpn = PayloadType(rawValue: 141)

    /// RFC 2408 3.1: 128 to 255.
    public var isPrivate: Bool { rawValue >= 128 }
}

/// A payload without its generic header: type and body.
public struct RawPayload: Hashable, Sendable {
    public var type: PayloadType
    public var body: [UInt8]

    public init(_ type: PayloadType, _ body: [UInt8]) {
        self.type = type
        self.body = body
    }
}

/// The ISAKMP header, 28 octets (RFC 2408 3.1).
public struct Header: Hashable, Sendable {
    public static let size = 28
    /// Major 1, minor 0.
    public static let version: UInt8 = 0x10

    public var initiatorCookie: UInt64
    public var responderCookie: UInt64
    public var nextPayload: PayloadType
    public var exchange: ExchangeType
    /// Bit 0: all behind the header is encrypted.
    public var flags: UInt8
    public var messageID: UInt32
    /// Of the whole message, header and encryption padding included, in octets.
    public var length: UInt32

    public static let encryptionFlag: UInt8 = 0x01

    public init(
        initiatorCookie: UInt64, responderCookie: UInt64, nextPayload: PayloadType, exchange: ExchangeType,
        flags: UInt8, messageID: UInt32, length: UInt32
    ) {
        self.initiatorCookie = initiatorCookie
        self.responderCookie = responderCookie
        self.nextPayload = nextPayload
        self.exchange = exchange
        self.flags = flags
        self.messageID = messageID
        self.length = length
    }
}

/// What an identification payload says (RFC 2407 4.6.2). Protocol and port are 0 in ours.
public enum Identity: Hashable, Sendable {
    case address(IPAddress)
    /// ID_FQDN: how clients and the GCKS name themselves.
    case name(String)
    /// ID_USER_FQDN.
    case user(String)
    case subnet(IPPrefix)
    case keyID([UInt8])
    /// Any other type, unread.
    case other(type: UInt8, data: [UInt8])
}
