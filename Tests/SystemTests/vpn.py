#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""System test of unicast VPNs: a key server and three clients, one of them behind an address translator; networks,
hosts that are their own gateways, and flows by port; new keys under load; each client's own policy.

    source --- hub ---.          .--- site --- sink
                      '--- br ---'
               gcks --'       |  '--- witness (records everything)
                             nat --- mobile --- road

Usage: vpn.py FOLDER_WITH_THE_PROGRAMS
One line per check, `ok: ` or `FAILED: `; exit status 0 if all are ok. It runs in namespaces that end with it.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.dont_write_bytecode = True
HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[1] / "Judges"))

from segment import ADDRESS, DEMO, Checks, Segment, run
from unicast_lib import PORT, Hearer, connects, send

HUB, SITE, NAT, MOBILE = ADDRESS["hub"], ADDRESS["site"], "10.77.0.8", "10.78.0.2"
CLIENTS = {"hub": HUB, "site": SITE, "mobile": NAT}
SOURCE, SINK, ROAD = "192.168.1.10", "192.168.2.10", "192.168.3.10"
VPNS = f"""
vpns:
  - name: networks
    id: 2001
    ends: [hub, site]
    flows:
      - {{source: 192.168.1.0/24, destination: 192.168.2.0/24}}
  - name: hosts
    id: 2002
    ends: [hub, site]
    flows:
      - {{source: {HUB}, destination: {SITE}}}
  - name: road
    id: 2003
    ends: [mobile, hub]
    flows:
      - {{source: 192.168.3.0/24, destination: 192.168.1.0/24, protocol: udp, destination-port: {PORT}}}
"""
POLICY = f"""
policy:
  - {{action: discard, source: {HUB}, destination: {SITE}, protocol: udp, destination-port: 124}}
  - {{action: protect, source: {HUB}, destination: {SITE}, protocol: udp, destination-port: 125}}
  - {{action: bypass, source: {HUB}, destination: {SITE}, protocol: udp}}
"""
BACK = f"""
policy:
  - {{action: protect, source: {SITE}, destination: {HUB}, protocol: udp, source-port: 125}}
  - {{action: bypass, source: {SITE}, destination: {HUB}, protocol: udp}}
"""


class VPNSegment(Segment):
    def build(self) -> None:
        super().build()
        self.lab.add_namespace("nat")
        self.lab.add_namespace("mobile")
        self.lab.add_namespace("road")
        self.lab.run(None, "ip", "link", "add", "to-nat", "type", "veth", "peer", "name", "sat0", "netns", "nat")
        self.lab.script(None, "ip link set to-nat master br0\nip link set to-nat up")
        self.lab.run(None, "ip", "link", "add", "in0", "netns", "nat", "type", "veth",
                     "peer", "name", "sat0", "netns", "mobile")
        self.lab.run(None, "ip", "link", "add", "lan0", "netns", "mobile", "type", "veth",
                     "peer", "name", "eth0", "netns", "road")
        for name in ("nat", "mobile", "road"):
            self.lab.set(name, ipv6__conf__all__disable_ipv6=1, ipv4__ip_forward=1, ipv4__conf__all__rp_filter=0,
                         ipv4__conf__default__rp_filter=0)
        self.lab.script("nat", f"""
            ip address add {NAT}/24 dev sat0
            ip address add 10.78.0.1/24 dev in0
            ip link set sat0 up
            ip link set in0 up""")
        self.lab.script("mobile", f"""
            ip address add {MOBILE}/24 dev sat0
            ip address add 192.168.3.1/24 dev lan0
            ip link set sat0 up
            ip link set lan0 up
            ip route add default via 10.78.0.1""")
        self.lab.script("road", f"""
            ip address add {ROAD}/24 dev eth0
            ip link set eth0 up
            ip route add default via 192.168.3.1""")
        # Another port for everybody: what it is the peers must learn.
        self.lab.run("nat", "nft", "table ip nat { chain post { type nat hook postrouting priority 100; "
                     "oifname sat0 meta l4proto udp masquerade to :30000-39999; }; }")


