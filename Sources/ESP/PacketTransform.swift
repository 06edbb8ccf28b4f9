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
    /// Next Header values: a tunnelled IPv4 or IPv6 packet, and a dummy packet (RFC 4303 2.6).
    static let nextIPv4: UInt8 = 4
    static let nextIPv6: UInt8 = 41
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

/// Where one ESP packet lies in a buffer, and what of its sequence number it does not say.
struct PacketPlace {
    /// SPI to ICV.
    let packet: Range<Int>
    /// What is encrypted: payload, padding and trailer.
    let text: Range<Int>
    /// The high-order half of an extended sequence number; nil with 32-bit numbers.
    var high: UInt32?

    init(_ packet: Range<Int>, suite: ESPSuite, high: UInt32?) {
        self.packet = packet
        text = packet.lowerBound + suite.headroom..<packet.upperBound - suite.icvSize
        self.high = high
    }

    var spiAndSequence: Range<Int> { packet.lowerBound..<packet.lowerBound + ESPHeader.iv }
    var iv: Range<Int> { packet.lowerBound + ESPHeader.iv..<text.lowerBound }
}

/// What a kind of suite does with the packets of one SA in one direction, in place, with keys that were set once.
///
/// A packet brings its IV and its sequence number, header, padding and trailer; the caller has checked that all of it
/// lies in the buffer. Kinds are known when a program is compiled: none is called through a box.
protocol PacketTransform: ~Copyable {
    init(_ parameters: SAParameters, _ direction: CipherDirection) throws(CryptographyError)

    /// Encrypts the text and writes the ICV behind it.
    func seal(_ buffer: inout MutableSpan<UInt8>, _ place: PacketPlace) throws(CryptographyError)

    /// Verifies the packet and decrypts the text; after `notAuthentic` the text is not usable.
    func open(_ buffer: inout MutableSpan<UInt8>, _ place: PacketPlace) throws(CryptographyError)
}

/// AES-GCM and ChaCha20-Poly1305 (RFC 4106, RFC 7634).
struct AEADTransform: ~Copyable, PacketTransform {
    private let cipher: AEADCipher
    private let salt: UInt32

    init(_ parameters: SAParameters, _ direction: CipherDirection) throws(CryptographyError) {
        guard case .aead(let algorithm, let icvSize) = parameters.suite.encryption else { throw .unsupported }
        let key = parameters.cipherKey[0..<algorithm.keySize]
        cipher = try AEADCipher(algorithm, key: key, tagSize: icvSize, direction: direction)
        var octets = parameters.cipherKey.revealed()  // a salt is no key, but it comes out of one
        defer { wipe(&octets) }
        salt = octets.suffix(4).reduce(0) { $0 << 8 | UInt32($1) }
    }

    // spec: RFC 4106 5, RFC 7634 2.1 - the AAD is SPI and sequence number.
    func seal(_ buffer: inout MutableSpan<UInt8>, _ place: PacketPlace) throws(CryptographyError) {
        let nonce = AEADNonce(salt: salt, iv: buffer.span.u64(at: place.iv.lowerBound))
        try cipher.seal(&buffer, aad: place.spiAndSequence, high: place.high, text: place.text, nonce: nonce)
    }

    func open(_ buffer: inout MutableSpan<UInt8>, _ place: PacketPlace) throws(CryptographyError) {
        let nonce = AEADNonce(salt: salt, iv: buffer.span.u64(at: place.iv.lowerBound))
        try cipher.open(&buffer, aad: place.spiAndSequence, high: place.high, text: place.text, nonce: nonce)
    }
}

/// A block cipher in CBC mode with an HMAC (RFC 3602, 2451, 2405).
struct CBCTransform: ~Copyable, PacketTransform {
    private let cipher: CBCCipher
    private let integrity: IntegrityTransform

    init(_ parameters: SAParameters, _ direction: CipherDirection) throws(CryptographyError) {
        guard case .cbc(let algorithm) = parameters.suite.encryption else { throw .unsupported }
        // spec: RFC 2405 3, RFC 2451 2.3 - keys that are weak are refused.
        guard !algorithm.isWeak(parameters.cipherKey) else { throw .malformedKey }
        let integrity = try IntegrityTransform(parameters, direction)
        cipher = try CBCCipher(algorithm, key: parameters.cipherKey, direction: direction)
        self.integrity = integrity
    }

