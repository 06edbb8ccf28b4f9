/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "CLinux.h"
#include <arpa/inet.h>
#include <errno.h>
#include <linux/mroute.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

int clinux_mroute_open(void)
{
    int fd = socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_IGMP);
    if (fd < 0) return -errno;
    int version = 1;
    if (setsockopt(fd, IPPROTO_IP, MRT_INIT, &version, sizeof version) < 0) {
        int error = errno;
        close(fd);
        return -error;
    }
    return fd;
}

int clinux_mroute_close(int fd)
{
    int unused = 0;
    int result = setsockopt(fd, IPPROTO_IP, MRT_DONE, &unused, sizeof unused) < 0 ? -errno : 0;
    close(fd);
    return result;
}

int clinux_mroute_add_interface(int fd, int number, unsigned interface)
{
    struct vifctl control = { .vifc_vifi = (vifi_t)number, .vifc_flags = VIFF_USE_IFINDEX, .vifc_threshold = 1 };
    control.vifc_lcl_ifindex = (int)interface;
    return setsockopt(fd, IPPROTO_IP, MRT_ADD_VIF, &control, sizeof control) < 0 ? -errno : 0;
}

static struct mfcctl entry(uint32_t source, uint32_t group, int parent)
{
    struct mfcctl control = { .mfcc_parent = (vifi_t)parent };
    control.mfcc_origin.s_addr = htonl(source);
    control.mfcc_mcastgrp.s_addr = htonl(group);
    return control;
}

int clinux_mroute_add(int fd, uint32_t source, uint32_t group, int parent, uint32_t outputs)
{
    struct mfcctl control = entry(source, group, parent);
    /* The proxy form of (*,G) wants its parent among the outputs. */
    if (source == 0) outputs |= 1U << parent;
    for (int i = 0; i < MAXVIFS; i++) control.mfcc_ttls[i] = outputs >> i & 1;
    int option = source == 0 ? MRT_ADD_MFC_PROXY : MRT_ADD_MFC;
    return setsockopt(fd, IPPROTO_IP, option, &control, sizeof control) < 0 ? -errno : 0;
}

int clinux_mroute_remove(int fd, uint32_t source, uint32_t group, int parent)
{
    struct mfcctl control = entry(source, group, parent);
    int option = source == 0 ? MRT_DEL_MFC_PROXY : MRT_DEL_MFC;
    return setsockopt(fd, IPPROTO_IP, option, &control, sizeof control) < 0 ? -errno : 0;
}
