#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""System test of a group with three senders, of which one is killed and comes back: everybody hears everybody, by the
sender ids in the vectors (RFC 6054), and a witness on the segment sees no vector twice under one SA.

Usage: senders.py FOLDER_WITH_THE_PROGRAMS
One line per check, `ok: ` or `FAILED: `; exit status 0 if all are ok. It runs in namespaces that end with it.
"""

from __future__ import annotations

import select
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

sys.dont_write_bytecode = True
HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[1] / "Judges"))

from segment import DEMO, GROUP, PORT, Checks, Segment, run
from unicast_lib import Inside

from capture import read_pcap

CLIENTS = {"alpha": 2, "beta": 3, "gamma": 4}
TEXT = b"senders test, "


class SendersSegment(Segment):
    """Three gateways, each with a host behind it."""

    def build(self) -> None:
        self.lab.script(None, "ip link add br0 type bridge mcast_snooping 0 ageing_time 0\nip link set br0 up")
        for name, last in {"gcks": 1, **CLIENTS, "witness": 254}.items():
            self.lab.add_namespace(name)
            self.lab.run(None, "ip", "link", "add", f"to-{name}", "type", "veth", "peer", "name", "sat0", "netns", name)
            self.lab.script(None, f"ip link set to-{name} master br0\nip link set to-{name} up")
            self.lab.set(name, ipv6__conf__all__disable_ipv6=1, ipv4__conf__all__rp_filter=0,
                         ipv4__conf__default__rp_filter=0)
            self.lab.script(name, f"ip address add 10.77.0.{last}/24 dev sat0\nip link set sat0 up")
        for name, net in CLIENTS.items():
            self.lab.add_namespace(f"{name}-lan")
            self.lab.run(None, "ip", "link", "add", "lan0", "netns", name, "type", "veth",
                         "peer", "name", "eth0", "netns", f"{name}-lan")
            self.lab.set(f"{name}-lan", ipv6__conf__all__disable_ipv6=1)
            self.lab.script(name, f"ip address add 192.168.{net}.1/24 dev lan0\nip link set lan0 up")
            self.lab.script(f"{name}-lan", f"""
                ip address add 192.168.{net}.10/24 dev eth0
                ip link set eth0 up
                ip route add default via 192.168.{net}.1""")


class Host:
    """Sends to the group and hears it, behind a gateway."""

    def __init__(self, name: str) -> None:
        self.name = name
        own = socket.inet_aton(f"192.168.{CLIENTS[name]}.10")
        with Inside(f"{name}-lan"):
            self.sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self.hearer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 8)
        self.sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, own)
        self.sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
        self.hearer.bind((GROUP, PORT))
        self.hearer.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(GROUP) + own)

    def send(self, word: str, count: int) -> None:
        for number in range(count):
            self.sender.sendto(TEXT + f"{self.name} {word} {number}".encode(), (GROUP, PORT))
            time.sleep(0.002)

    def take(self, patience: float = 0.5) -> list[tuple[str, str]]:
        found = []
        while select.select([self.hearer], [], [], patience)[0]:
            octets = self.hearer.recv(2_048).removeprefix(TEXT).decode().split()
            found.append((octets[0], octets[1]))
        return found


class SendersTest(Checks):
    def __init__(self, folder: Path, programs: Path) -> None:
        super().__init__()
        self.folder = folder
        self.segment = SendersSegment(folder, programs)
        self.lab = self.segment.lab

    def write(self) -> None:
        gcks = self.folder / "gcks"
        words = [word for name, last in CLIENTS.items() for word in ("--client", f"{name}=10.77.0.{last}")]
        made = subprocess.run([self.segment.program("gcks"), "init", str(gcks), "--address", "10.77.0.1", *words],
                              capture_output=True, text=True)
        self.check("gcks init", made.returncode == 0, made.stderr)
        path = self.segment.config("gcks")
        text = path.read_text().replace("role: sender", "role: both").replace("role: receiver", "role: both")
        path.write_text(text + "control-socket: gcks.sock\nphase1: {dead-peer-interval: 1s}\n")
        for name in CLIENTS:
            (gcks / "clients" / name).rename(self.folder / name)
            path = self.segment.config(name)
            path.write_text(path.read_text() + "control-socket: satipsec.sock\nretry: {first: 500ms, most: 2s}\n")
            self.lab.run(name, "sh", "-c", f"{self.segment.program(name)} guard --config {path} | nft -f -")

    def all_current(self) -> bool:
        status = self.segment.ask("gcks", "status")
        members = [member for group in status.get("groups", []) for member in group["members"]]
        return len(members) == 3 and all(m["isCurrent"] and m["holdsKeys"] for m in members)

    def sends(self, name: str) -> str | None:
        """The SPI under which a client sends."""
        found = [sa for sa in self.segment.ask(name, "sas") if sa["direction"] == "outbound" and sa["isActive"]]
        return found[0]["spi"] if found else None

    def state(self) -> object:
        return {name: (self.segment.command(name, "sas").stdout, self.segment.log(name)[-5:]) for name in CLIENTS}

    def everybody_speaks(self, word: str, hosts: list[Host]) -> None:
        for host in hosts:
            host.send(word, 60)
        for host in hosts:
            got = host.take()
            expected = {(other.name, word): 60 for other in hosts if other is not host}
            counts = {key: got.count(key) for key in set(got)}
            self.check(f"{word}: behind {host.name} all others are heard, each packet once", counts == expected,
                       (counts, self.state()))

    def play(self) -> None:
        self.segment.build()
        self.write()
        capture = self.folder / "witness.pcap"
        self.lab.start("witness", "witness", sys.executable, "-B", str(DEMO / "agents.py"), "record", "sat0", str(capture))
        self.lab.wait_for("the witness records", capture.exists, 10)
        for name in ("gcks", *CLIENTS):
            self.segment.start(name)
        self.within("three senders are current", 15, self.all_current, self.state)
        self.within("and send", 10, lambda: all(self.sends(name) for name in CLIENTS), self.state)
        hosts = [Host(name) for name in CLIENTS]
        before = {name: self.sends(name) for name in CLIENTS}
        self.check("all under one SA", len(set(before.values())) == 1, before)
        self.everybody_speaks("first", hosts)

        self.lab.stop("beta", signal.SIGKILL)
        self.segment.start("beta")
        self.within("beta killed and back: it sends", 15, lambda: self.sends("beta") is not None, self.state)
        after = self.sends("beta")
        # At once: under the SA that the others have held all the time, or a newer one.
        beta = next(host for host in hosts if host.name == "beta")
        for host in hosts:
            host.take(0.1)
        beta.send("at-once", 30)
        for host in hosts:
            if host is not beta:
                got = host.take()
                self.check(f"heard at once behind {host.name}", got.count(("beta", "at-once")) == 30,
                           (len(got), before, after, self.state()))
        done = self.segment.command("gcks", "rekey", "news", "--wait")
        self.check("new keys are confirmed by all three", done.returncode == 0, done)
        self.everybody_speaks("renewed", hosts)
        for name in (*CLIENTS, "gcks", "witness"):
            self.lab.stop(name)
        self.vectors(capture)

    def vectors(self, capture: Path) -> None:
        """Of what was recorded: who used which vectors under which SA."""
        seen: dict[tuple[int, bytes], int] = {}
        users: dict[tuple[int, int], set[str]] = {}
        total = 0
        for _, frame in read_pcap(capture):
            packet = frame[14:]
            if frame[12:14] != b"\x08\x00" or packet[9] != 50:
                continue
            start = (packet[0] & 15) * 4
            spi, vector = struct.unpack("!I", packet[start:start + 4])[0], packet[start + 8:start + 16]
            total += 1
            seen[spi, vector] = seen.get((spi, vector), 0) + 1
            users.setdefault((spi, struct.unpack("!H", vector[:2])[0]), set()).add(socket.inet_ntoa(packet[12:16]))
        twice = [key for key, count in seen.items() if count > 1]
        self.check("no vector came twice under one SA", total >= 390 and not twice, (total, twice[:5]))
        self.check("no id was used by two senders, and none is 0",
                   all(len(names) == 1 for names in users.values()) and all(number for _, number in users), users)
        ids = {(name, number) for (_, number), names in users.items() for name in names}
        self.check("four ids in all: beta had another when it came back",
                   len(ids) == 4 and sum(name == "10.77.0.3" for name, _ in ids) == 2, ids)


if __name__ == "__main__":
    sys.exit(run(SendersTest))
