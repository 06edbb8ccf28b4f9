// SPDX-License-Identifier: Apache-2.0

public import Basics
internal import Glibc
public import Logging

/// One line per event, on standard error: `2026-11-23T15:00:00.123Z info  phase1.established peer=site1 suite=...`.
/// A value with blanks, quotes or control characters is quoted and escaped, so that an event is always one line and no
/// peer can write a line of its own into the log.
public struct LogfmtHandler: LogHandler {
    public var logLevel: Logger.Level
    public var metadata: Logger.Metadata = [:]
    public var metadataProvider: Logger.MetadataProvider?

    private let clock: @Sendable () -> WallTime
    private let sink: @Sendable (String) -> Void

    /// Logs to standard error.
    public init(level: Logger.Level = .info) {
        self.init(level: level, clock: WallTime.now) { line in
            var rest = Array(line.utf8)[...]
            while !rest.isEmpty {
                let written = unsafe rest.withUnsafeBytes { unsafe write(STDERR_FILENO, $0.baseAddress, $0.count) }
                if written < 0, errno == EINTR { continue }
                guard written > 0 else { return }
                rest = rest.dropFirst(written)
            }
        }
    }

    /// Logs into `sink`, a whole line at a time, its line feed included.
    init(
        level: Logger.Level, clock: @escaping @Sendable () -> WallTime, sink: @escaping @Sendable (String) -> Void
    ) {
        logLevel = level
        self.clock = clock
        self.sink = sink
    }

    /// Makes this the handler of every logger of the program. Once only.
    public static func bootstrap(level: Logger.Level) {
        LoggingSystem.bootstrap { _ in LogfmtHandler(level: level) }
    }

    public subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { metadata[key] }
        set { metadata[key] = newValue }
    }

    public func log(event: Logging.LogEvent) {
        var fields = metadata.merging(metadataProvider?.get() ?? [:]) { $1 }
        if let own = event.metadata { fields.merge(own) { $1 } }
        if let error = event.error { fields["error"] = "\(error)" }
        let ordered = fields.sorted { $0.key < $1.key }.map { ($0.key, "\($0.value)") }
        sink(Self.line(clock(), event.level, event.message.description, ordered))
    }

    /// The line of an event, its line feed included.
    static func line(
        _ time: WallTime, _ level: Logger.Level, _ event: String, _ fields: [(name: String, value: String)]
    ) -> String {
        var line = "\(time) \(word(level)) \(isPlain(event, "=") ? event : quoted(event))"
        for field in fields {
            let name = isPlain(field.name, "=") ? field.name : quoted(field.name)
            line += " \(name)=\(isPlain(field.value, "=") ? field.value : quoted(field.value))"
        }
        return line + "\n"
    }

    private static func word(_ level: Logger.Level) -> String {
        switch level {
        case .trace: "trace"
        case .debug: "debug"
        case .info: "info "
        case .notice: "note "
        case .warning: "warn "
        case .error: "error"
        case .critical: "crit "
        }
    }

    private static func isPlain(_ text: String, _ separator: Unicode.Scalar) -> Bool {
        !text.isEmpty
            && text.unicodeScalars.allSatisfy {
                $0 != "\"" && $0 != "\\" && $0 != separator && !$0.properties.isWhitespace && !isHidden($0)
            }
    }

    private static func isHidden(_ scalar: Unicode.Scalar) -> Bool {
        switch scalar.properties.generalCategory {
        case .control, .format, .lineSeparator, .paragraphSeparator, .surrogate, .privateUse, .unassigned: true
        default: false
        }
    }

    private static func quoted(_ text: String) -> String {
        var result = "\""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"", "\\":
                result += "\\"
                result.unicodeScalars.append(scalar)
            case "\n": result += "\\n"
            case "\t": result += "\\t"
            case "\r": result += "\\r"
            case _ where isHidden(scalar): result += "\\u{\(String(scalar.value, radix: 16))}"
            default: result.unicodeScalars.append(scalar)
            }
        }
        return result + "\""
    }
}

extension Logger {
    /// Writes what an engine reports.
    public func report(_ event: Basics.LogEvent) {
        let level: Logger.Level =
            switch event.level {
            case .debug: .debug
            case .info: .info
            case .warning: .warning
            case .error: .error
            }
        guard level >= logLevel else { return }
        var metadata: Logger.Metadata = [:]
        for field in event.fields { metadata[field.name] = .string(field.value) }
        log(level: level, "\(event.name)", metadata: metadata)
    }
}

/// A point in civil time, UTC, to the millisecond: for people who read the log, never for the protocol.
struct WallTime: CustomStringConvertible, Sendable {
    /// Since 1970-01-01T00:00:00Z.
    var milliseconds: Int64

    static func now() -> WallTime {
        var time = timespec()
        unsafe clock_gettime(CLOCK_REALTIME, &time)
        return WallTime(milliseconds: Int64(time.tv_sec) * 1_000 + Int64(time.tv_nsec) / 1_000_000)
    }

    /// RFC 3339. The date by Hinnant's algorithm: years start in March, so that the leap day comes last.
    var description: String {
        let (days, rest) = Self.divide(milliseconds, by: 86_400_000)
        let (era, dayOfEra) = Self.divide(days + 719_468, by: 146_097)
        let yearOfEra = (dayOfEra - dayOfEra / 1_460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365
        let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
        let shifted = (5 * dayOfYear + 2) / 153
        let day = dayOfYear - (153 * shifted + 2) / 5 + 1
        let month = shifted < 10 ? shifted + 3 : shifted - 9
        let year = yearOfEra + era * 400 + (month <= 2 ? 1 : 0)
        func digits(_ value: Int64, _ count: Int) -> String {
            let text = String(value)
            return String(repeating: "0", count: max(0, count - text.count)) + text
        }
        let date = "\(digits(year, 4))-\(digits(month, 2))-\(digits(day, 2))"
        let seconds = rest / 1_000
        let time = "\(digits(seconds / 3_600, 2)):\(digits(seconds / 60 % 60, 2)):\(digits(seconds % 60, 2))"
        return "\(date)T\(time).\(digits(rest % 1_000, 3))Z"
    }

    /// Rounded towards minus infinity.
    private static func divide(_ value: Int64, by divisor: Int64) -> (quotient: Int64, remainder: Int64) {
        let remainder = ((value % divisor) + divisor) % divisor
        return ((value - remainder) / divisor, remainder)
    }
}
