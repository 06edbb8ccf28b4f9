/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts of a user-space tunnel cost, each alone, in nanoseconds of processor time per packet:
 *
 *   traffic parts NAMESPACE INTERFACE PEER-NAMESPACE PEER-INTERFACE SIZE ROUNDS
 *
 * Everything happens on one thread that does one part for a batch of packets and then the next, so that nothing waits
 * and nothing runs dry: what a program that is made of these parts cannot do better. The kernel's work on receipt at
 * the other end of a veth is done by whoever sends; so it is with the tunnels that this is held against. */
#define _GNU_SOURCE
#include "traffic.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <openssl/evp.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum {
    BATCH = 64, LARGEST = 2048, ROUNDS = 1000, IP = 20, UDP = 8, ESP_HEAD = 16, ICV = 16, PORT = 7077,
    BLOCK = 1 << 17, BLOCKS = 16, COALESCED = 32,
};
static const uint32_t group = 0xef4d0001; /* 239.77.0.1 */
static uint8_t arena[BATCH][LARGEST], bulk[1 << 16];
static struct mmsghdr message[BATCH];
static struct iovec vector[BATCH];
static size_t payload, inner, sealed;

static double thread_nanoseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

static int ordered(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Prints the median over all rounds: what another process does to the caches now and then does not count. */
static void report(const char *name, double *samples, int count, int packets)
{
    qsort(samples, (size_t)count, sizeof *samples, ordered);
    printf("%s=%.1f\n", name, samples[count / 2] / packets);
    fflush(stdout);
}

static int enter(const char *name)
{
    char path[128];
    snprintf(path, sizeof path, "/run/netns/%s", name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || setns(fd, CLONE_NEWNET) < 0) die(path);
    close(fd);
    return 0;
}

static uint16_t folded(uint64_t sum)
{
    while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)sum;
}

static void put16(uint8_t *at, size_t value) { at[0] = (uint8_t)(value >> 8); at[1] = (uint8_t)value; }

static uint64_t words(const uint8_t *at, size_t count)
{
    uint64_t sum = 0;
    for (size_t i = 0; i + 1 < count; i += 2) sum += (uint64_t)at[i] << 8 | at[i + 1];
    return sum;
}

/* An IPv4 header with its checksum. */
static void write_ip(uint8_t *at, int protocol, size_t total)
{
    memset(at, 0, IP);
    at[0] = 0x45;
    put16(at + 2, total);
    at[8] = 8;
    at[9] = (uint8_t)protocol;
    uint32_t source = htonl(0x0a4d0009), to = htonl(group); /* 10.77.0.9 */
    memcpy(at + 12, &source, 4);
    memcpy(at + 16, &to, 4);
    put16(at + 10, (uint16_t)~folded(words(at, IP)));
}

static void write_udp(uint8_t *packet, size_t octets, int partial_checksum)
{
    write_ip(packet, IPPROTO_UDP, IP + UDP + octets);
    uint8_t *udp = packet + IP;
    put16(udp, PORT);
    put16(udp + 2, PORT);
    put16(udp + 4, UDP + octets);
    put16(udp + 6, partial_checksum ? folded(words(packet + 12, 8) + IPPROTO_UDP + UDP + octets) : 0);
}

static int tun_open(const char *name, int header)
{
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) die("/dev/net/tun");
    struct ifreq block = { .ifr_flags = (short)(IFF_TUN | IFF_NO_PI | (header ? IFF_VNET_HDR : 0)) };
    strcpy(block.ifr_name, name);
    if (ioctl(fd, TUNSETIFF, &block) < 0) die("TUNSETIFF");
    if (header && ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM | 0x20 /* TUN_F_USO4 */ | 0x40 /* TUN_F_USO6 */) < 0)
        die("TUNSETOFFLOAD");
    int control = socket(AF_INET, SOCK_DGRAM, 0);
    block.ifr_flags = IFF_UP;
    if (ioctl(control, SIOCSIFFLAGS, &block) < 0) die("SIOCSIFFLAGS");
    close(control);
    return fd;
}

