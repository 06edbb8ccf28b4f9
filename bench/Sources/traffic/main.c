/* SPDX-License-Identifier: Apache-2.0 */
/* Sends and counts packets for the data plane's benchmark:
 *
 *   traffic send INTERFACE SOURCE PORT SIZE RATE SECONDS TICK DESTINATION...
 *   traffic receive INTERFACE PORT [GROUP]
 *   traffic tcp-serve PORT | tcp-send SOURCE ADDRESS PORT SECONDS
 *   traffic parts ...                                         see parts.c
 *
 * `send` sends RATE packets a second, each to every DESTINATION, of SIZE octets of UDP payload, in bursts every TICK
 * microseconds. `receive` prints its counts for each line that it reads. */
#define _GNU_SOURCE
#include "traffic.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BATCH = 64, LARGEST = 9000, DESTINATIONS = 64 };

void die(const char *what)
{
    fprintf(stderr, "traffic: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double seconds_of(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

double wall_seconds(void) { return seconds_of(CLOCK_MONOTONIC); }
double cpu_seconds(void) { return seconds_of(CLOCK_PROCESS_CPUTIME_ID); }

long number(const char *text)
{
    char *end;
    long value = strtol(text, &end, 10);
    if (*end || end == text) {
        errno = EINVAL;
        die(text);
    }
    return value;
}

int interface_index(const char *name)
{
    int index = (int)if_nametoindex(name);
    if (index == 0) die(name);
    return index;
}

static struct sockaddr_in address_of(const char *text, long port)
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
    errno = EINVAL;
    if (inet_pton(AF_INET, text, &address.sin_addr) != 1) die(text);
    return address;
}

static void bind_to(int fd, const char *text)
{
    struct sockaddr_in local = address_of(text, 0);
    if (bind(fd, (struct sockaddr *)&local, sizeof local) < 0) die(text);
}

static int is_group(const struct sockaddr_in *address) { return ntohl(address->sin_addr.s_addr) >> 28 == 14; }

static void enlarge(int fd, int forced, int plain)
{
    int octets = 32 << 20;
    if (setsockopt(fd, SOL_SOCKET, forced, &octets, sizeof octets) < 0)
        setsockopt(fd, SOL_SOCKET, plain, &octets, sizeof octets);
}

static void sleep_until(double when)
{
    struct timespec at = { .tv_sec = (time_t)when };
    at.tv_nsec = (long)((when - (double)at.tv_sec) * 1e9);
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL) == EINTR) {}
}

static int send_main(int count, char **argument)
{
    if (count < 8 || count - 7 > DESTINATIONS) return 64;
    long port = number(argument[2]), size = number(argument[3]), rate = number(argument[4]);
    double seconds = atof(argument[5]), tick = (double)number(argument[6]) * 1e-6;
    if (size < 8 || size > LARGEST) return 64;
    int copies = count - 7;
    struct sockaddr_in to[DESTINATIONS];
    for (int i = 0; i < copies; i++) to[i] = address_of(argument[7 + i], port);

    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    if (fd < 0) die("socket");
    bind_to(fd, argument[1]);
    struct ip_mreqn output = { .imr_ifindex = interface_index(argument[0]) };
    /* TTL 1, the default: a host's own multicast that no router carries beyond the tunnel's ends. */
    if (is_group(&to[0]) && setsockopt(fd, IPPROTO_IP, IP_MULTICAST_IF, &output, sizeof output) < 0) die("output");
    int no = 0;
    setsockopt(fd, IPPROTO_IP, IP_MULTICAST_LOOP, &no, sizeof no);
    enlarge(fd, SO_SNDBUFFORCE, SO_SNDBUF);
    prctl(PR_SET_TIMERSLACK, 1);

    static uint8_t payload[BATCH][LARGEST];
    static struct mmsghdr message[BATCH];
    static struct iovec vector[BATCH];
    for (int i = 0; i < BATCH; i++) {
        memset(payload[i], i, (size_t)size);
        vector[i] = (struct iovec){ payload[i], (size_t)size };
        message[i].msg_hdr = (struct msghdr){ .msg_iov = &vector[i], .msg_iovlen = 1, .msg_namelen = sizeof to[0] };
    }
    uint64_t sent = 0, refused = 0;
    double start = wall_seconds(), end = start + seconds, base = start, skipped = 0, cpu = cpu_seconds();
    for (double next = start; next < end; next += tick) {
        sleep_until(next);
        double now = wall_seconds();
        /* Held up for long: what was not sent is left out, not sent in one heap. */
        if (now - next > 4 * tick) {
            double lost = now - next;
            base += lost;
            skipped += lost;
            next = now;
        }
        double due = (next + tick - base) * (double)rate - (double)(sent / (uint64_t)copies);
        for (long left = (long)due * copies; left > 0;) {
            unsigned batch = left < BATCH ? (unsigned)left : BATCH;
            for (unsigned i = 0; i < batch; i++) {
                uint64_t order = sent + i, packet = order / (uint64_t)copies;
                memcpy(payload[i], &packet, sizeof packet);
                message[i].msg_hdr.msg_name = &to[order % (uint64_t)copies];
            }
            int done = sendmmsg(fd, message, batch, 0);
            if (done < 0) { /* the first was refused */
                refused++;
                done = 1;
            }
            sent += (uint64_t)done;
            left -= done;
        }
    }
    double took = wall_seconds() - start;
    printf("sent=%lu refused=%lu seconds=%.6f skipped=%.6f cpu=%.6f\n", (unsigned long)(sent / (uint64_t)copies),
           (unsigned long)refused, took, skipped, cpu_seconds() - cpu);
    return 0;
}

