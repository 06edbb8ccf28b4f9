// SPDX-License-Identifier: Apache-2.0
import Glibc
import Testing

/// Two gateways in network namespaces, judged from outside: see `Tests/Judges/gateway.sh`, `gateway6.sh` and
/// `unicast.py` for what is checked.
@Suite(.serialized) struct GatewayTests {
    @Test(arguments: ["gateway.sh", "gateway6.sh", "unicast.py"])
    func multicastCrossesTheSatelliteProtectedAndNothingElseDoes(judge: String) throws {
        let script = String(#filePath.dropLast("DataPlaneTests/GatewayTests.swift".count)) + "Judges/" + judge
        let lines = try output(of: script, [try builtProgram("dataplane-probe")]).split(separator: "\n")
        #expect(lines.last == "all ok")
        #expect(lines.count > 50, "every check reports a line")
        for line in lines.dropLast() { #expect(line.hasPrefix("ok: "), "\(line)") }
    }
}

/// OpenSSL's legacy provider is loaded for DES and Blowfish alone, and named where it is missing.
@Suite struct LegacyProviderTests {
    @Test(arguments: ["des-sha1", "blowfish128-md5"])
    func aMissingProviderIsNamed(suite: String) throws {
        let probe = try builtProgram("dataplane-probe")
        #expect(try output(of: probe, ["suite=\(suite)"]) == "ok\n")
        let without = try output(of: "/usr/bin/env", ["OPENSSL_MODULES=/nonexistent", probe, "suite=\(suite)"])
        #expect(without.hasPrefix("error: \(suite) needs OpenSSL's legacy provider (ossl-modules/legacy.so;"))
    }

    @Test(arguments: ["aes256-gcm", "chacha20-poly1305", "aes192-sha384", "3des-md5", "null-sha1"])
    func othersDoWithoutIt(suite: String) throws {
        let probe = try builtProgram("dataplane-probe")
        let without = try output(of: "/usr/bin/env", ["OPENSSL_MODULES=/nonexistent", probe, "suite=\(suite)"])
        #expect(without == "ok\n")
    }
}

/// The same two under load: see `Tests/Judges/load.sh`.
@Suite struct LoadTests {
    @Test func burstsAndNewKeysLoseNothing() throws {
        let script = String(#filePath.dropLast("DataPlaneTests/GatewayTests.swift".count)) + "Judges/load.sh"
        let lines = try output(of: script, [try builtProgram("dataplane-probe")]).split(separator: "\n")
        #expect(lines.last == "all ok")
        #expect(lines.count == 43, "every check reports a line")
        for line in lines.dropLast() { #expect(line.hasPrefix("ok: "), "\(line)") }
    }
}

/// A program that the package manager built beside the tests.
func builtProgram(_ name: String) throws -> String {
    var buffer = [UInt8](repeating: 0, count: 4_096)
    let count = buffer.withUnsafeMutableBytes { readlink("/proc/self/exe", $0.baseAddress!, $0.count) }
    try #require(count > 0)
    let path = String(decoding: buffer.prefix(count), as: UTF8.self)
    return path[..<(try #require(path.lastIndex(of: "/")))] + "/" + name
}

/// Runs a program to its end; gives what it wrote to standard output.
func output(of program: String, _ arguments: [String]) throws -> String {
    var ends: [Int32] = [0, 0]
    try #require(pipe(&ends) == 0)
    _ = fcntl(ends[0], F_SETFD, FD_CLOEXEC)
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
    posix_spawn_file_actions_adddup2(&actions, ends[1], 1)
    posix_spawn_file_actions_addclose(&actions, ends[1])
    // The threads of the test runner block signals, which would pass to the script and all that it starts.
    var attributes = posix_spawnattr_t()
    posix_spawnattr_init(&attributes)
    defer { posix_spawnattr_destroy(&attributes) }
    var signals = sigset_t()
    sigemptyset(&signals)
    posix_spawnattr_setsigmask(&attributes, &signals)
    posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK))
    var argv = ([program] + arguments).map { strdup($0) } + [nil]
    defer { for pointer in argv { free(pointer) } }
    var process: pid_t = 0
    try #require(posix_spawn(&process, program, &actions, &attributes, &argv, environ) == 0, "\(program) starts")
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
    return String(decoding: octets, as: UTF8.self)
}
