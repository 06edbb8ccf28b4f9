// SPDX-License-Identifier: Apache-2.0
import Basics
import Cryptography

/// Everything that an engine remembers, written out: every stored property of every value and object it holds, private
/// ones too, keys included. Two equal digests mean that nothing happened in between.
///
/// What an outsider may change is named in `free`, and nowhere else: counters of what was dropped, what limits the log,
/// outputs on their way, the randomness, and the table of half-open exchanges, which is bounded.
struct StateDigest {
    /// Names of stored properties that are not looked at.
    static let free: Set<String> = [
        "drops", "limiter", "random", "halfOpen",
        // What is rationed, and offers that are expected of a credential.
        "keyAgreements", "fullAt", "openings",
        // Messages that overtook message 6, kept until it comes: eight at most.
        "early",
        // Outputs, drained before each look.
        "outputs", "pending", "taken", "drains", "isDrained", "endpointWait",
        // How the queue of deadlines is kept; the deadlines themselves are looked at.
        "heap", "lastNumber", "number",
        // Constant from `init` on.
        "configuration", "directory", "credentials", "limits",
    ]

    private let skipped: Set<String>
    private var seen: Set<ObjectIdentifier> = []
    private(set) var lines: [String] = []

    private init(_ skipped: Set<String>) { self.skipped = skipped }

    /// - Parameter extra: names of further properties that are not looked at.
    static func of(_ value: Any, without extra: Set<String> = []) -> [String] {
        var digest = StateDigest(free.union(extra))
        digest.write(value, at: "")
        return digest.lines
    }

    private mutating func write(_ value: Any, at path: String) {
        switch value {
        case let octets as [UInt8]: return lines.append("\(path) \(octets)")
        case let text as String: return lines.append("\(path) \(text)")
        case let number as any BinaryInteger: return lines.append("\(path) \(number)")
        case let secret as Secret: return lines.append("\(path) \(secret.revealed())")
        case let words as [UInt64]: return lines.append("\(path) \(words)")
        default: break
        }
        let mirror = Mirror(reflecting: value)
        switch mirror.displayStyle {
        case .class:
            let object = value as AnyObject
            guard seen.insert(ObjectIdentifier(object)).inserted else { return }
            var level: Mirror? = mirror
            while let some = level {
                writeChildren(of: some, at: path)
                level = some.superclassMirror
            }
        case .dictionary, .set:
            var entries = mirror.children.map { child -> (String, Any) in
                let pair = Array(Mirror(reflecting: child.value).children)
                let isPair = mirror.displayStyle == .dictionary && pair.count == 2
                return (String(describing: isPair ? pair[0].value : child.value), isPair ? pair[1].value : ())
            }
            // Of a half-open exchange.
            entries.removeAll { $0.0.hasPrefix("halfOpen(") }
            entries.sort { $0.0 < $1.0 }
            for (key, entry) in entries {
                lines.append("\(path)[\(key)]")
                write(entry, at: "\(path)[\(key)]")
            }
        case .optional:
            guard let some = mirror.children.first else { return lines.append("\(path) nil") }
            write(some.value, at: path)
        case .enum where mirror.children.isEmpty: lines.append("\(path) \(value)")
        case nil where mirror.children.isEmpty: break  // a pointer, a function: what is behind it is libcrypto's
        default: writeChildren(of: mirror, at: path)
        }
    }

    private mutating func writeChildren(of mirror: Mirror, at path: String) {
        if mirror.children.isEmpty { lines.append("\(path) -") }
        for (position, child) in mirror.children.enumerated() {
            let name = child.label ?? "\(position)"
            guard !skipped.contains(name) else { continue }
            write(child.value, at: path + "." + name)
        }
    }
}
