// SPDX-License-Identifier: Apache-2.0

internal import Yams

/// A YAML text as a tree of nodes with positions.
struct YAMLDocument {
    /// What a key is renamed to while the tree is composed, when its mapping has it twice: Yams gives no tree at all
    /// for a mapping with two equal keys, and one slip must not hide all other problems.
    typealias Renamed = [String: String]

    let root: Node?
    /// From the stand-in in `root` to the key as the file has it.
    let duplicates: Renamed

    /// Never more stand-ins than this: a file with more duplicate keys is not worth more words.
    private static let duplicatesAtMost = 64

    /// nil after a syntax error, which is then among the problems.
    init?(_ text: String, problems: Problems) {
        var text = text
        var renamed: Renamed = [:]
        while true {
            do {
                root = try Yams.compose(yaml: text)
                duplicates = renamed
                return
            } catch let YamlError.duplicatedKeysInMapping(keys, context) {
                let length = keys[0].unicodeScalars.count
                let standIn = String(repeating: Character(Self.standIn(renamed.count)), count: length)
                guard renamed.count < Self.duplicatesAtMost,
                    let changed = Self.replace(keys[0], with: standIn, at: context.mark, in: text)
                else {
                    problems.add(
                        Place(line: context.mark.line, column: context.mark.column, path: keys[0]),
                        "stands twice in this mapping", instead: "keep one")
                    return nil
                }
                renamed[standIn] = keys[0]
                text = changed
            } catch {
                Self.report(error, of: text, to: problems)
                return nil
            }
        }
    }

    /// Private-use characters, one per renamed key: no key of ours contains them.
    private static func standIn(_ index: Int) -> Unicode.Scalar {
        Unicode.Scalar(UInt32(0xe000 + index)) ?? "\u{e000}"
    }

    /// The text with the key at this position written as another of the same length, so that all columns stay true.
    private static func replace(_ key: String, with other: String, at mark: Mark, in text: String) -> String? {
        var lines = text.split(separator: "\n", omittingEmptySubsequences: false).map { Array($0.unicodeScalars) }
        guard lines.indices.contains(mark.line - 1) else { return nil }
        let wanted = Array(key.unicodeScalars)
        var start = mark.column - 1
        let line = lines[mark.line - 1]
        guard !wanted.isEmpty, line.indices.contains(start) else { return nil }
        if line[start] == "\"" || line[start] == "'" { start += 1 }
        let range = start..<(start + wanted.count)
        guard range.upperBound <= line.count, Array(line[range]) == wanted else { return nil }
        lines[mark.line - 1].replaceSubrange(range, with: other.unicodeScalars)
        var result = String.UnicodeScalarView()
        for (index, line) in lines.enumerated() {
            if index > 0 { result.append("\n") }
            result.append(contentsOf: line)
        }
        return String(result)
    }

    private static func report(_ error: any Error, of text: String, to problems: Problems) {
        let problem: (text: String, line: Int, column: Int)
        switch error {
        case YamlError.scanner(_, let text, let mark, _), YamlError.parser(_, let text, let mark, _),
            YamlError.composer(_, let text, let mark, _):
            problem = (text.hasPrefix("but ") ? String(text.dropFirst(4)) : text, mark.line, mark.column)
        case YamlError.reader(let words, let offset, _, _):
            let before = text.prefix(offset ?? 0)
            let line = before.count { $0 == "\n" } + 1
            let column = before.reversed().prefix { $0 != "\n" }.count + 1
            problem = (words, line, column)
        default:
            problem = ("the YAML reader gave up", 0, 0)
        }
        problems.add(
            Place(line: problem.line, column: problem.column, path: ""), "not YAML: \(problem.text)",
            instead: "check indentation, colons and quotes from here upwards")
    }
}
