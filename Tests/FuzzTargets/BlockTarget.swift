// SPDX-License-Identifier: Apache-2.0

import Basics
import ErasureCode
import FMKE
import ReliablePush

/// First octet: k. Then datagrams of one block: index, length, so many octets of body (data) or shard (parity).
enum BlockTarget {
    static func run(_ octets: [UInt8]) {
        var reader = OctetReader(octets)
        guard let count = try? reader.u8(), count > 0 else { return }
        var receiver = PushReceiver(memberIndex: 3, complete: 4, seed: 1)
        var seconds: Int64 = 0
        while let index = try? reader.u8(), let length = try? reader.u8(),
            let body = try? reader.bytes(Int(length))
        {
            let header = TransactionHeader(
                kind: index < count ? .data : .parity, group: 10, epoch: 3, transaction: 5, index: index,
                dataCount: count, datagramCount: .max, feedback: FeedbackRequest(mode: .none),
                activateInMilliseconds: 0, deactivateInMilliseconds: 0)
            _ = receiver.receive(header, body: Array(body), now: .zero + .seconds(seconds))
            seconds += 1
            demand(
                receiver.missing.allSatisfy { $0.needed > 0 && $0.needed <= count }, "a need is at least one, at most k"
            )
        }
    }

    /// Three bodies, of which the second is lost.
    static let seeds: [[UInt8]] = {
        let bodies: [[UInt8]] = [[1, 2, 3, 4, 5], [6, 7], [8, 9, 10]]
        let shards = bodies.map { body in Fixture.made { try Shard.make(body, size: 7) } }
        let parity = Fixture.made {
            try ErasureCode.Shards(shards).parity(3, by: ErasureCode(dataCount: 3))
        }
        return [[3, 0, 5] + bodies[0] + [2, 3] + bodies[2] + [3, 7] + parity, [1, 0, 2, 1, 2, 1, 4, 0, 2, 1, 2]]
    }()
}
