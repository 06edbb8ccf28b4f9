/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "CLinux.h"
#include "addresses.h"
#include <errno.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

/* What the ring takes and the IP stack does not, in words: an Ethernet frame without VLAN tag with a whole ESP packet
   (no fragment) to a group, and nothing between it and its IP header (no options, no extension headers). The filter of
   the ring and the rules of the diversion below say the same, so that each packet comes one way and only one. */

/* --- The ring --------------------------------------------------------------------------------------------------- */

enum {
    BLOCK = 1 << 17, /* holds the largest packet there is */
    FRAME = 2048, /* says nothing where blocks are filled without gaps, but has to divide them */
    PATIENCE = 1, /* milliseconds until a block that is not full is handed over */
    IGNORE_OUTGOING = 23, /* PACKET_IGNORE_OUTGOING, Linux 4.20 */
};

struct clinux_ring {
    int fd;
    unsigned blocks, block, left;
    uint8_t *memory, *packet;
    int64_t drops;
};

static const struct sock_filter wanted[] = {
    BPF_STMT(BPF_LD | BPF_B | BPF_ABS, SKF_AD_OFF + SKF_AD_VLAN_TAG_PRESENT),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 18),
    BPF_STMT(BPF_LD | BPF_H | BPF_ABS, SKF_AD_OFF + SKF_AD_PROTOCOL),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ETH_P_IP, 0, 9),
    BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 0),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0x45, 0, 14),
    BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 9),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, IPPROTO_ESP, 0, 12),
    BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 6),
    BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, 0x3fff, 10, 0),
    BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 16),
    BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0xf0),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0xe0, 6, 7),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ETH_P_IPV6, 0, 6),
    BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 6),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, IPPROTO_ESP, 0, 4),
    BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 24),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0xff, 1, 2),
    BPF_STMT(BPF_RET | BPF_K, 0),
    BPF_STMT(BPF_RET | BPF_K, 0xffffffff),
    BPF_STMT(BPF_RET | BPF_K, 0),
};

static int prepare(struct clinux_ring *ring, const char *interface, unsigned octets)
{
    struct ifreq name = { 0 };
    if (strlen(interface) >= IFNAMSIZ) return -ENODEV;
    strcpy(name.ifr_name, interface);
    /* Protocol 0: nothing comes in before all is set. */
    ring->fd = socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (ring->fd < 0 || ioctl(ring->fd, SIOCGIFHWADDR, &name) < 0) return -errno;
    if (name.ifr_hwaddr.sa_family != ARPHRD_ETHER) return -EOPNOTSUPP;
    struct sock_fprog filter = { .len = sizeof wanted / sizeof *wanted, .filter = (struct sock_filter *)wanted };
    int version = TPACKET_V3, yes = 1;
    ring->blocks = octets / BLOCK < 4 ? 4 : octets / BLOCK;
    struct tpacket_req3 request = {
        .tp_block_size = BLOCK, .tp_block_nr = ring->blocks, .tp_frame_size = FRAME,
        .tp_frame_nr = BLOCK / FRAME * ring->blocks, .tp_retire_blk_tov = PATIENCE,
    };
    if (setsockopt(ring->fd, SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof filter) < 0
        || setsockopt(ring->fd, SOL_PACKET, IGNORE_OUTGOING, &yes, sizeof yes) < 0
        || setsockopt(ring->fd, SOL_PACKET, PACKET_VERSION, &version, sizeof version) < 0
        || setsockopt(ring->fd, SOL_PACKET, PACKET_RX_RING, &request, sizeof request) < 0)
        return -errno;
    void *memory = mmap(NULL, (size_t)BLOCK * ring->blocks, PROT_READ | PROT_WRITE, MAP_SHARED, ring->fd, 0);
    if (memory == MAP_FAILED) return -errno;
    ring->memory = memory;
    if (ioctl(ring->fd, SIOCGIFINDEX, &name) < 0) return -errno;
    /* All protocols, which is before the packet filter's ingress hook; one of them would be behind it. */
    struct sockaddr_ll local = {
        .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL), .sll_ifindex = name.ifr_ifindex,
    };
    return bind(ring->fd, (struct sockaddr *)&local, sizeof local) < 0 ? -errno : 0;
}

