// SPDX-License-Identifier: Apache-2.0

public import Basics
public import Cryptography

// Keys that do not travel (docs/FMKE.md 4.6). Where the key tree changes, the next KEK and the successors of all data
// SAs can follow from the new group key: whoever has it computes them, with what the SAs hand down, and nobody else.
//
//     group key --HKDF--+-- purpose 1, 2: SPI and KEK of the next rekey SA     bound to the rekey SA that it replaces
//                       +-- purpose 3:    SPI of a data SA                     bound to its flow
//                       +-- purpose 4, 5: its keys                             bound to its flow and SPI

/// What a data SA hands down to the one that takes its place: all but keys, SPI and times.
public struct Flow: Sendable, Hashable {
    public var selector: TrafficSelector
    public var suite: ESPSuite
    public var lifetimeKilobytes: UInt32?

    public init(selector: TrafficSelector, suite: ESPSuite, lifetimeKilobytes: UInt32?) {
        self.selector = selector
        self.suite = suite
        self.lifetimeKilobytes = lifetimeKilobytes
    }

    /// The form in which keys are bound to it. It says itself how long it is.
    var octets: [UInt8] {
        var writer = OctetWriter(capacity: 40)
        writer.u8(selector.ipProtocol)
        writer.identification(selector.source, port: selector.sourcePort)
        writer.identification(selector.destination, port: selector.destinationPort)
        writer.u8(suite.transformID)
        writer.u16(suite.authenticationID ?? 0)
        writer.u16(suite.keyLength ?? 0)
        writer.u32(lifetimeKilobytes ?? 0)
        return writer.bytes
    }
}

extension [Flow] {
    /// Members know them in no order of their own.
    fileprivate var inOrder: [Flow] { sorted { $0.octets.lexicographicallyPrecedes($1.octets) } }
}

extension DataSA {
    public var flow: Flow { Flow(selector: selector, suite: suite, lifetimeKilobytes: lifetimeKilobytes) }
}

/// The part of a SUCCESSION payload in front of the slice: what the group key does not say.
public struct Succession: Sendable, Hashable {
    private static let label = Array("FMKE FLOWS v1".utf8)

    /// Counted up by the GCKS until no SPI that follows is taken.
    public var attempt: UInt8
    /// How many data SAs follow.
    public var flowCount: UInt16
    /// How long from now they may be used, in seconds.
    public var rekeyLifetimeSeconds: UInt32
    public var dataLifetimeSeconds: UInt32
    /// Of the flows that the GCKS means: a member that knows others derives nothing.
    public var flowCheck: UInt32

    /// - Parameter flows: with a selector each, in any order; no more than a group has.
    public init(attempt: UInt8, flows: [Flow], rekeyLifetimeSeconds: UInt32, dataLifetimeSeconds: UInt32) {
        self.attempt = attempt
        flowCount = UInt16(clamping: flows.count)
        self.rekeyLifetimeSeconds = rekeyLifetimeSeconds
        self.dataLifetimeSeconds = dataLifetimeSeconds
        flowCheck = Self.check(of: flows)
    }

    /// Whether these are the flows that the GCKS means.
    public func names(_ flows: [Flow]) -> Bool { flows.count == Int(flowCount) && Self.check(of: flows) == flowCheck }

    private static func check(of flows: [Flow]) -> UInt32 {
        HashAlgorithm.sha256.digest([label] + flows.inOrder.map(\.octets)).prefix(4).reduce(0) { $0 << 8 | UInt32($1) }
    }

    var octets: [UInt8] {
        var writer = OctetWriter(capacity: Wire.successionSize)
        writer.u8(attempt)
        writer.u8(0)
        writer.u16(flowCount)
        writer.u32(rekeyLifetimeSeconds)
        writer.u32(dataLifetimeSeconds)
        writer.u32(flowCheck)
        return writer.bytes
    }

    init(reading reader: inout FieldReader) throws(FMKEError) {
        attempt = try reader.u8()
        try reader.zeros(1)
        flowCount = try reader.u16()
        rekeyLifetimeSeconds = try reader.u32()
        dataLifetimeSeconds = try reader.u32()
        flowCheck = try reader.u32()
    }

    func check() throws(FMKEError) {
        guard flowCount > 0, rekeyLifetimeSeconds > 0, dataLifetimeSeconds > 0 else { throw .malformed }
    }
}

/// Computes what follows from the group key of one transaction, at the GCKS and at each member alike.
public struct SuccessorKeys: Sendable {
    private static let label = Array("FMKE NEXT v1".utf8)

