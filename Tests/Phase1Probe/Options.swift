// SPDX-License-Identifier: Apache-2.0
import Basics
import Cryptography
import Glibc
import IKEv1
import ISAKMP

enum ProbeError: Error {
    case usage(String)
    case system(String, Int32)
}

/// The command line. The pre-shared key comes from a file: arguments can be read by everybody.
struct Options {
    var isInitiator = false
    var local = IPAddress.anyV4
    var remote = IPAddress.anyV4
    var port: UInt16 = 500
    var identity = Identity.name("probe")
    var peer: Identity?
    var suites: [Phase1Suite] = []
    var preSharedKey = Secret([])
    /// Lines for Wireshark's `ikev1_decryption_table` are appended here.
    var keyLog: String?
    /// How long to live at most.
    var seconds = 10
    /// How long to keep an established SA before it is closed, in milliseconds.
    var hold = 300
    /// Idle seconds before the peer is asked whether it lives; 0 for never.
    var deadPeer = 0

    init(_ arguments: ArraySlice<String>) throws {
        var rest = arguments
        switch rest.popFirst() {
        case "initiate": isInitiator = true
        case "respond": isInitiator = false
        default: throw ProbeError.usage("the role is missing")
        }
        while let option = rest.popFirst() {
            guard let value = rest.popFirst() else { throw ProbeError.usage("\(option) wants a value") }
            try take(option, value)
        }
        guard !suites.isEmpty, preSharedKey.count > 0 else {
            throw ProbeError.usage("--suite and --psk-file are needed")
        }
    }

    private mutating func take(_ option: String, _ value: String) throws {
        func checked<Value>(_ parsed: Value?) throws -> Value {
            guard let parsed else { throw ProbeError.usage("\(option): \(value)") }
            return parsed
        }
        switch option {
        case "--local": local = try checked(IPAddress(value))
        case "--remote": remote = try checked(IPAddress(value))
        case "--port": port = try checked(UInt16(value))
        case "--identity": identity = Self.identity(value)
        case "--peer": peer = Self.identity(value)
        case "--suite": suites.append(try checked(Phase1Suite(value)))
        case "--psk-file": preSharedKey = Secret(try Self.contents(of: value))
        case "--key-log": keyLog = value
        case "--seconds": seconds = try checked(Int(value))
        case "--hold": hold = try checked(Int(value))
        case "--dpd": deadPeer = try checked(Int(value))
        default: throw ProbeError.usage("unknown option \(option)")
        }
    }

    private static func identity(_ text: String) -> Identity { IPAddress(text).map { .address($0) } ?? .name(text) }

    private static func contents(of path: String) throws -> [UInt8] {
        let file = open(path, O_RDONLY)
        guard file >= 0 else { throw ProbeError.system("open \(path)", errno) }
        defer { close(file) }
        var octets = [UInt8](repeating: 0, count: 1_024)
        let count = read(file, &octets, octets.count)
        guard count >= 0 else { throw ProbeError.system("read \(path)", errno) }
        return octets.prefix(count).filter { $0 != UInt8(ascii: "\n") }
    }
}
