/* SPDX-License-Identifier: Apache-2.0 */
#include "AllocationCounter.h"
#include <stddef.h>

/* The C library's own, under the names that it keeps for this. */
void *__libc_malloc(size_t octets);
void *__libc_calloc(size_t count, size_t octets);
void *__libc_realloc(void *memory, size_t octets);

static unsigned long calls;

unsigned long allocation_count(void) { return __atomic_load_n(&calls, __ATOMIC_RELAXED); }

static void count(void) { __atomic_fetch_add(&calls, 1, __ATOMIC_RELAXED); }

void *malloc(size_t octets)
{
    count();
    return __libc_malloc(octets);
}

void *calloc(size_t number, size_t octets)
{
    count();
    return __libc_calloc(number, octets);
}

void *realloc(void *memory, size_t octets)
{
    count();
    return __libc_realloc(memory, octets);
}
