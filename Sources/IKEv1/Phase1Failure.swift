// SPDX-License-Identifier: Apache-2.0

extension AssociationEnd {
    /// For the log and the status of either side.
    public var explanation: String {
        switch self {
        case .peerDeleted: "the peer ended it"
        case .weDeleted: "ended on purpose"
        case .expired: "its lifetime is over"
        case .deadPeer: "the peer does not answer any more"
        case .replaced: "replaced by a newer one"
        }
    }
}

extension Phase1Failure: CustomStringConvertible {
    /// For the log of either side, plain enough to act on.
    public var description: String {
        switch self {
        case .noAnswer: "the peer does not answer"
        case .noProposalChosen: "no common phase 1 suite"
        case .authenticationFailed: "authentication failed: the two pre-shared keys are not the same"
        case .peerReports(14): "the peer says NO-PROPOSAL-CHOSEN: no common phase 1 suite"
        case .peerReports(24): "the peer says AUTHENTICATION-FAILED: the two pre-shared keys are not the same"
        case .peerReports(let code): "the peer reports notify \(code)"
        case .wrongIdentity: "the peer's identity is not the expected one"
        case .peerMisbehaved: "the peer broke the protocol"
        case .invalidPublicValue: "the peer's Diffie-Hellman value is not in the group"
        case .cryptographyFailed: "the cryptographic library cannot compute this suite"
        }
    }
}