    // spec: RFC 4303 3.3.2, 3.4.4 - encrypt first, then the ICV; the other way round, the ICV before the cipher works.
    func seal(_ buffer: inout MutableSpan<UInt8>, _ place: PacketPlace) throws(CryptographyError) {
        try cipher.process(&buffer, iv: place.iv, text: place.text)
        try integrity.seal(&buffer, place)
    }

    func open(_ buffer: inout MutableSpan<UInt8>, _ place: PacketPlace) throws(CryptographyError) {
        try integrity.open(&buffer, place)
        try cipher.process(&buffer, iv: place.iv, text: place.text)
    }
}

/// An HMAC over all that stands before the ICV (RFC 2403, 2404, 4868); alone it is NULL encryption (RFC 2410).
struct IntegrityTransform: ~Copyable, PacketTransform {
    private let mac: MACContext
    private let icvSize: Int

    init(_ parameters: SAParameters, _ direction: CipherDirection) throws(CryptographyError) {
        guard let hash = parameters.suite.integrity, let key = parameters.authenticationKey else { throw .malformedKey }
        mac = MACContext(hash: hash, key: key)
        icvSize = parameters.suite.icvSize
    }

    func seal(_ buffer: inout MutableSpan<UInt8>, _ place: PacketPlace) throws(CryptographyError) {
        let signed = place.packet.lowerBound..<place.text.upperBound
        try mac.append(to: &buffer, over: signed, high: place.high, count: icvSize)
    }

    func open(_ buffer: inout MutableSpan<UInt8>, _ place: PacketPlace) throws(CryptographyError) {
        let signed = place.packet.lowerBound..<place.text.upperBound
        guard mac.isValid(in: &buffer, over: signed, high: place.high, count: icvSize) else { throw .notAuthentic }
    }
}

/// The transform that a suite names, of one SA in one direction.
enum SuiteTransform: ~Copyable {
    case aead(AEADTransform)
    case cbc(CBCTransform)
    case integrity(IntegrityTransform)

    static func make(
        _ parameters: SAParameters, _ direction: CipherDirection
    ) throws(SAError) -> SuiteTransform {
        try parameters.checkKeys()
        do throws(CryptographyError) {
            return switch parameters.suite.encryption {
            case .aead: .aead(try AEADTransform(parameters, direction))
            case .cbc: .cbc(try CBCTransform(parameters, direction))
            case .null: .integrity(try IntegrityTransform(parameters, direction))
            }
        } catch {
            throw SAError(error, suite: parameters.suite)
        }
    }

    /// Encrypts and signs.
    func seal(_ buffer: inout MutableSpan<UInt8>, _ place: PacketPlace) throws(CryptographyError) {
        switch self {
        case .aead(let transform): try transform.seal(&buffer, place)
        case .cbc(let transform): try transform.seal(&buffer, place)
        case .integrity(let transform): try transform.seal(&buffer, place)
        }
    }

    /// Verifies and decrypts.
    func open(_ buffer: inout MutableSpan<UInt8>, _ place: PacketPlace) throws(CryptographyError) {
        switch self {
        case .aead(let transform): try transform.open(&buffer, place)
        case .cbc(let transform): try transform.open(&buffer, place)
        case .integrity(let transform): try transform.open(&buffer, place)
        }
    }

    /// Whether a packet that fails to open is still what it was, so that it may be tried again.
    var leavesForgeriesAlone: Bool {
        switch self {
        case .aead: false
        case .cbc: true
        case .integrity: true
        }
    }
}

extension SAParameters {
    /// Keys come from the wire: each must have exactly the size its suite needs.
    fileprivate func checkKeys() throws(SAError) {
        guard cipherKey.count == suite.cipherKeySize,
            (authenticationKey?.count ?? 0) == suite.authenticationKeySize
        else { throw .malformedKey }
        // spec: RFC 4303 2.2.1 - the high-order half is what both ends counted, and a member that joins a group late
        // has counted nothing.
        guard !extendedSequence || !key.destination.isMulticast else { throw .extendedSequence }
    }
}
