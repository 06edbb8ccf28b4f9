// SPDX-License-Identifier: Apache-2.0

import Basics

// The TRANSACTION payload (docs/FMKE.md 6.4): 64 octets in a fixed layout.

extension TransactionHeader {
    /// Throws `malformed` or `limit` when the values contradict each other: see docs/FMKE.md 6.4 for the rules.
    func body(limits: Limits) throws(FMKEError) -> [UInt8] {
        try check(limits)
        var writer = OctetWriter(capacity: Wire.transactionSize)
        writer.u8(kind.rawValue)
        writer.u8(feedback.mode.rawValue)
        writer.u8(feedback.round)
        writer.u8(0)
        writer.u32(group)
        writer.u32(epoch)
        writer.u64(transaction)
        writer.u16(block)
        writer.u16(blockCount)
        writer.u8(index)
        writer.u8(dataCount)
        writer.u8(datagramCount)
        writer.u8(0)
        writer.u32(memberFirst)
        writer.u32(memberLast)
        writer.u32(feedback.slotMicroseconds)
        writer.u32(feedback.answerInMilliseconds)
        writer.u32(feedback.slots)
        writer.u16(feedback.modulus)
        writer.u16(feedback.residue)
        writer.u16(feedback.nackWaitMilliseconds)
        writer.u16(feedback.nackShare)
        writer.u32(activateInMilliseconds)
        writer.u32(deactivateInMilliseconds)
        return writer.bytes
    }

    init(body: [UInt8], limits: Limits) throws(FMKEError) {
        guard body.count == Wire.transactionSize else { throw .malformed }
        var reader = FieldReader(body)
        guard let kind = Kind(rawValue: try reader.u8()),
            let mode = FeedbackRequest.Mode(rawValue: try reader.u8())
        else { throw .unsupported }
        self.kind = kind
        feedback = FeedbackRequest(mode: mode)
        feedback.round = try reader.u8()
        try reader.zeros(1)
        group = try reader.u32()
        epoch = try reader.u32()
        transaction = try reader.u64()
        block = try reader.u16()
        blockCount = try reader.u16()
        index = try reader.u8()
        dataCount = try reader.u8()
        datagramCount = try reader.u8()
        try reader.zeros(1)
        memberFirst = try reader.u32()
        memberLast = try reader.u32()
        feedback.slotMicroseconds = try reader.u32()
        feedback.answerInMilliseconds = try reader.u32()
        feedback.slots = try reader.u32()
        feedback.modulus = try reader.u16()
        feedback.residue = try reader.u16()
        feedback.nackWaitMilliseconds = try reader.u16()
        feedback.nackShare = try reader.u16()
        activateInMilliseconds = try reader.u32()
        deactivateInMilliseconds = try reader.u32()
        try reader.end()
        try check(limits)
    }

    /// Both sides check: what passes here can be divided by, indexed with and waited for.
    private func check(_ limits: Limits) throws(FMKEError) {
        guard block < blockCount, dataCount > 0, dataCount <= datagramCount, memberFirst <= memberLast else {
            throw .malformed
        }
        guard Int(blockCount) <= limits.blocksPerTransaction, Int(datagramCount) <= limits.datagramsPerBlock else {
            throw .limit
        }
        switch kind {
        case .data: guard index < dataCount else { throw .malformed }
        case .parity: guard index >= dataCount, index < datagramCount else { throw .malformed }
        case .beacon, .commit: guard index == 0, block == 0 else { throw .malformed }
        }
        try feedback.check()
    }
}

extension FeedbackRequest {
    /// The longest sequence of answering slots, in microseconds: what the answer's own field can say in milliseconds.
    private static let windowMaximum: UInt64 = UInt64(UInt32.max) * 1_000

    /// Fields that the mode has no use for are 0 (the modulus 1): one value has one encoding.
    fileprivate func check() throws(FMKEError) {
        guard modulus > 0, residue < modulus else { throw .malformed }
        switch mode {
        case .none: guard slots == 0, slotMicroseconds == 0, modulus == 1 else { throw .malformed }
        case .all: guard slots > 0, modulus == 1 else { throw .malformed }
        case .census: guard slots > 0 else { throw .malformed }
        }
        guard UInt64(slots) * UInt64(slotMicroseconds) <= Self.windowMaximum else { throw .malformed }
    }
}
