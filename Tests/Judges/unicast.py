#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Unicast VPNs of the user-space back end, judged from outside: two gateways with SAs that this script gives them.

    srv --- gwA ---.        .--- gwB --- rcv
                   '-- br --'
          out (hears) --'  '--- nat --- gwC (its address is translated)

Usage: unicast.py PROBE [CASE...]
One line per check: `ok: CASE: ...` or `FAIL: CASE: ...`; the last line is `all ok` if all are. It needs no root:
everything happens in namespaces that end with it.
"""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Callable

sys.dont_write_bytecode = True
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from unicast_lib import (  # noqa: E402
    A6, B6, MARK, PORT, Frames, Hearer, Inside, Probe, batch, both_ways, build, connects, esp, in_clear, is_clean,
    network, ports, raw_udp, rules, run, send, within)

GCM, SHA1, SHA256 = "aes256-gcm", "aes128-sha1", "aes256-sha256"
A, B, C, NAT = "10.0.0.1", "10.0.0.2", "10.1.0.2", "10.0.0.8"
SRV, RCV = "192.168.1.10", "192.168.2.10"
NET_A, NET_B = "192.168.1.0/24", "192.168.2.0/24"
NET_A6, NET_B6 = "fd01::/64", "fd02::/64"
CASES: dict[str, Callable[[], None]] = {}
program = ""
sniffer: Frames


def case(body: Callable[[], None]) -> Callable[[], None]:
    CASES[body.__name__.replace("_", "-")] = body
    return body


class Checks:
    failed = 0
    name = ""


def check(what: str, holds: bool, detail: object = "") -> None:
    Checks.failed += not holds
    print(f"ok: {Checks.name}: {what}" if holds else f"FAIL: {Checks.name}: {what}: {str(detail)[:1500]!r}", flush=True)


def await_that(condition: Callable[[], bool], seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def probe(node: str, *more: str, guarded: bool = False) -> Probe:
    return Probe(program, node, "userspace", *more, guarded=guarded)


# Cases


@case
def sites() -> None:
    """Networks behind both gateways, in all four nestings."""
    with probe("gwA") as a, probe("gwB") as b:
        spi = 1_000
        for outer6 in (False, True):
            for inner6 in (False, True):
                what = f"IPv{6 if inner6 else 4} in IPv{6 if outer6 else 4}"
                nets = (NET_A6, NET_B6) if inner6 else (NET_A, NET_B)
                ends = (A6, B6) if outer6 else (A, B)
                hosts = ("fd01::10", "fd02::10") if inner6 else (SRV, RCV)
                spi += 10
                both_ways(a, b, spi, *ends, SHA256 if inner6 else GCM, *nets)
                sniffer.take()
                with Hearer("rcv", hosts[1], v6=inner6) as there, Hearer("srv", hosts[0], v6=inner6) as here:
                    sent = send("srv", hosts[1], 20)
                    check(f"{what}: A to B, every one in order", there.take(20) == sent and there.senders == {hosts[0]},
                          (a.status(), b.status()))
                    sent = send("rcv", hosts[0], 20)
                    check(f"{what}: B to A", here.take(20) == sent, (a.status(), b.status()))
                    seen = sniffer.take()
                    check(f"{what}: as ESP of both SAs, nothing in clear",
                          len(esp(seen, spi, outer6)) == 20 == len(esp(seen, spi + 1, outer6)) and not in_clear(seen),
                          len(seen))
                    # From another network than the flow has: not for this SA, and nothing else takes it.
                for gateway, out, into in ((a, 0, 1), (b, 1, 0)):
                    gateway.tell(f"remove-outbound {spi + out} {ends[1 - out]}",
                                 f"remove-inbound {spi + into} {ends[into ^ 1] if into else ends[1]}")
        left = rules("gwA")
        check("the last SA's flow leaves with it", " lookup 84800" not in left, left)
    check("the end of a gateway leaves no rule and no route", is_clean("gwA") and is_clean("gwB"), rules("gwA"))


@case
def local_hosts_of_a_site() -> None:
    """What a gateway itself sends to the remote network belongs to the flow, if it has an address there."""
    with probe("gwA") as a, probe("gwB") as b:
        both_ways(a, b, 1_100, A, B, GCM, NET_A, NET_B)
        both_ways(a, b, 1_110, A, B, GCM, NET_A6, NET_B6)
        sniffer.take()
        with Hearer("rcv", RCV) as there:
            send("gwA", RCV)
            check("unbound: from its address in the flow's network",
                  len(there.take(10)) == 10 and there.senders == {"192.168.1.1"}, (there.senders, a.status()))
        with Hearer("rcv", "fd02::10", v6=True) as there:
            send("gwA", "fd02::10")
            check("the same in IPv6", len(there.take(10)) == 10 and there.senders == {"fd01::1"},
                  (there.senders, a.status()))
        seen = sniffer.take()
        check("nothing in clear", not in_clear(seen), seen[:3])


@case
def hosts() -> None:
    """The flow's own addresses are the outer addresses: our own ESP must not go into the tunnel again."""
    for strict in (0, 1):
        for node in ("gwA", "gwB"):
            with Inside(node):
                Path("/proc/sys/net/ipv4/conf/sat0/rp_filter").write_text(f"{strict}\n")
        with probe("gwA") as a, probe("gwB") as b:
            spi = 1_200 + 100 * strict
            filtered = ", strict reverse path filter" if strict else ""
            both_ways(a, b, spi, A, B, GCM, f"{A}/32", f"{B}/32")
            both_ways(a, b, spi + 10, A6, B6, GCM, f"{A6}/128", f"{B6}/128")
            both_ways(a, b, spi + 20, A6, B6, GCM, "192.168.1.1/32", "192.168.2.1/32")
            for here, there, v6 in ((A, B, False), (A6, B6, True), ("192.168.1.1", "192.168.2.1", False)):
                sniffer.take()
                with Hearer("gwB", there, v6=v6) as hearer, Hearer("gwA", here, v6=v6) as back:
                    send("gwA", there)
                    check(f"{here} to {there}, unbound{filtered}",
                          len(hearer.take(10)) == 10 and hearer.senders == {here},
                          (hearer.senders, a.status(), b.status(), rules("gwA")))
                    send("gwB", here, bound=there)
                    check(f"{there} to {here}, bound{filtered}", len(back.take(10)) == 10, (a.status(), b.status()))
                seen = sniffer.take()
                check(f"{here}: each packet once, as ESP, nothing in clear{filtered}",
                      len(esp(seen)) == 20 and not in_clear(seen), len(esp(seen)))
            check(f"TCP{filtered}", connects("gwA", "gwB", B, 443))
            check(f"nothing went round{filtered}", a.count("drop-noPolicy") == 0 == b.count("drop-noPolicy"), a.status())
            check(f"ping{filtered}", " 0% packet loss" in within("gwA", "ping", "-c", "3", "-i", "0.2", "-W", "2", B,
                                                               check=False))


