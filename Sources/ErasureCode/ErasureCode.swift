// SPDX-License-Identifier: Apache-2.0

internal import CISAL

// ErasureCode owns the arithmetic of lost datagrams: a systematic Reed-Solomon code over GF(2^8), by ISA-L. Of k data
// shards and any number of parity shards, 255 in all, any k give all the data back. It knows nothing of datagrams.

/// Why nothing was coded. Each of these can come from a peer.
public enum ErasureCodeError: Error, Hashable, Sendable {
    /// Less than 1 or more than 254 data shards, or too few shards to decode from.
    case count
    /// Shards without octets or of different lengths.
    case length
    /// An index that no shard has, that is none of a parity shard, or that comes twice.
    case index
}

/// A code for blocks of `dataCount` shards.
///
/// Shard i < k is data shard i itself. Parity shard i, k <= i < 255, is the sum over all j < k of c(i, j) times data
/// shard j with c(i, j) = 1 / (i XOR j) in GF(2^8) modulo x^8 + x^4 + x^3 + x^2 + 1 (0x11d): a Cauchy matrix, of which
/// every square part can be inverted. With k = 1 each parity shard is the data shard: repetition.
public struct ErasureCode: Sendable, Hashable {
    /// Shards of one block, data and parity together: their indices have one octet, and 255 is not used.
    public static let shardsMost = 255
    /// k.
    public let dataCount: Int

    /// Throws `count` unless 1 <= dataCount < 255.
    public init(dataCount: Int) throws(ErasureCodeError) {
        guard dataCount > 0, dataCount < Self.shardsMost else { throw .count }
        self.dataCount = dataCount
    }

    /// c(i, j) for a parity shard i.
    private func coefficient(_ row: Int, _ column: Int) -> UInt8 {
        dataCount == 1 ? 1 : gf_inv(UInt8(truncatingIfNeeded: row ^ column))
    }

    /// Parity shard `index` alone, so that parity can be made when it is needed, in any order.
    ///
    /// Throws `count` for another number of data shards than k, `length` when their lengths differ or are 0, `index`
    /// unless k <= index < 255.
    public func parity(_ index: Int, of data: [[UInt8]]) throws(ErasureCodeError) -> [UInt8] {
        try Shards(data).parity(index, by: self)
    }

    /// Data shards, laid out for the coder: to make several parity shards of one block.
    public struct Shards: Sendable, Hashable {
        fileprivate let rows: Rows

        /// Throws `length` when the lengths differ or are 0, `count` when there are none.
        public init(_ data: [[UInt8]]) throws(ErasureCodeError) {
            guard let length = data.first?.count else { throw .count }
            guard length > 0, data.allSatisfy({ $0.count == length }) else { throw .length }
            rows = Rows(data, length: length)
        }

        /// Parity shard `index` of these data shards. Throws as `ErasureCode.parity` does.
        public func parity(_ index: Int, by code: ErasureCode) throws(ErasureCodeError) -> [UInt8] {
            guard rows.count == code.dataCount else { throw .count }
            guard index >= code.dataCount, index < ErasureCode.shardsMost else { throw .index }
            let coefficients = (0..<rows.count).map { code.coefficient(index, $0) }
            return rows.times(coefficients, rows: 1).row(0)
        }
    }

    /// All k data shards in order, from any k shards; those beyond the first k are not looked at.
    ///
    /// Throws `count` for fewer than k, `length` when their lengths differ or are 0, `index` for one of 255 or more
    /// and one that comes twice.
    public func decode(_ shards: [(index: Int, octets: [UInt8])]) throws(ErasureCodeError) -> [[UInt8]] {
        guard shards.count >= dataCount, let length = shards.first?.octets.count else { throw .count }
        let used = shards.prefix(dataCount)
        guard length > 0, used.allSatisfy({ $0.octets.count == length }) else { throw .length }
        var data = [[UInt8]?](repeating: nil, count: dataCount)
        var parity: [(index: Int, octets: [UInt8])] = []
        var seen = [Bool](repeating: false, count: Self.shardsMost)
        for shard in used {
            guard shard.index >= 0, shard.index < Self.shardsMost, !seen[shard.index] else { throw .index }
            seen[shard.index] = true
            if shard.index < dataCount { data[shard.index] = shard.octets } else { parity.append(shard) }
        }
        let lost = data.indices.filter { data[$0] == nil }
        if !lost.isEmpty {
            let solved = try solve(lost, with: parity, known: data, length: length)
            for (row, index) in lost.enumerated() { data[index] = solved.row(row) }
        }
        return data.compactMap { $0 }
    }

