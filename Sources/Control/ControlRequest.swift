// SPDX-License-Identifier: Apache-2.0

/// The process at the other end of the control socket when it connected (SO_PEERCRED).
public struct ControlPeer: Sendable, Hashable {
    public var pid: Int32
    public var uid: UInt32

    public init(pid: Int32, uid: UInt32) {
        self.pid = pid
        self.uid = uid
    }
}

/// What an operator asks.
public struct ControlRequest: Sendable, Hashable {
    /// `GET` or `POST`.
    public var method: String
    /// Decoded, without the query: `/v1/groups`.
    public var path: String
    public var query: [String: String]
    public var body: [UInt8]
    /// Who asks, by the word of the kernel.
    public var peer: ControlPeer?

    public init(method: String, path: String, query: [String: String] = [:], body: [UInt8] = []) {
        self.method = method
        self.path = path
        self.query = query
        self.body = body
    }

    /// From a request target (RFC 9112 3.2.1); nil when it is malformed.
    init?(method: String, target: String, body: [UInt8]) {
        let parts = target.split(separator: "?", maxSplits: 1, omittingEmptySubsequences: false)
        guard let first = parts.first, first.hasPrefix("/"), let path = Self.decode(first) else { return nil }
        var query: [String: String] = [:]
        for pair in parts.count > 1 ? parts[1].split(separator: "&") : [] {
            let halves = pair.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            guard let key = Self.decode(halves[0]), let value = Self.decode(halves.count > 1 ? halves[1] : "")
            else { return nil }
            query[key] = value
        }
        self.init(method: method, path: path, query: query, body: body)
    }

    /// Takes percent-encoding away (RFC 3986 2.1); nil for a bad escape or what is no UTF-8 behind it.
    static func decode(_ text: some StringProtocol) -> String? {
        var octets: [UInt8] = []
        var rest = text.utf8[...]
        while let octet = rest.popFirst() {
            guard octet == UInt8(ascii: "%") else {
                octets.append(octet)
                continue
            }
            guard let high = rest.popFirst().flatMap(digit), let low = rest.popFirst().flatMap(digit) else {
                return nil
            }
            octets.append(high << 4 | low)
        }
        return String(validating: octets, as: UTF8.self)
    }

    private static func digit(_ octet: UInt8) -> UInt8? {
        Character(Unicode.Scalar(octet)).hexDigitValue.map { UInt8($0) }
    }
}
