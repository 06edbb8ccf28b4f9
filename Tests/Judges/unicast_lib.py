# SPDX-License-Identifier: Apache-2.0
"""The network of unicast.py, and the small tools with which it looks at what a VPN carries."""

from __future__ import annotations

import select
import socket
import struct
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "KernelTests"))

import network  # noqa: E402
from network import Inside, Probe, Sniffer, batch, run, within  # noqa: E402

MARK = b"unicast test, datagram "
PORT = 5004
A6, B6 = "fd00::1", "fd00::2"

def build() -> None:
    network.build()
    batch("netns add nat", "netns add gwC")
    batch("link add sat0 netns nat type veth peer name tonat", "link set tonat master br0 up",
          "link add in0 netns nat type veth peer name sat0 netns gwC",
          "link add lan0 netns gwC type veth peer name lan1 netns gwC")
    for name, lines in {
            "nat": ["address add 10.0.0.8/24 dev sat0", "address add 10.1.0.1/24 dev in0", "link set sat0 up",
                    "link set in0 up"],
            "gwC": ["address add 10.1.0.2/24 dev sat0", "address add 192.168.3.1/24 dev lan0", "link set sat0 up",
                    "link set lan0 up", "link set lan1 up", "route add default via 10.1.0.1"]}.items():
        with Inside(name):
            for key in ("all", "default"):
                Path(f"/proc/sys/net/ipv6/conf/{key}/disable_ipv6").write_text("1\n")
                Path(f"/proc/sys/net/ipv4/conf/{key}/rp_filter").write_text("0\n")
            Path("/proc/sys/net/ipv4/ip_forward").write_text("1\n")
        batch("link set lo up", *lines, namespace=name)
    # Everybody's packets leave with another port, as behind a carrier's translator.
    within("nat", "nft", "table ip nat { chain post { type nat hook postrouting priority 100; oifname sat0 "
           "meta l4proto udp masquerade to :34567; }; }")
    for name in ("srv", "gwA", "gwB", "rcv", "out"):
        with Inside(name):
            for key in ("conf/all/disable_ipv6=0", "conf/default/disable_ipv6=0", "conf/all/forwarding=1",
                        "conf/default/accept_dad=0", "conf/all/accept_dad=0"):
                path, value = key.split("=")
                Path(f"/proc/sys/net/ipv6/{path}").write_text(f"{value}\n")
            for link in Path("/proc/sys/net/ipv6/conf").iterdir():
                (link / "disable_ipv6").write_text("0\n")
                (link / "accept_dad").write_text("0\n")
    for node, interface, address, gateway in [
            ("gwA", "sat0", A6, ""), ("gwB", "sat0", B6, ""), ("gwA", "lan0", "fd01::1", ""),
            ("gwB", "lan0", "fd02::1", ""), ("srv", "eth0", "fd01::10", "via fd01::1"),
            ("rcv", "eth0", "fd02::10", "via fd02::1")]:
        way = gateway or ("dev sat0" if interface == "sat0" else "")
        batch(f"address add {address}/64 dev {interface} nodad",
              *([f"route add ::/0 {way}"] if way else []), namespace=node)


class Hearer:
    """A datagram socket in a namespace that takes numbered datagrams."""

    def __init__(self, node: str, address: str = "", port: int = PORT, v6: bool = False) -> None:
        with Inside(node):
            self.socket = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_DGRAM)
        network.enlarge(self.socket, 1 << 23)
        self.socket.bind((address, port))
        self.senders: set[str] = set()

    def take(self, count: int = 1 << 30, patience: float = 3.0) -> list[int]:
        found: list[int] = []
        while len(found) < count and select.select([self.socket], [], [], patience)[0]:
            octets, sender = self.socket.recvfrom(65_535)
            found.append(int(octets.removeprefix(MARK).split()[0]))
            self.senders.add(sender[0])
        return found

    def __enter__(self) -> Hearer:
        return self

    def __exit__(self, *_unused: object) -> None:
        self.socket.close()


def send(node: str, to: str, count: int = 10, port: int = PORT, size: int = 0, bound: str = "", pause: float = 0.0,
         source_port: int = 0) -> list[int]:
    """Numbered datagrams; what cannot be sent is not sent."""
    with Inside(node):
        sender = socket.socket(socket.AF_INET6 if ":" in to else socket.AF_INET, socket.SOCK_DGRAM)
    with sender:
        if bound or source_port:
            sender.bind((bound, source_port))
        for number in range(count):
            try:
                sender.sendto((MARK + b"%d " % number).ljust(size, b"."), (to, port))
            except OSError:
                pass
            if pause:
                time.sleep(pause)
    return list(range(count))


