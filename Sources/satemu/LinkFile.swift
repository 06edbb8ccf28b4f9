// SPDX-License-Identifier: Apache-2.0

import LinkModel
import Yams

/// The YAML file of `--links`:
///
///     uplink: {delay: 125ms}
///     downlink: {delay: 125ms, loss: 1%}
///     terminals:
///       site1:
///         downlink: {loss: "burst:1%:8"}
struct LinkFile: Equatable {
    private(set) var defaults: [LinkDirection: LinkOption] = [:]
    private(set) var terminals: [String: [LinkDirection: LinkOption]] = [:]

    /// `terminals` are those that exist: another name in the file is an error.
    init(path: String, terminals names: [String]) throws(LinkFileError) {
        guard let text = Files.read(path) else { throw LinkFileError(place: path, problem: "cannot be read") }
        try self.init(text: text, name: path, terminals: names)
    }

    init(text: String, name: String, terminals names: [String]) throws(LinkFileError) {
        let root: Node?
        do { root = try compose(yaml: text) } catch {
            throw LinkFileError(place: name, problem: "is no YAML: \(error)")
        }
        guard let root else { return }  // an empty file changes nothing
        for (key, node) in try Self.entries(root, name) {
            if let direction = LinkDirection(rawValue: key.text) {
                defaults[direction] = try Self.option(node, name)
            } else if key.text == "terminals" {
                for (terminal, node) in try Self.entries(node, name) {
                    guard names.contains(terminal.text) else {
                        throw terminal.error("\(terminal.text) is no terminal: write one of \(names)", name)
                    }
                    terminals[terminal.text] = try Self.directions(node, name)
                }
            } else {
                throw key.error("unknown key \(key.text): write uplink, downlink or terminals", name)
            }
        }
    }

    private static func directions(_ node: Node, _ name: String) throws(LinkFileError) -> [LinkDirection: LinkOption] {
        var result: [LinkDirection: LinkOption] = [:]
        for (key, node) in try entries(node, name) {
            guard let direction = LinkDirection(rawValue: key.text) else {
                throw key.error("unknown key \(key.text): write uplink or downlink", name)
            }
            result[direction] = try option(node, name)
        }
        return result
    }

    private static func option(_ node: Node, _ name: String) throws(LinkFileError) -> LinkOption {
        var option = LinkOption()
        for (key, node) in try entries(node, name) {
            guard let value = node.scalar?.string else { throw key.error("\(key.text) takes one value", name) }
            do { try option.add(key.text, value) } catch { throw key.error(error.description, name) }
        }
        return option
    }

    private struct Key {
        var text: String
        var mark: Mark?

        func error(_ problem: String, _ name: String) -> LinkFileError {
            LinkFileError(place: mark.map { "\(name):\($0.line):\($0.column)" } ?? name, problem: problem)
        }
    }

    private static func entries(_ node: Node, _ name: String) throws(LinkFileError) -> [(Key, Node)] {
        guard let mapping = node.mapping else {
            throw Key(text: "", mark: node.mark).error("must be a mapping of keys to values", name)
        }
        var entries: [(Key, Node)] = []
        for (key, value) in mapping {
            guard let text = key.scalar?.string else {
                throw Key(text: "", mark: key.mark).error("a key must be a word", name)
            }
            entries.append((Key(text: text, mark: key.mark), value))
        }
        return entries
    }
}

struct LinkFileError: Error, Equatable, CustomStringConvertible {
    /// File, line and column.
    var place: String
    var problem: String
    var description: String { "\(place): \(problem)" }
}
