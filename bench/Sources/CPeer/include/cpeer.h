/* SPDX-License-Identifier: Apache-2.0 */
/* The same computation without a tree, without EVP: the limit that batch-cpu and leave-rate are held against. */
#ifndef SATIPSEC_CPEER_H
#define SATIPSEC_CPEER_H
#include <stdint.h>

/* Whether this processor has AES instructions, without which there is no limit to measure. */
int cpeer_available(void);

/* Nanoseconds for `count` evaluations of AES-128, each with a key schedule of its own, over `keys` keys of 16 octets
 * taken in turn; the results go back among the keys. */
double cpeer_prf_nanoseconds(uint8_t *keys, long keys_count, long count);
#endif
