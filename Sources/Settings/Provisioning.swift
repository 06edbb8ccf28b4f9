// SPDX-License-Identifier: Apache-2.0

public import Basics
internal import Cryptography

/// The first set of files of a key server: keys, a configuration to go on from, and a bundle per client, to be carried
/// to it. What is there already stays as it is, so that it can be run again for new clients.
public struct Provisioning {
    /// A client to make a bundle for.
    public struct Client: Sendable, Hashable {
        public var name: String
        public var address: IPAddress
    }

    /// What became of one file.
    public struct Step: Sendable, Hashable {
        public var path: String
        /// false: it was there and is untouched.
        public var isNew: Bool
    }

    public var folder: String
    /// nil: what an existing configuration says, else `gcks`.
    public var identity: String?
    /// nil: what an existing configuration says, else an address for documentation, which the operator replaces.
    public var address: IPAddress?
    public var satelliteInterface: String
    public var clients: [Client]

    public init(
        folder: String, identity: String?, address: IPAddress?, satelliteInterface: String, clients: [Client]
    ) {
        self.folder = folder
        self.identity = identity
        self.address = address
        self.satelliteInterface = satelliteInterface
        self.clients = clients
    }

    /// Where the key server's configuration is, or would be.
    public var configurationPath: String { Files.resolve("gcks.yaml", from: folder) }

    /// Makes what is missing.
    ///
    /// - Throws: the first thing that did not work; nothing that was there is changed, and what is made stays.
    public func make(random: any RandomSource) throws(SettingsError) -> [Step] {
        let server = try server()
        let problems = Problems(file: folder)
        do throws(Wrong) {
            try check(server)
            return try makeFiles(server, random: random)
        } catch {
            problems.add(Place(line: 0, column: 0, path: ""), error)
            throw problems.error
        }
    }

    /// The entries for gcks.yaml of the clients whose bundles `steps` made, for an operator who has that file already.
    public func clientEntries(madeBy steps: [Step]) -> String {
        let made = Set(steps.filter(\.isNew).map(\.path))
        return ConfigurationTemplate.clientEntries(clients.filter { made.contains(clientConfigurationPath($0)) })
    }

    /// Where a client's configuration is, or would be.
    func clientConfigurationPath(_ client: Client) -> String {
        Files.resolve("clients/\(client.name)/satipsec.yaml", from: folder)
    }

    /// What stands in the files for the key server's address as long as nobody has said it; nil once it is known.
    public var standIn: IPAddress? {
        get throws(SettingsError) {
            let server = try server()
            return server.isStandIn ? server.address : nil
        }
    }

    /// What the files say of the key server.
    struct Server {
        var identity = "gcks"
        var address: IPAddress
        /// The address stands for one that we do not know.
        var isStandIn = false
        var port: UInt16 = 848
        var natPort: UInt16 = 4500
    }

    /// From an existing configuration, as far as it says; what the caller says comes first.
    private func server() throws(SettingsError) -> Server {
        let isV4 = clients.first?.address.isV4 ?? true
        let standIn = isV4 ? IPAddress.v4(192, 0, 2, 1) : .v6(0x2001_0db8_0000_0000, 1)
        var server = Server(address: standIn)
        var known: IPAddress?
        if Files.exists(configurationPath) {
            let path = configurationPath
            // Only these keys matter here: `check` is there for everything else.
            let aside = Problems(file: path)
            guard
                let top = ConfigurationFile.top(
                    try ConfigurationFile.read(path), keys: ServerReader.keys, problems: aside)
            else { throw aside.error }
            known = top.optional("address", .unicast)
            server.identity = top.optional("identity", .name, default: server.identity)
            server.port = top.optional("port", .port, default: server.port)
            server.natPort = top.optional("nat-port", .port, default: server.natPort)
        }
        server.identity = identity ?? server.identity
        server.address = address ?? known ?? standIn
        server.isStandIn = server.address == standIn
        return server
    }

