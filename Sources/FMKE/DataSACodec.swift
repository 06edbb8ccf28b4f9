// SPDX-License-Identifier: Apache-2.0

import Basics
import Cryptography
import ISAKMP

// A data SA on the wire: SAT (RFC 6407 5.5) and the TEK packet in KD (5.6.1).
//
//     SAT: protocol 1 = ESP | IP protocol 1 | source id | destination id | transform 1 | SPI 4 | attributes

extension DataSA {
    /// In whose section it stands: the two differ in a few attributes.
    enum Use {
        case group, vpn

        fileprivate var preservation: UInt16 {
            self == .group ? GDOI.preserveDestination : GDOI.preserveNone
        }
    }

    private static let known: Set<UInt16> = [
        GDOI.SATAttribute.lifeType, GDOI.SATAttribute.lifeDuration, GDOI.SATAttribute.encapsulation,
        GDOI.SATAttribute.authentication, GDOI.SATAttribute.keyLength, GDOI.SATAttribute.addressPreservation,
        GDOI.SATAttribute.direction, GDOI.SATAttribute.activateIn, GDOI.SATAttribute.deactivateIn,
    ]

    func policyBody(_ use: Use) -> [UInt8] {
        var writer = OctetWriter()
        writer.u8(GDOI.esp)
        writer.u8(selector.ipProtocol)
        writer.identification(selector.source, port: selector.sourcePort)
        writer.identification(selector.destination, port: selector.destinationPort)
        writer.u8(suite.transformID)
        writer.u32(spi)
        var attributes = [
            DataAttribute.basic(GDOI.SATAttribute.lifeType, GDOI.lifeSeconds),
            .u32(GDOI.SATAttribute.lifeDuration, lifetimeSeconds),
        ]
        if let lifetimeKilobytes {
            attributes += [
                .basic(GDOI.SATAttribute.lifeType, GDOI.lifeKilobytes),
                .u32(GDOI.SATAttribute.lifeDuration, lifetimeKilobytes),
            ]
        }
        attributes.append(.basic(GDOI.SATAttribute.encapsulation, GDOI.tunnel))
        if let authentication = suite.authenticationID {
            attributes.append(.basic(GDOI.SATAttribute.authentication, authentication))
        }
        if let keyLength = suite.keyLength { attributes.append(.basic(GDOI.SATAttribute.keyLength, keyLength)) }
        if extendedSequence { attributes.append(.basic(GDOI.SATAttribute.extendedSequence, GDOI.longSequence)) }
        attributes += [
            .basic(GDOI.SATAttribute.addressPreservation, use.preservation),
            .basic(GDOI.SATAttribute.direction, direction.rawValue),
        ]
        if activateInMilliseconds > 0 {
            attributes.append(.u32(GDOI.SATAttribute.activateIn, activateInMilliseconds))
        }
        if let deactivateInMilliseconds {
            attributes.append(.u32(GDOI.SATAttribute.deactivateIn, deactivateInMilliseconds))
        }
        writer.append(DataAttribute.encode(attributes))
        return writer.bytes
    }

    init(policy: [UInt8], _ use: Use, keys: inout KeyPacketReader) throws(FMKEError) {
        var reader = FieldReader(policy)
        guard try reader.u8() == GDOI.esp else { throw .unsupported }
        let ipProtocol = try reader.u8()
        let (source, sourcePort) = try reader.identification()
        let (destination, destinationPort) = try reader.identification()
        let transformID = try reader.u8()
        let spi = try reader.u32()
        let attributes = try Attributes(reader.remainder(), use, transformID: transformID)

        var packet = try keys.next(
            GDOI.KeyPacketType.tek, spi: spi.bigEndianOctets,
            known: [GDOI.KeyAttribute.tekKey, GDOI.KeyAttribute.tekIntegrityKey])
        // Without encryption there is no key of a cipher.
        let hasCipherKey = attributes.suite.cipherKeySize > 0
        let cipherKey = Secret(hasCipherKey ? try packet.octets(GDOI.KeyAttribute.tekKey) : [])
        var authenticationKey: Secret?
        if packet.isNext(GDOI.KeyAttribute.tekIntegrityKey) {
            authenticationKey = Secret(try packet.octets(GDOI.KeyAttribute.tekIntegrityKey))
        }
        try packet.end()

        let selector = TrafficSelector(
            source: source, destination: destination, ipProtocol: ipProtocol, sourcePort: sourcePort,
            destinationPort: destinationPort)
        self.init(
            spi: spi, selector: selector, suite: attributes.suite, direction: attributes.direction,
            lifetimeSeconds: attributes.lifetimeSeconds, lifetimeKilobytes: attributes.lifetimeKilobytes,
            cipherKey: cipherKey, authenticationKey: authenticationKey)
        extendedSequence = attributes.extendedSequence
        activateInMilliseconds = attributes.activateInMilliseconds
        deactivateInMilliseconds = attributes.deactivateInMilliseconds
    }

