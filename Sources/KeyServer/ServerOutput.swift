// SPDX-License-Identifier: Apache-2.0

public import Audit
public import Basics
public import IKEv1
public import Store

/// What the server wants done, in this order: a record comes before the send that depends on it.
public enum ServerOutput: Sendable {
    /// All of these or none.
    case persist([RecordChange])
    /// For the audit file. It stands in front of the sends that let the keys go of which it tells: none of them may go
    /// before it is on the disk (`letsKeysGo`).
    case audit(AuditEvent)
    /// Unicast, or multicast when the remote address is a group: then out of the satellite interface.
    case transmit(Datagram)
    case log(LogEvent)
    /// A transaction is over: every member confirmed or named.
    case ended(VerdictReport)
    /// An ISAKMP SA came up (for the key log, when it is switched on).
    case associationUp(AssociationID)
    /// Nothing more now; call `advance(to:)` at this instant at the latest.
    case wait(until: Instant?)
}

/// Why a group's keys change.
public enum RekeyReason: String, Sendable, Hashable, Codable {
    case commanded, scheduled, revocation
    /// Newcomers, in a group with backward secrecy.
    case joined
    /// A sender said that a volume or its sequence numbers near their end.
    case volume
    /// A sender came back without its counters, so its SAs cannot go on.
    case senderRestarted = "sender-restarted"
    /// The operator changed what the group is.
    case applied
    /// Both ends of a VPN are there, and it has no SAs.
    case established
    /// An end of a VPN registered again: its counters may be gone.
    case endRegistered = "end-registered"
    /// An end of a VPN has another address or port.
    case moved
    /// The configuration says something else of a VPN's flows or suite.
    case changed
    /// The state was older than what members had.
    case recovered
}

/// The end of a transaction, by name.
public struct VerdictReport: Sendable, Hashable, Codable {
    public struct Confirmation: Sendable, Hashable, Codable {
        public var client: String
        /// After the start of the transaction.
        public var seconds: Double
    }
    public struct Missing: Sendable, Hashable, Codable {
        public var client: String
        /// `silent`, `refused`, `unreachable` or `revoked`; in a VPN also `waiting`, for the other end.
        public var reason: String

        public init(client: String, reason: String) {
            self.client = client
            self.reason = reason
        }
    }
    /// Or the VPN.
    public var group: String
    public var transaction: UInt64
    public var reason: RekeyReason
    public var epoch: UInt32
    /// `confirmed` when every member that held keys has the new ones, else `unconfirmed`.
    public var verdict: String
    public var confirmed: [Confirmation]
    public var unconfirmed: [Missing]
    /// Members that never held keys of this group: they get the new ones when they register.
    public var absent: [String]
    public var seconds: Double
    public var rounds: Int
    public var datagrams: Int
    /// Of all these, as UDP payload.
    public var multicastOctets: Int
    public var negativeAcknowledgements: Int
    public var unicasts: Int
    /// It is about a VPN and its two ends.
    public var isVPN = false
}

/// Why a command was refused.
public enum CommandError: Error, Hashable, Sendable {
    case unknownGroup(String)
    case unknownClient(String)
    case alreadyRevoked(String)
    /// No keys may be given out now; with the reason.
    case heldBack(String)
    /// One of its ends is revoked.
    case deadVPN(String)
    /// No member has newer keys than we know.
    case nothingToRecover
    /// The new keys do not fit one datagram.
    case tooLarge(group: String)
    /// libcrypto refused.
    case cryptography
    /// An inventory contradicts itself; how, in words.
    case badInventory(String)
    /// What was stored of a client or a group cannot be read.
    case store(StoreError)
}

extension CommandError: CustomStringConvertible {
    public var description: String {
        switch self {
        case .unknownGroup(let name): "no group or VPN is called '\(name)'; 'gcks groups' and 'gcks vpns' list them"
        case .unknownClient(let name): "no client is called '\(name)'; 'gcks clients' lists them"
        case .alreadyRevoked(let name): "client '\(name)' is revoked already"
        case .heldBack(let reason): "no new keys are given out: \(reason)"
        case .deadVPN(let name): "an end of VPN '\(name)' is revoked"
        case .nothingToRecover: "no member has newer keys than this key server knows: there is nothing to recover"
        case .tooLarge(let name): "the keys of group '\(name)' do not fit one datagram; give it fewer flows"
        case .badInventory(let reason): "the inventory contradicts itself: \(reason)"
        case .store(let error): "the state cannot be read: \(error)"
        case .cryptography: "the cryptographic library refused; see the log"
        }
    }
}