class Frames(Sniffer):
    """IP packets of both families on the segment."""

    def take(self, patience: float = 0.15) -> list[bytes]:
        packets = []
        while select.select([self.socket], [], [], patience)[0]:
            frame, address = self.socket.recvfrom(65_535)
            if address[1] in (0x0800, 0x86DD) and address[2] != socket.PACKET_OUTGOING:
                packets.append(frame[14:])
        return packets


def ports(packet: bytes) -> tuple[int, int] | None:
    if packet[0] >> 4 == 4 and packet[9] == 17:
        return struct.unpack("!HH", packet[20:24])
    return None


def in_clear(packets: list[bytes]) -> list[bytes]:
    return [packet for packet in packets if MARK in packet]


def esp(packets: list[bytes], spi: int | None = None, v6: bool = False) -> list[bytes]:
    """ESP, whatever is around it."""
    def found(packet: bytes) -> int | None:
        if packet[0] >> 4 == 6:
            return struct.unpack("!I", packet[40:44])[0] if packet[6] == 50 else None
        start = (packet[0] & 15) * 4
        if packet[9] == 50:
            return struct.unpack("!I", packet[start:start + 4])[0]
        if packet[9] == 17 and 4500 in ports(packet) and len(packet) > start + 16:
            return struct.unpack("!I", packet[start + 8:start + 12])[0] or None
        return None
    return [packet for packet in packets if (found(packet) == spi if spi else found(packet)) and
            (packet[0] >> 4 == 6) >= v6]


def both_ways(a: Probe, b: Probe, spi: int, a_outer: str, b_outer: str, suite: str, a_net: str, b_net: str,
              more: str = "", reverse: str | None = None, in_udp: tuple[str, str] | None = None) -> None:
    """An SA from A to B, and the next one from B to A."""
    back = more if reverse is None else reverse
    from_b, from_a = (f" udp={in_udp[0]}", f" udp={in_udp[1]}") if in_udp else ("", "")
    # What A calls the peer is `from_b`, and the reverse.
    b.tell(f"inbound {spi} {b_outer[1] if isinstance(b_outer, tuple) else b_outer} {suite} {a_net} {b_net} {more}{from_a}")
    a.tell(f"inbound {spi + 1} {a_outer} {suite} {b_net} {a_net} {back}{from_b}")
    seen = b_outer[0] if isinstance(b_outer, tuple) else b_outer
    a.tell(f"outbound {spi} {seen} {suite} {a_net} {b_net} {more}{from_b}", f"activate {spi} {seen}")
    b.tell(f"outbound {spi + 1} {a_outer} {suite} {b_net} {a_net} {back}{from_a}", f"activate {spi + 1} {a_outer}")


def rules(node: str) -> str:
    return "".join(run("ip", "-n", node, *family, "rule") + run("ip", "-n", node, *family, "route", "show", "table",
                                                                   "84800", check=False)
                   for family in ((), ("-6",)))


def is_clean(node: str) -> bool:
    return "84800" not in rules(node) and "unreachable" not in rules(node) and "proto 84" not in rules(node)


def connects(client: str, server: str, address: str, port: int, seconds: float = 3) -> bool:
    """A TCP connection that carries data both ways."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with Inside(server):
        listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, port))
    listener.listen()
    listener.settimeout(seconds)

    def serve() -> None:
        try:
            one, _ = listener.accept()
            with one:
                one.settimeout(seconds)
                while octets := one.recv(65_536):
                    one.sendall(octets)
        except OSError:
            pass

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    with Inside(client):
        caller = socket.socket(family, socket.SOCK_STREAM)
    caller.settimeout(seconds)
    try:
        with caller:
            caller.connect((address, port))
            text = MARK * 400
            caller.sendall(text)
            got = b""
            while len(got) < len(text):
                octets = caller.recv(65_536)
                if not octets:
                    break
                got += octets
            return got == text
    except OSError:
        return False
    finally:
        listener.close()
        thread.join()


def raw_udp(node: str, to: str, payload: bytes, source_port: int = 4_499, count: int = 1) -> None:
    with Inside(node):
        sender = socket.socket(socket.AF_INET6 if ":" in to else socket.AF_INET, socket.SOCK_DGRAM)
    with sender:
        sender.bind(("", source_port))
        for _ in range(count):
            sender.sendto(payload, (to, 4_500))
