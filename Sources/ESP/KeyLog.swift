// SPDX-License-Identifier: Apache-2.0

public import Basics
internal import Cryptography

/// One line of Wireshark's `esp_sa` table (its file in a profile's folder, or after `uat:esp_sa:` of `-o`), with which
/// it decrypts this SA. The line holds the keys: it is only for the insecure key log that an operator asked for.
///
/// - Parameter source: the outer source; nil for any, as an inbound SA of a group has it.
public func wiresharkLine(for parameters: SAParameters, source: IPAddress?) -> String {
    let hash = parameters.suite.authenticationHash
    let fields: [String] = [
        parameters.key.destination.isV4 ? "IPv4" : "IPv6",
        source?.description ?? "*",
        parameters.key.destination.description,
        "0x" + hexadecimal((0..<4).map { UInt8(truncatingIfNeeded: parameters.key.spi >> UInt32(24 - 8 * $0)) }),
        // The name without "16 octet ICV" would take the ICV for payload; the key is key and salt together.
        parameters.suite.isAEAD ? "AES-GCM with 16 octet ICV [RFC4106]" : "AES-CBC [RFC3602]",
        "0x" + hexadecimal(parameters.cipherKey.revealed()),  // what the key log is for
        hash == nil ? "NULL" : hash == .sha1 ? "HMAC-SHA-1-96 [RFC2404]" : "HMAC-SHA-256-128 [RFC4868]",
        parameters.authenticationKey.map { "0x" + hexadecimal($0.revealed()) } ?? "",
    ]
    return fields.map { "\"\($0)\"" }.joined(separator: ",")
}
