/* SPDX-License-Identifier: Apache-2.0 */
/* The parts of Linux that the Glibc module does not bring to Swift. */
#ifndef SATIPSEC_CLINUX_H
#define SATIPSEC_CLINUX_H
#include <stdint.h>
#include "CLinux_emulator.h"
#include "CLinux_tun.h"

/* Wipes memory in a way the compiler may not remove. */
void clinux_wipe(void *bytes, unsigned long count);

#endif
