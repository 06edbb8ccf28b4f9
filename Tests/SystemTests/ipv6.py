#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""System test with IPv6: the key exchange goes over it, and a group of each family goes through the same two clients,
while their keys change and until one of them is killed.

Usage: ipv6.py FOLDER_WITH_THE_PROGRAMS
One line per check, `ok: ` or `FAILED: `; exit status 0 if all are ok. It runs in namespaces that end with it.
"""

from __future__ import annotations

import json
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

sys.dont_write_bytecode = True

from segment import DEMO, HOSTS, MARK, PORT, Checks, Segment, run

from capture import read_pcap

ADDRESS = {"gcks": "2001:db8:77::1", "hub": "2001:db8:77::2", "site": "2001:db8:77::3", "witness": "2001:db8:77::fe"}
OLD_ADDRESS = {"hub": "10.77.0.2", "site": "10.77.0.3", "witness": "10.77.0.254"}
GROUPS = {6: "ff18::2", 4: "239.1.1.1"}
HERE = Path(__file__).resolve()


class DualSegment(Segment):
    def build(self) -> None:
        self.lab.script(None, "ip link add br0 type bridge mcast_snooping 0 ageing_time 0\nip link set br0 up")
        for name, address in ADDRESS.items():
            self.lab.add_namespace(name)
            self.lab.set(name, ipv6__conf__default__accept_dad=0, ipv6__conf__all__accept_dad=0)
            self.lab.run(None, "ip", "link", "add", f"to-{name}", "type", "veth", "peer", "name", "sat0", "netns", name)
            self.lab.script(None, f"ip link set to-{name} master br0\nip link set to-{name} up")
            self.lab.script(name, f"ip address add {address}/64 dev sat0\nip link set sat0 up")
            if name in OLD_ADDRESS:
                self.lab.script(name, f"ip address add {OLD_ADDRESS[name]}/24 dev sat0")
        for gateway, (host, net) in HOSTS.items():
            self.lab.add_namespace(host)
            self.lab.set(host, ipv6__conf__default__accept_dad=0, ipv6__conf__all__accept_dad=0)
            self.lab.run(None, "ip", "link", "add", "lan0", "netns", gateway, "type", "veth",
                         "peer", "name", "eth0", "netns", host)
            self.lab.set(gateway, ipv4__ip_forward=1, ipv4__conf__all__rp_filter=0, ipv4__conf__default__rp_filter=0,
                         ipv6__conf__all__forwarding=1)
            self.lab.script(gateway, f"""
                ip address add 192.168.{net}.1/24 dev lan0
                ip address add 2001:db8:{net}::1/64 dev lan0
                ip link set lan0 up
                ip route add default via {OLD_ADDRESS["witness"]}
                ip route add default via {ADDRESS["witness"]}""")
            self.lab.script(host, f"""
                ip address add 192.168.{net}.10/24 dev eth0
                ip address add 2001:db8:{net}::10/64 dev eth0
                ip link set eth0 up
                ip route add default via 192.168.{net}.1
                ip route add default via 2001:db8:{net}::1""")

    def numbers(self, family: int) -> list[int]:
        """Of the datagrams that the sink received."""
        lines = (self.folder / "sink.out").read_text().splitlines()
        return [int(line.split()[1]) for line in lines if line.startswith(f"{family} ")]


class IPv6Test(Checks):
    def __init__(self, folder: Path, programs: Path) -> None:
        super().__init__()
        self.folder = folder
        self.segment = DualSegment(folder, programs)
        self.lab = self.segment.lab

    def write(self) -> None:
        gcks = self.folder / "gcks"
        clients = [word for name in HOSTS for word in ("--client", f"{name}={ADDRESS[name]}")]
        made = subprocess.run(
            [self.segment.program("gcks"), "init", str(gcks), "--address", ADDRESS["gcks"], *clients],
            capture_output=True, text=True)
        self.check("gcks init takes IPv6 addresses", made.returncode == 0, made.stderr)
        path = self.segment.config("gcks")
        flow = f'- {{source: any, destination: "{GROUPS[6]}"}}'
        both = f"""- {{source: "2001:db8:{HOSTS['hub'][1]}::/64", destination: "{GROUPS[6]}", protocol: udp, \
destination-port: {PORT}}}
      - {{source: 192.168.{HOSTS['hub'][1]}.0/24, destination: {GROUPS[4]}}}"""
        path.write_text(path.read_text().replace(flow, both) + "control-socket: gcks.sock\n")
        checked = self.segment.command("gcks", "check")
        self.check("gcks check accepts flows of both families", checked.returncode == 0 and GROUPS[4] in
                   path.read_text(), checked.stderr)
        for name in HOSTS:
            (gcks / "clients" / name).rename(self.folder / name)
            path = self.segment.config(name)
            path.write_text(path.read_text() + "control-socket: satipsec.sock\nretry: {first: 500ms, most: 2s}\n")
            self.lab.run(name, "sh", "-c", f"{self.segment.program(name)} guard --config {path} | nft -f -")

    def registration(self) -> None:
        capture = self.folder / "witness.pcap"
        self.lab.start("witness", "witness", sys.executable, "-B", str(DEMO / "agents.py"), "record", "sat0", str(capture))
        self.lab.wait_for("the witness records", capture.exists, 10)
        for name in ("gcks", *HOSTS):
            self.segment.start(name)
        self.within("clients register over IPv6 and confirm the keys of both families", 10, self.all_current,
                    self.state)
        for name in HOSTS:
            status = self.segment.ask(name, "status")
            self.check(f"{name}: no warnings", status["state"] == "ok" and not status["dataPlane"]["warnings"], status)
        for host, agent in [("sink", "receive"), ("source", "send")]:
            self.lab.start(host, host, sys.executable, "-B", str(HERE), agent)
            time.sleep(0.3)
        self.within("both groups come through", 5, lambda: all(len(self.segment.numbers(f)) > 20 for f in GROUPS),
                    self.state)

    def rekeys(self) -> None:
        """Roll-overs of traffic keys and KEK, and nothing is lost of either group."""
        before = self.active()
        for words in [(), ("--kek",), ()]:
            done = self.segment.command("gcks", "rekey", "news", *words, "--wait")
            self.check(f"gcks rekey {' '.join(words)} is confirmed over IPv6 multicast",
                       done.returncode == 0 and "unicasts 0" in done.stdout, done)
            time.sleep(2.5)
        self.check("both flows have new SAs", len(before) == len(self.active()) == 2
                   and not set(before) & set(self.active()), (before, self.active()))
        for family in GROUPS:
            got = self.segment.numbers(family)
            self.check(f"IPv{family}: nothing was lost, doubled or put out of order in {len(got)} datagrams",
                       len(got) > 300 and got == list(range(got[0], got[0] + len(got))), got[-20:])

    def killed(self) -> None:
        """The sender's client dies, and the stream goes on."""
        self.lab.stop("hub", signal.SIGKILL)
        time.sleep(0.2)
        before = {family: len(self.segment.numbers(family)) for family in GROUPS}
        time.sleep(1)
        self.check("hub killed: nothing comes through", all(
            len(self.segment.numbers(family)) == before[family] for family in GROUPS), before)
        self.segment.start("hub")
        self.within("hub back: both groups come through again", 10, lambda: all(
            len(self.segment.numbers(family)) > before[family] + 20 for family in GROUPS), self.state)

    def finish(self) -> None:
        for name in ("source", "sink"):
            self.lab.stop(name)
        codes = {name: self.lab.stop(name) for name in ("site", "hub", "gcks")}
        self.check("SIGTERM ends the daemons with exit status 0", set(codes.values()) == {0}, codes)
        self.lab.stop("witness")
        kinds: dict[str, int] = {}
        marks = 0
        links = [json.loads(self.lab.run(name, "ip", "-json", "link", "show", "sat0")) for name in HOSTS]
        gateways = [bytes.fromhex(link[0]["address"].replace(":", "")) for link in links]
        for _, octets in read_pcap(self.folder / "witness.pcap"):
            if octets[6:12] not in gateways:
                continue  # the GCKS's kernel says that nobody listens there, before the GCKS does
            kinds[kind(octets)] = kinds.get(kind(octets), 0) + 1
            marks += MARK in octets
        print(f"   on the satellite: {kinds}", flush=True)
        clear = [name for name in kinds if name.startswith("clear")]
        self.check("nothing went over the satellite in clear, before, during or after the kill", not clear and not marks,
                   (kinds, marks))
        self.check("and the witness saw both groups and the key exchange",
                   min(kinds.get("ESP over IPv6", 0), kinds.get("ESP over IPv4", 0)) > 300 and "FMKE over IPv6" in kinds,
                   kinds)

    def active(self) -> list[str]:
        return [sa["spi"] for sa in self.segment.ask("hub", "sas") if sa["direction"] == "outbound" and sa["isActive"]]

    def all_current(self) -> bool:
        status = self.segment.ask("gcks", "status")
        members = [member for group in status.get("groups", []) for member in group["members"]]
        return len(members) == 2 and all(m["isCurrent"] and m["holdsKeys"] for m in members) and status["state"] == "ok"

    def state(self) -> object:
        return {name: (self.segment.command(name, "status").stdout, self.segment.log(name)[-6:])
                for name in ("gcks", *HOSTS)}

    def play(self) -> None:
        self.segment.build()
        self.write()
        self.registration()
        self.rekeys()
        self.killed()
        self.finish()


