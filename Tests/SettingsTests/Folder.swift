// SPDX-License-Identifier: Apache-2.0

import Cryptography
import Foundation

/// A folder for one test, gone with its last reference.
final class Folder: Sendable {
    let path: String

    init() throws {
        path = NSTemporaryDirectory() + "settings-" + UUID().uuidString
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    }

    deinit { try? FileManager.default.removeItem(atPath: path) }

    func write(_ name: String, _ content: [UInt8], mode: Int = 0o600) throws {
        try Data(content).write(to: URL(fileURLWithPath: path + "/" + name))
        try FileManager.default.setAttributes([.posixPermissions: mode], ofItemAtPath: path + "/" + name)
    }

    func write(_ name: String, _ content: String, mode: Int = 0o600) throws {
        try write(name, Array(content.utf8), mode: mode)
    }

    /// One with all the key files that the golden cases name.
    static func withKeys() throws -> Folder {
        let folder = try Folder()
        try folder.write("signing-key.pem", SigningKey.generate(.ecdsaP256).pem().revealed())
        try folder.write("provisioning.key", "5a1f0c77e9d04b3892c6ab5e11f7d3600b9ae24d8c7f315642e8d09bb1a6fc37\n")
        try folder.write("strong.psk", "9f2c41d07be85a6613f0c8d9a274b35e\n")
        try folder.write("short.psk", "9f2c41d07be85a6\n")
        try folder.write("words.psk", "correct horse battery staple\n")
        try folder.write("empty.psk", "\n")
        try folder.write("dos.psk", "9f2c41d07be85a6613f0c8d9a274b35e\r\n")
        try folder.write("open.psk", "9f2c41d07be85a6613f0c8d9a274b35e\n", mode: 0o644)
        try folder.write("long.psk", [UInt8](repeating: 0x61, count: 5_000))
        return folder
    }
}
