// SPDX-License-Identifier: Apache-2.0
import Basics
import Cryptography
import Glibc
import IKEv1
import ISAKMP

/// Everybody may speak to the probe, with one key.
struct OneCredential: CredentialSource {
    let credential: PeerCredential
    func credential(for address: IPAddress) -> PeerCredential? { credential }
}

/// Runs one endpoint until it has done its work or its time is over.
final class Probe {
    private let options: Options
    private let endpoint: Phase1Endpoint
    private let credential: PeerCredential
    private let sockets: [(port: UInt16, descriptor: Int32)]
    private var deadline: Instant?
    private var closeAt: Instant?
    private var isEstablished = false
    private var isDone = false

    init(options: Options) throws {
        self.options = options
        credential = PeerCredential(
            name: "peer", preSharedKey: options.preSharedKey, expectedIdentity: options.peer, suites: options.suites,
            lifetime: .seconds(3_600))
        var configuration = Phase1Configuration(identity: options.identity, isResponder: !options.isInitiator)
        configuration.allowsKeyExport = true
        configuration.retransmitAfter = .milliseconds(500)
        configuration.deadPeerInterval = options.deadPeer > 0 ? .seconds(options.deadPeer) : nil
        // Few tries, so that a peer that never answers is reported within the time of a test.
        configuration.limits.requestTransmissions = 3
        endpoint = Phase1Endpoint(
            configuration: configuration, credentials: OneCredential(credential: credential), random: SystemRandom())
        sockets = try [options.port, configuration.natTraversalPort].map { ($0, try Self.bound(options.local, $0)) }
    }

    /// The exit status: 0 when an SA came up, and went down without a fault.
    func run() throws -> Int32 {
        let start = Self.now
        let end = start + .seconds(options.seconds)
        if options.isInitiator {
            _ = endpoint.initiate(
                credential, from: SocketAddress(options.local, options.port),
                to: SocketAddress(options.remote, options.port), now: start)
        }
        say("ready")
        drain()
        while !isDone, Self.now < end {
            try wait(until: [deadline, closeAt, end].compactMap(\.self).min() ?? end)
            if let closeAt, closeAt <= Self.now { closeAll() }
            endpoint.advance(to: Self.now)
            drain()
        }
        if !isDone { say("timeout") }
        return isDone && isEstablished ? 0 : 1
    }

    private func closeAll() {
        closeAt = nil
        for info in endpoint.associations { endpoint.close(info.id, now: Self.now) }
    }

    private func drain() {
        while let output = endpoint.poll() {
            switch output {
            case .wait(let until): deadline = until
            case .transmit(let datagram): send(datagram)
            case .event(let event): report(event)
            }
        }
    }

    private func report(_ event: Phase1Event) {
        switch event {
        case .established(let info):
            isEstablished = true
            closeAt = Self.now + .milliseconds(options.hold)
            say(
                "established suite=\(info.suite) peer=\(info.peerIdentity) nat=\(info.isBehindNAT)"
                    + " port=\(info.local.port)")
            logKey(info.id)
        case .failed(_, _, let reason):
            say("failed \(reason)")
            isDone = options.isInitiator
        case .ended(_, let reason):
            say("ended \(reason)")
            isDone = true
        case .dropped(let reason, let from): say("dropped \(reason.rawValue) from=\(from)")
        case .alive: say("alive")
        case .annex: say("annex")
        case .moved(let info, let from): say("moved from=\(from) to=\(info.remote)")
        case .reauthenticationDue: say("reauthentication-due")
        case .request(_, let exchange, _, _): say("request exchange=\(exchange.rawValue)")
        case .answer(_, let exchange, _, _): say("answer exchange=\(exchange.rawValue)")
        case .unanswered(_, let exchange, _): say("unanswered exchange=\(exchange.rawValue)")
        }
    }

    private func say(_ line: String) {
        print(line)
        fflush(nil)
    }

    private func logKey(_ id: AssociationID) {
        guard let path = options.keyLog, let exported = endpoint.exportableKey(id) else { return }
        let cookie = String(exported.cookie, radix: 16)
        let padded = String(repeating: "0", count: 16 - cookie.count) + cookie
        // In the open on purpose: this is the key log, for tshark.
        let line = [UInt8]("\(padded),\(hexadecimal(exported.key.revealed()))\n".utf8)
        let file = open(path, O_WRONLY | O_CREAT | O_APPEND, 0o600)
        if file < 0 || write(file, line, line.count) != line.count { say("error key log: \(errno)") }
        if file >= 0 { close(file) }
    }

    // MARK: Sockets

    private static var now: Instant {
        var time = timespec()
        clock_gettime(CLOCK_BOOTTIME, &time)
        return Instant(nanoseconds: Int64(time.tv_sec) * 1_000_000_000 + Int64(time.tv_nsec))
    }

    private static func bound(_ address: IPAddress, _ port: UInt16) throws -> Int32 {
        let descriptor = socket(AF_INET, Int32(SOCK_DGRAM.rawValue), 0)
        guard descriptor >= 0 else { throw ProbeError.system("socket", errno) }
        var name = socketName(SocketAddress(address, port))
        let result = withUnsafePointer(to: &name) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        guard result == 0 else { throw ProbeError.system("bind \(address):\(port)", errno) }
        return descriptor
    }

    private static func socketName(_ address: SocketAddress) -> sockaddr_in {
        var name = sockaddr_in()
        name.sin_family = sa_family_t(AF_INET)
        name.sin_port = address.port.bigEndian
        if case .v4(let value) = address.address { name.sin_addr.s_addr = value.bigEndian }
        return name
    }

    private func send(_ datagram: Datagram) {
        guard let socket = sockets.first(where: { $0.port == datagram.local.port }) else { return }
        var name = Self.socketName(datagram.remote)
        let sent = withUnsafePointer(to: &name) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                sendto(
                    socket.descriptor, datagram.bytes, datagram.bytes.count, 0, $0,
                    socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        if sent < 0 { say("error send: \(errno)") }
    }

    private func wait(until end: Instant) throws {
        let milliseconds = max(0, min((end - Self.now).wholeMilliseconds + 1, 1_000))
        var entries = sockets.map { pollfd(fd: $0.descriptor, events: Int16(POLLIN), revents: 0) }
        guard Glibc.poll(&entries, nfds_t(entries.count), Int32(milliseconds)) > 0 else { return }
        for (entry, socket) in zip(entries, sockets) where entry.revents != 0 {
            var octets = [UInt8](repeating: 0, count: 16_384)
            var name = sockaddr_in()
            var size = socklen_t(MemoryLayout<sockaddr_in>.size)
            let count = withUnsafeMutablePointer(to: &name) { pointer in
                pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                    recvfrom(socket.descriptor, &octets, octets.count, 0, $0, &size)
                }
            }
            guard count >= 0 else { continue }
            let remote = SocketAddress(.v4(UInt32(bigEndian: name.sin_addr.s_addr)), UInt16(bigEndian: name.sin_port))
            let local = SocketAddress(options.local, socket.port)
            endpoint.receive(
                Datagram(local: local, remote: remote, bytes: [UInt8](octets.prefix(count))), now: Self.now)
            drain()
        }
    }
}
