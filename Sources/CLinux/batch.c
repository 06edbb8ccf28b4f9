/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "CLinux.h"
#include "addresses.h"
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <stdlib.h>
#include <sys/uio.h>

/* Room for a packet information message of either family and a traffic class. */
enum { CONTROL_OCTETS = CMSG_SPACE(sizeof(struct in6_pktinfo)) + CMSG_SPACE(sizeof(int)) };

struct control {
    _Alignas(struct cmsghdr) unsigned char octets[CONTROL_OCTETS];
};

struct clinux_batch {
    unsigned slots, capacity;
    struct clinux_slot *slot;
    struct mmsghdr *message;
    struct iovec *vector;
    struct sockaddr_storage *name;
    struct control *control;
    uint8_t *arena;
};

struct clinux_batch *clinux_batch_new(unsigned slots, unsigned capacity)
{
    struct clinux_batch *batch = calloc(1, sizeof *batch);
    if (!batch) return NULL;
    /* An odd number of cache lines apart, so that the heads of all packets do not fall into the same cache set. */
    size_t stride = (((size_t)capacity + 63) / 64 | 1) * 64;
    batch->slots = slots;
    batch->capacity = capacity;
    batch->slot = calloc(slots, sizeof *batch->slot);
    batch->message = calloc(slots, sizeof *batch->message);
    batch->vector = calloc(slots, sizeof *batch->vector);
    batch->name = calloc(slots, sizeof *batch->name);
    batch->control = calloc(slots, sizeof *batch->control);
    batch->arena = aligned_alloc(64, stride * slots);
    if (!batch->slot || !batch->message || !batch->vector || !batch->name || !batch->control || !batch->arena) {
        clinux_batch_free(batch);
        return NULL;
    }
    for (unsigned i = 0; i < slots; i++) {
        batch->slot[i].bytes = batch->arena + stride * i;
        batch->message[i].msg_hdr.msg_iov = &batch->vector[i];
        batch->message[i].msg_hdr.msg_iovlen = 1;
        batch->message[i].msg_hdr.msg_name = &batch->name[i];
    }
    return batch;
}

void clinux_batch_free(struct clinux_batch *batch)
{
    free(batch->slot);
    free(batch->message);
    free(batch->vector);
    free(batch->name);
    free(batch->control);
    free(batch->arena);
    free(batch);
}

struct clinux_slot *clinux_batch_slot(struct clinux_batch *batch, unsigned index)
{
    return index < batch->slots ? &batch->slot[index] : NULL;
}

/* The destination address of a received packet, the interface it came in by, and its traffic class. */
static void read_control(struct msghdr *header, struct clinux_slot *slot)
{
    struct clinux_address *local = &slot->local;
    memset(local, 0, sizeof *local);
    slot->traffic_class = 0;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(header); c; c = CMSG_NXTHDR(header, c)) {
        if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO) {
            struct in_pktinfo info;
            memcpy(&info, CMSG_DATA(c), sizeof info);
            local->family = 4;
            local->low = ntohl(info.ipi_addr.s_addr);
            local->interface = (uint32_t)info.ipi_ifindex;
        } else if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_TOS) {
            slot->traffic_class = *CMSG_DATA(c);
        } else if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_PKTINFO) {
            struct in6_pktinfo info;
            memcpy(&info, CMSG_DATA(c), sizeof info);
            local->family = 6;
            clinux_v6_read(&info.ipi6_addr, local);
            local->interface = info.ipi6_ifindex;
        } else if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_TCLASS) {
            int value;
            memcpy(&value, CMSG_DATA(c), sizeof value);
            slot->traffic_class = (uint32_t)value;
        }
    }
}

/* Appends one control message. */
static void add_control(struct msghdr *header, struct control *control, int level, int type, const void *data,
                        size_t size)
{
    struct cmsghdr *c = (struct cmsghdr *)(control->octets + header->msg_controllen);
    c->cmsg_level = level;
    c->cmsg_type = type;
    c->cmsg_len = CMSG_LEN(size);
    memcpy(CMSG_DATA(c), data, size);
    header->msg_control = control;
    header->msg_controllen += CMSG_SPACE(size);
}