def kind(frame: bytes) -> str:
    """What a frame is to the guard: what may pass, and by which family, or `clear`."""
    ether_type = int.from_bytes(frame[12:14], "big")
    if ether_type == 0x0806:
        return "ARP"
    if ether_type == 0x0800:
        family, protocol, at = 4, frame[23], 14 + (frame[14] & 15) * 4
    elif ether_type == 0x86DD:
        family, protocol, at = 6, frame[20], 54
        while protocol in (0, 60):
            protocol, at = frame[at], at + 8 + 8 * frame[at + 1]
    else:
        return f"clear type {ether_type:04x}"
    if protocol == 17 and 848 in struct.unpack_from("!HH", frame, at):
        return f"FMKE over IPv{family}"
    if family == 6 and protocol == 58 and frame[at] in (130, 131, 132, 133, 134, 135, 136, 137, 143):
        return "neighbour discovery and MLD"
    what = f"clear IPv{family} protocol {protocol}: {frame[14:at + 4].hex(' ')}"
    return {50: f"ESP over IPv{family}", 2: "IGMP"}.get(protocol, what)


def send() -> None:
    """Numbered datagrams to both groups, a hundred a second in all."""
    v4, v6 = (socket.socket(family, socket.SOCK_DGRAM) for family in (socket.AF_INET, socket.AF_INET6))
    v4.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 8)
    v6.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 8)
    for number in range(20_000):
        v4.sendto(MARK + b"%d" % number, (GROUPS[4], PORT))
        v6.sendto(MARK + b"%d" % number, (GROUPS[6], PORT))
        time.sleep(0.02)


def receive() -> None:
    """Prints the family and number of each datagram."""
    v4, v6 = (socket.socket(family, socket.SOCK_DGRAM) for family in (socket.AF_INET, socket.AF_INET6))
    v4.bind((GROUPS[4], PORT))
    own = socket.inet_aton(f"192.168.{HOSTS['site'][1]}.10")
    v4.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(GROUPS[4]) + own)
    v6.bind((GROUPS[6], PORT))
    interface = struct.pack("=i", socket.if_nametoindex("eth0"))
    v6.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, socket.inet_pton(socket.AF_INET6, GROUPS[6]) + interface)
    while True:
        for ready in select.select([v4, v6], [], [])[0]:
            octets = ready.recv(2048)
            number = octets.removeprefix(MARK).decode("ascii", "replace")
            print(4 if ready is v4 else 6, number, flush=True)


if __name__ == "__main__":
    if sys.argv[1] in ("send", "receive"):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        {"send": send, "receive": receive}[sys.argv[1]]()
    sys.exit(run(IPv6Test))
