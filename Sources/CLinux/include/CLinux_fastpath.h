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

/* Sleeps this long, less than a second. */
void clinux_pause(int64_t nanoseconds);

#endif
