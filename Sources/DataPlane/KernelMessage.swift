// SPDX-License-Identifier: Apache-2.0

internal import Cryptography
internal import Glibc

/// Octets of a message to the kernel, or from it, in the machine's own order: netlink and PF_KEY are no wire formats.
///
/// What goes into an SA's message is its keys, so a message is wiped when it is done with. It has room enough from the
/// start, so that growing leaves no copy behind.
struct KernelMessage {
    private(set) var octets: [UInt8] = []

    /// An SA with the largest keys and replay window, and its attributes.
    private static let room = 4_096

    init() { octets.reserveCapacity(Self.room) }

    /// A number, or one of the kernel's structures, which hold no references.
    mutating func append<Value>(_ value: Value) {
        unsafe withUnsafeBytes(of: value) { unsafe octets.append(contentsOf: $0) }
    }

    mutating func append(_ secret: Secret) {
        unsafe secret.withOctets { unsafe octets.append(contentsOf: $0) }
    }

    mutating func append(octets more: some Collection<UInt8>) { octets.append(contentsOf: more) }

    /// Zeros up to the next multiple.
    mutating func pad(to multiple: Int) {
        while !octets.count.isMultiple(of: multiple) { octets.append(0) }
    }

    /// Puts a value over what stands there.
    mutating func store<Value>(_ value: Value, at offset: Int) {
        precondition(offset >= 0 && offset + MemoryLayout<Value>.size <= octets.count, "it was reserved before")
        unsafe octets.withUnsafeMutableBytes { unsafe $0.storeBytes(of: value, toByteOffset: offset, as: Value.self) }
    }

    mutating func wipe() { Cryptography.wipe(&octets) }
}

extension ArraySlice<UInt8> {
    /// A value so many octets from the slice's start; nil when it does not lie inside.
    func value<Value>(at offset: Int, as type: Value.Type = Value.self) -> Value? {
        guard offset >= 0, offset <= count, MemoryLayout<Value>.size <= count - offset else { return nil }
        return unsafe withUnsafeBytes { unsafe $0.loadUnaligned(fromByteOffset: offset, as: Value.self) }
    }
}

/// A socket on which the kernel answers at once, and the room for what it says. That is keys, too: it tells them to
/// those who may ask, so the room is wiped after each message.
final class KernelSocket {
    let descriptor: Int32
    private var buffer = [UInt8](repeating: 0, count: 1 << 17)

    /// Closes the descriptor when it goes.
    init(_ descriptor: Int32) { self.descriptor = descriptor }

    deinit { close(descriptor) }

    /// 0, or a negative errno.
    func send(_ message: KernelMessage) -> Int32 {
        let size = message.octets.count
        let result = again { unsafe Glibc.send(descriptor, message.octets, size, 0) }
        return result < 0 ? Int32(result) : result == size ? 0 : -EMSGSIZE
    }

    /// How many octets came, or a negative errno.
    func receive(flags: Int32 = 0) -> Int32 {
        let result = again { unsafe recv(descriptor, &buffer, buffer.count, flags) }
        return result == 0 ? -EPIPE : Int32(result)
    }

    /// What `receive` gave.
    func received(_ count: Int) -> ArraySlice<UInt8> { buffer[..<count] }

    func forget() { wipe(&buffer) }

    /// Receives until there is nothing more; the closure gets the octets that came.
    func drain(_ take: (Int) -> Void) {
        while true {
            let count = receive(flags: Int32(truncatingIfNeeded: MSG_DONTWAIT))
            // Some were lost, but there are more.
            if count == -ENOBUFS { continue }
            guard count > 0 else { return }
            take(Int(count))
            forget()
        }
    }

    /// A signal that comes in between changes nothing.
    private func again(_ call: () -> Int) -> Int {
        while true {
            let result = call()
            guard result < 0 else { return result }
            if errno != EINTR { return -Int(errno) }
        }
    }
}
