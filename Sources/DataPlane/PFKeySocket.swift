// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import CLinux
internal import Cryptography
internal import EventLoop
internal import Glibc

/// A message of PF_KEYv2 (RFC 2367 2): header and extensions, in units of 8 octets, in the machine's own order.
struct PFKeyMessage {
    enum Kind: UInt8 {
        case update = 2, add = 3, delete = 4, get = 5, register = 7, expire = 8, dump = 10
        case updatePolicy = 13, deletePolicy = 15, dumpPolicies = 18
    }

    /// Numbers of extensions.
    enum Extension: UInt16 {
        case association = 1, current = 2, hard = 3, soft = 4, source = 5, destination = 6
        case authenticationKey = 8, encryptionKey = 9, policy = 18, association2 = 19
    }

    static let headerSize = 16
    private static let version: UInt8 = 2
    private static let esp: UInt8 = 3

    let kind: Kind
    private(set) var message = KernelMessage()

    init(_ kind: Kind) {
        self.kind = kind
        let isAboutPolicies = kind == .updatePolicy || kind == .deletePolicy || kind == .dumpPolicies
        for octet in [Self.version, kind.rawValue, 0, isAboutPolicies ? 0 : Self.esp] { message.append(octet) }
        // Length, reserved, sequence, process.
        for value in [0, 0, 0] as [UInt32] { message.append(value) }
    }

    mutating func append(_ type: Extension, _ write: (inout KernelMessage) -> Void) {
        let start = message.octets.count
        message.append(UInt16(0))
        message.append(type.rawValue)
        write(&message)
        message.pad(to: 8)
        message.store(UInt16(truncatingIfNeeded: (message.octets.count - start) / 8), at: start)
    }

    /// sadb_address and the socket address in it.
    mutating func append(
        _ type: Extension, _ address: IPAddress, length: Int, ipProtocol: UInt8 = 0, port: UInt16 = 0
    ) {
        append(type) { message in
            message.append(ipProtocol)
            message.append(UInt8(truncatingIfNeeded: length))
            message.append(UInt16(0))
            message.append(address, port: port)
        }
    }

    fileprivate mutating func finish(sequence: UInt32) {
        message.store(UInt16(truncatingIfNeeded: message.octets.count / 8), at: 4)
        message.store(sequence, at: 8)
        message.store(UInt32(bitPattern: getpid()), at: 12)
    }

    fileprivate mutating func wipe() { message.wipe() }
}

extension KernelMessage {
    /// struct sockaddr_in
    mutating func append(_ address: IPAddress, port: UInt16 = 0) {
        append(UInt16(AF_INET))
        append(port.bigEndian)
        append(octets: address.octets.prefix(4))
        append(UInt64(0))
    }
}

/// What the kernel answered or reported.
struct PFKeyReport {
    var kind: UInt8
    var error: UInt8
    var sequence: UInt32
    var process: UInt32
    /// By number, without their headers. Valid only as long as the closure runs that it is given to.
    var extensions: [UInt16: ArraySlice<UInt8>] = [:]

    init?(_ octets: ArraySlice<UInt8>) {
        guard octets.count >= PFKeyMessage.headerSize, let kind: UInt8 = octets.value(at: 1),
            let error: UInt8 = octets.value(at: 2), let sequence: UInt32 = octets.value(at: 8),
            let process: UInt32 = octets.value(at: 12)
        else { return nil }
        (self.kind, self.error, self.sequence, self.process) = (kind, error, sequence, process)
        var rest = octets.dropFirst(PFKeyMessage.headerSize)
        while let units: UInt16 = rest.value(at: 0), let type: UInt16 = rest.value(at: 2), units > 0,
            Int(units) * 8 <= rest.count
        {
            extensions[type] = rest.dropFirst(4).prefix(Int(units) * 8 - 4)
            rest = rest.dropFirst(Int(units) * 8)
        }
    }

    subscript(type: PFKeyMessage.Extension) -> ArraySlice<UInt8>? { extensions[type.rawValue] }
}

final class PFKeySocket {
    private let socket: KernelSocket
    private var sequence: UInt32 = 0
    var descriptor: Int32 { socket.descriptor }

    init() throws(SystemError) {
        socket = KernelSocket(try SystemError.check("open a PF_KEY socket", clinux_pfkey_open()))
    }

    func perform(_ message: consuming PFKeyMessage, _ operation: String, _ context: String) throws(SystemError) {
        try ask(message, operation, context) { _ in }
    }

    /// Asks the kernel; the closure gets each message of the answer.
    func ask(
        _ message: consuming PFKeyMessage, _ operation: String, _ context: String, _ take: (PFKeyReport) -> Void
    ) throws(SystemError) {
        sequence &+= 1
        var message = message
        let kind = message.kind
        message.finish(sequence: sequence)
        let result = socket.send(message.message)
        message.wipe()
        try SystemError.check(operation, result, context: context)
        while true {
            let count = Int(try SystemError.check(operation, socket.receive(), context: context))
            let answer = answer(count, to: kind, take)
            socket.forget()
            if answer.error != 0 { throw SystemError(operation, errno: answer.error, context: context) }
            if answer.isLast { return }
        }
    }

    /// What one message of that length is to a request of ours. The octets are let go of before they are wiped.
    private func answer(
        _ count: Int, to kind: PFKeyMessage.Kind, _ take: (PFKeyReport) -> Void
    ) -> (isLast: Bool, error: Int32) {
        guard let report = PFKeyReport(socket.received(count)), report.kind == kind.rawValue,
            report.process == UInt32(bitPattern: getpid())
        else { return (false, 0) }
        if report.error != 0 { return (true, Int32(report.error)) }
        if kind == .dump || kind == .dumpPolicies {
            take(report)
            // The numbers of a dump count down.
            return (report.sequence == 0, 0)
        }
        guard report.sequence == sequence else { return (false, 0) }
        take(report)
        return (true, 0)
    }

    /// Takes all that the kernel has reported.
    func drain(_ take: (PFKeyReport) -> Void) {
        socket.drain { count in if let report = PFKeyReport(socket.received(count)) { take(report) } }
    }
}
