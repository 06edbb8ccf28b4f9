// SPDX-License-Identifier: Apache-2.0

internal import Basics

/// The configuration files that `gcks init` writes.
enum ConfigurationTemplate {
    static func server(_ server: Provisioning.Server, _ provisioning: Provisioning) -> String {
        let hint = server.isStandIn ? "   # change this: the GCKS's own address, where it listens" : ""
        return """
            # SatIPSec key server. Check it with: gcks check --config \(provisioning.configurationPath)
            # Durations have a unit (500ms, 2s, 5min, 8h), rates too (64kbit/s), and sizes (1GiB). Secrets stay in
            # files of their own. See configs/gcks.yaml for all that can stand here.

            identity: \(server.identity)
            address: \(server.address)\(hint)
            satellite-interface: \(provisioning.satelliteInterface)   # where multicasts go out
            signing-key-file: signing-key.pem
            provisioning-key-file: provisioning.key   # `psk: derived` computes each client's key from it
            state-file: state.db              # what a restart must know, sealed with the master key
            master-key-file: master.key
            audit-file: audit.log             # who did what with keys, line by line; `gcks audit verify` checks it
            # control-socket: /run/satipsec/gcks.sock

            # phase1:
            #   suites: [aes256-sha256-ecp256]
            #   lifetime: 8h
            #   dead-peer-interval: 30s

            # Each client has its own bundle in clients/NAME: carry it to the client, over a safe way.
            \(clientList(provisioning.clients))

            \(groupList(provisioning.clients, isV4: server.address.isV4))
            """
    }

    static func clientEntries(_ clients: [Provisioning.Client]) -> String {
        clients.map { "  - {name: \($0.name), address: \(quoted($0.address)), psk: derived}\n" }.joined()
    }

    private static func clientList(_ clients: [Provisioning.Client]) -> String {
        guard clients.isEmpty else { return "clients:\n" + clientEntries(clients).dropLast() }
        return """
            clients: []
            #  - {name: site1, address: 192.0.2.11, psk: derived}
            """
    }

    /// A group of all clients, the first one sending; without clients, as a comment.
    private static func groupList(_ clients: [Provisioning.Client], isV4: Bool) -> String {
        let control = isV4 ? "239.255.0.1:848" : "\"[ff18::1]:848\""
        let destination = isV4 ? "239.1.1.1" : "\"ff18::2\""
        var members = clients.enumerated().map { index, client in
            "      - {client: \(client.name), role: \(index > 0 ? "receiver" : clients.count > 1 ? "sender" : "both")}"
        }
        if members.isEmpty { members = ["      - {client: site1, role: both}"] }
        let group = """
              - name: news
                id: 1
                control: \(control)
                flows:
                  - {source: any, destination: \(destination)}
                suite: aes256-gcm
                members:
            \(members.joined(separator: "\n"))
                lifetime: {data: 1h, kek: 24h}
                rollover: {activate-after: 2s, keep-old: 5s}
                push: {copies: 2, spread: 200ms, control-rate: 128kbit/s, return-rate: 64kbit/s, round-trip: 600ms}
            """
        guard clients.isEmpty else { return "groups:\n" + group + "\n" }
        return "groups: []\n" + group.split(separator: "\n").map { "#" + $0 + "\n" }.joined()
    }

    static func client(_ client: Provisioning.Client, of server: Provisioning.Server) -> String {
        let hint = server.isStandIn ? "   # change this: the GCKS's address" : ""
        return """
            # SatIPSec client \(client.name). Check it with: satipsec check --config satipsec.yaml

            name: \(client.name)
            gcks:
              address: \(quoted(server.address))\(hint)
              port: \(server.port)
              nat-port: \(server.natPort)
              identity: \(server.identity)
            address: \(quoted(client.address))
            psk-file: \(client.name).psk
            satellite-interface: sat0      # change this: encrypted packets go out and come in here
            terrestrial-interface: lan0    # change this: senders and receivers of the multicast are here
            # tunnel-interface: tun0
            # link-mtu: 1500
            # control-socket: /run/satipsec/satipsec.sock
            # guard: required
            # packet-path: automatic

            """
    }

    /// Colons of an IPv6 address mean something else within braces.
    private static func quoted(_ address: IPAddress) -> String { address.isV4 ? "\(address)" : "\"\(address)\"" }
}