struct clinux_ring *clinux_ring_open(const char *interface, unsigned octets)
{
    struct clinux_ring *ring = calloc(1, sizeof *ring);
    if (!ring) return NULL;
    ring->fd = -1;
    int result = prepare(ring, interface, octets);
    if (result == 0) return ring;
    clinux_ring_close(ring);
    errno = -result;
    return NULL;
}

void clinux_ring_close(struct clinux_ring *ring)
{
    if (ring->memory) munmap(ring->memory, (size_t)BLOCK * ring->blocks);
    if (ring->fd >= 0) close(ring->fd);
    free(ring);
}

int clinux_ring_descriptor(const struct clinux_ring *ring) { return ring->fd; }

static struct tpacket_block_desc *block_of(const struct clinux_ring *ring)
{
    return (void *)(ring->memory + (size_t)BLOCK * ring->block);
}

unsigned clinux_ring_take(struct clinux_ring *ring)
{
    struct tpacket_block_desc *block = block_of(ring);
    if (!(__atomic_load_n(&block->hdr.bh1.block_status, __ATOMIC_ACQUIRE) & TP_STATUS_USER)) return 0;
    ring->left = block->hdr.bh1.num_pkts;
    ring->packet = (uint8_t *)block + block->hdr.bh1.offset_to_first_pkt;
    if (ring->left == 0) clinux_ring_release(ring);
    return ring->left;
}

uint8_t *clinux_ring_next(struct clinux_ring *ring, unsigned *count)
{
    if (ring->left == 0) return NULL;
    struct tpacket3_hdr *header = (void *)ring->packet;
    ring->left--;
    ring->packet += header->tp_next_offset;
    *count = header->tp_snaplen;
    return (uint8_t *)header + header->tp_net;
}

void clinux_ring_release(struct clinux_ring *ring)
{
    ring->left = 0;
    __atomic_store_n(&block_of(ring)->hdr.bh1.block_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
    ring->block = (ring->block + 1) % ring->blocks;
}

int64_t clinux_ring_drops(struct clinux_ring *ring)
{
    /* Asking sets it back. */
    struct tpacket_stats_v3 since = { 0 };
    socklen_t size = sizeof since;
    if (getsockopt(ring->fd, SOL_PACKET, PACKET_STATISTICS, &since, &size) == 0) ring->drops += since.tp_drops;
    return ring->drops;
}

/* --- The diversion ------------------------------------------------------------------------------------------------ */

/* Messages to nf_tables in one transaction. */
struct batch {
    _Alignas(struct nlmsghdr) uint8_t octets[4096];
    size_t size;
};

static size_t put(struct batch *batch, const void *octets, size_t count)
{
    size_t at = batch->size;
    memcpy(batch->octets + at, octets, count);
    batch->size += NLMSG_ALIGN(count);
    return at;
}

static size_t begin(struct batch *batch, int type, int flags, int family, int resource)
{
    struct nlmsghdr header = {
        .nlmsg_type = (uint16_t)type, .nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags), .nlmsg_seq = 1,
    };
    struct nfgenmsg body = { .nfgen_family = (uint8_t)family, .res_id = htons((uint16_t)resource) };
    size_t at = put(batch, &header, sizeof header);
    put(batch, &body, sizeof body);
    return at;
}

static void end(struct batch *batch, size_t at)
{
    ((struct nlmsghdr *)(void *)(batch->octets + at))->nlmsg_len = (uint32_t)(batch->size - at);
}

static void attribute(struct batch *batch, int type, const void *octets, size_t count)
{
    struct nlattr header = { .nla_len = (uint16_t)(sizeof header + count), .nla_type = (uint16_t)type };
    put(batch, &header, sizeof header);
    put(batch, octets, count);
}

static void word(struct batch *batch, int type, uint32_t value)
{
    value = htonl(value);
    attribute(batch, type, &value, sizeof value);
}

