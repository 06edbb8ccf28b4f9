/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SATIPSEC_CLINUX_TIMER_H
#define SATIPSEC_CLINUX_TIMER_H
#include <stdint.h>

/* CLOCK_BOOTTIME in nanoseconds, and timers on it with that resolution; errors are negative errno values. */
int64_t clinux_boottime(void);
int clinux_timer_open(void);
int clinux_timer_set(int fd, int64_t nanoseconds);

#endif
