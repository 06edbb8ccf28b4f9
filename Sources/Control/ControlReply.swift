// SPDX-License-Identifier: Apache-2.0

/// The answer to one request. It may be kept and sent later, on the loop's thread; letting go of it without sending
/// tells the client that something went wrong.
public final class ControlReply {
    private let exchange: Exchange

    init(_ exchange: Exchange) { self.exchange = exchange }

    deinit { send(status: 500, error: "the daemon did not answer this request") }

    /// Has the client gone, or been answered? Then `send` does nothing.
    public var isGone: Bool { !exchange.isOpen }

    /// Called once if the client goes away before it is answered.
    public func onGone(_ tell: @escaping () -> Void) { exchange.whenGone = tell }

    /// Answers. Only the first call counts.
    public func send(status: Int, json: [UInt8]) { exchange.send(status: status, json: json) }

    /// Answers with something else than JSON.
    public func send(status: Int, octets: [UInt8], type: String) {
        exchange.send(status: status, json: octets, type: type)
    }

    /// Answers with a value, encoded with sorted keys.
    public func send(status: Int = 200, _ value: some Encodable) {
        if let json = try? JSONText.encode(value) {
            send(status: status, json: json)
        } else {
            send(status: 500, error: "the answer has no JSON form")
        }
    }

    /// Answers `{"error": reason}`.
    public func send(status: Int, error reason: String) { send(status: status, ["error": reason]) }
}