POLICY = f"policy=bypass,0.0.0.0/0,{B}/32,17,123;discard,0.0.0.0/0,{B}/32,17,124;bypass,0.0.0.0/0,{B}/32,17,0"


@case
def selected_ports() -> None:
    """Of what two hosts say to each other a VPN has TCP to port 443 and UDP to 5004; bypass, discard and the guard have
    the rest."""
    back = f"policy=bypass,0.0.0.0/0,{A}/32,17,0"
    for node, policy in (("gwA", POLICY), ("gwB", back)):
        text = within(node, program, "ruleset", "terrestrial=lan0", policy)
        network.subprocess.run(["ip", "netns", "exec", node, "nft", "-f", "-"], input=text, text=True, check=True)
    with probe("gwA", POLICY, guarded=True) as a, probe("gwB", back, guarded=True) as b:
        both_ways(a, b, 1_400, A, B, GCM, f"{A}/32", f"{B}/32", "proto=6 dport=443", "proto=6 sport=443")
        sniffer.take()
        check("TCP to port 443 connects", connects("gwA", "gwB", B, 443), (a.status(), rules("gwA")))
        seen = sniffer.take()
        check("by ESP of both SAs, nothing of it in clear",
              esp(seen, 1_400) and esp(seen, 1_401) and not in_clear(seen), len(seen))
        check("TCP to port 80 does not connect", not connects("gwA", "gwB", B, 80, 1))
        seen = sniffer.take()
        check("and nothing of it leaves", not [p for p in seen if p[9] == 6] and not esp(seen), len(seen))
        for port, passes in ((123, True), (125, True), (124, False)):
            with Hearer("gwB", B, port) as there:
                send("gwA", B, port=port)
                got = there.take(10, 0.4)
            seen = sniffer.take()
            check(f"UDP to {port} {'bypasses, in clear' if passes else 'is discarded'}",
                  len(got) == len(in_clear(seen)) == (10 if passes else 0) and not esp(seen), (got, a.status()))
        # A VPN for part of what bypasses: the bypass stands before it.
        both_ways(a, b, 1_410, A, B, GCM, f"{A}/32", f"{B}/32", f"proto=17 dport={PORT}", f"proto=17 sport={PORT}")
        with Hearer("gwB", B) as there:
            send("gwA", B)
            there.take(10, 0.4)
        seen = sniffer.take()
        check("what the policy lets bypass is not protected, though a VPN has it", in_clear(seen) and not esp(seen),
              (len(seen), a.status()))
    check("nothing of it stays", is_clean("gwA") and is_clean("gwB"), rules("gwA"))
    for node in ("gwA", "gwB"):
        within(node, "nft", "flush", "ruleset")


