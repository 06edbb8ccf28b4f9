/* SPDX-License-Identifier: Apache-2.0 */
/* What the satellite emulator needs besides. Every function that can fail returns a negative errno. */
#ifndef SATIPSEC_CLINUX_EMULATOR_H
#define SATIPSEC_CLINUX_EMULATOR_H

/* Moves this thread into the network namespace a file stands for. Returns a descriptor of the one it was in, which
   clinux_namespace_leave takes back. */
int clinux_namespace_enter(const char *path);
/* Returns to the namespace that was left and closes its descriptor. */
int clinux_namespace_leave(int previous);

/* Blocks these signals and returns a descriptor that reports them instead. */
int clinux_signals_open(const int *numbers, unsigned count);
/* The number of the next signal; 0 when there is none. */
int clinux_signals_read(int fd);

#endif
