// SPDX-License-Identifier: Apache-2.0

// Settings owns the two configuration files, gcks.yaml and satipsec.yaml: YAML to checked values. It reads the file and
// the secret files that it names, reports every problem at once with line, column and path, and makes the first set of
// files for a new key server. What it gives out cannot be wrong: nobody behind it checks again.

/// One thing that is wrong in a configuration file.
public struct SettingsProblem: Sendable, Hashable, Codable {
    /// As the caller named it.
    public var file: String
    /// From 1; 0 when the problem is the file as a whole.
    public var line: Int
    /// From 1, counted in characters; 0 when the problem is the file as a whole.
    public var column: Int
    /// From the top of the file to the key: `groups[news].flows[#2].source`; empty for the file as a whole.
    public var path: String
    public var what: String
    /// What to write instead.
    public var instead: String
}

extension SettingsProblem: CustomStringConvertible {
    /// `file:line:column: path.to.key: what is wrong; what to write instead`, in one line.
    public var description: String {
        let position = line > 0 ? "\(file):\(line):\(column): " : "\(file): "
        return position + (path.isEmpty ? "" : path + ": ") + what + "; " + instead
    }
}

/// Why settings could not be loaded: all that is wrong, in the order of the file.
public struct SettingsError: Error, Sendable, Codable {
    public var problems: [SettingsProblem]

    public init(problems: [SettingsProblem]) { self.problems = problems }
}

extension SettingsError: CustomStringConvertible {
    /// One line per problem.
    public var description: String { problems.map(\.description).joined(separator: "\n") }
}

/// Why one value was refused, before anyone says where it stands.
struct Wrong: Error {
    let what: String
    let instead: String

    init(_ what: String, instead: String) {
        self.what = what
        self.instead = instead
    }
}

/// A position in the file and the path that leads to it.
struct Place: Hashable {
    var line: Int
    var column: Int
    var path: String
}

/// Collects what is wrong while a file is read, so that the operator sees everything in one go.
final class Problems {
    /// More than these help nobody.
    static let most = 200

    let file: String
    private var list: [SettingsProblem] = []
    private var omitted = 0

    init(file: String) { self.file = file }

    var isEmpty: Bool { list.isEmpty }

    func add(_ place: Place, _ wrong: Wrong) {
        guard list.count < Self.most else {
            omitted += 1
            return
        }
        list.append(
            SettingsProblem(
                file: file, line: place.line, column: place.column, path: place.path, what: wrong.what,
                instead: wrong.instead))
    }

    func add(_ place: Place, _ what: String, instead: String) { add(place, Wrong(what, instead: instead)) }

    /// Everything so far, in the order of the file.
    var error: SettingsError {
        var sorted = list.sorted { ($0.line, $0.column, $0.path) < ($1.line, $1.column, $1.path) }
        if omitted > 0 {
            sorted.append(
                SettingsProblem(
                    file: file, line: 0, column: 0, path: "", what: "\(omitted) more problems are not shown",
                    instead: "mend these first"))
        }
        return SettingsError(problems: sorted)
    }
}
