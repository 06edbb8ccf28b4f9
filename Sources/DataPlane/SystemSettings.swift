// SPDX-License-Identifier: Apache-2.0

internal import EventLoop
internal import Glibc

/// The kernel's settings and counters below `/proc`, of this network namespace.
enum SystemSettings {
    /// The whole number in a setting, for example `net/ipv4/conf/all/rp_filter`; nil when there is none.
    static func integer(_ path: String) -> Int? {
        guard let text = text("/proc/sys/" + path) else { return nil }
        return Int(text.prefix { !$0.isWhitespace })
    }

    static func set(_ path: String, to value: Int) throws(SystemError) {
        let file = "/proc/sys/" + path
        let descriptor = unsafe open(file, O_WRONLY | O_CLOEXEC)
        guard descriptor >= 0 else { throw SystemError("open", errno: errno, context: file) }
        defer { close(descriptor) }
        let octets = [UInt8]("\(value)\n".utf8)
        guard unsafe write(descriptor, octets, octets.count) == octets.count else {
            throw SystemError("write \(value) to", errno: errno, context: file)
        }
    }

    /// The kernel's count of IPv4 packets it would have had to fragment and must not.
    static func fragmentationFailures() -> UInt64 {
        guard let text = text("/proc/net/snmp") else { return 0 }
        let lines = text.split(separator: "\n").filter { $0.hasPrefix("Ip: ") }.map { $0.split(separator: " ") }
        guard lines.count == 2, let column = lines[0].firstIndex(of: "FragFails"), column < lines[1].count else {
            return 0
        }
        return UInt64(lines[1][column]) ?? 0
    }

    /// What the kernel's IPsec counts in this network namespace, by its own names; empty where it counts nothing.
    static func ipsecStatistics() -> [String: UInt64] {
        let lines = (text("/proc/net/xfrm_stat") ?? "").split(separator: "\n").map {
            $0.split(whereSeparator: \.isWhitespace)
        }
        return Dictionary(
            lines.filter { $0.count == 2 }.map { (String($0[0]), UInt64($0[1]) ?? 0) }, uniquingKeysWith: { $1 })
    }

    /// A small file; nil when it cannot be read.
    private static func text(_ path: String) -> String? {
        let descriptor = unsafe open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return nil }
        defer { close(descriptor) }
        var octets = [UInt8](repeating: 0, count: 16_384)
        var count = 0
        while count < octets.count {
            let got = unsafe octets.withUnsafeMutableBytes { buffer in
                unsafe read(descriptor, buffer.baseAddress! + count, buffer.count - count)  // never empty
            }
            guard got > 0 else { break }
            count += got
        }
        return String(decoding: octets.prefix(count), as: UTF8.self)
    }
}
