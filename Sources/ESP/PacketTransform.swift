// SPDX-License-Identifier: Apache-2.0

internal import Basics
public import Cryptography

/// Where the fields of an ESP packet lie (RFC 4303 2), in octets from its start.
enum ESPHeader {
    static let spi = 0
    static let sequence = 4
    static let iv = 8
    /// Pad Length and Next Header, behind the padding.
    static let trailerSize = 2
    /// Next Header values: a tunnelled IPv4 packet, and a dummy packet (RFC 4303 2.6).
    static let nextIPv4: UInt8 = 4
    static let nextNone: UInt8 = 59
}

extension ESPSuite {
    /// Octets before the inner packet: SPI, sequence number, IV.
    public var headroom: Int { ESPHeader.iv + ivSize }

    /// Octets that may stand behind the inner packet: padding, trailer, ICV.
    public var tailroom: Int { alignment - 1 + ESPHeader.trailerSize + icvSize }

    /// Octets of the ESP packet, SPI to ICV, around an inner packet of `inner` octets; the outer IP header comes on
    /// top.
    public func sealedSize(inner: Int) -> Int {
        headroom + inner + padding(inner: inner) + ESPHeader.trailerSize + icvSize
    }

    /// The largest inner packet whose ESP packet has at most `sealed` octets, SPI to ICV; 0 where none fits.
    public func largestInner(sealed: Int) -> Int {
        let room = sealed - headroom - icvSize
        return max(0, room - room % alignment - ESPHeader.trailerSize)
    }

    /// Octets of padding: payload, padding and trailer fill whole blocks, at least 4 octets each.
    func padding(inner: Int) -> Int {
        let rest = (inner + ESPHeader.trailerSize) % alignment
        return rest == 0 ? 0 : alignment - rest
    }
}

/// The keyed transform of one SA in one direction: encryption and integrity in place, keys set once.
struct PacketTransform: ~Copyable {
    private let suite: ESPSuite
    private let salt: UInt32
    // With an AEAD `gcm` is there, otherwise both `cbc` and `mac` are.
    private var gcm: GCMCipher?
    private var cbc: CBCCipher?
    private var mac: MACContext?

    init(_ parameters: SAParameters, _ direction: CipherDirection) throws(SAError) {
        try parameters.checkKeys()
        // Everything that can throw comes before the first property: a noncopyable value is whole or not there.
        let gcm = try parameters.makeGCM(direction)
        let cbc = try parameters.makeCBC(direction)
        self.gcm = gcm
        self.cbc = cbc
        mac = parameters.makeMAC()
        suite = parameters.suite
        salt = parameters.salt
    }

    /// Encrypts and signs the packet at `packet`, whose header, IV, padding and trailer are in place.
    mutating func seal(_ buffer: inout MutableSpan<UInt8>, _ packet: Range<Int>, iv: UInt64) throws(CryptographyError) {
        let start = packet.lowerBound
        let text = start + suite.headroom..<packet.upperBound - suite.icvSize
        if suite.isAEAD {
            // spec: RFC 4106 5 - the AAD is SPI and sequence number.
            let nonce = GCMNonce(salt: salt, iv: iv)
            try gcm?.seal(&buffer, aad: start..<start + ESPHeader.iv, text: text, nonce: nonce)
        } else {
            try cbc?.process(&buffer, iv: start + ESPHeader.iv..<text.lowerBound, text: text)
            // spec: RFC 4303 3.3.2 - encrypt first, then the ICV over all that stands before it.
            try mac?.append(to: &buffer, over: start..<text.upperBound, count: suite.icvSize)
        }
    }

    /// Verifies and decrypts the packet at `packet`; gives where its plain text lies.
    mutating func open(
        _ buffer: inout MutableSpan<UInt8>, _ packet: Range<Int>
    ) throws(CryptographyError) -> Range<Int> {
        let start = packet.lowerBound
        let text = start + suite.headroom..<packet.upperBound - suite.icvSize
        if suite.isAEAD {
            let nonce = GCMNonce(salt: salt, iv: buffer.span.u64(at: start + ESPHeader.iv))
            try gcm?.open(&buffer, aad: start..<start + ESPHeader.iv, text: text, nonce: nonce)
        } else {
            guard mac?.isValid(in: &buffer, over: start..<text.upperBound, count: suite.icvSize) == true else {
                throw .notAuthentic
            }
            try cbc?.process(&buffer, iv: start + ESPHeader.iv..<text.lowerBound, text: text)
        }
        return text
    }
}

extension SAParameters {
    /// The cipher's key without the salt.
    private var plainCipherKey: Secret { cipherKey[0..<Int(suite.keyBits) / 8] }

    fileprivate func makeGCM(_ direction: CipherDirection) throws(SAError) -> GCMCipher? {
        guard suite.isAEAD else { return nil }
        do throws(CryptographyError) {
            return try GCMCipher(key: plainCipherKey, direction: direction)
        } catch {
            throw SAError(error)
        }
    }

    fileprivate func makeCBC(_ direction: CipherDirection) throws(SAError) -> CBCCipher? {
        guard !suite.isAEAD else { return nil }
        do throws(CryptographyError) {
            return try CBCCipher(suite.keyBits == 128 ? .aes128 : .aes256, key: plainCipherKey, direction: direction)
        } catch {
            throw SAError(error)
        }
    }

    /// The AEAD's salt, the last 4 octets of the key material (RFC 4106 8.1); 0 without an AEAD.
    fileprivate var salt: UInt32 {
        guard suite.isAEAD else { return 0 }
        var octets = cipherKey.revealed()  // a salt is no key, but it comes out of one
        defer { wipe(&octets) }
        return octets.suffix(4).reduce(0) { $0 << 8 | UInt32($1) }
    }

    fileprivate func makeMAC() -> MACContext? {
        guard let hash = suite.authenticationHash, let key = authenticationKey else { return nil }
        return MACContext(hash: hash, key: key)
    }

    /// Keys come from the wire: each must have exactly the size its suite needs.
    fileprivate func checkKeys() throws(SAError) {
        guard cipherKey.count == suite.cipherKeySize,
            (authenticationKey?.count ?? 0) == suite.authenticationKeySize
        else { throw .malformedKey }
    }
}
