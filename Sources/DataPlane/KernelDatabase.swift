// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import Cryptography
internal import ESP
internal import EventLoop

/// The kernel's SAD and SPD as a kernel back end sees them, whatever language they are spoken to in.
///
/// Everything in them carries a mark of ours, so that what a predecessor left behind when it was killed can be told
/// from what others put there.
protocol KernelDatabase: AnyObject {
    /// An SA that one of ours expired: the outer destination and SPI, whether it is gone now (hard) or soon will be
    /// (soft), and how much it had done.
    var onExpiry: ((SAKey, _ isHard: Bool, _ done: KernelUsage) -> Void)? { get set }

    /// Throws in words what this database cannot do for an SA.
    func check(_ parameters: SAParameters) throws(DataPlaneError)
    func add(_ association: KernelAssociation) throws(SystemError)
    /// Changes what may change in an SA's life: its limits.
    func update(_ association: KernelAssociation) throws(SystemError)
    /// Without effect when it is not there.
    func remove(_ association: KernelAssociation) throws(SystemError)
    /// nil when it is not there.
    func usage(of association: KernelAssociation) -> KernelUsage?
    /// Adds a policy or puts another in its place, in one step.
    func set(_ policy: KernelPolicy) throws(SystemError)
    /// Without effect when it is not there.
    func remove(_ policy: KernelPolicy) throws(SystemError)
    /// Takes out all SAs and policies with our mark.
    func removeLeftOvers() throws(SystemError)
}

/// An SA as the kernel has it: one for both directions, since it knows an SA by destination and SPI alone.
struct KernelAssociation {
    var parameters: SAParameters
    /// Outer source; unspecified for one that only receives.
    var source: IPAddress
    /// What ties it to its policies and to the packet filter's rule.
    var request: UInt32

    /// What the suite allows if that is less: whoever configured a limit, a sender keeps to it.
    var octetLimit: UInt64? {
        guard !source.isUnspecified, let most = parameters.suite.octetLimit else { return parameters.octetLimit }
        return min(parameters.octetLimit ?? most, most)
    }
}

/// What the kernel counted for one SA.
struct KernelUsage: Hashable {
    var packets: UInt64 = 0
    /// Inner octets.
    var octets: UInt64 = 0
    /// Highest sequence number sent or verified.
    var sequence: UInt64 = 0
    var replays: UInt64 = 0
    var failures: UInt64 = 0
    /// Seconds of the Unix epoch; 0 while unused.
    var lastUsed: UInt64 = 0
}

/// One entry of the kernel's SPD.
struct KernelPolicy {
    enum Direction {
        case out, into, forward
    }

    var direction: Direction
    var selector: TrafficSelector
    /// Lower ones decide first. Also part of the mark of our policies where there is no other.
    var rank: UInt32
    var request: UInt32
    /// Outer addresses; an unspecified source is any.
    var source: IPAddress
    var destination: IPAddress
    /// The SA that shall protect it, for `out`; nil while there is none and nothing may leave.
    var active: UInt32?
}
