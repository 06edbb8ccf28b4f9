// SPDX-License-Identifier: Apache-2.0
import Basics
import Cryptography
import ESP

/// Octets of a vector typed in as data.
func hex(_ text: String) -> [UInt8] {
    guard let result = octets(hexadecimal: text) else { fatalError("a vector has a typing error: \(text)") }
    return result
}

let group = IPAddress.v4(239, 1, 1, 1)
let gateway = IPAddress.v4(10, 1, 0, 1)
let otherGateway = IPAddress.v4(10, 1, 0, 2)
let start = Instant(nanoseconds: 1_000_000_000)

func prefix(_ text: String) -> IPPrefix {
    guard let result = IPPrefix(text) else { fatalError("a prefix has a typing error: \(text)") }
    return result
}

/// Parameters of an SA of `group`; its keys count upwards from `seed`.
func parameters(
    _ suite: ESPSuite = .aes128gcm, spi: UInt32 = 0x1001, destination: IPAddress = group,
    selector: TrafficSelector? = nil,
    seed: UInt8 = 1, source: IPAddress? = nil, senderID: UInt16 = 0, replayWindow: Int = 64, octetLimit: UInt64? = nil,
    name: String = "video"
) -> SAParameters {
    func key(_ count: Int, _ seed: UInt8) -> Secret { Secret((0..<count).map { seed &+ UInt8($0) }) }
    return SAParameters(
        key: SAKey(spi: spi, destination: destination),
        selector: selector
            ?? TrafficSelector(source: prefix("192.168.0.0/16"), destination: IPPrefix(host: destination)),
        suite: suite, cipherKey: key(suite.cipherKeySize, seed),
        authenticationKey: suite.isAEAD ? nil : key(suite.authenticationKeySize, seed &+ 100), source: source,
        senderID: senderID, replayWindow: replayWindow, octetLimit: octetLimit, name: name)
}

/// A whole IPv4 packet with a correct header checksum.
func packet(
    from source: IPAddress = .v4(192, 168, 3, 10), to destination: IPAddress = group, protocol ipProtocol: UInt8 = 17,
    fragment: UInt16 = 0, ttl: UInt8 = 64, _ payload: [UInt8]
) -> [UInt8] {
    var writer = OctetWriter()
    writer.u16(0x4500)
    writer.u16(UInt16(20 + payload.count))
    writer.u16(0x1234)
    writer.u16(fragment)
    writer.u8(ttl)
    writer.u8(ipProtocol)
    writer.u16(0)
    writer.append(source.octets)
    writer.append(destination.octets)
    var sum: UInt32 = 0
    for index in stride(from: 0, to: 20, by: 2) {
        sum += UInt32(writer.bytes[index]) << 8 | UInt32(writer.bytes[index + 1])
    }
    while sum > 0xffff { sum = sum >> 16 + sum & 0xffff }
    writer.patch(u16: ~UInt16(truncatingIfNeeded: sum), at: 10)
    writer.append(payload)
    return writer.bytes
}

/// A UDP datagram without a checksum, as RFC 768 allows over IPv4.
func datagram(from source: UInt16 = 5_000, to destination: UInt16 = 5_004, _ data: [UInt8]) -> [UInt8] {
    var writer = OctetWriter()
    writer.u16(source)
    writer.u16(destination)
    writer.u16(UInt16(8 + data.count))
    writer.u16(0)
    writer.append(data)
    return writer.bytes
}

/// An inner packet of the group with `count` octets of data.
func inner(_ count: Int = 11) -> [UInt8] { packet(datagram((0..<count).map { UInt8(truncatingIfNeeded: $0) })) }

extension OutboundSA {
    /// Seals a packet in a buffer with just enough room around it; gives the ESP packet.
    func seal(_ inner: [UInt8], now: Instant = start) throws(PacketDrop) -> [UInt8] {
        let head = parameters.suite.headroom
        var buffer = [UInt8](repeating: 0xaa, count: head) + inner
        buffer += [UInt8](repeating: 0xbb, count: parameters.suite.sealedSize(inner: inner.count) - buffer.count)
        var span = buffer.mutableSpan
        let range = try encapsulate(in: &span, inner: head..<head + inner.count, now: now)
        return [UInt8](buffer[range])
    }
}

extension InboundSA {
    /// Opens a copy of an ESP packet; gives the inner packet.
    func open(_ sealed: [UInt8], now: Instant = start) throws(PacketDrop) -> [UInt8] {
        var buffer = sealed
        var span = buffer.mutableSpan
        let range = try decapsulate(in: &span, packet: 0..<sealed.count, now: now)
        return [UInt8](buffer[range])
    }
}

extension SecurityAssociationDatabase {
    func seal(_ inner: [UInt8], now: Instant = start) throws(PacketDrop) -> (sealed: Sealed, octets: [UInt8]) {
        var buffer = [UInt8](repeating: 0, count: 24) + inner + [UInt8](repeating: 0, count: 49)
        var span = buffer.mutableSpan
        let sealed = try encapsulate(in: &span, inner: 24..<24 + inner.count, now: now)
        return (sealed, [UInt8](buffer[sealed.range]))
    }

    func open(
        _ sealed: [UInt8], from source: IPAddress = gateway, to destination: IPAddress = group, now: Instant = start
    ) throws(PacketDrop) -> [UInt8] {
        var buffer = sealed
        var span = buffer.mutableSpan
        let range = try decapsulate(
            in: &span, packet: 0..<sealed.count, source: source, destination: destination, now: now)
        return [UInt8](buffer[range])
    }

    /// Opens what a raw socket gives: the outer IPv4 header and the ESP packet.
    func open(datagram: [UInt8]) throws(PacketDrop) -> [UInt8] {
        var buffer = datagram
        var span = buffer.mutableSpan
        let range = try decapsulate(in: &span, datagram: 0..<datagram.count, now: start)
        return [UInt8](buffer[range])
    }
}

/// The drop an operation ends with; nil when it succeeds.
func drop<Result>(_ body: () throws(PacketDrop) -> Result) -> PacketDrop? {
    do throws(PacketDrop) {
        _ = try body()
        return nil
    } catch {
        return error
    }
}
