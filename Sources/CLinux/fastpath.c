/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "CLinux.h"
#include "addresses.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

_Static_assert(sizeof(struct virtio_net_hdr) == CLINUX_TUN_HEADER, "the header before each packet of the tunnel");

uint16_t clinux_checksum(const uint8_t *octets, unsigned count, uint32_t start)
{
    uint64_t sum = 0;
    /* In the machine's order: a one's complement sum is the same in either, with its octets swapped. */
    for (; count >= 4; octets += 4, count -= 4) {
        uint32_t word;
        memcpy(&word, octets, 4);
        sum += word;
    }
    uint8_t rest[4] = { 0 };
    memcpy(rest, octets, count);
    uint32_t word;
    memcpy(&word, rest, 4);
    sum += word;
    while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
    sum = be16toh((uint16_t)sum) + (uint64_t)start;
    while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)sum;
}

/* --- The tunnel ------------------------------------------------------------------------------------------------- */

int clinux_tun_open_with_header(char *name)
{
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) return -errno;
    struct ifreq block = { .ifr_flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR };
    strncpy(block.ifr_name, name, IFNAMSIZ - 1);
    int size = CLINUX_TUN_HEADER;
    /* A kernel that would cut datagrams for a reader (Linux 6.2) takes them uncut from a writer too. Then nothing more
       is wanted from it on reading. */
    unsigned long whole = TUN_F_CSUM | 0x20 /* TUN_F_USO4 */ | 0x40 /* TUN_F_USO6 */;
    if (ioctl(fd, TUNSETIFF, &block) < 0 || ioctl(fd, TUNSETVNETHDRSZ, &size) < 0
        || ioctl(fd, TUNSETOFFLOAD, whole) < 0 || ioctl(fd, TUNSETOFFLOAD, 0UL) < 0) {
        int error = errno;
        close(fd);
        return -error;
    }
    memcpy(name, block.ifr_name, IFNAMSIZ);
    name[IFNAMSIZ - 1] = 0;
    return fd;
}

struct clinux_gather {
    unsigned limit, count;
    struct virtio_net_hdr header;
    struct iovec vector[];
};

struct clinux_gather *clinux_gather_new(unsigned pieces)
{
    struct clinux_gather *gather = calloc(1, sizeof *gather + (pieces + 1) * sizeof gather->vector[0]);
    if (!gather) return NULL;
    gather->limit = pieces;
    gather->vector[0] = (struct iovec){ &gather->header, sizeof gather->header };
    return gather;
}

void clinux_gather_free(struct clinux_gather *gather) { free(gather); }

int clinux_gather_add(struct clinux_gather *gather, uint8_t *octets, unsigned count)
{
    if (gather->count >= gather->limit) return -ENOBUFS;
    gather->vector[++gather->count] = (struct iovec){ octets, count };
    return 0;
}

int clinux_gather_write(struct clinux_gather *gather, int fd, unsigned header_octets, unsigned segment_octets)
{
    memset(&gather->header, 0, sizeof gather->header);
    if (segment_octets) {
        gather->header.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
        gather->header.gso_type = 5; /* VIRTIO_NET_HDR_GSO_UDP_L4, which older headers do not have */
        gather->header.hdr_len = (uint16_t)header_octets;
        gather->header.gso_size = (uint16_t)segment_octets;
        gather->header.csum_start = (uint16_t)(header_octets - 8);
        gather->header.csum_offset = 6;
    }
    int pieces = (int)gather->count + 1;
    gather->count = 0;
    return writev(fd, gather->vector, pieces) < 0 ? -errno : 0;
}

/* --- The link ------------------------------------------------------------------------------------------------- */

int clinux_link_open(const char *interface, int buffer_octets)
{
    struct ifreq block = { 0 };
    if (strlen(interface) >= IFNAMSIZ) return -ENODEV;
    strcpy(block.ifr_name, interface);
    /* Protocol 0: this socket receives nothing. */
    int fd = socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return -errno;
    int error = 0;
    if (ioctl(fd, SIOCGIFHWADDR, &block) < 0) error = errno;
    else if (block.ifr_hwaddr.sa_family != ARPHRD_ETHER) error = EOPNOTSUPP;
    if (error) {
        close(fd);
        return -error;
    }
    if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &buffer_octets, sizeof buffer_octets) < 0)
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &buffer_octets, sizeof buffer_octets);
    return fd;
}

void clinux_pause(int64_t nanoseconds)
{
    struct timespec time = { .tv_nsec = nanoseconds };
    clock_nanosleep(CLOCK_MONOTONIC, 0, &time, NULL);
}
