// SPDX-License-Identifier: Apache-2.0
import Basics
import Cryptography
import ESP
import Testing

struct FormatCase: Sendable {
    let suite: ESPSuite
    let size: Int
}

@Suite struct PacketTests {
    private static let sizes = Array(0...70) + [127, 128, 500, 1_316, 1_400, 1_472]

    // tests: RFC 4303 2 and 3.3
    @Test(arguments: ESPSuite.allCases)
    func packetsOfAnySizeComeBack(suite: ESPSuite) throws {
        let sender = try OutboundSA(parameters(suite, source: gateway), random: SeededRandom(seed: 1))
        let receiver = try InboundSA(parameters(suite))
        var number: UInt32 = 0
        var octets: UInt64 = 0
        for size in Self.sizes {
            let original = inner(size)
            let sealed = try sender.seal(original)
            number += 1
            octets += UInt64(original.count)
            #expect(sealed.count == suite.sealedSize(inner: original.count))
            #expect(Array(sealed[0..<8]) == hex("00001001" + "000000") + [UInt8(number)])
            #expect((sealed.count - suite.headroom - suite.icvSize) % suite.alignment == 0)
            #expect(!sealed.contains(original.suffix(16)) || size < 16 || suite.encryption == .null, "nothing in clear")
            #expect(try receiver.open(sealed) == original)
        }
        #expect(sender.counters.packets == UInt64(number) && sender.counters.octets == octets)
        #expect(receiver.counters.packets == UInt64(number) && receiver.counters.octets == octets)
        #expect(sender.counters.sequence == number && receiver.counters.sequence == number)
        #expect(sender.counters.lastUsed == start && receiver.counters.lastUsed == start)
        #expect(sender.counters.drops.isEmpty && receiver.counters.drops.isEmpty)
    }

    // The overheads of the reference: 1,280 octets inside, an IPv4 header outside.
    @Test func sizesAreTheOnesPublished() {
        #expect(20 + ESPSuite.aes128gcm.sealedSize(inner: 1_280) == 1_280 + 56)
        #expect(20 + ESPSuite.aes128sha1.sealedSize(inner: 1_280) == 1_280 + 72)
        for suite in ESPSuite.allCases {
            for sealed in 0...1_600 {
                let largest = suite.largestInner(sealed: sealed)
                #expect(largest == 0 || suite.sealedSize(inner: largest) <= sealed)
                #expect(suite.sealedSize(inner: largest + 1) > sealed)
                #expect(suite.headroom + largest + suite.tailroom >= suite.sealedSize(inner: largest))
            }
        }
    }

    @Test(arguments: ESPSuite.allCases)
    func sealingIntoAnotherBuffer(suite: ESPSuite) throws {
        let sender = try OutboundSA(parameters(suite), random: SeededRandom(seed: 1))
        let receiver = try InboundSA(parameters(suite))
        let original = inner(33)
        var output = [UInt8](repeating: 0, count: suite.sealedSize(inner: original.count))
        var span = output.mutableSpan
        let size = try sender.encapsulate(original.span, into: &span, now: start)
        #expect(size == output.count)
        #expect(try receiver.open(output) == original)
        var small = [UInt8](repeating: 0, count: size - 1)
        var smallSpan = small.mutableSpan
        var refused: PacketDrop?
        do throws(PacketDrop) {
            _ = try sender.encapsulate(original.span, into: &smallSpan, now: start)
        } catch { refused = error }
        #expect(refused == .tooBig && sender.counters.drops == [.tooBig: 1])
    }

    @Test func withoutRoomNothingIsSealed() throws {
        let sender = try OutboundSA(parameters(), random: SeededRandom(seed: 1))
        let original = inner()
        for (head, tail) in [(0, 64), (15, 64), (16, 0), (16, 17)] {
            var buffer = [UInt8](repeating: 0, count: head) + original + [UInt8](repeating: 0, count: tail)
            var span = buffer.mutableSpan
            var refused: PacketDrop?
            do throws(PacketDrop) {
                _ = try sender.encapsulate(in: &span, inner: head..<head + original.count, now: start)
            } catch { refused = error }
            #expect(refused == .tooBig)
        }
        #expect(sender.counters.sequence == 0, "no number was spent")
    }

