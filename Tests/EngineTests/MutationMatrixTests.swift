// SPDX-License-Identifier: Apache-2.0
import Basics
import ISAKMP
import Testing

/// Every kind of message, in every state of either end, changed in every way that somebody without the keys can: it may
/// move a counter of drops, a line of the log, a half-open exchange, or get an earlier answer once more. Nothing else.
@Suite struct MutationMatrixTests {
    enum Change: CaseIterable {
        /// Delivered before; an authentic one not before its time.
        case duplicate, reordered
        /// Cut to each length, with the header's length as it was and as it is then.
        case truncated, cutToFit
        /// Each bit of the header, one bit of each octet behind it.
        case headerBits, bodyBits
        /// The message of the same place in a run with other keys, and in an earlier run with the same ones.
        case wrongKey, beforeRestart
        case wrongVersion, zeroLength, extended
    }

    /// Of the cells of the matrix, what was looked at.
    struct Count {
        var cells = 0
        var datagrams = 0
    }

    @Test func nothingUnauthenticatedMovesTheClient() throws {
        let count = try Matrix<ClientBench>().run()
        print("mutation matrix, client: \(count.cells) cases, \(count.datagrams) datagrams")
        #expect(count.cells >= 2_000)
    }

    @Test func nothingUnauthenticatedMovesTheServer() throws {
        let count = try Matrix<ServerBench>().run()
        print("mutation matrix, server: \(count.cells) cases, \(count.datagrams) datagrams")
        #expect(count.cells >= 2_000)
    }

    /// A member knows the KEK, and signs with a key of its own.
    @Test func aPUSHThatAMemberMadeUpMovesNobody() throws {
        for state in 4...11 {
            let bench = try Matrix<ClientBench>.bench(after: state)
            let before = bench.digest(without: [])
            let reaction = bench.inject(try bench.forgedPush())
            #expect(reaction.deeds.isEmpty && reaction.transmitted.isEmpty)
            #expect(bench.digest(without: []) == before)
        }
    }
}

private struct ScriptError: Error, CustomStringConvertible { let description: String }

/// The cells for one kind of engine.
private struct Matrix<Bench: MatrixBench> {
    typealias Change = MutationMatrixTests.Change

    /// One message as it comes on the wire.
    private struct Message {
        let name: String
        /// Its step in the script; nil for what the engine itself has sent, and for a notification in clear.
        let step: Int?
        let datagram: Datagram
    }

    private let messages: [Message]
    private let otherKeys: [Datagram]
    private let earlierRun: [Datagram]

    init() throws {
        let (genuine, own) = try Self.record(keys: 0, seed: 1)
        var messages = genuine.enumerated().map { Message(name: Bench.script[$0], step: $0, datagram: $1) }
        messages += Self.kinds(of: own).map { datagram in
            let reflected = Datagram(local: datagram.local, remote: datagram.remote, bytes: datagram.bytes)
            return Message(name: "its own, exchange \(datagram.bytes[18])", step: nil, datagram: reflected)
        }
        messages.append(Message(name: "notification in clear", step: nil, datagram: Self.notification(genuine[1])))
        self.messages = messages
        otherKeys = try Self.record(keys: 1, seed: 1).genuine
        earlierRun = try Self.record(keys: 0, seed: 2).genuine
    }