    private func check(_ server: Server) throws(Wrong) {
        _ = try Scalar.name.parse(server.identity)
        _ = try Scalar.interface.parse(satelliteInterface)
        var names: Set<String> = []
        var addresses: Set<IPAddress> = []
        for client in clients {
            guard names.insert(client.name).inserted else {
                throw Wrong("two clients are called \(client.name)", instead: "give each client its own name")
            }
            guard addresses.insert(client.address).inserted else {
                throw Wrong("two clients have \(client.address)", instead: "give each client its own address")
            }
            guard client.address != server.address, client.address.isV4 == server.address.isV4 else {
                throw Wrong(
                    "\(client.name)'s address does not go with the GCKS's, \(server.address)",
                    instead: "give both their own, of one family")
            }
        }
    }

    private func makeFiles(_ server: Server, random: any RandomSource) throws(Wrong) -> [Step] {
        var steps: [Step] = []
        func make(_ path: String, _ content: [UInt8], isSecret: Bool) throws(Wrong) {
            let isNew = try Files.create(path, mode: isSecret ? 0o600 : 0o644, content: content)
            steps.append(Step(path: path, isNew: isNew))
        }
        try Files.makeFolder(folder, mode: 0o700)
        let signingKeyPath = Files.resolve("signing-key.pem", from: folder)
        try make(signingKeyPath, Self.freshSigningKey().revealed(), isSecret: true)  // into its file
        let provisioningPath = Files.resolve("provisioning.key", from: folder)
        let fresh = ProvisioningKey.hexadecimal(Secret(random: random, count: 32))
        try make(provisioningPath, fresh.revealed() + [0x0a], isSecret: true)  // into its file
        let masterKey = ProvisioningKey.hexadecimal(Secret(random: random, count: 32))
        try make(Files.resolve("master.key", from: folder), masterKey.revealed() + [0x0a], isSecret: true)  // likewise
        try make(
            configurationPath, Array(ConfigurationTemplate.server(server, self).utf8), isSecret: false)
        guard !clients.isEmpty else { return steps }
        // What is in the file now, whether we wrote it or an earlier run did.
        let provisioningKey = try Self.provisioningKey(inFile: provisioningPath)
        try Files.makeFolder(Files.resolve("clients", from: folder), mode: 0o700)
        for client in clients {
            let bundle = Files.resolve("clients/\(client.name)", from: folder)
            try Files.makeFolder(bundle, mode: 0o700)
            let key = ProvisioningKey.preSharedKey(from: provisioningKey, client: client.name)
            try make(bundle + "/\(client.name).psk", key.revealed() + [0x0a], isSecret: true)  // into its file
            let content = Array(ConfigurationTemplate.client(client, of: server).utf8)
            try make(clientConfigurationPath(client), content, isSecret: false)
        }
        return steps
    }

    private static func freshSigningKey() throws(Wrong) -> Secret {
        do {
            return try SigningKey.generate(.ecdsaP256).pem()
        } catch {
            throw Wrong("libcrypto makes no signing key", instead: "check the installation of OpenSSL 3")
        }
    }

    private static func provisioningKey(inFile path: String) throws(Wrong) -> Secret {
        var octets = try Files.read(path, octetsAtMost: 4_096, privacy: .secret)
        defer { wipe(&octets) }
        if octets.last == 0x0a { octets.removeLast() }
        guard !octets.isEmpty else { throw Wrong("\(path) is empty", instead: "remove it and run this again") }
        return Secret(octets)
    }
}

extension Provisioning.Client {
    /// From `NAME=ADDRESS`; nil when it is not of that form.
    public init?(_ text: String) {
        let halves = text.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false).map(String.init)
        guard halves.count == 2, let name = try? Scalar.name.parse(halves[0]),
            let address = try? Scalar.unicast.parse(halves[1])
        else { return nil }
        self.init(name: name, address: address)
    }
}
