/* SPDX-License-Identifier: Apache-2.0 */
/* What a daemon that holds keys gives up. Every function that can fail returns a negative errno. */
#ifndef SATIPSEC_CLINUX_HARDENING_H
#define SATIPSEC_CLINUX_HARDENING_H
#include <stdint.h>

/* No core file, no debugger of the same user, and no program that is started gains rights. */
int clinux_harden(void);
/* Keeps all memory, now and later, out of the swap; -EPERM where the system limits how much that may be. */
int clinux_lock_memory(void);
/* Gives up all capabilities but these (a bit set by their numbers), also for programs that are started. To be called
   while there is one thread. */
int clinux_keep_capabilities(uint64_t kept);

#endif
