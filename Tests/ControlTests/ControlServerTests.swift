// SPDX-License-Identifier: Apache-2.0

import Basics
import Dispatch
import EventLoop
import Foundation
import Synchronization
import Testing

@testable import Control

/// A socket path of its own for each test.
final class SocketFolder: Sendable {
    let path = NSTemporaryDirectory() + "control-" + UUID().uuidString.prefix(8)
    var socket: String { path + "/x.sock" }

    init() throws { try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true) }
    deinit { try? FileManager.default.removeItem(atPath: path) }
}

typealias Answer = Result<(status: Int, body: String), ControlError>

func ask(
    _ socket: String, _ method: String = "GET", _ target: String = "/v1/status", body: [UInt8]? = nil,
    timeout: Duration = .seconds(20)
) -> Answer {
    do throws(ControlError) {
        let answer = try ControlClient.request(
            socket: socket, method: method, target: target, body: body, timeout: timeout)
        return .success((answer.status, String(decoding: answer.body, as: UTF8.self)))
    } catch {
        return .failure(error)
    }
}

/// Serves on this thread while `client` runs on another, and ends with it.
func serve<Value: Sendable>(
    _ folder: SocketFolder, limits: Limits = Limits(), requestSeconds: Int32 = 10,
    handler: @escaping (ControlRequest, ControlReply, EventLoop) -> Void,
    client: @escaping @Sendable (String) -> Value
) throws -> Value {
    let loop = try EventLoop()
    let server = try ControlServer(
        loop: loop, path: folder.socket, limits: limits, requestSeconds: requestSeconds
    ) { [unowned loop] in handler($0, $1, loop) }
    let value = Mutex<Value?>(nil)
    let handle = loop.handle
    let socket = folder.socket
    let stop = loop.makeInbox { [unowned loop] (_: Bool) in loop.stop() }
    DispatchQueue.global().async {
        let result = client(socket)
        value.withLock { $0 = result }
        _ = handle
        stop.send(true)
    }
    try loop.run()
    server.close()
    return try #require(value.withLock { $0 })
}

@Suite struct ControlServerTests {
    let folder: SocketFolder

    init() throws { folder = try SocketFolder() }

    @Test func aRequestArrivesWhole() throws {
        let answer = try serve(folder) { request, reply, _ in
            let query = request.query.sorted { $0.key < $1.key }.map { "\($0.key)=\($0.value)" }.joined(separator: ";")
            let body = String(decoding: request.body, as: UTF8.self)
            reply.send(status: 200, json: Array("\(request.method) \(request.path) \(query) \(body)".utf8))
        } client: {
            ask($0, "POST", "/v1/re%20key?group=news%26radio&wait&x=a+b", body: Array("{\"kek\":true}".utf8))
        }
        let (status, body) = try answer.get()
        #expect(status == 200)
        #expect(body == "POST /v1/re key group=news&radio;wait=;x=a+b {\"kek\":true}")
    }

    @Test func manyRequestsOneBehindTheOther() throws {
        let statuses = try serve(folder) { request, reply, _ in
            reply.send(status: request.path == "/v1/none" ? 404 : 200, ["path": request.path])
        } client: { socket in
            (0..<200).map { number in
                (try? ask(socket, "GET", number % 3 == 0 ? "/v1/none" : "/v1/a").get().status) ?? 0
            }
        }
        #expect(statuses == (0..<200).map { $0 % 3 == 0 ? 404 : 200 })
    }

    @Test func anAnswerMayComeLater() throws {
        let answer = try serve(folder) { _, reply, loop in
            loop.enqueue { reply.send(["verdict": "confirmed"]) }
        } client: {
            ask($0)
        }
        #expect(try answer.get().body == "{\n  \"verdict\" : \"confirmed\"\n}")
    }

    @Test func aLargeAnswerArrivesWhole() throws {
        let large = String(repeating: "0123456789", count: 500_000)
        let answer = try serve(folder) { _, reply, _ in
            reply.send([large])
        } client: {
            ask($0)
        }
        #expect(try answer.get().body.utf8.count == 5_000_008)
    }

