// SPDX-License-Identifier: Apache-2.0

public import Cryptography
internal import Basics
public import EventLoop
internal import Glibc

/// The insecure key log (`--key-log DIR`): what Wireshark needs to decrypt the daemon's own traffic, in the files of a
/// Wireshark profile folder. Off unless an operator asks for it; the daemon warns loudly while it is on.
public final class KeyLog {
    public let directory: String

    /// - Throws: `SystemError` when the folder cannot be made or written.
    public init(directory: String) throws(SystemError) {
        self.directory = directory
        if unsafe mkdir(directory, 0o700) != 0, errno != EEXIST {
            throw SystemError("create key log folder", errno: errno, context: directory)
        }
        guard unsafe access(directory, W_OK) == 0 else {
            throw SystemError("write key log folder", errno: errno, context: directory)
        }
    }

    /// A line of `ikev1_decryption_table`: initiator cookie and cipher key.
    public func writePhase1(cookie: UInt64, key: Secret) {
        var writer = OctetWriter(capacity: 8)
        writer.u64(cookie)
        // The one place besides the wire where a key is written, because the operator asked for just that.
        append("\(hexadecimal(writer.bytes)),\(hexadecimal(key.revealed()))", to: "ikev1_decryption_table")
    }

    /// A line of `esp_sa`, as `ESP.wiresharkLine` makes it.
    public func writeESP(_ line: String) { append(line, to: "esp_sa") }

    private func append(_ line: String, to name: String) {
        let descriptor = unsafe open("\(directory)/\(name)", O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { return }
        defer { close(descriptor) }
        let octets = Array((line + "\n").utf8)
        // A short write would spoil one line of a debugging aid; nothing depends on it.
        _ = unsafe octets.withUnsafeBytes { unsafe write(descriptor, $0.baseAddress, $0.count) }
    }
}
