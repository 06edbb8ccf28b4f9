// SPDX-License-Identifier: Apache-2.0

import Basics
import Cryptography
import Foundation
import KeyServer
import Testing

@testable import Settings

@Suite struct ProvisioningTests {
    let folder: Folder

    init() throws { folder = try Folder() }

    private func provisioning(_ clients: String..., address: IPAddress? = nil) throws -> Provisioning {
        Provisioning(
            folder: folder.path + "/etc", identity: "hub", address: address, satelliteInterface: "sat0",
            clients: try clients.map { try #require(Provisioning.Client($0)) })
    }

    private func mode(_ path: String) throws -> Int {
        try #require(FileManager.default.attributesOfItem(atPath: path)[.posixPermissions] as? Int)
    }

    @Test func serverAndClientsAgree() throws {
        let provisioning = try provisioning("site1=10.0.0.11", "site2=10.0.0.12", address: .v4(10, 0, 0, 1))
        let steps = try provisioning.make(random: SeededRandom(seed: 1))
        #expect(steps.allSatisfy { $0.isNew })
        let server = try ServerSettings.load(path: provisioning.configurationPath)
        #expect(server.inventory.groups.map(\.name) == ["news"])
        for entry in server.inventory.clients {
            let path = "\(provisioning.folder)/clients/\(entry.name)/satipsec.yaml"
            let client = try ClientSettings.load(path: path)
            #expect(client.name == entry.name)
            #expect(client.address == entry.address)
            #expect(client.preSharedKey == entry.preSharedKey)
            #expect(client.preSharedKey.count == 64)
            #expect(client.gcks.identity == server.identity)
            #expect(client.gcks.address == server.listenAddress)
        }
        #expect(server.inventory.clients[0].preSharedKey != server.inventory.clients[1].preSharedKey)
    }

    @Test func secretsAreTheOwnersAlone() throws {
        let provisioning = try provisioning("site1=10.0.0.11")
        _ = try provisioning.make(random: SeededRandom(seed: 1))
        #expect(try mode(provisioning.folder) == 0o700)
        for name in ["signing-key.pem", "provisioning.key", "clients/site1/site1.psk"] {
            #expect(try mode(provisioning.folder + "/" + name) == 0o600)
        }
    }

    @Test func nothingIsOverwrittenAndNewClientsAreAdded() throws {
        let first = try provisioning("site1=10.0.0.11")
        _ = try first.make(random: SeededRandom(seed: 1))
        let before = try FileManager.default.subpathsOfDirectory(atPath: first.folder).sorted()
        let contents = before.map { FileManager.default.contents(atPath: first.folder + "/" + $0) }
        let second = try provisioning("site1=10.0.0.11", "site2=10.0.0.12")
        let steps = try second.make(random: SeededRandom(seed: 2))
        #expect(steps.filter(\.isNew).map { $0.path.split(separator: "/").last } == ["site2.psk", "satipsec.yaml"])
        #expect(before.map { FileManager.default.contents(atPath: first.folder + "/" + $0) } == contents)
        let index = try #require(before.firstIndex(of: "provisioning.key"))
        let provisioningKey = try #require(contents[index])
        let key = ProvisioningKey.preSharedKey(from: Secret([UInt8](provisioningKey.dropLast())), client: "site2")
        let client = try ClientSettings.load(path: second.folder + "/clients/site2/satipsec.yaml")
        #expect(client.preSharedKey == key)
    }

    @Test func aNewClientGetsWhatTheConfigurationSaysOfTheServer() throws {
        _ = try provisioning("site1=10.0.0.11", address: .v4(10, 0, 0, 1)).make(random: SeededRandom(seed: 1))
        let path = folder.path + "/etc/gcks.yaml"
        let text = try String(contentsOfFile: path, encoding: .utf8).replacing("identity: hub\n", with: "port: 1848\n")
        try (text + "identity: hub2\n").write(toFile: path, atomically: true, encoding: .utf8)
        var second = try provisioning("site2=10.0.0.12")
        second.identity = nil
        _ = try second.make(random: SeededRandom(seed: 1))
        let client = try ClientSettings.load(path: second.folder + "/clients/site2/satipsec.yaml")
        #expect(client.gcks.identity == "hub2")
        #expect(client.gcks.address == .v4(10, 0, 0, 1))
        #expect(client.gcks.port == 1848)
    }

    @Test func withoutClientsTheConfigurationLoadsToo() throws {
        let provisioning = try provisioning()
        _ = try provisioning.make(random: SeededRandom(seed: 1))
        let server = try ServerSettings.load(path: provisioning.configurationPath)
        #expect(server.inventory.clients.isEmpty)
        #expect(server.inventory.groups.isEmpty)
    }

    /// What stands there as a comment is right as well.
    @Test func theCommentedGroupLoadsToo() throws {
        let provisioning = try provisioning()
        _ = try provisioning.make(random: SeededRandom(seed: 1))
        var isList = false
        let lines = try String(contentsOfFile: provisioning.configurationPath, encoding: .utf8)
            .split(separator: "\n", omittingEmptySubsequences: false)
            .map { line in
                if line.hasSuffix(": []") {
                    isList = true
                    return String(line.dropLast(3))
                }
                isList = isList && line.hasPrefix("#")
                return isList ? String(line.dropFirst()) : String(line)
            }
        let text = lines.joined(separator: "\n")
        let server = try ServerSettings.parse(text, file: provisioning.configurationPath)
        #expect(server.inventory.clients.map(\.name) == ["site1"])
        #expect(server.inventory.groups.map(\.name) == ["news"])
    }

    @Test func oneClientSendsAndReceives() throws {
        let provisioning = try provisioning("site1=10.0.0.11")
        _ = try provisioning.make(random: SeededRandom(seed: 1))
        let server = try ServerSettings.load(path: provisioning.configurationPath)
        #expect(server.inventory.groups[0].members.map(\.role) == [.both])
    }

    @Test func ipv6Works() throws {
        let provisioning = try provisioning("site1=2001:db8::11", "site2=2001:db8::12")
        _ = try provisioning.make(random: SeededRandom(seed: 1))
        #expect(try ServerSettings.load(path: provisioning.configurationPath).inventory.clients.count == 2)
        #expect(try ClientSettings.load(path: provisioning.folder + "/clients/site1/satipsec.yaml").name == "site1")
    }

    @Test(
        arguments: [
            ["a=10.0.0.1", "a=10.0.0.2"], ["a=10.0.0.2", "b=10.0.0.2"], ["a=192.0.2.1"],
            ["a=10.0.0.1", "b=2001:db8::2"],
        ])
    func clientsThatCannotBeAreRefused(_ clients: [String]) throws {
        var provisioning = try provisioning()
        provisioning.clients = try clients.map { try #require(Provisioning.Client($0)) }
        #expect(throws: SettingsError.self) { try provisioning.make(random: SeededRandom(seed: 1)) }
        #expect(!FileManager.default.fileExists(atPath: provisioning.folder))
    }

    @Test(arguments: ["", "a", "a=", "=10.0.0.1", "a/b=10.0.0.1", "a=239.0.0.1", "a=10.0.0.1=b", "a=0.0.0.0"])
    func whatIsNoClientIsRefused(_ text: String) { #expect(Provisioning.Client(text) == nil) }

    @Test func aFolderThatCannotBeMadeIsAProblem() throws {
        var provisioning = try provisioning()
        provisioning.folder = folder.path + "/none/etc"
        let error = #expect(throws: SettingsError.self) { try provisioning.make(random: SeededRandom(seed: 1)) }
        #expect(error?.problems.first?.what.hasSuffix("No such file or directory") == true)
    }
}
