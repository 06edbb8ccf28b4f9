// SPDX-License-Identifier: Apache-2.0

public import Basics
internal import CLibevent
public import EventLoop
internal import Glibc

/// The daemon's end of the control socket: HTTP/1.1 by libevent's evhttp on the daemon's own loop, one request per
/// connection. Who may ask is the socket file's mode, 0660.
@safe public final class ControlServer {
    public let path: String

    private let loop: EventLoop
    private let limits: Limits
    /// Octets that a request with this path may have, where it is more than the others.
    private let largeBodies: [String: Int]
    private let handler: (ControlRequest, ControlReply) -> Void
    private var lock: Int32
    private var http: OpaquePointer?
    private var listener: OpaquePointer?
    /// Those with a request, by the address of their `evhttp_connection`.
    private var busy: [UInt: Exchange] = [:]
    /// Those without one yet, by the address of their `bufferevent`, with the instant at which evhttp has closed them
    /// at the latest. (evhttp tells neither their number nor their end.)
    private var silent: [UInt: Instant] = [:]
    private var isAccepting = true
    private var sweep: LoopTimer?

    /// How long a client may take for its request.
    private let requestSeconds: Int32

    /// Listens on `path`. A socket that a dead daemon left there is replaced.
    ///
    /// - Parameters:
    ///   - largeBodies: octets that requests with these paths may have, where it is more than `limits` says.
    ///   - handler: called on the loop, once per request; it answers at once, or keeps the reply for later.
    /// - Throws: `.inUse` when a daemon that lives has the path, and whatever else is wrong with it.
    public convenience init(
        loop: EventLoop, path: String, limits: Limits = Limits(), largeBodies: [String: Int] = [:],
        handler: @escaping (ControlRequest, ControlReply) -> Void
    ) throws(ControlError) {
        try self.init(
            loop: loop, path: path, limits: limits, largeBodies: largeBodies, requestSeconds: 10, handler: handler)
    }

    init(
        loop: EventLoop, path: String, limits: Limits, largeBodies: [String: Int] = [:], requestSeconds: Int32,
        handler: @escaping (ControlRequest, ControlReply) -> Void
    ) throws(ControlError) {
        self.requestSeconds = requestSeconds
        self.loop = loop
        self.path = path
        self.limits = limits
        self.largeBodies = largeBodies
        self.handler = handler
        let descriptors = try UnixSocket.listen(path: path, backlog: Int32(clamping: limits.controlConnections))
        lock = descriptors.lock
        guard start(on: descriptors.socket) else {
            Glibc.close(descriptors.socket)
            close()
            throw .system(SystemError("evhttp_new", errno: ENOMEM, context: path))
        }
        sweep = loop.makeTimer { [unowned self] in self.forgetClosed() }
    }

    deinit { close() }

    /// Stops listening, drops all connections and removes the socket. Replies that are still held go nowhere.
    public func close() {
        guard lock >= 0 else { return }
        sweep = nil
        if let http = unsafe http {
            unsafe self.http = nil
            unsafe listener = nil
            unsafe evhttp_free(http)
        }
        for exchange in busy.values { exchange.end() }
        busy = [:]
        // While the lock is held the path is ours.
        _ = unsafe unlink(path)
        Glibc.close(lock)
        lock = -1
    }

    private func start(on socket: Int32) -> Bool {
        guard let http = unsafe evhttp_new(loop.base) else { return false }
        unsafe self.http = http
        let context = unsafe Unmanaged.passUnretained(self).toOpaque()
        unsafe evhttp_set_timeout(http, requestSeconds)
        unsafe evhttp_set_max_headers_size(http, limits.controlHeaderOctets)
        unsafe evhttp_set_max_body_size(
            http, max(limits.controlRequestOctets, largeBodies.values.max() ?? 0))
        unsafe evhttp_set_allowed_methods(http, UInt16(EVHTTP_REQ_GET.rawValue | EVHTTP_REQ_POST.rawValue))
        unsafe evhttp_set_gencb(http, requestArrived, context)
        unsafe evhttp_set_bevcb(http, connectionAccepted, context)
        guard let bound = unsafe evhttp_accept_socket_with_handle(http, socket) else { return false }
        unsafe listener = evhttp_bound_socket_get_listener(bound)
        return true
    }

    // MARK: Connections

    fileprivate func accepted() -> OpaquePointer? {
        guard let buffer = unsafe bufferevent_socket_new(loop.base, -1, 0) else { return nil }
        // An address that is used again belongs to a connection that has ended.
        silent[UInt(bitPattern: buffer)] = loop.now + .seconds(Int64(requestSeconds) + 1)
        admit()
        return unsafe buffer
    }

