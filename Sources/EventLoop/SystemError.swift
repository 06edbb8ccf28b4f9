// SPDX-License-Identifier: Apache-2.0

internal import Glibc

/// A system call that failed: what was tried, on what, and why it failed.
public struct SystemError: Error, Hashable, Sendable {
    /// The call, or what it was for.
    public var operation: String
    /// The error number, for example `EACCES`.
    public var errno: Int32
    /// What it was about: an interface, an address, a path. May be empty; never a secret.
    public var context: String

    public init(_ operation: String, errno: Int32, context: String = "") {
        self.operation = operation
        self.errno = errno
        self.context = context
    }

    /// Passes on the result of a call of CLinux, or throws what its negative value says.
    @discardableResult
    package static func check(
        _ operation: String, _ result: Int32, context: @autoclosure () -> String = ""
    ) throws(SystemError) -> Int32 {
        guard result < 0 else { return result }
        throw SystemError(operation, errno: -result, context: context())
    }
}

extension SystemError: CustomStringConvertible {
    /// `operation context: No such device (19)`.
    public var description: String {
        let reason = unsafe strerror(errno).map { unsafe String(cString: $0) } ?? "unknown error"
        // What the reader would ask next.
        let hint =
            switch errno {
            case EADDRINUSE: "; another program has it, 'ss -uapn' names it"
            case EBUSY: "; another program has it"
            case EPERM where operation.hasPrefix("send"): "; the packet filter refuses it"
            case EPERM, EACCES: "; this needs root, or rights that this user lacks"
            default: ""
            }
        return "\(operation)\(context.isEmpty ? "" : " ")\(context): \(reason) (\(errno))\(hint)"
    }
}
