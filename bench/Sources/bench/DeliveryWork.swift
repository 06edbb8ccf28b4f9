// SPDX-License-Identifier: Apache-2.0
import Basics
import KeyTree
import Simulator

/// Transactions for delivery runs, made by the real key tree.
enum DeliveryWork {
    /// The octets of the slice of one leave: the longest of some random ones.
    static func leaveOctets(_ size: Int) throws -> Int {
        let group = try Group(size)
        var octets = 0
        for _ in 0..<20 {
            try group.server.leave(UInt32(group.random.number(below: UInt64(size))))
            guard let update = try group.commit().update else { continue }
            octets = max(octets, try update.whole().octets.count)
            _ = try group.server.join()
            _ = try group.commit()
        }
        return octets
    }

    /// A leave as one part for everybody.
    static func leave(_ size: Int) throws -> [DeliveryPart] {
        [
            DeliveryPart(
                octets: try leaveOctets(size) + DeliverySizes.plainBody, members: 0...UInt32(size - 1))
        ]
    }

    /// These slots leave a full tree at once: the update's slices, and its octets in one piece.
    ///
    /// - Parameter extra: octets that each datagram carries besides.
    static func batch(_ size: Int, leaves: [Int], extra: Int = 0) throws -> (parts: [DeliveryPart], whole: Int) {
        let group = try Group(size)
        for slot in leaves { try group.server.leave(UInt32(slot)) }
        guard let update = try group.commit().update else { return ([], 0) }
        let slices = try update.evenSlices(limit: DeliverySizes.bodyLimit - DeliverySizes.plainBody - extra)
        let parts = slices.map { slice in
            DeliveryPart(
                octets: slice.octets.count + DeliverySizes.plainBody + extra,
                members: slice.firstSlot...min(slice.lastSlot, UInt32(size - 1)))
        }
        return (parts, try update.whole().octets.count)
    }
}
