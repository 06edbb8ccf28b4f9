/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "CLinux.h"
#include <errno.h>
#include <sys/timerfd.h>
#include <time.h>

int64_t clinux_boottime(void)
{
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

int clinux_timer_open(void)
{
    int fd = timerfd_create(CLOCK_BOOTTIME, TFD_NONBLOCK | TFD_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

int clinux_timer_set(int fd, int64_t nanoseconds)
{
    struct itimerspec when = { 0 };
    if (nanoseconds >= 0) {
        /* An instant of zero would disarm it, so the past begins at one. */
        int64_t at = nanoseconds > 0 ? nanoseconds : 1;
        when.it_value.tv_sec = at / 1000000000;
        when.it_value.tv_nsec = at % 1000000000;
    }
    return timerfd_settime(fd, TFD_TIMER_ABSTIME, &when, NULL) < 0 ? -errno : 0;
}
