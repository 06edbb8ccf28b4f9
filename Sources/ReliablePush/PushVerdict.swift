// SPDX-License-Identifier: Apache-2.0

internal import Basics

/// Why a member is not confirmed.
public enum UnconfirmedReason: String, Sendable, Hashable, Codable {
    /// It answered neither multicast nor unicast nor the probe.
    case silent
    /// It is alive, it said so, but did not confirm the keys.
    case refused
    /// Its ISAKMP SA ended; it holds keys of the group and cannot be reached.
    case unreachable
    /// It lost its authorisation while the transaction ran.
    case revoked
}

/// Who confirmed, and when after the start: eight octets a member, in order of members.
public struct Confirmations: RandomAccessCollection, Sendable, Hashable {
    public typealias Element = (key: UInt32, value: Duration)

    private let members: [UInt32]
    private let milliseconds: [UInt32]

    init(members: [UInt32], milliseconds: [UInt32]) {
        self.members = members
        self.milliseconds = milliseconds
    }

    public var startIndex: Int { 0 }
    public var endIndex: Int { members.count }
    public subscript(position: Int) -> Element {
        (members[position], .milliseconds(Int64(milliseconds[position])))
    }

    /// When this member confirmed; nil when it did not.
    public subscript(member member: UInt32) -> Duration? {
        let position = partition(members.count) { members[$0] < member }
        guard position < members.count, members[position] == member else { return nil }
        return self[position].value
    }
}

/// The end of a transaction: every member confirmed or named.
public struct PushVerdict: Sendable, Hashable {
    public var group: UInt32
    public var transaction: UInt64
    /// When each member's confirmation came, after the start.
    public var confirmed: Confirmations
    public var unconfirmed: [UInt32: UnconfirmedReason]
    /// From the start to the verdict.
    public var duration: Duration
    /// Multicast rounds, the first transmission included; without those that only asked.
    public var rounds: Int
    /// Data and parity.
    public var datagrams: Int
    /// BEACONs that asked who lacks something, or for answers.
    public var polls: Int
    public var negativeAcknowledgements: Int
    /// Members that were repaired by unicast.
    public var unicasts: Int

    public var isComplete: Bool { unconfirmed.isEmpty }
}