    fileprivate func arrived(_ request: OpaquePointer) {
        guard let connection = unsafe evhttp_request_get_connection(request) else { return }
        if let buffer = unsafe evhttp_connection_get_bufferevent(connection) {
            silent[UInt(bitPattern: buffer)] = nil
        }
        let exchange = unsafe Exchange(request)
        busy[UInt(bitPattern: connection)] = exchange
        unsafe evhttp_connection_set_closecb(connection, connectionClosed, Unmanaged.passUnretained(self).toOpaque())
        // From here on the client waits for us, for as long as the command takes.
        unsafe evhttp_connection_set_timeout(connection, 0)
        admit()
        let reply = ControlReply(exchange)
        guard var parsed = exchange.parse() else {
            reply.send(status: 400, error: "the request is malformed")
            return
        }
        if let buffer = unsafe evhttp_connection_get_bufferevent(connection) {
            parsed.peer = unsafe UnixSocket.peer(of: bufferevent_getfd(buffer))
        }
        guard parsed.body.count <= largeBodies[parsed.path] ?? limits.controlRequestOctets else {
            reply.send(status: 413, error: "the request is too long")
            return
        }
        handler(parsed, reply)
        if exchange.isOpen { unsafe watch(connection, of: exchange) }
    }

    /// evhttp does not read while it waits for our answer, and so would not see the client go.
    private func watch(_ connection: OpaquePointer, of exchange: Exchange) {
        guard let buffer = unsafe evhttp_connection_get_bufferevent(connection) else { return }
        let descriptor = unsafe bufferevent_getfd(buffer)
        exchange.watch = loop.watch(readable: descriptor) { [unowned exchange] in
            // What is left to read is nothing (the client has gone) or something we did not ask for.
            exchange.watch = nil
            var octet: UInt8 = 0
            if unsafe recv(descriptor, &octet, 1, Int32(MSG_PEEK | MSG_DONTWAIT)) <= 0 {
                unsafe evhttp_connection_free(connection)
            }
        }
    }

    fileprivate func closed(_ connection: OpaquePointer) {
        busy.removeValue(forKey: UInt(bitPattern: connection))?.end()
        admit()
    }

    /// Accepts new connections as long as the limit allows; the kernel keeps the others waiting.
    private func admit() {
        let mayAccept = busy.count + silent.count < limits.controlConnections
        guard mayAccept != isAccepting, let listener = unsafe listener else { return }
        isAccepting = mayAccept
        if mayAccept {
            unsafe evconnlistener_enable(listener)
            sweep?.set(nil)
        } else {
            unsafe evconnlistener_disable(listener)
            sweep?.set(silent.values.min())
        }
    }

    private func forgetClosed() {
        let now = loop.now
        silent = silent.filter { $0.value > now }
        admit()
        if !isAccepting { sweep?.set(silent.values.min()) }
    }
}

/// One request on its way to its answer. Its `evhttp_request` is libevent's, and gone when the connection is.
@safe final class Exchange {
    private var request: OpaquePointer?
    var whenGone: (() -> Void)?
    /// Of the client's end, while we have not answered.
    var watch: FileWatch?

    init(_ request: OpaquePointer) { unsafe self.request = request }

    /// Neither answered nor given up by the client.
    var isOpen: Bool { unsafe request != nil }

    func parse() -> ControlRequest? {
        guard let request = unsafe request, let uri = unsafe evhttp_request_get_uri(request) else { return nil }
        let method = unsafe evhttp_request_get_command(request) == EVHTTP_REQ_POST ? "POST" : "GET"
        var body: [UInt8] = []
        if let buffer = unsafe evhttp_request_get_input_buffer(request) {
            body = [UInt8](repeating: 0, count: unsafe evbuffer_get_length(buffer))
            let count = unsafe evbuffer_remove(buffer, &body, body.count)
            body.removeLast(body.count - max(0, Int(count)))
        }
        return unsafe ControlRequest(method: method, target: String(cString: uri), body: body)
    }

    func send(status: Int, json: [UInt8], type: String = "application/json") {
        guard let request = unsafe request else { return }
        unsafe self.request = nil
        whenGone = nil
        watch = nil
        let headers = unsafe evhttp_request_get_output_headers(request)
        unsafe evhttp_add_header(headers, "Content-Type", type)
        unsafe evhttp_add_header(headers, "Cache-Control", "no-store")
        // One request per connection: that keeps the count of connections true.
        unsafe evhttp_add_header(headers, "Connection", "close")
        let buffer = unsafe evbuffer_new()
        unsafe evbuffer_add(buffer, json, json.count)
        unsafe evhttp_send_reply(request, Int32(clamping: status), nil, buffer)
        unsafe evbuffer_free(buffer)
    }

    /// The connection is gone.
    func end() {
        guard unsafe request != nil else { return }
        unsafe request = nil
        watch = nil
        let tell = whenGone
        whenGone = nil
        tell?()
    }
}

private func connectionAccepted(_ base: OpaquePointer?, _ context: UnsafeMutableRawPointer?) -> OpaquePointer? {
    guard let context = unsafe context else { return nil }
    return unsafe Unmanaged<ControlServer>.fromOpaque(context).takeUnretainedValue().accepted()
}

private func requestArrived(_ request: OpaquePointer?, _ context: UnsafeMutableRawPointer?) {
    guard let request = unsafe request, let context = unsafe context else { return }
    unsafe Unmanaged<ControlServer>.fromOpaque(context).takeUnretainedValue().arrived(request)
}

private func connectionClosed(_ connection: OpaquePointer?, _ context: UnsafeMutableRawPointer?) {
    guard let connection = unsafe connection, let context = unsafe context else { return }
    unsafe Unmanaged<ControlServer>.fromOpaque(context).takeUnretainedValue().closed(connection)
}
