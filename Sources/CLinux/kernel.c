/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "CLinux_kernel.h"
#include <errno.h>
#include <linux/pfkeyv2.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

/* The kernel answers at once or never. */
static const struct timeval patience = { .tv_sec = 5 };
/* Of a dump with hundreds of SAs, or of a burst of expirations. */
static const int buffer = 4 << 20;

static int failed(int fd)
{
    int error = errno;
    close(fd);
    return -error;
}

static int settle(int fd)
{
    if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) < 0) return failed(fd);
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &buffer, sizeof buffer) < 0)
        (void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer);
    return fd;
}

int clinux_netlink_open(int protocol, int group)
{
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol);
    if (fd < 0) return -errno;
    struct sockaddr_nl local = { .nl_family = AF_NETLINK };
    int on = 1;
    /* The answer to a request does not repeat it: what it says is keys. */
    if (setsockopt(fd, SOL_NETLINK, NETLINK_CAP_ACK, &on, sizeof on) < 0) return failed(fd);
    if (bind(fd, (struct sockaddr *)&local, sizeof local) < 0) return failed(fd);
    if (group && setsockopt(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group) < 0) return failed(fd);
    return settle(fd);
}

int clinux_pfkey_open(void)
{
    int fd = socket(PF_KEY, SOCK_RAW | SOCK_CLOEXEC, PF_KEY_V2);
    return fd < 0 ? -errno : settle(fd);
}
