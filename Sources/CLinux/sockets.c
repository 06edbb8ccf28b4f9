/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "CLinux.h"
#include "addresses.h"
#include <errno.h>
#include <linux/errqueue.h>
#include <linux/in6.h>
#include <linux/sock_diag.h>
#include <linux/udp.h>
#include <net/if.h>
#include <unistd.h>

#ifndef SO_MEMINFO
#define SO_MEMINFO 55
#endif

static int failed(int fd)
{
    int error = errno;
    close(fd);
    return -error;
}

static int set(int fd, int level, int option, int value) { return setsockopt(fd, level, option, &value, sizeof value); }

static int bind_to_device(int fd, const char *interface)
{
    return setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, interface, (socklen_t)strlen(interface));
}

/* The forced size needs CAP_NET_ADMIN in the first user namespace; the plain one is cut to net.core.rmem_max and
   net.core.wmem_max. */
static void enlarge_buffers(int fd, int octets)
{
    if (octets <= 0) return;
    if (set(fd, SOL_SOCKET, SO_RCVBUFFORCE, octets) < 0) set(fd, SOL_SOCKET, SO_RCVBUF, octets);
    if (set(fd, SOL_SOCKET, SO_SNDBUFFORCE, octets) < 0) set(fd, SOL_SOCKET, SO_SNDBUF, octets);
}

int clinux_udp_open(const struct clinux_address *address, const char *interface)
{
    int v4 = address->family == 4;
    int fd = socket(v4 ? AF_INET : AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return -errno;
    // No SO_REUSEADDR: of two UDP sockets that share a port one gets all unicasts, and the other never knows.
    if (v4 && set(fd, IPPROTO_IP, IP_PKTINFO, 1) < 0) return failed(fd);
    if (!v4 && (set(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1) < 0 || set(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1) < 0))
        return failed(fd);
    if (interface && bind_to_device(fd, interface) < 0) return failed(fd);
    enlarge_buffers(fd, 4 << 20);
    struct sockaddr_storage local;
    socklen_t length = clinux_address_write(address, &local);
    if (bind(fd, (struct sockaddr *)&local, length) < 0) return failed(fd);
    return fd;
}

int clinux_local_port(int fd)
{
    struct sockaddr_storage local;
    socklen_t length = sizeof local;
    if (getsockname(fd, (struct sockaddr *)&local, &length) < 0) return -errno;
    struct clinux_address address;
    clinux_address_read((struct sockaddr *)&local, &address);
    return address.port;
}

int clinux_esp_open(int family, const char *interface, int hops, int buffer_octets)
{
    int fd = socket(family == 4 ? AF_INET : AF_INET6, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_ESP);
    if (fd < 0) return -errno;
    if (bind_to_device(fd, interface) < 0) return failed(fd);
    if (family == 4) {
        if (set(fd, IPPROTO_IP, IP_TTL, hops) < 0 || set(fd, IPPROTO_IP, IP_RECVERR, 1) < 0) return failed(fd);
    } else if (set(fd, IPPROTO_IPV6, IPV6_RECVERR, 1) < 0 || set(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1) < 0
               || set(fd, IPPROTO_IPV6, IPV6_RECVTCLASS, 1) < 0 || set(fd, IPPROTO_IPV6, IPV6_UNICAST_HOPS, hops) < 0
               /* The label 0: one made of inner fields would show them, one per address pair says nothing new. */
               || set(fd, IPPROTO_IPV6, IPV6_AUTOFLOWLABEL, 0) < 0) {
        return failed(fd);
    }
    enlarge_buffers(fd, buffer_octets);
    return fd;
}

int clinux_udp_share(int fd, int family, int buffer_octets)
{
    int result = family == 4 ? set(fd, IPPROTO_IP, IP_RECVTOS, 1) : set(fd, IPPROTO_IPV6, IPV6_RECVTCLASS, 1);
    if (result == 0)
        result = family == 4 ? set(fd, IPPROTO_IP, IP_RECVERR, 1) : set(fd, IPPROTO_IPV6, IPV6_RECVERR, 1);
    if (result == 0 && family == 6) result = set(fd, IPPROTO_IPV6, IPV6_AUTOFLOWLABEL, 0);
    if (result < 0) return -errno;
    enlarge_buffers(fd, buffer_octets);
    return 0;
}

int clinux_udp_decapsulate(int fd)
{
    return set(fd, IPPROTO_UDP, UDP_ENCAP, UDP_ENCAP_ESPINUDP) < 0 ? -errno : 0;
}

int clinux_fragmentation(int fd, int family, int mode)
{
    /* PROBE sets DF and OMIT does not; both go by the interface's MTU alone, not by what routers told the kernel, which
       checks no SPI. Only WANT goes by that, and it is how the kernel finds out where to cut. */
    static const int v4[] = { IP_PMTUDISC_OMIT, IP_PMTUDISC_PROBE, IP_PMTUDISC_OMIT, IP_PMTUDISC_WANT };
    static const int v6[] = { IPV6_PMTUDISC_OMIT, IPV6_PMTUDISC_OMIT, IPV6_PMTUDISC_WANT, IPV6_PMTUDISC_WANT };
    int result = family == 4 ? set(fd, IPPROTO_IP, IP_MTU_DISCOVER, v4[mode])
                             : set(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, v6[mode]);
    return result < 0 ? -errno : 0;
}

/* Reads one message of the error queue: -EAGAIN when there is none. */
int clinux_error_next(int fd, struct clinux_error *error)
{
    struct sockaddr_storage name;
    _Alignas(struct cmsghdr) unsigned char control[256];
    struct iovec vector = { .iov_base = error->octets, .iov_len = sizeof error->octets };
    struct msghdr header = { .msg_name = &name, .msg_namelen = sizeof name, .msg_iov = &vector, .msg_iovlen = 1,
                             .msg_control = control, .msg_controllen = sizeof control };
    ssize_t count = recvmsg(fd, &header, MSG_ERRQUEUE | MSG_DONTWAIT);
    if (count < 0) return -errno;
    error->count = (uint32_t)count;
    error->mtu = 0;
    memset(&error->destination, 0, sizeof error->destination);
    if (header.msg_namelen > 0) clinux_address_read((struct sockaddr *)&name, &error->destination);
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&header); c; c = CMSG_NXTHDR(&header, c)) {
        int v4 = c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_RECVERR;
        int v6 = c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_RECVERR;
        if (!v4 && !v6) continue;
        struct sock_extended_err report;
        memcpy(&report, CMSG_DATA(c), sizeof report);
        int needs_cutting = report.ee_origin == SO_EE_ORIGIN_ICMP && report.ee_type == 3 && report.ee_code == 4;
        int too_big = report.ee_origin == SO_EE_ORIGIN_ICMP6 && report.ee_type == 2;
        if (needs_cutting || too_big) error->mtu = report.ee_info;
    }
    return 0;
}

