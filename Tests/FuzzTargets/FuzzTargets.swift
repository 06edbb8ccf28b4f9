// SPDX-License-Identifier: Apache-2.0

import Basics
import Cryptography

// FuzzTargets owns the entrances through which octets from outside reach a reader, each as a function of octets alone:
// `fuzz/` drives them with libFuzzer, and the tests replay what it found. A target fails by a trap: of the reader, or
// of its own `demand` when a promise of docs/FMKE.md is broken ("one value has one encoding").

/// An entrance.
public enum FuzzTarget: String, CaseIterable, Sendable {
    /// The ISAKMP header, a payload chain, and each payload's body.
    case isakmp
    /// Datagrams to an endpoint in both roles.
    case phase1
    /// The payloads of CONFIGURE, of its answer, of STATUS and of a digest, after decryption.
    case configure, answer, status, digest
    /// The plain body of a PUSH's data datagram.
    case update
    /// A PUSH as a datagram, and one whose inside was chosen by an attacker who has the KEK and the signing key.
    case push
    /// Datagrams of one block, data and parity in any order.
    case block
    /// What a member of a key tree takes: a slice of an update, its keys, stored records.
    case tree
    /// An ESP datagram, and one whose inner packet was chosen by an attacker who has the SA's key.
    case esp
    /// Configuration files.
    case settings
    /// What the control socket takes as JSON.
    case json
    /// A sealed record, and what stands in one of a client.
    case record, state

    /// Takes in the octets. Returns whatever they are.
    public func run(_ octets: [UInt8]) {
        switch self {
        case .isakmp: ISAKMPTarget.run(octets)
        case .phase1: Phase1Target.run(octets)
        case .configure: UnicastTarget.configure(octets)
        case .answer: UnicastTarget.answer(octets)
        case .status: UnicastTarget.status(octets)
        case .digest: UnicastTarget.digest(octets)
        case .update: UnicastTarget.update(octets)
        case .push: PushTarget.run(octets)
        case .block: BlockTarget.run(octets)
        case .tree: TreeTarget.run(octets)
        case .esp: ESPTarget.run(octets)
        case .settings: SettingsTarget.run(octets)
        case .json: SettingsTarget.json(octets)
        case .record: TreeTarget.record(octets)
        case .state: StateTarget.run(octets)
        }
    }

    /// Inputs that the readers accept, to begin with.
    public var seeds: [[UInt8]] {
        switch self {
        case .isakmp: ISAKMPTarget.seeds
        case .phase1: Phase1Target.seeds
        case .configure: UnicastTarget.configureSeeds
        case .answer: UnicastTarget.answerSeeds
        case .status: UnicastTarget.statusSeeds
        case .digest: UnicastTarget.digestSeeds
        case .update: UnicastTarget.updateSeeds
        case .push: PushTarget.seeds
        case .block: BlockTarget.seeds
        case .tree: TreeTarget.seeds
        case .esp: ESPTarget.seeds
        case .settings: SettingsTarget.seeds
        case .json: SettingsTarget.jsonSeeds
        case .record: TreeTarget.recordSeeds
        case .state: StateTarget.seeds
        }
    }
}

/// Stops the process, which is how a target fails.
func demand(_ condition: Bool, _ what: @autoclosure () -> String) {
    if !condition { fatalError("broken promise: \(what())") }
}

/// Values that several targets use. All keys are for tests.
enum Fixture {
    static func counting(from first: UInt8, _ count: Int) -> [UInt8] { (0..<count).map { first &+ UInt8($0) } }

    /// A value that is there unless the tree is broken.
    static func made<Value>(_ make: () throws -> Value) -> Value {
        do { return try make() } catch { fatalError("a fixture cannot be made: \(error)") }
    }

    static let signingKey = made { try SigningKey.generate(.ed25519) }
    static let masterKey = Secret(counting(from: 1, 32))
}
