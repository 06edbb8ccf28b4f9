// SPDX-License-Identifier: Apache-2.0

import Basics
import CLinux
import Glibc

// The emulator's dealings with the operating system: TAP devices in namespaces, the timer, signals, files.

/// Something the system refused.
struct EmulatorError: Error, CustomStringConvertible {
    var description: String

    init(_ what: String, errno code: Int32, hint: String? = nil) {
        let reason = unsafe String(cString: strerror(code))
        description = "\(what): \(reason)" + (hint.map { " (\($0))" } ?? "")
    }

    /// Throws for a negative errno, gives back anything else.
    static func check(_ result: Int32, _ what: @autoclosure () -> String) throws(EmulatorError) -> Int32 {
        guard result >= 0 else { throw EmulatorError(what(), errno: -result) }
        return result
    }
}

enum Console {
    static func complain(_ message: String) {
        let line = Array("satemu: \(message)\n".utf8)
        _ = unsafe line.withUnsafeBytes { unsafe write(STDERR_FILENO, $0.baseAddress, $0.count) }
    }
}

enum Clock {
    /// CLOCK_BOOTTIME.
    static var now: Instant { Instant(nanoseconds: clinux_boottime()) }

    /// The wall clock's time of an instant, in seconds since 1970.
    static func wall(_ instant: Instant) -> Double {
        var time = timespec()
        _ = unsafe clock_gettime(CLOCK_REALTIME, &time)
        return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9 - (now - instant).inSeconds
    }
}

/// A terminal's Ethernet interface: a TAP device that lives as long as this.
final class Tap {
    let descriptor: Int32

    /// Makes the interface right inside its namespace, where it is down and has no address.
    init(_ terminal: TerminalOption) throws(EmulatorError) {
        var name = terminal.interface.utf8CString + [CChar](repeating: 0, count: 16)
        let place = terminal.namespacePath.map { " in \($0)" } ?? ""
        var previous: Int32?
        if let path = terminal.namespacePath {
            let result = unsafe path.withCString { unsafe clinux_namespace_enter($0) }
            previous = try EmulatorError.check(result, "cannot enter network namespace \(path)")
        }
        let result = unsafe name.withUnsafeMutableBufferPointer { unsafe clinux_tun_open($0.baseAddress, 1) }
        if let previous { _ = try EmulatorError.check(clinux_namespace_leave(previous), "cannot leave a namespace") }
        guard result >= 0 else {
            throw EmulatorError(
                "cannot make interface \(terminal.interface)\(place)", errno: -result, hint: Self.hint(-result))
        }
        descriptor = result
    }

    deinit { close(descriptor) }

    /// The next frame; nil when there is none for now.
    func read(_ buffer: inout [UInt8]) -> [UInt8]? {
        let count = unsafe buffer.withUnsafeMutableBytes { unsafe Glibc.read(descriptor, $0.baseAddress, $0.count) }
        return count > 0 ? Array(buffer[..<count]) : nil
    }

    /// False when the interface did not take it, which it does not while it is down.
    func write(_ frame: [UInt8]) -> Bool {
        unsafe frame.withUnsafeBytes { unsafe Glibc.write(descriptor, $0.baseAddress, $0.count) == $0.count }
    }

    private static func hint(_ code: Int32) -> String? {
        switch code {
        case EPERM: "CAP_NET_ADMIN is needed: run as root, or inside `unshare -Urnm`"
        case ENOENT, ENODEV: "/dev/net/tun is missing: `modprobe tun`, or pass the device into the container"
        case EBUSY: "an interface of that name is in use"
        default: nil
        }
    }
}

/// A file of lines. What cannot be written is said once and then dropped: the link goes on.
final class LineFile {
    private let path: String
    private let descriptor: Int32
    private var pending: [UInt8] = []
    private var hasComplained = false

    /// - is standard output; any other file starts empty.
    init(_ path: String) throws(EmulatorError) {
        self.path = path
        let flags = O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC
        descriptor = path == "-" ? STDOUT_FILENO : unsafe open(path, flags, 0o644)
        guard descriptor >= 0 else { throw EmulatorError("cannot write \(path)", errno: errno) }
    }

    deinit { if descriptor != STDOUT_FILENO { close(descriptor) } }

    func append(_ line: String) { pending.append(contentsOf: line.utf8) }

    func flush() {
        guard !pending.isEmpty else { return }
        let written = unsafe pending.withUnsafeBytes { unsafe write(descriptor, $0.baseAddress, $0.count) }
        if written != pending.count, !hasComplained {
            hasComplained = true
            Console.complain(EmulatorError("cannot write all of \(path)", errno: errno).description)
        }
        pending.removeAll(keepingCapacity: true)
    }
}

enum Files {
    /// The text of a file of at most 1 MiB; nil when it cannot be read.
    static func read(_ path: String) -> String? {
        let descriptor = unsafe open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return nil }
        defer { close(descriptor) }
        var octets: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 65_536)
        while octets.count <= 1 << 20 {
            let count = unsafe buffer.withUnsafeMutableBytes { unsafe Glibc.read(descriptor, $0.baseAddress, $0.count) }
            guard count >= 0 else { return nil }
            if count == 0 { return String(decoding: octets, as: UTF8.self) }
            octets += buffer[..<count]
        }
        return nil
    }
}
