// SPDX-License-Identifier: Apache-2.0

internal import EventLoop
internal import Glibc

/// The system calls around a UNIX socket's path.
enum UnixSocket {
    /// A descriptor that listens on `path`, mode 0660, and the descriptor of the lock that says whose it is. A socket
    /// that a dead daemon left behind is replaced.
    ///
    /// A lock on a file beside the socket decides whether its owner lives: it goes with the process, cannot be
    /// mistaken when the owner is too busy to accept, and two daemons that start together cannot both get it.
    static func listen(path: String, backlog: Int32) throws(ControlError) -> (socket: Int32, lock: Int32) {
        let address = try address(of: path)
        if let slash = path.lastIndex(of: "/"), slash != path.startIndex {
            // A folder that cannot be made shows as an error of the next call.
            _ = unsafe mkdir(String(path[..<slash]), 0o755)
        }
        let lock = try claim(path)
        do throws(ControlError) {
            try removeStale(path)
            let socket = try check("socket", path, Glibc.socket(AF_UNIX, streamType | nonBlocking | closeOnExec, 0))
            do throws(ControlError) {
                // Before bind, so that the file is at no instant open to others; after it, since umask took bits away.
                try check("fchmod", path, fchmod(socket, 0o660))
                try check("bind", path, unsafe withPointer(to: address) { unsafe bind(socket, $0, $1) })
                try check("chmod", path, unsafe chmod(path, 0o660))
                try check("listen", path, Glibc.listen(socket, backlog))
            } catch {
                close(socket)
                throw error
            }
            return (socket, lock)
        } catch {
            close(lock)
            throw error
        }
    }

    /// A blocking descriptor connected to `path`.
    static func connect(path: String) throws(ControlError) -> Int32 {
        let address = try address(of: path)
        let socket = try check("socket", path, Glibc.socket(AF_UNIX, streamType | closeOnExec, 0))
        guard unsafe withPointer(to: address, { unsafe Glibc.connect(socket, $0, $1) }) == 0 else {
            let number = errno
            close(socket)
            switch number {
            case ENOENT, ECONNREFUSED, ENOTDIR: throw .notRunning(path: path)
            case EACCES, EPERM: throw .denied(path: path)
            case EAGAIN: throw .timedOut(path: path)
            default: throw .system(SystemError("connect", errno: number, context: path))
            }
        }
        return socket
    }

    /// Who is connected to a descriptor; nil when the kernel does not say.
    static func peer(of socket: Int32) -> ControlPeer? {
        // struct ucred: pid, uid and gid, 32 bits each.
        var words: [UInt32] = [0, 0, 0]
        var size = socklen_t(12)
        guard unsafe getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &words, &size) == 0, size == 12 else { return nil }
        return ControlPeer(pid: Int32(bitPattern: words[0]), uid: words[1])
    }

    /// Takes the lock of a socket, or says that another has it.
    private static func claim(_ path: String) throws(ControlError) -> Int32 {
        let file = path + ".lock"
        let lock = try check(
            "open", file, unsafe open(file, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0o600))
        guard flock(lock, LOCK_EX | LOCK_NB) == 0 else {
            let number = errno
            close(lock)
            if number == EWOULDBLOCK { throw .inUse(path: path) }
            throw .system(SystemError("flock", errno: number, context: file))
        }
        return lock
    }

    /// Called with the lock held: the owner of a socket that is there is dead, or is a stranger that knows no lock.
    private static func removeStale(_ path: String) throws(ControlError) {
        var status = stat()
        guard unsafe lstat(path, &status) == 0 else { return }
        guard status.st_mode & S_IFMT == S_IFSOCK else { throw .notASocket(path: path) }
        if let probe = try? connect(path: path) {
            close(probe)
            throw .inUse(path: path)
        }
        try check("unlink", path, unsafe unlink(path))
    }

    private static func address(of path: String) throws(ControlError) -> sockaddr_un {
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        let octets = Array(path.utf8)
        let room = MemoryLayout.size(ofValue: address.sun_path)
        guard octets.count < room, !octets.isEmpty, !octets.contains(0) else { throw .pathTooLong(path: path) }
        unsafe withUnsafeMutableBytes(of: &address.sun_path) { unsafe $0.copyBytes(from: octets) }
        return address
    }

    private static func withPointer(
        to address: sockaddr_un, _ body: (UnsafePointer<sockaddr>, socklen_t) -> Int32
    ) -> Int32 {
        unsafe withUnsafePointer(to: address) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                unsafe body($0, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
    }

    @discardableResult
    private static func check(_ operation: String, _ path: String, _ result: Int32) throws(ControlError) -> Int32 {
        guard result < 0 else { return result }
        let number = errno
        if number == EACCES || number == EPERM { throw .denied(path: path) }
        throw .system(SystemError(operation, errno: number, context: path))
    }

    private static let streamType = Int32(SOCK_STREAM.rawValue)
    private static let nonBlocking = Int32(SOCK_NONBLOCK.rawValue)
    private static let closeOnExec = Int32(SOCK_CLOEXEC.rawValue)
}
