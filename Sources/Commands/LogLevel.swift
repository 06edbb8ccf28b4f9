// SPDX-License-Identifier: Apache-2.0

public import ArgumentParser
internal import Control
public import Logging

/// A level by its name on the command line.
public enum LogLevel: String, CaseIterable, ExpressibleByArgument {
    case trace, debug, info, notice, warning, error

    public var level: Logger.Level {
        switch self {
        case .trace: .trace
        case .debug: .debug
        case .info: .info
        case .notice: .notice
        case .warning: .warning
        case .error: .error
        }
    }

    /// Said on standard error whatever the log's level is.
    static func warn(aboutKeyLog folder: String) {
        Terminal.complain(
            """
            ************************************************************************
            WARNING: --key-log writes session keys to \(folder).
            Whoever reads them can read and forge everything they protect.
            Never use it with traffic that matters.
            ************************************************************************
            """)
    }
}
