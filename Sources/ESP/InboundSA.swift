// SPDX-License-Identifier: Apache-2.0

public import Basics
internal import Cryptography

/// One SA that we receive with (RFC 4303 3.4): replay state per sender, verification, policy check and counters.
///
/// Not for several threads at a time. Allocates when a sender is first verified and never per packet.
public final class InboundSA {
    public private(set) var parameters: SAParameters
    public private(set) var counters = SACounters()
    /// What the packet was that `decapsulate` verified and then dropped, or handed out; nil where it was not read.
    private(set) var lastInner: InnerPacket?
    private let transform: SuiteTransform
    private let senderLimit: Int
    /// What the first packet of an SA is held against.
    private let emptyWindow: ReplayWindow
    /// By sender id. The outer source would not do: it is not authentic, and a packet that was overheard could be sent
    /// again under any number of them.
    private var senders: [UInt16: Sender] = [:]
    /// Packets come in bursts of one sender.
    private var lastSender: Sender?

    /// Packets one behind the other that were not authentic, of an SA with extended sequence numbers.
    private var failures: UInt64 = 0

    /// Throws `malformedKey` when a key does not have its suite's size or is weak, `extendedSequence` when a group's
    /// SA is to have extended sequence numbers, and `unsupported` or `legacyProviderMissing` when libcrypto lacks
    /// something.
    ///
    /// - Parameter lastSequence: how far the only sender of an SA with extended sequence numbers was, where it was used
    ///   before.
    public init(
        _ parameters: SAParameters, limits: Limits = Limits(), lastSequence: UInt64 = 0
    ) throws(SAError) {
        transform = try SuiteTransform.make(parameters, .decrypt)
        self.parameters = parameters
        senderLimit = limits.sendersPerAssociation
        var window = ReplayWindow(size: parameters.replayWindow)
        if parameters.extendedSequence, lastSequence > 0 { window.accept(lastSequence) }
        emptyWindow = window
    }

    var isInUDP: Bool { parameters.encapsulation != nil }

    /// Senders of which at least one packet was verified.
    public var senderCount: Int { senders.count }

    /// Takes over what may change during an SA's life (name, selector, limits); keys and replay state stay.
    func update(_ parameters: SAParameters) { self.parameters = parameters }

    /// Verifies and decrypts an ESP packet in place.
    ///
    /// - Parameters:
    ///   - packet: where it lies, SPI to ICV. Its octets are not usable any more when this throws.
    /// - Returns: where the inner IPv4 or IPv6 packet lies.
    ///
    /// Throws the reason why it must be dropped, which is counted.
    public func decapsulate(
        in buffer: inout MutableSpan<UInt8>, packet: Range<Int>, now: Instant
    ) throws(PacketDrop) -> Range<Int> {
        lastInner = nil
        do throws(PacketDrop) {
            let inner = try open(&buffer, packet)
            counters.packets &+= 1
            counters.octets &+= UInt64(inner.count)
            counters.lastUsed = now
            return inner
        } catch {
            count(error)
            throw error
        }
    }

    func count(_ drop: PacketDrop) { counters.drops[drop, default: 0] &+= 1 }

    private func open(_ buffer: inout MutableSpan<UInt8>, _ packet: Range<Int>) throws(PacketDrop) -> Range<Int> {
        let suite = parameters.suite
        guard packet.lowerBound >= 0, packet.upperBound <= buffer.count else { throw .malformed }
        let text = packet.count - suite.headroom - suite.icvSize
        guard text >= suite.alignment, text.isMultiple(of: suite.alignment) else { throw .malformed }
        // What it sealed beyond its limit is not to be trusted any more, whoever did it.
        if let limit = parameters.octetLimit, counters.octets >= limit { throw .expired }

        // spec: RFC 4303 3.4.3 - look at the window before the work of verifying, move it only after success.
        let id = senderID(buffer.span, packet)
        let known = sender(id)
        let low = buffer.span.u32(at: packet.lowerBound + ESPHeader.sequence)
        guard var sequence = number(low, of: known),
            known?.window.isFresh(sequence) ?? emptyWindow.isFresh(sequence)
        else { throw .replay }
        if known == nil, senders.count >= senderLimit { throw .senderLimit }
        let place = PacketPlace(packet, suite: suite, high: nil)
        do throws(CryptographyError) {
            if parameters.extendedSequence {
                sequence = try openExtended(&buffer, place, sequence)
            } else {
                try transform.open(&buffer, place)
            }
        } catch {
            throw .notAuthentic
        }
        (known ?? addSender(id)).window.accept(sequence)
        counters.sequence = max(counters.sequence, sequence)

        let (payload, isV4) = try unpadded(buffer.span, place.text)
        let inner = try InnerPacket(reading: buffer.span.extracting(payload))
        lastInner = inner
        guard inner.source.isV4 == isV4 else { throw .malformed }
        try checkPolicy(inner)
        return payload.lowerBound..<payload.lowerBound + inner.count  // without traffic-flow padding (RFC 4303 2.7)
    }

