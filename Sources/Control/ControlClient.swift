// SPDX-License-Identifier: Apache-2.0

internal import EventLoop
internal import Glibc

/// The operator's end of the control socket, for commands: it blocks.
public enum ControlClient {
    /// An answer longer than this is none of ours (a snapshot of 100,000 members has some 30 MiB).
    private static let answerOctets = 256 << 20

    /// Asks once.
    ///
    /// - Parameters:
    ///   - target: path and query, already percent-encoded.
    ///   - timeout: for all of it, from connecting to the last octet of the answer.
    /// - Returns: the HTTP status and the body.
    public static func request(
        socket path: String, method: String, target: String, body: [UInt8]? = nil, timeout: Duration
    ) throws(ControlError) -> (status: Int, body: [UInt8]) {
        let deadline = ContinuousClock.now + timeout
        let socket = try UnixSocket.connect(path: path)
        defer { close(socket) }
        var head = "\(method) \(target) HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        if let body { head += "Content-Type: application/json\r\nContent-Length: \(body.count)\r\n" }
        try send(Array((head + "\r\n").utf8) + (body ?? []), to: socket, path: path, deadline: deadline)
        let answer = try receive(from: socket, path: path, deadline: deadline)
        guard let parsed = parse(answer) else { throw .malformedAnswer(path: path) }
        return parsed
    }

    private static func send(
        _ octets: [UInt8], to socket: Int32, path: String, deadline: ContinuousClock.Instant
    ) throws(ControlError) {
        var rest = octets[...]
        while !rest.isEmpty {
            try wait(for: Int16(POLLOUT), on: socket, path: path, deadline: deadline)
            let sent = unsafe rest.withUnsafeBytes {
                unsafe Glibc.send(
                    socket, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL | MSG_DONTWAIT))
            }
            if sent > 0 {
                rest = rest.dropFirst(sent)
            } else if errno == EPIPE || errno == ECONNRESET {
                // The daemon may have answered (413) before it read all: look at what it said.
                return
            } else if errno != EINTR, errno != EAGAIN {
                throw .system(SystemError("send", errno: errno, context: path))
            }
        }
    }

    private static func receive(
        from socket: Int32, path: String, deadline: ContinuousClock.Instant
    ) throws(ControlError) -> [UInt8] {
        var answer: [UInt8] = []
        var piece = [UInt8](repeating: 0, count: 65_536)
        while true {
            try wait(for: Int16(POLLIN), on: socket, path: path, deadline: deadline)
            let count = unsafe recv(socket, &piece, piece.count, Int32(MSG_DONTWAIT))
            if count == 0 { return answer }
            if count < 0 {
                if errno == EINTR || errno == EAGAIN { continue }
                if errno == ECONNRESET, !answer.isEmpty { return answer }
                if errno == ECONNRESET { throw .notRunning(path: path) }
                throw .system(SystemError("recv", errno: errno, context: path))
            }
            answer += piece[..<count]
            guard answer.count <= answerOctets else { throw .malformedAnswer(path: path) }
        }
    }

    private static func wait(
        for events: Int16, on socket: Int32, path: String, deadline: ContinuousClock.Instant
    ) throws(ControlError) {
        while true {
            let (seconds, attoseconds) = (deadline - .now).components
            let milliseconds = seconds * 1_000 + attoseconds / 1_000_000_000_000_000
            guard milliseconds > 0 else { throw .timedOut(path: path) }
            var entry = pollfd(fd: socket, events: events, revents: 0)
            let ready = unsafe poll(&entry, 1, Int32(clamping: milliseconds))
            if ready > 0 { return }
            if ready < 0, errno != EINTR { throw .system(SystemError("poll", errno: errno, context: path)) }
        }
    }

    /// Status and body of an answer that was read up to the end of the connection (RFC 9112 6.3).
    static func parse(_ answer: [UInt8]) -> (status: Int, body: [UInt8])? {
        let separator = Array("\r\n\r\n".utf8)
        guard let end = answer.firstRange(of: separator),
            let head = String(validating: answer[..<end.lowerBound], as: UTF8.self)
        else { return nil }
        let lines = head.split(separator: "\r\n", omittingEmptySubsequences: false)
        let words = lines[0].split(separator: " ", maxSplits: 2)
        guard words.count >= 2, words[0].hasPrefix("HTTP/1."), let status = Int(words[1]), (100...599).contains(status)
        else { return nil }
        let body = Array(answer[end.upperBound...])
        for line in lines.dropFirst() {
            let halves = line.split(separator: ":", maxSplits: 1)
            guard halves.count == 2, halves[0].lowercased() == "content-length" else { continue }
            guard let count = Int(halves[1].drop { $0 == " " }), count == body.count else { return nil }
        }
        return (status, body)
    }
}
