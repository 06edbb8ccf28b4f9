// SPDX-License-Identifier: Apache-2.0

public import Basics
internal import Cryptography

/// One line of Wireshark's `esp_sa` table (its file in a profile's folder, or after `uat:esp_sa:` of `-o`), with which
/// it decrypts this SA. The line holds the keys: it is only for the insecure key log that an operator asked for.
///
/// - Parameter source: the outer source; nil for any, as an inbound SA of a group has it.
public func wiresharkLine(for parameters: SAParameters, source: IPAddress?) -> String {
    let suite = parameters.suite
    let key = parameters.cipherKey.revealed()  // what the key log is for
    let fields: [String] = [
        parameters.key.destination.isV4 ? "IPv4" : "IPv6",
        source?.description ?? "*",
        parameters.key.destination.description,
        "0x" + hexadecimal((0..<4).map { UInt8(truncatingIfNeeded: parameters.key.spi >> UInt32(24 - 8 * $0)) }),
        suite.wiresharkCipher,
        key.isEmpty ? "" : "0x" + hexadecimal(key),
        suite.wiresharkIntegrity,
        parameters.authenticationKey.map { "0x" + hexadecimal($0.revealed()) } ?? "",
    ]
    return fields.map { "\"\($0)\"" }.joined(separator: ",")
}

extension ESPSuite {
    /// Exact strings of Wireshark's. Those without the ICV's size would take the ICV for payload; the key is key and
    /// salt together.
    fileprivate var wiresharkCipher: String {
        switch encryption {
        case .aead(.chacha20Poly1305, _): "ChaCha20 with Poly1305 [RFC7634]"
        case .aead(_, let icvSize): "AES-GCM with \(icvSize) octet ICV [RFC4106]"
        case .cbc(.aes128), .cbc(.aes192), .cbc(.aes256): "AES-CBC [RFC3602]"
        case .cbc(.tripleDES): "TripleDES-CBC [RFC2451]"
        case .cbc(.des): "DES-CBC [RFC2405]"
        case .cbc(.blowfish): "BLOWFISH-CBC [RFC2451]"
        case .null: "NULL"
        }
    }

    fileprivate var wiresharkIntegrity: String {
        switch integrity {
        case nil: "NULL"
        case .md5: "HMAC-MD5-96 [RFC2403]"
        case .sha1: "HMAC-SHA-1-96 [RFC2404]"
        case .sha256: "HMAC-SHA-256-128 [RFC4868]"
        case .sha384: "HMAC-SHA-384-192 [RFC4868]"
        case .sha512: "HMAC-SHA-512-256 [RFC4868]"
        }
    }
}
