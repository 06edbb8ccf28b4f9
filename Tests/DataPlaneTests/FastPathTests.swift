// SPDX-License-Identifier: Apache-2.0
import Basics
import ESP
import Glibc
import Testing

@testable import DataPlane

private func u16(_ octets: [UInt8], _ offset: Int) -> Int { Int(octets[offset]) << 8 | Int(octets[offset + 1]) }

/// The one's complement sum, naively (RFC 1071).
private func sum(_ octets: some Collection<UInt8>, start: Int = 0) -> Int {
    var (total, isHigh) = (start, true)
    for octet in octets {
        total += isHigh ? Int(octet) << 8 : Int(octet)
        isHigh.toggle()
    }
    while total >> 16 != 0 { total = total & 0xffff + total >> 16 }
    return total
}

private func put(_ value: Int, _ octets: inout [UInt8], _ offset: Int) {
    octets[offset] = UInt8(value >> 8 & 0xff)
    octets[offset + 1] = UInt8(value & 0xff)
}

/// Finishes both checksums of an IPv4 UDP packet.
private func sealChecksums(_ packet: inout [UInt8]) {
    put(0, &packet, 10)
    put(~sum(packet[..<20]) & 0xffff, &packet, 10)
    put(0, &packet, 26)
    let check = ~sum(packet[12...], start: 17 + packet.count - 20) & 0xffff
    put(check == 0 ? 0xffff : check, &packet, 26)
}

/// An IPv4 UDP packet with right checksums.
private func datagram(
    _ payload: [UInt8], id: Int = 0, to destination: [UInt8] = [239, 1, 1, 1], port: Int = 5_004, ttl: UInt8 = 7,
    fragments: Int = 0, trafficClass: UInt8 = 0
) -> [UInt8] {
    var packet: [UInt8] = [0x45, trafficClass, 0, 0, 0, 0, 0, 0, ttl, 17, 0, 0, 192, 168, 1, 10] + destination
    packet += [0x13, 0x88, 0, 0, 0, 0, 0, 0] + payload
    put(packet.count, &packet, 2)
    put(id, &packet, 4)
    put(fragments, &packet, 6)
    put(port, &packet, 22)
    put(packet.count - 20, &packet, 24)
    sealChecksums(&packet)
    return packet
}

/// What the kernel makes of what was written to the tunnel: a model of its segmentation.
private func cut(_ written: [UInt8]) -> [[UInt8]] {
    let whole = Array(written[10...])
    let size = Int(written[4]) | Int(written[5]) << 8
    guard written[1] != 0 else { return [whole] }
    #expect(written[0] == 1 && written[1] == 5, "an unfinished checksum, datagrams to be cut")
    #expect(Int(written[6]) == 20 && Int(written[8]) == 6, "where the checksum is")
    #expect(u16(whole, 2) == whole.count && u16(whole, 24) == whole.count - 20)
    #expect(sum(whole[..<20]) == 0xffff)
    #expect(u16(whole, 26) == sum(whole[12..<20], start: 17 + whole.count - 20), "the pseudo header's sum")
    return stride(from: 28, to: whole.count, by: size).enumerated().map { index, start in
        var packet = Array(whole[..<28] + whole[start..<min(start + size, whole.count)])
        put(packet.count, &packet, 2)
        put((u16(whole, 4) + index) & 0xffff, &packet, 4)
        put(packet.count - 20, &packet, 24)
        sealChecksums(&packet)
        return packet
    }
}

/// Runs packets through a writer; gives its writes.
private func writes(_ packets: [[UInt8]], flushAfter: Int? = nil) throws -> [[UInt8]] {
    var ends: [Int32] = [0, 0]
    try #require(socketpair(AF_UNIX, Int32(SOCK_SEQPACKET.rawValue), 0, &ends) == 0)
    defer { for end in ends { close(end) } }
    let writer = TunnelWriter(descriptor: ends[0])
    var written: [[UInt8]] = []
    func take() {
        var buffer = [UInt8](repeating: 0, count: 70_000)
        while true {
            let got = recv(ends[1], &buffer, buffer.count, Int32(MSG_DONTWAIT))
            guard got > 0 else { return }
            written.append(Array(buffer[..<got]))
        }
    }
    let memory = UnsafeMutablePointer<UInt8>.allocate(capacity: packets.reduce(1) { $0 + $1.count })
    defer { memory.deallocate() }
    var (next, sinceFlush, total) = (0, 0, 0)
    for packet in packets {
        (memory + next).initialize(from: packet, count: packet.count)
        writer.append(memory + next, count: packet.count)
        next += packet.count
        sinceFlush += 1
        take()
        if sinceFlush == flushAfter {
            total += Int(writer.flush().written)
            sinceFlush = 0
        }
    }
    total += Int(writer.flush().written)
    take()
    #expect(total == packets.count, "each packet is counted once")
    return written
}