static void text(struct batch *batch, int type, const char *value) { attribute(batch, type, value, strlen(value) + 1); }

static size_t nest(struct batch *batch, int type)
{
    struct nlattr header = { .nla_type = (uint16_t)(type | NLA_F_NESTED) };
    return put(batch, &header, sizeof header);
}

static void unnest(struct batch *batch, size_t at)
{
    ((struct nlattr *)(void *)(batch->octets + at))->nla_len = (uint16_t)(batch->size - at);
}

static void value(struct batch *batch, int type, const void *octets, size_t count)
{
    size_t outer = nest(batch, type);
    attribute(batch, NFTA_DATA_VALUE, octets, count);
    unnest(batch, outer);
}

/* Goes on with the rule only where `count` octets at `offset` of a header are `expected`, those of `mask` at least. */
static void match(struct batch *batch, int base, unsigned offset, unsigned count, uint32_t mask, uint32_t expected)
{
    uint8_t octets[4], bits[4], none[4] = { 0 };
    for (unsigned i = 0; i < count; i++) {
        octets[i] = (uint8_t)(expected >> 8 * (count - 1 - i));
        bits[i] = (uint8_t)(mask >> 8 * (count - 1 - i));
    }
    size_t one = nest(batch, NFTA_LIST_ELEM);
    text(batch, NFTA_EXPR_NAME, "payload");
    size_t data = nest(batch, NFTA_EXPR_DATA);
    word(batch, NFTA_PAYLOAD_DREG, NFT_REG_1);
    word(batch, NFTA_PAYLOAD_BASE, (uint32_t)base);
    word(batch, NFTA_PAYLOAD_OFFSET, offset);
    word(batch, NFTA_PAYLOAD_LEN, count);
    unnest(batch, data);
    unnest(batch, one);
    if (mask) {
        one = nest(batch, NFTA_LIST_ELEM);
        text(batch, NFTA_EXPR_NAME, "bitwise");
        data = nest(batch, NFTA_EXPR_DATA);
        word(batch, NFTA_BITWISE_SREG, NFT_REG_1);
        word(batch, NFTA_BITWISE_DREG, NFT_REG_1);
        word(batch, NFTA_BITWISE_LEN, count);
        value(batch, NFTA_BITWISE_MASK, bits, count);
        value(batch, NFTA_BITWISE_XOR, none, count);
        unnest(batch, data);
        unnest(batch, one);
    }
    one = nest(batch, NFTA_LIST_ELEM);
    text(batch, NFTA_EXPR_NAME, "cmp");
    data = nest(batch, NFTA_EXPR_DATA);
    word(batch, NFTA_CMP_SREG, NFT_REG_1);
    word(batch, NFTA_CMP_OP, NFT_CMP_EQ);
    value(batch, NFTA_CMP_DATA, octets, count);
    unnest(batch, data);
    unnest(batch, one);
}

static void drop(struct batch *batch)
{
    size_t one = nest(batch, NFTA_LIST_ELEM);
    text(batch, NFTA_EXPR_NAME, "immediate");
    size_t data = nest(batch, NFTA_EXPR_DATA);
    word(batch, NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT);
    size_t what = nest(batch, NFTA_IMMEDIATE_DATA), verdict = nest(batch, NFTA_DATA_VERDICT);
    word(batch, NFTA_VERDICT_CODE, NF_DROP);
    unnest(batch, verdict);
    unnest(batch, what);
    unnest(batch, data);
    unnest(batch, one);
}

enum { NEW = NLM_F_CREATE | NLM_F_ACK, SUBSYSTEM = NFNL_SUBSYS_NFTABLES << 8 };
static const char chain[] = "taken";

