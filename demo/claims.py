# SPDX-License-Identifier: Apache-2.0
"""What the demonstration claims, and how each claim is verified from the recordings.

Nothing here asks the programs under test what they think they did, where a recording can tell. The outsider's link loses
nothing, so its capture holds every frame of the satellite; the emulator's drop log tells which frame was lost on the way
to whom; server and receivers log every datagram.
"""

from __future__ import annotations

import zlib
from collections import Counter
from dataclasses import dataclass, field
from typing import Callable

from capture import Frame
from mpegts import PACKET, continuity

CONFIGURE, PUSH = 240, 241  # exchange types of FMKE's profile
ISAKMP_EXCHANGE = 18  # where an ISAKMP header names its exchange

Key = tuple[int, int]  # SPI and sequence number of an ESP packet


# What may be seen on the satellite.
ALLOWED = ("ESP", "FMKE", "IGMP", "ARP", "ND")


@dataclass
class Claim:
    title: str
    verified: bool = True
    evidence: list[str] = field(default_factory=list)

    def check(self, holds: bool, text: str) -> None:
        """Adds a line of evidence; one that does not hold refutes the claim."""
        self.evidence.append(("" if holds else "NOT SO: ") + text)
        self.verified = self.verified and holds


@dataclass
class Change:
    """A command to the key server: when it was given, when it returned, and its answer."""

    name: str
    started: float
    ended: float
    answer: dict


@dataclass
class Run:
    """Everything recorded."""

    film: list[bytes]
    sent: list[tuple[float, int]]
    frames: list[Frame]
    drops: list[dict]
    received: dict[str, list[tuple[float, bytes]]]
    hub: str
    server: str
    group: str
    hub_v6: str = ""
    group_v6: str = ""
    streaming: tuple[float, float] = (0, 0)

    def esp(self) -> list[Frame]:
        """The hub's ESP frames to the group, in the order it sent them, those its uplink lost not included."""
        return [f for f in self.frames if f.kind == "ESP" and f.source == self.hub and f.destination == self.group]

    def lost(self, site: str, group: str = "") -> set[Key]:
        """ESP packets to the group that the satellite lost or damaged on the way to a site."""
        return {
            (drop["spi"], drop["sequence"]) for drop in self.drops
            if drop["terminal"] == site and drop["direction"] == "downlink" and "spi" in drop
            and drop["destination"] == (group or self.group)}


@dataclass
class Stream:
    """Which ESP packet carried which datagram."""

    keys: list[Key]  # by datagram sent
    times: list[float]
    problems: list[str]

    @property
    def spis(self) -> list[int]:
        return list(dict.fromkeys(spi for spi, _ in self.keys))


def follow(run: Run) -> Stream:
    """Pairs the datagrams sent with the hub's ESP packets: one for one, in order, without a gap in any SA."""
    esp = [frame for frame in run.esp() if run.streaming[0] <= frame.time <= run.streaming[1]]
    problems = []
    if len(esp) != len(run.sent):
        problems.append(f"the server sent {len(run.sent)} datagrams, but the hub {len(esp)} ESP packets")
    last: dict[int, int] = {}
    for frame in esp:
        expected = last.get(frame.spi, frame.sequence - 1) + 1
        if frame.sequence != expected:
            problems.append(f"SPI {frame.spi:08x}: sequence {frame.sequence} follows {expected - 1}")
        last[frame.spi] = frame.sequence
    return Stream([(f.spi, f.sequence) for f in esp], [f.time for f in esp], problems[:3])


def match(expected: list[bytes], found: list[bytes]) -> tuple[list[int], int]:
    """Where in `expected` there is something that `found` lacks, and how much `found` has beyond it."""
    missing, extra, at = [], 0, 0
    where: dict[bytes, list[int]] = {}
    for index, item in enumerate(expected):
        where.setdefault(item, []).append(index)
    for item in found:
        if at < len(expected) and expected[at] == item:
            at += 1
            continue
        later = next((index for index in where.get(item, []) if index >= at), None)
        if later is None:
            extra += 1
        else:
            missing += range(at, later)
            at = later + 1
    return missing + list(range(at, len(expected))), extra


