/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "CLinux.h"
#include "addresses.h"
#include <errno.h>
#include <linux/mroute.h>
#include <linux/mroute6.h>
#include <netinet/icmp6.h>
#include <unistd.h>

/* Both families have the same options, by number and by meaning. */
static int level(int family) { return family == 4 ? IPPROTO_IP : IPPROTO_IPV6; }

int clinux_mroute_open(int family)
{
    int fd = family == 4 ? socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_IGMP)
                         : socket(AF_INET6, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_ICMPV6);
    if (fd < 0) return -errno;
    int version = 1;
    int result = setsockopt(fd, level(family), family == 4 ? MRT_INIT : MRT6_INIT, &version, sizeof version);
    if (result == 0 && family == 6) {
        /* Only the kernel's questions, not all the ICMPv6 that this host receives. */
        struct icmp6_filter filter;
        ICMP6_FILTER_SETBLOCKALL(&filter);
        result = setsockopt(fd, IPPROTO_ICMPV6, ICMP6_FILTER, &filter, sizeof filter);
    }
    if (result < 0) {
        int error = errno;
        close(fd);
        return -error;
    }
    return fd;
}

int clinux_mroute_close(int fd, int family)
{
    int unused = 0;
    int option = family == 4 ? MRT_DONE : MRT6_DONE;
    int result = setsockopt(fd, level(family), option, &unused, sizeof unused) < 0 ? -errno : 0;
    close(fd);
    return result;
}

int clinux_mroute_add_interface(int fd, int family, int number, unsigned interface)
{
    int result;
    if (family == 4) {
        struct vifctl control = { .vifc_vifi = (vifi_t)number, .vifc_flags = VIFF_USE_IFINDEX, .vifc_threshold = 1 };
        control.vifc_lcl_ifindex = (int)interface;
        result = setsockopt(fd, IPPROTO_IP, MRT_ADD_VIF, &control, sizeof control);
    } else {
        struct mif6ctl control = { .mif6c_mifi = (mifi_t)number, .vifc_threshold = 1 };
        control.mif6c_pifi = (uint16_t)interface;
        result = setsockopt(fd, IPPROTO_IPV6, MRT6_ADD_MIF, &control, sizeof control);
    }
    return result < 0 ? -errno : 0;
}

static int is_any(const struct clinux_address *address) { return address->high == 0 && address->low == 0; }

static int change(int fd, const struct clinux_address *source, const struct clinux_address *group, int parent,
                  uint32_t outputs, int add)
{
    int proxy = is_any(source), result;
    /* The proxy form of (*,G) wants its parent among the outputs. */
    if (proxy) outputs |= 1U << parent;
    if (group->family == 4) {
        struct mfcctl control = { .mfcc_parent = (vifi_t)parent };
        control.mfcc_origin.s_addr = htonl((uint32_t)source->low);
        control.mfcc_mcastgrp.s_addr = htonl((uint32_t)group->low);
        for (int i = 0; i < MAXVIFS; i++) control.mfcc_ttls[i] = outputs >> i & 1;
        int option = add ? (proxy ? MRT_ADD_MFC_PROXY : MRT_ADD_MFC) : (proxy ? MRT_DEL_MFC_PROXY : MRT_DEL_MFC);
        result = setsockopt(fd, IPPROTO_IP, option, &control, sizeof control);
    } else {
        struct mf6cctl control = { .mf6cc_parent = (mifi_t)parent };
        control.mf6cc_origin.sin6_family = control.mf6cc_mcastgrp.sin6_family = AF_INET6;
        clinux_v6_write(source, &control.mf6cc_origin.sin6_addr);
        clinux_v6_write(group, &control.mf6cc_mcastgrp.sin6_addr);
        control.mf6cc_ifset.ifs_bits[0] = outputs;
        int option = add ? (proxy ? MRT6_ADD_MFC_PROXY : MRT6_ADD_MFC) : (proxy ? MRT6_DEL_MFC_PROXY : MRT6_DEL_MFC);
        result = setsockopt(fd, IPPROTO_IPV6, option, &control, sizeof control);
    }
    return result < 0 ? -errno : 0;
}

int clinux_mroute_add(int fd, const struct clinux_address *source, const struct clinux_address *group, int parent,
                      uint32_t outputs)
{
    return change(fd, source, group, parent, outputs, 1);
}

int clinux_mroute_remove(int fd, const struct clinux_address *source, const struct clinux_address *group, int parent)
{
    return change(fd, source, group, parent, 0, 0);
}
