// SPDX-License-Identifier: Apache-2.0

import Basics
import Control
import Cryptography
import Foundation
import Settings

/// Both kinds of configuration file, read from a folder that has the key files they name.
enum SettingsTarget {
    /// Made once for the process, and taken away at its end.
    private static let folder: String = {
        let path = FileManager.default.temporaryDirectory.path + "/satipsec-fuzz-\(getpid())"
        Fixture.made {
            try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
            let key = try SigningKey.generate(.ecdsaP256).pem().revealed()
            let attributes: [FileAttributeKey: Any] = [.posixPermissions: 0o600]
            for (name, content) in [
                ("signing-key.pem", key), ("strong.psk", Array("9f2c41d07be85a6613f0c8d9a274b35e\n".utf8)),
                ("provisioning.key", Array("5a1f0c77e9d04b3892c6ab5e11f7d3600b9ae24d8c7f315642e8d09bb1a6fc37\n".utf8)),
                ("master.key", Array(String(repeating: "ab", count: 32).utf8)),
            ] {
                _ = FileManager.default.createFile(
                    atPath: path + "/" + name, contents: Data(content), attributes: attributes)
            }
        }
        atexit { SettingsTarget.clean() }
        return path
    }()

    private static func clean() { try? FileManager.default.removeItem(atPath: folder) }

    static func run(_ octets: [UInt8]) {
        let path = folder + "/settings.yaml"
        Fixture.made { try Data(octets).write(to: URL(fileURLWithPath: path)) }
        do {
            _ = try ServerSettings.load(path: path)
        } catch {
            demand(!error.description.isEmpty, "what is refused is explained")
        }
        _ = try? ClientSettings.load(path: path)
    }

    static func json(_ octets: [UInt8]) { _ = try? JSONText.decode(JSONValue.self, from: octets) }

    static let seeds: [[UInt8]] = [server, client].map { Array($0.utf8) }

    private static let server = """
        identity: hub
        address: 10.0.0.1
        satellite-interface: sat0
        signing-key-file: signing-key.pem
        provisioning-key-file: provisioning.key
        state-file: state.db
        master-key-file: master.key
        clients:
          - name: site1
            address: 10.0.0.11
            psk: derived
          - name: site2
            address: 10.0.0.12
            psk-file: strong.psk
        ranges:
          - name: north
            addresses: 10.0.1.0/24
            psk-file: strong.psk
            members: [ship1, ship2]
        groups:
          - name: news
            id: 7
            control: 239.255.0.1:848
            flows:
              - source: any
                destination: 239.1.1.1
            members:
              - client: site1
                role: sender
              - client: ship1
            lifetime:
              data: 1h

        """
    private static let client = """
        name: site1
        gcks:
          address: 10.0.0.1
          identity: hub
        psk-file: strong.psk
        satellite-interface: sat0
        terrestrial-interface: lan0

        """

    static let jsonSeeds: [[UInt8]] = [
        Array(#"{"group": "news", "kek": true, "wait": false}"#.utf8),
        Array(#"[1, 2.5e3, null, {"a": "\u00e9"}]"#.utf8),
    ]
}