def decrypted(
        run: Run, stream: Stream, site: str, title: str, changes: list[Change], until: float = float("inf")) -> Claim:
    """Every packet that reached the site came out at its receiver, across each change of the keys.

    With `until`, only what was on the satellite before that time is looked at.
    """
    claim = Claim(title)
    for problem in stream.problems:
        claim.check(False, problem)
    film = [run.film[index] for _, index in run.sent]
    lost = run.lost(site)
    all_arriving = [index for index, key in enumerate(stream.keys) if key not in lost and index < len(film)]
    all_received = [datagram for _, datagram in run.received[site]]
    missing, extra = match([film[index] for index in all_arriving], all_received)
    sent = sum(time < until for time in stream.times)
    arriving = [index for index in all_arriving if index < sent]
    gone = {all_arriving[position] for position in missing} & set(arriving)
    received = all_received[:len(arriving) - len(gone)]
    claim.check(
        bool(arriving) and not gone and not extra,
        f"{sent} sent, {sent - len(arriving)} lost by the link, {len(arriving)} arrived, "
        f"{len(received)} decrypted; lost otherwise: {len(gone)}" + (f", never sent: {extra}" if extra else ""))
    check_counters(claim, film, arriving, received)
    for change in changes:
        check_crossing(claim, stream, change, lost, gone)
    return claim


def beside(run: Run, site: str, sent: int, received: list[int]) -> Claim:
    """An IPv6 group through the same clients, at the same time: numbered datagrams, and what came of them."""
    claim = Claim(f"beside it, every packet of an IPv6 group that reached {site} was decrypted")
    keys = [(f.spi, f.sequence) for f in run.frames
            if f.kind == "ESP" and f.source == run.hub_v6 and f.destination == run.group_v6]
    lost = run.lost(site, run.group_v6) & set(keys)
    claim.check(0 < sent == len(keys), f"{sent} datagrams sent, {len(keys)} ESP packets over IPv6")
    claim.check(len(received) == len(set(received)) == len(keys) - len(lost),
                f"{len(lost)} lost on the satellite, {len(received)} received")
    spis = len({spi for spi, _ in keys})
    claim.check(spis > 1, f"under {spis} SAs, one after the other")
    return claim


def check_counters(claim: Claim, film: list[bytes], arriving: list[int], received: list[bytes]) -> None:
    """The continuity counters at the receiver tell of the link's losses and of nothing else."""
    found = continuity(received)
    expected = continuity([film[index] for index in arriving])
    claim.check(
        found.malformed == 0 and len(found.discontinuities) == len(expected.discontinuities),
        f"continuity counters over {found.packets} transport packets: {len(found.discontinuities)} jumps, "
        f"{len(expected.discontinuities)} of them by link losses")


def check_crossing(claim: Claim, stream: Stream, change: Change, lost: set[Key], gone: set[int]) -> None:
    """From the command until a second behind the hub's move to the next SA: what was lost there, and by whom?"""
    moved = next(
        (index for index, time in enumerate(stream.times)
         if index and time > change.started and stream.keys[index][0] != stream.keys[index - 1][0]), None)
    if moved is None:
        claim.check(False, f"{change.name}: the hub moved to no new SA")
        return
    window = [i for i, time in enumerate(stream.times) if change.started <= time <= stream.times[moved] + 1]
    by_link = sum(stream.keys[index] in lost for index in window)
    otherwise = sum(index in gone for index in window)
    claim.check(
        otherwise == 0,
        f"{change.name}: SPI {stream.keys[moved - 1][0]:08x} -> {stream.keys[moved][0]:08x} "
        f"{stream.times[moved] - change.started:.2f} s after the command; of {len(window)} packets around it "
        f"{by_link} lost by the link, {otherwise} by rekeying")


def vpn(run: Run, copied: dict, change: Change, ends: tuple[str, str]) -> Claim:
    """A file went through the VPN of two ends, byte for byte, while its keys changed."""
    claim = Claim("a file crosses the VPN between hub and site1 by TCP, whole, while its keys change")
    seconds = copied["ended"] - copied["started"]
    claim.check(copied["same"], f"{copied['octets']} octets in {seconds:.1f} s at 1 % loss; their hash came back")
    inside = copied["started"] < change.started and change.ended < copied["ended"]
    claim.check(inside and change.answer.get("verdict") == "confirmed",
                f"`gcks rekey` meanwhile: {change.answer.get('verdict')} by both ends in "
                f"{change.ended - change.started:.2f} s")
    for source, destination in (ends, ends[::-1]):
        spis = {frame.spi for frame in run.frames
                if frame.kind == "ESP" and (frame.source, frame.destination) == (source, destination)}
        claim.check(len(spis) >= 2, f"ESP from {source} to {destination} under {len(spis)} SAs")
    return claim


