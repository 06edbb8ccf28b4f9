// SPDX-License-Identifier: Apache-2.0

internal import Basics

/// Notify message types (RFC 2408 3.14.1, RFC 2407 4.6.3, RFC 3706 5.4).
public struct NotifyType: RawRepresentable, Hashable, Sendable {
    public var rawValue: UInt16
    public init(rawValue: UInt16) { self.rawValue = rawValue }

    public static let noProposalChosen = NotifyType(rawValue: 14)
    public static let authenticationFailed = NotifyType(rawValue: 24)
    public static let initialContact = NotifyType(rawValue: 24_578)
    public static let areYouThere = NotifyType(rawValue: 36_136)
    public static let areYouThereAcknowledgement = NotifyType(rawValue: 36_137)

    /// Errors stand below the status types (RFC 2408 3.14.1).
    public var isError: Bool { rawValue < 16_384 }
}

/// A notification payload's body (RFC 2408 3.14).
public struct Notification: Hashable, Sendable {
    public var doi: UInt32
    public var protocolID: UInt8
    /// 255 octets at most; the two cookies for an ISAKMP SA.
    public var spi: [UInt8]
    public var type: NotifyType
    public var data: [UInt8]

    public init(
        doi: UInt32 = SecurityAssociation.ipsecDOI, protocolID: UInt8 = Proposal.isakmp, spi: [UInt8] = [],
        type: NotifyType, data: [UInt8] = []
    ) {
        self.doi = doi
        self.protocolID = protocolID
        self.spi = spi
        self.type = type
        self.data = data
    }

    /// Throws `.malformed` when the body is too short for its fields.
    public init(body: [UInt8]) throws(ISAKMPError) {
        var reader = OctetReader(body)
        do throws(Truncated) {
            doi = try reader.u32()
            protocolID = try reader.u8()
            let spiSize = Int(try reader.u8())
            type = NotifyType(rawValue: try reader.u16())
            spi = try reader.bytes(spiSize)
        } catch {
            throw .malformed
        }
        data = reader.remainder()
    }

    public func body() -> [UInt8] {
        precondition(spi.count <= 0xff, "the SPI size fits its octet")
        var writer = OctetWriter()
        writer.u32(doi)
        writer.u8(protocolID)
        writer.u8(UInt8(spi.count))
        writer.u16(type.rawValue)
        writer.append(spi)
        writer.append(data)
        return writer.bytes
    }
}

/// A delete payload's body (RFC 2408 3.15): SAs of one protocol that the sender has given up.
public struct DeletePayload: Hashable, Sendable {
    public var doi: UInt32
    public var protocolID: UInt8
    /// All of one size; the two cookies for an ISAKMP SA.
    public var spis: [[UInt8]]

    public init(doi: UInt32 = SecurityAssociation.ipsecDOI, protocolID: UInt8 = Proposal.isakmp, spis: [[UInt8]]) {
        self.doi = doi
        self.protocolID = protocolID
        self.spis = spis
    }

    /// Throws `.malformed` when size and number of the SPIs do not give the length of the body, or either is 0.
    public init(body: [UInt8]) throws(ISAKMPError) {
        var reader = OctetReader(body)
        do throws(Truncated) {
            doi = try reader.u32()
            protocolID = try reader.u8()
            let size = Int(try reader.u8())
            let count = Int(try reader.u16())
            guard size > 0, count > 0, size * count == reader.count else { throw Truncated() }
            spis = []
            for _ in 0..<count { spis.append(try reader.bytes(size)) }
        } catch {
            throw .malformed
        }
    }

    public func body() -> [UInt8] {
        let size = spis.first?.count ?? 0
        precondition(
            (1...0xff).contains(size) && spis.count <= 0xffff && spis.allSatisfy { $0.count == size },
            "SPIs are of one size and fit their fields")
        var writer = OctetWriter()
        writer.u32(doi)
        writer.u8(protocolID)
        writer.u8(UInt8(size))
        writer.u16(UInt16(spis.count))
        for spi in spis { writer.append(spi) }
        return writer.bytes
    }
}
