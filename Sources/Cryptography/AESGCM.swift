// SPDX-License-Identifier: Apache-2.0

/// AES-GCM (NIST SP 800-38D) with a 12-octet nonce and a 16-octet tag, whole messages at a time.
public enum AESGCM {
    /// Octets of a tag.
    public static let tagSize = 16
    /// Octets of a nonce. A nonce must never serve twice under one key.
    public static let nonceSize = 12

    /// The ciphertext with its tag behind it. The key has 16 or 32 octets.
    public static func seal(
        _ plain: [UInt8], key: Secret, nonce: [UInt8], aad: [UInt8]
    ) throws(CryptographyError) -> [UInt8] {
        guard let nonce = AEADNonce(nonce) else { throw .failed }
        let cipher = try AEADCipher(algorithm(key), key: key, direction: .encrypt)
        var buffer = aad + plain
        buffer += [UInt8](repeating: 0, count: tagSize)
        do {
            var span = buffer.mutableSpan
            try cipher.seal(&span, aad: 0..<aad.count, text: aad.count..<aad.count + plain.count, nonce: nonce)
        }
        buffer.removeFirst(aad.count)
        return buffer
    }

    /// The plain text behind ciphertext and tag, or `notAuthentic`, whatever is wrong with it.
    public static func open(
        _ sealed: [UInt8], key: Secret, nonce: [UInt8], aad: [UInt8]
    ) throws(CryptographyError) -> [UInt8] {
        guard let nonce = AEADNonce(nonce) else { throw .failed }
        guard sealed.count >= tagSize else { throw .notAuthentic }
        let cipher = try AEADCipher(algorithm(key), key: key, direction: .decrypt)
        var buffer = aad + sealed
        let end = buffer.count - tagSize
        do {
            var span = buffer.mutableSpan
            try cipher.open(&span, aad: 0..<aad.count, text: aad.count..<end, nonce: nonce)
        }
        return [UInt8](buffer[aad.count..<end])
    }

    private static func algorithm(_ key: Secret) -> AEADAlgorithm { key.count == 16 ? .aes128gcm : .aes256gcm }
}
