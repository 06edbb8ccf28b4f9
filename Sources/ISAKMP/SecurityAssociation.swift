// SPDX-License-Identifier: Apache-2.0

internal import Basics

/// One way to protect phase 1: a transform payload's body (RFC 2408 3.6).
public struct Transform: Hashable, Sendable {
    /// KEY_IKE, the only transform of PROTO_ISAKMP (RFC 2407 4.4.2).
    public static let keyIKE: UInt8 = 1

    public var number: UInt8
    public var transformID: UInt8
    /// Each in the form it came in, so that an echo is the same octet for octet.
    public var attributes: [DataAttribute]

    public init(number: UInt8, transformID: UInt8 = keyIKE, attributes: [DataAttribute]) {
        self.number = number
        self.transformID = transformID
        self.attributes = attributes
    }

    /// Throws `.malformed` for cut attributes and for reserved octets that are not 0.
    public init(body: [UInt8]) throws(ISAKMPError) {
        var reader = OctetReader(body)
        do throws(Truncated) {
            number = try reader.u8()
            transformID = try reader.u8()
            guard try reader.u16() == 0 else { throw Truncated() }
        } catch {
            throw .malformed
        }
        attributes = try DataAttribute.parse(reader.rest)
    }

    public func body() -> [UInt8] { [number, transformID, 0, 0] + DataAttribute.encode(attributes) }
}

/// The transforms for one protocol: a proposal payload's body (RFC 2408 3.5).
public struct Proposal: Hashable, Sendable {
    /// PROTO_ISAKMP (RFC 2407 4.4.1).
    public static let isakmp: UInt8 = 1

    public var number: UInt8
    public var protocolID: UInt8
    /// Empty in phase 1; a reader keeps what is there (RFC 2408 3.5 allows up to 16 octets, to be ignored).
    public var spi: [UInt8]
    /// 255 at most.
    public var transforms: [Transform]

    public init(number: UInt8, protocolID: UInt8 = isakmp, spi: [UInt8] = [], transforms: [Transform]) {
        self.number = number
        self.protocolID = protocolID
        self.spi = spi
        self.transforms = transforms
    }

    /// Throws `.malformed` when anything in the body does not fit its lengths and counts.
    public init(body: [UInt8]) throws(ISAKMPError) {
        var reader = OctetReader(body)
        let count: Int
        do throws(Truncated) {
            number = try reader.u8()
            protocolID = try reader.u8()
            let spiSize = Int(try reader.u8())
            count = Int(try reader.u8())
            spi = try reader.bytes(spiSize)
        } catch {
            throw .malformed
        }
        transforms = []
        let first: PayloadType = count == 0 ? .none : .transform
        for payload in try PayloadChain.parse(first: first, reader.rest, limit: count, allowPadding: false) {
            guard payload.type == .transform else { throw .malformed }
            transforms.append(try Transform(body: payload.body))
        }
        guard transforms.count == count else { throw .malformed }
    }

    public func body() -> [UInt8] {
        precondition(spi.count <= 0xff && transforms.count <= 0xff, "SPI size and number of transforms fit an octet")
        let head = [number, protocolID, UInt8(spi.count), UInt8(transforms.count)] + spi
        return head + PayloadChain.encode(transforms.map { RawPayload(.transform, $0.body()) }).octets
    }
}

/// What one side offers, or the other chose: an SA payload's body in phase 1 (RFC 2408 3.4, RFC 2407 4.6.1).
public struct SecurityAssociation: Hashable, Sendable {
    /// Domains of interpretation.
    public static let ipsecDOI: UInt32 = 1
    public static let gdoi: UInt32 = 2
    /// SIT_IDENTITY_ONLY (RFC 2407 4.2).
    public static let identityOnly: UInt32 = 1

    public var doi: UInt32
    public var situation: UInt32
    public var proposals: [Proposal]

    public init(doi: UInt32 = ipsecDOI, situation: UInt32 = identityOnly, proposals: [Proposal]) {
        self.doi = doi
        self.situation = situation
        self.proposals = proposals
    }

    /// Reads at most `limit` proposals. Throws `.malformed`, and `.tooManyPayloads` above the limit.
    public init(body: [UInt8], limit: Int) throws(ISAKMPError) {
        var reader = OctetReader(body)
        do throws(Truncated) {
            doi = try reader.u32()
            situation = try reader.u32()
        } catch {
            throw .malformed
        }
        proposals = []
        for payload in try PayloadChain.parse(first: .proposal, reader.rest, limit: limit, allowPadding: false) {
            guard payload.type == .proposal else { throw .malformed }
            proposals.append(try Proposal(body: payload.body))
        }
    }

    public func body() -> [UInt8] {
        var writer = OctetWriter()
        writer.u32(doi)
        writer.u32(situation)
        writer.append(PayloadChain.encode(proposals.map { RawPayload(.proposal, $0.body()) }).octets)
        return writer.bytes
    }
}
