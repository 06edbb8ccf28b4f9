// SPDX-License-Identifier: Apache-2.0
import Basics
import Cryptography
import ESP
import Testing

private let group2 = IPAddress.v4(239, 1, 1, 2)

private func database(limits: Limits = Limits(), address: IPAddress = gateway) -> SecurityAssociationDatabase {
    SecurityAssociationDatabase(localAddresses: [address], limits: limits, random: SeededRandom(seed: 3))
}

private func key(_ spi: UInt32, _ destination: IPAddress = group) -> SAKey { SAKey(spi: spi, destination: destination) }

extension SecurityAssociationDatabase {
    fileprivate func refusal(of packet: [UInt8]) -> PacketDrop? { drop { () throws(PacketDrop) in try seal(packet) } }
}

// tests: RFC 4301 4.4, RFC 5374 5.2 (roll-over)
@Suite struct DatabaseTests {
    @Test func aFlowIsProtectedOnlyByAnActiveSA() throws {
        let sender = database()
        #expect(sender.refusal(of: inner()) == .noPolicy, "nothing is installed")
        try sender.apply(.addOutbound(parameters(senderID: 7)))
        #expect(sender.refusal(of: inner()) == .noActiveSA, "installed, not active")
        #expect(sender.refusal(of: packet(to: group2, datagram([1]))) == .noPolicy)
        try sender.apply(.activateOutbound(key(0x1001)))
        let (sealed, octets) = try sender.seal(inner())
        #expect(sealed.source == gateway && sealed.destination == group)
        #expect(Array(octets[..<4]) == hex("00001001"))
        try sender.apply(.removeOutbound(key(0x1001)))
        #expect(sender.refusal(of: inner()) == .noPolicy, "gone")
        #expect(sender.unattributedDrops == [.noPolicy: 3, .noActiveSA: 1])
    }

    @Test func makeBeforeBreak() throws {
        let sender = database()
        let receiver = database(address: otherGateway)
        let old = parameters(spi: 0x1001, seed: 1)
        let new = parameters(.aes256sha256, spi: 0x1002, seed: 50)
        // GCKS -> both: the new SA is installed everywhere before anyone sends with it
        for change in [SAChange.addOutbound(old), .activateOutbound(old.key), .addOutbound(new)] {
            try sender.apply(change)
        }
        try receiver.apply(.addInbound(old))
        try receiver.apply(.addInbound(new))
        let late = try sender.seal(inner()).octets
        #expect(Array(late[..<4]) == hex("00001001"))
        // activation
        try sender.apply(.activateOutbound(new.key))
        let first = try sender.seal(inner()).octets
        #expect(Array(first[..<4]) == hex("00001002"))
        #expect(try receiver.open(first) == inner())
        #expect(try receiver.open(late) == inner(), "what was still on the way")
        // the old SA goes; sending goes on
        try sender.apply(.removeOutbound(old.key))
        try receiver.apply(.removeInbound(old.key))
        #expect(try receiver.open(try sender.seal(inner()).octets) == inner())
        #expect(drop { () throws(PacketDrop) in try receiver.open(late) } == .unknownSPI)
        // the active one goes while another waits: fail closed
        try sender.apply(.addOutbound(parameters(spi: 0x1003, seed: 90)))
        try sender.apply(.removeOutbound(new.key))
        #expect(sender.refusal(of: inner()) == .noActiveSA)
    }

