/* SPDX-License-Identifier: Apache-2.0 */
/* What Cryptography uses of libcrypto (OpenSSL 3). */
#ifndef SATIPSEC_COPENSSL_SHIM_H
#define SATIPSEC_COPENSSL_SHIM_H
#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/dh.h>
#include <openssl/ec.h>
#include <openssl/ecdsa.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/kdf.h>
#include <openssl/objects.h>
#include <openssl/params.h>
#include <openssl/pem.h>
#include <openssl/provider.h>
#include <openssl/rand.h>
#include <openssl/rsa.h>
#include <openssl/x509.h>

/* Has a line of memory fetched that is going to be written. */
static inline void shim_prefetch(const void *place) { __builtin_prefetch(place, 1, 3); }
#endif