    @Test func aReplyThatIsForgottenIsAnError() throws {
        let answer = try serve(folder) { _, _, _ in
        } client: {
            ask($0)
        }
        #expect(try answer.get().status == 500)
    }

    @Test func aSecondAnswerDoesNothing() throws {
        let answer = try serve(folder) { _, reply, _ in
            reply.send(["first": 1])
            #expect(reply.isGone)
            reply.send(["second": 2])
        } client: {
            ask($0)
        }
        #expect(try answer.get().body.contains("first"))
    }

    @Test func aClientThatGoesAwayIsNoticed() throws {
        nonisolated(unsafe) var held: [ControlReply] = []
        nonisolated(unsafe) var gone = 0
        let answer = try serve(folder) { request, reply, loop in
            if request.path == "/v1/wait" {
                reply.onGone { gone += 1 }
                held.append(reply)
            } else {
                reply.send(["gone": gone])
            }
        } client: { socket in
            let first = ask(socket, "GET", "/v1/wait", timeout: .milliseconds(300))
            guard case .failure(.timedOut) = first else { return "no time-out: \(first)" }
            for _ in 0..<100 {
                let count = (try? ask(socket).get().body) ?? "nothing"
                if count.contains("1") { return count }
                Thread.sleep(forTimeInterval: 0.05)
            }
            return "never noticed"
        }
        #expect(answer == "{\n  \"gone\" : 1\n}")
        #expect(held.count == 1)
        #expect(held.first?.isGone == true)
        held.first?.send(["too": "late"])
    }

    @Test func aReplyMayOutliveTheServer() throws {
        nonisolated(unsafe) var held: ControlReply?
        let answer = try serve(folder) { request, reply, _ in
            held = reply
        } client: {
            ask($0, timeout: .milliseconds(200))
        }
        guard case .failure(.timedOut) = answer else {
            Issue.record("the server answered")
            return
        }
        #expect(held?.isGone == true)
        held?.send(["too": "late"])
        held = nil
    }

    @Test func aBodyBeyondTheLimitIsRefused() throws {
        var limits = Limits()
        limits.controlRequestOctets = 1_000
        let statuses = try serve(folder, limits: limits) { request, reply, _ in
            reply.send(["octets": request.body.count])
        } client: { socket in
            [1_000, 1_001, 5_000_000].map { count in
                let answer = ask(socket, "POST", "/v1/rekey", body: [UInt8](repeating: 0x20, count: count))
                return (try? answer.get().status) ?? 0
            }
        }
        #expect(statuses == [200, 413, 413])
    }

    @Test func otherMethodsAreRefused() throws {
        let statuses = try serve(folder) { _, reply, _ in
            reply.send(["fine": true])
        } client: { socket in
            ["PUT", "DELETE", "BANANA"].map { method in (try? ask(socket, method).get().status) ?? 0 }
        }
        #expect(statuses.allSatisfy { $0 >= 400 })
    }

    @Test(arguments: ["/%zz", "/%", "/a?b=%f", "/%ff"]) func aMalformedTargetIsRefused(_ target: String) throws {
        let answer = try serve(folder) { _, reply, _ in
            reply.send(["fine": true])
        } client: {
            ask($0, "GET", target)
        }
        #expect(try answer.get().status == 400)
    }

    /// Connections that say nothing take places, and block nobody for ever.
    @Test func silentConnectionsGiveWay() throws {
        var limits = Limits()
        limits.controlConnections = 4
        let status = try serve(folder, limits: limits, requestSeconds: 1) { _, reply, _ in
            reply.send(["fine": true])
        } client: { socket in
            let silent = (0..<4).compactMap { _ in try? UnixSocket.connect(path: socket) }
            defer { for descriptor in silent { close(descriptor) } }
            return silent.count == 4 ? (try? ask(socket).get().status) ?? 0 : -1
        }
        #expect(status == 200)
    }

