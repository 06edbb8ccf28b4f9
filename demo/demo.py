#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The demonstration: a protected video stream over a satellite, with its keys changed while it plays.

    srv --- hub ---.                .--- site1 --- rcv1
                    '--- satemu ---'---- site2 --- rcv2
            gcks --'                '--- outsider (records everything)

Usage: demo.py FOLDER_WITH_THE_PROGRAMS [--out FOLDER] [--keep]
Exit status: 0 every claim was verified, 1 not so, 2 this system cannot run it, 128 + n ended by signal n.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.dont_write_bytecode = True

import agents
import claims
import lab as laboratory
import mpegts
from capture import parse, read_pcap
from claims import Change, Claim, Run
from daemons import (CLIENTS, CONTROL_ADDRESS, GROUP, GROUP_ADDRESS, GROUP_PORT, GROUP_V6, LAN, SATELLITE,
                     SATELLITE_V6, SERVER_ADDRESS, VPN, VPN_ENDS, Daemons, verdict_members)
from lab import Failure, Lab

HERE = Path(__file__).resolve().parent
AGENTS = str(HERE / "agents.py")
RATE = 3_000_000  # of the film, bits per second
FILM_SECONDS = 75
SERVER = f"192.168.{LAN['hub']}.10"
PERFECT = "uplink: {delay: 125ms}\ndownlink: {delay: 125ms}\n"
# The outsider hears everything, so that its recording can testify; so does the satellite itself.
LOSSY = "uplink: {delay: 125ms}\ndownlink: {delay: 125ms, loss: 1%}\n" \
        "terminals:\n  outsider:\n    downlink: {loss: 0}\n"