    @Test func changesAreIdempotent() throws {
        let sender = database()
        let receiver = database(address: otherGateway)
        var sealed: [[UInt8]] = []
        for round in 0..<3 {
            try sender.apply(.addOutbound(parameters()))
            try sender.apply(.activateOutbound(key(0x1001)))
            try receiver.apply(.addInbound(parameters()))
            sealed.append(try sender.seal(inner()).octets)
            #expect(sealed[round][7] == UInt8(round + 1), "the sequence goes on")
            #expect(try receiver.open(sealed[round]) == inner())
            for old in sealed { #expect(drop { () throws(PacketDrop) in try receiver.open(old) } == .replay) }
        }
        try receiver.apply(.removeInbound(key(0x9999)))
        try sender.apply(.removeOutbound(key(0x9999)))
        #expect(throws: SAError.unknownAssociation) { try sender.apply(.activateOutbound(key(0x9999))) }
        #expect(sender.snapshot().count == 1)
    }

    @Test func newKeysUnderAnOldNameAreANewSA() throws {
        let sender = database()
        let receiver = database(address: otherGateway)
        try sender.apply(.addOutbound(parameters()))
        try sender.apply(.activateOutbound(key(0x1001)))
        try receiver.apply(.addInbound(parameters()))
        let old = try sender.seal(inner()).octets
        try receiver.apply(.addInbound(parameters(seed: 99)))
        #expect(drop { () throws(PacketDrop) in try receiver.open(old) } == .notAuthentic)
        try sender.apply(.addOutbound(parameters(seed: 99)))
        #expect(sender.refusal(of: inner()) == .noActiveSA, "it has to be activated")
        try sender.apply(.activateOutbound(key(0x1001)))
        #expect(try receiver.open(try sender.seal(inner()).octets) == inner())
    }

    @Test func aSelectorMayChange() throws {
        let sender = database()
        try sender.apply(.addOutbound(parameters()))
        try sender.apply(.activateOutbound(key(0x1001)))
        _ = try sender.seal(inner())
        let narrow = TrafficSelector(
            source: prefix("192.168.3.0/24"), destination: IPPrefix(host: group), ipProtocol: 17, destinationPort: 6_000
        )
        try sender.apply(.addOutbound(parameters(selector: narrow)))
        #expect(sender.refusal(of: inner()) == .noPolicy)
        let octets = try sender.seal(packet(datagram(to: 6_000, [1]))).octets
        #expect(octets[7] == 2, "still the same SA, still active")
        #expect(sender.snapshot().map(\.selector) == [narrow])
    }

    @Test func theFirstSelectorDecides() throws {
        let sender = database()
        let all = TrafficSelector(source: .allV4, destination: IPPrefix(host: group))
        try sender.apply(.addOutbound(parameters(spi: 1)))
        try sender.apply(.addOutbound(parameters(spi: 2, selector: all)))
        try sender.apply(.activateOutbound(key(2)))
        #expect(sender.refusal(of: inner()) == .noActiveSA, "no falling through to a wider one")
        #expect(try sender.seal(packet(from: .v4(172, 16, 0, 1), datagram([1]))).octets[3] == 2)
        try sender.apply(.activateOutbound(key(1)))
        #expect(try sender.seal(inner()).octets[3] == 1)
    }

    @Test func unicastAndGroupsSideBySide() throws {
        let sender = database()
        let receiver = database(address: otherGateway)
        let sites = TrafficSelector(source: prefix("192.168.3.0/24"), destination: prefix("192.168.4.0/24"))
        let vpn = parameters(
            .aes128sha1, spi: 0x2001, destination: otherGateway, selector: sites, seed: 9, source: gateway, name: "vpn")
        for (number, address) in [group, group2].enumerated() {
            let video = parameters(
                spi: 0x1001, destination: address, seed: UInt8(number + 20), name: "video\(number)")
            try sender.apply(.addOutbound(video))
            try sender.apply(.activateOutbound(video.key))
            try receiver.apply(.addInbound(video))
        }
        try sender.apply(.addOutbound(vpn))
        try sender.apply(.activateOutbound(vpn.key))
        try receiver.apply(.addInbound(vpn))
        for destination in [group, group2, IPAddress.v4(192, 168, 4, 77)] {
            let original = packet(to: destination, datagram([1, 2, 3]))
            let (sealed, octets) = try sender.seal(original)
            #expect(sealed.destination == (destination.isMulticast ? destination : otherGateway))
            #expect(try receiver.open(octets, to: sealed.destination) == original)
            let elsewhere = sealed.destination == group ? group2 : group
            #expect(drop { () throws(PacketDrop) in try receiver.open(octets, to: elsewhere) } != nil)
        }
        #expect(receiver.snapshot().map(\.name) == ["video0", "video1", "vpn"])
        #expect(receiver.snapshot().allSatisfy { $0.counters.packets == 1 && $0.senders == 1 && $0.isActive })
    }

    @Test func aWideSelectorSendsNothingIntoTheWrongGroup() throws {
        let sender = database()
        let wide = TrafficSelector(source: .allV4, destination: prefix("239.0.0.0/8"))
        try sender.apply(.addOutbound(parameters(selector: wide)))
        try sender.apply(.activateOutbound(key(0x1001)))
        #expect(sender.refusal(of: packet(to: group2, datagram([1]))) == .policyMismatch)
        #expect(try sender.seal(inner()).sealed.destination == group)
        #expect(sender.snapshot()[0].counters.drops == [.policyMismatch: 1])
    }

    @Test func ownPacketsAndStrangersAreDropped() throws {
        let both = database()
        try both.apply(.addOutbound(parameters()))
        try both.apply(.activateOutbound(key(0x1001)))
        try both.apply(.addInbound(parameters()))
        let octets = try both.seal(inner()).octets
        #expect(drop { () throws(PacketDrop) in try both.open(octets, from: gateway) } == .ownPacket)
        #expect(try both.open(octets, from: otherGateway) == inner())
        var other = octets
        other[0] = 0x77
        #expect(drop { () throws(PacketDrop) in try both.open(other, from: otherGateway) } == .unknownSPI)
        for size in 0..<8 {
            let short = [UInt8](octets.prefix(size))
            #expect(drop { () throws(PacketDrop) in try both.open(short, from: otherGateway) } == .malformed)
        }
        #expect(both.unattributedDrops == [.ownPacket: 1, .unknownSPI: 1, .malformed: 8])
    }

    @Test func innerGarbageIsDroppedBeforeAnySA() throws {
        let sender = database()
        try sender.apply(.addOutbound(parameters(selector: TrafficSelector(source: .allV4, destination: .allV4))))
        try sender.apply(.activateOutbound(key(0x1001)))
        let good = inner(30)
        for size in 0..<good.count { #expect(sender.refusal(of: [UInt8](good.prefix(size))) == .malformed) }
        let v6: [UInt8] = [0x60] + [UInt8](repeating: 0, count: 60)
        #expect(sender.refusal(of: v6) == .malformed)
        #expect(try sender.seal(good + [9, 9, 9]).octets.count == ESPSuite.aes128gcm.sealedSize(inner: good.count))
    }

    @Test(arguments: ESPSuite.allCases)
    func packetsTooBigForTheLink(suite: ESPSuite) throws {
        let sender = database()
        try sender.apply(.addOutbound(parameters(suite)))
        try sender.apply(.activateOutbound(key(0x1001)))
        let largest = suite.largestInner(sealed: 1_480)
        #expect(try sender.seal(packet([UInt8](repeating: 1, count: largest - 20))).octets.count <= 1_480)
        #expect(sender.refusal(of: packet([UInt8](repeating: 1, count: largest - 19))) == .tooBig)
        #expect(sender.snapshot()[0].counters.drops == [.tooBig: 1])
    }

    @Test func rawDatagrams() throws {
        let sender = database()
        let receiver = database(address: otherGateway)
        try sender.apply(.addOutbound(parameters()))
        try sender.apply(.activateOutbound(key(0x1001)))
        try receiver.apply(.addInbound(parameters()))
        let good = packet(from: gateway, to: group, protocol: 50, try sender.seal(inner()).octets)
        for size in 0..<good.count {
            #expect(
                drop { () throws(PacketDrop) in try receiver.open(datagram: [UInt8](good.prefix(size))) } == .malformed)
        }
        var changed = good
        changed[9] = 51
        #expect(drop { () throws(PacketDrop) in try receiver.open(datagram: changed) } == .malformed, "not ESP")
        changed = good
        changed[6] = 0x20
        #expect(drop { () throws(PacketDrop) in try receiver.open(datagram: changed) } == .malformed, "a fragment")
        changed = good
        changed[6] = 0x40
        #expect(try receiver.open(datagram: changed) == inner(), "don't fragment is fine")
        // An outer header with options
        let second = packet(from: gateway, to: group, protocol: 50, try sender.seal(inner()).octets)
        var options = Array(second[..<20]) + [1, 1, 1, 1] + second[20...]
        options[0] = 0x46
        options[2] = UInt8(options.count >> 8)
        options[3] = UInt8(options.count & 0xff)
        #expect(try receiver.open(datagram: options + [0, 0]) == inner(), "and so is what the link added")
    }

    // tests: Limits.dataAssociations
    @Test func thereIsALimit() throws {
        var limits = Limits()
        limits.dataAssociations = 4
        let full = database(limits: limits)
        for spi in 1...2 as ClosedRange<UInt32> {
            try full.apply(.addInbound(parameters(spi: spi)))
            try full.apply(.addOutbound(parameters(spi: spi)))
        }
        #expect(throws: SAError.tooMany) { try full.apply(.addInbound(parameters(spi: 3))) }
        #expect(throws: SAError.tooMany) { try full.apply(.addOutbound(parameters(spi: 3))) }
        try full.apply(.addInbound(parameters(spi: 2)))
        try full.apply(.removeInbound(key(1)))
        try full.apply(.addOutbound(parameters(spi: 3)))
        #expect(throws: SAError.reservedSPI) { try full.apply(.addInbound(parameters(spi: 0))) }
    }

    @Test func aBrokenKeyChangesNothing() throws {
        let sender = database()
        try sender.apply(.addOutbound(parameters()))
        try sender.apply(.activateOutbound(key(0x1001)))
        var broken = parameters()
        broken.cipherKey = Secret([1, 2, 3])
        #expect(throws: SAError.malformedKey) { try sender.apply(.addOutbound(broken)) }
        _ = try sender.seal(inner())
        #expect(sender.snapshot().count == 1 && sender.snapshot()[0].isActive)
    }

    @Test func removeAllClosesEverything() throws {
        let both = database()
        try both.apply(.addOutbound(parameters()))
        try both.apply(.activateOutbound(key(0x1001)))
        try both.apply(.addInbound(parameters()))
        let octets = try both.seal(inner()).octets
        _ = try both.open(octets, from: otherGateway)
        #expect(drop { () throws(PacketDrop) in try both.open(octets, from: otherGateway) } == .replay)
        try both.apply(.removeAll)
        #expect(both.refusal(of: inner()) == .noPolicy)
        #expect(drop { () throws(PacketDrop) in try both.open(octets, from: otherGateway) } == .unknownSPI)
        #expect(both.snapshot().isEmpty)
        #expect(both.totalDrops == [.replay: 1, .noPolicy: 1, .unknownSPI: 1], "counts outlive their SA")
    }

    @Test func statusHoldsNoKeys() throws {
        let both = database()
        try both.apply(.addInbound(parameters(.aes256sha1)))
        var text = ""
        dump(both.snapshot(), to: &text)
        #expect(!text.contains("secret") && text.contains("aes256-sha1"))
    }
}
