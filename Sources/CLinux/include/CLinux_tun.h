/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SATIPSEC_CLINUX_TUN_H
#define SATIPSEC_CLINUX_TUN_H
#include <stdint.h>

int64_t clinux_boottime(void);
int clinux_timer_open(void);
int clinux_timer_set(int fd, int64_t nanoseconds);
int clinux_tun_open(char *name, int tap);

#endif
