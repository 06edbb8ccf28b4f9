# SPDX-License-Identifier: Apache-2.0
"""Two gateways and an outsider on one segment, with a host behind each gateway, in network namespaces of a machine that
is thrown away afterwards; sockets in them, and the probe that runs a back end.

    srv --- gwA ---.        .--- gwB --- rcv
                   '-- br --'
                       '--- out (hears and forges)
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path
from typing import Callable

LIBC = ctypes.CDLL(None, use_errno=True)
MARK = b"kernel test, datagram "
PORT = 5004
GROUP_OF_DAEMONS = "239.1.1.1"  # as `gcks init` has it
SO_RCVBUFFORCE = 33


def run(*words: str, check: bool = True) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def within(namespace: str, *words: str, check: bool = True) -> str:
    return run("ip", "netns", "exec", namespace, *words, check=check)


class Inside:
    """Sockets made in its block belong to the namespace."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace

    def __enter__(self) -> None:
        self.before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        self.enter(os.open(f"/run/netns/{self.namespace}", os.O_RDONLY))

    def __exit__(self, *_unused: object) -> None:
        self.enter(self.before)

    @staticmethod
    def enter(descriptor: int) -> None:
        if LIBC.setns(descriptor, 0x40000000):
            raise OSError(ctypes.get_errno(), "setns")
        os.close(descriptor)


def build() -> None:
    """All interfaces, addresses and settings."""
    nodes = ("srv", "gwA", "gwB", "rcv", "out")
    batch(*(f"netns add {name}" for name in nodes))
    for name in nodes:
        with Inside(name):
            for key, value in {"ipv6/conf/all/disable_ipv6": 1, "ipv4/conf/all/rp_filter": 0,
                               "ipv4/conf/default/rp_filter": 0, "ipv4/ip_forward": 1}.items():
                Path(f"/proc/sys/net/{key}").write_text(f"{value}\n")
    # It forgets at once who is where, so every frame reaches everybody, as on a satellite.
    lines = ["link add br0 up type bridge mcast_snooping 0 ageing_time 0"]
    for node in ("gwA", "gwB", "out"):
        lines += [f"link add sat0 netns {node} type veth peer name to{node}", f"link set to{node} master br0 up"]
    lines += [f"link add lan0 netns {node} type veth peer name eth0 netns {host}"
              for node, host in (("gwA", "srv"), ("gwB", "rcv"))]
    batch(*lines)
    for node, interface, address, gateway in [
            ("gwA", "sat0", "10.0.0.1", ""), ("gwB", "sat0", "10.0.0.2", ""), ("out", "sat0", "10.0.0.9", ""),
            ("gwA", "lan0", "192.168.1.1", ""), ("gwB", "lan0", "192.168.2.1", ""),
            ("srv", "eth0", "192.168.1.10", "via 192.168.1.1"), ("rcv", "eth0", "192.168.2.10", "via 192.168.2.1")]:
        # As badly set up as may be: what a gateway has no better route for goes to the satellite.
        way = gateway or ("dev sat0" if interface == "sat0" and node != "out" else "")
        batch("link set lo up", f"address add {address}/24 dev {interface}", f"link set {interface} up",
              *([f"route add default {way}"] if way else []), namespace=node)


def batch(*lines: str, namespace: str = "") -> None:
    """Lines for ip(8), in one go."""
    done = subprocess.run(["ip", *(["-n", namespace] if namespace else []), "-batch", "-"], input="\n".join(lines),
                          capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise RuntimeError(f"{lines}: {done.stderr}")


def enlarge(of: socket.socket, octets: int) -> None:
    """The receive buffer, as far as may be."""
    try:
        of.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, octets)
    except PermissionError:
        of.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, octets)


class Source:
    """Sends numbered datagrams from the host behind gateway A, or from elsewhere."""

    def __init__(self, namespace: str = "srv", address: str = "192.168.1.10") -> None:
        with Inside(namespace):
            self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 8)
        self.socket.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
        self.number = 0

    def send(self, to: str, count: int = 1, pause: float = 0.0, port: int = PORT, size: int = 0) -> None:
        for _ in range(count):
            self.number += 1
            self.socket.sendto((MARK + b"%d " % self.number).ljust(size, b"."), (to, port))
            if pause:
                time.sleep(pause)

    def stream(self, to: str) -> Callable[[], int]:
        """Sends to a group until the result is called, which gives how many."""
        before, enough = self.number, threading.Event()

        def run_on() -> None:
            while not enough.is_set():
                self.send(to, pause=0.003)

        def stop() -> int:
            enough.set()
            thread.join()
            return self.number - before

        thread = threading.Thread(target=run_on, daemon=True)
        thread.start()
        return stop


class Sink:
    """Hears groups, and what is for itself, behind gateway B or elsewhere."""

    def __init__(self, groups: list[str], namespace: str = "rcv", address: str = "192.168.2.10") -> None:
        with Inside(namespace):
            self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        enlarge(self.socket, 1 << 23)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(("", PORT))
        for group in groups:
            self.socket.setsockopt(
                socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(group) + socket.inet_aton(address))

    def take(self, count: int = 1 << 30, patience: float = 0.4) -> list[int]:
        """The numbers that come, until there are so many or there was nothing for so long."""
        numbers: list[int] = []
        while len(numbers) < count and select.select([self.socket], [], [], patience)[0]:
            octets, _ = self.socket.recvfrom(65_535)
            numbers.append(int(octets.removeprefix(MARK).split()[0]))
        return numbers


