// SPDX-License-Identifier: Apache-2.0

/// Octets on the wire of what a delivery run sends. A run seals nothing; `Tests/SimulatorTests` seals one message of
/// each kind with the FMKE codec and compares.
public enum DeliverySizes {
    /// IPv4 and UDP.
    public static let network = 28
    /// A PUSH around the payloads between TRANSACTION and SIG, with ECDSA P-256 or Ed25519: 36 in clear, TRANSACTION 4
    /// and 64, SIG 4 and 64, tag 16. A BEACON is that alone.
    public static let push = 188
    /// The KD payload around one slice of a key tree's update: generic header 4, count 4, head of its packet 4, SPI 1 +
    /// 16, attribute 4; and the type of the first payload, which a plain body has in front.
    public static let treePayload = 33
    public static let plainBody = treePayload + 1
    /// A generic header and the length of the body in front of a shard, in the place of the first octet of the body.
    public static let parity = 6
    /// A STATUS that reports one group with one SPI and lacks nothing.
    public static let status = status(missing: 0)
    /// A CONFIGURE with one group and one data SA, without the keys of a tree's path.
    public static let profile = 476 + network
    /// Its ACK.
    public static let profileAnswer = 108 + network
    /// R-U-THERE, and its answer (RFC 3706), AES and SHA2-256: ISAKMP header 28; HASH 36 and Notify 32, padded to 80.
    public static let probe = 108 + network

    /// The longest plain body of a data datagram, so that its parity fits 1,400 octets as well.
    public static let bodyLimit = 1_400 - push - parity

    /// A STATUS that reports one group with one SPI and lacks something of so many blocks: ISAKMP header 28; HASH of
    /// SHA2-256 36, REPORT 48 and 12 for each block, padded to AES's 16.
    public static func status(missing: Int) -> Int { network + 28 + (36 + 48 + 12 * missing + 15) / 16 * 16 }

    /// One multicast with this body (empty: a BEACON or a COMMIT).
    public static func multicast(body: Int, isParity: Bool) -> Int {
        guard body > 0 else { return network + push }
        // What a data datagram carries of a plain body is all but the first octet.
        return network + push + (isParity ? 4 + body : body - 1)
    }
}