    func check(_ use: Use) throws(FMKEError) {
        switch use {
        case .group: guard !extendedSequence else { throw .malformed }
        case .vpn:
            // The receiver of an SA has no time at which to begin.
            guard direction != .symmetric, direction == .sender || activateInMilliseconds == 0 else {
                throw .malformed
            }
        }
        guard spi >= Wire.smallestSPI, selector.source.address.isV4 == selector.destination.address.isV4,
            lifetimeSeconds > 0, lifetimeKilobytes != 0, cipherKey.count == suite.cipherKeySize,
            (authenticationKey?.count ?? 0) == suite.authenticationKeySize,
            (authenticationKey == nil) == suite.isAEAD
        else { throw .malformed }
    }

    /// The attribute list of a SAT, read.
    private struct Attributes {
        var suite: ESPSuite
        var direction: SADirection
        var lifetimeSeconds: UInt32
        var lifetimeKilobytes: UInt32?
        var extendedSequence = false
        var activateInMilliseconds: UInt32 = 0
        var deactivateInMilliseconds: UInt32?

        init(_ octets: [UInt8], _ use: Use, transformID: UInt8) throws(FMKEError) {
            let added: Set<UInt16> = use == .vpn ? [GDOI.SATAttribute.extendedSequence] : []
            var list = try AttributeReader(octets, known: DataSA.known.union(added))
            guard try list.basic(GDOI.SATAttribute.lifeType) == GDOI.lifeSeconds else { throw .malformed }
            lifetimeSeconds = try list.u32(GDOI.SATAttribute.lifeDuration)
            if list.isNext(GDOI.SATAttribute.lifeType) {
                guard try list.basic(GDOI.SATAttribute.lifeType) == GDOI.lifeKilobytes else { throw .malformed }
                lifetimeKilobytes = try list.u32(GDOI.SATAttribute.lifeDuration)
            }
            guard try list.basic(GDOI.SATAttribute.encapsulation) == GDOI.tunnel else { throw .unsupported }
            var authentication: UInt16?
            if list.isNext(GDOI.SATAttribute.authentication) {
                authentication = try list.basic(GDOI.SATAttribute.authentication)
            }
            var keyLength: UInt16?
            if list.isNext(GDOI.SATAttribute.keyLength) { keyLength = try list.basic(GDOI.SATAttribute.keyLength) }
            let named = ESPSuite(transformID: transformID, keyLength: keyLength, authenticationID: authentication)
            guard let suite = named else { throw .unsupported }
            self.suite = suite
            if list.isNext(GDOI.SATAttribute.extendedSequence) {
                guard try list.basic(GDOI.SATAttribute.extendedSequence) == GDOI.longSequence else {
                    throw .unsupported
                }
                extendedSequence = true
            }
            guard try list.basic(GDOI.SATAttribute.addressPreservation) == use.preservation,
                let direction = SADirection(rawValue: try list.basic(GDOI.SATAttribute.direction))
            else { throw .unsupported }
            self.direction = direction
            if list.isNext(GDOI.SATAttribute.activateIn) {
                activateInMilliseconds = try list.u32(GDOI.SATAttribute.activateIn)
                guard activateInMilliseconds > 0 else { throw .malformed }
            }
            if list.isNext(GDOI.SATAttribute.deactivateIn) {
                deactivateInMilliseconds = try list.u32(GDOI.SATAttribute.deactivateIn)
            }
            try list.end()
        }
    }
}

extension DataSA {
    /// The TEK packet of this SA (RFC 6407 5.6.1).
    func keyPacket(_ wrapMethod: UInt8) -> KeyPacket {
        // Revealed: as above.
        var attributes: [DataAttribute] = []
        if cipherKey.count > 0 { attributes.append(.octets(GDOI.KeyAttribute.tekKey, cipherKey.revealed())) }
        if let authenticationKey {
            attributes.append(.octets(GDOI.KeyAttribute.tekIntegrityKey, authenticationKey.revealed()))
        }
        return KeyPacket(
            type: GDOI.KeyPacketType.tek, wrapMethod: wrapMethod, spi: spi.bigEndianOctets, attributes: attributes)
    }
}
