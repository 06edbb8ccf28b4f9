#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Sender, receiver, sniffer and forger for the gateway test. Python's standard library only, no code of the product."""

import argparse
import collections
import select
import signal
import socket
import struct
import sys
import time

MARKER = b"SATIPSEC-CLEAR-TEXT"
ETH_ALL, ETH_IP, ETH_IPV6 = 0x0003, 0x0800, 0x86DD
IP_RECVTTL = 12
IP_MTU_DISCOVER = 10
IPV6_MTU_DISCOVER = 23


def index(name):
    return socket.if_nametoindex(name)


def ready():
    print("ready", flush=True)


def is_v6(address):
    return ":" in address


def multicast_interface(sock, name):
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index(name))
        return
    request = struct.pack("=4s4si", b"", b"", index(name))
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, request)


def send(options):
    """Numbered datagrams at a steady pace, one or `burst` at a time."""
    sock = socket.socket(socket.AF_INET6 if is_v6(options.to) else socket.AF_INET, socket.SOCK_DGRAM)
    if options.interface:
        multicast_interface(sock, options.interface)
    if is_v6(options.to):
        settings = {socket.IPV6_MULTICAST_HOPS: options.ttl, socket.IPV6_UNICAST_HOPS: options.ttl,
                    socket.IPV6_MULTICAST_LOOP: 0, socket.IPV6_TCLASS: options.tos,
                    IPV6_MTU_DISCOVER: 2 if options.df else 1}
    else:
        settings = {socket.IP_MULTICAST_TTL: options.ttl, socket.IP_TTL: options.ttl, socket.IP_MULTICAST_LOOP: 0,
                    socket.IP_TOS: options.tos, IP_MTU_DISCOVER: 2 if options.df else 0}
    for name, value in settings.items():
        sock.setsockopt(socket.IPPROTO_IPV6 if is_v6(options.to) else socket.IPPROTO_IP, name, value)
    failures, begin = 0, time.monotonic()
    for number in range(options.count):
        payload = MARKER + b" %08d " % (options.first + number)
        payload += b"." * (options.size - len(payload))
        time.sleep(max(0, begin + number // options.burst * options.interval / 1000 - time.monotonic()))
        try:
            sock.sendto(payload, (options.to, options.port))
        except OSError as error:
            failures += 1
            if failures == 1:
                print("send:", error, file=sys.stderr)
    print("sent=%d failures=%d" % (options.count, failures))


def receive(options):
    """Counts numbered datagrams until `count` came, time is up, or it is told to end."""
    running = [True]
    signal.signal(signal.SIGTERM, lambda *_: running.clear())
    v6 = options.v6 or any(map(is_v6, options.groups))
    sock = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if v6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
    # On a busy machine it is some time until we are there; the forced size is root's only.
    for option in (socket.SO_RCVBUF, 33):
        try:
            sock.setsockopt(socket.SOL_SOCKET, option, 8 << 20)
        except PermissionError:
            pass
    sock.bind(("", options.port))
    for group in options.groups:
        if v6:
            request = socket.inet_pton(socket.AF_INET6, group) + struct.pack("=i", index(options.interface))
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, request)
            continue
        request = struct.pack("=4s4si", socket.inet_aton(group), b"", index(options.interface))
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
    ready()
    numbers, sources, ttls, sizes, classes, damaged = [], set(), set(), set(), set(), 0
    end = time.monotonic() + options.seconds
    while len(numbers) < options.count and time.monotonic() < end:
        if not select.select([sock], [], [], 0.05)[0]:
            if not running:
                break
            continue
        data, ancillary, _, source = sock.recvmsg(70000, 256)
        if not data.startswith(MARKER):
            continue
        numbers.append(int(data[len(MARKER) + 1:len(MARKER) + 9]))
        damaged += data[len(MARKER) + 10:].strip(b".") != b""
        sources.add(source[0])
        sizes.add(len(data))
        for level, kind, value in ancillary:
            if (level, kind) in [(socket.IPPROTO_IP, socket.IP_TTL), (socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT)]:
                ttls.add(struct.unpack("=i", value)[0])
            if (level, kind) in [(socket.IPPROTO_IP, socket.IP_TOS), (socket.IPPROTO_IPV6, socket.IPV6_TCLASS)]:
                classes.add(value[0])
    print("count=%d distinct=%d ordered=%s sources=%s ttl=%s size=%s tos=%s damaged=%d" % (
        len(numbers), len(set(numbers)), "yes" if numbers == sorted(numbers) else "no", ",".join(sorted(sources)),
        ",".join(map(str, sorted(ttls))), ",".join(map(str, sorted(sizes))), ",".join(map(str, sorted(classes))),
        damaged))


def classify(frame):
    """What a frame is to the guard: its class, and for ESP who sends what to whom."""
    kind = struct.unpack("!H", frame[12:14])[0]
    if kind == 0x0806:
        return "arp"
    if kind == ETH_IPV6:
        following, position, offset = frame[20], 54, 0
        if following == 0:  # hop-by-hop, before MLD
            following, position = frame[54], position + 8 + 8 * frame[55]
        if following == 44:
            following, offset = frame[position], struct.unpack("!H", frame[position + 2:position + 4])[0] & 0xFFF8
            position += 8
        source, destination = (socket.inet_ntop(socket.AF_INET6, frame[at:at + 16]) for at in (22, 38))
        if following == 50:
            spi = struct.unpack("!I", frame[position:position + 4])[0] if offset == 0 else 0
            return "esp %s>%s spi=%d" % (source, destination, spi)
        if following == 58 and (frame[position] in range(133, 137) or frame[position] in (130, 131, 132, 143)):
            return "icmp6"
        return "clear %s>%s protocol %d" % (source, destination, following)
    if kind != ETH_IP:
        return "clear ethertype 0x%04x" % kind
    header = (frame[14] & 15) * 4
    protocol = frame[23]
    source, destination = socket.inet_ntoa(frame[26:30]), socket.inet_ntoa(frame[30:34])
    offset = struct.unpack("!H", frame[20:22])[0] & 0x1FFF
    if protocol == 50:
        spi = struct.unpack("!I", frame[14 + header:18 + header])[0] if offset == 0 else 0
        return "esp %s>%s spi=%d" % (source, destination, spi)
    if protocol == 2:
        return "igmp"
    return "clear %s>%s protocol %d" % (source, destination, protocol)


def sniff(options):
    """Sees every frame on the segment until told to end, then says how many of which class there were."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_ALL))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    sock.bind((options.interface, ETH_ALL))
    sock.setsockopt(263, 1, struct.pack("=iHH8s", index(options.interface), 1, 0, b""))  # promiscuous
    running = [True]
    signal.signal(signal.SIGTERM, lambda *_: running.clear())
    ready()
    seen, leaks = collections.Counter(), 0
    end = time.monotonic() + options.seconds
    while time.monotonic() < end:
        if not select.select([sock], [], [], 0.05)[0]:
            if not running:
                break
            continue
        frame, address = sock.recvfrom(70000)
        if address[2] == socket.PACKET_OUTGOING:
            continue
        seen[classify(frame)] += 1
        leaks += MARKER in frame
        if frame[12:14] == b"\x08\0" and frame[23] == 50 and frame[15]:
            seen["tos %d" % frame[15]] += 1
        if frame[12:14] == b"\x08\0" and frame[23] == 50 and frame[20] & 0x40:
            seen["df"] += 1
        if frame[12:14] == b"\x86\xdd" and frame[20] in (44, 50):
            seen["tos %d" % (struct.unpack("!H", frame[14:16])[0] >> 4 & 255)] += 1
            seen["hops %d" % frame[21]] += 1
            seen["label %d" % (struct.unpack("!I", frame[14:18])[0] & 0xFFFFF)] += 1
    for name, count in sorted(seen.items()):
        print("%s count=%d" % (name, count))
    print("clear-total count=%d" % sum(count for name, count in seen.items() if name.startswith("clear")))
    print("marker count=%d" % leaks)


def checksum(octets):
    total = sum(struct.unpack("!%dH" % (len(octets) // 2), octets))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ip_frame(source, destination, protocol, payload, ethernet_destination=None):
    if is_v6(destination):
        addresses = [socket.inet_pton(socket.AF_INET6, address) for address in (source, destination)]
        header = struct.pack("!IHBB", 6 << 28, len(payload), protocol, 8) + b"".join(addresses)
        if protocol == 17:  # over IPv6 the checksum is no choice
            pseudo = b"".join(addresses) + struct.pack("!II", len(payload), protocol) + payload
            payload = payload[:6] + struct.pack("!H", checksum(pseudo + b"\0" * (len(pseudo) % 2))) + payload[8:]
        target = ethernet_destination or b"\x33\x33" + addresses[1][12:]
        return target + b"\x02\0\0\0\0\x99" + struct.pack("!H", ETH_IPV6) + header + payload
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 1, 0, 8, protocol, 0,
                         socket.inet_aton(source), socket.inet_aton(destination))
    header = header[:10] + struct.pack("!H", checksum(header)) + header[12:]
    group = socket.inet_aton(destination)
    target = ethernet_destination or bytes([1, 0, 0x5E, group[1] & 0x7F, group[2], group[3]])
    return target + b"\x02\0\0\0\0\x99" + struct.pack("!H", ETH_IP) + header + payload


def forge(options):
    """Injects on the segment: clear datagrams, made-up ESP, ESP that was seen before."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_ALL))
    sock.bind((options.interface, ETH_ALL))
    frames = []
    if options.what == "clear":
        data = MARKER + b" %08d " % 666
        udp = struct.pack("!HHHH", 4000, options.port, 8 + len(data), 0) + data
        target = bytes.fromhex(options.mac.replace(":", "")) if options.mac else None
        frames = [ip_frame(options.source, options.to, 17, udp, target)]
    elif options.what == "toobig":
        # A router's word about ESP from options.to, its own address being options.source.
        quoted = ip_frame(options.to, options.peer, 50, struct.pack("!II", options.spi, options.sequence))[14:]
        v6 = is_v6(options.to)
        message = struct.pack("!BBHHH", 3, 4, 0, 0, options.mtu) if not v6 else struct.pack("!BBHI", 2, 0, 0, options.mtu)
        message += quoted
        pseudo = b""
        if v6:
            addresses = [socket.inet_pton(socket.AF_INET6, address) for address in (options.source, options.to)]
            pseudo = b"".join(addresses) + struct.pack("!II", len(message), 58)
        message = message[:2] + struct.pack("!H", checksum(pseudo + message)) + message[4:]
        target = bytes.fromhex(options.mac.replace(":", ""))
        frames = [ip_frame(options.source, options.to, 58 if v6 else 1, message, target)]
    elif options.what == "esp":
        body = struct.pack("!II", options.spi, 1_000_000) + bytes(range(200))
        frames = [ip_frame(options.source, options.to, 50, body)]
    else:
        ready()
        end = time.monotonic() + options.seconds
        while len(frames) < 5 and time.monotonic() < end:
            if not select.select([sock], [], [], max(0, end - time.monotonic()))[0]:
                break
            frame = sock.recv(70000)
            if classify(frame).startswith("esp " + options.source):
                frames.append(frame)
        time.sleep(0.1)
    for _ in range(options.count):
        for frame in frames:
            sock.send(frame)
    print("forged=%d" % (options.count * len(frames)))


def connection(options):
    """Both ends of a TCP connection, in two processes; says which segments they agreed on."""
    family = socket.AF_INET6 if is_v6(options.address) else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.settimeout(8)
    if options.listen:
        sock.bind((options.address, options.port))
        sock.listen()
        ready()
        sock = sock.accept()[0]
    else:
        sock.connect((options.address, options.port))
    print("mss=%d" % sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)

    command = commands.add_parser("send")
    command.set_defaults(run=send)
    command.add_argument("--to", required=True)
    command.add_argument("--interface")
    command.add_argument("--port", type=int, default=5000)
    command.add_argument("--count", type=int, default=20)
    command.add_argument("--first", type=int, default=0)
    command.add_argument("--interval", type=float, default=2, help="in milliseconds")
    command.add_argument("--burst", type=int, default=1, help="datagrams an interval")
    command.add_argument("--ttl", type=int, default=8)
    command.add_argument("--size", type=int, default=200)
    command.add_argument("--tos", type=int, default=0)
    command.add_argument("--df", action="store_true")

    command = commands.add_parser("receive")
    command.set_defaults(run=receive)
    command.add_argument("--groups", nargs="*", default=[])
    command.add_argument("--interface", required=True)
    command.add_argument("--port", type=int, default=5000)
    command.add_argument("--count", type=int, default=20)
    command.add_argument("--seconds", type=float, default=8)
    command.add_argument("--v6", action="store_true", help="unicasts over IPv6")

    command = commands.add_parser("sniff")
    command.set_defaults(run=sniff)
    command.add_argument("--interface", required=True)
    command.add_argument("--seconds", type=float, default=50)

    command = commands.add_parser("forge")
    command.set_defaults(run=forge)
    command.add_argument("what", choices=["clear", "esp", "replay", "toobig"])
    command.add_argument("--interface", required=True)
    command.add_argument("--source", required=True)
    command.add_argument("--to", default="239.1.1.1")
    command.add_argument("--mac")
    command.add_argument("--port", type=int, default=5000)
    command.add_argument("--spi", type=int, default=0)
    command.add_argument("--peer")
    command.add_argument("--sequence", type=int, default=1)
    command.add_argument("--mtu", type=int, default=1500)
    command.add_argument("--count", type=int, default=5)
    command.add_argument("--seconds", type=float, default=8)

    command = commands.add_parser("connection")
    command.set_defaults(run=connection)
    command.add_argument("address")
    command.add_argument("--port", type=int, default=5000)
    command.add_argument("--listen", action="store_true")

    options = parser.parse_args()
    options.run(options)


main()
