# SPDX-License-Identifier: Apache-2.0
"""The programs at the stations: streaming server, receiver, recorder, and a prober that must not be heard.

Each writes what it did into a file, for the verification afterwards. A record of the server's and the receiver's is a
time (double, seconds since 1970), a length (16 bits) and the datagram; the server writes time and index only.
"""

from __future__ import annotations

import hashlib
import json
import signal
import socket
import struct
import sys
import time
from pathlib import Path

from capture import record
from mpegts import DATAGRAM, split

PROBE = b"satipsec demonstration: this text must never be seen on the satellite. "


class Stop(Exception):
    pass


def stop_on_signal() -> None:
    def raise_stop(*_: object) -> None:
        raise Stop

    signal.signal(signal.SIGTERM, raise_stop)


def multicast_sender(address: str) -> socket.socket:
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
    sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 8)
    sender.bind((address, 5004))
    return sender


def send(film: str, address: str, group: str, port: str, rate: str, log: str) -> None:
    """Streams a file at a constant rate (bits per second), paced to the datagram."""
    datagrams = split(Path(film).read_bytes())
    sender = multicast_sender(address)
    interval = DATAGRAM * 8 / int(rate)
    stopping: list[int] = []  # no exception here: what is in the log shall be exactly what was sent
    signal.signal(signal.SIGTERM, lambda number, _: stopping.append(number))
    with open(log, "wb") as file:
        started = time.monotonic()
        for index, datagram in enumerate(datagrams):
            wait = started + index * interval - time.monotonic()
            if wait > 0:
                time.sleep(wait)
            if stopping:
                break
            file.write(struct.pack("<dI", time.time(), index))
            sender.sendto(datagram, (group, int(port)))


def receive(address: str, group: str, port: str, log: str) -> None:
    """Joins a group as any player does and keeps what comes."""
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    receiver.bind((group, int(port)))
    receiver.setsockopt(
        socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(group) + socket.inet_aton(address))
    with open(log, "wb") as file:
        try:
            while True:
                datagram = receiver.recv(65536)
                file.write(struct.pack("<dH", time.time(), len(datagram)) + datagram)
        except Stop:
            pass
        print(json.dumps({"socket_drops": socket_drops(int(port))}), flush=True)


def send_v6(group: str, port: str) -> None:
    """A number fifty times a second, behind a text that must not be seen."""
    sender = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 8)
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopping.append(number))
    count = 0
    while not stopping:
        sender.sendto(PROBE + b"%d" % count, (group, int(port)))
        count += 1
        time.sleep(0.02)
    print(json.dumps({"sent": count}), flush=True)


def receive_v6(group: str, port: str) -> None:
    receiver = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    receiver.bind((group, int(port)))
    interface = struct.pack("=i", socket.if_nametoindex("eth0"))
    receiver.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, socket.inet_pton(socket.AF_INET6, group) + interface)
    numbers: list[int] = []
    try:
        while True:
            numbers.append(int(receiver.recv(2048).removeprefix(PROBE)))
    except Stop:
        print(json.dumps({"received": numbers}), flush=True)


def socket_drops(port: int) -> int:
    """Datagrams that the receiver's own socket had no room for."""
    lines = Path("/proc/self/net/udp").read_text().splitlines()[1:]
    return sum(int(line.split()[-1]) for line in lines if line.split()[1].endswith(f":{port:04X}"))


def probe(address: str, *targets: str) -> None:
    """Sends a text to addresses (ADDRESS:PORT) ten times a second: all of them may only travel protected, or not at all."""
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
    sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 8)
    count = refused = 0
    try:
        while True:
            for target in targets:
                host, port = target.rsplit(":", 1)
                try:
                    sender.sendto(PROBE * 4, (host, int(port)))
                    count += 1
                except OSError:
                    refused += 1  # no route is as good as no leak
            time.sleep(0.1)
    except Stop:
        print(json.dumps({"sent": count, "refused": refused}), flush=True)


def round_trip(interface: str, own: str, target: str) -> None:
    """The median round trip of five ARP requests, which a kernel answers at once."""
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806))
    raw.bind((interface, 0x0806))
    raw.settimeout(5)
    mac = raw.getsockname()[4]
    request = b"\xff" * 6 + mac + struct.pack("!HHHBBH", 0x0806, 1, 0x0800, 6, 4, 1) + mac
    request += socket.inet_aton(own) + bytes(6) + socket.inet_aton(target)
    times = []
    for _ in range(5):
        started = time.monotonic()
        raw.send(request)
        while True:
            answer = raw.recv(100)
            if answer[20:22] == b"\0\2" and answer[28:32] == socket.inet_aton(target):
                break
        times.append(time.monotonic() - started)
    print(json.dumps({"seconds": sorted(times)[2]}))


def file_server(address: str, port: str) -> None:
    """Takes one file by TCP and answers with its hash."""
    listener = socket.create_server((address, int(port)))
    connection, _ = listener.accept()
    digest = hashlib.sha256()
    while octets := connection.recv(65_536):
        digest.update(octets)
    connection.sendall(digest.digest())
    connection.close()
    signal.pause()


def file_sender(address: str, port: str) -> None:
    """Copies text that must never be seen, a piece at a time, and compares the hash that comes back."""
    pieces = [PROBE * 20] * 80
    started = time.time()
    connection = socket.create_connection((address, int(port)), timeout=30)
    for piece in pieces:
        connection.sendall(piece)
        time.sleep(0.05)
    connection.shutdown(socket.SHUT_WR)
    same = connection.recv(100) == hashlib.sha256(b"".join(pieces)).digest()
    print(json.dumps({"same": same, "octets": len(b"".join(pieces)), "started": started, "ended": time.time()}),
          flush=True)
    signal.pause()


def recorder(interface: str, path: str) -> None:
    print(json.dumps({"missed": record(interface, Path(path))}), flush=True)


def read_receiver_log(path: Path) -> list[tuple[float, bytes]]:
    data, at, result = path.read_bytes(), 0, []
    while at + 10 <= len(data):
        moment, length = struct.unpack_from("<dH", data, at)
        if at + 10 + length > len(data):
            break
        result.append((moment, data[at + 10:at + 10 + length]))
        at += 10 + length
    return result


def read_sender_log(path: Path) -> list[tuple[float, int]]:
    data = path.read_bytes()
    return [struct.unpack_from("<dI", data, at) for at in range(0, len(data) - 11, 12)]


if __name__ == "__main__":
    program = {"send": send, "receive": receive, "probe": probe, "record": recorder,
               "round-trip": round_trip, "send-v6": send_v6, "receive-v6": receive_v6,
               "serve-file": file_server, "send-file": file_sender}[sys.argv[1]]
    if sys.argv[1] in ("receive", "receive-v6", "probe"):
        stop_on_signal()
    program(*sys.argv[2:])
