// SPDX-License-Identifier: Apache-2.0

public import Basics
internal import CLinux
internal import Glibc

/// The multicast groups that this process wants to hear, per interface.
///
/// Linux takes 20 IPv4 memberships per socket (`igmp_max_memberships`), so they are held by sockets of their own, as
/// many as it takes. What arrives for them is delivered to every socket bound to the right port or protocol.
public final class MulticastMemberships {
    private struct Membership: Hashable {
        var group: IPAddress
        var interface: UInt32
    }

    private var holders: [(descriptor: Int32, family: AddressFamily)] = []
    private var joined: [Membership: Int32] = [:]

    public init() {}

    deinit { for holder in holders { close(holder.descriptor) } }

    /// Tells the network by IGMP or MLD that this host listens to the group on the interface. Joining twice is
    /// joining once. Throws `ENODEV` for an interface that does not exist.
    public func join(_ group: IPAddress, interface: String) throws(SystemError) {
        let membership = Membership(group: group, interface: try Interfaces.index(of: interface))
        guard joined[membership] == nil else { return }
        let context = "\(group) on \(interface)"
        let family = AddressFamily(group)
        for holder in holders where holder.family == family {
            let result = change(membership, on: holder.descriptor, join: 1)
            // A full socket is the reason for having many.
            if result == -ENOBUFS { continue }
            try SystemError.check("join", result, context: context)
            joined[membership] = holder.descriptor
            return
        }
        let descriptor = try SystemError.check(
            "open a membership socket", clinux_membership_open(family.number), context: context)
        holders.append((descriptor, family))
        try SystemError.check("join", change(membership, on: descriptor, join: 1), context: context)
        joined[membership] = descriptor
    }

    /// Leaves a group; without effect if it was not joined or the interface is gone.
    public func leave(_ group: IPAddress, interface: String) {
        guard let index = try? Interfaces.index(of: interface) else { return }
        let membership = Membership(group: group, interface: index)
        guard let descriptor = joined.removeValue(forKey: membership) else { return }
        _ = change(membership, on: descriptor, join: 0)
    }

    /// Leaves all groups.
    public func leaveAll() {
        for holder in holders { close(holder.descriptor) }
        holders = []
        joined = [:]
    }

    /// Was this group joined on the interface of this index?
    public func contains(_ group: IPAddress, interface: UInt32) -> Bool {
        joined[Membership(group: group, interface: interface)] != nil
    }

    private func change(_ membership: Membership, on descriptor: Int32, join: Int32) -> Int32 {
        var group = clinux_address(membership.group)
        return unsafe clinux_membership_change(descriptor, &group, membership.interface, join)
    }
}
