// SPDX-License-Identifier: Apache-2.0

internal import Cryptography
public import KeyServer

/// An inventory by itself: what `gcks apply` is given, and what a running key server reads again.
extension ServerSettings {
    static let inventoryKeys = ["clients", "ranges", "groups", "vpns"]

    /// Reads an inventory as this key server understands it: clients, ranges and groups alone, or a whole configuration
    /// file. Key files are read from the folder of `file`.
    ///
    /// - Parameters:
    ///   - file: its name in messages.
    ///   - storedKey: looks up `psk: revision-N`.
    /// - Returns: the inventory; and the settings of a whole file that differ from ours, which need a restart.
    /// - Throws: every problem found, not only the first.
    public func read(
        inventory text: String, file: String, storedKey: @escaping StoredKeys
    ) throws(SettingsError) -> (inventory: Inventory, needsRestart: [String]) {
        let problems = Problems(file: file)
        guard let top = ConfigurationFile.top(text, keys: ServerReader.keys, problems: problems) else {
            throw problems.error
        }
        if ServerReader.keys.contains(where: { top.has($0) && !Self.inventoryKeys.contains($0) }) {
            let other = try Self.parse(text, file: file, storedKey: storedKey)
            return (other.inventory, differences(from: other))
        }
        // What is left out by mistake must not be taken for what is to go.
        for key in ["clients", "groups"] where !top.has(key) { top.reportMissing(key) }
        let reader = ServerReader(top: top, folder: Files.folder(of: file), storedKey: storedKey)
        let inventory = reader.inventory(
            phase1: phase1, server: listenAddress, port: port, provisioning: provisioningKey.map { .some($0) } ?? .none)
        guard problems.isEmpty else { throw problems.error }
        return (inventory, [])
    }

    /// The text of a configuration or inventory file.
    public static func text(ofFile path: String) throws(SettingsError) -> String { try ConfigurationFile.read(path) }

    /// Settings that a daemon takes up at its start alone, and that are others there.
    public func differences(from other: ServerSettings) -> [String] {
        [
            (identity != other.identity, "identity"), (listenAddress != other.listenAddress, "address"),
            (port != other.port, "port"), (natPort != other.natPort, "nat-port"),
            (satelliteInterface != other.satelliteInterface, "satellite-interface"),
            (controlSocket != other.controlSocket, "control-socket"),
            (signingKey.publicKey != other.signingKey.publicKey, "signing-key-file"),
            (state?.file != other.state?.file, "state-file"),
            (state?.masterKey != other.state?.masterKey, "master-key-file"),
            (phase1.lifetime != other.phase1.lifetime, "phase1.lifetime"),
            (phase1.deadPeerInterval != other.phase1.deadPeerInterval, "phase1.dead-peer-interval"),
        ].filter(\.0).map(\.1)
    }
}
