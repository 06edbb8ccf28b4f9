/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "CLinux.h"
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

int clinux_namespace_enter(const char *path)
{
    int previous = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
    if (previous < 0) return -errno;
    int target = open(path, O_RDONLY | O_CLOEXEC);
    int result = target < 0 || setns(target, CLONE_NEWNET) < 0 ? -errno : previous;
    if (target >= 0) close(target);
    if (result < 0) close(previous);
    return result;
}

int clinux_namespace_leave(int previous)
{
    int result = setns(previous, CLONE_NEWNET) < 0 ? -errno : 0;
    close(previous);
    return result;
}

int clinux_signals_open(const int *numbers, unsigned count)
{
    sigset_t set;
    sigemptyset(&set);
    for (unsigned i = 0; i < count; i++) sigaddset(&set, numbers[i]);
    int error = pthread_sigmask(SIG_BLOCK, &set, NULL);
    if (error) return -error;
    int fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

int clinux_signals_read(int fd)
{
    struct signalfd_siginfo info;
    return read(fd, &info, sizeof info) == sizeof info ? (int)info.ssi_signo : 0;
}