@case
def selected_ports_of_a_site() -> None:
    """Forwarded packets, too, are told apart by their ports; a protect rule comes before a bypass."""
    policy = f"policy=protect,{NET_A},{NET_B},17,{PORT};bypass,{NET_A},{NET_B},17,0"
    with probe("gwA", policy) as a, probe("gwB") as b:
        both_ways(a, b, 1_500, A, B, GCM, NET_A, NET_B, f"proto=17 dport={PORT}", f"proto=17 sport={PORT}")
        batch(f"route add {NET_B} via {B}", namespace="gwA")
        sniffer.take()
        with Hearer("rcv", RCV) as there, Hearer("rcv", RCV, 6_000) as other:
            send("srv", RCV)
            check("the flow's port goes through the tunnel", len(there.take(10)) == 10, a.status())
            seen = sniffer.take()
            check("as ESP", len(esp(seen, 1_500)) == 10 and not in_clear(seen), len(seen))
            send("srv", RCV, port=6_000)
            check("another port bypasses", len(other.take(10)) == 10, a.status())
            check("in clear", len(in_clear(sniffer.take())) == 10)
        with Hearer("srv", SRV, 5_999) as back:
            send("rcv", SRV, port=5_999, source_port=PORT)
            check("and back from the flow's port", len(back.take(10)) == 10, b.status())
        batch(f"route del {NET_B} via {B}", namespace="gwA")


@case
def killed() -> None:
    """kill -9 in the middle, without a guard: the flows stay closed; the next start cleans up."""
    batch("rule add to 10.99.0.0/16 lookup 99 priority 8600", namespace="gwA")
    a = probe("gwA")
    with probe("gwB") as b:
        both_ways(a, b, 1_600, A, B, GCM, NET_A, NET_B)
        both_ways(a, b, 1_610, A, B, GCM, f"{A}/32", f"{B}/32")
        both_ways(a, b, 1_620, A6, B6, GCM, NET_A6, NET_B6)
        with Hearer("rcv", RCV) as there:
            send("srv", RCV)
            check("it was sending when it was killed", len(there.take(10)) == 10, a.status())
        a.kill()
        sniffer.take()
        send("srv", RCV)
        send("srv", "fd02::10")
        send("gwA", B)
        send("gwA", RCV, bound="192.168.1.1")
        seen = sniffer.take()
        check("killed: nothing of its flows leaves, forwarded or its own", not in_clear(seen), len(in_clear(seen)))
        with probe("gwA") as again:
            check("the next start removes the rules", is_clean("gwA"), rules("gwA"))
            check("and leaves alone what is another's", "10.99.0.0/16 lookup 99" in rules("gwA"), rules("gwA"))
            both_ways(again, b, 1_630, A, B, GCM, NET_A, NET_B)
            with Hearer("rcv", RCV) as there:
                send("srv", RCV)
                check("and it carries packets", len(there.take(10)) == 10, again.status())
    check("stopped: nothing is left", is_clean("gwA"), rules("gwA"))
    batch("rule del to 10.99.0.0/16 lookup 99 priority 8600", namespace="gwA")


