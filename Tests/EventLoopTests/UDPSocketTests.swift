// SPDX-License-Identifier: Apache-2.0
import Basics
import EventLoop
import Glibc
import Testing

@Suite struct UDPSocketTests {
    /// A socket that keeps what it receives.
    final class Peer {
        private(set) var socket: UDPSocket!
        private(set) var batches: [[Datagram]] = []
        var received: [Datagram] { batches.flatMap { $0 } }

        init(_ loop: EventLoop, port: UInt16 = 0, family: AddressFamily = .v4, limits: Limits = Limits()) throws {
            socket = try UDPSocket(loop: loop, port: port, family: family, limits: limits) { [unowned self] in
                batches.append($0)
            }
        }
    }

    @Test(arguments: [IPAddress.v4(127, 0, 0, 7), .v6(0, 1)])
    func answersLeaveFromTheAddressThatWasAsked(address: IPAddress) throws {
        let loop = try EventLoop()
        let family = AddressFamily(address)
        let (client, server) = (try Peer(loop, family: family), try Peer(loop, family: family))
        // client -> server, at an address that is not the first of the host
        let question = Datagram(
            local: SocketAddress(family.any, 0), remote: SocketAddress(address, server.socket.port), bytes: [1, 2, 3])
        try client.socket.send(question)
        try run(loop) { !server.received.isEmpty }
        let asked = try #require(server.received.first)
        #expect(asked.local == question.remote && asked.bytes == [1, 2, 3])
        // client <- server
        try server.socket.send(Datagram(local: asked.local, remote: asked.remote, bytes: []))
        try run(loop) { !client.received.isEmpty }
        #expect(client.received.first?.remote == question.remote)
        #expect(client.received.first?.bytes == [])
    }

    @Test func batchesAreBoundedAndComplete() throws {
        let loop = try EventLoop()
        var limits = Limits()
        limits.datagramsPerWakeup = 8
        let (client, server) = (try Peer(loop), try Peer(loop, limits: limits))
        let target = SocketAddress(.v4(127, 0, 0, 1), server.socket.port)
        let datagrams = (0..<100).map { number in
            Datagram(local: SocketAddress(.anyV4, 0), remote: target, bytes: [UInt8(number)])
        }
        #expect(client.socket.send(datagrams).isEmpty)
        try run(loop) { server.received.count == 100 }
        #expect(server.received.map(\.bytes) == datagrams.map(\.bytes))
        #expect(server.batches.allSatisfy { $0.count <= 8 })
        #expect(client.socket.counters.sent == 100 && server.socket.counters.received == 100)
    }

    @Test func whatIsTooLargeIsCountedAndTheRestStillGoes() throws {
        let loop = try EventLoop()
        var limits = Limits()
        limits.datagramOctets = 64
        let (client, server) = (try Peer(loop), try Peer(loop, limits: limits))
        let target = SocketAddress(.v4(127, 0, 0, 1), server.socket.port)
        let sizes = [65, 70_000, 65_530, 64]
        let errors = client.socket.send(
            sizes.map { size in
                Datagram(
                    local: SocketAddress(.anyV4, 0), remote: target, bytes: [UInt8](repeating: 0, count: size))
            })
        #expect(errors.map(\.errno) == [EMSGSIZE, EMSGSIZE])
        try run(loop) { !server.received.isEmpty }
        #expect(server.received.map(\.bytes.count) == [64])
        #expect(server.socket.counters.truncated == 1)
    }

    @Test func groupsAreHeardOnlyWhenJoined() throws {
        let loop = try EventLoop()
        let member = try Peer(loop)
        let port = member.socket.port
        let sender = try Peer(loop)
        // 30 groups: more than one socket's memberships.
        let groups = (0..<30).map { IPAddress.v4(239, 255, 7, $0) }
        for group in groups.dropLast() { try member.socket.join(group, interface: "lo") }
        try member.socket.join(groups[0], interface: "lo")
        // Another program of the host is in the last group.
        let other = try Peer(loop)
        try other.socket.join(groups[29], interface: "lo")
        try sender.socket.setMulticast(interface: "lo", ttl: 1, loop: true)
        func transmit() {
            sender.socket.send(
                groups.map {
                    Datagram(local: SocketAddress(.anyV4, 0), remote: SocketAddress($0, port), bytes: [9])
                })
        }
        transmit()
        try run(loop) { member.received.count >= 29 }
        #expect(member.received.map(\.local.address) == Array(groups.dropLast()))
        #expect(member.socket.counters.foreign == 1)
        member.socket.leave(groups[0], interface: "lo")
        transmit()
        try run(loop) { member.received.count >= 29 + 28 }
        #expect(member.received.count == 29 + 28)
    }

    @Test func groupsOfIPv6AreJoinedAndLeft() throws {
        let peer = try Peer(try EventLoop(), family: .v6)
        for low in 0..<30 as Range<UInt64> { try peer.socket.join(.v6(0xff11 << 48, low), interface: "lo") }
        for low in 0..<30 as Range<UInt64> { peer.socket.leave(.v6(0xff11 << 48, low), interface: "lo") }
        try peer.socket.setMulticast(interface: "lo", ttl: 4, loop: false)
    }

    /// Of two sockets on one port one would get everything, and the other would never know.
    @Test func aPortHasOneOwner() throws {
        let loop = try EventLoop()
        let peer = try Peer(loop)
        let error = #expect(throws: SystemError.self) { try Peer(loop, port: peer.socket.port) }
        #expect(error?.errno == EADDRINUSE)
    }

    @Test func aClosedSocketIsSilent() throws {
        let loop = try EventLoop()
        let peer = try Peer(loop)
        let target = SocketAddress(.v4(127, 0, 0, 1), peer.socket.port)
        peer.socket.close()
        #expect(throws: SystemError.self) {
            try peer.socket.send(Datagram(local: SocketAddress(.anyV4, 0), remote: target, bytes: []))
        }
    }

    @Test func errorsNameTheAddress() throws {
        let loop = try EventLoop()
        let error = #expect(throws: SystemError.self) {
            try UDPSocket(loop: loop, port: 9, family: .v4, address: .v4(192, 0, 2, 1)) { _ in }
        }
        #expect(error?.errno == EADDRNOTAVAIL && error?.context == "192.0.2.1:9")
    }
}
