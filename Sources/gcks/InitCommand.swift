// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Basics
internal import Control
internal import Cryptography
internal import Settings

/// `gcks init`: keys, a configuration to go on from, and a bundle per client.
struct InitCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "init",
        abstract: "Make a key server's first files: keys, a configuration, a bundle per client.",
        discussion: "What is there already stays as it is: run it again to make bundles for new clients.")

    @Argument(help: ArgumentHelp("Where to. Made if it is not there.", valueName: "dir"))
    var folder: String

    @Option(
        help: ArgumentHelp(
            "Make a bundle for this client, with its key and configuration. May be repeated.",
            valueName: "name=address"),
        transform: Self.client)
    var client: [Provisioning.Client] = []

    @Option(
        help: ArgumentHelp(
            "How the key server calls itself; gcks, or what an existing configuration says.", valueName: "name"))
    var identity: String?

    @Option(help: ArgumentHelp("The key server's address.", valueName: "ip"), transform: Self.address)
    var address: IPAddress?

    @Option(help: ArgumentHelp("Where multicasts go out.", valueName: "interface"))
    var satelliteInterface = "sat0"

    func run() throws {
        let folder = folder.count > 1 && folder.hasSuffix("/") ? String(folder.dropLast()) : folder
        let provisioning = Provisioning(
            folder: folder, identity: identity, address: address, satelliteInterface: satelliteInterface,
            clients: client)
        do {
            let steps = try provisioning.make(random: SystemRandom())
            for step in steps { Terminal.write("\(step.isNew ? "made" : "kept")  \(step.path)\n") }
            explain(provisioning, steps, standIn: try provisioning.standIn)
        } catch {
            Terminal.complain(error.description)
            throw ExitCode(ExitStatus.error)
        }
    }

    private func explain(_ provisioning: Provisioning, _ steps: [Provisioning.Step], standIn: IPAddress?) {
        let configuration = provisioning.configurationPath
        let entries = provisioning.clientEntries(madeBy: steps)
        if steps.contains(where: { $0.path == configuration && !$0.isNew }), !entries.isEmpty {
            Terminal.write("\n\(configuration) was there already. Add to its clients, and to their groups' members:\n")
            Terminal.write(entries)
        }
        if let standIn {
            let files = client.isEmpty ? "" : " and in each client's satipsec.yaml"
            Terminal.write("\nThe key server's address is not known: replace \(standIn) in gcks.yaml\(files).\n")
            Terminal.write("(With --address, init writes it itself.)\n")
        }
        Terminal.write("\nNext: edit \(configuration), then gcks check --config \(configuration)\n")
        if !client.isEmpty {
            Terminal.write("Carry each folder in \(provisioning.folder)/clients to its client over a safe way.\n")
        }
    }

    private static func client(_ text: String) throws -> Provisioning.Client {
        guard let client = Provisioning.Client(text) else {
            throw ValidationError("'\(text)' is not a client; write NAME=ADDRESS, for example site1=10.0.0.11")
        }
        return client
    }

    private static func address(_ text: String) throws -> IPAddress {
        guard let address = IPAddress(text), !address.isMulticast, !address.isUnspecified else {
            throw ValidationError("'\(text)' is not the address of a machine; write for example 10.0.0.1")
        }
        return address
    }
}
