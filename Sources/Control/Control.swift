// SPDX-License-Identifier: Apache-2.0

public import EventLoop

// Control owns the way an operator talks to a daemon: HTTP and JSON over a UNIX socket (both ends of it), the log's one
// line per event, exit codes, and how a command prints: text tables, and JSON with sorted keys. It knows no engine.

/// Why the control socket could not be served or asked.
public enum ControlError: Error, Hashable, Sendable {
    /// A daemon that lives has this socket.
    case inUse(path: String)
    /// Something that is no socket is there already.
    case notASocket(path: String)
    /// Longer than what `sockaddr_un` takes.
    case pathTooLong(path: String)
    /// Nobody listens there.
    case notRunning(path: String)
    /// The file mode keeps this user out.
    case denied(path: String)
    case timedOut(path: String)
    /// What came back is no HTTP answer of ours.
    case malformedAnswer(path: String)
    case system(SystemError)
}

extension ControlError: CustomStringConvertible {
    public var description: String {
        switch self {
        case .inUse(let path):
            "another daemon is running with the control socket \(path); stop it, or set another control-socket"
        case .notASocket(let path): "\(path) is there and is not a socket; set another control-socket, or remove it"
        case .pathTooLong(let path): "\(path) is too long for a socket's path (107 octets)"
        case .notRunning(let path): "no daemon listens on \(path); is it running?"
        case .denied(let path): "no permission to use \(path); be root or in the socket's group"
        case .timedOut(let path): "the daemon behind \(path) did not answer in time"
        case .malformedAnswer(let path): "what listens on \(path) does not speak this protocol"
        case .system(let error): error.description
        }
    }
}

/// What the programs exit with.
public enum ExitStatus {
    public static let fine: Int32 = 0
    public static let error: Int32 = 1
    /// It works, but not everything does: members unconfirmed, clients absent.
    public static let degraded: Int32 = 2
    /// Wrong options or settings (EX_USAGE).
    public static let usage: Int32 = 64
}