    /// The whole script, and what the engine sent meanwhile.
    private static func record(keys: UInt8, seed: UInt64) throws -> (genuine: [Datagram], own: [Datagram]) {
        let bench = try Bench(keys: keys, seed: seed)
        var genuine: [Datagram] = []
        for step in Bench.script.indices {
            let datagram: Datagram
            do {
                datagram = try bench.produce(step)
            } catch {
                throw ScriptError(description: "\(Bench.script[step]): \(error)")
            }
            genuine.append(datagram)
            if step == Bench.script.count - 1 { try #require(bench.isFine, "the script itself works") }
            bench.deliver(datagram)
        }
        return (genuine, bench.sent)
    }

    static func bench(after steps: Int) throws -> Bench {
        let bench = try Bench(keys: 0, seed: 1)
        for step in 0..<steps { bench.deliver(try bench.produce(step)) }
        return bench
    }

    /// Three of Main Mode, one of each other exchange.
    private static func kinds(of sent: [Datagram]) -> [Datagram] {
        var count: [UInt8: Int] = [:]
        return sent.filter { datagram in
            let exchange = datagram.bytes[18]
            count[exchange, default: 0] += 1
            return count[exchange] ?? 0 <= (exchange == ExchangeType.mainMode.rawValue ? 3 : 1)
        }
    }

    /// NO-PROPOSAL-CHOSEN under the cookies of Main Mode.
    private static func notification(_ message: Datagram) -> Datagram {
        let body = Notification(spi: Array(message.bytes[..<16]), type: .noProposalChosen).body()
        let length = UInt16(28 + 4 + body.count)
        let bytes =
            message.bytes[..<16] + [11, 0x10, 5, 0, 1, 2, 3, 4, 0, 0, UInt8(length >> 8), UInt8(length & 0xff)]
            + [0, 0, UInt8((length - 28) >> 8), UInt8((length - 28) & 0xff)] + body
        return Datagram(local: message.local, remote: message.remote, bytes: Array(bytes))
    }

    func run() throws -> MutationMatrixTests.Count {
        var count = MutationMatrixTests.Count()
        for state in 0..<Bench.script.count + 1 { try run(&count, state: state, twist: nil) }
        for twist in Bench.twists { try run(&count, state: twist.after, twist: twist.name) }
        return count
    }

    private func run(_ count: inout MutationMatrixTests.Count, state: Int, twist: String?) throws {
        var bench = try Self.bench(after: state)
        if let twist { try bench.twist(twist) }
        // Where the message belongs, all of it; elsewhere a part.
        for message in messages {
            let isOpen = bench.isOpen(to: message.name)
            for change in Change.allCases {
                if change == .reordered {
                    guard twist == nil, let step = message.step, step > state, step < Bench.reordered,
                        !Bench.neverEarly.contains(message.name)
                    else {
                        continue
                    }
                    do {
                        try reorder(message, state: state)
                    } catch {
                        Issue.record("\(message.name), early, after \(state) steps: \(error)")
                    }
                    count.cells += 1
                    continue
                }
                let isKnown =
                    !message.name.hasPrefix("its own") || bench.sent.contains { $0.bytes == message.datagram.bytes }
                let datagrams = variants(message, change, state: state, isKnown: isKnown)
                guard !datagrams.isEmpty else { continue }
                count.cells += 1
                count.datagrams += datagrams.count
                let place = "\(message.name), \(change), after \(state) steps \(twist ?? "")"
                if isOpen {
                    // Of an attempt under way it may cost a computation; it is thrown away after each.
                    bench = try Self.bench(after: state)
                    if let twist { try bench.twist(twist) }
                }
                inject(datagrams, into: bench, isOpen: isOpen, freshly: twist == "restarted", place)
            }
            if isOpen { bench = try Self.bench(after: state) }
        }
    }

    /// Nobody has the keys for these. A PUSH under an unknown KEK may be a sign that the client missed a change: it may
    /// make it ask, once in a while.
    /// - Parameter freshly: the engine has restarted, and what it remembers of questions whether it lives (RFC 3706) is
    ///   not in its records: a repeated one is answered to where the client is, and counts for nothing. The first of
    ///   these answers records that message ids are reserved: a start by itself sends nothing.
    private func inject(_ datagrams: [Datagram], into bench: Bench, isOpen: Bool, freshly: Bool, _ place: String) {
        var free: Set<String> = ["askAt", "vainAsks"]
        if isOpen { free.formUnion(["attempts", "timers"]) }
        if freshly {
            free.formUnion([
                "peerSequence", "informationalIDs", "nextMessageID", "reservedMessageID", "notedReservation", "records",
            ])
        }
        bench.tick()
        let before = bench.digest(without: free)
        let known = Set(bench.sent.map(\.bytes))
        for datagram in datagrams {
            let reaction = bench.inject(datagram)
            #expect(reaction.deeds.isEmpty || freshly && reaction.deeds == ["a record"], "\(place): \(reaction.deeds)")
            for answer in reaction.transmitted where !known.contains(answer.bytes) {
                let header = answer.bytes.dropFirst(answer.remote.port == 4500 ? 4 : 0).prefix(Header.size)
                let (exchange, flags) = (header[header.startIndex + 18], header[header.startIndex + 19])
                // To an attempt: message 3 or 5. From a responder: never more than came, and to where it came from.
                let isAllowed =
                    freshly && exchange == ExchangeType.informational.rawValue
                    || isOpen && exchange == ExchangeType.mainMode.rawValue
                    || answer.remote == datagram.remote && answer.bytes.count <= datagram.bytes.count
                        && (exchange == ExchangeType.mainMode.rawValue
                            || exchange == ExchangeType.informational.rawValue && flags & 1 == 0)
                #expect(isAllowed, "\(place): \(answer.bytes.count) octets to \(answer.remote)")
            }
        }
        let after = bench.digest(without: free)
        guard before != after else { return }
        let change = zip(before, after).first { $0 != $1 } ?? (before.last ?? "", after.last ?? "")
        Issue.record("\(place): \(change.0.prefix(200)) became \(change.1.prefix(200))")
    }

    /// A message that comes too early: whatever it does, the others still do their work.
    private func reorder(_ message: Message, state: Int) throws {
        let bench = try Self.bench(after: state)
        bench.deliver(message.datagram)
        for step in state..<max(state, Bench.reordered) { bench.deliver(try bench.produce(step)) }
        #expect(bench.isFine, "\(message.name) after \(state) steps")
    }

    // MARK: Changes

    /// - Parameter isKnown: what has no step in the script is on the wire by now.
    private func variants(_ message: Message, _ change: Change, state: Int, isKnown: Bool) -> [Datagram] {
        let octets = message.datagram.bytes
        let isNear = message.step == nil || message.step == state || message.step == state - 1
        var all: [[UInt8]] = []
        switch change {
        case .reordered: return []
        case .duplicate:
            // What the engine has not sent yet nobody can send back.
            guard message.step.map({ $0 < state }) ?? isKnown else { return [] }
            all = [octets, octets]
        case .truncated: all = stride(from: 0, to: octets.count, by: isNear ? 1 : 7).map { Array(octets[..<$0]) }
        case .cutToFit:
            all = stride(from: Header.size, to: octets.count, by: isNear ? 1 : 7).map { fitted(Array(octets[..<$0])) }
        case .headerBits:
            all = (0..<Header.size * 8).map { flipped(octets, $0 / 8, $0 % 8) }
        case .bodyBits:
            let stride = stride(from: Header.size, to: octets.count, by: isNear ? 1 : 3)
            all = stride.map { flipped(octets, $0, ($0 + state) % 8) }
        case .wrongKey: if let step = message.step { return [otherKeys[step]] }
        case .beforeRestart: if let step = message.step { return [earlierRun[step]] }
        case .wrongVersion:
            all = [UInt8](arrayLiteral: 0x00, 0x11, 0x1f, 0x20, 0x21, 0xff).map { version in
                var octets = octets
                octets[17] = version
                return octets
            }
        case .zeroLength:
            all = [[], fitted(Array(octets[..<Header.size])), Array(octets[..<Header.size])]
            var octets = octets
            octets.replaceSubrange(24..<28, with: [0, 0, 0, 0])
            all.append(octets)
            if octets.count > 32 {
                octets = message.datagram.bytes
                octets.replaceSubrange(30..<32, with: [0, 0])
                all.append(octets)
            }
        case .extended:
            for count in [1, 4, 8, 15, 16, 32, 1_000] {
                all.append(octets + [UInt8](repeating: 0, count: count))
                all.append(fitted(octets + [UInt8](repeating: 0, count: count)))
                all.append(fitted(octets + octets.suffix(count)))
            }
        }
        if change != .duplicate { all.removeAll { $0 == octets } }
        return all.map { Datagram(local: message.datagram.local, remote: message.datagram.remote, bytes: $0) }
    }

    private func flipped(_ octets: [UInt8], _ index: Int, _ bit: Int) -> [UInt8] {
        var octets = octets
        octets[index] ^= 1 << UInt8(bit)
        return octets
    }

    /// With a header that gives the length it has.
    private func fitted(_ octets: [UInt8]) -> [UInt8] {
        guard octets.count >= Header.size else { return octets }
        var octets = octets
        let length = UInt32(octets.count)
        for place in 0..<4 { octets[24 + place] = UInt8(truncatingIfNeeded: length >> UInt32(24 - 8 * place)) }
        return octets
    }
}
