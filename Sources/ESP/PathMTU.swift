// SPDX-License-Identifier: Apache-2.0

internal import Basics

/// What is known of the path to each peer (RFC 4301 8.2): the largest outer packet that goes through, header included.
struct PathMTU {
    private struct Entry {
        var mtu: Int
        var until: Instant
    }

    private var entries: [IPAddress: Entry] = [:]

    /// After this a path is tried with full size again (RFC 1191 6.3, RFC 8201 4).
    private static let lifetime: Duration = .seconds(600)

    /// RFC 791 3.1 and RFC 8200 5: no honest router has less to offer; a liar shall not have us send crumbs.
    static func floor(isV4: Bool) -> Int { isV4 ? 576 : 1_280 }

    /// nil where nothing is known that is not too old.
    func mtu(to destination: IPAddress, now: Instant) -> Int? {
        guard !entries.isEmpty, let entry = entries[destination], entry.until > now else { return nil }
        return entry.mtu
    }

    mutating func note(_ mtu: Int, to destination: IPAddress, now: Instant) {
        entries = entries.filter { $0.value.until > now }
        let mtu = max(mtu, Self.floor(isV4: destination.isV4))
        if let known = entries[destination], known.mtu <= mtu { return }
        entries[destination] = Entry(mtu: mtu, until: now + Self.lifetime)
    }

    mutating func removeAll() { entries = [:] }

    var all: [IPAddress: Int] { entries.mapValues(\.mtu) }
}