class Demonstration:
    def __init__(self, binaries: Path, folder: Path) -> None:
        self.folder = folder
        self.lab = Lab(folder)
        self.daemons = Daemons(self.lab, binaries, folder)
        self.started = time.monotonic()
        self.changes: list[Change] = []
        self.vpn_change = Change("", 0, 0, {})
        self.streaming = (0.0, 0.0)
        self.round_trip = 0.0

    def say(self, text: str) -> None:
        print(f"{time.monotonic() - self.started:6.1f} s  {text}", flush=True)

    def agent(self, name: str, namespace: str, *words: str) -> None:
        self.lab.start(name, namespace, sys.executable, AGENTS, *words)

    def path(self, name: str) -> str:
        return str(self.folder / name)

    # The network

    def build(self) -> None:
        self.daemons.write()
        for name in [*SATELLITE, "srv", "rcv1", "rcv2"]:
            self.lab.add_namespace(name)
        (self.folder / "links.yaml").write_text(PERFECT)
        terminals = [word for name in SATELLITE for word in ("--terminal", f"{name}=sat0@{name}")]
        self.lab.start(
            "satemu", None, self.daemons.program("satemu"), *terminals, "--links", self.path("links.yaml"),
            "--seed", "2", "--stats", self.path("satellite-stats.jsonl"), "--drop-log", self.path("drops.jsonl"))
        ready = self.folder / "satemu.out"
        self.lab.wait_for("satemu is ready", lambda: '"ready"' in ready.read_text(), 10)
        for name, host in [("hub", "srv"), ("site1", "rcv1"), ("site2", "rcv2")]:
            self.build_lan(name, host)
        for name, address in SATELLITE.items():
            self.raise_satellite_interface(name, address)
        self.agent("recorder", "outsider", "record", "sat0", self.path("outsider.pcap"))
        self.lab.wait_for("the outsider records", lambda: (self.folder / "outsider.pcap").exists(), 10)

    def build_lan(self, gateway: str, host: str) -> None:
        subnet = f"192.168.{LAN[gateway]}"
        self.lab.run(None, "ip", "link", "add", "lan0", "netns", gateway, "type", "veth",
                     "peer", "name", "eth0", "netns", host)
        # IPv4 multicast needs no IP forwarding; unicast would leak without the guard, which is what shall be seen.
        self.lab.set(gateway, ipv4__ip_forward=1, ipv4__conf__all__rp_filter=0, ipv4__conf__default__rp_filter=0,
                     ipv6__conf__all__accept_dad=0, ipv6__conf__default__accept_dad=0, ipv6__conf__all__forwarding=1)
        self.lab.script(gateway, f"""
            ip address add {subnet}.1/24 dev lan0
            ip address add fd0{LAN[gateway]}::1/64 dev lan0
            ip link set lan0 up""")
        self.lab.set(host, ipv6__conf__all__accept_dad=0, ipv6__conf__default__accept_dad=0)
        self.lab.script(host, f"""
            ip address add {subnet}.10/24 dev eth0
            ip address add fd0{LAN[gateway]}::10/64 dev eth0
            ip link set eth0 up
            ip route add default via {subnet}.1""")

    def raise_satellite_interface(self, name: str, address: str) -> None:
        if name not in SATELLITE_V6:
            self.lab.set(name, ipv6__conf__all__disable_ipv6=1)
        if name in CLIENTS:
            # Before the interface is up: never a moment without the guard.
            self.lab.run(name, "nft", "-f", "-", stdin=self.daemons.guard(name))
        self.lab.script(name, f"""
            ip address add {address}/24 dev sat0
            ip link set sat0 up""")
        if name in SATELLITE_V6:
            self.lab.script(name, f"ip address add {SATELLITE_V6[name]}/64 dev sat0")
        if name != "outsider":
            # Whatever has no better way would go to the outsider.
            self.lab.run(name, "ip", "route", "add", "default", "via", SATELLITE["outsider"])

    # The acts

    def enrol(self) -> None:
        """Keys for everybody, over a link that loses nothing; probes that must not be heard, before and during it."""
        self.agent("early-probe", "srv", "probe", SERVER, f"{GROUP_ADDRESS}:{GROUP_PORT}")
        targets = [f"{GROUP_ADDRESS}:5005", "239.9.9.9:5004", f"192.168.{LAN['site1']}.10:7"]
        self.agent("probe", "srv", "probe", SERVER, *targets)
        self.agent("local-probe", "hub", "probe", SATELLITE["hub"], "239.9.9.8:5004", f"192.168.{LAN['site1']}.10:8")
        time.sleep(1)
        answer = self.lab.run("outsider", sys.executable, AGENTS, "round-trip", "sat0", SATELLITE["outsider"],
                              SATELLITE["hub"])
        self.round_trip = json.loads(answer)["seconds"]
        self.say(f"satellite: round trip {self.round_trip * 1000:.1f} ms (ARP), no loss yet")
        self.lab.stop("early-probe")
        self.daemons.start("gcks")
        self.lab.wait_for("gcks serves", self.daemons.is_serving, 15)
        for name in CLIENTS:
            self.daemons.start(name)
        self.lab.wait_for("every client holds its keys", self.daemons.all_keyed, 30, 0.2)
        self.say(f"{len(CLIENTS)} clients are enrolled and hold the keys of group {GROUP}")

    def stream(self) -> None:
        (self.folder / "links.yaml").write_text(LOSSY)
        self.lab.processes["satemu"].send_signal(signal.SIGHUP)
        self.say("satellite: 1 % loss on each way down from here on (none to the outsider, who testifies)")
        for name in ("rcv1", "rcv2"):
            gateway = "site1" if name == "rcv1" else "site2"
            address = f"192.168.{LAN[gateway]}.10"
            self.agent(name, name, "receive", address, GROUP_ADDRESS, str(GROUP_PORT), self.path(f"{name}.log.bin"))
            self.lab.wait_for(f"{name} listens", lambda: (self.folder / f"{name}.log.bin").exists(), 10)
        self.agent("receiver-v6", "rcv1", "receive-v6", GROUP_V6, str(GROUP_PORT))
        time.sleep(0.5)
        self.agent("sender-v6", "srv", "send-v6", GROUP_V6, str(GROUP_PORT))
        self.start_sender("sent.bin")
        self.say(f"srv streams to {GROUP_ADDRESS}:{GROUP_PORT} at {RATE / 1e6:.0f} Mbit/s")
        self.pause(1)
        host = f"192.168.{LAN['site1']}.10"
        self.agent("file-server", "rcv1", "serve-file", host, "8080")
        time.sleep(0.3)
        self.agent("file-sender", "srv", "send-file", host, "8080")
        self.pause(2)
        started = time.time()
        self.vpn_change = Change(f"rekey {VPN}", started, 0, self.daemons.ask("gcks", "rekey", VPN, "--wait"))
        self.vpn_change.ended = time.time()
        self.say(f"rekey of the VPN {VPN}, through which a file goes: answered after {time.time() - started:.2f} s")
        self.pause(1)
        for number in (1, 2, 3):
            self.change(f"rekey {number}", "rekey", GROUP)
            self.pause(4)
        self.change("revocation", "revoke", "site2")
        self.pause(6)
        self.lab.stop("sender")
        self.lab.stop("sender-v6")
        time.sleep(1.5)
        self.streaming = (self.streaming[0], time.time())

    def start_sender(self, log: str) -> None:
        self.streaming = (time.time(), 0)
        self.agent("sender", "srv", "send", self.path("film.ts"), SERVER, GROUP_ADDRESS, str(GROUP_PORT), str(RATE),
                   self.path(log))

    def change(self, title: str, *words: str) -> None:
        started = time.time()
        answer = self.daemons.ask("gcks", *words, "--wait")
        self.changes.append(Change(title, started, time.time(), answer))
        self.say(f"{title}: answered after {time.time() - started:.2f} s")

    def pause(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.lab.check_alive()
            time.sleep(0.1)

    def kill(self) -> float:
        """The hub's daemon dies without a chance to clean up, while the stream goes on."""
        killed = time.time()
        self.lab.stop("hub", signal.SIGKILL)
        window = self.streaming
        self.start_sender("sent-after-kill.bin")
        self.streaming = window
        self.say("hub: satipsec killed with -9; the stream goes on for 2 s")
        time.sleep(2)
        self.lab.stop("sender")
        time.sleep(0.5)
        return killed

    def finish(self) -> None:
        for name in ["file-sender", "file-server", "probe", "local-probe", "rcv1", "rcv2", "receiver-v6", "site1", "site2", "gcks", "satemu", "recorder"]:
            self.lab.stop(name)

    # The verdict

    def output(self, name: str) -> dict:
        return json.loads((self.folder / f"{name}.out").read_text().splitlines()[-1])

    def gather(self) -> Run:
        film = mpegts.split((self.folder / "film.ts").read_bytes())
        drops = [json.loads(line) for line in (self.folder / "drops.jsonl").read_text().splitlines()]
        return Run(
            film=film, sent=agents.read_sender_log(self.folder / "sent.bin"),
            frames=[parse(at, octets) for at, octets in read_pcap(self.folder / "outsider.pcap")], drops=drops,
            received={site: agents.read_receiver_log(self.folder / f"{name}.log.bin")
                      for site, name in [("site1", "rcv1"), ("site2", "rcv2")]},
            hub=SATELLITE["hub"], server=SERVER, group=GROUP_ADDRESS,
            hub_v6=SATELLITE_V6["hub"], group_v6=GROUP_V6, streaming=self.streaming)

    def verify(self, killed: float) -> list[Claim]:
        run = self.gather()
        stream = claims.follow(run)
        commanded, revocation = self.changes[:3], self.changes[3]
        addresses = {name: SATELLITE[name] for name in CLIENTS}
        result = [
            self.recordings(run),
            claims.time_to_keys(run, addresses, SERVER_ADDRESS, self.round_trip, 3.1),
            claims.rekeys(commanded, verdict_members, 3, set(CLIENTS)),
            claims.decrypted(run, stream, "site1", "every packet that reached site1 was decrypted", self.changes),
        ]
        result += [
            claims.decrypted(run, stream, "site2", "every packet that reached site2 before its revocation was decrypted",
                             commanded, until=revocation.started),
            claims.beside(run, "site1", self.output("sender-v6")["sent"], self.output("receiver-v6")["received"]),
            claims.vpn(run, self.output("file-sender"), self.vpn_change, tuple(SATELLITE[name] for name in VPN_ENDS)),
            claims.evicted(run, revocation, SERVER_ADDRESS, CONTROL_ADDRESS),
            claims.revoked(run, stream, "site2", revocation),
            claims.clear_text(run, [agents.PROBE]),
            claims.fail_closed(run, killed, agents.read_sender_log(self.folder / "sent-after-kill.bin")),
        ]
        return result

    def recordings(self, run: Run) -> Claim:
        """The witnesses themselves: did they miss anything?"""
        claim = Claim("the recordings are complete")
        missed = self.output("recorder")["missed"]
        claim.check(missed == 0, f"the outsider's recorder missed {missed} of {len(run.frames)} frames")
        for name in ("rcv1", "rcv2"):
            drops = self.output(name)["socket_drops"]
            claim.check(drops == 0, f"{name}'s own socket dropped {drops} datagrams")
        probes = {name: self.output(name) for name in ("early-probe", "probe", "local-probe")}
        claim.check(
            all(probe["sent"] > 0 for probe in probes.values()),
            f"probes in clear were sent: {sum(probe['sent'] for probe in probes.values())}")
        return claim

    def play(self) -> list[Claim]:
        film = self.folder / "film.ts"
        mpegts.make(laboratory.find("ffmpeg") or "ffmpeg", film, FILM_SECONDS, RATE)
        self.say(f"ffmpeg made {FILM_SECONDS} s of MPEG-TS, {film.stat().st_size / 1e6:.0f} MB")
        self.build()
        self.say("network: hub, gcks, site1, site2 and an outsider on the satellite; LANs behind hub and sites")
        self.enrol()
        self.stream()
        killed = self.kill()
        self.finish()
        self.say("verifying the recordings")
        return self.verify(killed)


def report(results: list[Claim]) -> str:
    lines = []
    for claim in results:
        lines.append(f"{'VERIFIED' if claim.verified else 'FAILED  '}  {claim.title}")
        lines += [f"            {line}" for line in claim.evidence]
    return "\n".join(lines)


def inside(options: argparse.Namespace) -> int:
    Lab.prepare()
    folder = options.out or Path("/run/satipsec-demo")
    folder.mkdir(parents=True, exist_ok=True)
    demonstration = Demonstration(options.binaries, folder)

    def interrupt(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    try:
        results = demonstration.play()
    except (Failure, subprocess.SubprocessError, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        if options.out:
            print(f"demo: what was recorded so far is in {folder}", file=sys.stderr)
        return 1
    finally:
        demonstration.lab.close()
    text = report(results)
    (folder / "report.txt").write_text(text + "\n")
    print(f"\n{text}\n", flush=True)
    verified = all(claim.verified for claim in results)
    elapsed = time.monotonic() - demonstration.started
    print(f"{'Every claim was verified' if verified else 'NOT every claim was verified'}, in {elapsed:.0f} s.")
    return 0 if verified else 1


def main() -> int:
    parser = argparse.ArgumentParser(description="Runs the demonstration.")
    parser.add_argument("binaries", type=lambda text: Path(text).resolve(), help="folder of gcks, satipsec and satemu")
    parser.add_argument("--out", type=lambda text: Path(text).resolve(), help="keep the evidence in this new folder")
    parser.add_argument("--keep", action="store_true", help="the same as --out demo-out")
    options = parser.parse_args()
    if options.keep and not options.out:
        options.out = Path("demo-out").resolve()
    if os.environ.get(laboratory.INSIDE):
        return inside(options)
    missing = [name for name in ("gcks", "satipsec", "satemu") if not (options.binaries / name).exists()]
    problems = [f"{options.binaries} has no {', '.join(missing)}: run make build"] if missing else []
    problems += laboratory.obstacles()
    if problems:
        print("demo: this system cannot run the demonstration:", *problems, sep="\n  ", file=sys.stderr)
        return 2
    if options.out and options.out.exists() and any(options.out.iterdir()):
        shutil.rmtree(options.out) if (options.out / "outsider.pcap").exists() else parser.error(
            f"{options.out} holds something else: name a new folder")
    words = [str(options.binaries), *(["--out", str(options.out)] if options.out else [])]
    status = laboratory.enter([str(Path(__file__).resolve()), *words])
    if status > 128:
        print(f"demo: interrupted; nothing is left{' but ' + str(options.out) if options.out else ''}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