static int udp_open(const char *interface, int receives)
{
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0), octets = 8 << 20;
    struct ip_mreqn member = { .imr_multiaddr.s_addr = htonl(group), .imr_ifindex = interface_index(interface) };
    struct sockaddr_in local = { .sin_family = AF_INET, .sin_port = htons(PORT) };
    local.sin_addr.s_addr = htonl(group);
    int option = receives ? IP_ADD_MEMBERSHIP : IP_MULTICAST_IF;
    if (fd < 0 || setsockopt(fd, IPPROTO_IP, option, &member, sizeof member) < 0) die("multicast");
    int yes = 1, no = 0;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    setsockopt(fd, IPPROTO_IP, IP_MULTICAST_ALL, &no, sizeof no);
    if (receives && bind(fd, (struct sockaddr *)&local, sizeof local) < 0) die("bind");
    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &octets, sizeof octets);
    setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &octets, sizeof octets);
    return fd;
}

static void aim(struct sockaddr *to, socklen_t size, size_t start, size_t count)
{
    for (int i = 0; i < BATCH; i++) {
        vector[i] = (struct iovec){ arena[i] + start, count };
        message[i].msg_hdr = (struct msghdr){ .msg_iov = &vector[i], .msg_iovlen = 1 };
        message[i].msg_hdr.msg_name = to;
        message[i].msg_hdr.msg_namelen = size;
    }
}

static void cipher(int rounds)
{
    static const uint8_t key[16] = { 1 };
    uint8_t nonce[12] = { 0 };
    static double seal[ROUNDS], open[ROUNDS];
    EVP_CIPHER_CTX *to = EVP_CIPHER_CTX_new(), *from = EVP_CIPHER_CTX_new();
    EVP_CIPHER *gcm = EVP_CIPHER_fetch(NULL, "AES-128-GCM", NULL);
    EVP_CipherInit_ex2(to, gcm, key, NULL, 1, NULL);
    EVP_CipherInit_ex2(from, gcm, key, NULL, 0, NULL);
    int text = (int)(sealed - ESP_HEAD - ICV), written, good = 1;
    for (int round = 0; round < rounds; round++) {
        double start = thread_nanoseconds();
        for (int i = 0; i < BATCH; i++) {
            uint8_t *at = arena[i];
            nonce[11] = (uint8_t)i;
            EVP_CipherInit_ex2(to, NULL, NULL, nonce, -1, NULL);
            EVP_EncryptUpdate(to, NULL, &written, at, 8);
            EVP_EncryptUpdate(to, at + ESP_HEAD, &written, at + ESP_HEAD, text);
            EVP_EncryptFinal_ex(to, at + ESP_HEAD + text, &written);
            EVP_CIPHER_CTX_ctrl(to, EVP_CTRL_AEAD_GET_TAG, ICV, at + ESP_HEAD + text);
        }
        double middle = thread_nanoseconds();
        for (int i = 0; i < BATCH; i++) {
            uint8_t *at = arena[i];
            nonce[11] = (uint8_t)i;
            EVP_CipherInit_ex2(from, NULL, NULL, nonce, -1, NULL);
            EVP_DecryptUpdate(from, NULL, &written, at, 8);
            EVP_DecryptUpdate(from, at + ESP_HEAD, &written, at + ESP_HEAD, text);
            EVP_CIPHER_CTX_ctrl(from, EVP_CTRL_AEAD_SET_TAG, ICV, at + ESP_HEAD + text);
            good &= EVP_DecryptFinal_ex(from, at + ESP_HEAD + text, &written);
        }
        seal[round] = middle - start;
        open[round] = thread_nanoseconds() - middle;
    }
    errno = EBADMSG;
    if (good != 1) die("what was sealed did not open");
    report("seal", seal, rounds, BATCH);
    report("open", open, rounds, BATCH);
}

