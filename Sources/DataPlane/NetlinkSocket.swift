// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Cryptography
internal import EventLoop
internal import Glibc

/// A request to the kernel over netlink: header, fixed part, attributes.
struct NetlinkRequest {
    private(set) var message = KernelMessage()

    /// - Parameter flags: beside NLM_F_REQUEST.
    init<Body>(_ type: Int, flags: Int32 = NLM_F_ACK, _ body: Body) {
        message.append(
            nlmsghdr(
                nlmsg_len: 0, nlmsg_type: UInt16(truncatingIfNeeded: type),
                nlmsg_flags: UInt16(truncatingIfNeeded: NLM_F_REQUEST | flags), nlmsg_seq: 0, nlmsg_pid: 0))
        message.append(body)
        message.pad(to: 4)
    }

    /// An attribute of what the closure writes: a value, or attributes in it.
    mutating func attribute(_ type: Int, _ write: (inout NetlinkRequest) -> Void) {
        let start = message.octets.count
        message.append(nlattr(nla_len: 0, nla_type: UInt16(truncatingIfNeeded: type)))
        write(&self)
        message.store(UInt16(truncatingIfNeeded: message.octets.count - start), at: start)
        message.pad(to: 4)
    }

    mutating func attribute<Value>(_ type: Int, _ value: Value) {
        attribute(type) { $0.message.append(value) }
    }

    /// A text with the zero at its end.
    mutating func attribute(_ type: Int, _ text: String) {
        attribute(type) { $0.message.append(octets: text.utf8 + [0]) }
    }

    mutating func append<Value>(_ value: Value) { message.append(value) }
    mutating func append(octets: [UInt8]) { message.append(octets: octets) }
    mutating func append(_ secret: Secret) { message.append(secret) }

    fileprivate mutating func number(_ sequence: UInt32) {
        message.store(UInt32(truncatingIfNeeded: message.octets.count), at: 0)
        message.store(sequence, at: 8)  // behind length, type and flags
    }

    mutating func wipe() { message.wipe() }
}

/// What the kernel answered or reported: one message without its header.
struct NetlinkReport {
    var type: Int
    /// Valid only as long as the closure runs that it is given to.
    var body: ArraySlice<UInt8>

    /// The attributes behind a fixed part.
    func attributes<Fixed>(after fixed: Fixed.Type) -> [Int: ArraySlice<UInt8>] {
        Self.attributes(body.dropFirst((MemoryLayout<Fixed>.size + 3) & ~3))
    }

    static func attributes(_ octets: ArraySlice<UInt8>) -> [Int: ArraySlice<UInt8>] {
        var found: [Int: ArraySlice<UInt8>] = [:]
        var rest = octets
        while let header = rest.value(at: 0, as: nlattr.self), header.nla_len >= 4, header.nla_len <= rest.count {
            found[Int(header.nla_type & 0x3fff)] = rest.dropFirst(4).prefix(Int(header.nla_len) - 4)
            rest = rest.dropFirst((Int(header.nla_len) + 3) & ~3)
        }
        return found
    }
}

/// A netlink socket: asks the kernel and waits for its answer, which it gives at once, or hears what it reports.
final class NetlinkSocket {
    private let socket: KernelSocket
    private var sequence: UInt32 = 0
    var descriptor: Int32 { socket.descriptor }

    /// - Parameter group: one to hear reports of; 0 for none.
    init(_ family: Int32, group: Int = 0) throws(SystemError) {
        socket = KernelSocket(
            try SystemError.check(
                "open a netlink socket", clinux_netlink_open(family, Int32(truncatingIfNeeded: group))))
    }

    /// Has the kernel do something. `operation` and `context` are for the error.
    func perform(_ request: consuming NetlinkRequest, _ operation: String, _ context: String) throws(SystemError) {
        try ask(request, operation, context) { _ in }
    }

    /// Asks the kernel; the closure gets each message of the answer.
    func ask(
        _ request: consuming NetlinkRequest, _ operation: String, _ context: String, _ take: (NetlinkReport) -> Void
    ) throws(SystemError) {
        sequence &+= 1
        var request = request
        request.number(sequence)
        let result = socket.send(request.message)
        request.wipe()
        try SystemError.check(operation, result, context: context)
        while true {
            let count = Int(try SystemError.check(operation, socket.receive(), context: context))
            defer { socket.forget() }
            var isLast = false
            var failure: Int32 = 0
            each(of: count) { header, report in
                guard header.nlmsg_seq == sequence else { return }
                switch report.type {
                case Int(NLMSG_DONE): isLast = true
                case Int(NLMSG_ERROR):
                    failure = -(report.body.value(at: 0) ?? -EBADMSG)
                    isLast = true
                default:
                    take(report)
                    // A single answer; only a dump has an end of its own.
                    if header.nlmsg_flags & UInt16(NLM_F_MULTI) == 0 { isLast = true }
                }
            }
            if failure != 0 { throw SystemError(operation, errno: failure, context: context) }
            if isLast { return }
        }
    }

    /// Takes all that the kernel has reported.
    func drain(_ take: (NetlinkReport) -> Void) {
        socket.drain { count in each(of: count) { _, report in take(report) } }
    }

    private func each(of count: Int, _ take: (nlmsghdr, NetlinkReport) -> Void) {
        var rest = socket.received(count)
        let size = MemoryLayout<nlmsghdr>.size
        while let header = rest.value(at: 0, as: nlmsghdr.self), header.nlmsg_len >= size,
            header.nlmsg_len <= rest.count
        {
            take(
                header,
                NetlinkReport(
                    type: Int(header.nlmsg_type), body: rest.dropFirst(size).prefix(Int(header.nlmsg_len) - size)))
            rest = rest.dropFirst((Int(header.nlmsg_len) + 3) & ~3)
        }
    }
}