@case
def refused() -> None:
    with probe("gwA") as a:
        answer = a.ask(f"outbound 1701 {B} {GCM} {NET_A} {NET_B} udp={B}/4500")
        check("ESP in UDP without a socket for it", "there is no socket on port 4500" in answer, answer)
    with probe("gwA", "udp") as a:
        answer = a.ask(f"outbound 1702 239.1.1.1 {GCM} {NET_A} 239.1.1.1/32 udp={B}/4500")
        check("a group in UDP", "cannot travel in UDP" in answer, answer)
        answer = a.ask(f"outbound 1703 {B} {GCM} {NET_A} {NET_B} udp={NAT}/4500")
        check("two addresses of one peer", "does not go to" in answer, answer)
        answer = a.ask(f"inbound 1704 {B6} {GCM} {NET_A} {NET_B} udp={B6}/4500")
        check("the other family than the socket's", "there is no socket" in answer, answer)


@case
def in_udp() -> None:
    with probe("gwA", "udp", "keepalive=1") as a, probe("gwB", "udp", "keepalive=3600") as b:
        ends = (f"{B}/4500", f"{A}/4500")
        both_ways(a, b, 2_000, A, B, GCM, NET_A, NET_B, in_udp=ends)
        check("8 octets less fit the tunnel", a.status()["mtu"] == "1438", a.status())
        sniffer.take()
        with Hearer("rcv", RCV) as there, Hearer("srv", SRV) as here:
            sent = send("srv", RCV, 50)
            check("A to B, every one in order", there.take(50) == sent, (a.status(), b.status()))
            sent = send("rcv", SRV, 50)
            check("B to A", here.take(50) == sent, (a.status(), b.status()))
            seen = sniffer.take()
            check("in UDP between the ports, nothing in clear, no plain ESP",
                  len(esp(seen, 2_000)) == 50 and not in_clear(seen)
                  and {ports(p) for p in esp(seen)} == {(4_500, 4_500)}, len(seen))
            before = [int(one.status()["allocations"]) for one in (a, b)]
            send("srv", RCV, 1_000, pause=0.0005)
            got = there.take(1_000)
            costs = [int(one.status()["allocations"]) - count for one, count in zip((a, b), before)]
            # Without the optimiser values live in boxes.
            check(f"1,000 packets cost no allocation each{'' if a.status()['optimised'] == 'yes' else ' (not optimised)'}",
                  len(got) == 1_000 and (a.status()["optimised"] == "no" or max(costs) < 1_000), costs)
            sniffer.take()
            send("srv", RCV, 3, size=1_438 - 28)
            check("the largest that fits", len(there.take(3)) == 3, a.status())
            seen = sniffer.take()
            sizes = {struct.unpack("!H", p[2:4])[0] for p in esp(seen)}
            check("fills one packet of the link", max(sizes, default=0) in range(1_497, 1_501), sizes)
            # What others send to the port.
            before = b.status()
            raw_udp("out", B, b"\0\0\0\0" + b"key exchange", count=3)
            raw_udp("out", B, b"\xff", count=3)
            raw_udp("out", B, b"\xff\xff", count=2)
            raw_udp("out", B, struct.pack("!II", 4_711, 1) + bytes(60), count=3)
            raw_udp("out", B, struct.pack("!II", 2_000, 9_999) + os.urandom(60), count=3)
            check("messages of key exchange, and what is nothing, go to key exchange",
                  await_that(lambda: b.count("key-exchange") == 5), b.status())
            check("ESP of an unknown SA is counted", await_that(lambda: b.count("drop-unknownSPI") == 3), b.status())
            check("forged ESP is counted", await_that(
                lambda: b.count("drop-notAuthentic") + b.count("drop-malformed") == 3), b.status())
            check("a keepalive is ignored",
                  int(b.status()["from-satellite"]) - int(before["from-satellite"]) == 6, b.status())
            # The way of travelling is part of an SA.
            for octets in esp(seen)[:3]:
                with Inside("out"):
                    bare = socket.socket(socket.AF_INET, socket.SOCK_RAW, 50)
                bare.sendto(octets[28:], (B, 0))
                bare.close()
            check("the SA's packets are refused without UDP",
                  await_that(lambda: b.count("drop-encapsulation") == 3), b.status())
            both_ways(a, b, 2_010, A, B, GCM, f"{A}/32", f"{B}/32")
            with Hearer("gwB", B) as host:
                send("gwA", B, 5)
                check("a plain SA beside it works", len(host.take(5)) == 5, b.status())
            for octets in esp(sniffer.take(), 2_010)[:5]:
                raw_udp("out", B, octets[20:])
            check("and its packets are refused in UDP", await_that(lambda: b.count("drop-encapsulation") == 8), b.status())
        sniffer.take()
        time.sleep(2.2)
        seen = [p for p in sniffer.take() if p[9] == 17]
        alive = [p for p in seen if p[12:16] == socket.inet_aton(A) and p[28:29] == b"\xff"
                 and struct.unpack("!H", p[24:26])[0] == 9]
        check("one that was silent sends keepalives of one octet", 1 <= len(alive) <= 3 and len(seen) == len(alive), seen)
        a.tell(f"remove-outbound 2000 {B}")
        sniffer.take()
        time.sleep(1.5)
        check("and none without an SA in UDP", not [p for p in sniffer.take() if p[9] == 17])