static void tunnel(int rounds)
{
    static double reads[ROUNDS], writes[ROUNDS], coalesced[ROUNDS];
    int plain = tun_open("parts0", 0), offload = tun_open("parts1", 1);
    int sender = udp_open("parts0", 0), receiver = udp_open("parts0", 1), other = udp_open("parts1", 1);
    struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(PORT) };
    to.sin_addr.s_addr = htonl(group);
    struct virtio_net_hdr header = {
        .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .gso_type = 5 /* VIRTIO_NET_HDR_GSO_UDP_L4 */, .hdr_len = IP + UDP,
        .gso_size = (uint16_t)payload, .csum_start = IP, .csum_offset = 6,
    };
    for (int round = 0; round < rounds; round++) {
        aim((struct sockaddr *)&to, sizeof to, IP + UDP, payload);
        if (sendmmsg(sender, message, BATCH, 0) != BATCH) die("send into the tunnel");
        int got = 0;
        double start = thread_nanoseconds();
        for (ssize_t size = 1; got < BATCH && size > 0; got += size > 0) size = read(plain, arena[got], LARGEST);
        reads[round] = thread_nanoseconds() - start;
        errno = ENODATA;
        if (got < BATCH) die("read from the tunnel");

        for (int i = 0; i < BATCH; i++) write_udp(arena[i], payload, 0);
        start = thread_nanoseconds();
        for (int i = 0; i < BATCH; i++)
            if (write(plain, arena[i], inner) < 0) die("write to the tunnel");
        writes[round] = thread_nanoseconds() - start;
        aim(NULL, 0, 0, LARGEST);
        got = recvmmsg(receiver, message, BATCH, 0, NULL);
        errno = ENODATA;
        if (got != BATCH) die("receive from the tunnel");

        memcpy(bulk, &header, sizeof header);
        write_udp(bulk + sizeof header, COALESCED * payload, 1);
        start = thread_nanoseconds();
        for (int i = 0; i < BATCH / COALESCED; i++)
            if (write(offload, bulk, sizeof header + IP + UDP + COALESCED * payload) < 0) die("write coalesced");
        coalesced[round] = thread_nanoseconds() - start;
        got = recvmmsg(other, message, BATCH, 0, NULL);
        errno = ENODATA;
        if (got != BATCH) die("receive what was coalesced");
    }
    report("tun-read", reads, rounds, BATCH);
    report("tun-write", writes, rounds, BATCH);
    report("tun-write-coalesced", coalesced, rounds, BATCH);
    close(plain);
    close(offload);
    close(sender);
    close(receiver);
    close(other);
}

/* --- The link -------------------------------------------------------------------------------------------------------- */

static uint8_t *ring;
static unsigned ring_block;

/* A ring in which the kernel puts ESP packets, of one protocol's packets or, as they come in, of all. */
static int ring_open(const char *interface, int protocol)
{
    /* Protocol 50 of IPv4; the filter sees the packet from its IP header on. */
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 9), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, IPPROTO_ESP, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, 0xffffffff), BPF_STMT(BPF_RET | BPF_K, 0),
    };
    struct sock_fprog filter = { .len = 4, .filter = code };
    int version = TPACKET_V3;
    struct tpacket_req3 request = {
        .tp_block_size = BLOCK, .tp_block_nr = BLOCKS, .tp_frame_size = LARGEST,
        .tp_frame_nr = BLOCK / LARGEST * BLOCKS, .tp_retire_blk_tov = 1,
    };
    struct sockaddr_ll local = {
        .sll_family = AF_PACKET, .sll_protocol = htons((uint16_t)protocol), .sll_ifindex = interface_index(interface),
    };
    int fd = socket(AF_PACKET, SOCK_DGRAM, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof filter) < 0
        || setsockopt(fd, SOL_PACKET, PACKET_VERSION, &version, sizeof version) < 0
        || setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &request, sizeof request) < 0)
        die("packet ring");
    ring = mmap(NULL, (size_t)BLOCK * BLOCKS, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (ring == MAP_FAILED || bind(fd, (struct sockaddr *)&local, sizeof local) < 0) die("packet ring");
    ring_block = 0;
    return fd;
}

/* Copies what the ring has to the arena; gives the number of packets. */
static int ring_take(int fd)
{
    int got = 0;
    while (got < BATCH) {
        struct tpacket_block_desc *block = (void *)(ring + (size_t)BLOCK * ring_block);
        if (!(__atomic_load_n(&block->hdr.bh1.block_status, __ATOMIC_ACQUIRE) & TP_STATUS_USER)) {
            struct pollfd ready = { .fd = fd, .events = POLLIN };
            if (poll(&ready, 1, 200) <= 0) break;
            continue;
        }
        struct tpacket3_hdr *packet = (void *)((uint8_t *)block + block->hdr.bh1.offset_to_first_pkt);
        for (unsigned i = 0; i < block->hdr.bh1.num_pkts; i++) {
            if (got < BATCH) memcpy(arena[got], (uint8_t *)packet + packet->tp_net, packet->tp_snaplen);
            got++;
            packet = (void *)((uint8_t *)packet + packet->tp_next_offset);
        }
        __atomic_store_n(&block->hdr.bh1.block_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
        ring_block = (ring_block + 1) % BLOCKS;
    }
    return got;
}

static int raw_open(const char *interface)
{
    int fd = socket(AF_INET, SOCK_RAW | SOCK_NONBLOCK, IPPROTO_ESP), octets = 8 << 20, no = 0;
    struct ip_mreqn output = { .imr_ifindex = interface_index(interface) };
    if (fd < 0 || setsockopt(fd, IPPROTO_IP, IP_MULTICAST_IF, &output, sizeof output) < 0) die("raw socket");
    setsockopt(fd, IPPROTO_IP, IP_MULTICAST_LOOP, &no, sizeof no);
    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &octets, sizeof octets);
    setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &octets, sizeof octets);
    return fd;
}