    /// The lost data shards, from as many parity shards: what the known data shards contribute is taken out of the
    /// parity, and the square matrix that remains is inverted.
    private func solve(
        _ lost: [Int], with parity: [(index: Int, octets: [UInt8])], known data: [[UInt8]?], length: Int
    ) throws(ErasureCodeError) -> Rows {
        let known = data.indices.filter { data[$0] != nil }
        let sources = Rows(known.compactMap { data[$0] } + parity.map(\.octets), length: length)
        var reduction: [UInt8] = []
        var square: [UInt8] = []
        for row in parity.indices {
            reduction += known.map { coefficient(parity[row].index, $0) }
            reduction += parity.indices.map { $0 == row ? 1 : 0 }
            square += lost.map { coefficient(parity[row].index, $0) }
        }
        guard let inverse = Self.inverted(square, size: lost.count) else { throw .index }
        return sources.times(reduction, rows: lost.count).times(inverse, rows: lost.count)
    }

    /// nil for a singular matrix, which no part of a Cauchy matrix is.
    private static func inverted(_ matrix: [UInt8], size: Int) -> [UInt8]? {
        var matrix = matrix
        var result = [UInt8](repeating: 0, count: matrix.count)
        let failure = unsafe matrix.withUnsafeMutableBufferPointer { from in
            unsafe result.withUnsafeMutableBufferPointer { to in
                unsafe gf_invert_matrix(from.baseAddress, to.baseAddress, Int32(size))
            }
        }
        return failure == 0 ? result : nil
    }
}

/// Shards of one length, one behind the other at a distance that suits vector instructions.
private struct Rows: Sendable, Hashable {
    private static let alignment = 64

    let count: Int
    let length: Int
    private let stride: Int
    private var octets: [UInt8]

    private init(count: Int, length: Int) {
        self.count = count
        self.length = length
        stride = (length + Self.alignment - 1) / Self.alignment * Self.alignment
        octets = [UInt8](repeating: 0, count: count * stride)
    }

    /// All of `length` octets.
    init(_ rows: [[UInt8]], length: Int) {
        self.init(count: rows.count, length: length)
        for (index, row) in rows.enumerated() {
            octets.replaceSubrange(index * stride..<index * stride + length, with: row)
        }
    }

    func row(_ index: Int) -> [UInt8] { Array(octets[index * stride..<index * stride + length]) }

    /// The matrix `coefficients`, of so many rows and one column for each of ours, times these rows.
    func times(_ coefficients: [UInt8], rows: Int) -> Rows {
        precondition(coefficients.count == rows * count, "a coefficient for each pair of rows")
        var result = Rows(count: rows, length: length)
        // ISA-L wants 32 octets of tables for each coefficient.
        var tables = [UInt8](repeating: 0, count: coefficients.count * 32)
        var (coefficients, sources) = (coefficients, octets)
        let (count, stride) = (count, stride)
        unsafe coefficients.withUnsafeMutableBufferPointer { matrix in
            unsafe tables.withUnsafeMutableBufferPointer { tables in
                unsafe sources.withUnsafeMutableBufferPointer { from in
                    unsafe result.octets.withUnsafeMutableBufferPointer { to in
                        var inputs = unsafe Self.pointers(into: from, count: count, stride: stride)
                        var outputs = unsafe Self.pointers(into: to, count: rows, stride: stride)
                        unsafe ec_init_tables(
                            Int32(count), Int32(rows), matrix.baseAddress, tables.baseAddress)
                        unsafe ec_encode_data(
                            Int32(stride), Int32(count), Int32(rows), tables.baseAddress, &inputs, &outputs)
                    }
                }
            }
        }
        return result
    }

    private static func pointers(
        into octets: UnsafeMutableBufferPointer<UInt8>, count: Int, stride: Int
    ) -> [UnsafeMutablePointer<UInt8>?] {
        unsafe (0..<count).map { index in unsafe octets.baseAddress.map { unsafe $0 + index * stride } }
    }
}
