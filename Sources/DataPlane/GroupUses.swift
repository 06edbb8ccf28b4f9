// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import ESP

/// Which SAs need which group or network. Several SAs share one during every roll-over, so routes and memberships go
/// with the last of them.
struct GroupUses {
    enum Direction: Hashable { case inbound, outbound }

    /// What one inner destination is used for.
    struct Use: Hashable {
        /// The inner destination: a group, or a network behind another client.
        var destination: IPPrefix
        /// The outer destination, which is what to join.
        var outer: IPAddress
        var isSent: Bool
        var isReceived: Bool
    }

    private struct Holder: Hashable {
        var key: SAKey
        var direction: Direction
    }

    private var destinations: [Holder: IPPrefix] = [:]

    /// Notes a new SA; gives what its destination is used for now.
    mutating func insert(_ parameters: SAParameters, _ direction: Direction) -> Use {
        let holder = Holder(key: parameters.key, direction: direction)
        // A group's packets go to the group itself, outside as inside, however wide the selector is.
        let outer = parameters.key.destination
        let destination = outer.isMulticast ? IPPrefix(host: outer) : parameters.selector.destination
        destinations[holder] = destination
        return use(of: destination, outer: outer)
    }

    /// Forgets an SA; gives what its destination is still used for, or nil if the SA was not known.
    mutating func remove(_ key: SAKey, _ direction: Direction) -> Use? {
        guard let destination = destinations.removeValue(forKey: Holder(key: key, direction: direction)) else {
            return nil
        }
        return use(of: destination, outer: key.destination)
    }

    /// Forgets all; gives every destination there was, now used for nothing.
    mutating func removeAll() -> Set<Use> {
        defer { destinations = [:] }
        return Set(
            destinations.map { holder, destination in
                Use(destination: destination, outer: holder.key.destination, isSent: false, isReceived: false)
            })
    }

    /// Is this outer destination still wanted by any inbound SA?
    func isReceived(outer: IPAddress) -> Bool {
        destinations.keys.contains { $0.direction == .inbound && $0.key.destination == outer }
    }

    /// All multicast groups, sorted by address.
    var groups: [DataPlaneStatus.Group] {
        Set(destinations.values.filter(\.address.isMulticast)).sorted { $0.address < $1.address }.map { group in
            let use = use(of: group, outer: group.address)
            return DataPlaneStatus.Group(address: group.address, isSent: use.isSent, isReceived: use.isReceived)
        }
    }

    private func use(of destination: IPPrefix, outer: IPAddress) -> Use {
        func isUsed(_ direction: Direction) -> Bool {
            destinations.contains { $0.key.direction == direction && $0.value == destination }
        }
        return Use(destination: destination, outer: outer, isSent: isUsed(.outbound), isReceived: isUsed(.inbound))
    }
}
