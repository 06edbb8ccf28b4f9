// SPDX-License-Identifier: Apache-2.0

public import Basics
internal import Cryptography

/// One SA that we receive with (RFC 4303 3.4): replay state per sender, verification, policy check and counters.
///
/// Not for several threads at a time. Allocates when a sender is first verified and never per packet.
public final class InboundSA {
    public private(set) var parameters: SAParameters
    public private(set) var counters = SACounters()
    private var transform: PacketTransform
    private let senderLimit: Int
    /// By sender id. The outer source would not do: it is not authentic, and a packet that was overheard could be sent
    /// again under any number of them.
    private var senders: [UInt16: Sender] = [:]
    /// Packets come in bursts of one sender.
    private var lastSender: Sender?

    /// Throws `malformedKey` when a key does not have its suite's size.
    public init(_ parameters: SAParameters, limits: Limits = Limits()) throws(SAError) {
        transform = try PacketTransform(parameters, .decrypt)
        self.parameters = parameters
        senderLimit = limits.sendersPerAssociation
    }

    /// Senders of which at least one packet was verified.
    public var senderCount: Int { senders.count }

    /// Takes over what may change during an SA's life (name, selector, limits); keys and replay state stay.
    func update(_ parameters: SAParameters) { self.parameters = parameters }

    /// Verifies and decrypts an ESP packet in place.
    ///
    /// - Parameters:
    ///   - packet: where it lies, SPI to ICV. Its octets are not usable any more when this throws.
    /// - Returns: where the inner IPv4 packet lies.
    ///
    /// Throws the reason why it must be dropped, which is counted.
    public func decapsulate(
        in buffer: inout MutableSpan<UInt8>, packet: Range<Int>, now: Instant
    ) throws(PacketDrop) -> Range<Int> {
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
        let sequence = buffer.span.u32(at: packet.lowerBound + ESPHeader.sequence)
        let id = senderID(buffer.span, packet)
        let known = sender(id)
        guard known?.window.isFresh(sequence) ?? (sequence != 0) else { throw .replay }
        if known == nil, senders.count >= senderLimit { throw .senderLimit }
        let plain: Range<Int>
        do throws(CryptographyError) {
            plain = try transform.open(&buffer, packet)
        } catch {
            throw .notAuthentic
        }
        (known ?? addSender(id)).window.accept(sequence)
        counters.sequence = max(counters.sequence, sequence)

        let payload = try unpadded(buffer.span, plain)
        let inner = try InnerPacket(reading: buffer.span.extracting(payload))
        try checkPolicy(inner)
        return payload.lowerBound..<payload.lowerBound + inner.count  // without traffic-flow padding (RFC 4303 2.7)
    }

    /// The first two octets of the IV (RFC 6054), which the ICV covers with either kind of suite. A unicast SA has one
    /// sender, whose IVs may look like anything.
    private func senderID(_ buffer: Span<UInt8>, _ packet: Range<Int>) -> UInt16 {
        parameters.key.destination.isMulticast ? buffer.u16(at: packet.lowerBound + ESPHeader.iv) : 0
    }

    private func sender(_ id: UInt16) -> Sender? {
        if let lastSender, lastSender.id == id { return lastSender }
        let found = senders[id]
        if let found { lastSender = found }
        return found
    }

    private func addSender(_ id: UInt16) -> Sender {
        let sender = Sender(id, ReplayWindow(size: parameters.replayWindow))
        senders[id] = sender
        lastSender = sender
        return sender
    }

    /// What stands before padding and trailer of a verified plain text.
    private func unpadded(_ buffer: Span<UInt8>, _ plain: Range<Int>) throws(PacketDrop) -> Range<Int> {
        let end = plain.upperBound - ESPHeader.trailerSize
        let padding = Int(buffer[end])
        guard padding <= end - plain.lowerBound else { throw .malformed }
        let start = end - padding
        for index in 0..<padding where buffer[start + index] != UInt8(truncatingIfNeeded: index + 1) {
            throw .malformed
        }
        switch buffer[end + 1] {
        case ESPHeader.nextIPv4: return plain.lowerBound..<start
        case ESPHeader.nextNone: throw .dummy
        default: throw .policyMismatch  // transport mode, or a tunnelled IPv6 packet, which no SA of ours carries yet
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
