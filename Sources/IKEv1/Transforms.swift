// SPDX-License-Identifier: Apache-2.0

internal import Basics
internal import Cryptography
internal import ISAKMP

/// Phase 1 attribute classes and their values (RFC 2409 appendix A, RFC 3602 5.1, RFC 4868 2.6).
private enum Class {
    static let encryption: UInt16 = 1
    static let hash: UInt16 = 2
    static let authentication: UInt16 = 3
    static let group: UInt16 = 4
    static let lifeType: UInt16 = 11
    static let lifeDuration: UInt16 = 12
    static let keyLength: UInt16 = 14

    static let des: UInt64 = 1
    static let blowfish: UInt64 = 3
    static let tripleDES: UInt64 = 5
    static let aes: UInt64 = 7
    static let preSharedKey: UInt64 = 1
    static let seconds: UInt64 = 1
}

extension Phase1Suite {
    /// The transform that offers this suite.
    func transform(number: UInt8, lifetime: Duration) -> Transform {
        let (cipher, keyBits) = encryptionCode
        var attributes = [DataAttribute(Class.encryption, .basic(cipher))]
        if let keyBits { attributes.append(DataAttribute(Class.keyLength, .basic(keyBits))) }
        let seconds = UInt32(clamping: max(1, lifetime.components.seconds))
        attributes += [
            DataAttribute(Class.hash, .basic(hashCode)),
            DataAttribute(Class.authentication, .basic(UInt16(Class.preSharedKey))),
            DataAttribute(Class.group, .basic(group.rawValue)),
            DataAttribute(Class.lifeType, .basic(UInt16(Class.seconds))),
            DataAttribute(Class.lifeDuration, integer: seconds),
        ]
        return Transform(number: number, attributes: attributes)
    }

    private var encryptionCode: (UInt16, keyBits: UInt16?) {
        switch encryption {
        case .aes128, .aes192, .aes256: (UInt16(Class.aes), UInt16(encryption.keySize * 8))
        case .tripleDES: (UInt16(Class.tripleDES), nil)
        case .des: (UInt16(Class.des), nil)
        case .blowfish(let bits): (UInt16(Class.blowfish), UInt16(bits))
        }
    }

    private var hashCode: UInt16 {
        switch hash {
        case .md5: 1
        case .sha1: 2
        case .sha256: 4
        case .sha384: 5
        case .sha512: 6
        }
    }
}

/// A transform that we understand: what it computes with and how long it may live.
struct ReadTransform {
    let suite: Phase1Suite
    /// nil when the peer named none in seconds.
    let lifetime: Duration?

    /// nil for a transform with anything in it that we do not know, or that names a class twice: what is not
    /// understood must not be chosen (RFC 2408 4.2).
    init?(_ transform: Transform) {
        guard transform.transformID == Transform.keyIKE else { return nil }
        var values: [UInt16: UInt64] = [:]
        var lifeType: UInt64?
        var lifetime: Duration?
        for attribute in transform.attributes {
            guard let value = attribute.integer else { return nil }
            switch attribute.type {
            case Class.lifeType: lifeType = value
            case Class.lifeDuration:
                // A limit of volume may stand beside the one of time; phase 1 carries too little for it to matter.
                if lifeType == Class.seconds { lifetime = .seconds(Int64(clamping: value)) }
            case Class.encryption, Class.hash, Class.authentication, Class.group, Class.keyLength:
                guard values.updateValue(value, forKey: attribute.type) == nil else { return nil }
            default: return nil
            }
        }
        guard values[Class.authentication] == Class.preSharedKey,
            let encryption = Self.encryption(values[Class.encryption], keyBits: values[Class.keyLength]),
            let hash = Self.hash(values[Class.hash]),
            let group = values[Class.group].flatMap({ UInt16(exactly: $0) }).flatMap(DHGroup.init(rawValue:))
        else { return nil }
        suite = Phase1Suite(encryption: encryption, hash: hash, group: group)
        self.lifetime = lifetime
    }

    private static func encryption(_ code: UInt64?, keyBits: UInt64?) -> CBCAlgorithm? {
        switch (code, keyBits) {
        case (Class.aes, 128): .aes128
        case (Class.aes, 192): .aes192
        case (Class.aes, 256): .aes256
        case (Class.tripleDES, nil): .tripleDES
        case (Class.des, nil): .des
        // spec: RFC 2409 appendix A - Blowfish without a key length takes its longest key
        case (Class.blowfish, nil): .blowfish(keyBits: 448)
        case (Class.blowfish, .some(let bits)):
            (40...448).contains(bits) && bits % 8 == 0 ? .blowfish(keyBits: Int(bits)) : nil
        default: nil
        }
    }

    private static func hash(_ code: UInt64?) -> HashAlgorithm? {
        switch code {
        case 1: .md5
        case 2: .sha1
        case 4: .sha256
        case 5: .sha384
        case 6: .sha512
        default: nil
        }
    }
}

/// The SA payloads of messages 1 and 2.
enum Negotiation {
    /// Our offer: one proposal, a transform per suite in order of preference.
    static func offer(_ credential: PeerCredential, limits: Limits) -> SecurityAssociation {
        let suites = credential.suites.prefix(min(limits.transformsPerOffer, 255))
        let transforms = suites.enumerated().map { index, suite in
            suite.transform(number: UInt8(index + 1), lifetime: credential.lifetime)
        }
        return SecurityAssociation(proposals: [Proposal(number: 1, transforms: transforms)])
    }

    /// As responder: the initiator's first transform that the credential allows (the initiator's order counts, not
    /// ours), and the SA that echoes it octet for octet under the initiator's DOI; nil when there is none.
    static func choose(
        from offer: SecurityAssociation, _ credential: PeerCredential, limits: Limits
    ) -> (echo: SecurityAssociation, choice: ReadTransform)? {
        guard isKnown(offer) else { return nil }
        var looked = 0
        for proposal in offer.proposals where proposal.protocolID == Proposal.isakmp {
            for transform in proposal.transforms {
                guard looked < limits.transformsPerOffer else { return nil }
                looked += 1
                guard let read = ReadTransform(transform), credential.suites.contains(read.suite) else { continue }
                var echo = offer
                echo.proposals = [proposal]
                echo.proposals[0].transforms = [transform]
                return (echo, read)
            }
        }
        return nil
    }

    /// As initiator: what the responder chose, compared by meaning, since peers re-encode lifetimes; nil when it is
    /// not exactly one of the suites we offered.
    static func accept(_ answer: SecurityAssociation, _ credential: PeerCredential) -> ReadTransform? {
        guard isKnown(answer), answer.proposals.count == 1, answer.proposals[0].protocolID == Proposal.isakmp,
            answer.proposals[0].transforms.count == 1, let read = ReadTransform(answer.proposals[0].transforms[0]),
            credential.suites.contains(read.suite)
        else { return nil }
        return read
    }

    private static func isKnown(_ sa: SecurityAssociation) -> Bool {
        (sa.doi == SecurityAssociation.ipsecDOI || sa.doi == SecurityAssociation.gdoi)
            && sa.situation == SecurityAssociation.identityOnly
    }
}