class Sniffer:
    """All frames that pass an interface."""

    def __init__(self, namespace: str = "out", interface: str = "sat0") -> None:
        with Inside(namespace):
            self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        enlarge(self.socket, 1 << 24)
        self.socket.bind((interface, 3))
        self.take()

    def take(self, patience: float = 0.05) -> list[bytes]:
        """IPv4 packets since the last time, without those that this node sent."""
        packets = []
        while select.select([self.socket], [], [], patience)[0]:
            frame, address = self.socket.recvfrom(65_535)
            if address[1] == 0x0800 and address[2] != socket.PACKET_OUTGOING:
                packets.append(frame[14:14 + struct.unpack("!H", frame[16:18])[0]])
        return packets


def clear(packets: list[bytes]) -> list[str]:
    """Those that neither ESP nor IGMP are, or that show what was sent."""
    return [describe(packet) for packet in packets if packet[9] not in (2, 50) or MARK in packet]


def esp(packets: list[bytes], spi: int | None = None) -> list[bytes]:
    return [packet for packet in packets if packet[9] == 50 and spi in (None, struct.unpack("!I", packet[20:24])[0])]


def describe(packet: bytes) -> str:
    return f"{packet[9]} {socket.inet_ntoa(packet[12:16])}>{socket.inet_ntoa(packet[16:20])} {len(packet)}"


def checksum(octets: bytes) -> int:
    total = sum(struct.unpack(f"!{len(octets) // 2}H", octets))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff


def packet(source: str, to: str, ip_protocol: int, payload: bytes) -> bytes:
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 1, 0, 8, ip_protocol, 0,
                         socket.inet_aton(source), socket.inet_aton(to))
    return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + payload


def datagram(source: str, to: str, text: bytes) -> bytes:
    return packet(source, to, 17, struct.pack("!HHHH", 4_000, PORT, 8 + len(text), 0) + text)


class Forger:
    """The outsider: puts anything on the segment."""

    def __init__(self) -> None:
        with Inside("out"):
            self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self.socket.bind(("sat0", 0))

    def send(self, octets: bytes) -> None:
        to = octets[16:20]
        hardware = b"\x01\x00\x5e" + bytes([to[1] & 0x7f, to[2], to[3]]) if to[0] >> 4 == 14 else b"\xff" * 6
        self.socket.send(hardware + b"\x02\0\0\0\0\x09" + b"\x08\0" + octets)

    def clear(self, source: str, to: str, count: int = 5) -> None:
        for _ in range(count):
            self.send(datagram(source, to, MARK + b"666 "))


class Probe:
    """A back end in a namespace, told what to do line by line."""

    def __init__(self, program: str, namespace: str, backend: str, *more: str, guarded: bool = False) -> None:
        self.namespace, self.backend = namespace, backend
        words = ["ip", "netns", "exec", namespace, program, "one-sender", f"backend={backend}", *more]
        self.process = subprocess.Popen(
            words if guarded else [*words, "unguarded"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.greeting = self.line()

    def line(self) -> str:
        if not select.select([self.process.stdout], [], [], 60)[0]:
            raise RuntimeError(f"{self.namespace}: the probe does not answer")
        return self.process.stdout.readline().strip()

    def tell(self, *commands: str) -> str:
        """The last answer; any but `ok` and a status ends the test."""
        answer = ""
        for command in commands:
            answer = self.ask(command)
            if answer != "ok" and not answer.startswith(("mtu=", "sas=")):
                raise RuntimeError(f"{self.namespace} ({self.backend}): '{command}' was answered '{answer}'")
        return answer

    def ask(self, command: str) -> str:
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return self.line()

    def status(self) -> dict[str, str]:
        return dict(field.split("=", 1) for field in self.tell("status").split())

    def count(self, name: str) -> int:
        """A number of the status, or of the SAs alone, which is quicker."""
        fields = self.tell("status" if name not in ("outbound", "inbound") and "bound-" not in name else "sas")
        found = dict(field.split("=", 1) for field in fields.split())
        return int(found.get(name, "0").removesuffix("-idle"))

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.stdin.close()
            try:
                self.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self.kill()
                raise RuntimeError(f"{self.namespace} ({self.backend}) does not stop") from None

    def __enter__(self) -> Probe:
        if self.greeting != "ready":
            raise RuntimeError(f"{self.namespace} ({self.backend}): {self.greeting}")
        return self

    def __exit__(self, *_unused: object) -> None:
        self.stop()


def kernel_state(namespace: str) -> str:
    """What is left of a kernel back end in a namespace; empty for nothing."""
    left = run("ip", "-n", namespace, "xfrm", "state") + run("ip", "-n", namespace, "xfrm", "policy")
    left += run("ip", "-n", namespace, "-o", "link", "show", "type", "xfrm")
    left += "".join(line for line in within(namespace, "nft", "list", "tables").splitlines(True)
                    if "satipsec_kernel" in line)
    return left.strip()