    // tests: RFC 6054 2 - sender id and counter; RFC 4106 3 - no IV twice under one key
    @Test func gcmVectorsNameTheSenderAndNeverRepeat() throws {
        var seen = Set<[UInt8]>()
        for senderID: UInt16 in [0, 1, 0xbeef, 0xffff] {
            let sender = try OutboundSA(
                parameters(.aes256gcm, senderID: senderID), random: SeededRandom(seed: UInt64(senderID)))
            for _ in 0..<200 {
                let iv = Array(try sender.seal(inner())[8..<16])
                #expect(UInt16(iv[0]) << 8 | UInt16(iv[1]) == senderID)
                #expect(seen.insert(iv).inserted)
            }
        }
    }

    // tests: RFC 3602 3 - unpredictable IVs, different for each packet
    @Test func cbcVectorsAreRandom() throws {
        let sender = try OutboundSA(parameters(.aes128sha1), random: SystemRandom())
        let vectors = Set(try (0..<200).map { _ in Array(try sender.seal(inner())[8..<24]) })
        #expect(vectors.count == 200)
        #expect(
            vectors.allSatisfy { $0[0] == 0 && $0[1] == 0 }, "the sender's id, by which receivers tell senders apart")
        #expect(Set(vectors.map { $0[2] }).count > 64)
    }

    // tests: RFC 4303 3.3.3
    @Test func sequenceNumbersDoNotWrap() throws {
        let sender = try OutboundSA(parameters(), random: SeededRandom(seed: 1), lastSequence: UInt64(UInt32.max) - 2)
        let receiver = try InboundSA(parameters())
        _ = try receiver.open(try sender.seal(inner()))
        let last = try sender.seal(inner())
        #expect(Array(last[4..<8]) == [0xff, 0xff, 0xff, 0xff])
        #expect(try receiver.open(last) == inner())
        for _ in 0..<3 { #expect(drop { () throws(PacketDrop) in try sender.seal(inner()) } == .sequenceExhausted) }
        #expect(sender.counters.drops == [.sequenceExhausted: 3] && sender.counters.packets == 2)
    }

    @Test func octetLimitsEndAnSA() throws {
        let size = UInt64(inner().count)
        let sender = try OutboundSA(parameters(octetLimit: 3 * size + 1), random: SeededRandom(seed: 1))
        let unlimited = try OutboundSA(parameters(), random: SeededRandom(seed: 1))
        let receiver = try InboundSA(parameters(octetLimit: 3 * size))
        for _ in 0..<3 { _ = try receiver.open(try sender.seal(inner())) }
        #expect(drop { () throws(PacketDrop) in try sender.seal(inner()) } == .expired)
        for _ in 0..<3 { _ = try unlimited.seal(inner()) }
        let fourth = try unlimited.seal(inner())
        #expect(drop { () throws(PacketDrop) in try receiver.open(fourth) } == .expired)
        #expect(receiver.counters.packets == 3 && sender.counters.packets == 3)
    }

    @Test(arguments: ESPSuite.allCases)
    func keysOfOtherSizesAreRefused(suite: ESPSuite) throws {
        var wrong = parameters(suite)
        for size in [0, 1, suite.cipherKeySize - 1, suite.cipherKeySize + 1] where size != suite.cipherKeySize {
            guard size >= 0 else { continue }
            wrong.cipherKey = Secret([UInt8](repeating: 1, count: size))
            #expect(throws: SAError.malformedKey) { try InboundSA(wrong) }
            #expect(throws: SAError.malformedKey) { try OutboundSA(wrong, random: SeededRandom(seed: 1)) }
        }
        wrong = parameters(suite)
        wrong.authenticationKey = suite.isAEAD ? Secret([1]) : nil
        #expect(throws: SAError.malformedKey) { try InboundSA(wrong) }
    }
}

