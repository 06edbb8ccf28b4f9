// SPDX-License-Identifier: Apache-2.0

internal import Basics
public import Cryptography
internal import IKEv1
internal import KeyServer

/// gcks.yaml on its way to `ServerSettings`: its own keys and the clients; `GroupReader` has the groups.
struct ServerReader {
    static let keys = [
        "identity", "address", "port", "nat-port", "satellite-interface", "control-socket", "signing-key-file",
        "provisioning-key-file", "state-file", "master-key-file", "audit-file", "phase1", "clients", "ranges", "groups",
        "vpns",
    ]
    private static let clientKeys = ["name", "address", "psk", "psk-file", "suites", "legacy"]
    private static let rangeKeys = ["name", "addresses", "psk", "psk-file", "suites", "legacy", "members"]

    let top: MappingReader
    let folder: String
    /// Looks up keys that the key server has already; nil where there is no key server.
    var storedKey: StoredKeys?

    private var problems: Problems { top.problems }
    private var secrets: SecretFiles { SecretFiles(folder: folder, problems: problems) }

    /// nil when something that must be there is not; the problems then say what.
    func settings() -> ServerSettings? {
        let identity = top.required("identity", .name)
        let address = top.required("address", .unicast)
        let port = top.optional("port", .port, default: 848)
        let natPort = top.optional("nat-port", .port, default: 4500)
        if port == natPort {
            problems.add(top.place(of: "nat-port"), "is the same as port", instead: "write 4500, or another free port")
        }
        let interface = top.required("satellite-interface", .interface)
        let socket = top.controlSocket(folder: folder, default: ServerSettings.defaultControlSocket)
        let keyFile = top.required("signing-key-file", .text)
        let key = keyFile.flatMap { secrets.signingKey($0, at: top.place(of: "signing-key-file")) }
        let state = stateSettings()
        let audit = auditFile()
        let phase1 = Phase1Settings(top.mapping("phase1", keys: Phase1Settings.keys))
        let provisioning = provisioningKey()
        let inventory = inventory(phase1: phase1, server: address, port: port, provisioning: provisioning)
        guard let identity, let address, let interface, let socket, let keyFile, let key else { return nil }
        return ServerSettings(
            file: problems.file, identity: identity, listenAddress: address, port: port, natPort: natPort,
            satelliteInterface: interface,
            controlSocket: socket, signingKeyFile: Files.resolve(keyFile, from: folder), signingKey: key,
            phase1: phase1, state: state, auditFile: audit, provisioningKey: provisioning ?? nil, inventory: inventory)
    }

    /// Clients, ranges, groups and VPNs.
    func inventory(phase1: Phase1Settings, server: IPAddress?, port: UInt16?, provisioning: Secret??) -> Inventory {
        let clients = Clients(reader: self, phase1: phase1, server: server, provisioning: provisioning)
        var groups = GroupReader(top: top, clients: clients.names, isV4: server.map(\.isV4), port: port)
        let entries = groups.groups()
        var vpns = VPNReader(top: top, clients: clients.names, groups: groups, entries: entries)
        return Inventory(clients: clients.entries, ranges: clients.ranges, groups: entries, vpns: vpns.vpns())
    }

    /// What `psk: derived` derives from: outer nil when the file names none, inner nil when it is no good.
    private func provisioningKey() -> Secret?? {
        guard top.has("provisioning-key-file") else { return .none }
        guard let path = top.required("provisioning-key-file", .text) else { return .some(nil) }
        return .some(
            secrets.preSharedKey(
                path, at: top.place(of: "provisioning-key-file"), isLegacyAllowed: false, legacyKey: nil))
    }

    /// nil when the file names no state; one key alone is a mistake.
    private func stateSettings() -> StateSettings? {
        guard top.has("state-file") || top.has("master-key-file") else { return nil }
        guard let file = top.required("state-file", .text), let keyFile = top.required("master-key-file", .text) else {
            return nil
        }
        guard let key = secrets.masterKey(keyFile, at: top.place(of: "master-key-file")) else { return nil }
        return StateSettings(file: Files.resolve(file, from: folder), masterKey: key)
    }

