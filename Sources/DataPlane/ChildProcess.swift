// SPDX-License-Identifier: Apache-2.0

internal import Glibc

/// Runs another program to its end and collects what it says.
enum ChildProcess {
    struct Result {
        /// As by `wait`: nil when it was ended by a signal.
        var exitCode: Int32?
        /// Standard output and standard error together, cut at the limit.
        var output: String
    }

    /// Octets of output kept. A ruleset of hundreds of rules fits.
    private static let outputLimit = 1 << 20

    /// Blocks until the program ends; nil when it cannot be started. Looks for it in the system's directories, not in
    /// the caller's PATH: what it says decides about security.
    static func run(_ name: String, _ arguments: [String]) -> Result? {
        var ends: [Int32] = [-1, -1]
        guard unsafe pipe(&ends) == 0 else { return nil }
        for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
        defer { close(ends[0]) }
        let started = spawn(name, arguments, output: ends[1])
        close(ends[1])
        guard let process = started else { return nil }
        let output = readAll(ends[0])
        var status: Int32 = 0
        while unsafe waitpid(process, &status, 0) < 0 {
            guard errno == EINTR else { return nil }
        }
        return Result(exitCode: status & 0x7f == 0 ? status >> 8 & 0xff : nil, output: output)
    }

    private static func spawn(_ name: String, _ arguments: [String], output: Int32) -> pid_t? {
        var actions = unsafe posix_spawn_file_actions_t()
        guard unsafe posix_spawn_file_actions_init(&actions) == 0 else { return nil }
        defer { unsafe posix_spawn_file_actions_destroy(&actions) }
        var attributes = posix_spawnattr_t()
        guard unsafe posix_spawnattr_init(&attributes) == 0 else { return nil }
        defer { unsafe posix_spawnattr_destroy(&attributes) }
        resetSignals(&attributes)
        unsafe posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
        unsafe posix_spawn_file_actions_adddup2(&actions, output, 1)
        unsafe posix_spawn_file_actions_adddup2(&actions, output, 2)
        var argv: [UnsafeMutablePointer<CChar>?] = unsafe ([name] + arguments).map { unsafe strdup($0) } + [nil]
        var environment: [UnsafeMutablePointer<CChar>?] = unsafe [strdup("LC_ALL=C"), nil]
        defer { unsafe (argv + environment).forEach { unsafe free($0) } }
        for directory in ["/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/local/sbin"] {
            var process: pid_t = 0
            if unsafe posix_spawn(&process, directory + "/" + name, &actions, &attributes, &argv, &environment) == 0 {
                return process
            }
        }
        return nil
    }

    /// What this process blocks or ignores (SIGPIPE, by the event loop) is none of the child's business.
    private static func resetSignals(_ attributes: inout posix_spawnattr_t) {
        var signals = sigset_t()
        unsafe sigemptyset(&signals)
        unsafe posix_spawnattr_setsigmask(&attributes, &signals)
        unsafe sigaddset(&signals, SIGPIPE)
        unsafe posix_spawnattr_setsigdefault(&attributes, &signals)
        unsafe posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF))
    }

    private static func readAll(_ descriptor: Int32) -> String {
        var text: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 65_536)
        while true {
            let got = unsafe read(descriptor, &buffer, buffer.count)
            if got < 0, errno == EINTR { continue }
            guard got > 0 else { return String(decoding: text, as: UTF8.self) }
            text += buffer.prefix(min(got, outputLimit - text.count))
        }
    }
}
