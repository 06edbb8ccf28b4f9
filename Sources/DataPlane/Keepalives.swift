// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import ESP
internal import EventLoop

/// When an address translator has to be reminded of us (RFC 3948 4): after so long without a packet to a peer, as long
/// as we send to it in UDP.
struct KeepaliveSchedule {
    /// Where ESP in UDP goes, and from which of our addresses.
    struct Path: Hashable {
        var source: IPAddress
        var remote: SocketAddress
    }

    let interval: Duration
    private var lastSent: [Path: Instant] = [:]

    init(interval: Duration) { self.interval = interval }

    /// The paths on which a keepalive is due now, and is taken for sent, and when to ask again (nil: not before there
    /// is another path).
    ///
    /// - Parameter used: all paths there are, and when each last carried a packet.
    mutating func due(_ used: [Path: Instant?], now: Instant) -> (paths: [Path], next: Instant?) {
        lastSent = lastSent.filter { used.keys.contains($0.key) }
        var paths: [Path] = []
        for (path, lastUsed) in used {
            // A new path begins with the messages that made it.
            let last = max(lastSent[path] ?? now, lastUsed ?? .zero)
            lastSent[path] = last
            guard last + interval <= now else { continue }
            lastSent[path] = now
            paths.append(path)
        }
        return (paths, lastSent.values.min().map { $0 + interval })
    }
}

/// Sends them.
final class Keepalives {
    private let socket: UDPSocket
    private let loop: EventLoop
    private let snapshot: () -> [SAStatus]
    private let fallback: [IPAddress]
    private var schedule: KeepaliveSchedule
    private var timer: LoopTimer?

    /// - Parameters:
    ///   - fallback: our addresses, for SAs that name none.
    ///   - snapshot: all SAs.
    init(
        _ socket: UDPSocket, loop: EventLoop, interval: Duration, fallback: [IPAddress],
        snapshot: @escaping () -> [SAStatus]
    ) {
        self.socket = socket
        self.loop = loop
        self.snapshot = snapshot
        self.fallback = fallback
        schedule = KeepaliveSchedule(interval: interval)
        timer = loop.makeTimer { [unowned self] in self.look() }
    }

    /// To be called when SAs came or went.
    func look() {
        let now = loop.now
        var used: [KeepaliveSchedule.Path: Instant?] = [:]
        for status in snapshot() where status.direction == .outbound {
            guard let remote = status.encapsulation?.remote else { continue }
            let own = status.source ?? fallback.first { $0.isV4 == remote.address.isV4 } ?? .anyV4
            let path = KeepaliveSchedule.Path(source: own, remote: remote)
            let latest = [used[path] ?? nil, status.counters.lastUsed].compactMap { $0 }.max()
            used[path] = .some(latest)
        }
        let (paths, next) = schedule.due(used, now: now)
        // One that is lost is as good as one that the network loses: the next comes.
        socket.send(
            paths.map {
                Datagram(
                    local: SocketAddress($0.source, socket.port), remote: $0.remote,
                    bytes: PayloadInUDP.keepaliveOctets)
            })
        timer?.set(next)
    }
}
