/* SPDX-License-Identifier: Apache-2.0 */
/* What makes packets cheaper than plain reads, writes and raw sockets. Every function that can fail returns a negative
   errno. */
#ifndef SATIPSEC_CLINUX_FASTPATH_H
#define SATIPSEC_CLINUX_FASTPATH_H
#include <stdint.h>

/* The one's complement sum of these octets as big-endian 16-bit words, the last one filled up with zero, and of `start`
   (RFC 1071). Not complemented. */
uint16_t clinux_checksum(const uint8_t *octets, unsigned count, uint32_t start);

/* Octets before each packet that is read from or written to a tunnel with headers. */
enum { CLINUX_TUN_HEADER = 10 };
/* Like clinux_tun_open, of a TUN with a header before each packet. It hands out whole packets with finished checksums
   only, and takes several UDP datagrams of one size in one piece. */
int clinux_tun_open_with_header(char *name);

/* Octets from several places for one write to such a tunnel. */
struct clinux_gather;
struct clinux_gather *clinux_gather_new(unsigned pieces);
void clinux_gather_free(struct clinux_gather *gather);
/* -ENOBUFS when it is full. The octets must stay until it is written. */
int clinux_gather_add(struct clinux_gather *gather, uint8_t *octets, unsigned count);
/* Writes all, and is empty. With `segment_octets` they are one IP and UDP header of `header_octets` and payloads of
   `segment_octets` each, the last perhaps less, which the kernel takes for as many datagrams. */
int clinux_gather_write(struct clinux_gather *gather, int fd, unsigned header_octets, unsigned segment_octets);

/* A socket that sends IP packets to hardware addresses of an Ethernet interface; -EOPNOTSUPP for another kind. */
int clinux_link_open(const char *interface, int buffer_octets);

/* A ring in memory into which the kernel puts what comes in by an Ethernet interface: whole ESP packets to groups, with
   their outer header, without VLAN tag, IP options or IPv6 extension headers. It hands packets over by the block: when
   one is full, or after a millisecond. NULL, and errno set, when there is none (EOPNOTSUPP for another kind of
   interface). */
struct clinux_ring;
struct clinux_ring *clinux_ring_open(const char *interface, unsigned octets);
void clinux_ring_close(struct clinux_ring *ring);
/* Readable when a block is there; stays the ring's. */
int clinux_ring_descriptor(const struct clinux_ring *ring);
/* Packets in the next block; 0 when there is none yet. */
unsigned clinux_ring_take(struct clinux_ring *ring);
/* The next packet of that block, from its IP header on, perhaps with padding behind; NULL after the last. Its octets
   may be changed, until the block is released. */
uint8_t *clinux_ring_next(struct clinux_ring *ring, unsigned *count);
/* Gives the block back to the kernel. */
void clinux_ring_release(struct clinux_ring *ring);
/* Packets there was no room for, since it was opened. */
int64_t clinux_ring_drops(struct clinux_ring *ring);
/* Keeps what the ring takes from the IP stack, by an nftables table of that name, as long as the descriptor is open
   that it returns. */
int clinux_ring_divert(const char *table, const char *interface);

/* Sleeps this long, less than a second. */
void clinux_pause(int64_t nanoseconds);

#endif
