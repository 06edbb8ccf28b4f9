// SPDX-License-Identifier: Apache-2.0

/// How the text of one YAML scalar becomes a value. Text is taken as it stands: `off`, `0123` and `1e3` mean what they
/// show, whatever YAML's own idea of their type is.
struct Scalar<Value> {
    let parse: (String) throws(Wrong) -> Value

    init(_ parse: @escaping (String) throws(Wrong) -> Value) { self.parse = parse }

    /// For everything that is either understood or not.
    init(_ noun: String, write instead: String, _ read: @escaping (String) -> Value?) {
        parse = { text throws(Wrong) in
            guard let value = read(text) else { throw Wrong("\"\(text)\" is not \(noun)", instead: instead) }
            return value
        }
    }
}

extension Scalar where Value: Comparable {
    /// The same, and within these bounds; `show` writes a bound as the operator would.
    func within(_ range: ClosedRange<Value>, _ show: @escaping (Value) -> String) -> Scalar {
        Scalar { text throws(Wrong) in
            let value = try parse(text)
            guard range.contains(value) else {
                throw Wrong(
                    "\(text) is out of range", instead: "write \(show(range.lowerBound)) to \(show(range.upperBound))")
            }
            return value
        }
    }
}

extension Scalar where Value == String {
    static var text: Scalar { Scalar { (text) throws(Wrong) in text } }

    /// A name of a client, group or GCKS: what fits an FQDN identity and a file name.
    static var name: Scalar {
        Scalar("a name", write: "use up to 64 letters, digits, dots, hyphens and underscores, a letter or digit first")
        {
            let octets = Array($0.utf8)
            guard (1...64).contains(octets.count), let first = octets.first, isAlphanumeric(first)
            else { return nil }
            return octets.allSatisfy { isAlphanumeric($0) || ".-_".utf8.contains($0) } ? $0 : nil
        }
    }

    /// A network interface's name (at most 15 octets on Linux).
    static var interface: Scalar {
        Scalar("the name of a network interface", write: "write it as ip link shows it, for example eth0") {
            let octets = Array($0.utf8)
            guard (1...15).contains(octets.count), octets.allSatisfy({ (0x21...0x7e).contains($0) }),
                !octets.contains(UInt8(ascii: "/")), $0 != ".", $0 != ".."
            else { return nil }
            return $0
        }
    }

    private static func isAlphanumeric(_ octet: UInt8) -> Bool {
        switch octet {
        case 0x30...0x39, 0x41...0x5a, 0x61...0x7a: true
        default: false
        }
    }
}

extension Scalar where Value == Bool {
    static var truth: Scalar {
        Scalar("true or false", write: "write true or false") {
            switch $0 {
            case "true": true
            case "false": false
            default: nil
            }
        }
    }
}

extension Scalar where Value: FixedWidthInteger {
    static var integer: Scalar {
        Scalar("a whole number", write: "write digits only, for example 2") {
            $0.utf8.allSatisfy { (0x30...0x39).contains($0) } ? Value($0) : nil
        }
    }

    static func integer(_ range: ClosedRange<Value>) -> Scalar {
        Scalar(
            "a whole number from \(range.lowerBound) to \(range.upperBound)", write: "write digits, within these bounds"
        ) {
            guard $0.utf8.allSatisfy({ (0x30...0x39).contains($0) }), let value = Value($0) else { return nil }
            return range.contains(value) ? value : nil
        }
    }
}

extension Scalar where Value == UInt16 {
    static var port: Scalar { .integer(1...UInt16.max) }
}

extension Scalar where Value == Double {
    /// `99.9%`, above 0 and at most 100.
    static var percent: Scalar {
        Scalar("a share in percent", write: "write for example 99.9%") { text in
            guard text.hasSuffix("%"), let millionths = Quantity.decimal(text.dropLast(), scale: 1_000_000),
                (1...100_000_000).contains(millionths)
            else { return nil }
            return Double(millionths) / 1e6
        }
    }
}

extension Scalar {
    /// One of a few words.
    static func word(_ choices: [(String, Value)]) -> Scalar {
        Scalar { text throws(Wrong) in
            if let choice = choices.first(where: { $0.0 == text }) { return choice.1 }
            let names = choices.map(\.0)
            let near = NearestName.find(text, among: names)
            throw Wrong(
                "\"\(text)\" is not known here",
                instead: near.map { "did you mean \($0)?" } ?? "write " + names.joined(separator: " or "))
        }
    }
}

extension Scalar where Value: CaseIterable & RawRepresentable, Value.RawValue == String {
    static var word: Scalar { .word(Value.allCases.map { ($0.rawValue, $0) }) }
}
