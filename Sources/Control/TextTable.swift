// SPDX-License-Identifier: Apache-2.0

/// Rows in columns, for a terminal and for `awk`: cells are never empty and hold no control characters, blanks separate
/// columns, and there is nothing but the header and the rows.
public struct TextTable: Sendable {
    public enum Alignment: Sendable { case left, right }

    private let columns: [(title: String, alignment: Alignment)]
    private var rows: [[String]] = []

    public init(_ columns: KeyValuePairs<String, Alignment>) {
        self.columns = columns.map { ($0.key, $0.value) }
    }

    public var isEmpty: Bool { rows.isEmpty }

    /// A row has one cell per column.
    public mutating func add(_ cells: [String]) {
        precondition(cells.count == columns.count, "a row has as many cells as the table has columns")
        rows.append(cells.map { $0.isEmpty ? "-" : Self.printable($0) })
    }

    /// Header and rows, each line ended.
    public var text: String {
        let widths = columns.indices.map { column in
            rows.reduce(columns[column].title.count) { max($0, $1[column].count) }
        }
        func line(_ cells: [String]) -> String {
            var line = ""
            for (column, cell) in cells.enumerated() {
                let padding = String(repeating: " ", count: widths[column] - cell.count)
                line +=
                    (column > 0 ? "  " : "") + (columns[column].alignment == .right ? padding + cell : cell + padding)
            }
            while line.last == " " { line.removeLast() }
            return line + "\n"
        }
        return ([columns.map(\.title)] + rows).map(line).joined()
    }

    /// What a terminal would act on, made visible: a name from the wire must not move the cursor.
    public static func printable(_ text: String) -> String {
        var result = ""
        for scalar in text.unicodeScalars {
            switch scalar.properties.generalCategory {
            case .control, .format, .lineSeparator, .paragraphSeparator, .surrogate, .privateUse, .unassigned:
                result += "\\u{\(String(scalar.value, radix: 16))}"
            default: result.unicodeScalars.append(scalar)
            }
        }
        return result
    }
}

/// Spans of time and counts of octets for people.
public enum Readable {
    /// `850ms`, `42s`, `5m10s`, `3h02m`, `2d04h`.
    public static func duration(seconds: Double) -> String {
        guard seconds.isFinite, abs(seconds) < 1e12 else { return "-" }
        if seconds < 0 { return "-" + duration(seconds: -seconds) }
        if seconds < 0.9995 { return "\(Int((seconds * 1_000).rounded()))ms" }
        if seconds < 9.95 { return "\(Double(Int((seconds * 10).rounded())) / 10)s" }
        let whole = Int(seconds.rounded())
        func two(_ value: Int) -> String { value < 10 ? "0\(value)" : "\(value)" }
        switch whole {
        case ..<60: return "\(whole)s"
        case ..<3_600: return "\(whole / 60)m\(two(whole % 60))s"
        case ..<86_400: return "\(whole / 3_600)h\(two(whole % 3_600 / 60))m"
        default: return "\(whole / 86_400)d\(two(whole % 86_400 / 3_600))h"
        }
    }

    /// `512B`, `1.5KiB`, `3.2GiB`.
    public static func size(octets: Double) -> String {
        guard (0..<1e18).contains(octets) else { return "-" }
        var value = octets
        for unit in ["B", "KiB", "MiB", "GiB"] {
            if value < 1_024 { return unit == "B" ? "\(Int(value))B" : "\(Double(Int(value * 10)) / 10)\(unit)" }
            value /= 1_024
        }
        return "\(Double(Int(value * 10)) / 10)TiB"
    }
}
