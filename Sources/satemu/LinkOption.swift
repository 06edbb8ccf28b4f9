// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import LinkModel

/// What a text says about a link: only what it names, so that several can be laid over each other.
struct LinkOption: Equatable {
    private(set) var settings: [LinkSetting] = []

    /// The parameters with this laid over them.
    func applied(to parameters: LinkParameters) -> LinkParameters {
        settings.reduce(into: parameters) { $1.apply(to: &$0) }
    }

    mutating func add(_ key: String, _ value: String) throws(LinkTextError) {
        settings.append(try LinkSetting(key, value))
    }

    /// From `key=value,key=value`.
    init(_ text: some StringProtocol) throws(LinkTextError) {
        for part in text.split(separator: ",", omittingEmptySubsequences: false) {
            let pair = part.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            guard pair.count == 2 else { throw LinkTextError(text: String(part), expected: "key=value") }
            try add(String(pair[0]), String(pair[1]))
        }
    }

    init() {}
}

extension LinkOption: ExpressibleByArgument {
    init?(argument: String) {
        // The library reports the argument itself; what is wrong with it is said here.
        do { try self.init(argument) } catch {
            Console.complain(error.description)
            return nil
        }
    }

    var defaultValueDescription: String { settings.isEmpty ? "perfect" : "given" }
}

/// A piece of text that does not describe a link.
struct LinkTextError: Error, Equatable, CustomStringConvertible {
    var text: String
    var expected: String
    var description: String { "\"\(text)\" will not do: write \(expected)" }
}

/// One setting of a link.
enum LinkSetting: Equatable {
    case delay(Duration), jitter(Duration), rate(UInt64?), queue(UInt64), loss(LossModel)
    case duplicate(Double), reorder(Double), reorderDelay(Duration), corrupt(Double)

    static let keys = "delay, jitter, rate, queue, loss, duplicate, reorder, reorder-delay, corrupt"

    init(_ key: String, _ value: String) throws(LinkTextError) {
        switch key {
        case "delay": self = .delay(try Quantity.duration(value))
        case "jitter": self = .jitter(try Quantity.duration(value))
        case "rate": self = .rate(value == "none" ? nil : try Quantity.rate(value))
        case "queue": self = .queue(try Quantity.count(value))
        case "loss": self = .loss(try Quantity.loss(value))
        case "duplicate": self = .duplicate(try Quantity.share(value))
        case "reorder": self = .reorder(try Quantity.share(value))
        case "reorder-delay": self = .reorderDelay(try Quantity.duration(value))
        case "corrupt": self = .corrupt(try Quantity.share(value))
        default: throw LinkTextError(text: key, expected: "one of \(Self.keys)")
        }
    }

    func apply(to parameters: inout LinkParameters) {
        switch self {
        case .delay(let value): parameters.delay = value
        case .jitter(let value): parameters.jitter = value
        case .rate(let value): parameters.rateBitsPerSecond = value
        case .queue(let value): parameters.queueOctets = value
        case .loss(let value): parameters.loss = value
        case .duplicate(let value): parameters.duplicate = value
        case .reorder(let value): parameters.reorder = value
        case .reorderDelay(let value): parameters.reorderDelay = value
        case .corrupt(let value): parameters.corrupt = value
        }
    }
}

/// Readers of numbers with units.
enum Quantity {
    /// Such as 250ms, 1.5s, 20us, 0.
    static func duration(_ text: String) throws(LinkTextError) -> Duration {
        let units = [("ns", 1e-9), ("us", 1e-6), ("ms", 1e-3), ("s", 1.0)]
        let expected = "a time such as 250ms, 1.5s or 20us"
        if text == "0" { return .zero }
        guard let (unit, scale) = units.first(where: { text.hasSuffix($0.0) }),
            let number = number(text.dropLast(unit.count)), number * scale <= 3_600
        else { throw LinkTextError(text: text, expected: expected) }
        return .nanoseconds(Int64((number * scale * 1e9).rounded()))
    }

    /// Such as 2M, 64k, 512 (decimal multiples).
    static func count(_ text: String) throws(LinkTextError) -> UInt64 {
        let scales: [Character: Double] = ["k": 1e3, "M": 1e6, "G": 1e9]
        let scale = text.last.flatMap { scales[$0] }
        guard let number = number(scale == nil ? text[...] : text.dropLast()), number * (scale ?? 1) < 1e15 else {
            throw LinkTextError(text: text, expected: "a number such as 512, 64k, 2M or 1G")
        }
        return UInt64((number * (scale ?? 1)).rounded())
    }

    /// Bits per second, at least 1.
    static func rate(_ text: String) throws(LinkTextError) -> UInt64 {
        let value = try count(text)
        guard value > 0 else { throw LinkTextError(text: text, expected: "a rate above zero, or none for no limit") }
        return value
    }

    /// Such as 1% or 0.01.
    static func share(_ text: some StringProtocol) throws(LinkTextError) -> Double {
        let isPercentage = text.last == "%"
        guard let number = number(isPercentage ? text.dropLast() : text[...]),
            number <= (isPercentage ? 100 : 1)
        else { throw LinkTextError(text: String(text), expected: "a share such as 1% or 0.01") }
        return isPercentage ? number / 100 : number
    }

    /// SHARE, burst:SHARE:LENGTH or gilbert:P:R[:GOODLOSS:BADLOSS].
    static func loss(_ text: String) throws(LinkTextError) -> LossModel {
        let parts = text.split(separator: ":", omittingEmptySubsequences: false)
        let expected = "SHARE, burst:SHARE:LENGTH or gilbert:P:R[:GOODLOSS:BADLOSS]"
        switch (parts[0], parts.count) {
        case (_, 1): return .independent(try share(text))
        case ("burst", 3):
            let loss = try share(parts[1])
            guard let length = number(parts[2]), let model = LossModel.bursts(loss: loss, meanBurst: length) else {
                throw LinkTextError(text: text, expected: "\(expected), with a LENGTH of 1 or more that SHARE allows")
            }
            return model
        case ("gilbert", 3), ("gilbert", 5):
            let goodLoss = parts.count == 5 ? try share(parts[3]) : 0
            let badLoss = parts.count == 5 ? try share(parts[4]) : 1
            return .gilbertElliott(
                toBad: try share(parts[1]), toGood: try share(parts[2]), goodLoss: goodLoss, badLoss: badLoss)
        default: throw LinkTextError(text: text, expected: expected)
        }
    }

    /// A decimal number that is not negative, without sign or exponent.
    private static func number(_ text: some StringProtocol) -> Double? {
        guard !text.isEmpty, text.utf8.count <= 20,
            text.utf8.allSatisfy({ (0x30...0x39).contains($0) || $0 == 0x2e })
        else { return nil }
        return Double(text)
    }
}