    // MARK: Extended sequence numbers

    /// A packet's whole number; nil where it would stand before the first one.
    private func number(_ low: UInt32, of sender: Sender?) -> UInt64? {
        guard parameters.extendedSequence else { return UInt64(low) }
        return sender.map { $0.window.extended(low: low) } ?? emptyWindow.extended(low: low)
    }

    /// After so many packets in a row that are not authentic, the upper half may have gone on without us: 2^32 packets
    /// were lost. Then one in `recoveryShare` of those that fail is tried with the next `recoveryDepth` upper halves,
    /// so that a flood of forgeries costs a quarter more, and not five times as much.
    static let recoveryThreshold: UInt64 = 256
    static let recoveryShare: UInt64 = 16
    static let recoveryDepth: UInt64 = 4

    /// Opens a packet and gives its number, which is `sequence` or, where we lost count, a later one with the same
    /// lower half (RFC 4303 A3).
    private func openExtended(
        _ buffer: inout MutableSpan<UInt8>, _ place: PacketPlace, _ sequence: UInt64
    ) throws(CryptographyError) -> UInt64 {
        let isLost = failures >= Self.recoveryThreshold && failures.isMultiple(of: Self.recoveryShare)
        // The only allocation on a packet's way, and a rare one: an AEAD decrypts before it knows whether it should.
        var original: [UInt8] = []
        if isLost, !transform.leavesForgeriesAlone { original = place.text.map { buffer[$0] } }
        var place = place
        do throws(CryptographyError) {
            place.high = UInt32(truncatingIfNeeded: sequence >> 32)
            try transform.open(&buffer, place)
            failures = 0
            return sequence
        } catch {
            failures &+= 1
            guard isLost else { throw error }
        }
        for step in 1...Self.recoveryDepth {
            let candidate = sequence.addingReportingOverflow(step << 32)
            guard !candidate.overflow else { break }
            for (index, octet) in zip(place.text, original) { buffer[index] = octet }
            place.high = UInt32(truncatingIfNeeded: candidate.partialValue >> 32)
            do throws(CryptographyError) {
                try transform.open(&buffer, place)
                failures = 0
                return candidate.partialValue
            } catch { continue }
        }
        throw .notAuthentic
    }

    /// The first two octets of the IV (RFC 6054), which the ICV covers with every suite that has an IV. A unicast SA
    /// has one sender, whose IVs may look like anything; so has a group that says so, and its sender may be a kernel.
    private func senderID(_ buffer: Span<UInt8>, _ packet: Range<Int>) -> UInt16 {
        parameters.key.destination.isMulticast && parameters.suite.namesSenders && !parameters.hasOneSender
            ? buffer.u16(at: packet.lowerBound + ESPHeader.iv) : 0
    }

    private func sender(_ id: UInt16) -> Sender? {
        if let lastSender, lastSender.id == id { return lastSender }
        let found = senders[id]
        if let found { lastSender = found }
        return found
    }

    private func addSender(_ id: UInt16) -> Sender {
        let sender = Sender(id, emptyWindow)
        senders[id] = sender
        lastSender = sender
        return sender
    }

    /// What stands before padding and trailer of a verified plain text, and which family the trailer says it is of.
    private func unpadded(
        _ buffer: Span<UInt8>, _ plain: Range<Int>
    ) throws(PacketDrop) -> (payload: Range<Int>, isV4: Bool) {
        let end = plain.upperBound - ESPHeader.trailerSize
        let padding = Int(buffer[end])
        guard padding <= end - plain.lowerBound else { throw .malformed }
        let start = end - padding
        for index in 0..<padding where buffer[start + index] != UInt8(truncatingIfNeeded: index + 1) {
            throw .malformed
        }
        switch buffer[end + 1] {
        case ESPHeader.nextIPv4: return (plain.lowerBound..<start, true)
        case ESPHeader.nextIPv6: return (plain.lowerBound..<start, false)
        case ESPHeader.nextNone: throw .dummy
        default: throw .policyMismatch  // transport mode
        }
    }

    /// spec: RFC 4301 5.2 - the inner packet must be one that this SA is for, whatever its key opened.
    private func checkPolicy(_ inner: InnerPacket) throws(PacketDrop) {
        guard parameters.selector.admits(inner) else { throw .policyMismatch }
        // spec: RFC 5374 3.1 - an address that is preserved outside must be the same inside.
        let outer = parameters.key.destination
        guard !outer.isMulticast || inner.destination == outer else { throw .policyMismatch }
    }

    /// The replay state of one sender.
    private final class Sender {
        let id: UInt16
        var window: ReplayWindow

        init(_ id: UInt16, _ window: ReplayWindow) {
            self.id = id
            self.window = window
        }
    }
}
