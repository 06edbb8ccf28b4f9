// SPDX-License-Identifier: Apache-2.0

public import ArgumentParser
public import Control
public import Settings

/// How a command finds the daemon, and how it prints.
public struct DaemonOptions<Settings: ProgramSettings>: ParsableArguments {
    @Option(help: ArgumentHelp("The daemon's control socket.", valueName: "path"))
    var socket: String?

    @Option(help: ArgumentHelp("The daemon's configuration file, which names the socket.", valueName: "file"))
    var config: String?

    @Flag(help: "Print the daemon's JSON.")
    public var json = false

    public init() {}

    public func validate() throws {
        guard socket == nil || config == nil else {
            throw ValidationError("--socket and --config say the same thing twice; keep one")
        }
    }

    /// Asks with `timeout`, and shows the answer: as JSON if that is wanted, else as `text` makes of it.
    ///
    /// - Parameter status: what the program exits with.
    public func show(
        timeout: Duration = .seconds(10), _ ask: (DaemonQuery) -> DaemonQuery.Outcome,
        text: (JSONValue) -> String, status: @escaping (JSONValue) -> Int32 = { _ in ExitStatus.fine }
    ) throws {
        switch ask(DaemonQuery(socket: try socketPath(), timeout: timeout)) {
        case .refused(let reason):
            Terminal.complain("\(Settings.program): \(reason)")
            throw ExitCode(ExitStatus.error)
        case .mistaken(let lines):
            for line in lines { Terminal.complain(line) }
            throw ExitCode(ExitStatus.usage)
        case .answer(let octets, let value):
            if json { Terminal.write(json: octets) } else { Terminal.write(text(value)) }
            let status = status(value)
            if status != ExitStatus.fine { throw ExitCode(status) }
        }
    }

    private func socketPath() throws -> String {
        if let socket { return socket }
        do {
            // Without a file at the usual place the socket is at the usual place.
            return try Settings.controlSocket(inFile: config ?? Settings.defaultPath)
        } catch {
            guard config != nil else { return Settings.defaultControlSocket }
            Terminal.complain(error.description)
            throw ExitCode(ExitStatus.usage)
        }
    }
}