/// Packets that must not come through. `Drop.malformed` and `notAuthentic` are told apart only where it is certain.
@Suite struct HostilePacketTests {
    // tests: issue - ESP packets truncated, oversized, bit-flipped, replayed: dropped and counted
    @Test(arguments: ESPSuite.allCases)
    func everyLength(suite: ESPSuite) throws {
        let sender = try OutboundSA(parameters(suite), random: SeededRandom(seed: 1))
        let receiver = try InboundSA(parameters(suite))
        let sealed = try sender.seal(inner(200))
        for size in 0..<sealed.count {
            let cut = drop { () throws(PacketDrop) in try receiver.open([UInt8](sealed.prefix(size))) }
            #expect(cut == .malformed || cut == .notAuthentic, "cut to \(size)")
            let zeros = drop { () throws(PacketDrop) in try receiver.open([UInt8](repeating: 0, count: size)) }
            #expect(zeros != nil, "\(size) zeros")
            let ones = drop { () throws(PacketDrop) in try receiver.open([UInt8](repeating: 0xff, count: size)) }
            #expect(ones == .malformed || ones == .notAuthentic, "\(size) ones")
            let longer = drop { () throws(PacketDrop) in
                try receiver.open(sealed + [UInt8](repeating: 0, count: size + 1))
            }
            #expect(longer == .malformed || longer == .notAuthentic, "\(size + 1) more")
        }
        #expect(receiver.counters.drops.values.reduce(0, +) == 4 * UInt64(sealed.count))
        #expect(receiver.counters.packets == 0)
        #expect(receiver.senderCount == 0, "a forger leaves no state behind")
        #expect(try receiver.open(sealed) == inner(200), "and spoils nothing")
    }

    @Test(arguments: ESPSuite.allCases)
    func everyBit(suite: ESPSuite) throws {
        let sender = try OutboundSA(parameters(suite), random: SeededRandom(seed: 1))
        let receiver = try InboundSA(parameters(suite))
        let sealed = try sender.seal(inner(40))
        for bit in 0..<sealed.count * 8 {
            var changed = sealed
            changed[bit / 8] ^= 0x80 >> UInt8(bit % 8)
            let result = drop { () throws(PacketDrop) in try receiver.open(changed) }
            // One bit makes the number 0 out of the number 1, which is never valid.
            #expect(result == (bit == 63 ? .replay : .notAuthentic), "bit \(bit)")
        }
        #expect(receiver.counters.drops == [.replay: 1, .notAuthentic: UInt64(sealed.count * 8 - 1)])
        #expect(try receiver.open(sealed) == inner(40))
    }

    // An ICV cut by any number of octets, with the rest of the packet whole or shifted, opens nothing.
    @Test(arguments: ESPSuite.allCases)
    func shortenedICVs(suite: ESPSuite) throws {
        let sender = try OutboundSA(parameters(suite), random: SeededRandom(seed: 1))
        let receiver = try InboundSA(parameters(suite))
        let sealed = try sender.seal(inner(40))
        for count in 1...suite.icvSize {
            let icv = sealed.suffix(suite.icvSize)
            let text = sealed.dropLast(suite.icvSize)
            for forged in [
                Array(text + icv.dropLast(count)), Array(text + icv.dropFirst(count)),
                Array(text + icv.dropLast(count) + icv.suffix(count).map { ~$0 }),
            ] {
                let result = drop { () throws(PacketDrop) in try receiver.open(forged) }
                #expect(result == .malformed || result == .notAuthentic)
            }
        }
        #expect(receiver.counters.packets == 0 && receiver.senderCount == 0)
        #expect(try receiver.open(sealed) == inner(40))
    }

    @Test(arguments: ESPSuite.allCases)
    func randomGarbage(suite: ESPSuite) throws {
        let random = SeededRandom(seed: 5)
        let receiver = try InboundSA(parameters(suite))
        for _ in 0..<300 {
            let garbage = random.bytes(Int(random.number(below: 300)))
            #expect(drop { () throws(PacketDrop) in try receiver.open(garbage) } != nil)
        }
    }

