/* SPDX-License-Identifier: Apache-2.0 */
/* The parts of Linux that the Glibc module does not bring to Swift.

   Every function that can fail returns a negative errno; descriptors are close-on-exec and non-blocking. */
#ifndef SATIPSEC_CLINUX_H
#define SATIPSEC_CLINUX_H
#include <stdint.h>
#include "CLinux_emulator.h"
#include "CLinux_fastpath.h"
#include "CLinux_hardening.h"
#include "CLinux_kernel.h"

/* Wipes memory in a way the compiler may not remove. */
void clinux_wipe(void *bytes, unsigned long count);

/* --- Time ------------------------------------------------------------------------------------------------------- */

/* Nanoseconds of CLOCK_BOOTTIME. */
int64_t clinux_boottime(void);
/* A timer descriptor on CLOCK_BOOTTIME. */
int clinux_timer_open(void);
/* Makes it readable at this instant, in nanoseconds; a negative instant disarms it. */
int clinux_timer_set(int fd, int64_t nanoseconds);

/* --- Addresses and interfaces ------------------------------------------------------------------------------------ */

/* An address in host byte order: IPv4 in the low 32 bits of `low`. */
struct clinux_address {
    uint64_t high, low;
    uint32_t interface; /* index; 0 for none */
    uint16_t port;
    uint8_t family; /* 4, 6, or 0 for none */
};

/* Octets of an interface name, the final zero included. */
enum { CLINUX_NAME_OCTETS = 16 };

/* Index by name. */
int clinux_interface_index(const char *name);
/* First address of that family (4 or 6) and its prefix length; for IPv6 a global one is preferred. */
int clinux_interface_address(const char *name, int family, struct clinux_address *address);
/* MTU in octets. */
int clinux_interface_mtu(const char *name);
/* 1 when up, 0 when down. */
int clinux_interface_is_up(const char *name);
/* Sets the MTU (when positive) and brings the interface up. The length of the transmission queue (when positive) is set
   where that is allowed. */
int clinux_interface_configure(const char *name, int mtu, int queue);
/* Adds (or with add = 0 takes away) a route through an interface. */
int clinux_route_change(const char *name, const struct clinux_address *network, int prefix_length, int metric, int add);

/* Opens a TUN (tap = 0) or TAP device without packet information header. `name` holds CLINUX_NAME_OCTETS octets and
   receives the name in use; an empty one lets the kernel choose. The interface goes with the descriptor. */
int clinux_tun_open(char *name, int tap);

/* --- Sockets ----------------------------------------------------------------------------------------------------- */

/* A bound UDP socket that reports and takes exact local addresses. `address` may be unspecified for any, `interface`
   NULL for all interfaces. */
int clinux_udp_open(const struct clinux_address *address, const char *interface);
/* The port a socket is bound to. */
int clinux_local_port(int fd);
/* A raw socket of a family for ESP on one interface, `hops` being the TTL or hop limit of unicasts; its buffers are
   made as large as the system allows, up to `buffer_octets` each. What it receives begins with the IPv4 header, or with
   ESP itself over IPv6, which has the traffic class in the slot. */
int clinux_esp_open(int family, const char *interface, int hops, int buffer_octets);
/* Prepares a UDP socket to carry ESP beside what it carries already: what it receives has the traffic class in the
   slot, what routers say of its packets comes to its error queue, and its buffers are as those of a raw socket. */
int clinux_udp_share(int fd, int family, int buffer_octets);
/* Has the kernel's IPsec take ESP out of what comes to an IPv4 UDP socket (RFC 3948); the rest goes on coming. */
int clinux_udp_decapsulate(int fd);
/* What may happen to a packet that leaves: 0 it may be cut on its way, where the family allows that; 1 it may not (DF);
   2 it is larger than its path, and the kernel cuts it here where it knows that path; 3 what a new socket does. */
int clinux_fragmentation(int fd, int family, int mode);

/* What a router said about a packet that we sent. */
struct clinux_error {
    struct clinux_address destination; /* of that packet */
    uint32_t mtu; /* 0 when it said anything else than "too big" */
    uint32_t count;
    uint8_t octets[8]; /* the beginning of what followed its IP header, and UDP header on a UDP socket */
};

/* Takes the next message from a socket's error queue; -EAGAIN when there is none. */
int clinux_error_next(int fd, struct clinux_error *error);
/* Sends one ICMP or ICMPv6 message, type to end, by the route to its destination. The kernel fills in the checksum of
   ICMPv6 only. */
int clinux_icmp_send(const struct clinux_address *destination, const uint8_t *octets, unsigned count);
/* How multicasts leave: interface index (0 leaves it), TTL or hop limit, whether this host hears them. */
int clinux_multicast_output(int fd, int family, unsigned interface, int ttl, int loop);
/* A socket whose only use is to hold group memberships. */
int clinux_membership_open(int family);
/* Joins (join = 1) or leaves a group on an interface. */
int clinux_membership_change(int fd, const struct clinux_address *group, unsigned interface, int join);
/* Packets this socket lost because its receive buffer was full. */
int64_t clinux_socket_drops(int fd);

/* --- Batches of packets ------------------------------------------------------------------------------------------ */

/* One packet: `count` octets from `bytes` + `start` on. On receipt `local` is the destination address of its header and
   the interface it came in by; on sending it is the source to use, when it has a family. */
struct clinux_slot {
    uint8_t *bytes; /* as many as the batch's capacity */
    uint32_t start; /* of what to send; ignored on receipt, which begins at 0 */
    uint32_t count;
    uint32_t truncated; /* received, but it did not fit */
    uint32_t traffic_class; /* DSCP and ECN octet of what to send (0 leaves it), or received where a socket tells it */
    struct clinux_address local, remote;
};
struct clinux_batch;

struct clinux_batch *clinux_batch_new(unsigned slots, unsigned capacity);
void clinux_batch_free(struct clinux_batch *batch);
struct clinux_slot *clinux_batch_slot(struct clinux_batch *batch, unsigned index);
/* Receives up to `limit` packets; returns how many, 0 when there are none. */
int clinux_batch_receive(struct clinux_batch *batch, int fd, unsigned limit);
/* Sends the packets from `first` on, up to `count`; returns how many went out (at least one), or the negative errno
   of the first. */
int clinux_batch_send(struct clinux_batch *batch, int fd, unsigned first, unsigned count);
/* The same by a socket of clinux_link_open: whole IPv4 packets to groups, each to its group's hardware address. */
int clinux_batch_send_link(struct clinux_batch *batch, int fd, unsigned interface, unsigned first, unsigned count);

/* --- The kernel's multicast routers, one a family ---------------------------------------------------------------- */

/* Becomes the multicast router of this network namespace for family 4 or 6; -EADDRINUSE when there is one. */
int clinux_mroute_open(int family);
/* Gives it up: all its interfaces and routes go. */
int clinux_mroute_close(int fd, int family);
/* Makes an interface the virtual interface of that number. */
int clinux_mroute_add_interface(int fd, int family, int number, unsigned interface);
/* Adds or replaces the route of (source, group) from a parent to the virtual interfaces in `outputs`, a bit set.
   An unspecified source makes it the (*,G) entry. */
int clinux_mroute_add(int fd, const struct clinux_address *source, const struct clinux_address *group, int parent,
                      uint32_t outputs);
int clinux_mroute_remove(int fd, const struct clinux_address *source, const struct clinux_address *group, int parent);

#endif