static int receive_main(int count, char **argument)
{
    if (count < 2 || count > 3) return 64;
    struct sockaddr_in local = { .sin_family = AF_INET, .sin_port = htons((uint16_t)number(argument[1])) };
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    if (fd < 0) die("socket");
    if (count == 3) {
        local.sin_addr = address_of(argument[2], 0).sin_addr;
        struct ip_mreqn member = { .imr_multiaddr = local.sin_addr, .imr_ifindex = interface_index(argument[0]) };
        if (setsockopt(fd, IPPROTO_IP, IP_ADD_MEMBERSHIP, &member, sizeof member) < 0) die("join");
    }
    if (bind(fd, (struct sockaddr *)&local, sizeof local) < 0) die("bind");
    enlarge(fd, SO_RCVBUFFORCE, SO_RCVBUF);
    static uint8_t payload[BATCH][LARGEST];
    static struct mmsghdr message[BATCH];
    static struct iovec vector[BATCH];
    for (int i = 0; i < BATCH; i++) {
        vector[i] = (struct iovec){ payload[i], LARGEST };
        message[i].msg_hdr = (struct msghdr){ .msg_iov = &vector[i], .msg_iovlen = 1 };
    }
    puts("ready");
    fflush(stdout);
    uint64_t packets = 0, octets = 0, disordered = 0, last = 0;
    for (;;) {
        struct pollfd ready[2] = { { .fd = fd, .events = POLLIN }, { .fd = 0, .events = POLLIN } };
        if (poll(ready, 2, -1) < 0) die("poll");
        for (int got = BATCH; got == BATCH;) {
            got = recvmmsg(fd, message, BATCH, MSG_DONTWAIT, NULL);
            for (int i = 0; i < got; i++) {
                uint64_t packet;
                memcpy(&packet, payload[i], sizeof packet);
                packets++;
                octets += message[i].msg_len;
                /* A sender begins with 0. */
                if (packet <= last && packet != 0) disordered++;
                last = packet;
            }
        }
        if (ready[1].revents) {
            char line[64];
            if (read(0, line, sizeof line) <= 0) return 0;
            printf("packets=%lu octets=%lu disordered=%lu\n", (unsigned long)packets, (unsigned long)octets,
                   (unsigned long)disordered);
            fflush(stdout);
        }
    }
}

int tcp_main(int count, char **argument)
{
    static char block[1 << 17];
    int fd = socket(AF_INET, SOCK_STREAM, 0), yes = 1;
    if (fd < 0) die("socket");
    if (count == 1) {
        struct sockaddr_in local = { .sin_family = AF_INET, .sin_port = htons((uint16_t)number(argument[0])) };
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
        if (bind(fd, (struct sockaddr *)&local, sizeof local) < 0 || listen(fd, 4) < 0) die("listen");
        puts("ready");
        fflush(stdout);
        for (;;) {
            int from = accept(fd, NULL, NULL);
            if (from < 0) die("accept");
            uint64_t octets = 0;
            double start = wall_seconds();
            for (ssize_t got; (got = read(from, block, sizeof block)) > 0;) octets += (uint64_t)got;
            printf("octets=%lu seconds=%.6f\n", (unsigned long)octets, wall_seconds() - start);
            fflush(stdout);
            close(from);
        }
    }
    if (count != 4) return 64;
    bind_to(fd, argument[0]);
    struct sockaddr_in to = address_of(argument[1], number(argument[2]));
    if (connect(fd, (struct sockaddr *)&to, sizeof to) < 0) die("connect");
    for (double end = wall_seconds() + atof(argument[3]); wall_seconds() < end;)
        if (write(fd, block, sizeof block) < 0) die("write");
    return 0;
}

int main(int count, char **argument)
{
    int status = 64;
    if (count > 1) {
        const char *what = argument[1];
        if (strcmp(what, "send") == 0) status = send_main(count - 2, argument + 2);
        else if (strcmp(what, "receive") == 0) status = receive_main(count - 2, argument + 2);
        else if (strncmp(what, "tcp-", 4) == 0) status = tcp_main(count - 2, argument + 2);
        else if (strcmp(what, "parts") == 0) status = parts_main(count - 2, argument + 2);
    }
    if (status == 64) fputs("traffic: see the head of main.c for its arguments\n", stderr);
    return status;
}
