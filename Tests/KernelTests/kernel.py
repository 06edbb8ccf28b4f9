#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The kernel back ends on a stock kernel, in a virtual machine of their own: scripts/kernel-vm.sh starts this there.

Usage: kernel.py FOLDER_WITH_THE_PROGRAMS [CASE...]
One line per check: `ok: CASE: ...` or `FAILED: CASE: ...`; the exit status is 0 if all are ok.
"""

from __future__ import annotations

import os
import re
import struct
import sys
import time
import traceback
from pathlib import Path
from typing import Callable

sys.dont_write_bytecode = True

import network
import vpn
from daemons import play
from network import Forger, Probe, Sink, Sniffer, Source, clear, esp, kernel_state, run, within

GCM, SHA1, SHA256 = "aes256-gcm", "aes128-sha1", "aes256-sha256"
GROUP = "239.1.1.1"
CASES: dict[str, Callable[[], None]] = {}


def case(body: Callable[[], None]) -> Callable[[], None]:
    CASES[body.__name__.replace("_", "-")] = body
    return body


class Checks:
    failed = 0
    name = ""
    started = time.monotonic()

    @classmethod
    def check(cls, what: str, holds: bool, detail: object = "") -> None:
        cls.failed += not holds
        at = time.monotonic() - cls.started
        print(f"ok: {cls.name}: {what} [{at:.1f} s]" if holds
              else f"FAILED: {cls.name}: {what} [{at:.1f} s]: {str(detail)[:1500]!r}", flush=True)


check = Checks.check
programs: Path
source: Source
sink: Sink
sniffer: Sniffer
forger: Forger


def probe(node: str, backend: str, *more: str, guarded: bool = False) -> Probe:
    return Probe(str(programs / "dataplane-probe"), node, backend, *more, guarded=guarded)


def group_sa(spi: int, suite: str, group: str = GROUP, sources: str = "192.168.1.0/24", more: str = "") -> str:
    return f"{spi} {group} {suite} {sources} {group}/32 {more}"


def sends(gateway: Probe, spi: int, suite: str, more: str = "") -> None:
    gateway.tell(f"outbound {group_sa(spi, suite, more=more)}", f"activate {spi} {GROUP}")


def await_that(condition: Callable[[], bool], seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def opens(sender: str, receiver: str, suites: list[str], guarded: bool = False) -> None:
    """One seals, the other opens: multicast and unicast, every suite."""
    with probe("gwA", sender, guarded=guarded) as a, probe("gwB", receiver, guarded=guarded) as b:
        for index, suite in enumerate(suites):
            spi = 1_000 + 10 * index
            b.tell(f"inbound {group_sa(spi, suite)}")
            sends(a, spi, suite)
            sniffer.take()
            source.send(GROUP, 20)
            got = sink.take(20)
            seen = sniffer.take()
            # A kernel may hand a packet to another thread for its cipher, and open the next ones meanwhile.
            in_order = receiver != "userspace" or got == sorted(got)
            check(f"{suite}, {sender} to {receiver}: every multicast is opened, each once",
                  len(got) == 20 == len(set(got)) and in_order, (got, a.status(), b.status()))
            check(f"{suite}, {sender} to {receiver}: as ESP to the group, nothing in clear",
                  len(esp(seen, spi)) == 20 and not clear(seen), [network.describe(p) for p in seen[:5]])
            a.tell(f"remove-outbound {spi} {GROUP}")
            b.tell(f"remove-inbound {spi} {GROUP}")
            unicast = f"{spi + 1} 10.0.0.2 {suite} 192.168.1.0/24 192.168.2.0/24"
            b.tell(f"inbound {unicast}")
            a.tell(f"outbound {unicast}", f"activate {spi + 1} 10.0.0.2")
            sniffer.take()
            source.send("192.168.2.10", 20)
            got = sink.take(20)
            seen = sniffer.take()
            check(f"{suite}, {sender} to {receiver}: every unicast is opened", len(got) == 20, (got, b.status()))
            check(f"{suite}, {sender} to {receiver}: and nothing in clear",
                  len(esp(seen, spi + 1)) == 20 and not clear(seen), [network.describe(p) for p in seen[:5]])
            a.tell(f"remove-outbound {spi + 1} 10.0.0.2")
            b.tell(f"remove-inbound {spi + 1} 10.0.0.2")


# xfrm


@case
def xfrm_to_userspace() -> None:
    opens("xfrm", "userspace", [GCM, SHA1, SHA256])


@case
def userspace_to_xfrm() -> None:
    opens("userspace", "xfrm", [GCM, SHA1, SHA256])


@case
def xfrm_to_xfrm() -> None:
    opens("xfrm", "xfrm", [GCM, SHA1, SHA256])


@case
def userspace_to_userspace() -> None:
    opens("userspace", "userspace", [GCM, SHA1])


def rolls_over(backend: str, suite: str) -> None:
    """New keys while a stream runs, at both ends, as the control plane has it done."""
    with probe("gwA", backend) as a, probe("gwB", backend) as b:
        b.tell(f"inbound {group_sa(1, suite)}")
        sends(a, 1, suite)
        sniffer.take()
        stop = source.stream(GROUP)
        for spi in range(2, 6):
            await_that(lambda: a.count(f"outbound-{spi - 1}") > 40)
            b.tell(f"inbound {group_sa(spi, suite)}")
            sends(a, spi, suite)
            # Twice is once.
            sends(a, spi, suite)
            a.tell(f"remove-outbound {spi - 1} {GROUP}")
            await_that(lambda: a.count(f"outbound-{spi}") > 5)
            b.tell(f"remove-inbound {spi - 1} {GROUP}")
        await_that(lambda: a.count("outbound-5") > 40)
        sent = stop()
        got = sink.take(sent, patience=3)
        seen = sniffer.take()
        check(f"{backend}: four roll-overs lose, double and reorder nothing",
              len(got) == sent and got == sorted(set(got)), (sent, len(got), len(set(got)), a.status(), b.status()))
        check(f"{backend}: five SAs carried packets", all(esp(seen, spi) for spi in range(1, 6)),
              [len(esp(seen, spi)) for spi in range(1, 6)])
        check(f"{backend}: nothing in clear meanwhile", not clear(seen), clear(seen)[:5])


@case
def xfrm_roll_over() -> None:
    rolls_over("xfrm", GCM)


def is_closed(what: str) -> None:
    """No multicast from the LAN shows on the satellite side."""
    sniffer.take()
    source.send(GROUP, 10)
    seen = sniffer.take(0.2)
    check(f"{what}: no multicast leaves", not clear(seen) and not esp(seen), clear(seen)[:5] or len(esp(seen)))


def leaks_nothing(backend: str, suite: str) -> None:
    """No guard stands in these: the back end alone must not leak."""
    is_closed("before the start")
    with probe("gwA", backend) as a:
        is_closed(f"{backend}, before the first SA")
        a.tell(f"outbound {group_sa(11, suite)}")
        is_closed(f"{backend}, an SA that is not active")
        a.tell(f"activate 11 {GROUP}")
        sniffer.take()
        source.send(GROUP, 10)
        seen = sniffer.take(0.2)
        check(f"{backend}, an active SA: ESP only", len(esp(seen, 11)) == 10 and not clear(seen), clear(seen)[:5])
        a.tell(f"outbound {group_sa(12, suite, group='239.1.1.2')}", "activate 12 239.1.1.2")
        # From another host than the flow has: not for this SA.
        with network.Inside("srv"):
            other = network.socket.socket(network.socket.AF_INET, network.socket.SOCK_RAW, 255)
        other.setsockopt(network.socket.IPPROTO_IP, network.socket.IP_MULTICAST_IF,
                         network.socket.inet_aton("192.168.1.10"))
        sniffer.take()
        for _ in range(5):
            other.sendto(network.datagram("172.16.0.1", GROUP, network.MARK + b"1 "), (GROUP, 0))
        seen = sniffer.take(0.2)
        check(f"{backend}: what the flow does not name does not leave", not clear(seen) and not esp(seen),
              clear(seen)[:5])
        a.tell(f"remove-outbound 11 {GROUP}")
        is_closed(f"{backend}, after its removal")
        sends(a, 13, suite)
        a.tell("remove-all")
        is_closed(f"{backend}, after the removal of all")
    is_closed(f"{backend}, after its end")
    check(f"{backend}: its end leaves nothing in the kernel", kernel_state("gwA") == "", kernel_state("gwA"))


@case
def xfrm_leaks_nothing() -> None:
    leaks_nothing("xfrm", GCM)


def survives_a_kill(backend: str, suite: str) -> None:
    """kill -9 in the middle of a stream, and a new start."""
    a = probe("gwA", backend)
    with probe("gwB", "userspace") as b:
        b.tell(f"inbound {group_sa(21, suite)}")
        sends(a, 21, suite)
        sniffer.take()
        stop = source.stream(GROUP)
        await_that(lambda: a.count("outbound-21") > 20)
        a.kill()
        time.sleep(0.2)
        stop()
        seen = sniffer.take(0.2)
        check(f"{backend}: it was sending when it was killed", bool(esp(seen, 21)), len(seen))
        check(f"{backend}: killed: nothing in clear", not clear(seen), clear(seen)[:5])
        is_closed(f"{backend}, killed")
        check(f"{backend}: it does leave something in the kernel", kernel_state("gwA") != "")
        # Somebody else's, which must stay.
        run("ip", "-n", "gwA", "xfrm", "state", "add", "src", "10.0.0.1", "dst", "10.0.0.9", "proto", "esp", "spi",
            "77", "reqid", "5", "mode", "tunnel", "aead", "rfc4106(gcm(aes))", "0x" + "11" * 20, "128")
        run("ip", "-n", "gwA", "xfrm", "policy", "add", "src", "10.9.0.0/16", "dst", "10.8.0.0/16", "dir", "out",
            "tmpl", "src", "10.0.0.1", "dst", "10.0.0.9", "proto", "esp", "reqid", "5", "mode", "tunnel")
        sink.take(patience=0.1)
        with probe("gwA", backend) as again:
            left = run("ip", "-n", "gwA", "xfrm", "state") + run("ip", "-n", "gwA", "xfrm", "policy")
            check(f"{backend}: the next start removes it", "239.1.1.1" not in left, left)
            check(f"{backend}: and leaves alone what is another's", "10.0.0.9" in left and "10.8.0.0" in left, left)
            b.tell(f"inbound {group_sa(22, suite)}")
            sends(again, 22, suite)
            source.send(GROUP, 10)
            got = sink.take(10)
            check(f"{backend}: and carries packets", len(got) == 10, got)
        run("ip", "-n", "gwA", "xfrm", "state", "flush")
        run("ip", "-n", "gwA", "xfrm", "policy", "flush")
    check(f"{backend}: its end leaves nothing", kernel_state("gwA") == "", kernel_state("gwA"))


@case
def xfrm_killed() -> None:
    survives_a_kill("xfrm", GCM)


def lets_nothing_in(backend: str, suite: str) -> None:
    """What the outsider puts on the segment, and what a member sends beside its flow."""
    with probe("gwA", "userspace") as a, probe("gwB", backend) as b:
        lan = Sniffer("rcv", "eth0")
        b.tell(f"inbound {group_sa(31, suite)}", f"inbound {group_sa(32, suite, group='239.1.1.2')}")
        sends(a, 31, suite)
        forger.clear("192.168.1.10", GROUP)
        forger.clear("10.0.0.1", GROUP)
        check(f"{backend}: multicasts in clear from the satellite side are not forwarded", not lan.take(0.3))
        sniffer.take()
        source.send(GROUP, 5)
        got = sink.take(5)
        check(f"{backend}: those of the SA are", len(got) == 5, got)
        seen = lan.take(0.2)
        check(f"{backend}: the LAN sees no ESP", not esp(seen), [network.describe(p) for p in seen])
        for octets in esp(sniffer.take(), 31):
            forger.send(octets)
        check(f"{backend}: replayed ESP is not opened again", not sink.take(patience=0.3))
        check(f"{backend}: and counted", b.count("drop-replay") >= 5 or backend == "pfkey", b.status())
        forger.send(network.packet("10.0.0.1", GROUP, 50, struct.pack("!II", 31, 5_000) + os.urandom(80)))
        forger.send(network.packet("10.0.0.1", GROUP, 50, struct.pack("!II", 999, 1) + os.urandom(80)))
        check(f"{backend}: forged ESP is not opened", not sink.take(patience=0.3))
        if backend == "xfrm":
            check("xfrm: and counted", b.count("drop-notAuthentic") == 1 and b.count("drop-unknownSPI") == 1,
                  b.status())
        # A member of one group writes to another: sealed by the SA of the first, to its address, the second inside.
        a.tell(f"remove-outbound 31 {GROUP}")
        a.tell("inbound 33 10.0.0.1 aes128-sha1 0.0.0.0/0 192.168.1.0/24")
    with probe("gwB", backend) as b:
        b.tell(f"inbound {group_sa(31, suite)}", f"inbound {group_sa(32, suite, group='239.1.1.2')}")
        crossed = CrossedMember(31, suite)
        lan.take()
        crossed.send("239.1.1.2", "192.168.1.10")
        check(f"{backend}: a packet to one group under the SA of another is not forwarded",
              not sink.take(patience=0.3) and not clear(lan.take(0.2)))
        crossed.send(GROUP, "172.16.0.1")
        check(f"{backend}: nor one from a source that the flow does not have", not sink.take(patience=0.3))
        crossed.send(GROUP, "192.168.1.10")
        got = sink.take(1)
        check(f"{backend}: the same way of sending does get through where the flow allows it", len(got) == 1, b.status())


class CrossedMember:
    """A member that seals what its SA is not for: the kernel of the outsider with a policy for everything."""

    def __init__(self, spi: int, suite: str) -> None:
        # The probe makes its keys from the SPI; another kernel can be asked for them.
        with probe("gwA", "xfrm") as helper:
            helper.tell(f"outbound {group_sa(spi, suite)}")
            text = run("ip", "-n", "gwA", "xfrm", "state")
        words = re.search(r"(auth-trunc|aead) .*", text.replace("\n", " "))
        algorithms = re.search(r"(aead \S+ \S+ \d+)|(auth-trunc \S+ \S+ \d+)\s+(enc \S+ \S+)", text)
        parts = [part for part in algorithms.groups() if part]
        run("ip", "-n", "out", "xfrm", "state", "flush")
        run("ip", "-n", "out", "xfrm", "policy", "flush")
        run("ip", "-n", "out", "xfrm", "state", "add", "src", "10.0.0.9", "dst", GROUP, "proto", "esp", "spi",
            str(spi), "reqid", "9", "mode", "tunnel", *" ".join(parts).split())
        run("ip", "-n", "out", "xfrm", "policy", "add", "src", "0.0.0.0/0", "dst", "239.0.0.0/8", "dir", "out", "tmpl",
            "src", "10.0.0.9", "dst", GROUP, "proto", "esp", "reqid", "9", "mode", "tunnel")
        with network.Inside("out"):
            self.socket = network.socket.socket(network.socket.AF_INET, network.socket.SOCK_RAW, 255)
        self.socket.setsockopt(network.socket.IPPROTO_IP, network.socket.IP_HDRINCL, 1)
        self.socket.setsockopt(network.socket.IPPROTO_IP, network.socket.IP_MULTICAST_IF,
                               network.socket.inet_aton("10.0.0.9"))

    def send(self, to: str, source_address: str) -> None:
        self.socket.sendto(network.datagram(source_address, to, network.MARK + b"1 "), (to, 0))


@case
def xfrm_lets_nothing_in() -> None:
    lets_nothing_in("xfrm", GCM)


@case
def xfrm_counts() -> None:
    with probe("gwA", "xfrm") as a, probe("gwB", "xfrm") as b:
        b.tell(f"inbound {group_sa(41, GCM, more='window=4096')}")
        sends(a, 41, GCM)
        state = a.status()
        check("an SA that was not used says so", state["used-41-outbound"] == "no", state)
        source.send(GROUP, 25, size=100)
        sink.take(25)
        a_state, b_state = a.status(), b.status()
        check("packets are counted, outbound and inbound",
              (a_state["outbound-41"], b_state["inbound-41"]) == ("25", "25"), (a_state, b_state))
        octets = str(25 * (100 + 28))
        check("so are inner octets", (a_state["octets-41-outbound"], b_state["octets-41-inbound"]) == (octets, octets),
              (a_state, b_state))
        check("so are sequence numbers",
              (a_state["sequence-41-outbound"], b_state["sequence-41-inbound"]) == ("25", "25"), (a_state, b_state))
        check("and when it was used", a_state["used-41-outbound"] == "yes" == b_state["used-41-inbound"])
        check("in the sums, too", (a_state["to-satellite"], b_state["from-satellite"]) == ("25", "25"))
        a.tell(f"remove-outbound 41 {GROUP}")
        check("which do not go back when the SA goes", a.count("to-satellite") == 25, a.status())
        text = run("ip", "-n", "gwB", "-s", "xfrm", "state")
        check("the replay window is as large as asked for", "4096" in text, text)


@case
def xfrm_expires() -> None:
    """The kernel ends SAs by itself: by octets, and by time."""
    with probe("gwA", "xfrm") as a:
        a.tell(f"outbound {group_sa(51, GCM, more='limit=2000')}", f"activate 51 {GROUP}")
        sniffer.take()
        source.send(GROUP, 40, size=100)
        seen = sniffer.take(0.2)
        check("no more octets leave than the limit says", 14 <= len(esp(seen, 51)) <= 16, len(esp(seen, 51)))
        check("and none in clear", not clear(seen), clear(seen)[:5])
        check("the soft limit was reported", await_that(lambda: "expired-51-soft" in a.status()), a.status())
        check("the hard limit was reported", await_that(lambda: "expired-51-hard" in a.status()), a.status())
        check("its counters stay", await_that(lambda: a.count("outbound-51") >= 14), a.status())
        a.tell(f"outbound {group_sa(51, GCM, more='limit=2000')}", f"activate 51 {GROUP}")
        is_closed("an expired SA that is added again does not come to life")
        a.tell(f"remove-outbound 51 {GROUP}", f"outbound {group_sa(52, GCM, more='life=2')}", f"activate 52 {GROUP}")
        source.send(GROUP, 5)
        check("an SA ends at its time", await_that(lambda: "expired-52-hard" in a.status(), 15), a.status())
        is_closed("after that")
        check("the kernel has it no more", "0x00000034" not in run("ip", "-n", "gwA", "xfrm", "state"))
        sends(a, 53, GCM)
        source.send(GROUP, 5)
        check("the next one carries packets", len(esp(sniffer.take(0.2), 53)) == 5)


@case
def xfrm_refuses() -> None:
    """What it cannot do, in words."""
    def said(words: list[str]) -> str:
        done = Probe(str(programs / "dataplane-probe"), "gwA", "xfrm", *words)
        done.stop()
        return done.greeting

    with Probe(str(programs / "dataplane-probe"), "gwA", "xfrm") as a:
        second = said([])
        check("a second client in one network", "another multicast router is running" in second, second)
        check("and the first is undisturbed", "xfrm" in run("ip", "-n", "gwA", "-d", "link", "show", "tun0"))
        answer = a.ask("outbound 61 10.0.0.2 aes256-gcm 192.168.1.0/24 239.1.1.1/32")
        check("multicasts to a host", "is no group" in answer, answer)
        answer = a.ask("activate 61 10.0.0.2")
        check("an SA that is not there", "there is no SA" in answer, answer)
        answer = a.ask("remove-outbound 61 10.0.0.2")
        check("but its removal is fine", answer == "ok", answer)
    # Without one-sender the probe says of every group that it has several.
    words = ["ip", "netns", "exec", "gwA", str(programs / "dataplane-probe"), "backend=xfrm", "unguarded"]
    done = network.subprocess.run(words, input=f"outbound {group_sa(62, GCM)}\ninbound {group_sa(63, SHA1)}\n",
                                  capture_output=True, text=True, timeout=30)
    lines = done.stdout.splitlines()
    check("a group of several senders, to send and to receive", len(lines) == 3 and all(
        "group probe has several senders" in line and "userspace" in line for line in lines[1:]), lines)


# PF_KEY


@case
def pfkey_to_userspace() -> None:
    opens("pfkey", "userspace", [SHA1])


@case
def userspace_to_pfkey() -> None:
    opens("userspace", "pfkey", [SHA1])


@case
def pfkey_to_xfrm() -> None:
    opens("pfkey", "xfrm", [SHA1])


@case
def pfkey_roll_over() -> None:
    rolls_over("pfkey", SHA1)


@case
def pfkey_leaks_nothing() -> None:
    leaks_nothing("pfkey", SHA1)


@case
def pfkey_killed() -> None:
    survives_a_kill("pfkey", SHA1)


@case
def pfkey_lets_nothing_in() -> None:
    lets_nothing_in("pfkey", SHA1)


@case
def pfkey_counts_and_expires() -> None:
    with probe("gwA", "pfkey") as a, probe("gwB", "pfkey") as b:
        b.tell(f"inbound {group_sa(71, SHA1)}")
        sends(a, 71, SHA1, more="limit=4000")
        source.send(GROUP, 10, size=100)
        sink.take(10)
        a_state, b_state = a.status(), b.status()
        check("packets are counted", (a_state["outbound-71"], b_state["inbound-71"]) == ("10", "10"),
              (a_state, b_state))
        check("so are inner octets", a_state["octets-71-outbound"] == "1280" == b_state["octets-71-inbound"],
              (a_state, b_state))
        sniffer.take()
        source.send(GROUP, 40, size=100)
        seen = sniffer.take(0.2)
        check("no more octets leave than the limit says", 20 <= len(esp(seen, 71)) <= 23 and not clear(seen),
              (len(esp(seen, 71)), clear(seen)[:3]))
        check("soft and hard limit were reported",
              await_that(lambda: {"expired-71-soft", "expired-71-hard"} <= a.status().keys()), a.status())


@case
def guarded() -> None:
    """With the fail-closed guard, under which the rest must work as without."""
    for node, backend in (("gwA", "xfrm"), ("gwB", "pfkey")):
        rules = within(node, str(programs / "dataplane-probe"), "ruleset", "terrestrial=lan0", f"backend={backend}")
        network.subprocess.run(["ip", "netns", "exec", node, "nft", "-f", "-"], input=rules, text=True, check=True)
    opens("xfrm", "pfkey", [SHA1], guarded=True)
    done = Probe(str(programs / "dataplane-probe"), "gwA", "pfkey", guarded=True)
    done.stop()
    check("pfkey does not start with the guard of another data plane", "keep out" in done.greeting, done.greeting)
    for node in ("gwA", "gwB"):
        within(node, "nft", "flush", "ruleset")


# Unicast VPNs


@case
def vpn_userspace() -> None:
    vpn.carries(probe, check, sniffer, esp, "userspace")


@case
def vpn_xfrm() -> None:
    vpn.carries(probe, check, sniffer, esp, "xfrm")


@case
def vpn_roll_over() -> None:
    vpn.rolls_over(probe, check, await_that, sniffer)


@case
def vpn_refuses() -> None:
    vpn.judges(probe, check, await_that, sniffer, esp)


@case
def vpn_in_user_space() -> None:
    vpn.userspace_here(programs, check)


@case
def daemons() -> None:
    play(programs, check, await_that, source, sink, sniffer, clear, esp)
    for node in ("gwA", "gwB"):
        within(node, "nft", "flush", "ruleset")


@case
def pfkey_refuses() -> None:
    with probe("gwA", "pfkey") as a:
        answer = a.ask(f"outbound {group_sa(81, GCM)}")
        check("AES-GCM", "PF_KEY knows no aes256-gcm" in answer and "data-plane: xfrm or userspace" in answer, answer)
        answer = a.ask(f"inbound {group_sa(82, SHA256)}")
        check("HMAC-SHA2-256, which it would cut short", "96 bits" in answer, answer)
        left = run("ip", "-n", "gwA", "xfrm", "state")
        check("and nothing of them reaches the kernel", "0x00000051" not in left and "0x00000052" not in left, left)


def main() -> int:
    global programs, source, sink, sniffer, forger
    programs = Path(sys.argv[1])
    run("modprobe", "tun")
    network.build()
    source, forger, sniffer = Source(), Forger(), Sniffer()
    sink = Sink([GROUP, "239.1.1.2"])
    for name, body in CASES.items():
        if len(sys.argv) > 2 and name not in sys.argv[2:]:
            continue
        Checks.name = name
        try:
            sink.take(patience=0.05)
            body()
        except Exception:
            check("it runs to its end", False, traceback.format_exc()[-1_200:])
    return 1 if Checks.failed else 0


if __name__ == "__main__":
    sys.exit(main())
