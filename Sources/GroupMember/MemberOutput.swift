// SPDX-License-Identifier: Apache-2.0

public import Basics
public import ESP
public import IKEv1
public import Store

/// What the client wants done, in this order. A `.data` change that fails is told to the engine by `dataPlaneFailed`
/// before the next `poll()`, so that the answer to the GCKS says the truth.
public enum MemberOutput: Sendable {
    case persist([Record])
    case transmit(Datagram)
    case data(SAChange)
    /// Join or leave a control channel on the satellite side.
    case joinControl(SocketAddress)
    case leaveControl(SocketAddress)
    case log(LogEvent)
    /// An ISAKMP SA came up (for the key log, when it is switched on).
    case associationUp(AssociationID)
    /// Nothing more now; call `advance(to:)` at this instant at the latest.
    case wait(until: Instant?)
}

/// What an operator sees of a client. Encoded as JSON this is the control interface's stable schema; no key is in it.
public struct MemberSnapshot: Sendable, Codable {
    public struct SA: Sendable, Codable {
        public var group: String
        public var spi: String
        public var flow: String
        public var suite: String
        /// `in`, `out` or `both`.
        public var direction: String
        /// For a sender: is it the one in use?
        public var isActive: Bool
        public var transaction: UInt64
        public var expiresInSeconds: Double
    }
    public struct Group: Sendable, Codable {
        public var name: String
        public var id: UInt32
        public var role: String
        public var control: String
        public var epoch: UInt32
        public var transaction: UInt64
        public var isCurrent: Bool
        public var memberIndex: UInt32
        public var rekeySequence: UInt64
        public var kekExpiresInSeconds: Double
    }
    public struct VPN: Sendable, Codable {
        public var name: String
        public var id: UInt32
        /// The other end's address; nil before the first SAs.
        public var peer: String?
        /// Address and port that ESP goes to in UDP; nil for plain ESP.
        public var encapsulation: String?
        /// `up` (both ways), `half` or `down`.
        public var state: String
        public var transaction: UInt64
    }
    public var name: String
    /// `registered`, `connecting` or `degraded` (keys in use, but no GCKS to be reached).
    public var state: String
    public var gcks: String
    public var suite: String?
    public var roundTripMilliseconds: Int64?
    public var registeredSeconds: Double?
    /// From the first datagram of the first registration to the moment every SA was held.
    public var registrationSeconds: Double?
    public var groups: [Group]
    public var sas: [SA]
    /// Datagrams without effect, by reason.
    public var drops: [String: UInt64]
    public var lastFailure: String?
    public var vpns: [VPN]
}