@Suite struct TunnelWriterTests {
    @Test func oneFlowGoesInOnePieceAndComesOutAsItWas() throws {
        let packets = (0..<20).map { datagram([UInt8](repeating: UInt8($0), count: 1_316), id: 700 + $0) }
        let written = try writes(packets)
        #expect(written.count == 1)
        #expect(written.flatMap(cut) == packets)
    }

    @Test func aSmallerDatagramEndsAPiece() throws {
        let sizes = [100, 100, 60, 100, 100]
        let packets = sizes.enumerated().map { datagram([UInt8](repeating: 1, count: $1), id: $0) }
        let written = try writes(packets)
        #expect(written.count == 2)
        #expect(written.flatMap(cut) == packets)
    }

    @Test func aPieceIsNoLargerThanAPacketMayBe() throws {
        let packets = (0..<200).map { datagram([UInt8](repeating: 9, count: 1_400), id: $0) }
        let written = try writes(packets)
        #expect(written.allSatisfy { $0.count <= 10 + 65_535 })
        #expect(written.count == 5, "46 of these fit into 65,535 octets")
        #expect(written.flatMap(cut) == packets)
        let small = (0..<130).map { datagram([UInt8](repeating: 9, count: 20), id: $0) }
        let writtenSmall = try writes(small)
        #expect(writtenSmall.count == 3, "64 at most")
        #expect(writtenSmall.flatMap(cut) == small)
    }

    /// Each differs from its neighbours in one respect, so that nothing may be put together.
    @Test func whatDoesNotBelongTogetherStaysApart() throws {
        let payload = [UInt8](repeating: 3, count: 64)
        let plain = datagram(payload, id: 1)
        var noChecksum = datagram(payload, id: 2)
        put(0, &noChecksum, 26)
        var damaged = datagram(payload, id: 2)
        damaged[40] ^= 1
        var options = plain
        options[0] = 0x46
        var other = plain
        other[9] = 6
        var long = plain
        long.append(0)
        let different = [
            datagram(payload, id: 2, to: [239, 1, 1, 2]), datagram(payload, id: 2, port: 5_006),
            datagram(payload, id: 2, ttl: 8), datagram(payload, id: 2, trafficClass: 0xb8),
            datagram(payload, id: 2, fragments: 0x2000), datagram(payload, id: 2, fragments: 0x0010),
            datagram(payload, id: 2, fragments: 0x4000), datagram(payload, id: 3), datagram(payload + [1], id: 2),
            datagram([], id: 2), noChecksum, damaged, options, other, long, Array(plain[..<24]), [0x60, 0, 0],
        ]
        for packet in different {
            for pair in [[plain, packet], [packet, plain]] {
                let written = try writes(pair)
                #expect(written.map { Array($0[10...]) } == pair, "\(packet.prefix(28))")
                #expect(written.allSatisfy { $0[..<10].allSatisfy { $0 == 0 } })
            }
        }
    }

    /// A multicast that may not be fragmented would not be forwarded in one piece: it may be afterwards.
    @Test func theKernelsRouterMayCutAGroupsPiece() throws {
        let packets = (0..<4).map { _ in datagram([1, 2, 3, 4], id: 0, fragments: 0x4000) }
        let out = try writes(packets).flatMap(cut)
        #expect(out.count == 4 && out.allSatisfy { $0[6] == 0 && Array($0[28...]) == [1, 2, 3, 4] })
        let unicast = (0..<4).map { _ in datagram([1, 2], id: 0, to: [10, 0, 0, 7], fragments: 0x4000) }
        let whole = try writes(unicast)
        #expect(whole.count == 1 && whole.flatMap(cut).allSatisfy { $0[6] == 0x40 })
    }

    @Test func anyMixtureComesOutInOrder() throws {
        let random = SeededRandom(seed: 7)
        for _ in 0..<200 {
            let packets = (0..<40).map { index -> [UInt8] in
                let size = [0, 1, 40, 40, 40, 41][Int(random.number(below: 6))]
                let port = 5_000 + Int(random.number(below: 2))
                return datagram(random.bytes(size), id: index, port: port)
            }
            let written = try writes(packets, flushAfter: 1 + Int(random.number(below: 16)))
            #expect(written.flatMap(cut) == packets)
        }
    }
}

