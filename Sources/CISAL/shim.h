/* SPDX-License-Identifier: Apache-2.0 */
/* What ErasureCode uses of ISA-L: arithmetic over GF(2^8) and its products of matrices with octets. */
#ifndef SATIPSEC_CISAL_SHIM_H
#define SATIPSEC_CISAL_SHIM_H
#include <isa-l/erasure_code.h>
#endif