    private enum Purpose: UInt8 {
        case rekeySPI = 1
        case kek = 2
        case dataSPI = 3
        case cipherKey = 4
        case authenticationKey = 5
    }

    private let groupKey: Secret
    private let group: UInt32
    private let transaction: UInt64
    private let predecessor: RekeySA

    /// - Parameters:
    ///   - groupKey: that of the tree after this transaction; it never travels.
    ///   - group, transaction: bind the keys to one change of one group.
    ///   - predecessor: the rekey SA that seals the transaction's PUSHes.
    public init(groupKey: Secret, group: UInt32, transaction: UInt64, predecessor: RekeySA) {
        self.groupKey = groupKey
        self.group = group
        self.transaction = transaction
        self.predecessor = predecessor
    }

    /// The next rekey SA: as the predecessor but for SPI, KEK, lifetime, and the epoch, which is one more. Throws
    /// `limit` when there is no such epoch.
    public func rekeySA(lifetimeSeconds: UInt32) throws(FMKEError) -> RekeySA {
        guard predecessor.epoch < .max else { throw .limit }
        var next = predecessor
        next.epoch += 1
        next.lifetimeSeconds = lifetimeSeconds
        let binding = predecessor.spi.octets + next.epoch.bigEndianOctets
        // Revealed: an SPI stands in the clear in front of each PUSH.
        var spi = FieldReader(derive(.rekeySPI, binding, count: 16).revealed())
        next.spi = RekeySPI(high: try spi.u64(), low: try spi.u64())
        next.kek = derive(.kek, binding, count: Wire.kekSize)
        return next
    }

    /// The next data SA of a flow. Its SPI may be one that is taken, or reserved: the GCKS then makes another attempt.
    public func dataSA(of flow: Flow, attempt: UInt8, lifetimeSeconds: UInt32) throws(FMKEError) -> DataSA {
        let octets = flow.octets
        // Revealed: an SPI stands in the clear in front of each ESP packet.
        var reader = FieldReader(derive(.dataSPI, [attempt] + octets, count: 4).revealed())
        let spi = try reader.u32()
        let binding = spi.bigEndianOctets + octets
        return DataSA(
            spi: spi, selector: flow.selector, suite: flow.suite, direction: .symmetric,
            lifetimeSeconds: lifetimeSeconds, lifetimeKilobytes: flow.lifetimeKilobytes,
            cipherKey: derive(.cipherKey, binding, count: flow.suite.cipherKeySize),
            authenticationKey: flow.suite.isAEAD
                ? nil : derive(.authenticationKey, binding, count: flow.suite.authenticationKeySize))
    }

    private func derive(_ purpose: Purpose, _ binding: [UInt8], count: Int) -> Secret {
        // Without encryption there is no cipher key.
        guard count > 0 else { return Secret([]) }
        var writer = OctetWriter(capacity: 96)
        writer.append(Self.label)
        writer.u8(purpose.rawValue)
        writer.u32(group)
        writer.u64(transaction)
        writer.append(binding)
        return HKDF.derive(.sha256, key: groupKey, salt: [], info: writer.bytes, count: count)
    }
}

extension KeyUpdate {
    /// The update with all keys in the clear: the masks come off what is carried along, and behind it stand the SAs
    /// that follow from the group key, in the order of their flows' octets. For an update that was read and has a
    /// `succession`.
    ///
    /// Throws `unsupported` when the GCKS means other flows than these, `malformed` for an SPI that is reserved or
    /// stands twice, `limit` for an epoch behind the last.
    public func completed(
        flows: [Flow], predecessor: RekeySA, groupKey: Secret, group: UInt32, transaction: UInt64
    ) throws(FMKEError) -> KeyUpdate {
        guard let succession, areKeysMasked else { throw .malformed }
        guard succession.names(flows) else { throw .unsupported }
        var update = unmasked(groupKey: groupKey, group: group, transaction: transaction)
        let keys = SuccessorKeys(
            groupKey: groupKey, group: group, transaction: transaction, predecessor: predecessor)
        update.rekeySA = try keys.rekeySA(lifetimeSeconds: succession.rekeyLifetimeSeconds)
        for flow in flows.inOrder {
            update.dataSAs.append(
                try keys.dataSA(
                    of: flow, attempt: succession.attempt, lifetimeSeconds: succession.dataLifetimeSeconds))
        }
        let spis = update.dataSAs.map(\.spi)
        guard spis.allSatisfy({ $0 >= Wire.smallestSPI }), Set(spis).count == spis.count else { throw .malformed }
        return update
    }
}
