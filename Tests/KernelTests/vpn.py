# SPDX-License-Identifier: Apache-2.0
"""Unicast VPNs between a kernel back end and another one, with SAs that these cases make: both ways, plain and in UDP,
with extended sequence numbers."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

from network import MARK, PORT, Inside, Sink, Source, run, within

GCM, SHA256 = "aes256-gcm", "aes256-sha256"
A, B = "10.0.0.1", "10.0.0.2"
NET_A, NET_B = "192.168.1.0/24", "192.168.2.0/24"


def in_udp(packet: bytes) -> int | None:
    """The SPI of ESP in UDP."""
    if packet[9] != 17 or struct.unpack("!HH", packet[20:24]) != (4_500, 4_500) or len(packet) < 40:
        return None
    return struct.unpack("!I", packet[28:32])[0]


def both_ways(a, b, spi: int, suite: str, udp: bool, nets: tuple[str, str] = (NET_A, NET_B)) -> None:
    """SPI from A to B, the next one from B to A; active at once."""
    add(a, b, spi, suite, udp, nets)
    a.tell(f"activate {spi} {B}")
    b.tell(f"activate {spi + 1} {A}")


def add(a, b, spi: int, suite: str, udp: bool, nets: tuple[str, str] = (NET_A, NET_B)) -> None:
    for gateway, out, into, own, peer, mine, theirs in (
            (a, spi, spi + 1, A, B, *nets), (b, spi + 1, spi, B, A, *reversed(nets))):
        more = "esn" + (f" udp={peer}/4500" if udp else "")
        gateway.tell(f"inbound {into} {own} {suite} {theirs} {mine} {more}",
                     f"outbound {out} {peer} {suite} {mine} {theirs} {more}")


def remove(a, b, spi: int) -> None:
    a.tell(f"remove-outbound {spi} {B}")
    b.tell(f"remove-outbound {spi + 1} {A}")
    a.tell(f"remove-inbound {spi + 1} {A}")
    b.tell(f"remove-inbound {spi} {B}")


def carries(probe, check, sniffer, esp, other: str) -> None:
    """xfrm at A, another back end at B."""
    source, back = Source(), Source("rcv", "192.168.2.10")
    there, here = Sink([]), Sink([], "srv", "192.168.1.10")
    with probe("gwA", "xfrm", "udp") as a, probe("gwB", other, "udp") as b:
        ways = [(GCM, False), (GCM, True), (SHA256, False), (SHA256, True)]
        for index, (suite, udp) in enumerate(ways if other == "userspace" else ways[1:3]):
            spi = 5_000 + 10 * index
            what = f"xfrm and {other}, {suite}{', in UDP' if udp else ''}"
            both_ways(a, b, spi, suite, udp)
            sniffer.take()
            for sender, hearer, to, way in ((source, there, "192.168.2.10", "A to B"),
                                            (back, here, "192.168.1.10", "B to A")):
                sender.send(to, 20)
                got = hearer.take(20)
                check(f"{what}: {way}, each once", len(got) == 20 == len(set(got)),
                      (got, a.status(), b.status()))
            seen = sniffer.take()
            found = [p for p in seen if in_udp(p) in (spi, spi + 1)] if udp else esp(seen, spi) + esp(seen, spi + 1)
            check(f"{what}: and as it should travel", len(found) == 40 and not [p for p in seen if MARK in p],
                  (len(found), len(seen)))
            text = run("ip", "-n", "gwA", "-d", "xfrm", "state")
            check(f"{what}: with extended numbers in the kernel", text.count("flag esn") + text.count("esn") >= 2, text)
            remove(a, b, spi)
        # Hosts that are the gateways themselves.
        both_ways(a, b, 5_100, GCM, True, (f"{A}/32", f"{B}/32"))
        local, far = Sink([], "gwB", B), Source("gwA", A)
        sniffer.take()
        far.send(B, 10)
        got = local.take(10)
        seen = sniffer.take()
        check(f"xfrm and {other}: host to host", len(got) == 10 and not [p for p in seen if MARK in p],
              (got, a.status(), b.status(), run("ip", "-n", "gwA", "rule")))
        local.socket.close()
    left = run("ip", "-n", "gwA", "rule") + run("ip", "-n", "gwA", "route", "show", "table", "84800", check=False)
    check(f"xfrm and {other}: its end leaves no rule", "84800" not in left and "proto 84" not in left, left)
    there.socket.close()
    here.socket.close()


def rolls_over(probe, check, await_that, sniffer) -> None:
    """Make before break, a stream each way."""
    for udp in (False, True):
        what = "in UDP" if udp else "plain"
        source, back = Source(), Source("rcv", "192.168.2.10")
        there, here = Sink([]), Sink([], "srv", "192.168.1.10")
        with probe("gwA", "xfrm", "udp") as a, probe("gwB", "userspace", "udp") as b:
            both_ways(a, b, 5_200, GCM, udp)
            stops = [source.stream("192.168.2.10"), back.stream("192.168.1.10")]
            for spi in range(5_210, 5_240, 10):
                await_that(lambda: min(a.count(f"outbound-{spi - 10}"), b.count(f"outbound-{spi - 9}")) > 40)
                add(a, b, spi, GCM, udp)
                a.tell(f"activate {spi} {B}")
                b.tell(f"activate {spi + 1} {A}")
                await_that(lambda: min(a.count(f"outbound-{spi}"), b.count(f"outbound-{spi + 1}")) > 5)
                remove(a, b, spi - 10)
            sent = [stop() for stop in stops]
            got = [sink.take(count, patience=3) for sink, count in zip((there, here), sent)]
            for way, numbers, count in zip(("A to B", "B to A"), got, sent):
                # Their order is the network's: a sender that moves to another processor overtakes itself on a veth.
                check(f"{what}, {way}: three roll-overs lose and double nothing",
                      len(numbers) == count == len(set(numbers)),
                      (count, len(numbers), a.status(), b.status()))
        there.socket.close()
        here.socket.close()


def judges(probe, check, await_that, sniffer, esp) -> None:
    """What the kernel back ends refuse, and what they say beside packets."""
    with probe("gwA", "xfrm", "udp", "keepalive=1") as a:
        a.tell(f"outbound 5301 {B} {GCM} {NET_A} {NET_B} esn udp={B}/4500",
               f"inbound 5302 {A} {GCM} {NET_B} {NET_A} esn udp={B}/4500",
               f"inbound 5303 {A} {GCM} {NET_B} {NET_A} esn")
        sniffer.take()
        time.sleep(2.5)
        alive = [p for p in sniffer.take() if p[9] == 17 and p[28:29] == b"\xff" and len(p) <= 46]
        check("keepalives of one octet", 1 <= len(alive) <= 4, len(alive))
        statistics = within("gwA", "cat", "/proc/net/xfrm_stat")
        with Inside("out"):
            sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            bare = socket.socket(socket.AF_INET, socket.SOCK_RAW, 50)
        for _ in range(3):
            sender.sendto(struct.pack("!II", 5_303, 1) + bytes(64), (A, 4_500))
            bare.sendto(struct.pack("!II", 5_302, 1) + bytes(64), (A, 0))
            sender.sendto(bytes(4) + b"key exchange", (A, 4_500))
        check("messages of key exchange still come", await_that(lambda: a.count("key-exchange") == 3), a.status())

        def mismatches(text: str) -> int:
            return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("XfrmInStateMismatch"))

        now = within("gwA", "cat", "/proc/net/xfrm_stat")
        check("the other way of travelling is refused", mismatches(now) - mismatches(statistics) == 6, now)
        check("and counted", a.count("drop-encapsulation") == 6, a.status())
    with probe("gwA", "xfrm") as a:
        answer = a.ask(f"outbound 5311 {B} {GCM} {NET_A} {NET_B} udp={B}/4500")
        check("without its socket", "there is no socket on port 4500" in answer, answer)
        answer = a.ask(f"outbound 5312 239.1.1.1 {GCM} {NET_A} 239.1.1.1/32 esn")
        check("extended numbers for a group", "for unicast SAs alone" in answer, answer)
    with probe("gwA", "pfkey", "udp") as a:
        for more in ("esn", f"udp={B}/4500"):
            answer = a.ask(f"outbound 5321 {B} aes128-sha1 {NET_A} {NET_B} {more}")
            check(f"by PF_KEY {more.split('=')[0]}", "PF_KEY does neither" in answer and "data-plane: xfrm" in answer, answer)


def userspace_here(programs: Path, check) -> None:
    """What user space leaves to the kernel - routing rules, the guard's look at addresses - on this kernel, too."""
    script = Path(__file__).resolve().parent.parent / "Judges" / "unicast.py"
    done = subprocess.run(
        [sys.executable, str(script), str(programs / "dataplane-probe"), "killed", "selected-ports", "translated"],
        capture_output=True, text=True, timeout=130, env={**os.environ})
    lines = done.stdout.splitlines()
    check("routing rules, guard and translated peers", lines[-1:] == ["all ok"] and len(lines) > 20,
          [line for line in lines if not line.startswith("ok")] + [done.stderr[-300:]])
