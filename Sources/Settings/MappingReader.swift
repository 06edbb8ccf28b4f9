// SPDX-License-Identifier: Apache-2.0

internal import Yams

/// A node of the file with its place.
struct Item {
    let node: Node
    let place: Place

    init(_ node: Node, path: String) {
        self.node = node
        place = Place(line: node.mark?.line ?? 0, column: node.mark?.column ?? 0, path: path)
    }

    /// The text of a scalar; nil for a list or a mapping, and for nothing (`key:` or `key: ~`).
    var text: String? {
        guard case .scalar(let scalar) = node else { return nil }
        return isEmpty ? nil : scalar.string
    }

    /// Is there a key without a value?
    var isEmpty: Bool {
        guard case .scalar(let scalar) = node, scalar.style == .plain || scalar.style == .any else { return false }
        return ["", "~", "null"].contains(scalar.string)
    }

    /// What the node is, for a message.
    var noun: String {
        switch node {
        case .mapping: "a mapping"
        case .sequence: "a list"
        case .scalar(let scalar): isEmpty ? "empty" : "\"\(scalar.string)\""
        case .alias: "an alias"
        }
    }
}

/// A mapping of the file on its way to a value: each key is taken by name and type, and whatever is wrong goes to the
/// problems with its place. Reading goes on after a problem; what could not be read is nil.
struct MappingReader {
    let place: Place
    let problems: Problems
    private let items: [String: Item]
    /// Keys that are there under a name with a slip in it: not missing, too.
    private let misspelt: Set<String>
    private let duplicates: YAMLDocument.Renamed

    /// nil (and a problem) when the node is no mapping. Unknown keys are problems at once.
    init?(_ item: Item, keys: [String], problems: Problems, duplicates: YAMLDocument.Renamed) {
        guard case .mapping(let mapping) = item.node else {
            problems.add(
                item.place, "is \(item.noun), not a mapping",
                instead: "write keys and values: " + keys.joined(separator: ", "))
            return nil
        }
        place = item.place
        self.problems = problems
        self.duplicates = duplicates
        var items: [String: Item] = [:]
        var misspelt: Set<String> = []
        for (key, value) in mapping {
            guard case .scalar(let scalar) = key else {
                let place = Item(key, path: item.place.path).place
                problems.add(place, "has a key that is no word", instead: "write a word")
                continue
            }
            let name = duplicates[scalar.string] ?? scalar.string
            let keyPlace = Item(key, path: Self.join(item.place.path, name)).place
            guard duplicates[scalar.string] == nil else {
                problems.add(keyPlace, "stands twice in this mapping", instead: "keep one")
                continue
            }
            guard keys.contains(name) else {
                if let meant = Self.reportUnknown(keyPlace, name, keys, problems) { misspelt.insert(meant) }
                continue
            }
            items[name] = Item(value, path: Self.join(item.place.path, name))
        }
        self.items = items
        self.misspelt = misspelt
    }

    private init(_ other: MappingReader, problems: Problems) {
        place = other.place
        items = other.items
        misspelt = other.misspelt
        duplicates = other.duplicates
        self.problems = problems
    }

    /// The same mapping, with what is found wrong from here on going elsewhere.
    func reporting(to problems: Problems) -> MappingReader { MappingReader(self, problems: problems) }

    /// Gives the key that was probably meant.
    private static func reportUnknown(
        _ place: Place, _ name: String, _ keys: [String], _ problems: Problems
    ) -> String? {
        let near = NearestName.find(name, among: keys)
        problems.add(
            place, "is not a known key",
            instead: near.map { "did you mean \($0)?" } ?? "known here are " + keys.joined(separator: ", "))
        return near
    }

    private static func join(_ path: String, _ key: String) -> String { path.isEmpty ? key : path + "." + key }

    /// Where a key's value stands; where it is missing, where its mapping stands.
    func place(of key: String) -> Place {
        items[key]?.place ?? Place(line: place.line, column: place.column, path: Self.join(place.path, key))
    }

    func has(_ key: String) -> Bool { items[key] != nil }

    /// A value that must be there.
    func required<Value>(_ key: String, _ kind: Scalar<Value>) -> Value? {
        guard let item = items[key] else {
            reportMissing(key)
            return nil
        }
        return value(of: item, kind)
    }

    /// A value that may be left out.
    func optional<Value>(_ key: String, _ kind: Scalar<Value>) -> Value? {
        items[key].flatMap { value(of: $0, kind) }
    }

    func optional<Value>(_ key: String, _ kind: Scalar<Value>, default fallback: Value) -> Value {
        optional(key, kind) ?? fallback
    }

    func reportMissing(_ key: String) {
        guard !misspelt.contains(key) else { return }
        problems.add(place(of: key), "is missing", instead: "add \(key): to this mapping")
    }

    private func value<Value>(of item: Item, _ kind: Scalar<Value>) -> Value? {
        guard let text = item.text else {
            problems.add(
                item.place, "is \(item.noun)" + (item.isEmpty ? "" : ", not a single value"), instead: "write one value"
            )
            return nil
        }
        do {
            return try kind.parse(text)
        } catch {
            problems.add(item.place, error)
            return nil
        }
    }

    /// The mapping under a key; nil when it is left out or is none.
    func mapping(_ key: String, keys: [String]) -> MappingReader? {
        items[key].flatMap { MappingReader($0, keys: keys, problems: problems, duplicates: duplicates) }
    }

    func requiredMapping(_ key: String, keys: [String]) -> MappingReader? {
        if !has(key) { reportMissing(key) }
        return mapping(key, keys: keys)
    }

    /// The mappings in the list under a key. In paths each goes by what it says under `label`, or by its position.
    func mappings(_ key: String, keys: [String], label: String) -> [MappingReader] {
        list(key).enumerated().compactMap { index, node in
            var name = "#\(index + 1)"
            if case .mapping(let mapping) = node, case .scalar(let scalar)? = mapping[Node(label)],
                (try? Scalar.name.parse(scalar.string)) != nil
            {
                name = scalar.string
            }
            let item = Item(node, path: place(of: key).path + "[\(name)]")
            return MappingReader(item, keys: keys, problems: problems, duplicates: duplicates)
        }
    }

    /// The values in the list under a key, each with its place.
    func values<Value>(_ key: String, _ kind: Scalar<Value>) -> [(value: Value, place: Place)] {
        list(key).enumerated().compactMap { index, node in
            let item = Item(node, path: place(of: key).path + "[#\(index + 1)]")
            return value(of: item, kind).map { ($0, item.place) }
        }
    }

    /// Is there a list with nothing in it?
    func isEmptyList(_ key: String) -> Bool {
        guard case .sequence(let sequence)? = items[key]?.node else { return false }
        return sequence.isEmpty
    }

    private func list(_ key: String) -> [Node] {
        guard let item = items[key] else { return [] }
        guard case .sequence(let sequence) = item.node else {
            problems.add(item.place, "is \(item.noun), not a list", instead: "write a list, or [] for an empty one")
            return []
        }
        return Array(sequence)
    }
}