@Suite struct BatchGatheringTests {
    @Test func onlyAStreamToGroupsIsKeptWaiting() {
        var gathering = BatchGathering()
        var now = Instant(nanoseconds: 1)
        #expect(gathering.pause(now: now) == nil, "the first")
        gathering.note(isFull: false, isForGroups: true)
        now = now + .microseconds(100)
        #expect(gathering.pause(now: now) == BatchGathering.moment)
        now = now + .milliseconds(1)
        #expect(gathering.pause(now: now) == nil, "the stream has paused")
        now = now + .microseconds(100)
        gathering.note(isFull: true, isForGroups: true)
        #expect(gathering.pause(now: now) == nil, "there is more already")
        gathering.note(isFull: false, isForGroups: false)
        #expect(gathering.pause(now: now + .microseconds(10)) == nil, "unicast")
        gathering.note(isFull: false, isForGroups: true)
        #expect(gathering.pause(now: now + .microseconds(20)) == BatchGathering.moment)
    }
}

@Suite struct PlainOuterHeaderTests {
    private func v4(_ change: (inout [UInt8]) -> Void = { _ in }, isSummed: Bool = true) -> PlainOuterHeader? {
        var packet: [UInt8] = [0x45, 0xb9, 0, 60, 0x12, 0x34, 0, 0, 64, 50, 0, 0, 10, 0, 0, 1, 239, 1, 2, 3]
        packet += [UInt8](repeating: 0x55, count: 40)
        if isSummed { put(~sum(packet[..<20]) & 0xffff, &packet, 10) }
        change(&packet)
        return PlainOuterHeader(packet.span)
    }

    private func v6(_ change: (inout [UInt8]) -> Void = { _ in }) -> PlainOuterHeader? {
        var packet: [UInt8] = [0x6b, 0x90, 0, 0, 0, 40, 50, 64, 0xfd] + [UInt8](repeating: 0, count: 14) + [1]
        packet += [0xff, 0x15] + [UInt8](repeating: 0, count: 13) + [7] + [UInt8](repeating: 0x55, count: 40)
        change(&packet)
        return PlainOuterHeader(packet.span)
    }

    @Test func bothFamiliesAreRead() throws {
        let four = try #require(v4())
        #expect(four.source == .v4(10, 0, 0, 1) && four.destination == .v4(239, 1, 2, 3))
        #expect(four.trafficClass == 0xb9 && four.packet == 20..<60)
        let six = try #require(v6())
        #expect(six.source == .v6(0xfd << 56, 1) && six.destination == .v6(0xff15 << 48, 7))
        #expect(six.trafficClass == 0xb9 && six.packet == 40..<80)
    }

    @Test func anEthernetsPaddingDoesNotCount() throws {
        #expect(try #require(v4 { $0 += [0, 0, 0] }).packet == 20..<60)
        #expect(try #require(v6 { $0 += [0, 0, 0] }).packet == 40..<80)
    }

    @Test func whatAStackWouldDropIsNotRead() {
        #expect(v4(isSummed: false) == nil, "checksum")
        for offset in 0..<20 { #expect(v4 { $0[offset] ^= 0x10 } == nil, "octet \(offset) is in the checksum") }
        #expect(v4 { $0.removeLast() } == nil, "longer than what is there")
        #expect(v6 { $0.removeLast() } == nil)
        #expect(v6 { $0[6] = 17 } == nil, "no ESP")
        for count in [0, 1, 19] { #expect(v4 { $0.removeLast($0.count - count) } == nil) }
        for count in [0, 1, 39] { #expect(v6 { $0.removeLast($0.count - count) } == nil) }
    }
}

@Suite struct LinkSenderTests {
    private func header(_ source: IPAddress, _ destination: IPAddress, octets: Int, mtu: Int = 1_500) -> [UInt8]? {
        let outer = OuterHeader(linkMTU: mtu, ttl: 64)
        var buffer = [UInt8](repeating: 0xaa, count: 20 + octets)
        var span = buffer.mutableSpan
        let isWritten = outer.write(
            &span, packet: 20..<20 + octets, source: source, destination: destination, trafficClass: 0xb8,
            identification: 0x1234)
        return isWritten ? Array(buffer[..<20]) : nil
    }

    @Test func aGroupsPacketGetsItsOuterHeader() throws {
        let written = try #require(header(.v4(10, 0, 0, 1), .v4(239, 1, 2, 3), octets: 80))
        #expect(sum(written) == 0xffff, "its checksum is right")
        #expect(written[..<10] == [0x45, 0xb8, 0, 100, 0x12, 0x34, 0, 0, 64, 50])
        #expect(written[12...] == [10, 0, 0, 1, 239, 1, 2, 3])
    }

    @Test func whatTheKernelMustRouteOrCutIsLeftToIt() {
        let (own, group) = (IPAddress.v4(10, 0, 0, 1), IPAddress.v4(239, 1, 1, 1))
        #expect(header(own, .v4(10, 0, 0, 2), octets: 80) == nil)
        #expect(header(.anyV4, group, octets: 80) == nil)
        #expect(header(own, .v6(0xff15 << 48, 1), octets: 80) == nil)
        #expect(header(own, group, octets: 1_480) != nil)
        #expect(header(own, group, octets: 1_481) == nil)
    }
}