def revoked(run: Run, stream: Stream, site: str, change: Change) -> Claim:
    """The site received up to its revocation, and nothing of what was sent under newer keys."""
    claim = Claim(f"the revoked site ({site}) decodes nothing after its revocation")
    newer = {spi for spi in stream.spis
             if min(t for t, key in zip(stream.times, stream.keys) if key[0] == spi) > change.started}
    claim.check(bool(newer), f"the hub moved to new SAs: {' '.join(f'{spi:08x}' for spi in sorted(newer)) or 'none'}")
    if not newer:
        return claim
    first = next(index for index, key in enumerate(stream.keys) if key[0] in newer)
    film = [run.film[index] for _, index in run.sent]
    lost = run.lost(site)
    heard = sum(key not in lost for key in stream.keys[first:])
    claim.check(heard > 0, f"{heard} packets under the new keys reached its antenna")
    received = [datagram for _, datagram in run.received[site]]
    known = Counter(film[:first])
    after = sum((Counter(received) - known).values())
    claim.check(after == 0, f"{after} of them came out at its receiver")
    before = [film[i] for i, key in enumerate(stream.keys) if stream.times[i] < change.started and key not in lost]
    missing, _ = match(before, received[:len(before)])
    claim.check(not missing, f"{len(before)} packets that reached it before the command: {len(missing)} not decrypted")
    claim.evidence.append(
        f"the hub encrypts for the others alone {stream.times[first] - change.started:.2f} s after the command")
    last = max((time for time, _ in run.received[site]), default=0)
    claim.evidence.append(f"its receiver's last datagram: {last - change.started:+.2f} s from the command")
    return claim


def evicted(run: Run, change: Change, server: str, control: str) -> Claim:
    """The others got their new keys by multicast, under a key that the revoked site knows, and nobody by unicast."""
    def octets(frame: Frame) -> int:
        return int.from_bytes(frame.octets[frame.payload + 4:frame.payload + 6], "big") - 8

    def exchange(frame: Frame) -> int:
        return (frame.octets[frame.payload + 8 + ISAKMP_EXCHANGE:][:1] or b"\0")[0]

    def kek(frame: Frame) -> bytes:
        return frame.octets[frame.payload + 8:frame.payload + 24]

    claim = Claim("one multicast takes a site out: the others get their new keys by it and nobody gets them by unicast")
    own = [f for f in run.frames if f.kind == "FMKE" and f.source == server]
    pushes = [f for f in own if f.destination == control and exchange(f) == PUSH]
    # The shortest have no content: BEACON and COMMIT.
    empty = min(map(octets, pushes), default=0)
    during = [f for f in pushes if change.started <= f.time <= change.ended and octets(f) > empty]
    known = {kek(f) for f in pushes if f.time < change.started}
    total = sum(octets(f) + 28 for f in during)
    claim.check(
        bool(during) and all(kek(f) in known for f in during),
        f"{len(during)} datagrams with keys, {total} octets with IP and UDP ({', '.join(str(octets(f)) for f in during)}), "
        "all under the key that the site was in possession of")
    unicast = [f for f in own if change.started <= f.time <= change.ended and exchange(f) == CONFIGURE]
    claim.check(not unicast, f"messages of the key server with keys for a single client meanwhile: {len(unicast)}")
    for report in change.answer.get("reports", []):
        claim.check(
            report["verdict"] == "confirmed",
            f"confirmed by {', '.join(sorted(one['client'] for one in report['confirmed']))} after "
            f"{report['seconds']:.2f} s, rounds: {report['rounds']}")
    return claim


def fail_closed(run: Run, killed: float, sent: list[tuple[float, int]]) -> Claim:
    """After the hub's daemon was killed the stream leaves the hub no more, neither in clear nor otherwise.

    `sent` is what the server sent to the hub from then on: without it silence would prove nothing.
    """
    claim = Claim("with its daemon killed (-9), the hub sends nothing of the stream")
    count = sum(time > killed + 0.5 for time, _ in sent)
    claim.check(count > 0, f"the server sent it {count} more datagrams")
    later = [frame for frame in run.frames if frame.time > killed + 0.5]  # what was on its way has arrived
    clear = [frame for frame in later if frame.kind not in ALLOWED]
    claim.check(not clear, f"frames in clear on the satellite from then on: {len(clear)}")
    own = Counter(frame.kind for frame in later if frame.source in (run.hub, run.hub_v6) and frame.kind not in ("IGMP", "ND"))
    claim.check(not own, f"its own frames from then on: {dict(own) or 'none'}")
    return claim


