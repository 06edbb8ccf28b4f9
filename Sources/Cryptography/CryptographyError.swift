// SPDX-License-Identifier: Apache-2.0

internal import COpenSSL

/// Why a computation gave no result. No case carries a detail: what a forger learns from a failure is that it failed.
public enum CryptographyError: Error, Hashable, Sendable {
    /// A tag, a padding or a length shows that the peer did not make this with the key, or that it was changed.
    case notAuthentic
    /// Key octets that are no key of the algorithm: a wrong length, a broken PEM or DER.
    case malformedKey
    /// A Diffie-Hellman value that is not in the group, or that would make a guessable secret.
    case invalidPublicValue
    /// A kind or size of key or algorithm that this project does not use, or that libcrypto was built without.
    case unsupported
    /// libcrypto refused for a reason of its own: out of memory, or a mistake of ours.
    case failed
}

/// Empties libcrypto's error queue of this thread and hands the error on, so that nothing stale is read later.
@inline(never)
func refused(_ error: CryptographyError) -> CryptographyError {
    ERR_clear_error()
    return error
}
