// SPDX-License-Identifier: Apache-2.0

public import Basics
public import Cryptography
public import KeyServer

/// What gcks.yaml says, checked: the key server's own settings and its inventory.
public struct ServerSettings {
    /// Where all this stands, as the caller named it.
    public var file: String
    /// How the GCKS names itself in phase 1 (ID_FQDN).
    public var identity: String
    /// The GCKS's own address: where it listens and the source of every PUSH.
    public var listenAddress: IPAddress
    public var port: UInt16
    /// The port behind network address translators (RFC 3947).
    public var natPort: UInt16
    /// Where multicasts go out.
    public var satelliteInterface: String
    /// Path of the UNIX socket for the operator's commands.
    public var controlSocket: String
    /// As the daemon finds it, not relative any more.
    public var signingKeyFile: String
    public var signingKey: SigningKey
    public var phase1: Phase1Settings
    /// Where what a restart must know is kept; nil: in memory alone.
    public var state: StateSettings?
    /// Where it is written down who did what with keys, as the daemon finds it; nil: nowhere. Only with `state`.
    public var auditFile: String?
    /// What `psk: derived` derives from; nil where the file names none.
    public var provisioningKey: Secret?
    public var inventory: Inventory
    /// Of the file's octets, as hexadecimal digits: which configuration it was. Secrets are in files of their own.
    public var digest = ""

    public static let defaultPath = "/etc/satipsec/gcks.yaml"
    public static let defaultControlSocket = "/run/satipsec/gcks.sock"

    /// How long an ISAKMP SA may live.
    public var phase1Lifetime: Duration { phase1.lifetime }
    /// Idle time after which a client is asked whether it lives; nil for never.
    public var deadPeerInterval: Duration? { phase1.deadPeerInterval }

    /// Reads a configuration file and the secret files it names.
    ///
    /// - Throws: every problem found, not only the first.
    public static func load(path: String) throws(SettingsError) -> ServerSettings {
        try parse(ConfigurationFile.read(path), file: path)
    }

    /// The same from text; `file` is the name in messages, and its folder is where relative paths start.
    static func parse(
        _ text: String, file: String, storedKey: StoredKeys? = nil
    ) throws(SettingsError) -> ServerSettings {
        let problems = Problems(file: file)
        guard let top = ConfigurationFile.top(text, keys: ServerReader.keys, problems: problems) else {
            throw problems.error
        }
        let reader = ServerReader(top: top, folder: Files.folder(of: file), storedKey: storedKey)
        guard var settings = reader.settings(), problems.isEmpty else { throw problems.error }
        settings.digest = hexadecimal(HashAlgorithm.sha256.digest(Array(text.utf8)))
        return settings
    }

    /// Only the path of the control socket: what a command needs that asks the daemon, without access to any secret.
    public static func controlSocket(inFile path: String) throws(SettingsError) -> String {
        try ConfigurationFile.controlSocket(path, keys: ServerReader.keys, default: defaultControlSocket)
    }
}

/// The file that a key server keeps its records in, and the key that seals them.
public struct StateSettings {
    /// As the daemon finds it, not relative any more.
    public var file: String
    /// 32 octets.
    public var masterKey: Secret
}

/// What both configuration files have in common.
enum ConfigurationFile {
    /// An inventory of 100,000 clients has some 10 MiB.
    private static let octetsAtMost = 64 << 20

    static func read(_ path: String) throws(SettingsError) -> String {
        let problems = Problems(file: path)
        do throws(Wrong) {
            let octets = try Files.read(path, octetsAtMost: octetsAtMost, privacy: .any)
            guard let text = String(validating: octets, as: UTF8.self) else {
                throw Wrong("is not UTF-8 text", instead: "save it as UTF-8")
            }
            return text
        } catch {
            problems.add(Place(line: 0, column: 0, path: ""), error)
            throw problems.error
        }
    }

    static func top(_ text: String, keys: [String], problems: Problems) -> MappingReader? {
        guard let document = YAMLDocument(text, problems: problems) else { return nil }
        guard let root = document.root else {
            problems.add(
                Place(line: 1, column: 1, path: ""), "holds no settings", instead: "start from the sample configuration"
            )
            return nil
        }
        return MappingReader(Item(root, path: ""), keys: keys, problems: problems, duplicates: document.duplicates)
    }

    static func controlSocket(_ path: String, keys: [String], default fallback: String) throws(SettingsError) -> String
    {
        let problems = Problems(file: path)
        let text = try read(path)
        // Only this key decides: `check` is there for everything else.
        let aside = Problems(file: path)
        guard let top = top(text, keys: keys, problems: aside) else { throw aside.error }
        let socket = top.reporting(to: problems).controlSocket(folder: Files.folder(of: path), default: fallback)
        guard let socket, problems.isEmpty else { throw problems.error }
        return socket
    }
}

extension MappingReader {
    /// The path under `control-socket`; it must fit `sockaddr_un`.
    func controlSocket(folder: String, default fallback: String) -> String? {
        guard has("control-socket") else { return fallback }
        guard let text = required("control-socket", .text) else { return nil }
        let path = Files.resolve(text, from: folder)
        guard path.utf8.count <= 107 else {
            problems.add(
                place(of: "control-socket"), "is longer than the 107 octets a socket's path may have",
                instead: "write a shorter path, for example \(fallback)")
            return nil
        }
        return path
    }
}