    private func auditFile() -> String? {
        guard top.has("audit-file"), let path = top.required("audit-file", .text) else { return nil }
        guard top.has("state-file") else {
            problems.add(
                top.place(of: "audit-file"), "needs the state, which knows how far it goes",
                instead: "add state-file and master-key-file, or leave this out")
            return nil
        }
        return Files.resolve(path, from: folder)
    }

    /// The clients and ranges, and the names that groups may use.
    private struct Clients {
        private(set) var entries: [ClientEntry] = []
        private(set) var ranges: [ClientRange] = []
        /// With the line of their first mention; those of broken entries too, so that one slip gives one problem.
        private(set) var names: [String: Int] = [:]
        private var addresses: [IPAddress: Int] = [:]
        private let problems: Problems
        private let secrets: SecretFiles
        private let phase1: Phase1Settings
        private let server: IPAddress?
        private let storedKey: StoredKeys?

        init(reader: ServerReader, phase1: Phase1Settings, server: IPAddress?, provisioning: Secret??) {
            problems = reader.problems
            secrets = reader.secrets
            storedKey = reader.storedKey
            self.phase1 = phase1
            self.server = server
            for client in reader.top.mappings("clients", keys: ServerReader.clientKeys, label: "name") {
                read(client: client, provisioning: provisioning)
            }
            for range in reader.top.mappings("ranges", keys: ServerReader.rangeKeys, label: "name") {
                read(range: range)
            }
        }

        private mutating func claim(name: String, at place: Place) {
            if let line = names[name] {
                problems.add(
                    place, "\(name) is the name of another client already (line \(line))",
                    instead: "give each client a name of its own")
            } else {
                names[name] = place.line
            }
        }

        private mutating func claim(address: IPAddress, at place: Place) {
            if let server, address.isV4 != server.isV4 {
                problems.add(
                    place, "\(address) is not of the GCKS's address family",
                    instead: "write an \(server.isV4 ? "IPv4" : "IPv6") address")
            } else if address == server {
                problems.add(place, "\(address) is the GCKS itself", instead: "write the client's own address")
            } else if let line = addresses[address] {
                problems.add(
                    place, "\(address) is the address of another client already (line \(line))",
                    instead: "give each client its own address, or put them into a range")
            } else {
                addresses[address] = place.line
            }
        }

        private mutating func read(client: MappingReader, provisioning: Secret??) {
            let name = client.required("name", .name)
            if let name { claim(name: name, at: client.place(of: "name")) }
            let address = client.required("address", .unicast)
            if let address { claim(address: address, at: client.place(of: "address")) }
            let isLegacy = client.optional("legacy", .truth, default: false)
            let suites = Phase1Settings.suites(client, isLegacyAllowed: isLegacy) ?? phase1.suites
            let key = preSharedKey(of: client, name: name, provisioning: provisioning, isLegacy: isLegacy)
            guard let name, let address, let key else { return }
            entries.append(ClientEntry(name: name, address: address, preSharedKey: key, suites: suites))
        }

        private func preSharedKey(
            of client: MappingReader, name: String?, provisioning: Secret??, isLegacy: Bool
        ) -> Secret? {
            switch (client.has("psk"), client.has("psk-file")) {
            case (true, true):
                client.problems.add(
                    client.place(of: "psk"), "stands beside psk-file", instead: "keep one of the two")
                return nil
            case (false, false):
                client.problems.add(
                    client.place(of: "psk-file"), "is missing", instead: "add psk-file: FILE, or psk: derived")
                return nil
            case (false, true):
                guard let path = client.required("psk-file", .text) else { return nil }
                return secrets.preSharedKey(
                    path, at: client.place(of: "psk-file"), isLegacyAllowed: isLegacy, legacyKey: "legacy")
            case (true, false):
                guard let word = client.required("psk", .keyWord(isDerivable: true)) else { return nil }
                if case .revision(let number) = word {
                    return name.flatMap { stored(.client($0), number, at: client.place(of: "psk")) }
                }
                guard let provisioning else {
                    client.problems.add(
                        client.place(of: "psk"), "has nothing to derive from",
                        instead: "add provisioning-key-file: at the top of the file, or write psk-file: FILE here")
                    return nil
                }
                guard let provisioning, let name else { return nil }
                return ProvisioningKey.preSharedKey(from: provisioning, client: name)
            }
        }