int clinux_icmp_send(const struct clinux_address *destination, const uint8_t *octets, unsigned count)
{
    int v4 = destination->family == 4;
    int type = SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK;
    int fd = v4 ? socket(AF_INET, type, IPPROTO_ICMP) : socket(AF_INET6, type, IPPROTO_ICMPV6);
    if (fd < 0) return -errno;
    struct sockaddr_storage to;
    socklen_t length = clinux_address_write(destination, &to);
    int result = sendto(fd, octets, count, 0, (struct sockaddr *)&to, length) < 0 ? -errno : 0;
    close(fd);
    return result;
}

int clinux_multicast_output(int fd, int family, unsigned interface, int ttl, int loop)
{
    if (family == 4) {
        struct ip_mreqn output = { .imr_ifindex = (int)interface };
        if (interface && setsockopt(fd, IPPROTO_IP, IP_MULTICAST_IF, &output, sizeof output) < 0) return -errno;
        if (set(fd, IPPROTO_IP, IP_MULTICAST_TTL, ttl) < 0) return -errno;
        return set(fd, IPPROTO_IP, IP_MULTICAST_LOOP, loop) < 0 ? -errno : 0;
    }
    if (interface && set(fd, IPPROTO_IPV6, IPV6_MULTICAST_IF, (int)interface) < 0) return -errno;
    if (set(fd, IPPROTO_IPV6, IPV6_MULTICAST_HOPS, ttl) < 0) return -errno;
    return set(fd, IPPROTO_IPV6, IPV6_MULTICAST_LOOP, loop) < 0 ? -errno : 0;
}

int clinux_membership_open(int family)
{
    int fd = socket(family == 4 ? AF_INET : AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    return fd < 0 ? -errno : fd;
}

int clinux_membership_change(int fd, const struct clinux_address *group, unsigned interface, int join)
{
    int result;
    if (group->family == 4) {
        struct ip_mreqn member = { .imr_ifindex = (int)interface };
        member.imr_multiaddr.s_addr = htonl((uint32_t)group->low);
        result = setsockopt(fd, IPPROTO_IP, join ? IP_ADD_MEMBERSHIP : IP_DROP_MEMBERSHIP, &member, sizeof member);
    } else {
        struct ipv6_mreq member = { .ipv6mr_interface = interface };
        clinux_v6_write(group, &member.ipv6mr_multiaddr);
        result = setsockopt(fd, IPPROTO_IPV6, join ? IPV6_JOIN_GROUP : IPV6_LEAVE_GROUP, &member, sizeof member);
    }
    return result < 0 ? -errno : 0;
}

int64_t clinux_socket_drops(int fd)
{
    uint32_t values[SK_MEMINFO_VARS] = { 0 };
    socklen_t length = sizeof values;
    if (getsockopt(fd, SOL_SOCKET, SO_MEMINFO, values, &length) < 0) return -errno;
    return values[SK_MEMINFO_DROPS];
}