/* The source address (and interface, if any) that a packet shall be sent from, and its traffic class. */
static void write_control(struct msghdr *header, struct control *control, const struct clinux_slot *slot)
{
    const struct clinux_address *local = &slot->local;
    header->msg_control = NULL;
    header->msg_controllen = 0;
    if (local->family == 4) {
        struct in_pktinfo info = { .ipi_ifindex = (int)local->interface };
        info.ipi_spec_dst.s_addr = htonl((uint32_t)local->low);
        add_control(header, control, IPPROTO_IP, IP_PKTINFO, &info, sizeof info);
    } else if (local->family == 6) {
        struct in6_pktinfo info = { .ipi6_ifindex = local->interface };
        clinux_v6_write(local, &info.ipi6_addr);
        add_control(header, control, IPPROTO_IPV6, IPV6_PKTINFO, &info, sizeof info);
    }
    if (slot->traffic_class) {
        int v4 = slot->remote.family == 4, value = (int)slot->traffic_class;
        add_control(header, control, v4 ? IPPROTO_IP : IPPROTO_IPV6, v4 ? IP_TOS : IPV6_TCLASS, &value, sizeof value);
    }
}

int clinux_batch_receive(struct clinux_batch *batch, int fd, unsigned limit)
{
    if (limit > batch->slots) limit = batch->slots;
    for (unsigned i = 0; i < limit; i++) {
        struct msghdr *header = &batch->message[i].msg_hdr;
        batch->vector[i].iov_base = batch->slot[i].bytes;
        batch->vector[i].iov_len = batch->capacity;
        header->msg_namelen = sizeof batch->name[i];
        header->msg_control = &batch->control[i];
        header->msg_controllen = sizeof batch->control[i];
        header->msg_flags = 0;
    }
    int count = recvmmsg(fd, batch->message, limit, MSG_DONTWAIT, NULL);
    if (count < 0) return errno == EAGAIN || errno == EINTR ? 0 : -errno;
    for (int i = 0; i < count; i++) {
        struct clinux_slot *slot = &batch->slot[i];
        slot->start = 0;
        slot->count = batch->message[i].msg_len;
        slot->truncated = (batch->message[i].msg_hdr.msg_flags & MSG_TRUNC) != 0;
        clinux_address_read((struct sockaddr *)&batch->name[i], &slot->remote);
        read_control(&batch->message[i].msg_hdr, slot);
    }
    return count;
}

/* Sends what is prepared. */
static int send_messages(struct clinux_batch *batch, int fd, unsigned first, unsigned count)
{
    int sent;
    do sent = sendmmsg(fd, &batch->message[first], count, MSG_DONTWAIT);
    while (sent < 0 && errno == EINTR);
    return sent < 0 ? -errno : sent;
}

int clinux_batch_send_link(struct clinux_batch *batch, int fd, unsigned interface, unsigned first, unsigned count)
{
    if (first >= batch->slots) return -EINVAL;
    if (count > batch->slots - first) count = batch->slots - first;
    for (unsigned i = first; i < first + count; i++) {
        struct clinux_slot *slot = &batch->slot[i];
        struct msghdr *header = &batch->message[i].msg_hdr;
        if (slot->count > batch->capacity || slot->start > batch->capacity - slot->count) return -EMSGSIZE;
        batch->vector[i].iov_base = slot->bytes + slot->start;
        batch->vector[i].iov_len = slot->count;
        /* RFC 1112 6.4: the low 23 bits of the group. */
        uint32_t group = (uint32_t)slot->remote.low;
        struct sockaddr_ll to = {
            .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_IP), .sll_ifindex = (int)interface, .sll_halen = 6,
            .sll_addr = { 1, 0, 0x5e, group >> 16 & 0x7f, group >> 8 & 0xff, group & 0xff },
        };
        memcpy(&batch->name[i], &to, sizeof to);
        header->msg_namelen = sizeof to;
        header->msg_control = NULL;
        header->msg_controllen = 0;
        header->msg_flags = 0;
    }
    return send_messages(batch, fd, first, count);
}

int clinux_batch_send(struct clinux_batch *batch, int fd, unsigned first, unsigned count)
{
    if (first >= batch->slots) return -EINVAL;
    if (count > batch->slots - first) count = batch->slots - first;
    for (unsigned i = first; i < first + count; i++) {
        struct clinux_slot *slot = &batch->slot[i];
        struct msghdr *header = &batch->message[i].msg_hdr;
        if (slot->count > batch->capacity || slot->start > batch->capacity - slot->count) return -EMSGSIZE;
        batch->vector[i].iov_base = slot->bytes + slot->start;
        batch->vector[i].iov_len = slot->count;
        header->msg_namelen = clinux_address_write(&slot->remote, &batch->name[i]);
        header->msg_flags = 0;
        write_control(header, &batch->control[i], slot);
    }
    return send_messages(batch, fd, first, count);
}