class VPNTest(Checks):
    def __init__(self, folder: Path, programs: Path) -> None:
        super().__init__()
        self.folder = folder
        self.segment = VPNSegment(folder, programs)
        self.lab = self.segment.lab

    def write(self) -> None:
        gcks = self.folder / "gcks"
        words = [word for name, address in CLIENTS.items() for word in ("--client", f"{name}={address}")]
        made = subprocess.run([self.segment.program("gcks"), "init", str(gcks), "--address", ADDRESS["gcks"], *words],
                              capture_output=True, text=True)
        self.check("gcks init", made.returncode == 0, made.stderr)
        path = self.segment.config("gcks")
        path.write_text(path.read_text() + "control-socket: gcks.sock\nphase1: {dead-peer-interval: 1s}\n" + VPNS)
        checked = self.segment.command("gcks", "check")
        self.check("gcks check accepts three VPNs", checked.returncode == 0 and "3 VPNs" in checked.stdout,
                   checked.stdout + checked.stderr)
        for name in CLIENTS:
            (gcks / "clients" / name).rename(self.folder / name)
            path = self.segment.config(name)
            own = {"hub": POLICY, "site": BACK}.get(name, f"address: {MOBILE}\n")
            text = re.sub(r"(?m)^address:.*\n", "", path.read_text()) if name == "mobile" else path.read_text()
            path.write_text(text + "control-socket: satipsec.sock\nphase1: {dead-peer-interval: 1s}\n"
                            "retry: {first: 500ms, most: 2s}\n" + own)
            self.lab.run(name, "sh", "-c", f"{self.segment.program(name)} guard --config {path} | nft -f -")

    def registration(self) -> None:
        capture = self.folder / "witness.pcap"
        self.lab.start("witness", "witness", sys.executable, "-B", str(DEMO / "agents.py"), "record", "sat0", str(capture))
        self.lab.wait_for("the witness records", capture.exists, 10)
        for name in ("gcks", *CLIENTS):
            self.segment.start(name)
        self.within("all VPNs are up", 20, self.all_up, self.state)

    def vpns(self) -> list[dict]:
        found = self.segment.ask("gcks", "vpns")
        return found if isinstance(found, list) else []

    def all_up(self) -> bool:
        found = self.vpns()
        return len(found) == 3 and all(vpn["state"] == "up" for vpn in found)

    def sending(self, name: str) -> bool:
        """Does a client have keys to send with in all its VPNs?"""
        sas = self.segment.ask(name, "sas")
        active = {sa["group"] for sa in sas if sa["direction"] == "outbound" and sa["isActive"]} if sas else set()
        return {"networks", "hosts", "road"} <= active

    def state(self) -> object:
        return {name: (self.segment.command(name, "status").stdout, self.segment.log(name)[-8:])
                for name in ("gcks", *CLIENTS)}, self.vpns()

    def packets(self) -> None:
        for what, node, to, where, bound in [
                ("networks", "source", SINK, "sink", ""), ("networks, back", "sink", SOURCE, "source", ""),
                ("through the translator", "road", SOURCE, "source", "")]:
            with Hearer(where, to) as there:
                send(node, to, 20, bound=bound)
                got = there.take(20)
            self.check(f"{what}: every packet", len(got) == 20, (got, self.state()))
        self.check("hosts: TCP from gateway to gateway", connects("hub", "site", SITE, 443), self.state())
        self.check("hosts: and back", connects("site", "hub", HUB, 443), self.state())
        self.check("hosts: ping", " 0% packet loss" in self.lab.run("hub", "ping", "-c", "3", "-i", "0.2", "-W", "2", SITE))
        with Hearer("source", SOURCE, 6_000) as there:
            send("road", SOURCE, port=6_000)
            self.check("a port that no VPN has does not pass", not there.take(1, 0.5))
        encapsulated = {vpn["name"] for vpn in self.vpns() if vpn.get("isEncapsulated")}
        self.check("only the VPN through the translator is in UDP", encapsulated == {"road"}, self.vpns())

    def policy(self) -> None:
        """A client's own rules, from its file to the packets."""
        for port, passes in ((123, True), (124, False), (125, True)):
            with Hearer("site", SITE, port) as there:
                send("hub", SITE, port=port)
                got = there.take(10, 0.5)
            self.check(f"policy: UDP to port {port} {'passes' if passes else 'does not'}",
                       len(got) == (10 if passes else 0), (got, self.lab.run("hub", "ip", "rule")))

    def new_keys(self) -> None:
        """`gcks rekey` while streams run both ways through all three."""
        count, pause = 2_400, 0.002
        ways = [("source", "sink", SINK), ("sink", "source", SOURCE), ("road", "source", SOURCE), ("source", "road", ROAD)]
        ports = {("road", "source"): PORT, ("source", "road"): 7_000}
        hearers, threads = [], []
        for index, (node, where, to) in enumerate(ways):
            port = ports.get((node, where), 7_100 + index)
            hearers.append(Hearer(where, to, port if node != "road" else PORT))
            options = {"port": hearers[-1].socket.getsockname()[1], "pause": pause}
            if (node, where) == ("source", "road"):
                # The reverse of the flow: from its port.
                options |= {"bound": SOURCE, "source_port": PORT + 0}
            threads.append((node, to, options))
        # The same socket cannot both hear and send here: the reverse stream has its port from a second address.
        self.lab.run("source", "ip", "address", "add", "192.168.1.11/24", "dev", "eth0")
        threads[3][2]["bound"] = "192.168.1.11"
        running = [threading.Thread(target=send, args=(node, to, count), kwargs=options) for node, to, options in threads]
        for thread in running:
            thread.start()
        verdicts = []
        for _ in range(5):
            for name in ("networks", "hosts", "road"):
                verdicts.append(self.segment.command("gcks", "rekey", name, "--wait"))
        self.check("fifteen times new keys are confirmed by both ends", all(done.returncode == 0 for done in verdicts),
                   [done.stdout + done.stderr for done in verdicts])
        busy = sum(thread.is_alive() for thread in running)
        for thread in running:
            thread.join()
        self.check("under load from the first to the last", busy == len(running), busy)
        for hearer, (node, where, _) in zip(hearers, ways):
            got = hearer.take(count, 1.5)
            self.check(f"from {node} to {where}: none of {count} packets is lost or doubled",
                       sorted(got) == list(range(count)), (len(got), self.state()))
            hearer.socket.close()

    def gateway_dies(self) -> None:
        self.lab.stop("hub", signal.SIGKILL)
        rules = self.lab.run("hub", "ip", "rule")
        self.check("hub killed: its flows stay closed", "84800" in rules, rules)
        send("source", SINK)
        send("hub", SITE, port=125)
        self.segment.start("hub")
        self.within("hub back: all VPNs are up again", 25, lambda: self.sending("hub") and self.all_up(), self.state)
        for what, node, to, where in [("networks", "source", SINK, "sink"), ("road", "road", SOURCE, "source")]:
            with Hearer(where, to) as there:
                send(node, to, 20)
                got = there.take(20)
            self.check(f"{what}: every packet again", len(got) == 20, (got, self.state()))

    def shut_down(self) -> None:
        codes = {name: self.lab.stop(name) for name in (*CLIENTS, "gcks")}
        self.check("SIGTERM ends the daemons with exit status 0", set(codes.values()) == {0}, codes)
        left = "".join(self.lab.run(name, "ip", "rule") for name in CLIENTS)
        self.check("no rule is left", "84800" not in left and "proto 84" not in left, left)
        self.lab.stop("witness")

    def on_the_segment(self) -> None:
        """tshark reads what the witness recorded."""
        def shown(what: str) -> list[str]:
            done = subprocess.run(
                ["tshark", "-r", str(self.folder / "witness.pcap"), "-d", "udp.port==4500,udpencap", "-Y", what, "-T",
                 "fields", "-e", "frame.number", "-e", "ip.src", "-e", "ip.dst", "-e", "_ws.col.Info"],
                capture_output=True, text=True, timeout=60, env={**os.environ, "HOME": str(self.folder)})
            return done.stdout.splitlines() if done.returncode == 0 else [done.stderr]
        counts = {what: len(shown(what)) for what in ("esp && !udp", "esp && udp.port == 4500")}
        self.check("tshark sees ESP of both kinds", min(counts.values()) > 1_000, counts)
        allowed = "esp || igmp || udp.port in {848, 4500} || udp.dstport == 123"
        other = shown(f"ip && !({allowed})")
        self.check("and in clear nothing but what bypasses", not other, other[:10])
        self.check("which is there", len(shown("udp.dstport == 123")) == 10)
        inside = shown(f'ip.addr in {{192.168.0.0/16}} || frame contains "unicast test, datagram" && '
                       "!(udp.dstport == 123)")
        self.check("no address or text of a VPN shows", not inside, inside[:10])

    def play(self) -> None:
        self.segment.build()
        self.write()
        self.registration()
        self.packets()
        self.policy()
        self.new_keys()
        self.gateway_dies()
        self.shut_down()
        self.on_the_segment()


if __name__ == "__main__":
    sys.exit(run(VPNTest))