    @Test func connectionsAreBounded() throws {
        var limits = Limits()
        limits.controlConnections = 4
        nonisolated(unsafe) var open = 0
        nonisolated(unsafe) var most = 0
        let statuses = try serve(folder, limits: limits) { _, reply, loop in
            open += 1
            most = max(most, open)
            let timer = loop.makeTimer {}
            timer.set(nil)
            loop.enqueue {
                loop.enqueue {
                    open -= 1
                    reply.send(["fine": true])
                }
            }
        } client: { socket in
            let statuses = Mutex<[Int]>([])
            DispatchQueue.concurrentPerform(iterations: 40) { _ in
                let status = (try? ask(socket).get().status) ?? 0
                statuses.withLock { $0.append(status) }
            }
            return statuses.withLock { $0 }
        }
        #expect(statuses == [Int](repeating: 200, count: 40))
        #expect(most <= 4)
    }
}

@Suite struct SocketFileTests {
    let folder: SocketFolder

    init() throws { folder = try SocketFolder() }

    private func server() throws(ControlError) -> ControlServer {
        do {
            return try ControlServer(loop: try EventLoop(), path: folder.socket) { _, _ in }
        } catch let error as ControlError {
            throw error
        } catch {
            throw .notRunning(path: "\(error)")
        }
    }

    @Test func onlyOwnerAndGroupMayUseIt() throws {
        let server = try server()
        let attributes = try FileManager.default.attributesOfItem(atPath: folder.socket)
        #expect(attributes[.posixPermissions] as? Int == 0o660)
        server.close()
        #expect(!FileManager.default.fileExists(atPath: folder.socket))
    }

    @Test func aSecondDaemonIsRefused() throws {
        let first = try server()
        #expect(throws: ControlError.inUse(path: folder.socket)) { try server() }
        first.close()
        try server().close()
    }

    @Test func theSocketOfADeadDaemonIsReplaced() throws {
        // What a kill -9 leaves: a bound socket nobody listens on.
        let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: Array(folder.socket.utf8)) }
        let bound = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
        #expect(bound == 0)
        close(descriptor)
        #expect(ask(folder.socket).failure == .notRunning(path: folder.socket))
        try server().close()
    }

    @Test func aFileThatIsNoSocketIsLeftAlone() throws {
        try Data("precious".utf8).write(to: URL(fileURLWithPath: folder.socket))
        #expect(throws: ControlError.notASocket(path: folder.socket)) { try server() }
        #expect(try String(contentsOfFile: folder.socket, encoding: .utf8) == "precious")
    }

    @Test func aMissingFolderIsMade() throws {
        let path = folder.path + "/run/x.sock"
        let server = try ControlServer(loop: try EventLoop(), path: path) { _, _ in }
        #expect(FileManager.default.fileExists(atPath: path))
        server.close()
    }

    @Test func aPathThatIsTooLongIsRefused() throws {
        let path = folder.path + "/" + String(repeating: "x", count: 108)
        let loop = try EventLoop()
        #expect(throws: ControlError.pathTooLong(path: path)) { try ControlServer(loop: loop, path: path) { _, _ in } }
        #expect(ask(path).failure == .pathTooLong(path: path))
    }

    @Test func withoutADaemonTheClientSaysSo() {
        #expect(ask(folder.socket).failure == .notRunning(path: folder.socket))
    }
}

extension Result {
    var failure: Failure? { if case .failure(let error) = self { error } else { nil } }
}

@Suite struct ClientParserTests {
    private func parse(_ text: String) -> (status: Int, body: [UInt8])? { ControlClient.parse(Array(text.utf8)) }

    @Test func aGoodAnswer() throws {
        let answer = try #require(parse("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: y\r\n\r\n{}"))
        #expect(answer.status == 200)
        #expect(answer.body == Array("{}".utf8))
    }

    @Test func lengthIsOptionalSinceTheConnectionEnds() throws {
        #expect(try #require(parse("HTTP/1.0 404 Not Found\r\n\r\nabc")).body == Array("abc".utf8))
    }

    @Test(
        arguments: [
            "", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}", "HTTP/1.1 20 OK\r\n\r\n",
            "HTTP/1.1 two OK\r\n\r\n", "SSH-2.0-OpenSSH\r\n\r\n", "\r\n\r\n", "HTTP/1.1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "HTTP/1.1 999 OK\r\n\r\n",
        ])
    func aBadAnswer(_ text: String) { #expect(parse(text) == nil) }
}
