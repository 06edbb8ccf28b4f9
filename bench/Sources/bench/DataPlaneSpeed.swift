// SPDX-License-Identifier: Apache-2.0
import Glibc

/// The data plane beside its peers. Tunnels, streams and clocks are the business of `bench/dataplane/dataplane.py`,
/// which runs in namespaces of its own, as root or in a user namespace; here its lines become a report.
enum DataPlaneSpeed {
    private struct Failed: Error, CustomStringConvertible {
        var description: String
    }

    static func run() throws -> Report {
        let path = CommandLine.arguments[0]
        let programs = path[..<(path.lastIndex(of: "/") ?? path.startIndex)]  // `make bench` builds them beside us
        let script = String(#filePath.dropLast("Sources/bench/DataPlaneSpeed.swift".count)) + "dataplane/dataplane.py"
        let user = getuid() == 0 ? [] : ["-Ur"]
        // Four to six minutes with all peers. Whatever hangs ends with the limit, and what it started with it.
        let command =
            ["/usr/bin/timeout", "-k", "1", "900", "unshare"] + user + ["-nmpf", "--kill-child", "python3", script]
            + ["\(programs)/dataplane-probe", "\(programs)/traffic"]
        var report = Report(note: "")
        let (text, status) = try output(of: command)
        for line in text.split(separator: "\n") {
            if line.hasPrefix("note ") {
                report.note = String(line.dropFirst(5))
                continue
            }
            let cells = line.split(separator: "\t", omittingEmptySubsequences: false).map(String.init)
            guard cells.count == 6 else { throw Failed(description: "dataplane.py said: \(line)") }
            report.lines.append(
                Line(
                    workload: cells[0], figure: cells[1], peer: cells[2], ratio: cells[3], target: cells[4],
                    isMet: cells[5].isEmpty ? nil : cells[5] == "met"))
        }
        if status != 0 {
            report.lines.append(
                Line(
                    workload: "all of it", figure: "ended with status \(status)", peer: "see above", ratio: "",
                    target: "0", isMet: false))
        }
        return report
    }

    /// Runs a program to its end; gives what it wrote to standard output, and its exit status.
    private static func output(of command: [String]) throws -> (String, Int32) {
        var ends: [Int32] = [0, 0]
        guard pipe(&ends) == 0 else { throw Failed(description: "no pipe") }
        _ = fcntl(ends[0], F_SETFD, FD_CLOEXEC)
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_adddup2(&actions, ends[1], 1)
        posix_spawn_file_actions_addclose(&actions, ends[1])
        var argv = command.map { strdup($0) } + [nil]
        defer { for pointer in argv { free(pointer) } }
        var process: pid_t = 0
        guard posix_spawn(&process, command[0], &actions, nil, &argv, environ) == 0 else {
            throw Failed(description: "\(command[0]) does not start")
        }
        close(ends[1])
        defer { close(ends[0]) }
        var octets: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 65_536)
        while true {
            let got = read(ends[0], &buffer, buffer.count)
            guard got > 0 else { break }
            octets += buffer.prefix(got)
        }
        var status: Int32 = 0
        waitpid(process, &status, 0)
        return (String(decoding: octets, as: UTF8.self), status & 0x7f == 0 ? status >> 8 & 255 : 128 + status & 0x7f)
    }
}
