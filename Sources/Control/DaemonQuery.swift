// SPDX-License-Identifier: Apache-2.0

internal import Glibc

/// One question of a command to a daemon, and what the program does with the answer.
public struct DaemonQuery: Sendable {
    public var socket: String
    public var timeout: Duration

    public init(socket: String, timeout: Duration) {
        self.socket = socket
        self.timeout = timeout
    }

    /// An answer that is JSON, or the reason why there is none, in words for the operator.
    public enum Outcome: Sendable {
        /// What the daemon sent, and the same read.
        case answer(json: [UInt8], value: JSONValue)
        case refused(reason: String)
        /// What was sent along is wrong: the mistakes, one line each.
        case mistaken(lines: [String])
    }

    public func get(_ target: String) -> Outcome { ask("GET", target, body: nil) }

    public func post(_ target: String, _ value: some Encodable) -> Outcome {
        guard let body = try? JSONText.encode(value) else { return .refused(reason: "the request has no JSON form") }
        return ask("POST", target, body: body)
    }

    /// Asks for something that is not JSON; the answer's body as it came.
    public func fetch(_ method: String, _ target: String) throws(ControlError) -> (status: Int, body: [UInt8]) {
        try ControlClient.request(
            socket: socket, method: method, target: target, body: method == "POST" ? [] : nil, timeout: timeout)
    }

    private func ask(_ method: String, _ target: String, body: [UInt8]?) -> Outcome {
        let answer: (status: Int, body: [UInt8])
        do {
            answer = try ControlClient.request(
                socket: socket, method: method, target: target, body: body, timeout: timeout)
        } catch {
            return .refused(reason: "\(error)")
        }
        let value = try? JSONText.decode(JSONValue.self, from: answer.body)
        if answer.status == 422, let value {
            return .mistaken(lines: value["problems"].elements.map { TextTable.printable($0["description"].text) })
        }
        guard (200...299).contains(answer.status) else {
            let reason = value?["error"].string ?? "the daemon answered with HTTP status \(answer.status)"
            return .refused(reason: TextTable.printable(reason))
        }
        guard let value else { return .refused(reason: "the daemon's answer is not JSON") }
        return .answer(json: answer.body, value: value)
    }
}

/// Where a program's words go.
public enum Terminal {
    /// Results: standard output, as they stand.
    public static func write(_ text: String) { write(Array(text.utf8), to: STDOUT_FILENO) }

    /// A daemon's JSON: standard output, with a line feed at its end.
    public static func write(json: [UInt8]) { write(json.last == 0x0a ? json : json + [0x0a], to: STDOUT_FILENO) }

    /// Complaints: standard error, one line.
    public static func complain(_ text: String) { write(Array((text + "\n").utf8), to: STDERR_FILENO) }

    /// A reader that has gone (`| head`) is no error.
    private static func write(_ octets: [UInt8], to descriptor: Int32) {
        var rest = octets[...]
        while !rest.isEmpty {
            let written = unsafe rest.withUnsafeBytes { unsafe Glibc.write(descriptor, $0.baseAddress, $0.count) }
            if written < 0, errno == EINTR { continue }
            guard written > 0 else { return }
            rest = rest.dropFirst(written)
        }
    }
}
