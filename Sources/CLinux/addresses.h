/* SPDX-License-Identifier: Apache-2.0 */
/* Between the kernel's socket addresses and ours. */
#ifndef SATIPSEC_CLINUX_ADDRESSES_H
#define SATIPSEC_CLINUX_ADDRESSES_H
#include "CLinux.h"
#include <arpa/inet.h>
#include <endian.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

static inline void clinux_v6_read(const struct in6_addr *from, struct clinux_address *to)
{
    uint64_t words[2];
    memcpy(words, from, sizeof words);
    to->high = be64toh(words[0]);
    to->low = be64toh(words[1]);
}

static inline void clinux_v6_write(const struct clinux_address *from, struct in6_addr *to)
{
    uint64_t words[2] = { htobe64(from->high), htobe64(from->low) };
    memcpy(to, words, sizeof words);
}

static inline void clinux_address_read(const struct sockaddr *from, struct clinux_address *to)
{
    memset(to, 0, sizeof *to);
    if (from->sa_family == AF_INET) {
        const struct sockaddr_in *v4 = (const struct sockaddr_in *)from;
        to->family = 4;
        to->low = ntohl(v4->sin_addr.s_addr);
        to->port = ntohs(v4->sin_port);
    } else if (from->sa_family == AF_INET6) {
        const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)from;
        to->family = 6;
        clinux_v6_read(&v6->sin6_addr, to);
        to->port = ntohs(v6->sin6_port);
        to->interface = v6->sin6_scope_id;
    }
}

static inline socklen_t clinux_address_write(const struct clinux_address *from, struct sockaddr_storage *to)
{
    memset(to, 0, sizeof *to);
    if (from->family == 4) {
        struct sockaddr_in *v4 = (struct sockaddr_in *)to;
        v4->sin_family = AF_INET;
        v4->sin_addr.s_addr = htonl((uint32_t)from->low);
        v4->sin_port = htons(from->port);
        return sizeof *v4;
    }
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)to;
    v6->sin6_family = AF_INET6;
    clinux_v6_write(from, &v6->sin6_addr);
    v6->sin6_port = htons(from->port);
    v6->sin6_scope_id = from->interface;
    return sizeof *v6;
}

#endif