@case
def in_udp_over_ipv6() -> None:
    with probe("gwA", "udp6") as a, probe("gwB", "udp6") as b:
        for index, (hosts, nets) in enumerate([((SRV, RCV), (NET_A, NET_B)), (("fd01::10", "fd02::10"), (NET_A6, NET_B6))]):
            v6 = bool(index)
            both_ways(a, b, 2_100 + 10 * index, A6, B6, GCM, *nets, in_udp=(f"{B6}/4500", f"{A6}/4500"))
            with Hearer("rcv", hosts[1], v6=v6) as there, Hearer("srv", hosts[0], v6=v6) as here:
                send("srv", hosts[1], 20)
                check(f"IPv{6 if v6 else 4}: A to B", len(there.take(20)) == 20, (a.status(), b.status()))
                send("rcv", hosts[0], 20)
                check(f"IPv{6 if v6 else 4}: B to A", len(here.take(20)) == 20, (a.status(), b.status()))


@case
def translated() -> None:
    """C is behind a translator that changes its port; A has the guard."""
    for node in ("gwA", "gwC"):
        text = within(node, program, "ruleset", "terrestrial=lan0")
        network.subprocess.run(["ip", "netns", "exec", node, "nft", "-f", "-"], input=text, text=True, check=True)
    with probe("gwA", "udp", guarded=True) as a, probe("gwC", "udp", "keepalive=1", guarded=True) as c:
        c.tell(f"inbound 2201 {C} {GCM} {NET_A} 192.168.3.0/24 udp={A}/4500",
               f"outbound 2200 {A} {GCM} 192.168.3.0/24 {NET_A} udp={A}/4500", f"activate 2200 {A}")
        a.tell(f"inbound 2200 {A} {GCM} 192.168.3.0/24 {NET_A} udp={NAT}/34567",
               f"outbound 2201 {NAT} {GCM} {NET_A} 192.168.3.0/24 udp={NAT}/34567", f"activate 2201 {NAT}")
        sniffer.take()
        with Hearer("srv", SRV) as here, Hearer("gwC", "192.168.3.1") as there:
            send("gwC", SRV, 20)
            check("C to A", len(here.take(20)) == 20 and here.senders == {"192.168.3.1"}, (a.status(), c.status()))
            send("srv", "192.168.3.1", 20)
            check("A to C, by the port that the translator gave", len(there.take(20)) == 20, (a.status(), c.status()))
        seen = sniffer.take()
        check("nothing in clear", not in_clear(seen))
        check("the ports on the segment are the translator's", {ports(p) for p in esp(seen)} ==
              {(34_567, 4_500), (4_500, 34_567)}, {ports(p) for p in esp(seen)})
        # What the guard of A does not let out: other ports, other contents, other people's.
        with Inside("srv"):
            other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        other.bind(("", 4_500))
        for payload in (MARK + b"1 " + bytes(80), b"\xff"):
            other.sendto(payload, ("10.0.0.9", 34_567))
        other.close()
        with Inside("gwA"):
            other = socket.socket(socket.AF_INET, socket.SOCK_RAW, 255)
        for source_port, payload in ((4_501, MARK + b"1 " + bytes(80)), (4_500, b"\0\0\0\0" + MARK), (4_500, b"\xfe"),
                                     (4_500, MARK[:8])):
            other.sendto(network.packet(A, "10.0.0.9", 17, struct.pack("!HHHH", source_port, 34_567, 8 + len(payload), 0)
                                        + payload), ("10.0.0.9", 0))
        other.close()
        seen = [p for p in sniffer.take() if p[9] == 17 and p[16:20] == socket.inet_aton("10.0.0.9")]
        check("the guard lets out nobody else's packets to such a port", not seen, seen)
        # The way stays open by keepalives alone.
        time.sleep(1.3)
        seen = [p for p in sniffer.take() if p[9] == 17 and p[28:29] == b"\xff"]
        check("keepalives pass guard and translator", seen and ports(seen[0]) == (34_567, 4_500), seen)
    for node in ("gwA", "gwC"):
        within(node, "nft", "flush", "ruleset")


