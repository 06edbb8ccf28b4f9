/* SPDX-License-Identifier: Apache-2.0 */
/* Counts the allocations of a whole program that it is linked into, libraries included. */
#ifndef SATIPSEC_ALLOCATION_COUNTER_H
#define SATIPSEC_ALLOCATION_COUNTER_H

/* Calls of malloc, calloc and realloc since the start. */
unsigned long allocation_count(void);

#endif
