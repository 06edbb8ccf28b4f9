// SPDX-License-Identifier: Apache-2.0

internal import COpenSSL

extension CBCAlgorithm {
    /// Encrypts whole blocks; adds no padding. The text may be empty.
    public func encrypt(_ plain: [UInt8], key: Secret, iv: [UInt8]) throws(CryptographyError) -> [UInt8] {
        try transform(plain, key: key, iv: iv, direction: .encrypt)
    }

    /// Decrypts whole blocks; removes no padding. The text may be empty.
    public func decrypt(_ text: [UInt8], key: Secret, iv: [UInt8]) throws(CryptographyError) -> [UInt8] {
        try transform(text, key: key, iv: iv, direction: .decrypt)
    }

    /// Whether a key is one of those that the specifications tell to refuse: a weak or semi-weak key of DES
    /// (RFC 2409 appendix A), or a Triple-DES key that is single DES in truth (RFC 2451 2.3).
    public func isWeak(_ key: Secret) -> Bool {
        guard key.count == keySize else { return true }
        switch self {
        case .aes128, .aes192, .aes256, .blowfish: return false
        case .des: return key.desKeyIsWeak
        case .tripleDES:
            return key[0..<8].equalsWithoutParity(key[8..<16]) || key[8..<16].equalsWithoutParity(key[16..<24])
        }
    }

    private func transform(
        _ text: [UInt8], key: Secret, iv: [UInt8], direction: CipherDirection
    ) throws(CryptographyError) -> [UInt8] {
        guard iv.count == blockSize else { throw .failed }
        guard text.count.isMultiple(of: blockSize) else { throw .notAuthentic }
        let cipher = try CBCCipher(self, key: key, direction: direction)
        // The initialisation vector stands before the text, as in a packet.
        var buffer = iv + text
        do {
            var span = buffer.mutableSpan
            try cipher.process(&span, iv: 0..<blockSize, text: blockSize..<blockSize + text.count)
        }
        buffer.removeFirst(blockSize)
        return buffer
    }
}

extension Secret {
    /// Each octet of a DES key carries a parity bit that the cipher ignores.
    fileprivate func equalsWithoutParity(_ other: Secret) -> Bool {
        unsafe withOctets { left in
            unsafe other.withOctets { right in
                var difference: UInt8 = 0
                for index in left.indices { difference |= unsafe (left[index] ^ right[index]) & 0xfe }
                return difference == 0
            }
        }
    }

    /// The 4 weak and 12 semi-weak keys are those whose halves are each made of one of four patterns.
    fileprivate var desKeyIsWeak: Bool {
        let weak: [[UInt8]] = [
            [0x01, 0x01, 0x01, 0x01, 0x01, 0x01, 0x01, 0x01], [0x1f, 0x1f, 0x1f, 0x1f, 0x0e, 0x0e, 0x0e, 0x0e],
            [0xe0, 0xe0, 0xe0, 0xe0, 0xf1, 0xf1, 0xf1, 0xf1], [0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe, 0xfe],
            [0x01, 0xfe, 0x01, 0xfe, 0x01, 0xfe, 0x01, 0xfe], [0xfe, 0x01, 0xfe, 0x01, 0xfe, 0x01, 0xfe, 0x01],
            [0x1f, 0xe0, 0x1f, 0xe0, 0x0e, 0xf1, 0x0e, 0xf1], [0xe0, 0x1f, 0xe0, 0x1f, 0xf1, 0x0e, 0xf1, 0x0e],
            [0x01, 0xe0, 0x01, 0xe0, 0x01, 0xf1, 0x01, 0xf1], [0xe0, 0x01, 0xe0, 0x01, 0xf1, 0x01, 0xf1, 0x01],
            [0x1f, 0xfe, 0x1f, 0xfe, 0x0e, 0xfe, 0x0e, 0xfe], [0xfe, 0x1f, 0xfe, 0x1f, 0xfe, 0x0e, 0xfe, 0x0e],
            [0x01, 0x1f, 0x01, 0x1f, 0x01, 0x0e, 0x01, 0x0e], [0x1f, 0x01, 0x1f, 0x01, 0x0e, 0x01, 0x0e, 0x01],
            [0xe0, 0xfe, 0xe0, 0xfe, 0xf1, 0xfe, 0xf1, 0xfe], [0xfe, 0xe0, 0xfe, 0xe0, 0xfe, 0xf1, 0xfe, 0xf1],
        ]
        return weak.contains { equalsWithoutParity(Secret($0)) }
    }
}