static void add_table(struct batch *batch, const char *table, const char *interface)
{
    size_t message = begin(batch, SUBSYSTEM | NFT_MSG_NEWTABLE, NEW | NLM_F_EXCL, NFPROTO_NETDEV, 0);
    text(batch, NFTA_TABLE_NAME, table);
    /* Nobody else can change it, and it goes with the socket that made it. */
    word(batch, NFTA_TABLE_FLAGS, 2 /* NFT_TABLE_F_OWNER, Linux 5.12 */);
    end(batch, message);
    message = begin(batch, SUBSYSTEM | NFT_MSG_NEWCHAIN, NEW, NFPROTO_NETDEV, 0);
    text(batch, NFTA_CHAIN_TABLE, table);
    text(batch, NFTA_CHAIN_NAME, chain);
    text(batch, NFTA_CHAIN_TYPE, "filter");
    word(batch, NFTA_CHAIN_POLICY, NF_ACCEPT);
    size_t hook = nest(batch, NFTA_CHAIN_HOOK);
    word(batch, NFTA_HOOK_HOOKNUM, NF_NETDEV_INGRESS);
    /* Before the guard: what is dropped need not be looked at again. */
    word(batch, NFTA_HOOK_PRIORITY, (uint32_t)-600);
    text(batch, NFTA_HOOK_DEV, interface);
    unnest(batch, hook);
    end(batch, message);
}

static void add_rule(struct batch *batch, const char *table, int v4)
{
    size_t message = begin(batch, SUBSYSTEM | NFT_MSG_NEWRULE, NEW | NLM_F_APPEND, NFPROTO_NETDEV, 0);
    text(batch, NFTA_RULE_TABLE, table);
    text(batch, NFTA_RULE_CHAIN, chain);
    size_t list = nest(batch, NFTA_RULE_EXPRESSIONS);
    int network = NFT_PAYLOAD_NETWORK_HEADER;
    match(batch, NFT_PAYLOAD_LL_HEADER, 12, 2, 0, v4 ? ETH_P_IP : ETH_P_IPV6);
    if (v4) {
        /* Four octets at a time: flags and offset with the protocol, the group. */
        match(batch, network, 6, 4, 0x3fff00ff, IPPROTO_ESP);
        match(batch, network, 16, 4, 0xf0000000, 0xe0000000);
        match(batch, network, 0, 1, 0, 0x45);
    } else {
        match(batch, network, 6, 1, 0, IPPROTO_ESP);
        match(batch, network, 24, 1, 0, 0xff);
    }
    drop(batch);
    unnest(batch, list);
    end(batch, message);
}

/* Four requests want an acknowledgement; the first error is the reason. */
static int answered(int fd)
{
    _Alignas(struct nlmsghdr) uint8_t answer[4096];
    for (int seen = 0; seen < 4;) {
        ssize_t got = recv(fd, answer, sizeof answer, 0);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return got < 0 ? -errno : -EPIPE;
        size_t left = (size_t)got;
        for (struct nlmsghdr *m = (void *)answer; NLMSG_OK(m, left); m = NLMSG_NEXT(m, left)) {
            if (m->nlmsg_type != NLMSG_ERROR || m->nlmsg_len < NLMSG_LENGTH(sizeof(struct nlmsgerr))) continue;
            int error = ((struct nlmsgerr *)NLMSG_DATA(m))->error;
            if (error) return error;
            seen++;
        }
    }
    return 0;
}

int clinux_ring_divert(const char *table, const char *interface)
{
    if (strlen(interface) >= IFNAMSIZ || strlen(table) >= 64) return -EINVAL;
    int fd = clinux_netlink_open(NETLINK_NETFILTER, 0);
    if (fd < 0) return fd;
    struct batch batch = { .size = 0 };
    end(&batch, begin(&batch, NFNL_MSG_BATCH_BEGIN, 0, AF_UNSPEC, NFNL_SUBSYS_NFTABLES));
    add_table(&batch, table, interface);
    add_rule(&batch, table, 1);
    add_rule(&batch, table, 0);
    end(&batch, begin(&batch, NFNL_MSG_BATCH_END, 0, AF_UNSPEC, NFNL_SUBSYS_NFTABLES));
    int result = send(fd, batch.octets, batch.size, 0) < 0 ? -errno : answered(fd);
    if (result == 0) return fd;
    close(fd);
    return result;
}