@case
def rolls_over() -> None:
    """Make before break, with a stream both ways, in UDP and plain; extended sequence numbers."""
    for in_udp, spi in ((True, 3_000), (False, 3_500)):
        ends = (f"{B}/4500", f"{A}/4500") if in_udp else None
        of_b, of_a = (f" udp={ends[0]}", f" udp={ends[1]}") if ends else ("", "")
        what = "in UDP" if in_udp else "plain"
        with probe("gwA", "udp") as a, probe("gwB", "udp") as b:
            both_ways(a, b, spi, A, B, GCM, NET_A, NET_B, "esn", in_udp=ends)
            with Hearer("rcv", RCV) as there, Hearer("srv", SRV) as here:
                threads = [threading.Thread(target=send, args=(node, to, 1_500), kwargs={"pause": 0.001})
                           for node, to in (("srv", RCV), ("rcv", SRV))]
                for thread in threads:
                    thread.start()
                for step in range(10, 60, 10):
                    old, new = spi + step - 10, spi + step
                    suite = (GCM, SHA256)[step // 10 % 2]
                    before = a.count(f"outbound-{old}")
                    await_that(lambda: a.count(f"outbound-{old}") > before + 30)
                    for gateway, out, into, outer, own, nets, peer in (
                            (a, new, new + 1, B, A, (NET_A, NET_B), of_b), (b, new + 1, new, A, B, (NET_B, NET_A), of_a)):
                        gateway.tell(f"inbound {into} {own} {suite} {nets[1]} {nets[0]} esn{peer}",
                                     f"outbound {out} {outer} {suite} {nets[0]} {nets[1]} esn{peer}")
                    a.tell(f"activate {new} {B}", f"remove-outbound {old} {B}")
                    b.tell(f"activate {new + 1} {A}", f"remove-outbound {old + 1} {A}")
                    await_that(lambda: a.count(f"outbound-{new}") > 5 and b.count(f"outbound-{new + 1}") > 5)
                    a.tell(f"remove-inbound {old + 1} {A}")
                    b.tell(f"remove-inbound {old} {B}")
                for thread in threads:
                    thread.join()
                for hearer, way in ((there, "A to B"), (here, "B to A")):
                    got = hearer.take(1_500)
                    check(f"{what}, {way}: five roll-overs lose and double nothing", sorted(got) == list(range(1_500)),
                          (len(got), a.status(), b.status()))


@case
def outer_df() -> None:
    for mode, expected in (("set", {True}), ("clear", {False}), ("copy", {True, False})):
        with probe("gwA", "udp", f"df={mode}") as a, probe("gwB", "udp") as b:
            both_ways(a, b, 2_500, A, B, GCM, NET_A, NET_B)
            sniffer.take()
            with Inside("srv"):
                sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            for discovery in (0, 2):  # IP_PMTUDISC_DONT, IP_PMTUDISC_DO
                sender.setsockopt(socket.IPPROTO_IP, 10, discovery)
                sender.sendto(MARK + b"1 ", (RCV, PORT))
            sender.close()
            seen = esp(sniffer.take(), 2_500)
            check(f"df: {mode}", {bool(p[6] & 0x40) for p in seen} == expected and len(seen) == 2, seen)


@case
def scapy_judges() -> None:
    """scapy opens ours, and we open scapy's: ESP in UDP, with and without extended sequence numbers."""
    sys.path.append("/usr/lib/python3/dist-packages")
    from scapy.layers.inet import IP, UDP  # pylint: disable=import-outside-toplevel
    from scapy.layers.ipsec import ESP, SecurityAssociation

    with probe("gwA", "udp") as a, probe("gwB", "udp") as b:
        for index, (suite, algorithms) in enumerate({
                GCM: ("AES-GCM", None), SHA256: ("AES-CBC", "SHA2-256-128"), SHA1: ("AES-CBC", "HMAC-SHA1-96")}.items()):
            # Of extended numbers scapy's HMACs know nothing.
            for esn in (False, True) if algorithms[1] is None else (False,):
                spi = 4_000 + 20 * index + 10 * esn
                what = f"{suite}{', extended numbers' if esn else ''}"
                both_ways(a, b, spi, A, B, suite, NET_A, NET_B, "esn" if esn else "",
                          in_udp=(f"{B}/4500", f"{A}/4500"))
                keys = [bytes.fromhex(word) for word in a.ask(f"keys {spi} {suite}").split()]

                def association() -> SecurityAssociation:
                    return SecurityAssociation(
                        ESP, spi=spi, crypt_algo=algorithms[0], crypt_key=keys[0], auth_algo=algorithms[1],
                        auth_key=keys[1] if algorithms[1] else None, tunnel_header=IP(src=A, dst=B),
                        nat_t_header=UDP(sport=4_500, dport=4_500), esn_en=esn, esn=0)

                sniffer.take()
                with Hearer("rcv", RCV) as there:
                    send("srv", RCV, 5)
                    there.take(5)
                    judge = association()
                    opened = [bytes(judge.decrypt(IP(octets)) if not esn else judge.decrypt(IP(octets), esn_en=True, esn=0))
                              for octets in esp(sniffer.take(), spi)]
                    check(f"{what}: scapy opens ours", len(opened) == 5 and all(
                        MARK + b"%d " % n in text and text[12:20] == socket.inet_aton(SRV) + socket.inet_aton(RCV)
                        for n, text in enumerate(opened)), opened[:2])
                    judge = association()
                    with Inside("out"):
                        sender = socket.socket(socket.AF_INET, socket.SOCK_RAW, 255)
                    for number in range(100, 105):
                        inner = IP(src=SRV, dst=RCV) / UDP(sport=999, dport=PORT) / (MARK + b"%d " % number)
                        more = {"esn_en": True, "esn": 0} if esn else {}
                        sealed = bytearray(bytes(judge.encrypt(inner, seq_num=number, **more)))
                        # scapy 2.5 leaves UDP the length that it has without a payload.
                        sealed[24:26] = struct.pack("!H", len(sealed) - 20)
                        sender.sendto(bytes(sealed), (B, 0))
                    sender.close()
                    got = there.take(5)
                    check(f"{what}: we open scapy's", got == list(range(100, 105)), (got, b.status()))
                for gateway, out, into, outer, own in ((a, spi, spi + 1, B, A), (b, spi + 1, spi, A, B)):
                    gateway.tell(f"remove-outbound {out} {outer}", f"remove-inbound {into} {own}")


def main() -> int:
    global program, sniffer
    program = str(Path(sys.argv[1]).resolve())
    wanted = sys.argv[2:]
    if os.environ.get("UNICAST_INSIDE") is None:
        user = [] if os.geteuid() == 0 else ["-Ur"]
        os.environ["UNICAST_INSIDE"] = "yes"
        os.execvp("timeout", ["timeout", "-k", "1", "120", "unshare", *user, "-nmpf", "--mount-proc", "--kill-child",
                               sys.executable, str(Path(__file__).resolve()), program, *wanted])
    run("mount", "-t", "tmpfs", "tmpfs", "/run")
    Path("/run/netns").mkdir()
    build()
    sniffer = Frames()
    for name, body in CASES.items():
        if wanted and name not in wanted:
            continue
        Checks.name = name
        try:
            body()
        except Exception:
            check("it runs to its end", False, traceback.format_exc()[-1_200:])
    print("all ok" if not Checks.failed else f"{Checks.failed} failed")
    return 1 if Checks.failed else 0


if __name__ == "__main__":
    sys.exit(main())
