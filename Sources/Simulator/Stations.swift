// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import Cryptography
internal import ESP
internal import GroupMember
internal import KeyServer
internal import Store

/// A clock that runs a little fast or slow, in exact arithmetic.
struct DriftingClock {
    let offset: Int64
    let millionths: Int

    func local(_ instant: Instant) -> Instant {
        let drift = Int128(instant.nanoseconds) * Int128(millionths) / 1_000_000
        return Instant(nanoseconds: Int64(clamping: Int128(instant.nanoseconds) + drift + Int128(offset)))
    }

    /// The first instant at which this clock shows that time or a later one.
    func global(_ local: Instant) -> Instant {
        guard local != .distantFuture else { return .distantFuture }
        let whole = (Int128(local.nanoseconds) - Int128(offset)) * 1_000_000 / Int128(1_000_000 + millionths)
        var instant = Instant(nanoseconds: Int64(clamping: whole) - 2)
        while self.local(instant) < local { instant.nanoseconds += 1 }
        return instant
    }
}

/// One member: the real engine while it is up, and what its data plane was told.
final class MemberStation {
    let number: Int
    let name: String
    let address: IPAddress
    let clock: DriftingClock
    var engine: GroupMember?
    var run: UInt64 = 0
    var wakeAt: Instant?
    var isRevoked = false
    var inbound: [SAKey: SAParameters] = [:]
    var outbound: [SAKey: SAParameters] = [:]
    /// Which SA sends for each flow.
    var active: [String: SAKey] = [:]
    var refusesSAs = false
    /// Dies after this many more outputs; nil: not planned.
    var outputsLeft: Int?
    var spins = 0

    /// Terminal 0 is the server's.
    var terminal: Int { number + 1 }

    init(number: Int, clock: DriftingClock) {
        self.number = number
        self.clock = clock
        name = "m\(number)"
        address = .v4(10, 1, UInt8(truncatingIfNeeded: number >> 8), UInt8(truncatingIfNeeded: number))
    }

    /// Does what the engine asks of the data plane; false when it refuses.
    func apply(_ change: SAChange) -> Bool {
        switch change {
        case .addInbound(let parameters):
            if refusesSAs { return false }
            inbound[parameters.key] = parameters
        case .addOutbound(let parameters):
            if refusesSAs { return false }
            outbound[parameters.key] = parameters
        case .activateOutbound(let key):
            guard let parameters = outbound[key] else { return true }
            active[Self.flow(parameters)] = key
        case .removeInbound(let key): inbound[key] = nil
        case .removeOutbound(let key):
            if let parameters = outbound.removeValue(forKey: key), active[Self.flow(parameters)] == key {
                active[Self.flow(parameters)] = nil
            }
        case .removeAll: stopDataPlane()
        }
        return true
    }

    func stopDataPlane() { (inbound, outbound, active) = ([:], [:], [:]) }

    static func flow(_ parameters: SAParameters) -> String { "\(parameters.name) \(parameters.selector)" }
}

/// The GCKS: the real engine while it is up, and its store, which may outlive it.
final class ServerStation {
    static let address = IPAddress.v4(10, 0, 0, 10)
    var engine: KeyServer?
    var store = MemoryStore()
    var run: UInt64 = 0
    var wakeAt: Instant?
    var outputsLeft: Int?
    /// Records and datagrams that all runs have written and sent.
    var effects = 0
    var spins = 0
    /// Clients that the operator took out of the file: after a revocation, before a start without records.
    var removed: Set<Int> = []
}

extension SigningKey {
    /// An Ed25519 key whose 32 octets (RFC 8032 5.1.5) come from a seed, so that signatures repeat with it.
    static func seeded(_ random: any RandomSource) throws -> SigningKey {
        // PKCS #8 around the key (RFC 8410 7).
        let prefix: [UInt8] = [
            0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
        ]
        let text = "-----BEGIN PRIVATE KEY-----\n\(base64(prefix + random.bytes(32)))\n-----END PRIVATE KEY-----\n"
        return try SigningKey(pem: Array(text.utf8))
    }

    /// Of a number of octets that three divides.
    private static func base64(_ octets: [UInt8]) -> String {
        let alphabet = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")
        var text = ""
        for start in stride(from: 0, to: octets.count - 2, by: 3) {
            let word = octets[start..<start + 3].reduce(UInt32(0)) { $0 << 8 | UInt32($1) }
            for shift in [18, 12, 6, 0] { text.append(alphabet[Int(word >> UInt32(shift) & 63)]) }
        }
        return text
    }
}
