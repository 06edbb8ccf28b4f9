/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "CLinux.h"
#include "addresses.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <net/route.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* One ioctl on an interface's request block. */
static int request(unsigned long number, const char *name, struct ifreq *block)
{
    if (strlen(name) >= IFNAMSIZ) return -ENODEV;
    strcpy(block->ifr_name, name);
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return -errno;
    int result = ioctl(fd, number, block) < 0 ? -errno : 0;
    close(fd);
    return result;
}

int clinux_interface_index(const char *name)
{
    unsigned index = if_nametoindex(name);
    return index == 0 ? -(errno ? errno : ENODEV) : (int)index;
}

static int prefix_length(const struct sockaddr *mask)
{
    const void *v4 = &((const struct sockaddr_in *)mask)->sin_addr;
    const void *v6 = &((const struct sockaddr_in6 *)mask)->sin6_addr;
    const uint8_t *octets = mask->sa_family == AF_INET ? v4 : v6;
    int count = mask->sa_family == AF_INET ? 4 : 16, length = 0;
    for (int i = 0; i < count; i++) length += __builtin_popcount(octets[i]);
    return length;
}

int clinux_interface_address(const char *name, int family, struct clinux_address *address)
{
    struct ifaddrs *list;
    if (getifaddrs(&list) < 0) return -errno;
    int found = -EADDRNOTAVAIL;
    for (struct ifaddrs *entry = list; entry; entry = entry->ifa_next) {
        if (!entry->ifa_addr || strcmp(entry->ifa_name, name) != 0) continue;
        if (entry->ifa_addr->sa_family != (family == 4 ? AF_INET : AF_INET6)) continue;
        int link_local = family == 6
            && IN6_IS_ADDR_LINKLOCAL(&((const struct sockaddr_in6 *)entry->ifa_addr)->sin6_addr);
        if (found >= 0 && link_local) continue;
        clinux_address_read(entry->ifa_addr, address);
        found = entry->ifa_netmask ? prefix_length(entry->ifa_netmask) : (family == 4 ? 32 : 128);
        if (!link_local) break;
    }
    freeifaddrs(list);
    return found;
}

int clinux_interface_mtu(const char *name)
{
    struct ifreq block = { 0 };
    int result = request(SIOCGIFMTU, name, &block);
    return result < 0 ? result : block.ifr_mtu;
}

int clinux_interface_is_up(const char *name)
{
    struct ifreq block = { 0 };
    int result = request(SIOCGIFFLAGS, name, &block);
    return result < 0 ? result : (block.ifr_flags & IFF_UP) != 0;
}

int clinux_interface_configure(const char *name, int mtu, int queue)
{
    struct ifreq block = { 0 };
    int result = 0;
    if (mtu > 0) {
        block.ifr_mtu = mtu;
        result = request(SIOCSIFMTU, name, &block);
    }
    if (result == 0 && queue > 0) {
        /* Only a wish: it is denied to a user namespace other than the first. */
        memset(&block, 0, sizeof block);
        block.ifr_qlen = queue;
        (void)request(SIOCSIFTXQLEN, name, &block);
    }
    memset(&block, 0, sizeof block);
    if (result == 0) result = request(SIOCGIFFLAGS, name, &block);
    if (result < 0) return result;
    block.ifr_flags |= IFF_UP;
    return request(SIOCSIFFLAGS, name, &block);
}

static int route_v4(int fd, const char *name, const struct clinux_address *network, int prefix_length, int metric,
                    int add)
{
    struct rtentry route = { 0 };
    struct sockaddr_in *destination = (struct sockaddr_in *)&route.rt_dst;
    struct sockaddr_in *mask = (struct sockaddr_in *)&route.rt_genmask;
    destination->sin_family = mask->sin_family = AF_INET;
    destination->sin_addr.s_addr = htonl((uint32_t)network->low);
    mask->sin_addr.s_addr = prefix_length <= 0 ? 0 : htonl(~0U << (32 - prefix_length));
    char device[IFNAMSIZ];
    if (strlen(name) >= sizeof device) return -ENODEV;
    strcpy(device, name);
    route.rt_dev = device;
    route.rt_flags = RTF_UP | (prefix_length == 32 ? RTF_HOST : 0);
    route.rt_metric = (short)(metric + 1); /* this interface counts from 1 */
    return ioctl(fd, add ? SIOCADDRT : SIOCDELRT, &route) < 0 ? -errno : 0;
}

static int route_v6(int fd, const char *name, const struct clinux_address *network, int prefix_length, int metric,
                    int add)
{
    struct in6_rtmsg route = { .rtmsg_dst_len = (uint16_t)prefix_length, .rtmsg_metric = (uint32_t)metric };
    clinux_v6_write(network, &route.rtmsg_dst);
    route.rtmsg_flags = RTF_UP | (prefix_length == 128 ? RTF_HOST : 0);
    route.rtmsg_ifindex = (int)if_nametoindex(name);
    if (route.rtmsg_ifindex == 0) return -ENODEV;
    return ioctl(fd, add ? SIOCADDRT : SIOCDELRT, &route) < 0 ? -errno : 0;
}

int clinux_route_change(const char *name, const struct clinux_address *network, int prefix_length, int metric, int add)
{
    int v4 = network->family == 4;
    int fd = socket(v4 ? AF_INET : AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return -errno;
    int result = v4 ? route_v4(fd, name, network, prefix_length, metric, add)
                    : route_v6(fd, name, network, prefix_length, metric, add);
    close(fd);
    return result;
}

int clinux_tun_open(char *name, int tap)
{
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) return -errno;
    struct ifreq block = { 0 };
    strncpy(block.ifr_name, name, IFNAMSIZ - 1);
    block.ifr_flags = (short)((tap ? IFF_TAP : IFF_TUN) | IFF_NO_PI);
    if (ioctl(fd, TUNSETIFF, &block) < 0) {
        int error = errno;
        close(fd);
        return -error;
    }
    memcpy(name, block.ifr_name, IFNAMSIZ);
    name[IFNAMSIZ - 1] = 0;
    return fd;
}
