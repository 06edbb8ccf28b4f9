// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import Settings

/// A bad file: the good one below with one piece replaced, and all that must be said about it.
struct Case: CustomTestStringConvertible, Sendable {
    let title: String
    let old: String
    let new: String
    let lines: [String]

    init(_ title: String, replace old: String, by new: String, says lines: String) {
        self.title = title
        self.old = old
        self.new = new
        self.lines = lines.split(separator: "\n").map(String.init)
    }

    var testDescription: String { title }
}

/// The files that are right, and in extensions the cases that are wrong.
enum GoldenCases {
    static let goodServer = """
        identity: hub
        address: 10.0.0.1
        satellite-interface: sat0
        signing-key-file: signing-key.pem
        provisioning-key-file: provisioning.key
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

    static let goodClient = """
        name: site1
        gcks:
          address: 10.0.0.1
          identity: hub
        psk-file: strong.psk
        satellite-interface: sat0
        terrestrial-interface: lan0

        """

    /// The text with its first `old` replaced.
    static func text(_ good: String, _ wrong: Case) throws -> String {
        let range = try #require(good.firstRange(of: wrong.old), "the good file has the piece to replace")
        return good.replacingCharacters(in: range, with: wrong.new)
    }
}

extension String {
    func replacingCharacters(in range: Range<Index>, with other: String) -> String {
        String(self[..<range.lowerBound]) + other + String(self[range.upperBound...])
    }
}

/// What a bad file gives, as the operator sees it, with the folder left out.
private func lines(_ folder: Folder, _ body: () throws(SettingsError) -> Void) -> [String] {
    do {
        try body()
        return []
    } catch {
        return error.problems.map { $0.description.replacing(folder.path + "/", with: "") }
    }
}

@Suite struct GoldenTests {
    let folder: Folder

    init() throws { folder = try Folder.withKeys() }

    @Test func theGoodFilesAreGood() throws {
        _ = try ServerSettings.parse(GoldenCases.goodServer, file: folder.path + "/gcks.yaml")
        _ = try ClientSettings.parse(GoldenCases.goodClient, file: folder.path + "/satipsec.yaml")
    }

    @Test(arguments: GoldenCases.server + GoldenCases.clients + GoldenCases.groups + GoldenCases.vpns)
    func badServerFile(_ wrong: Case) throws {
        let text = try GoldenCases.text(GoldenCases.goodServer, wrong)
        let lines = lines(folder) { () throws(SettingsError) in
            _ = try ServerSettings.parse(text, file: folder.path + "/gcks.yaml")
        }
        #expect(lines == wrong.lines)
    }

    @Test(arguments: GoldenCases.clientFile)
    func badClientFile(_ wrong: Case) throws {
        let text = try GoldenCases.text(GoldenCases.goodClient, wrong)
        let lines = lines(folder) { () throws(SettingsError) in
            _ = try ClientSettings.parse(text, file: folder.path + "/satipsec.yaml")
        }
        #expect(lines == wrong.lines)
    }
}