def clear_text(run: Run, texts: list[bytes]) -> Claim:
    """The outsider's capture holds nothing but what it may hold, and no clear octet of stream or inner addresses."""
    claim = Claim("the outsider saw only ESP, FMKE, IGMP, MLD, ARP and its like, and nothing in clear")
    kinds = Counter(frame.kind for frame in run.frames)
    others = {kind: count for kind, count in kinds.items() if kind not in ALLOWED}
    claim.check(not others, f"frames: {dict(sorted(kinds.items()))}" + (f", not expected: {others}" if others else ""))
    windows = film_windows(run.film)
    hits = [frame for frame in run.frames if holds_window(frame.octets[14:], windows)]
    octets = sum(len(frame.octets) for frame in run.frames)
    claim.check(
        not hits and bool(windows),
        f"{len(windows)} pieces of 8 octets from every transport packet of the film, searched at every position of "
        f"{octets} octets: {len(hits)} frames hold one")
    named = [frame for frame in run.frames if any(text in frame.octets for text in texts)]
    claim.check(not named, f"the prober's text: in {len(named)} frames")
    check_addresses(claim, run)
    secret = b"".join(frame.octets[frame.payload + 16:] for frame in run.esp()[:2000])
    ratio = len(zlib.compress(secret, 6)) / max(len(secret), 1)
    claim.check(bool(secret) and ratio > 0.99, f"ESP contents compress to {ratio:.1%} of their size: no structure")
    claim.evidence.append(f"the group's address {run.group} is the outer destination, by design")
    return claim


def check_addresses(claim: Claim, run: Run) -> None:
    """The inner header's addresses: as a pair, and the server's alone."""
    server = bytes(int(part) for part in run.server.split("."))
    group = bytes(int(part) for part in run.group.split("."))
    pairs = sum(server + group in frame.octets for frame in run.frames)
    claim.check(pairs == 0, f"inner source and destination address side by side: in {pairs} frames")
    plain = sum(server in frame.octets for frame in run.frames if frame.kind != "ESP")
    claim.check(plain == 0, f"the server's address {run.server} outside of ESP: in {plain} frames")
    # Four octets do turn up in so much ciphertext by chance; three times would be one chance in a million.
    inside = [frame for frame in run.frames if frame.kind == "ESP"]
    count = sum(frame.octets.count(server, frame.payload) for frame in inside)
    chance = sum(len(frame.octets) for frame in inside) / 2**32
    claim.check(count <= 2, f"the same four octets inside ESP: {count} times ({chance:.3f} expected by chance)")


def film_windows(film: list[bytes]) -> set[int]:
    """Two pieces of each transport packet, as numbers; pieces with little variety (stuffing) are left out."""
    windows = set()
    for datagram in film:
        for at in range(0, len(datagram), PACKET):
            for offset in (60, 120):
                piece = datagram[at + offset:at + offset + 8]
                if len(set(piece)) > 4:
                    windows.add(int.from_bytes(piece, "little"))
    return windows


def holds_window(octets: bytes, windows: set[int]) -> bool:
    """Is one of the pieces anywhere in these octets?"""
    for shift in range(min(8, len(octets))):
        count = (len(octets) - shift) // 8
        if not windows.isdisjoint(memoryview(octets)[shift:shift + count * 8].cast("Q")):
            return True
    return False


def time_to_keys(run: Run, clients: dict[str, str], server: str, round_trip: float, limit: float) -> Claim:
    """From a client's first datagram until it acknowledges its CONFIGURE, as the outsider saw them.

    Both reach the outsider equally late, so their difference is the client's own.
    """
    claim = Claim(f"a client holds its SAs within {limit} round trips of its first datagram")
    for name, address in clients.items():
        frames = [frame for frame in run.frames if frame.kind == "FMKE"]
        first = next((f.time for f in frames if f.source == address and f.destination == server), None)
        done = next((f.time for f in frames if f.source == address and f.destination == server
                     and f.octets[f.payload + 8 + ISAKMP_EXCHANGE:][:1] == bytes([CONFIGURE])), None)
        if first is None or done is None:
            claim.check(False, f"{name}: " + ("never spoke" if first is None else "never acknowledged a CONFIGURE"))
            continue
        trips = (done - first) / round_trip
        claim.check(
            trips <= limit, f"{name}: {done - first:.3f} s = {trips:.2f} round trips of {round_trip * 1000:.1f} ms")
    return claim


def rekeys(
        changes: list[Change], members: Callable[[dict], list[tuple[str, bool, str]]], limit: float,
        names: set[str]) -> Claim:
    """Every member confirmed every commanded rekey in time. `members` reads an answer: name, confirmed, what and when;
    `names` are those that have to be in it."""
    claim = Claim(f"each commanded rekey: all members confirmed in under {limit:.0f} s")
    claim.check(bool(changes), f"commands given: {len(changes)}")
    for change in changes:
        seconds = change.ended - change.started
        verdict = members(change.answer)
        everyone = {name for name, _, _ in verdict} == names and all(confirmed for _, confirmed, _ in verdict)
        claim.check(
            everyone and seconds < limit,
            f"{change.name}: {seconds:.2f} s; " + ("; ".join(f"{name} {text}" for name, _, text in verdict) or "no member"))
    return claim