        /// A key that the key server has already.
        private func stored(_ holder: KeyHolder, _ revision: UInt64, at place: Place) -> Secret? {
            guard let storedKey else {
                problems.add(
                    place, "names a key that a running key server has",
                    instead: "give this file to gcks apply, or write psk-file: FILE")
                return nil
            }
            guard let key = storedKey(revision, holder) else {
                problems.add(
                    place, "revision \(revision) is not there, or has no key of this name",
                    instead: "gcks history lists the revisions; or write psk-file: FILE")
                return nil
            }
            return key
        }

        private func preSharedKey(of range: MappingReader, name: String?, isLegacy: Bool) -> Secret? {
            guard range.has("psk") else {
                return range.required("psk-file", .text).flatMap {
                    secrets.preSharedKey(
                        $0, at: range.place(of: "psk-file"), isLegacyAllowed: isLegacy, legacyKey: "legacy")
                }
            }
            if range.has("psk-file") {
                problems.add(range.place(of: "psk"), "stands beside psk-file", instead: "keep one of the two")
            }
            guard case .revision(let number)? = range.required("psk", .keyWord(isDerivable: false)), let name else {
                return nil
            }
            return stored(.range(name), number, at: range.place(of: "psk"))
        }

        private mutating func read(range: MappingReader) {
            let name = range.required("name", .name)
            if let name, ranges.contains(where: { $0.name == name }) {
                problems.add(
                    range.place(of: "name"), "\(name) is the name of another range already",
                    instead: "give each range a name of its own")
            }
            let prefix = range.required("addresses", .prefix)
            if let prefix { check(prefix, at: range.place(of: "addresses")) }
            let isLegacy = range.optional("legacy", .truth, default: false)
            let suites = Phase1Settings.suites(range, isLegacyAllowed: isLegacy) ?? phase1.suites
            let key = preSharedKey(of: range, name: name, isLegacy: isLegacy)
            if !range.has("members") { range.reportMissing("members") }
            let members = range.values("members", .name)
            for (member, place) in members { claim(name: member, at: place) }
            if range.isEmptyList("members") {
                problems.add(range.place(of: "members"), "is empty", instead: "list the names of the range's clients")
            }
            guard let name, let prefix, let key else { return }
            ranges.append(
                ClientRange(
                    name: name, addresses: prefix, preSharedKey: key, suites: suites, members: members.map(\.value)))
        }

        private func check(_ prefix: IPPrefix, at place: Place) {
            if let server, prefix.address.isV4 != server.isV4 {
                problems.add(
                    place, "\(prefix) is not of the GCKS's address family",
                    instead: "write an \(server.isV4 ? "IPv4" : "IPv6") subnet")
            } else if prefix.address.isMulticast {
                problems.add(place, "\(prefix) is multicast", instead: "write the subnet of the clients' own addresses")
            } else if let other = ranges.first(where: { $0.addresses.overlaps(prefix) }) {
                problems.add(
                    place, "\(prefix) overlaps range \(other.name) (\(other.addresses))",
                    instead: "give each range addresses of its own")
            }
        }
    }
}

/// Whose pre-shared key.
public enum KeyHolder: Hashable, Sendable {
    case client(String)
    case range(String)
}

/// The key that a client or range had in a revision of the inventory; nil where there is none.
public typealias StoredKeys = (_ revision: UInt64, _ holder: KeyHolder) -> Secret?

/// What may stand under `psk`.
private enum KeyWord {
    case derived
    case revision(UInt64)
}

extension Scalar where Value == KeyWord {
    /// `derived`, or `revision-7`. A key itself has no place here, so its text is not repeated in the message.
    fileprivate static func keyWord(isDerivable: Bool) -> Scalar {
        Scalar { text throws(Wrong) in
            if text == "derived", isDerivable { return .derived }
            let prefix = "revision-"
            if text.hasPrefix(prefix),
                let number = try? Scalar<UInt64>.integer(1...UInt64.max).parse(String(text.dropFirst(prefix.count)))
            {
                return .revision(number)
            }
            throw Wrong(
                "a key does not stand in this file",
                instead: isDerivable ? "write psk-file: FILE, or psk: derived" : "write psk-file: FILE")
        }
    }
}