static int join(const char *interface)
{
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    struct ip_mreqn member = { .imr_multiaddr.s_addr = htonl(group), .imr_ifindex = interface_index(interface) };
    if (fd < 0 || setsockopt(fd, IPPROTO_IP, IP_ADD_MEMBERSHIP, &member, sizeof member) < 0) die("join");
    return fd;
}

/* Ends the way of ESP packets where they come in, behind the ring of all protocols. */
static void divert(const char *interface)
{
    char command[256];
    snprintf(command, sizeof command,
             "nft 'table netdev parts { chain taken { type filter hook ingress device \"%s\" priority -600;"
             " ip protocol esp drop; }; }'",
             interface);
    errno = EOPNOTSUPP;
    if (system(command) != 0) die("nft");
}

static void link_parts(char **argument, int rounds)
{
    enum { LISTENERS = 3 };
    static double sends[2][LISTENERS][ROUNDS], receives[2][LISTENERS][ROUNDS];
    static const char *names[2][LISTENERS] = {
        { "raw-raw", "raw-ring", "raw-diverted" }, { "packet-raw", "packet-ring", "packet-diverted" },
    };
    struct sockaddr_in to = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(group) };
    int senders[2] = { raw_open(argument[1]), socket(AF_PACKET, SOCK_DGRAM, 0) };
    struct sockaddr_ll direct = {
        .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_IP), .sll_ifindex = interface_index(argument[1]),
        .sll_halen = 6, .sll_addr = { 1, 0, 0x5e, group >> 16 & 127, group >> 8 & 255, group & 255 },
    };
    int yes = 1, octets = 8 << 20;
    setsockopt(senders[1], SOL_PACKET, PACKET_QDISC_BYPASS, &yes, sizeof yes);
    setsockopt(senders[1], SOL_SOCKET, SO_SNDBUFFORCE, &octets, sizeof octets);
    for (int listener = 0; listener < LISTENERS; listener++) {
        enter(argument[2]);
        int member = join(argument[3]);
        int protocol = listener == 1 ? ETH_P_IP : ETH_P_ALL;
        int receiver = listener == 0 ? raw_open(argument[3]) : ring_open(argument[3], protocol);
        if (listener == 2) divert(argument[3]);
        enter(argument[0]);
        for (int way = 0; way < 2; way++) {
            for (int round = 0; round < rounds; round++) {
                for (int i = 0; i < BATCH; i++) write_ip(arena[i], IPPROTO_ESP, IP + sealed);
                if (way == 0) aim((struct sockaddr *)&to, sizeof to, IP, sealed);
                else aim((struct sockaddr *)&direct, sizeof direct, 0, IP + sealed);
                double start = thread_nanoseconds();
                int sent = sendmmsg(senders[way], message, BATCH, 0);
                sends[way][listener][round] = thread_nanoseconds() - start;
                if (sent != BATCH) die("send on the link");
                aim(NULL, 0, 0, LARGEST);
                start = thread_nanoseconds();
                int got = listener == 0 ? recvmmsg(receiver, message, BATCH, 0, NULL) : ring_take(receiver);
                receives[way][listener][round] = thread_nanoseconds() - start;
                errno = ENODATA;
                if (got != BATCH) die("receive from the link");
            }
            char name[64];
            snprintf(name, sizeof name, "send-%s", names[way][listener]);
            report(name, sends[way][listener], rounds, BATCH);
            snprintf(name, sizeof name, "receive-%s", names[way][listener]);
            report(name, receives[way][listener], rounds, BATCH);
        }
        close(receiver);
        close(member);
        if (listener == 2) {
            enter(argument[2]);
            if (system("nft delete table netdev parts") != 0) die("nft");
            enter(argument[0]);
        }
    }
}

int parts_main(int count, char **argument)
{
    if (count != 6) return 64;
    payload = (size_t)number(argument[4]);
    int rounds = (int)number(argument[5]);
    if (payload < 8 || payload > 1400 || rounds < 1 || rounds > ROUNDS) return 64;
    inner = IP + UDP + payload;
    sealed = ESP_HEAD + (inner + 2 + 3) / 4 * 4 + ICV;
    cipher(rounds);
    tunnel(rounds);
    link_parts(argument, rounds);
    return 0;
}
