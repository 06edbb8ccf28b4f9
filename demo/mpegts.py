# SPDX-License-Identifier: Apache-2.0
"""MPEG transport streams (ISO/IEC 13818-1): the file to send, and the continuity of what was received."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

PACKET = 188
DATAGRAM = 7 * PACKET  # as every TS-over-UDP sender packs them
NULL_PID = 0x1FFF


def make(ffmpeg: str, path: Path, seconds: float, bits_per_second: int) -> None:
    """Makes a test film with sound, at a constant rate, so that position in the file is time."""
    video = bits_per_second * 85 // 100
    subprocess.run(
        [ffmpeg, "-v", "error", "-y",
         "-f", "lavfi", "-i", "testsrc2=size=640x360:rate=25,noise=alls=12:allf=t",
         "-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000",
         "-t", str(seconds),
         "-c:v", "mpeg2video", "-b:v", str(video), "-minrate", str(video), "-maxrate", str(video),
         "-bufsize", str(video // 4), "-g", "12", "-c:a", "mp2", "-b:a", "128k",
         "-muxrate", str(bits_per_second), "-f", "mpegts", str(path)],
        check=True, timeout=120)


def split(stream: bytes) -> list[bytes]:
    """The datagrams of a stream; a shorter rest is left out."""
    return [stream[at:at + DATAGRAM] for at in range(0, len(stream) - DATAGRAM + 1, DATAGRAM)]


@dataclass(frozen=True)
class Discontinuity:
    """Packets are missing before this one."""

    datagram: int  # index among the datagrams looked at
    pid: int
    expected: int
    found: int


@dataclass
class Continuity:
    """What the continuity counters say (ISO/IEC 13818-1 2.4.3.3)."""

    packets: int
    malformed: int
    discontinuities: list[Discontinuity]


def continuity(datagrams: list[bytes]) -> Continuity:
    """Checks the counters of every stream in the datagrams."""
    result = Continuity(0, 0, [])
    last: dict[int, int] = {}
    for index, datagram in enumerate(datagrams):
        if len(datagram) % PACKET:
            result.malformed += 1
        for at in range(0, len(datagram) - PACKET + 1, PACKET):
            if datagram[at] != 0x47:
                result.malformed += 1
                continue
            result.packets += 1
            pid = (datagram[at + 1] & 0x1F) << 8 | datagram[at + 2]
            if pid == NULL_PID:
                continue
            control, counter = datagram[at + 3] >> 4 & 3, datagram[at + 3] & 15
            has_payload, has_adaptation = control & 1, control & 2
            announced = has_adaptation and datagram[at + 4] > 0 and datagram[at + 5] & 0x80
            if pid in last and not announced:
                expected = (last[pid] + 1) & 15 if has_payload else last[pid]
                # A packet may be sent twice.
                if counter != expected and not (has_payload and counter == last[pid]):
                    result.discontinuities.append(Discontinuity(index, pid, expected, counter))
            last[pid] = counter
    return result
