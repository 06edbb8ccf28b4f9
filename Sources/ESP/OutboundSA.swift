// SPDX-License-Identifier: Apache-2.0

public import Basics
internal import Cryptography

/// One SA that we send with (RFC 4303 3.3): sequence numbers, IVs, limits and counters.
///
/// Not for several threads at a time. Costs one allocation when it is made and none per packet.
public final class OutboundSA {
    public private(set) var parameters: SAParameters
    public private(set) var counters = SACounters()
    private let transform: SuiteTransform
    private let random: any RandomSource
    /// The last sequence number used, and the last one there is.
    private var sequence: UInt64
    private let lastSequence: UInt64
    /// Counter part of the next IV of an AEAD, 48 bits. Starts anywhere in the lower half: should the same key ever
    /// come back to a program that has forgotten how far it was, its IVs do not begin again at the same place.
    private var ivCounter: UInt64

    /// Throws `malformedKey` when a key does not have its suite's size or is weak, `extendedSequence` when a group's
    /// SA is to have extended sequence numbers, and `unsupported` or `legacyProviderMissing` when libcrypto lacks
    /// something.
    ///
    /// - Parameters:
    ///   - random: for the IVs of CBC, so it must be fit for keys.
    ///   - lastSequence: where to go on from; 0 for a new SA.
    public init(_ parameters: SAParameters, random: any RandomSource, lastSequence: UInt64 = 0) throws(SAError) {
        transform = try SuiteTransform.make(parameters, .encrypt)
        self.parameters = parameters
        self.random = random
        sequence = lastSequence
        self.lastSequence = parameters.lastSequence
        ivCounter = random.next() >> 17
    }

    /// Takes over what may change during an SA's life (name, selector, limits); keys, sender and sequence stay.
    func update(_ parameters: SAParameters) { self.parameters = parameters }

    /// Builds the ESP packet around an inner packet that already lies in the buffer, in place.
    ///
    /// - Parameters:
    ///   - inner: where the inner IP packet lies; at least `suite.headroom` octets stand before it and
    ///     `suite.tailroom` behind it, and all of them are overwritten.
    /// - Returns: where the ESP packet lies, SPI to ICV. The outer IP header is the caller's.
    ///
    /// Throws `tooBig` without the room, `sequenceExhausted` after 2^32 - 1 packets (2^48 - 1 with
    /// extended sequence numbers), `expired` at the octet limit.
    public func encapsulate(
        in buffer: inout MutableSpan<UInt8>, inner: Range<Int>, now: Instant
    ) throws(PacketDrop) -> Range<Int> {
        do throws(PacketDrop) {
            return try seal(&buffer, inner, now)
        } catch {
            count(error)
            throw error
        }
    }

    /// Builds the ESP packet around `inner` at the start of another buffer; gives its size.
    public func encapsulate(
        _ inner: Span<UInt8>, into output: inout MutableSpan<UInt8>, now: Instant
    ) throws(PacketDrop) -> Int {
        let start = parameters.suite.headroom
        guard output.count >= parameters.suite.sealedSize(inner: inner.count) else {
            count(.tooBig)
            throw .tooBig
        }
        for index in 0..<inner.count { output[start + index] = inner[index] }
        return try encapsulate(in: &output, inner: start..<start + inner.count, now: now).count
    }

    /// Octets in front of ESP: of the outer IP header, and of UDP where there is one.
    var outerHeaderSize: Int {
        InnerPacket.headerSize(isV4: parameters.key.destination.isV4)
            + (parameters.encapsulation == nil ? 0 : UDPEncapsulation.headerSize)
    }

    /// Counts a packet that was meant for this SA and was dropped.
    func count(_ drop: PacketDrop) { counters.drops[drop, default: 0] &+= 1 }

    /// As `encapsulate`, but leaves a drop for the caller to count.
    func seal(
        _ buffer: inout MutableSpan<UInt8>, _ inner: Range<Int>, _ now: Instant
    ) throws(PacketDrop) -> Range<Int> {
        let suite = parameters.suite
        let start = inner.lowerBound - suite.headroom
        let packet = start..<max(start, start + suite.sealedSize(inner: inner.count))
        guard start >= 0, packet.upperBound <= buffer.count else { throw .tooBig }
        // spec: RFC 4303 3.3.3 - the number never repeats; the SA has to be replaced before it would.
        guard sequence < lastSequence else { throw .sequenceExhausted }
        if let limit = parameters.outboundOctetLimit, counters.octets &+ UInt64(inner.count) > limit { throw .expired }
        // Number and IV are spent even if libcrypto should fail below: they must never be used twice.
        sequence += 1
        buffer.store(parameters.key.spi, at: start + ESPHeader.spi)
        buffer.store(UInt32(truncatingIfNeeded: sequence), at: start + ESPHeader.sequence)
        writeIV(&buffer, at: start + ESPHeader.iv)
        let isV6 = !inner.isEmpty && buffer[inner.lowerBound] >> 4 == 6
        writeTrailer(&buffer, at: inner.upperBound, padding: suite.padding(inner: inner.count), isV6: isV6)
        do throws(CryptographyError) {
            let high = parameters.extendedSequence ? UInt32(truncatingIfNeeded: sequence >> 32) : nil
            try transform.seal(&buffer, PacketPlace(packet, suite: suite, high: high))
        } catch {
            throw .malformed
        }
        counters.packets &+= 1
        counters.octets &+= UInt64(inner.count)
        counters.sequence = sequence
        counters.lastUsed = now
        return packet
    }

    private func writeIV(_ buffer: inout MutableSpan<UInt8>, at offset: Int) {
        switch parameters.suite.encryption {
        case .aead:
            // spec: RFC 6054 2 - the sender's id in front keeps the IVs of several senders apart.
            ivCounter = (ivCounter + 1) & 0xffff_ffff_ffff
            buffer.store(UInt64(parameters.senderID) << 48 | ivCounter, at: offset)
        case .cbc(let algorithm):
            // spec: RFC 3602 3 - unpredictable, so fresh randomness for each packet. In a group's SA the sender's id
            // takes the place of its first two octets: receivers tell senders apart by it, and 112 bits are left (48
            // where blocks have 64).
            buffer.store(random.next(), at: offset)
            if algorithm.blockSize == 16 { buffer.store(random.next(), at: offset + 8) }
            if parameters.key.destination.isMulticast { buffer.store(parameters.senderID, at: offset) }
        case .null: break
        }
    }

    private func writeTrailer(_ buffer: inout MutableSpan<UInt8>, at offset: Int, padding: Int, isV6: Bool) {
        // spec: RFC 4303 2.4 - padding octets count 1, 2, 3...
        for index in 0..<padding { buffer[offset + index] = UInt8(truncatingIfNeeded: index + 1) }
        buffer[offset + padding] = UInt8(truncatingIfNeeded: padding)
        buffer[offset + padding + 1] = isV6 ? ESPHeader.nextIPv6 : ESPHeader.nextIPv4
    }
}
