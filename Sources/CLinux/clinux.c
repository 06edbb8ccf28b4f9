/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "CLinux.h"
#include <string.h>

void clinux_wipe(void *bytes, unsigned long count) { explicit_bzero(bytes, count); }