    @Test(arguments: ESPSuite.allCases)
    func replays(suite: ESPSuite) throws {
        let sender = try OutboundSA(parameters(suite), random: SeededRandom(seed: 1))
        let receiver = try InboundSA(parameters(suite))
        var sealed: [[UInt8]] = []
        for _ in 0..<100 { sealed.append(try sender.seal(inner())) }
        for index in [0, 5, 3, 99] {
            #expect(try receiver.open(sealed[index]) == inner())
            #expect(drop { () throws(PacketDrop) in try receiver.open(sealed[index]) } == .replay)
        }
        #expect(drop { () throws(PacketDrop) in try receiver.open(sealed[35]) } == .replay, "left of the window of 64")
        #expect(try receiver.open(sealed[36]) == inner(), "its last place")
        #expect(receiver.counters.drops == [.replay: 5])
    }

    // tests: RFC 4303 3.4.3 - the window moves only for what was verified
    @Test func forgedNumbersDoNotMoveTheWindow() throws {
        let sender = try OutboundSA(parameters(), random: SeededRandom(seed: 1))
        let receiver = try InboundSA(parameters())
        let first = try sender.seal(inner())
        let second = try sender.seal(inner())
        _ = try receiver.open(first)
        var forged = second
        forged.replaceSubrange(4..<8, with: [0xff, 0xff, 0xff, 0xf0])
        #expect(drop { () throws(PacketDrop) in try receiver.open(forged) } == .notAuthentic)
        #expect(try receiver.open(second) == inner())
        #expect(receiver.counters.sequence == 2)
    }

    // tests: what was overheard is a replay also when it comes from another outer source, which nothing authenticates
    @Test(arguments: ESPSuite.allCases)
    func replaysUnderAnotherSource(suite: ESPSuite) throws {
        let sender = try OutboundSA(parameters(suite, source: gateway, senderID: 7), random: SeededRandom(seed: 1))
        let receiver = SecurityAssociationDatabase(localAddresses: [otherGateway], random: SeededRandom(seed: 2))
        try receiver.apply(.addInbound(parameters(suite)))
        let sealed = try sender.seal(inner())
        #expect(try receiver.open(sealed) == inner())
        for number in UInt32(1)...100 {
            let source = IPAddress.v4(0x0a09_0000 + number)
            #expect(drop { () throws(PacketDrop) in try receiver.open(sealed, from: source) } == .replay)
        }
        #expect(try receiver.open(sender.seal(inner()), from: .v4(10, 9, 9, 9)) == inner(), "an address may change")
    }

    // The vectors of a kernel that sends look like anything; a group with one sender says so
    @Test func oneSenderHasOneWindowWhateverItsVectors() throws {
        var alone = parameters(.aes128sha1)
        alone.hasOneSender = true
        let receiver = try InboundSA(alone)
        for number in UInt16(1)...200 {
            let last = UInt64(number) - 1
            let sender = try OutboundSA(
                parameters(.aes128sha1, senderID: number), random: SeededRandom(seed: UInt64(number)),
                lastSequence: last)
            let sealed = try sender.seal(inner())
            #expect(try receiver.open(sealed) == inner())
            #expect(drop { () throws(PacketDrop) in try receiver.open(sealed) } == .replay)
        }
        #expect(receiver.senderCount == 1)
    }

    // Several senders of one group SA, each with numbers of its own from 1
    @Test func eachSenderHasAWindow() throws {
        let limits = Limits()
        let receiver = try InboundSA(parameters())
        let known = try OutboundSA(parameters(senderID: 998), random: SeededRandom(seed: 998))
        _ = try receiver.open(known.seal(inner()))
        for number in 1..<UInt32(limits.sendersPerAssociation) {
            let sender = try OutboundSA(
                parameters(senderID: UInt16(number)), random: SeededRandom(seed: UInt64(number)))
            let sealed = try sender.seal(inner())
            #expect(try receiver.open(sealed) == inner())
            #expect(drop { () throws(PacketDrop) in try receiver.open(sealed) } == .replay)
        }
        #expect(receiver.senderCount == limits.sendersPerAssociation)
        // tests: Limits.sendersPerAssociation
        let oneMore = try OutboundSA(parameters(senderID: 999), random: SeededRandom(seed: 999))
        let first = try oneMore.seal(inner())
        #expect(drop { () throws(PacketDrop) in try receiver.open(first) } == .senderLimit)
        #expect(receiver.senderCount == limits.sendersPerAssociation)
        #expect(try receiver.open(known.seal(inner())) == inner(), "who is known goes on")
    }
}
