# SPDX-License-Identifier: Apache-2.0
"""The network of the system tests, and the small programs in it: a key server, two gateways and a witness on one
segment, a sender behind the hub and a receiver behind the site.

    source --- hub ---.          .--- site --- sink
                      '--- br ---'
               gcks --'          '--- witness (records everything)
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable

DEMO = Path(__file__).resolve().parents[2] / "demo"
sys.path.insert(0, str(DEMO))

import lab as laboratory  # noqa: E402
from lab import Failure, Lab  # noqa: E402

ADDRESS = {"gcks": "10.77.0.1", "hub": "10.77.0.2", "site": "10.77.0.3", "witness": "10.77.0.254"}
HOSTS = {"hub": ("source", 1), "site": ("sink", 2)}  # who is on a gateway's LAN, 192.168.x.0/24
GROUP, PORT = "239.1.1.1", 5004
MARK = b"system test, datagram "


class Segment:
    """Builds the network; starts, asks and stops the daemons."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self.folder = folder
        self.programs = programs
        self.lab = Lab(folder)

    def build(self) -> None:
        # It forgets at once who is where, so every frame reaches everybody, as on a satellite.
        self.lab.script(None, "ip link add br0 type bridge mcast_snooping 0 ageing_time 0\nip link set br0 up")
        for name, address in ADDRESS.items():
            self.lab.add_namespace(name)
            self.lab.run(None, "ip", "link", "add", f"to-{name}", "type", "veth", "peer", "name", "sat0", "netns", name)
            self.lab.script(None, f"ip link set to-{name} master br0\nip link set to-{name} up")
            self.lab.set(name, ipv6__conf__all__disable_ipv6=1)
            self.lab.script(name, f"ip address add {address}/24 dev sat0\nip link set sat0 up")
        for gateway, (host, net) in HOSTS.items():
            self.lab.add_namespace(host)
            self.lab.run(None, "ip", "link", "add", "lan0", "netns", gateway, "type", "veth",
                         "peer", "name", "eth0", "netns", host)
            self.lab.set(gateway, ipv4__ip_forward=1, ipv4__conf__all__rp_filter=0, ipv4__conf__default__rp_filter=0)
            self.lab.script(gateway, f"ip address add 192.168.{net}.1/24 dev lan0\nip link set lan0 up")
            self.lab.set(host, ipv6__conf__all__disable_ipv6=1)
            self.lab.script(host, f"""
                ip address add 192.168.{net}.10/24 dev eth0
                ip link set eth0 up
                ip route add default via 192.168.{net}.1""")

    def program(self, node: str) -> str:
        return str(self.programs / ("gcks" if node == "gcks" else "satipsec"))

    def config(self, node: str) -> Path:
        return self.folder / node / ("gcks.yaml" if node == "gcks" else "satipsec.yaml")

    def start(self, node: str, *more: str, config: Path | None = None, name: str | None = None) -> None:
        """A daemon; its log is NAME.log."""
        word = "serve" if node == "gcks" else "run"
        self.lab.start(name or node, node, self.program(node), word, "--config", str(config or self.config(node)), *more)

    def command(self, node: str, *words: str, config: Path | None = None) -> subprocess.CompletedProcess[str]:
        """A command to its end, whatever it says."""
        words = (self.program(node), *words, "--config", str(config or self.config(node)))
        return subprocess.run(self.lab.command(node, *words), capture_output=True, text=True, timeout=60)

    def ask(self, node: str, *words: str) -> dict:
        """The JSON of a read command; {} while there is none."""
        done = self.command(node, *words, "--json")
        return json.loads(done.stdout) if done.stdout else {}

    def log(self, name: str) -> list[str]:
        path = self.folder / f"{name}.log"
        return path.read_text(errors="replace").splitlines() if path.exists() else []

    def logged(self, name: str, *words: str, after: int = 0) -> bool:
        """Is there a line with all these words?"""
        return any(all(word in line for word in words) for line in self.log(name)[after:])

    def listens(self, node: str) -> bool:
        """Is a UDP socket open in the node's namespace?"""
        return len(self.lab.run(node, "cat", "/proc/net/udp").splitlines()) > 1

    def arrivals(self) -> list[tuple[float, int]]:
        """When the sink received which datagram."""
        lines = (self.folder / "sink.out").read_text().splitlines()
        return [(float(line.split()[0]), int(line.split()[1])) for line in lines if len(line.split()) == 2]

    def flows(self, seconds: float = 0.6) -> int:
        """How many datagrams come through in that time from now on."""
        before = len(self.arrivals())
        time.sleep(seconds)
        return len(self.arrivals()) - before


class Checks:
    def __init__(self) -> None:
        self.failed = 0
        self.started = time.monotonic()

    def check(self, what: str, holds: bool, detail: object = "") -> None:
        self.failed += not holds
        at = time.monotonic() - self.started
        print(f"ok: {what} [{at:.1f} s]" if holds else f"FAILED: {what} [{at:.1f} s]: {detail}", flush=True)

    def within(self, what: str, seconds: float, condition: Callable[[], bool], detail: Callable[[], object]) -> float:
        """Waits for it that long and gives the time it took."""
        started = time.monotonic()
        while not (holds := condition()) and time.monotonic() - started < seconds:
            time.sleep(0.1)
        self.check(what, holds, "" if holds else detail())
        return time.monotonic() - started


def run(test: type) -> int:
    """Plays a test, a class of `(folder, programs)` with `play()`, in namespaces of its own.

    Returns the exit status: 1 when a check failed or the system cannot run it.
    """
    programs = Path(sys.argv[1]).resolve()
    if not os.environ.get(laboratory.INSIDE):
        problems = laboratory.obstacles()
        if problems:
            print("FAILED: this system cannot run the test:", *problems, sep="\n  ")
            return 1
        return laboratory.enter([str(Path(sys.argv[0]).resolve()), str(programs)])
    Lab.prepare()
    folder = Path("/run/satipsec-system")
    folder.mkdir()
    os.umask(0o077)
    playing = test(folder, programs)
    try:
        playing.play()
    except (Failure, subprocess.SubprocessError, OSError, LookupError, ValueError) as error:
        playing.check("the test runs to its end", False, repr(error))
    finally:
        playing.lab.close()
    return 1 if playing.failed else 0


def send() -> None:
    """Fifty numbered datagrams a second."""
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 8)
    sender.bind((f"192.168.{HOSTS['hub'][1]}.10", PORT))
    for number in range(20_000):
        sender.sendto(MARK + b"%d" % number, (GROUP, PORT))
        time.sleep(0.02)


def receive() -> None:
    """Prints the time and number of each datagram."""
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.bind((GROUP, PORT))
    own = socket.inet_aton(f"192.168.{HOSTS['site'][1]}.10")
    receiver.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(GROUP) + own)
    while True:
        octets = receiver.recv(2048)
        print(time.time(), octets.removeprefix(MARK).decode("ascii", "replace"), flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    {"send": send, "receive": receive}[sys.argv[1]]()
